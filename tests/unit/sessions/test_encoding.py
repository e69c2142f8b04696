"""The encoding of sessions, against the vectors recorded from SDK 1.15.0 and against constants of our own."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.sessions import ACCOUNT, BASE, SESSION_ADDRESS, USDC, key_of, usdc_transfer
from tests.support.signing import chain_digests_of, session_of, unhex
from tests.support.vectors import load_vectors
from worker.policies import ArgPolicy, SpendingLimits, Sudo, TimeFrame, TokenLimit, UsageLimit
from worker.policies.evaluate import EMISSARY_CALL_SELECTOR, FALLBACK_TARGET, action_id
from worker.policies.policy import PolicyModel
from worker.sessions.chains import chain_of, known_chains
from worker.sessions.emissary import (
    config_id,
    decode_is_permission_enabled,
    decode_nonce,
    get_nonce_call,
    is_permission_enabled_call,
    remove_config_call,
    set_config_call,
)
from worker.sessions.encoding import (
    DEV_EMISSARY,
    check_enableable,
    expires_s,
    explicit_actions,
    is_restricted,
    permission_id_of,
    policy_table,
    resolve_actions,
    session_data,
)
from worker.sessions.errors import EmissaryReplyError, SessionError
from worker.sessions.model import Action, EcdsaOwners, Session
from worker.signing.contracts import OWNABLE_VALIDATOR, SMART_SESSION_EMISSARY
from worker.signing.errors import SigningInputError
from worker.signing.session_digest import (
    multi_chain_digest,
    permission_id,
    permits_generic_policy,
    session_digest,
)
from worker.signing.sign import address_of
from worker.signing.structs import EnableData, HashAndChainId


def session_of_vector(fields: dict[str, Any]) -> Session:
    rest = {name: value for name, value in fields.items() if name not in {"chainId", "owners"}}
    return Session.model_validate(
        {"chain": fields["chainId"], "owners": owners_of_vector(fields["owners"]), **rest}, by_name=False
    )


def owners_of_vector(owners: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in owners.items() if name not in {"keys", "addresses"}}
    return {**kept, "accounts": owners["addresses"]}


def assert_dev_session(vector: dict[str, Any]) -> None:
    """Data and digest name the development contracts, the permission id does not."""
    assert vector["useDevContracts"] is True
    name, expected = vector["name"], vector["expected"]
    subject = session_of_vector(vector["session"])
    data = session_data(subject, dev=True)
    assert data == session_of(expected["sessionData"]), name
    assert "0x" + permission_id_of(subject).hex() == expected["permissionId"], name
    digests = chain_digests_of(expected["hashesAndChainIds"])
    account, nonce = vector["account"].lower(), int(vector["nonce"])
    digest = session_digest(account, data, nonce, emissary=DEV_EMISSARY)
    assert digests == (HashAndChainId(subject.chain, digest),), name
    assert "0x" + multi_chain_digest(digests).hex() == expected["multiChainSessionDigest"], name


def session(*actions: Action, restrict: bool = False, keys: tuple[str, ...] = (SESSION_ADDRESS,)) -> Session:
    return Session(
        chain=BASE, owners=EcdsaOwners(accounts=keys), actions=actions, restrict_to_actions=restrict
    )


class TestRecordedSessions:
    """What the SDK made of the same sessions comes out byte for byte."""

    def test_all_11_sessions_are_reproduced(self) -> None:
        vectors = load_vectors("sessions")["vectors"]
        for vector in vectors:
            name, expected = vector["name"], vector["expected"]
            subject = session_of_vector(vector["session"])
            data = session_data(subject)
            assert data == session_of(expected["sessionData"]), name
            assert "0x" + permission_id(data).hex() == expected["permissionId"], name
            assert is_restricted(subject) == expected["restricted"], name
            digests = chain_digests_of(expected["hashesAndChainIds"])
            assert digests[0].chain_id == subject.chain
            account, nonce = vector["account"].lower(), int(vector["nonce"])
            assert session_digest(account, data, nonce) == digests[0].session_digest, name
            assert "0x" + multi_chain_digest(digests).hex() == expected["multiChainSessionDigest"], name
        assert len(vectors) == 11

    def test_the_emissary_calls_are_reproduced(self) -> None:
        vectors = load_vectors("sessions")["vectors"]
        for vector in vectors:
            expected, account = vector["expected"], vector["account"].lower()
            data = session_data(session_of_vector(vector["session"]))
            assert expected["nonceCall"]["to"] == SMART_SESSION_EMISSARY
            assert "0x" + get_nonce_call(account).hex() == expected["nonceCall"]["data"]
            read = is_permission_enabled_call(account, permission_id(data))
            assert "0x" + read.hex() == expected["isPermissionEnabledCallData"]
            call = expected["enableCall"]
            enable = EnableData(
                unhex(call["userSignature"]),
                chain_digests_of(expected["hashesAndChainIds"]),
                call["sessionToEnableIndex"],
            )
            assert call["to"] == SMART_SESSION_EMISSARY
            assert "0x" + set_config_call(account, data, enable).hex() == call["data"], vector["name"]
        assert vectors

    def test_what_the_sdk_refuses_is_refused_with_its_words(self) -> None:
        vectors = load_vectors("sessions")["errorVectors"]
        for vector in vectors:
            with pytest.raises(SessionError) as caught:
                session_data(session_of_vector(vector["session"]))
            assert caught.value.message.lower() == vector["error"].lower()
            assert caught.value.field
        assert len(vectors) == 6

    def test_sessions_for_development_contracts(self) -> None:
        vectors = load_vectors("sessions")["devVectors"]
        for vector in vectors:
            assert_dev_session(vector)
        assert len(vectors) == 2

    def test_swap_scopes(self) -> None:
        vectors = load_vectors("swap_sessions")["vectors"]
        for vector in vectors:
            name, expected = vector["name"], vector["expected"]
            subject = session_of_vector(vector["session"])
            wanted = [
                Action.model_validate(action, by_name=False).model_dump()
                for action in expected["expandedActions"]
            ]
            assert [action.model_dump() for action in explicit_actions(subject)] == wanted, name
            data = session_data(subject)
            assert data == session_of(expected["sessionData"]), name
            assert "0x" + permission_id_of(subject).hex() == expected["permissionId"], name
            assert permission_id(data) == permission_id_of(subject)
            assert is_restricted(subject) is expected["restricted"] is True
            assert permits_generic_policy(data) is expected["permitGenericPolicy"] is False
            digests = chain_digests_of(expected["hashesAndChainIds"])
            account, nonce = vector["account"].lower(), int(vector["nonce"])
            assert digests == (HashAndChainId(subject.chain, session_digest(account, data, nonce)),), name
            assert "0x" + multi_chain_digest(digests).hex() == expected["multiChainSessionDigest"], name
        assert len(vectors) == 4

    def test_swap_scopes_for_development_contracts(self) -> None:
        (vector,) = load_vectors("swap_sessions")["devVectors"]
        assert_dev_session(vector)

    def test_all_5_owner_sets_are_reproduced(self) -> None:
        vectors = load_vectors("validators")["vectors"]
        for vector in vectors:
            owners = owners_of_vector(vector["owners"])
            if "module" in owners:  # recorded with a wrong checksum, which the SDK overlooks there
                owners["module"] = owners["module"].lower()
            data = session_data(Session.model_validate({"chain": BASE, "owners": owners}))
            assert data.session_validator == vector["expected"]["address"].lower(), vector["name"]
            assert "0x" + data.session_validator_init_data.hex() == vector["expected"]["initData"]
        assert len(vectors) == 5

    def test_the_names_of_counters_on_chain_are_reproduced(self) -> None:
        vectors = load_vectors("config_ids")["vectors"]
        for vector in vectors:
            permission, account = unhex(vector["permissionId"]), vector["account"].lower()
            for action in vector["actions"]:
                name = action_id(action["actionTarget"].lower(), unhex(action["actionTargetSelector"]))
                assert "0x" + name == action["actionId"]
                counter = config_id(account, permission, bytes.fromhex(name))
                assert "0x" + counter.hex() == action["configId"]
        assert len(vectors) == 3

    def test_removing_a_session_is_reproduced(self) -> None:
        file = load_vectors("v2_sessions")
        permissions = {v["name"]: v["expected"]["permissionId"] for v in file["vectors"] if "expected" in v}
        for vector in file["removeConfigVectors"]:
            call = unhex(vector["expected"]["data"])
            # The chain id is the last but one word; the permission id is the recorded session's.
            chain_id = int.from_bytes(call[-64:-32], "big")
            built = remove_config_call(
                vector["account"].lower(),
                unhex(permissions[vector["sessionFrom"]]),
                chain_id=chain_id,
                nonce=int(vector["nonce"]),
                expires_s=int(vector["expires"]),
            )
            assert built.hex() == call.hex()
        assert len(file["removeConfigVectors"]) == 2

    def test_the_chains_are_those_that_the_sdk_knows(self) -> None:
        recorded = load_vectors("chains")["chains"]
        for chain in recorded:
            known = chain_of(chain["chainId"])
            assert (known.name, known.testnet) == (chain["name"], chain["testnet"])
            assert known.wrapped == chain["wrappedToken"].lower()
            tokens = {(token.symbol, token.address, token.decimals) for token in known.tokens}
            assert tokens == {(t["symbol"], t["address"].lower(), t["decimals"]) for t in chain["tokens"]}
        assert len(known_chains()) == len(recorded)


class TestOwnConstants:
    """The same numbers everywhere, with or without the recorded vectors."""

    def test_a_restricted_session(self) -> None:
        data = session_data(
            session(usdc_transfer(100_000_000, valid_until_ms=1_900_000_000_000), restrict=True)
        )
        assert permission_id(data).hex() == RESTRICTED_ID
        assert session_digest(ACCOUNT, data, 3).hex() == RESTRICTED_DIGEST

    def test_an_unrestricted_session(self) -> None:
        data = session_data(session(usdc_transfer(100_000_000, valid_until_ms=1_900_000_000_000)))
        assert permission_id(data).hex() == UNRESTRICTED_ID
        assert session_digest(ACCOUNT, data, 3).hex() == UNRESTRICTED_DIGEST

    def test_the_permission_id_of_unrestricted_sessions_does_not_cover_their_actions(self) -> None:
        one = session_data(session(usdc_transfer(1, valid_until_ms=1_900_000_000_000)))
        other = session_data(session())
        assert permission_id(one) == permission_id(other)
        assert session_digest(ACCOUNT, one, 0) != session_digest(ACCOUNT, other, 0)

    def test_the_order_of_owners_does_not_change_what_the_chain_stores(self) -> None:
        first, second = SESSION_ADDRESS, address_of(key_of("second session key"))
        assert session_data(session(keys=(first, second))) == session_data(session(keys=(second, first)))


class TestResolvedActions:
    """What the SDK adds to the actions is in the evaluator's table, too."""

    def test_a_bare_session_may_do_anything(self) -> None:
        (only,) = resolve_actions(session())
        assert only.is_fallback
        assert only.policies == (Sudo(),)

    def test_a_restricted_session_has_its_actions_and_the_dummy_only(self) -> None:
        action = usdc_transfer(1, valid_until_ms=1_900_000_000_000)
        table = policy_table(session(action, restrict=True))
        assert len(table.actions) == 2
        assert table.find("0x" + "ee" * 20, b"\1\2\3\4")[1] == ()

    def test_absent_policies_are_sudo_and_empty_ones_fall_back(self) -> None:
        target, selector = "0x" + "ee" * 20, b"\1\2\3\4"
        absent = policy_table(session(Action(target=target, selector=selector)))
        assert absent.find(target, selector)[1] == (Sudo(),)
        empty = policy_table(session(Action(target=target, selector=selector, policies=())))
        assert empty.find(target, selector)[0][0] == FALLBACK_TARGET

    def test_an_unknown_chain_is_refused(self) -> None:
        subject = session().model_copy(update={"chain": 31337})
        with pytest.raises(SessionError, match="not known") as caught:
            session_data(subject)
        assert caught.value.field == "chain"


