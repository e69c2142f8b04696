"""EIP-712: struct types with precomputed hashes, domains and digests.

A type is defined once, at import; hashing a value then only encodes and hashes. (``eth_account`` re-reads the
type definitions on every call, about 200 µs for a small struct; the tests compare the two.)

Values mirror the type: an ``int`` for ``uintN``, ``bytes`` for ``bytesN`` and ``bytes``, a lower-case 0x string for
``address``, ``str``, ``bool``, a sequence for an array, and a tuple in member order for a struct.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from worker.signing import values
from worker.signing.errors import SigningInputError
from worker.signing.keccak import keccak

MAX_UINT256 = 2**256 - 1


class EipType(Protocol):
    """A member type."""

    @property
    def type_name(self) -> str:
        """As written in ``encodeType``."""
        ...

    @property
    def structs(self) -> frozenset[Struct]:
        """Every struct type that the type refers to, itself included."""
        ...

    def encode(self, value: object, field: str) -> bytes:
        """The 32-byte word of ``encodeData``.

        Raises:
            SigningInputError: the value does not fit; ``field`` is its path.
        """
        ...


class _Atom:
    """A type that refers to no struct."""

    structs: frozenset[Struct] = frozenset()

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name


class _Uint(_Atom):
    def __init__(self, bits: int) -> None:
        super().__init__(f"uint{bits}")
        self._bits = bits

    def encode(self, value: object, field: str) -> bytes:
        return values.uint(value, self._bits, field).to_bytes(32, "big")


class _FixedBytes(_Atom):
    def __init__(self, size: int) -> None:
        super().__init__(f"bytes{size}")
        self._size = size

    def encode(self, value: object, field: str) -> bytes:
        return values.fixed_bytes(value, self._size, field).ljust(32, b"\0")


class _Address(_Atom):
    def encode(self, value: object, field: str) -> bytes:
        return bytes(12) + values.address(value, field)


class _Bool(_Atom):
    def encode(self, value: object, field: str) -> bytes:
        if type(value) is not bool:
            raise SigningInputError(f"must be true or false, not {values.kind_of(value)}", field=field)
        return int(value).to_bytes(32, "big")


class _Bytes(_Atom):
    def encode(self, value: object, field: str) -> bytes:
        return keccak(values.any_bytes(value, field))


class _String(_Atom):
    def encode(self, value: object, field: str) -> bytes:
        return keccak(values.text(value, field).encode())


ADDRESS = _Address("address")
BOOL = _Bool("bool")
BYTES = _Bytes("bytes")
STRING = _String("string")
BYTES4 = _FixedBytes(4)
BYTES12 = _FixedBytes(12)
BYTES32 = _FixedBytes(32)
UINT64 = _Uint(64)
UINT128 = _Uint(128)
UINT256 = _Uint(256)


class Array:
    """``T[]``: the hash of the concatenated words of its items."""

    def __init__(self, item: EipType) -> None:
        self.item = item
        self.type_name = f"{item.type_name}[]"
        self.structs = item.structs

    def encode(self, value: object, field: str) -> bytes:
        """The array's word.

        Raises:
            SigningInputError: not a list or tuple, or an item does not fit.
        """
        return keccak(b"".join(self.words(value, field)))

    def words(self, value: object, field: str) -> list[bytes]:
        """The items' words.

        Raises:
            SigningInputError: not a list or tuple, or an item does not fit.
        """
        if not isinstance(value, list | tuple):
            raise SigningInputError(f"must be a list, not {values.kind_of(value)}", field=field)
        items: Sequence[object] = value
        return [self.item.encode(item, f"{field}[{index}]") for index, item in enumerate(items)]


class Struct:
    """A struct type.

    Attributes:
        type_name: its name.
        members: (name, type) in signed order.
        encode_type: ``Name(type member,…)`` followed by the referred structs in alphabetical order.
        type_hash: keccak-256 of ``encode_type``.
    """

    def __init__(self, type_name: str, *members: tuple[str, EipType]) -> None:
        self.type_name = type_name
        self.members = members
        own = f"{type_name}({','.join(f'{kind.type_name} {name}' for name, kind in members)})"
        referred = frozenset[Struct]().union(*(kind.structs for _, kind in members))
        self._own = own
        self.structs = referred | {self}
        self.encode_type = own + "".join(
            struct._own  # noqa: SLF001 - another instance of this class
            for struct in sorted(referred, key=lambda struct: struct.type_name)
        )
        self.type_hash = keccak(self.encode_type.encode())

    def encode(self, value: object, field: str) -> bytes:
        """``hashStruct`` of the members in order.

        Raises:
            SigningInputError: not a tuple of as many values as members, or a member does not fit.
        """
        if not isinstance(value, tuple):
            raise SigningInputError(f"must be a {self.type_name}, not {values.kind_of(value)}", field=field)
        members: tuple[object, ...] = value
        if len(members) != len(self.members):
            raise SigningInputError(
                f"must have the {len(self.members)} members of {self.type_name}, not {len(members)}",
                field=field,
            )
        prefix = f"{field}." if field else ""
        words = [
            kind.encode(member, prefix + name)
            for (name, kind), member in zip(self.members, members, strict=True)
        ]
        return keccak(self.type_hash + b"".join(words))


@lru_cache(maxsize=256, typed=True)
def domain_separator(
    name: str, version: str | None = None, chain_id: int | None = None, verifying_contract: str | None = None
) -> bytes:
    """``hashStruct`` of the ``EIP712Domain`` with exactly the fields that are given.

    Raises:
        SigningInputError: ``chain_id`` is no uint256, or ``verifying_contract`` no lower-case address.
    """
    members: list[tuple[str, EipType]] = [("name", STRING)]
    given: list[object] = [name]
    for field, kind, value in (
        ("version", STRING, version),
        ("chainId", UINT256, chain_id),
        ("verifyingContract", ADDRESS, verifying_contract),
    ):
        if value is not None:
            members.append((field, kind))
            given.append(value)
    return Struct("EIP712Domain", *members).encode(tuple(given), "domain")


def typed_data_digest(separator: bytes, struct_hash: bytes) -> bytes:
    """``keccak(0x1901 ‖ domainSeparator ‖ hashStruct(message))``.

    Raises:
        SigningInputError: one of them is not 32 bytes.
    """
    return keccak(
        b"\x19\x01"
        + values.fixed_bytes(separator, 32, "domainSeparator")
        + values.fixed_bytes(struct_hash, 32, "structHash")
    )
