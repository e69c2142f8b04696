"""Packing and unpacking of sessions' and owners' signatures: own constants, strict inverses, malformed input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from eth_abi.abi import encode
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.signing import ACCOUNT, DIGEST, labelled_key, own_enable, own_session
from worker.signing import fastlz
from worker.signing.abi import CONFIG_ABI, ENABLE_ABI, enable_tuple, session_from_tuple, session_tuple
from worker.signing.contracts import (
    OWNABLE_VALIDATOR,
    SMART_SESSION_EMISSARY,
    STARTALE_K1_VALIDATOR,
    ZERO_ADDRESS,
)
from worker.signing.eip712 import MAX_UINT256
from worker.signing.enable import owner_enable_signature, verify_owner_enable_signature
from worker.signing.errors import SigningInputError
from worker.signing.mock import mock_signature, mock_signatures
from worker.signing.session_digest import (
    multi_chain_digest,
    permission_id,
    permits_generic_policy,
    remove_digest,
    session_digest,
)
from worker.signing.session_signature import (
    ACCOUNT_KINDS,
    decode_emissary,
    decode_erc1271,
    emissary_enable,
    emissary_use,
    erc1271,
    erc1271_hash,
)
from worker.signing.sign import address_of, psig
from worker.signing.structs import AccountKind, ActionData, HashAndChainId, PolicyData

KEYS = [labelled_key("owner 0"), labelled_key("owner 1")]
OWNERS = [address_of(key) for key in KEYS]
SESSION = own_session()
PERMISSION = permission_id(SESSION)
VS = psig(labelled_key("session"), DIGEST)
USE = emissary_use(PERMISSION, VS)
ENABLE = emissary_enable(SESSION, own_enable(), PERMISSION, VS)


class TestConstants:
    """Digests computed once from the labelled values; they hold without the recorded vectors."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (PERMISSION, "6f52ba30444bd0d07f89c7207c0551c42150b386c14b59f4f32df4ad90e67d8a"),
            (
                session_digest(ACCOUNT, SESSION, 3),
                "0ffc02409b504b75a331700c3b47a764c720f61ae0734a6d7c06d19bbbcab5ab",
            ),
            (
                multi_chain_digest(own_enable().hashes_and_chain_ids),
                "a0770cde8dcf2986e900b046ecfffec33826067b8e5e78c137e473cbd4b6ffd2",
            ),
            (
                remove_digest(ACCOUNT, PERMISSION, 3),
                "c45ba2f4459ced10a389291307b1cad97de9e2673391875000285a59782799c6",
            ),
            (
                erc1271_hash("nexus", ACCOUNT, DIGEST),
                "00f1196cf77d0be4f76e1d3de42b41bf2874071a87b3ca9e7b51014dd061aea5",
            ),
            (
                erc1271_hash("kernel", ACCOUNT, DIGEST),
                "a6dca235007973cee7057fb50dbeff71958f0a8436dd6386996070333d722e82",
            ),
            (keccak(ENABLE), "4fb62cfbbf5702e67ce7e6269d05e8c9ce056855da3cad40cadf4be0d7bdb08a"),
            (
                keccak(erc1271("kernel", ACCOUNT, PERMISSION, VS, b"claim")),
                "09f6bee9b64acedf53f5bfce50fe1858d570839d4330953f38fbe0c1eb23780c",
            ),
            (
                keccak(mock_signature(SESSION, 8453, 2)),
                "aad9183d1e615897124b4751d8a89222bb50b2b04d76612375de494fa9ed5c3a",
            ),
        ],
        ids=[
            "permission id",
            "session digest",
            "multi-chain digest",
            "remove digest",
            "erc1271 hash",
            "erc1271 hash kernel",
            "enable form",
            "erc1271 form kernel",
            "mock",
        ],
    )
    def test_value(self, value: bytes, expected: str) -> None:
        assert value.hex() == expected


