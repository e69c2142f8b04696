"""Import: everything in a file is computed again, and whatever was changed is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from eth_abi.abi import decode
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.sessions import (
    ACCOUNT,
    BASE,
    NOW_S,
    OWNER_KEY,
    SESSION_ADDRESS,
    USDC,
    key_of,
    make_session_file,
    session_dict,
    usdc_transfer,
)
from tests.support.signing import unhex
from tests.support.vectors import load_vectors
from worker.policies import Sudo
from worker.sessions.emissary import SET_CONFIG
from worker.sessions.enabling import enable_call
from worker.sessions.errors import SessionError, SessionFileError
from worker.sessions.file import load_session_file
from worker.sessions.importing import (
    NONCES_TRIED,
    RegisteredSession,
    recompute,
    session_id,
    verify,
)
from worker.sessions.model import Action
from worker.signing.abi import CONFIG_ABI, ENABLE_ABI, session_from_tuple
from worker.signing.contracts import OWNABLE_VALIDATOR, SMART_SESSION_EMISSARY
from worker.signing.session_digest import permission_id
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind, HashAndChainId

File = dict[str, Any]
KINDS: list[AccountKind] = ["nexus", "safe", "kernel", "startale"]
SECOND = address_of(key_of("second session key"))
CLAIMS = ("nonce", "permissionId", "sessionDigest", "multiChainSessionDigest")


def imported(
    file: str | File,
    *,
    our_keys: tuple[str, ...] = (SESSION_ADDRESS,),
    chain_id: int = BASE,
    now_s: int = NOW_S,
    nonce: int | None = None,
) -> RegisteredSession:
    text = file if isinstance(file, str) else json.dumps(file)
    return verify(load_session_file(text), our_keys=our_keys, chain_id=chain_id, now_s=now_s, nonce=nonce)


def refused(file: str | File, **options: Any) -> SessionError:
    with pytest.raises(SessionError) as caught:
        imported(file, **options)
    error = caught.value
    assert error.field
    assert error.exit_code == 2
    assert str(error).isprintable()
    return error


def without(file: File, *names: str) -> File:
    return {name: value for name, value in file.items() if name not in names}


def enabled_on_chain(**options: Any) -> File:
    """A file without an approval, as for a session that a transaction enabled."""
    return without(session_dict(**options), "enableData", *CLAIMS)


class TestGoodFiles:
    """A file that holds together gives all that the pipeline needs."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("restrict", [True, False])
    def test_an_approved_session(self, kind: AccountKind, restrict: bool) -> None:
        setup = ("0x" + "fa" * 20, b"\1\2")
        session = imported(make_session_file(kind=kind, restrict=restrict, nonce=5, setup_ops=[setup]))
        assert (session.account, session.account_kind, session.setup_ops) == (ACCOUNT, kind, (setup,))
        assert (session.chain_id, session.enable_nonce) == (BASE, 5)
        assert session.restricted is restrict
        assert session.verify_executions is True
        assert session.owners == (SESSION_ADDRESS,)
        assert session.threshold == 1
        assert session.expires_s == NOW_S + 86_400
        assert session.permission_id == permission_id(session.data)
        assert session.session_id == session_id(BASE, ACCOUNT, session.permission_id)
        assert session.paused is False
        assert session.enable_data is not None

    def test_a_session_id_is_pinned(self) -> None:
        # Ids are in Redis keys and intent ids: they must never change.
        assert session_id(8453, "0x" + "aa" * 20, bytes(range(32))) == PINNED_ID

    def test_several_session_keys_keep_their_order(self) -> None:
        text = make_session_file(session_key_address=[SECOND, SESSION_ADDRESS], threshold=2)
        session = imported(text, our_keys=(SESSION_ADDRESS.upper().replace("X", "x"), SECOND))
        assert session.owners == (SECOND, SESSION_ADDRESS)
        assert session.threshold == 2

    def test_several_account_owners(self) -> None:
        assert imported(make_session_file(more_owner_keys=[key_of("second owner")])).enable_data

    def test_a_session_that_a_transaction_enabled_has_no_approval(self) -> None:
        session = imported(enabled_on_chain())
        assert session.enable_data is None
        assert session.enable_nonce is None
        assert session.session_id == imported(make_session_file()).session_id

    def test_a_bare_session_is_not_verified_per_call(self) -> None:
        bare = imported(make_session_file(actions=[], restrict=False))
        assert bare.verify_executions is False
        assert bare.expires_s == 0
        assert imported(
            make_session_file(actions=[], restrict=False, verify_executions=True)
        ).verify_executions

    def test_the_option_counts_for_unrestricted_sessions_only(self) -> None:
        assert not imported(make_session_file(restrict=False, verify_executions=False)).verify_executions
        assert imported(make_session_file(restrict=True, verify_executions=False)).verify_executions

    def test_a_multi_chain_approval(self) -> None:
        other = HashAndChainId(10, b"\7" * 32)
        session = imported(make_session_file(other_chains=[other]))
        assert session.enable_data is not None
        assert session.enable_data.hashes_and_chain_ids[1] == other

    def test_equal_sessions_have_equal_files_whatever_the_exporter_left_out(self) -> None:
        full = session_dict()
        sparse = without(full, "sdk", "claimPolicies", *CLAIMS)
        assert imported(sparse).file == imported(full).file
        assert imported(sparse).file.text() == imported(full).file.text()
        assert recompute(load_session_file(imported(sparse).file.text())) == imported(full)

    def test_no_secret_and_no_signature_is_in_the_repr(self) -> None:
        session = imported(make_session_file())
        assert session.enable_data is not None
        assert session.enable_data.user_signature.hex()[40:] not in repr(session)


