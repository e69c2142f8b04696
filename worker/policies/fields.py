"""Field types shared by the models: exact integers, addresses and byte strings.

They are strict about their input and say what to do about it: an integer is a decimal string or a JSON number
that a double holds exactly, an address is lower-case, upper-case or has the right EIP-55 checksum. A float, a
bool, a sign, an exponent or a blank is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from eth_utils.address import is_checksum_address
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that a JSON number carries exactly through JavaScript (Number.MAX_SAFE_INTEGER)."""

ZERO_ADDRESS = "0x" + "00" * 20

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)
_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}", re.ASCII)
_WORD = re.compile(r"0x[0-9a-fA-F]{1,64}", re.ASCII)


class UnsafeJsonInteger(str):
    """The text of a JSON number beyond ``MAX_SAFE_INTEGER``: whoever wrote it may have lost digits already."""

    __slots__ = ()


def parse_uint(value: Any, bits: int) -> int:
    """An unsigned integer of ``bits`` bits, exactly.

    Args:
        value: a decimal string without sign, blanks or leading zeros, or an int.
        bits: width of the field.

    Raises:
        ValueError: anything else, or out of range.
    """
    if isinstance(value, UnsafeJsonInteger):
        raise ValueError(
            f"the number {value[:80]} is beyond 2^53, where JSON loses digits; write it in quotes"
        )
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"must be a whole number as a decimal string, not {_kind(value)}")
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise ValueError("must be a whole number in decimal digits only, such as '1000000'")
        value = int(value)
    if value < 0:
        raise ValueError("must not be negative")
    if value >> bits:
        raise ValueError(f"does not fit {bits} bits")
    return value


def parse_address(value: Any) -> str:
    """An address, as lower-case 0x hex.

    Raises:
        ValueError: not 20 bytes of hex, or mixed case with a wrong EIP-55 checksum.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be an address in quotes, not {_kind(value)}")
    if not _ADDRESS.fullmatch(value):
        raise ValueError("must be an address: 0x and 40 hex digits")
    digits = value[2:]
    if digits not in {digits.lower(), digits.upper()} and not is_checksum_address("0x" + digits):
        raise ValueError("has a wrong EIP-55 checksum: copy it again, or write it in lower case")
    return "0x" + digits.lower()


def parse_bytes(value: Any) -> bytes:
    """A byte string from 0x hex (or bytes).

    Raises:
        ValueError: not 0x and an even number of hex digits.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be 0x hex in quotes, not {_kind(value)}")
    if not _HEX.fullmatch(value):
        raise ValueError("must be 0x and an even number of hex digits")
    return bytes.fromhex(value[2:])


def parse_selector(value: Any) -> bytes:
    """A function selector of 4 bytes.

    Raises:
        ValueError: not exactly 4 bytes of 0x hex.
    """
    selector = parse_bytes(value)
    if len(selector) != 4:
        raise ValueError("must be a selector of 4 bytes, such as '0xa9059cbb'")
    return selector


def parse_word(value: Any) -> int:
    """A 32-byte word from 0x hex (padded on the left, as SDK 1.15 does) or an integer.

    Raises:
        ValueError: longer than 32 bytes, or no number at all.
    """
    if isinstance(value, str) and value[:2] == "0x":
        if not _WORD.fullmatch(value):
            raise ValueError("must be 0x and at most 64 hex digits")
        return int(value, 16)
    return parse_uint(value, 256)


def hex_bytes(value: bytes) -> str:
    """Lower-case 0x hex."""
    return "0x" + value.hex()


def hex_word(value: int) -> str:
    """A 32-byte word as 0x and 64 hex digits."""
    return f"0x{value:064x}"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, float):
        return "a float"
    return {"list": "a list", "dict": "an object"}.get(type(value).__name__, "a number")


def _uint(bits: int) -> tuple[BeforeValidator, PlainSerializer, WithJsonSchema]:
    return (
        BeforeValidator(lambda value: parse_uint(value, bits)),
        PlainSerializer(str, return_type=str, when_used="json"),
        WithJsonSchema(
            {
                "description": f"uint{bits}: a decimal string, or a number up to 2^53-1",
                "anyOf": [
                    {"type": "string", "pattern": "^(0|[1-9][0-9]{0,77})$"},
                    {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER},
                ],
            }
        ),
    )


def _parse_milliseconds(value: Any) -> int:
    milliseconds = parse_uint(value, 256)
    if milliseconds > MAX_SAFE_INTEGER:
        raise ValueError("is too large for milliseconds since 1970; is it in microseconds or nanoseconds?")
    return milliseconds


Uint64 = Annotated[int, *_uint(64)]
Uint128 = Annotated[int, *_uint(128)]
Uint256 = Annotated[int, *_uint(256)]

Milliseconds = Annotated[
    int,
    BeforeValidator(_parse_milliseconds),
    WithJsonSchema(
        {
            "description": "Milliseconds since 1970-01-01 UTC",
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER},
                {"type": "string", "pattern": "^(0|[1-9][0-9]{0,15})$"},
            ],
        }
    ),
]
"""Milliseconds since the epoch, as the SDK's JSON has them."""

Address = Annotated[
    str,
    BeforeValidator(parse_address),
    WithJsonSchema({"type": "string", "pattern": "^0[xX][0-9a-fA-F]{40}$", "description": "Address"}),
]
"""Lower-case 0x hex inside the program."""

HexBytes = Annotated[
    bytes,
    BeforeValidator(parse_bytes),
    PlainSerializer(hex_bytes, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^0x([0-9a-fA-F]{2})*$", "description": "Byte string"}),
]

Selector = Annotated[
    bytes,
    BeforeValidator(parse_selector),
    PlainSerializer(hex_bytes, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^0x[0-9a-fA-F]{8}$", "description": "Function selector"}),
]

Word = Annotated[
    int,
    BeforeValidator(parse_word),
    PlainSerializer(hex_word, return_type=str, when_used="json"),
    WithJsonSchema(
        {
            "description": "A 32-byte word: 0x hex (padded on the left) or a decimal string",
            "anyOf": [
                {"type": "string", "pattern": "^(0x[0-9a-fA-F]{1,64}|0|[1-9][0-9]{0,77})$"},
                {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER},
            ],
        }
    ),
]