class TestDigests:
    """What a session's digest and id cover."""

    def test_digest_changes_with_everything_it_covers(self) -> None:
        base = session_digest(ACCOUNT, SESSION, 0)
        policy = SESSION.claim_policies[0]
        others = {
            session_digest("0x" + "bb" * 20, SESSION, 0),
            session_digest(ACCOUNT, SESSION, 1),
            *(
                session_digest(ACCOUNT, replace(SESSION, **change), 0)
                for change in cast(
                    "list[dict[str, Any]]",
                    [
                        {"salt": b"\x01" + bytes(31)},
                        {"session_validator": ZERO_ADDRESS},
                        {"session_validator_init_data": b""},
                        {"actions": SESSION.actions[:1]},
                        {"actions": SESSION.actions[::-1]},
                        {"claim_policies": ()},
                        {"claim_policies": (policy, policy)},
                        {"allowed_erc7739_content": ()},
                        {"erc1271_policies": ()},
                    ],
                )
            ),
        }
        assert len(others) == 11
        assert base not in others

    def test_permission_id_does_not_cover_the_actions(self) -> None:
        assert permission_id(replace(SESSION, actions=())) == PERMISSION
        assert permission_id(replace(SESSION, salt=b"\x01" * 32)) != PERMISSION

    def test_generic_policy_needs_exactly_the_fallback(self) -> None:
        assert permits_generic_policy(SESSION)
        assert not permits_generic_policy(replace(SESSION, actions=SESSION.actions[:1]))
        other = ActionData(bytes.fromhex("00000002"), SESSION.actions[1].target, ())
        assert not permits_generic_policy(replace(SESSION, actions=(other,)))


class TestRoundTrip:
    """What is packed is unpacked, and nothing else is accepted."""

    def test_use(self) -> None:
        form = decode_emissary(USE)
        assert (form.mode, form.permission_id, form.validator_signature) == ("use", PERMISSION, VS)
        assert (form.session, form.enable) == (None, None)

    def test_enable(self) -> None:
        form = decode_emissary(ENABLE)
        assert (form.mode, form.permission_id, form.validator_signature) == ("enable", PERMISSION, VS)
        assert (form.session, form.enable) == (SESSION, own_enable())

    def test_session_tuple(self) -> None:
        assert session_from_tuple(session_tuple(SESSION)) == SESSION

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    @pytest.mark.parametrize("claim", [b"", b"claim data"])
    def test_erc1271(self, kind: AccountKind, claim: bytes) -> None:
        form = decode_erc1271(kind, erc1271(kind, ACCOUNT, PERMISSION, VS + VS, claim))
        assert (form.permission_id, form.validator_signature, form.claim_policy_data) == (
            PERMISSION,
            VS + VS,
            claim,
        )

    def test_renderings_hold_no_signature(self) -> None:
        for form in (
            decode_emissary(ENABLE),
            decode_erc1271("safe", erc1271("safe", ACCOUNT, PERMISSION, VS)),
        ):
            assert repr(VS)[2:20] not in repr(form)

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_a_changed_enable_form_is_refused_or_means_something_else(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(ENABLE) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda value: value != ENABLE[at]))
        changed = ENABLE[:at] + bytes([byte]) + ENABLE[at + 1 :]
        try:
            form = decode_emissary(changed)
        except SigningInputError:
            return
        assert (form.permission_id, form.validator_signature, form.session, form.enable) != (
            PERMISSION,
            VS,
            SESSION,
            own_enable(),
        )

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=400))
    def test_noise(self, noise: bytes) -> None:
        for stream in (noise, b"\x00" + noise, b"\x01" + noise, b"\x01" + fastlz.compress(noise)):
            for decoder in (decode_emissary, partial(decode_erc1271, "nexus")):
                try:
                    decoder(stream)
                except SigningInputError:
                    continue
                assert stream[0] == 0  # only USE is loose enough for noise: 32 bytes and a multiple of 65
                assert (len(stream) - 33) % 65 == 0


def enable_with(
    *,
    expires: int = MAX_UINT256,
    allocator: bytes = bytes(32),
    config: tuple[int, int, str] = (0, 6, ZERO_ADDRESS),
) -> bytes:
    """An ENABLE form whose fixed parts may differ."""
    _, user, _, rest = enable_tuple(SESSION, own_enable())
    return b"\x01" + fastlz.compress(
        encode(
            [ENABLE_ABI, CONFIG_ABI, "bytes"],
            [(allocator, user, expires, rest), (*config, PERMISSION), VS],
        )
    )


