"""Checks of single values. Each returns the bytes that are hashed or packed, or names the field that is wrong.

They are strict on purpose: ``True`` is not 1, a float is no integer, a checksummed address is not a lower-case
one, and nothing is padded, cut or wrapped around.
"""

from __future__ import annotations

import re

from worker.signing.errors import SigningInputError

_ADDRESS = re.compile(r"0x[0-9a-f]{40}", re.ASCII)


def kind_of(value: object) -> str:
    """Words for a value's type, for error messages; never its content."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def uint(value: object, bits: int, field: str) -> int:
    """``value`` as an unsigned integer of ``bits`` bits.

    Raises:
        SigningInputError: not an ``int`` (a bool is none), negative, or too large.
    """
    if type(value) is not int:
        raise SigningInputError(f"must be an integer, not {kind_of(value)}", field=field)
    if value < 0:
        raise SigningInputError("must not be negative", field=field)
    if value >> bits:
        raise SigningInputError(f"does not fit uint{bits}", field=field)
    return value


def any_bytes(value: object, field: str) -> bytes:
    """``value`` as a byte string of any length.

    Raises:
        SigningInputError: not ``bytes``.
    """
    if type(value) is not bytes:
        raise SigningInputError(f"must be bytes, not {kind_of(value)}", field=field)
    return value


def fixed_bytes(value: object, size: int, field: str) -> bytes:
    """``value`` as exactly ``size`` bytes.

    Raises:
        SigningInputError: not ``bytes``, or another length.
    """
    data = any_bytes(value, field)
    if len(data) != size:
        raise SigningInputError(f"must have {size} bytes, not {len(data)}", field=field)
    return data


def address(value: object, field: str) -> bytes:
    """The 20 bytes of a lower-case 0x address.

    Raises:
        SigningInputError: anything else. Addresses are lower-cased once, where they enter the program.
    """
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise SigningInputError(
            "must be an address" if isinstance(value, str) else f"must be an address, not {kind_of(value)}",
            field=field,
            fix="give 0x and 40 lower-case hex digits",
        )
    return bytes.fromhex(value[2:])


def text(value: object, field: str) -> str:
    """``value`` as text that UTF-8 can hold.

    Raises:
        SigningInputError: not a ``str``, or with a lone surrogate.
    """
    if not isinstance(value, str):
        raise SigningInputError(f"must be text, not {kind_of(value)}", field=field)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SigningInputError("is not text that UTF-8 can hold", field=field) from None
    return value


def signature_list(value: object, field: str) -> bytes:
    """``value`` as one or more 65-byte ECDSA signatures.

    Raises:
        SigningInputError: not ``bytes``, empty, or not a multiple of 65 bytes.
    """
    data = any_bytes(value, field)
    if not data or len(data) % 65:
        raise SigningInputError(
            f"must be one or more signatures of 65 bytes, not {len(data)} bytes", field=field
        )
    return data
