"""Our EIP-712 against eth_account's, on arbitrary values of every message type."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.signing.contracts import INTENT_EXECUTOR, PERMIT2
from worker.signing.eip712 import Array, EipType, Struct, domain_separator, typed_data_digest
from worker.signing.errors import SigningInputError
from worker.signing.messages import PERMIT_BATCH_WITNESS, SINGLE_CHAIN_OPS
from worker.signing.session_digest import (
    CHAIN_SESSION,
    LOCK_TAG_DATA,
    MULTI_CHAIN_SESSION,
    SIGNED_PERMISSIONS,
    SIGNED_SESSION,
)

_ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda value: "0x" + value.hex())
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

TYPES = (SINGLE_CHAIN_OPS, PERMIT_BATCH_WITNESS, MULTI_CHAIN_SESSION)


def strategy(kind: EipType) -> st.SearchStrategy[Any]:
    """Values of a type, in the form that ours takes; the ends of each range come up often."""
    if isinstance(kind, Struct):
        return st.tuples(*(strategy(member) for _, member in kind.members))
    if isinstance(kind, Array):
        return st.lists(strategy(kind.item), max_size=3).map(tuple)
    name = kind.type_name
    if name.startswith("uint"):
        top = 2 ** int(name[4:]) - 1
        return st.integers(0, top) | st.sampled_from([0, 1, top])
    if name == "bytes":
        return st.binary(max_size=70)
    if name.startswith("bytes"):
        size = int(name[5:])
        return st.binary(min_size=size, max_size=size)
    return {"address": _ADDRESSES, "bool": st.booleans(), "string": _TEXT}[name]


def as_json(kind: EipType, value: Any) -> Any:
    """The same value as eth_account takes it: structs are dicts."""
    if isinstance(kind, Struct):
        return {name: as_json(member, item) for (name, member), item in zip(kind.members, value, strict=True)}
    if isinstance(kind, Array):
        return [as_json(kind.item, item) for item in value]
    return value


def types_of(kind: Struct) -> dict[str, list[dict[str, str]]]:
    return {
        struct.type_name: [{"name": name, "type": member.type_name} for name, member in struct.members]
        for struct in kind.structs
    }


def reference(domain: dict[str, Any], kind: Struct, value: Any) -> bytes:
    message = encode_typed_data(domain, types_of(kind), as_json(kind, value))
    return keccak(b"\x19" + message.version + message.header + message.body)


class TestAgainstEthAccount:
    """Two independent implementations agree on the digest."""

    @pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.type_name)
    def test_digests_agree(self, kind: Struct) -> None:
        @settings(max_examples=60, deadline=None)
        @given(value=strategy(kind), chain_id=st.integers(0, 2**64 - 1))
        def agree(value: Any, chain_id: int) -> None:
            domain = {"name": "N", "version": "1", "chainId": chain_id, "verifyingContract": PERMIT2}
            ours = typed_data_digest(domain_separator("N", "1", chain_id, PERMIT2), kind.encode(value, ""))
            assert ours == reference(domain, kind, value)

        agree()

    @pytest.mark.parametrize(
        "domain",
        [
            {"name": "SmartSessionEmissary", "version": "1"},
            {"name": "Permit2", "chainId": 8453, "verifyingContract": PERMIT2},
            {"name": "Kernel", "version": "0.3.3", "chainId": 0, "verifyingContract": INTENT_EXECUTOR},
        ],
        ids=lambda domain: domain["name"],
    )
    def test_domains_hold_exactly_the_fields_given(self, domain: dict[str, Any]) -> None:
        separator = domain_separator(
            domain["name"], domain.get("version"), domain.get("chainId"), domain.get("verifyingContract")
        )
        value = ("0x" + "11" * 20, 1, (bytes(32), ()), ("0x" + "22" * 20, 0, 0))
        ours = typed_data_digest(separator, SINGLE_CHAIN_OPS.encode(value, ""))
        assert ours == reference(domain, SINGLE_CHAIN_OPS, value)


class TestTypeHashes:
    """The emissary's published type hashes."""

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            (SIGNED_SESSION, "984917e689987af96289e12c5f5e934fcdf1df4186108f69ff7e8c3df950ce33"),
            (SIGNED_PERMISSIONS, "a6d649a3e6014c0f8cf1e42d360388616413c96247ed3e994eeff9e3ac2af36f"),
            (CHAIN_SESSION, "abc350ff4773ba356e85e2d2ee58d7d7511767acdb108b59058f5b4a5afc074b"),
            (MULTI_CHAIN_SESSION, "b4323194e4ca3723804b96dc7a0960bde1afff2b080b8b288fdc264c82e21357"),
            (LOCK_TAG_DATA, "530e6ac3fbb108eb531208da75d7310b7086a7d16b42cbb119ebd7543f7a1955"),
        ],
        ids=lambda value: value.type_name if isinstance(value, Struct) else "",
    )
    def test_type_hash(self, kind: Struct, expected: str) -> None:
        assert kind.type_hash.hex() == expected