class TestRecordedApprovals:
    """What real account kinds signed, as recorded from the SDK, is accepted; and nothing near it."""

    def files(self) -> list[tuple[str, File, bytes]]:
        recorded = load_vectors("enable_signatures")
        sessions = {item["name"]: item["session"] for item in load_vectors("sessions")["vectors"]}
        result: list[tuple[str, File, bytes]] = []
        for vector in recorded["vectors"]:
            if vector["name"] == "startale-k1":
                continue
            for index, name in enumerate(vector["sessions"]):
                session = sessions[name]
                owners = {**session["owners"], "accounts": session["owners"]["addresses"]}
                account_owners = [recorded["keys"][key]["address"] for key in vector["owners"]["keys"]]
                file = {
                    **without(session, "chainId", "owners"),
                    "account": {
                        "address": vector["account"],
                        "kind": vector["accountType"].split(" ")[0],
                        "owners": {"accounts": account_owners, "threshold": vector["owners"]["threshold"]},
                    },
                    "chain": session["chainId"],
                    "owners": without(owners, "keys", "addresses"),
                    "nonce": vector["nonces"][index],
                    "multiChainSessionDigest": vector["expected"]["multiChainSessionDigest"],
                    "enableData": {
                        "userSignature": vector["expected"]["enableSignature"],
                        "hashesAndChainIds": vector["expected"]["hashesAndChainIds"],
                        "sessionToEnableIndex": index,
                    },
                }
                file.setdefault("actions", [])
                call = vector["expected"]["enableCall"]
                result.append(
                    (
                        vector["name"],
                        file,
                        unhex(call["data"]) if index == call["sessionToEnableIndex"] else b"",
                    )
                )
        return result

    def test_all_of_them_import_and_give_the_recorded_transaction(self) -> None:
        calls = 0
        for name, file, call in self.files():
            keys = tuple(file["owners"]["accounts"])
            session = imported(file, our_keys=keys, chain_id=file["chain"], now_s=1_750_000_000)
            if call:
                assert enable_call(session) == (SMART_SESSION_EMISSARY, call), name
                calls += 1
        assert calls >= 11

    def test_each_is_refused_for_another_account_kind_of_other_packing(self) -> None:
        packing = {"nexus": "zeros", "safe": "validator", "startale": "validator", "kernel": "kernel"}
        for _, file, _ in self.files():
            for kind in KINDS:
                if packing[kind] == packing[file["account"]["kind"]] or kind == "nexus":
                    continue  # a nexus of another version packs as a safe does
                other = copy.deepcopy(file)
                other["account"]["kind"] = kind
                error = refused(
                    other, our_keys=tuple(file["owners"]["accounts"]), chain_id=file["chain"], now_s=1
                )
                assert error.field == "enableData.userSignature"

    def test_the_k1_validator_is_refused_as_unsupported(self) -> None:
        file = session_dict(kind="startale")
        file["account"]["owners"]["module"] = "0x00000072f286204bb934ed49d8969e86f7dec7b1"
        error = refused(file)
        assert error.field == "account.owners.module"
        assert "K1" in error.message