def enable_plain() -> bytes:
    """A valid FastLZ stream (literals only) of the right content: not what we send."""
    raw = fastlz.decompress(ENABLE[1:])
    return b"\x01" + b"".join(
        bytes([len(raw[at : at + 32]) - 1]) + raw[at : at + 32] for at in range(0, len(raw), 32)
    )


def test_the_builder_of_the_table_below_is_right() -> None:
    assert enable_with() == ENABLE
    assert fastlz.decompress(enable_plain()[1:]) == fastlz.decompress(ENABLE[1:])


W1271 = erc1271("nexus", ACCOUNT, PERMISSION, VS)
BAD_POLICY = PolicyData("0x" + "AB" * 20, b"")
MALFORMED: dict[str, tuple[Callable[[], object], str]] = {
    "use: short id": (lambda: emissary_use(bytes(31), VS), "permissionId"),
    "use: hex id": (lambda: emissary_use(cast("Any", PERMISSION.hex()), VS), "permissionId"),
    "use: no signature": (lambda: emissary_use(PERMISSION, b""), "validatorSignature"),
    "use: short signature": (lambda: emissary_use(PERMISSION, VS[:64]), "validatorSignature"),
    "enable: id of another session": (
        lambda: emissary_enable(SESSION, own_enable(), bytes(32), VS),
        "permissionId",
    ),
    "enable: index outside": (
        lambda: emissary_enable(SESSION, replace(own_enable(), session_to_enable_index=2), PERMISSION, VS),
        "sessionToEnableIndex",
    ),
    "enable: index 256": (
        lambda: emissary_enable(SESSION, replace(own_enable(), session_to_enable_index=256), PERMISSION, VS),
        "sessionToEnableIndex",
    ),
    "enable: no chains": (
        lambda: emissary_enable(SESSION, replace(own_enable(), hashes_and_chain_ids=()), PERMISSION, VS),
        "sessionToEnableIndex",
    ),
    "enable: chain id too large": (
        lambda: emissary_enable(
            SESSION,
            replace(own_enable(), hashes_and_chain_ids=(HashAndChainId(2**64, bytes(32)),) * 2),
            PERMISSION,
            VS,
        ),
        "hashesAndChainIds[0].chainId",
    ),
    "enable: user signature of text": (
        lambda: emissary_enable(
            SESSION, replace(own_enable(), user_signature=cast("Any", "0x00")), PERMISSION, VS
        ),
        "userSignature",
    ),
    "session: checksummed policy": (
        lambda: session_tuple(replace(SESSION, claim_policies=(BAD_POLICY,))),
        "claimPolicies[0].policy",
    ),
    "session: selector of 3 bytes": (
        lambda: session_tuple(replace(SESSION, actions=(ActionData(b"\1\2\3", ZERO_ADDRESS, ()),))),
        "actions[0].actionTargetSelector",
    ),
    "session: content name of bytes": (
        lambda: session_tuple(
            replace(
                SESSION,
                allowed_erc7739_content=(
                    replace(SESSION.allowed_erc7739_content[0], content_names=cast("Any", (b"",))),
                ),
            )
        ),
        "erc7739Policies.allowedERC7739Content[0].contentNames[0]",
    ),
    "session digest: nonce": (lambda: session_digest(ACCOUNT, SESSION, -1), "session.nonce"),
    "session digest: policy": (
        lambda: session_digest(ACCOUNT, replace(SESSION, erc1271_policies=(BAD_POLICY,)), 0),
        "session.permissions.erc7739Policies.erc1271Policies[0].policy",
    ),
    "session digest: account": (lambda: session_digest(ACCOUNT.upper(), SESSION, 0), "session.account"),
    "permission id: salt": (lambda: permission_id(replace(SESSION, salt=b"")), "salt"),
    "multi-chain: nothing": (lambda: multi_chain_digest([]), "hashesAndChainIds"),
    "multi-chain: digest": (
        lambda: multi_chain_digest([HashAndChainId(1, b"")]),
        "hashesAndChainIds[0].sessionDigest",
    ),
    "remove: expires": (lambda: remove_digest(ACCOUNT, PERMISSION, 0, 2**256), "expires"),
    "erc1271: kind": (lambda: erc1271(cast("Any", "eoa"), ACCOUNT, PERMISSION, VS), "account kind"),
    "erc1271: unhashable kind": (lambda: erc1271_hash(cast("Any", []), ACCOUNT, DIGEST), "account kind"),
    "erc1271: account": (lambda: erc1271("safe", "0x", PERMISSION, VS), "account"),
    "erc1271 hash: account": (lambda: erc1271_hash("kernel", cast("Any", []), DIGEST), "account"),
    "erc1271 hash: digest": (lambda: erc1271_hash("kernel", ACCOUNT, b""), "digest"),
    "erc1271: claim data": (
        lambda: erc1271("safe", ACCOUNT, PERMISSION, VS, cast("Any", "00")),
        "claimPolicyData",
    ),
    "decode: empty": (lambda: decode_emissary(b""), "signature"),
    "decode: text": (lambda: decode_emissary(cast("Any", USE.hex())), "signature"),
    "decode: mode 2": (lambda: decode_emissary(b"\x02" + USE[1:]), "signature"),
    "decode: use cut in the id": (lambda: decode_emissary(USE[:20]), "signature"),
    "decode: use cut": (lambda: decode_emissary(USE[:-1]), "validatorSignature"),
    "decode: use with a tail": (lambda: decode_emissary(USE + b"\0"), "validatorSignature"),
    "decode: enable cut": (lambda: decode_emissary(ENABLE[:-1]), "stream"),
    "decode: enable with a tail": (lambda: decode_emissary(ENABLE + b"\x00\x00"), "signature"),
    "decode: enable empty": (lambda: decode_emissary(b"\x01"), "signature"),
    "decode: enable that ends": (lambda: decode_emissary(enable_with(expires=1893456000)), "signature"),
    "decode: enable with an allocator": (lambda: decode_emissary(enable_with(allocator=b"")), "signature"),
    "decode: enable of another scope": (
        lambda: decode_emissary(enable_with(config=(1, 6, ZERO_ADDRESS))),
        "signature",
    ),
    "decode: enable of an allocator": (
        lambda: decode_emissary(enable_with(config=(0, 6, ACCOUNT))),
        "signature",
    ),
    "decode: enable compressed otherwise": (lambda: decode_emissary(enable_plain()), "signature"),
    "decode: another emissary": (
        lambda: decode_erc1271("nexus", erc1271("nexus", ACCOUNT, PERMISSION, VS, emissary=ACCOUNT)),
        "signature",
    ),
    "decode: nexus form for kernel": (lambda: decode_erc1271("kernel", W1271), "signature"),
    "decode: mode 1": (lambda: decode_erc1271("nexus", W1271[:20] + b"\x01" + W1271[21:]), "signature"),
    "decode: offset outside": (
        lambda: decode_erc1271("nexus", W1271[:53] + (200).to_bytes(32, "big") + W1271[85:]),
        "signature",
    ),
    "decode: offset inside the head": (
        lambda: decode_erc1271("nexus", W1271[:53] + (63).to_bytes(32, "big") + W1271[85:]),
        "signature",
    ),
    "decode: erc1271 without signature": (
        lambda: decode_erc1271("nexus", W1271[:53] + (64).to_bytes(32, "big")),
        "validatorSignature",
    ),
    "flz: cut literals": (lambda: fastlz.decompress(b"\x05ab"), "stream"),
    "flz: cut match": (lambda: fastlz.decompress(b"\x00a\x20"), "stream"),
    "flz: cut long match": (lambda: fastlz.decompress(b"\x00a\xe0\x00"), "stream"),
    "flz: before the start": (lambda: fastlz.decompress(b"\x00a\x20\x01"), "stream"),
    "flz: text": (lambda: fastlz.decompress(cast("Any", "00")), "stream"),
    "flz: text to compress": (lambda: fastlz.compress(cast("Any", "00")), "data"),
    "flz: bomb": (lambda: fastlz.decompress(b"\x00a" + b"\xe0\xff\x00" * 5000), "stream"),
    "mock: chain without session": (lambda: mock_signatures({1: SESSION}, 1, [1, 10]), "sessions"),
    "mock: chain count": (lambda: mock_signature(SESSION, 1, -1), "chainCount"),
}