def arg_policy(nodes: int) -> Any:
    """128 rules under a balanced tree make 255 nodes; a ``not`` around it makes 256."""
    rule: dict[str, Any] = {"condition": "equal", "calldataOffset": 0, "referenceValue": 0}
    level: list[dict[str, Any]] = [{"type": "rule", "rule": rule}] * 128
    while len(level) > 1:
        level = [{"type": "and", "left": a, "right": b} for a, b in zip(level[::2], level[1::2], strict=True)]
    expression: dict[str, Any] = level[0]
    if nodes == 256:
        expression = {"type": "not", "child": expression}
    return ArgPolicy.model_validate({"expression": expression})


class TestEnableable:
    """What the emissary or a policy would revert on at enabling is refused with its field."""

    @pytest.mark.parametrize(
        ("action", "field"),
        [
            (Action(target="0x" + "00" * 20, selector=b"\1\2\3\4"), "actions[0].target"),
            (Action(target=SMART_SESSION_EMISSARY, selector=b"\1\2\3\4"), "actions[0].target"),
            (Action(target=FALLBACK_TARGET, selector=EMISSARY_CALL_SELECTOR), "actions[0].selector"),
            (usdc_transfer(0, valid_until_ms=1), "actions[0].policies[0].limits[0].amount"),
            (usdc_transfer(1, valid_until_ms=999), "actions[0].policies[1].validUntil"),
            (usdc_transfer(1, valid_until_ms=0), "actions[0].policies[1].validUntil"),
            (
                usdc_transfer(1, valid_until_ms=5000, valid_after_ms=5000),
                "actions[0].policies[1].validAfter",
            ),
            (
                Action(target=USDC, selector=b"\1\2\3\4", policies=(UsageLimit(limit=0),)),
                "actions[0].policies[0].limit",
            ),
            (
                Action(target=USDC, selector=b"\1\2\3\4", policies=(arg_policy(256),)),
                "actions[0].policies[0].expression",
            ),
        ],
    )
    def test_refused(self, action: Action, field: str) -> None:
        with pytest.raises(SessionError) as caught:
            check_enableable(session(action))
        assert caught.value.field == field
        assert caught.value.message

    def test_a_good_session_is_enableable(self) -> None:
        check_enableable(session(usdc_transfer(1, valid_until_ms=1_900_000_000_000), restrict=True))
        check_enableable(session(Action(target=USDC, selector=b"\1\2\3\4", policies=(arg_policy(255),))))