# (change of a good file, field that the error names)
CHANGES: list[tuple[str, Callable[[File], object], str]] = [
    (
        "account",
        lambda f: f["account"].update(address="0x" + "ab" * 20),
        "enableData.hashesAndChainIds[0].sessionDigest",
    ),
    (
        "limit",
        lambda f: f["actions"][0]["policies"][0]["limits"][0].update(amount="100000001"),
        "permissionId",
    ),
    (
        "end",
        lambda f: f["actions"][0]["policies"][1].update(validUntil=(NOW_S + 86_401) * 1000),
        "permissionId",
    ),
    ("target", lambda f: f["actions"][0].update(target="0x" + "ab" * 20), "permissionId"),
    ("selector", lambda f: f["actions"][0].update(selector="0x095ea7b3"), "permissionId"),
    ("policy", lambda f: f["actions"][0]["policies"].pop(), "permissionId"),
    ("action", lambda f: f["actions"].append({"target": USDC, "selector": "0x095ea7b3"}), "permissionId"),
    ("restricted", lambda f: f.update(restrictToActions=False), "permissionId"),
    ("session owner", lambda f: f["owners"].update(accounts=[SECOND]), "permissionId"),
    ("nonce", lambda f: f.update(nonce="1"), "enableData.hashesAndChainIds[0].sessionDigest"),
    ("permission id", lambda f: f.update(permissionId="0x" + "11" * 32), "permissionId"),
    ("session digest", lambda f: f.update(sessionDigest="0x" + "11" * 32), "sessionDigest"),
    (
        "multi-chain digest",
        lambda f: f.update(multiChainSessionDigest="0x" + "11" * 32),
        "multiChainSessionDigest",
    ),
    (
        "signed digest",
        lambda f: f["enableData"]["hashesAndChainIds"][0].update(sessionDigest="0x" + "11" * 32),
        "enableData.hashesAndChainIds[0].sessionDigest",
    ),
    (
        "signed chain",
        lambda f: f["enableData"]["hashesAndChainIds"][0].update(chainId=10),
        "enableData.hashesAndChainIds[0].chainId",
    ),
    ("index", lambda f: f["enableData"].update(sessionToEnableIndex=1), "enableData.sessionToEnableIndex"),
    ("account owner", lambda f: f["account"]["owners"].update(accounts=[SECOND]), "enableData.userSignature"),
    (
        "account threshold",
        lambda f: f["account"]["owners"].update(accounts=[address_of(OWNER_KEY), SECOND], threshold=2),
        "enableData.userSignature",
    ),
    ("no account owners", lambda f: f["account"].pop("owners"), "account.owners"),
    ("account kind", lambda f: f["account"].update(kind="kernel"), "enableData.userSignature"),
    ("no signature", lambda f: f["enableData"].update(userSignature="0x"), "enableData.userSignature"),
    (
        "empty signature",
        lambda f: f["enableData"].update(userSignature="0x" + "00" * 20),
        "enableData.userSignature",
    ),
    (
        "second signature",
        lambda f: f["enableData"].update(
            userSignature=f["enableData"]["userSignature"] + f["enableData"]["userSignature"][42:]
        ),
        "enableData.userSignature",
    ),
    ("other validator", lambda f: f["owners"].update(module="0x" + "ab" * 20), "owners.module"),
    ("unknown chain", lambda f: f.update(chain=31337), "chain"),
    (
        "usage limit 0",
        lambda f: f["actions"][0]["policies"].append({"type": "usage-limit", "limit": 0}),
        "actions[0].policies[2].limit",
    ),
    ("emissary", lambda f: f["actions"][0].update(target=SMART_SESSION_EMISSARY), "actions[0].target"),
    ("fallback in restricted", lambda f: f["actions"].append({}), "actions[1]"),
]