class TestMalformed:
    """Each is a SigningInputError that names the field."""

    @pytest.mark.parametrize("name", MALFORMED)
    def test_is_refused(self, name: str) -> None:
        call, field = MALFORMED[name]
        with pytest.raises(SigningInputError) as caught:
            call()
        assert caught.value.field == field
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


class TestFastLz:
    """Any bytes come back."""

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(max_size=40) | st.just(bytes(300)), max_size=20).map(b"".join))
    def test_round_trip(self, data: bytes) -> None:
        assert fastlz.decompress(fastlz.compress(data)) == data

    def test_long_and_far_matches(self) -> None:
        block = b"".join(keccak(bytes([number])) for number in range(256))
        for data in (block + block, block + b"x" + block[:500], bytes(5000), block[:4] * 900):
            assert fastlz.decompress(fastlz.compress(data)) == data
        assert len(fastlz.compress(bytes(5000))) < 80  # the compressor does find matches

    def test_products_are_rounded_to_doubles_as_javascript_does(self) -> None:
        """Exactly computed, 774383 would not share its slot with d70001, and its second copy would be a match."""
        data = bytes.fromhex("0102030477438311121314d700012122232477438331323334") + bytes(range(64, 80))
        assert fastlz.compress(data) == b"\x1f" + data[:32] + b"\x08" + data[32:]