GOOD = ("0x" + "11" * 20, 1, (bytes(32), (("0x" + "33" * 20, 0, b""),)), ("0x" + "22" * 20, 0, 0))


class TestStrictness:
    """No value is padded, cut, wrapped around or taken for another type."""

    @pytest.mark.parametrize(
        ("path", "value", "field"),
        [
            ((0,), "0x" + "AB" * 20, "account"),
            ((0,), "0x" + "11" * 19, "account"),
            ((0,), "0x" + "11" * 20 + "\n", "account"),
            ((0,), "0x" + "\u0661\u0661" * 20, "account"),
            ((0,), b"\x11" * 20, "account"),
            ((0,), None, "account"),
            ((1,), True, "nonce"),
            ((1,), 1.0, "nonce"),
            ((1,), "1", "nonce"),
            ((1,), -1, "nonce"),
            ((1,), 2**256, "nonce"),
            ((2,), None, "op"),
            ((2,), (bytes(32),), "op"),
            ((2, 0), bytes(31), "op.vt"),
            ((2, 0), bytes(33), "op.vt"),
            ((2, 0), bytearray(32), "op.vt"),
            ((2, 0), "00" * 32, "op.vt"),
            ((2, 1), None, "op.ops"),
            ((2, 1), "ab", "op.ops"),
            ((2, 1, 0), None, "op.ops[0]"),
            ((2, 1, 0, 2), "0x", "op.ops[0].data"),
            ((3, 1), 2**256, "gasRefund.exchangeRate"),
        ],
    )
    def test_one_wrong_value_is_named(self, path: tuple[int, ...], value: object, field: str) -> None:
        SINGLE_CHAIN_OPS.encode(GOOD, "")
        with pytest.raises(SigningInputError) as caught:
            SINGLE_CHAIN_OPS.encode(replaced(GOOD, path, value), "")
        assert caught.value.field == field

    def test_bool_and_text_members(self) -> None:
        permissions = ((), ((), ()), (bytes(12), ()), 1)
        with pytest.raises(SigningInputError, match=r"^p\.permitGenericPolicy"):
            SIGNED_PERMISSIONS.encode(permissions, "p")
        for name in (b"", "\ud800"):
            permissions = ((), (((bytes(32), (name,)),), ()), (bytes(12), ()), True)
            with pytest.raises(SigningInputError, match=r"contentName\[0\]"):
                SIGNED_PERMISSIONS.encode(permissions, "p")

    def test_uint64_and_uint128_widths(self) -> None:
        with pytest.raises(SigningInputError, match="uint64"):
            CHAIN_SESSION.encode((2**64, ()), "")

    def test_domain(self) -> None:
        domain_separator("N", "1", 1, PERMIT2)
        with pytest.raises(SigningInputError, match="chainId"):
            domain_separator("N", "1", True, PERMIT2)  # the cache must not take it for 1
        with pytest.raises(SigningInputError, match="verifyingContract"):
            domain_separator("N", "1", 1, PERMIT2.upper())
        with pytest.raises(SigningInputError, match="structHash"):
            typed_data_digest(bytes(32), bytes(31))


def replaced(value: Any, path: tuple[int, ...], new: object) -> Any:
    """The nested tuple with one item replaced."""
    if not path:
        return new
    items = list(value)
    items[path[0]] = replaced(items[path[0]], path[1:], new)
    return tuple(items)