class TestChangedFiles:
    """Whatever is changed after the approval is refused, and the error names where."""

    @pytest.mark.parametrize(
        ("change", "field"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
    )
    def test_refused(self, change: Callable[[File], object], field: str) -> None:
        file = session_dict()
        change(file)
        error = refused(file, chain_id=int(file["chain"]))
        assert error.field == field
        assert error.message

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_byte_of_the_approval_can_be_changed(self, kind: AccountKind) -> None:
        """Each byte of signature and digest, one bit at a time; v may not even take its other forms."""
        good = session_dict(kind=kind)
        signature = unhex(good["enableData"]["userSignature"])
        for position in range(len(signature)):
            for bit in (1, 0x80):
                file = copy.deepcopy(good)
                bad = bytearray(signature)
                bad[position] ^= bit
                file["enableData"]["userSignature"] = "0x" + bad.hex()
                assert refused(file).field == "enableData.userSignature"

    def test_without_an_expected_id_the_digest_finds_each_change(self) -> None:
        good = without(session_dict(), "permissionId", "sessionDigest", "multiChainSessionDigest")
        for name, change, _ in CHANGES[:10]:
            file = copy.deepcopy(good)
            change(file)
            options: dict[str, Any] = {"our_keys": (SESSION_ADDRESS, SECOND)}
            assert refused(file, **options).field == "enableData.hashesAndChainIds[0].sessionDigest", name

    def test_changing_the_other_chain_of_an_approval_breaks_its_signature(self) -> None:
        file = session_dict(other_chains=[HashAndChainId(10, b"\7" * 32)])
        file.pop("multiChainSessionDigest")
        file["enableData"]["hashesAndChainIds"][1]["chainId"] = "42161"
        assert refused(file).field == "enableData.userSignature"

    def test_an_approval_by_a_stranger(self) -> None:
        file = session_dict(account_owner_key=key_of("stranger"))
        file["account"]["owners"]["accounts"] = [address_of(OWNER_KEY)]
        error = refused(file)
        assert error.field == "enableData.userSignature"
        assert address_of(OWNER_KEY) in error.fix


class TestOurSide:
    """The file is sound, but it is not for us, or not any more."""

    def test_a_session_of_another_key(self) -> None:
        error = refused(make_session_file(session_key_address=SECOND))
        assert error.field == "owners.accounts[0]"
        assert SECOND in error.message
        assert "keys create" in error.fix

    def test_all_session_keys_must_be_ours(self) -> None:
        text = make_session_file(session_key_address=[SESSION_ADDRESS, SECOND])
        assert refused(text).field == "owners.accounts[1]"
        assert imported(text, our_keys=(SESSION_ADDRESS, SECOND))

    def test_no_key_at_all(self) -> None:
        assert refused(make_session_file(), our_keys=()).field == "owners.accounts[0]"

    def test_the_accounts_own_owner_is_no_session_key(self) -> None:
        owner = address_of(OWNER_KEY)
        error = refused(make_session_file(session_key_address=owner), our_keys=(owner,))
        assert error.field == "owners.accounts[0]"
        assert "owns the account" in error.message

    def test_nor_is_the_account_itself(self) -> None:
        error = refused(make_session_file(session_key_address=ACCOUNT), our_keys=(ACCOUNT,))
        assert error.field == "owners.accounts[0]"

    def test_another_chain(self) -> None:
        error = refused(make_session_file(chain=84532))
        assert error.field == "chain"
        assert "84532 (Base Sepolia)" in error.message
        assert "8453 (Base)" in error.message
        assert imported(make_session_file(chain=84532), chain_id=84532).chain_id == 84532

    def test_expired_from_its_last_second_on(self) -> None:
        text = make_session_file(valid_until_ms=(NOW_S + 1) * 1000 + 999)
        assert imported(text, now_s=NOW_S).expires_s == NOW_S + 1
        error = refused(text, now_s=NOW_S + 1)
        assert error.field == "actions[0].policies[1].validUntil"
        assert "expired at 2027-01-15T08:00:01Z" in error.message

    def test_a_session_with_one_living_action_is_not_expired(self) -> None:
        other = Action(target=USDC, selector=b"\1\2\3\4", policies=(Sudo(),))
        actions = [usdc_transfer(1, valid_until_ms=NOW_S * 1000 - 1), other]
        assert imported(make_session_file(actions=actions)).expires_s == 0

    def test_an_expired_session_can_still_be_computed(self) -> None:
        # What is registered must be shown after its end, too.
        assert recompute(load_session_file(make_session_file(valid_until_ms=2000))).expires_s == 2


class TestNonce:
    """The approval names the emissary's nonce; the digest proves which."""

    def test_small_nonces_are_found(self) -> None:
        file = without(session_dict(nonce=NONCES_TRIED - 1), *CLAIMS)
        assert imported(file).enable_nonce == NONCES_TRIED - 1

    def test_a_large_one_must_be_given(self) -> None:
        nonce = 2**256 - 1
        file = without(session_dict(nonce=nonce), *CLAIMS)
        error = refused(file)
        assert error.field == "enableData.hashesAndChainIds[0].sessionDigest"
        assert "add nonce" in error.fix
        assert imported({**file, "nonce": str(nonce)}).enable_nonce == nonce
        assert imported(file, nonce=nonce).enable_nonce == nonce

    def test_one_read_from_the_chain_does_not_hide_an_older_one(self) -> None:
        # The chain's nonce has moved on: the file is sound, the approval is dead, and enable_nonce tells so.
        assert imported(without(session_dict(nonce=3), *CLAIMS), nonce=9).enable_nonce == 3

    def test_a_wrong_one_in_the_file_is_not_corrected(self) -> None:
        assert refused({**without(session_dict(nonce=3), *CLAIMS), "nonce": "4"}, nonce=3).field.startswith(
            "enable"
        )

    def test_a_session_digest_alone_names_it_as_well(self) -> None:
        file = without(session_dict(nonce=7), "enableData", "nonce", "multiChainSessionDigest")
        assert imported(file).enable_nonce == 7


class TestEnableCall:
    """``sessions enable`` prints the transaction that the user sends."""

    def test_it_says_what_was_approved(self) -> None:
        session = imported(make_session_file(nonce=2))
        to, data = enable_call(session)
        assert to == SMART_SESSION_EMISSARY
        assert data[:4] == SET_CONFIG
        account, config, (_, signature, expires, (index, entries, stored)) = decode(
            ["address", CONFIG_ABI, ENABLE_ABI], data[4:]
        )
        assert session.enable_data is not None
        assert (account, config[3], index) == (ACCOUNT, session.permission_id, 0)
        assert (signature, expires) == (session.enable_data.user_signature, 2**256 - 1)
        assert entries == ((BASE, session.enable_data.hashes_and_chain_ids[0].session_digest),)
        assert session_from_tuple(stored) == session.data

    def test_without_an_approval_there_is_nothing_to_send(self) -> None:
        with pytest.raises(SessionError) as caught:
            enable_call(imported(enabled_on_chain()))
        assert caught.value.field == "enableData"


# --- mutation: whatever happens to a file, the answer is a session or a SessionError

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**260),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    st.sampled_from(
        [
            "0x",
            "0x00",
            "0x" + "00" * 20,
            "0x" + "ff" * 32,
            "1",
            str(2**256),
            "sudo",
            USDC,
            OWNABLE_VALIDATOR,
            "ecdsa",
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
BASES = [
    make_session_file(),
    make_session_file(restrict=False, kind="kernel", nonce=3),
    json.dumps(enabled_on_chain(restrict=False)),
]


def _places(part: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    if isinstance(part, dict):
        for key, value in part.items():
            found += _places(value, (*path, key))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            found += _places(value, (*path, index))
    return found


@st.composite
def mutated_files(draw: st.DrawFn) -> str:
    """A good file with one to three parts replaced, removed or added."""
    file = json.loads(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(file)
        path = draw(st.sampled_from(places))
        parent: Any = file
        for step in path[:-1]:
            parent = parent[step]
        what = draw(st.sampled_from(["replace", "remove", "add", "copy"]))
        if what == "replace":
            parent[path[-1]] = draw(VALUES)
        elif what == "remove":
            del parent[path[-1]]
        elif what == "copy":
            source: Any = file
            for step in draw(st.sampled_from(_places(file))):
                source = source[step]
            parent[path[-1]] = copy.deepcopy(source)
        elif isinstance(parent, list):
            parent.append(draw(VALUES))
        else:
            parent[draw(st.text(max_size=8))] = draw(VALUES)
    return json.dumps(file)


class TestMutation:
    """No file whatever makes anything but a session or a SessionError."""

    def check(self, text: str | bytes) -> None:
        refusal: SessionError | None = None
        try:
            session = verify(
                load_session_file(text), our_keys=[SESSION_ADDRESS, SECOND], chain_id=BASE, now_s=NOW_S
            )
        except SessionError as error:
            refusal = error
        else:
            again = recompute(load_session_file(session.file.text()))
            assert all(
                getattr(again, field.name) == getattr(session, field.name)
                for field in fields(RegisteredSession)
            )
        if refusal is not None:
            assert refusal.message
            assert str(refusal).isprintable()

    @given(mutated_files())
    @settings(max_examples=300, deadline=None)
    def test_changed_parts(self, text: str) -> None:
        self.check(text)

    @given(st.sampled_from(BASES), st.data())
    @settings(max_examples=200, deadline=None)
    def test_changed_bytes(self, base: str, data: st.DataObject) -> None:
        raw = bytearray(base.encode())
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        self.check(bytes(raw))

    @given(VALUES)
    @settings(max_examples=100, deadline=None)
    def test_any_json(self, value: Any) -> None:
        with pytest.raises(SessionFileError):
            load_session_file(json.dumps(value))

    @given(st.binary(max_size=200))
    @settings(max_examples=100, deadline=None)
    def test_any_bytes(self, raw: bytes) -> None:
        with pytest.raises(SessionFileError):
            load_session_file(raw)


PINNED_ID = "ses_94dd6e713974da52"