class TestOwnerEnable:
    """The owners' approval is made and checked alike; anything else is refused with its reason."""

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_round_trip(self, kind: AccountKind) -> None:
        signature = owner_enable_signature(kind, ACCOUNT, DIGEST, KEYS)
        signers = verify_owner_enable_signature(kind, ACCOUNT, DIGEST, signature, OWNERS, threshold=2)
        assert list(signers) == OWNERS

    def test_one_of_two_owners_meets_threshold_one(self) -> None:
        signature = owner_enable_signature("safe", ACCOUNT, DIGEST, KEYS[1:])
        assert verify_owner_enable_signature("safe", ACCOUNT, DIGEST, signature, OWNERS) == (OWNERS[1],)

    def test_nexus_names_a_validator_that_is_not_its_default(self) -> None:
        other = "0x" + "ee" * 20
        for validator, default, head in (
            (OWNABLE_VALIDATOR, OWNABLE_VALIDATOR, bytes(20)),
            (OWNABLE_VALIDATOR, other, bytes.fromhex(OWNABLE_VALIDATOR[2:])),
            (other, other, bytes(20)),
        ):
            signature = owner_enable_signature(
                "nexus", ACCOUNT, DIGEST, KEYS[:1], validator=validator, default_validator=default
            )
            assert signature[:20] == head
            verify_owner_enable_signature(
                "nexus",
                ACCOUNT,
                DIGEST,
                signature,
                OWNERS,
                validator=validator,
                default_validator=default,
            )

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_each_changed_byte_is_refused(self, kind: AccountKind) -> None:
        signature = owner_enable_signature(kind, ACCOUNT, DIGEST, KEYS[:1])
        for at in range(len(signature)):
            changed = signature[:at] + bytes([signature[at] ^ 1]) + signature[at + 1 :]
            with pytest.raises(SigningInputError) as caught:
                verify_owner_enable_signature(kind, ACCOUNT, DIGEST, changed, OWNERS)
            assert caught.value.field in {"userSignature", "signature"}

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"digest": bytes(32)}, "no owner of the account, or over another digest"),
            ({"owners": OWNERS[1:]}, "no owner"),
            ({"owners": []}, "threshold"),
            ({"owners": [OWNERS[0].upper()]}, r"owners\[0\]"),
            ({"threshold": 2}, "has 1 signatures, but the account needs 2"),
            ({"threshold": 0}, "threshold"),
            ({"threshold": 3}, "threshold"),
            ({"threshold": True}, "threshold"),
            ({"signature": b""}, "userSignature: does not begin with"),
            ({"signature": bytes(20)}, "one or more signatures"),
            ({"signature": None}, "must be bytes"),
            ({"kind": "safe"}, "does not begin with"),
            ({"kind": "kernel"}, "does not begin with"),
            ({"kind": "eoa"}, "account kind"),
            ({"account": "0x"}, "account"),
            ({"kind": "startale", "validator": STARTALE_K1_VALIDATOR}, "K1 validator"),
        ],
    )
    def test_refusals(self, change: dict[str, Any], words: str) -> None:
        arguments: dict[str, Any] = {
            "kind": "nexus",
            "account": ACCOUNT,
            "digest": DIGEST,
            "signature": owner_enable_signature("nexus", ACCOUNT, DIGEST, KEYS[:1]),
            "owners": OWNERS,
        }
        verify_owner_enable_signature(**arguments)
        with pytest.raises(SigningInputError, match=words):
            verify_owner_enable_signature(**arguments | change)

    def test_one_owner_twice(self) -> None:
        signature = owner_enable_signature("nexus", ACCOUNT, DIGEST, [KEYS[0], KEYS[0]])
        with pytest.raises(SigningInputError, match="signed twice"):
            verify_owner_enable_signature("nexus", ACCOUNT, DIGEST, signature, OWNERS, threshold=2)

    def test_a_kernel_with_another_validator_keeps_v_below_31(self) -> None:
        """The SDK adds 4 only for the Ownable validator; what is signed is the same."""
        other = "0x" + "77" * 20
        plain = owner_enable_signature("kernel", ACCOUNT, DIGEST, KEYS, validator=other)
        raised = owner_enable_signature("kernel", ACCOUNT, DIGEST, KEYS)
        ends = [len(plain) - 65 * index - 1 for index in range(len(KEYS))]
        assert [raised[end] - plain[end] for end in ends] == [4] * len(KEYS)
        assert [byte for at, byte in enumerate(plain) if at not in ends] == [
            byte for at, byte in enumerate(raised) if at not in ends
        ]
        assert verify_owner_enable_signature(
            "kernel", ACCOUNT, DIGEST, plain, OWNERS, threshold=2, validator=other
        ) == tuple(OWNERS)

    def test_kernel_binds_the_account(self) -> None:
        signature = owner_enable_signature("kernel", ACCOUNT, DIGEST, KEYS[:1])
        with pytest.raises(SigningInputError, match="no owner"):
            verify_owner_enable_signature("kernel", "0x" + "bb" * 20, DIGEST, signature, OWNERS)

    def test_no_keys(self) -> None:
        with pytest.raises(SigningInputError, match="keys"):
            owner_enable_signature("nexus", ACCOUNT, DIGEST, [])

    def test_emissary_address(self) -> None:
        assert W1271[:20].hex() == SMART_SESSION_EMISSARY[2:]


class TestMocks:
    """One mock per chain involved."""

    def test_sources_and_target(self) -> None:
        other = replace(SESSION, actions=())
        mocks = mock_signatures({1: SESSION, 10: other, 8453: SESSION}, 10, [1, 8453, 1])
        assert list(mocks) == ["1", "8453", "10"]
        assert mocks["10"] == "0x" + mock_signature(other, 10, 2).hex()
        assert mocks["1"] == "0x" + mock_signature(SESSION, 1, 2).hex()

    def test_target_alone(self) -> None:
        assert mock_signatures({10: SESSION}, 10) == {"10": "0x" + mock_signature(SESSION, 10).hex()}

    def test_layout(self) -> None:
        mock = mock_signature(SESSION, 8453, 3)
        assert mock[:20].hex() == SMART_SESSION_EMISSARY[2:]
        form = decode_emissary(mock[20:])
        assert form.enable is not None
        assert [item.chain_id for item in form.enable.hashes_and_chain_ids] == [8453, 0, 0]
        assert form.validator_signature == form.enable.user_signature == bytes(65)
