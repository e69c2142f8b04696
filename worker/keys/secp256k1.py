"""What both key stores do alike: check what the caller gives, generate a key, parse a stored one, derive its address."""

from __future__ import annotations

import re
import secrets
from typing import Any

from coincurve import PublicKey
from eth_utils.address import is_checksum_address
from eth_utils.crypto import keccak

from worker.keys.errors import KeyAddressError, KeyLabelError
from worker.keys.port import SecretKey

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The order of secp256k1 (SEC 2, section 2.4.1): a private key is in 1 .. ORDER - 1."""

_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}")
_KEY = re.compile(r"(?:0[xX])?[0-9a-fA-F]{64}")


def parse_address(value: str, *, field: str = "address") -> str:
    """Lower-case ``0x`` address of ``value``.

    All-lower and all-upper digits are taken as they are; mixed case must carry the right EIP-55 checksum.

    Raises:
        KeyAddressError: not 20 bytes of hex, or a wrong checksum.
    """
    if not _ADDRESS.fullmatch(value):
        # The text is not repeated: someone may have pasted a private key here.
        raise KeyAddressError("is not an address", field=field, fix="give 0x and 40 hex digits")
    digits = value[2:]
    if digits in (digits.lower(), digits.upper()):
        return f"0x{digits.lower()}"
    if not is_checksum_address(f"0x{digits}"):
        raise KeyAddressError(
            f"the checksum of {value} is wrong",
            field=field,
            fix="check the digits, or write them in lower case",
        )
    return f"0x{digits.lower()}"


def checked_label(value: str) -> str:
    """``value``, if both stores can keep it: printable, at most 512 bytes (a limit of Vault's custom metadata).

    Raises:
        KeyLabelError: it is longer, or would break a terminal or a log line.
    """
    if len(value.encode(errors="replace")) > 512:
        raise KeyLabelError("is longer than 512 bytes", field="label", fix="shorten it")
    if not value.isprintable():
        raise KeyLabelError("holds characters that cannot be printed", field="label", fix="use plain text")
    return value


def address_of(key: bytes) -> str:
    """The lower-case address of a valid 32-byte private key (Yellow Paper, appendix F, equation 284)."""
    public = PublicKey.from_valid_secret(key).format(compressed=False)
    return f"0x{keccak(public[1:])[12:].hex()}"


def generate() -> SecretKey:
    """A new key from the operating system's generator, uniform in 1 .. ORDER - 1."""
    value = (secrets.randbelow(ORDER - 1) + 1).to_bytes(32, "big")
    return SecretKey(value, address_of(value))


def secret_from_bytes(value: bytes) -> SecretKey | str:
    """The key, or the reason (without content) why the bytes are none."""
    if len(value) != 32:
        return f"holds {len(value)} bytes where a private key has 32"
    if not 0 < int.from_bytes(value, "big") < ORDER:
        return "holds a number that is no secp256k1 private key (zero, or not below the curve's order)"
    return SecretKey(value, address_of(value))


def secret_from_text(value: Any) -> SecretKey | str:
    """The key of 64 hex digits with or without ``0x``, or the reason (without content) why the text is none.

    It returns the reason instead of raising: an exception raised here would keep this frame, and with it the
    stored text, alive in its traceback.
    """
    if not isinstance(value, str):
        return f"holds a {type(value).__name__} where a string of 64 hex digits is needed"
    if not _KEY.fullmatch(value):
        if _KEY.fullmatch(value.strip()):
            return "has white space around the 64 hex digits"
        return f"has {len(value)} characters that are not 64 hex digits (0x before them is allowed)"
    return secret_from_bytes(bytes.fromhex(value[-64:]))
