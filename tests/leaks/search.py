"""Looks for secrets in bytes, however they may be written there."""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

#: A token that Vault has handed out, ours or another's.
_VAULT_TOKEN = re.compile(rb"hv[sb]\.[A-Za-z0-9_-]{20,}")


@dataclass(frozen=True, slots=True)
class Secret:
    """What is looked for.

    Attributes:
        name: for the report.
        value: 32 bytes of a key, or a text.
        exact: spellings as bytes.
        lower: spellings in lower case, looked for in any case.
    """

    name: str
    value: bytes = field(repr=False)
    exact: frozenset[bytes] = field(repr=False)
    lower: frozenset[bytes] = field(repr=False)

    def is_in(self, content: bytes, lowered: bytes) -> bool:
        """Whether any spelling is in it."""
        return any(form in content for form in self.exact) or any(form in lowered for form in self.lower)


def secret(name: str, value: str | bytes) -> Secret:
    """A secret and its spellings: as it is, hex in any case, base64 of both alphabets at any offset, as Python and JSON write it.

    A key of 32 bytes is looked for as a decimal number, too, and by each of its halves: a rendering may be cut short.
    """
    raw = value.encode() if isinstance(value, str) else value
    assert len(raw) >= 8, f"{name} is too short to be looked for"
    written = repr(raw)[2:-1]
    exact = {raw, written.encode(), *_base64(raw), quote(raw).encode()}
    # inside of JSON, and inside of JSON inside of JSON
    exact |= {written.replace("\\", "\\" * times).encode() for times in (2, 4)}
    lower = {raw.hex().encode()}
    if isinstance(value, bytes):
        listed = ",".join(map(str, raw))
        exact |= {str(int.from_bytes(raw, "big")).encode(), str(int.from_bytes(raw, "little")).encode()}
        exact |= {listed.encode(), listed.replace(",", ", ").encode()}
        lower |= {
            raw[:16].hex().encode(),
            raw[16:].hex().encode(),
            raw.hex(":").encode(),
            raw.hex(" ").encode(),
        }
    return Secret(name, raw, frozenset(exact), frozenset(lower))


def _base64(raw: bytes) -> Iterable[bytes]:
    """What is always there of the base64 of anything that has ``raw`` inside."""
    for offset in range(3):
        first = -(-offset * 8 // 6)
        last = (offset + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(offset) + raw)[first:last]


def spelled(value: bytes) -> dict[str, bytes]:
    """One key in the ways in which it could be written, by a name: for canaries."""
    return {
        "hex": value.hex().encode(),
        "0x and upper case": b"0x" + value.hex().upper().encode(),
        "decimal": str(int.from_bytes(value, "big")).encode(),
        "base64": base64.b64encode(value),
        "base64, url-safe, inside of something": base64.urlsafe_b64encode(b'{"k":"' + value + b'"}'),
        "half of it": b"..." + value.hex()[32:].encode(),
        "repr": repr(value).encode(),
        "JSON": str(list(value)).encode(),
        "raw": value,
    }


def find(places: Mapping[str, bytes], secrets: Iterable[Secret]) -> list[tuple[str, str]]:
    """(place, secret) of each secret that is in a place; what is compressed there is looked into."""
    wanted = tuple(secrets)
    found: list[tuple[str, str]] = []
    for place, content in places.items():
        for each in (content, *_inside(content)):
            lowered = each.lower()
            found += [(place, one.name) for one in wanted if one.is_in(each, lowered)]
            found += [(place, "a token of Vault's") for _ in _VAULT_TOKEN.finditer(each)]
    return found


def _inside(content: bytes) -> Iterable[bytes]:
    if content[:2] == b"\x1f\x8b":
        try:
            yield gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return