class TestExpiry:
    """A session ends when the last of its own actions does."""

    def until(self, *ends_ms: int, target: str = USDC) -> Action:
        policies: tuple[PolicyModel, ...] = tuple(
            TimeFrame(valid_until=end, valid_after=1) for end in ends_ms
        )
        limits = SpendingLimits(limits=(TokenLimit(token=USDC, amount=1),))
        everything: Any = (limits, *policies)
        return Action(target=target, selector=b"\1\2\3\4", policies=everything)

    def test_the_latest_end_counts_in_whole_seconds(self) -> None:
        other = "0x" + "ee" * 20
        assert expires_s(session(self.until(5_999), self.until(9_000, target=other))) == 9
        assert expires_s(session(self.until(5_999))) == 5

    def test_one_action_without_end_means_no_end(self) -> None:
        other = "0x" + "ee" * 20
        assert expires_s(session(self.until(5_000), self.until(target=other))) == 0
        assert expires_s(session(self.until(0))) == 0
        assert expires_s(session()) == 0

    def test_a_repeated_policy_counts_as_the_last_one(self) -> None:
        # The contract is initialised again by the later entry, so its window is the one that holds.
        assert expires_s(session(self.until(5_000, 9_000))) == 9


class TestOwners:
    """Only what can be signed for and reached."""

    @pytest.mark.parametrize(
        ("owners", "words"),
        [
            ({"type": "passkey", "accounts": [SESSION_ADDRESS]}, "only 'ecdsa'"),
            ({"type": "ens", "name": "x.eth"}, "only 'ecdsa'"),
            ({"type": "quorum", "module": "0x" + "11" * 20, "threshold": 2}, "only 'ecdsa'"),
            (
                {"type": "multi-factor", "validators": [{"type": "ens"}, {"type": "ecdsa"}], "threshold": 2},
                "only 'ecdsa'",
            ),
            ({"accounts": [SESSION_ADDRESS, SESSION_ADDRESS.upper().replace("X", "x")]}, "twice"),
            ({"accounts": [SESSION_ADDRESS], "threshold": 2}, "cannot be met"),
            ({"accounts": [SESSION_ADDRESS], "threshold": 0}, "cannot be met"),
            ({"accounts": []}, "at least 1"),
        ],
    )
    def test_refused(self, owners: Any, words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            Session.model_validate({"chain": BASE, "owners": owners})

    def test_a_list_of_addresses_is_one_of_whom_suffices(self) -> None:
        subject = Session.model_validate({"chain": BASE, "owners": [SESSION_ADDRESS]})
        assert subject.owners == EcdsaOwners(accounts=(SESSION_ADDRESS,), threshold=1)
        assert session_data(subject).session_validator == OWNABLE_VALIDATOR


class TestEmissaryReplies:
    """A reply is one word, or it is no reply of the emissary."""

    def test_words(self) -> None:
        assert decode_nonce((7).to_bytes(32, "big")) == 7
        assert decode_nonce(b"\xff" * 32) == 2**256 - 1
        assert decode_is_permission_enabled((1).to_bytes(32, "big")) is True
        assert decode_is_permission_enabled(bytes(32)) is False

    @pytest.mark.parametrize("reply", [b"", bytes(31), bytes(33), bytes(64)])
    def test_another_length_is_refused(self, reply: bytes) -> None:
        for decode in (decode_nonce, decode_is_permission_enabled):
            with pytest.raises(EmissaryReplyError) as caught:
                decode(reply)
            assert caught.value.field == SMART_SESSION_EMISSARY
            assert caught.value.fix

    def test_a_bool_is_0_or_1(self) -> None:
        with pytest.raises(EmissaryReplyError):
            decode_is_permission_enabled((2).to_bytes(32, "big"))

    def test_calls_refuse_what_the_abi_cannot_hold(self) -> None:
        with pytest.raises(SigningInputError):
            get_nonce_call("0x" + "AA" * 20)
        with pytest.raises(SigningInputError):
            is_permission_enabled_call(ACCOUNT, bytes(31))
        with pytest.raises(SigningInputError):
            remove_config_call(ACCOUNT, bytes(32), chain_id=2**64, nonce=0)


RESTRICTED_ID = "197752a4170e3e9b1c87fd203f2dc8caf40c23b339c97564443c3a6a3beef7f4"
RESTRICTED_DIGEST = "fb3c46d0478dc5eda95ef2eb274f69fda7933049c15213026f2908966edf9d66"
UNRESTRICTED_ID = "6c65bb7ef45273b592befe0f33b32c9e859bfdf35dbec0748485434962511175"
UNRESTRICTED_DIGEST = "79665fa609ea1ba36ae954997e32719782ba5ddee7c9b17b698ca8e434bba835"
