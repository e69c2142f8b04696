"""What must not be in a log: keys, credentials, signatures and request bodies are masked in every field and text.

Two kinds of rules work together. *Names*: what stands in a field, mapping key or header called ``private_key``,
``x-api-key``, ``signature``, … is masked whatever it is. *Shapes*: in all text (messages of libraries, tracebacks,
URLs) tokens, 32-byte values, long hex, passwords and keys in URLs are masked unless their name says that they are
harmless (``tx_hash``, ``permission_id``). Secrets that are known beforehand are masked by their exact text.

It errs on the side of masking: a hash without a name is masked as well.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

MASK = "[masked]"

_MAX_DEPTH = 6
_MAX_UINT256 = 2**256 - 1  # "unlimited" as an allowance; no secret
_WIDE = 2**200
_SHORTEST_SECRET = 6  # masking shorter texts wherever they occur would garble the log
# the lengths of the shortest texts that _SCHEME, _HEX and _DECIMAL_KEY below match
_SHORTEST_SCHEME = len("Basic ") + 8
_HEX_KEY = 64
_SHORTEST_DECIMAL = 70

_SECRET_PARTS = (
    "privatekey",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "mnemonic",
    "apikey",
    "vaulttoken",
    "clienttoken",
    "accesstoken",
    "authtoken",
    "roottoken",
    "unsealkey",
    "jwtkey",
    "authorization",
    "credential",
    "cookie",
    "signature",
)
"""A name that holds one of these, letters and digits only, in lower case, names something to be masked."""

_SECRET_NAMES = frozenset(
    {"sig", "sigs", "signed", "seed", "pin", "jwt", "body", "content", "payload", "enabledata"}
)
"""Masked when they are the whole name."""

_JWK_SECRETS = ("d", "p", "q", "dp", "dq", "qi", "k")
"""The private members of a JWK (RFC 7518, section 6)."""

_BODY_ENDINGS = ("body", "payload")

_HARMLESS_ENDINGS = (
    "hash",
    "hashes",
    "digest",
    "id",
    "ids",
    "salt",
    "root",
    "nonce",
    "topic",
    "topics",
    "tx",
    "txs",
    "transaction",
    "block",
    "amount",
    "limit",
)
"""A 32-byte value under a name that ends like this is public: it stays readable."""

# ---------------------------------------------------------------------- shapes in text

_NAME_IN_TEXT = (
    r"(?:[\w-]*(?:private[_-]?key|secret|passw(?:or)?d|passphrase|mnemonic|api[_-]?key|vault[_-]?token|client[_-]?token"
    r"|access[_-]?token|auth[_-]?token|root[_-]?token|unseal[_-]?key|jwt[_-]?key|authorization|cookie|signatures?)[\w-]*|seed|jwt|sig)"
)
_QUOTED = r"""b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'"""
_NAMED_QUOTED = re.compile(rf"""(?i)(\b{_NAME_IN_TEXT}["']?\s*[:=,]\s*)(?:{_QUOTED})""")
_NAMED_ASSIGNED = re.compile(rf"(?i)(\b{_NAME_IN_TEXT}=)[^\s,;&)}}\]\"']+")
# "keystore_passphrase: is not set" is a sentence: after a colon only what does not look like a word is masked
_NAMED_COLON = re.compile(rf"""(?i)(\b{_NAME_IN_TEXT}["']?:\s*)(?=[^\s,;)}}\]"']*\d)[^\s,;)}}\]"']{{8,}}""")
_SCHEME = re.compile(r"(?i)\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_TOKEN = re.compile(r"\bhv[sbr]\.[A-Za-z0-9_-]{8,}|\bs\.[A-Za-z0-9]{24}\b|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#'\"<>]*@")
_URL = re.compile(r"(?i)\b(?:https?|wss?)://[^\s'\"<>,)\]}]+")
_REQUEST_LINE = re.compile(r"\b(?:GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS|LIST) (/\S*)")
_QUERY = re.compile(r"([?&][\w.\-\[\]]+=)([^&\s#]*)")
_SEGMENT = re.compile(r"(?<=/)[A-Za-z0-9_\-]{16,}(?=[/?#]|$)")
_BYTES = re.compile(r"""\bb(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_HEX = re.compile(r"(?<![0-9a-zA-Z])(?:0[xX])?([0-9a-fA-F]{64,})(?![0-9a-zA-Z])")
_ONE_HASH = re.compile(r"(?:0x)?[0-9a-fA-F]{64}")
_BASE64_KEY = re.compile(r"(?<![\w+/=])[A-Za-z0-9+/]{43}=(?!=)")
_DECIMAL_KEY = re.compile(r"(?<![\w.])\d{70,}(?![\w.])")
_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HARMLESS_LABEL = re.compile(
    r"(?i)(?:hash(?:es)?|digest|ids?|salt|root|nonce|topics?|txs?|transaction|block)"
    r"""["'\]]?\s*(?:[:=]|\bis\b|\bof\b)?\s*(?:HexBytes\()?[(\["'<]*$"""
)
_LABEL_REACH = 48


def text_secrets(values: Iterable[str]) -> frozenset[str]:
    """The texts to look for, given secrets as they are configured.

    Of JSON (a key as a JWK) these are the members that only a private key has, too. Of a URL these are password, query values and long path segments (where providers put their keys); every text also
    in its percent-encoded form. Texts of less than 6 characters are left out.
    """
    found: set[str] = set()
    for value in values:
        if value.lstrip().startswith("{"):
            found |= {value} | _json_secrets(value)
        else:
            found |= _url_secrets(value) if "://" in value else {value}
    found |= {quote(text, safe="") for text in found}
    return frozenset(text for text in found if len(text) >= _SHORTEST_SECRET)


def _json_secrets(text: str) -> set[str]:
    try:
        members = json.loads(text)
    except ValueError:
        return set()
    return {members[name] for name in _JWK_SECRETS if isinstance(members.get(name), str)}


def _url_secrets(url: str) -> set[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url}
    found = {segment for segment in parts.path.split("/") if _looks_like_a_key(segment)}
    found |= {value for _, value in parse_qsl(parts.query)}
    userinfo = parts.netloc.rpartition("@")[0]
    if userinfo:
        password = userinfo.partition(":")[2] or userinfo
        found |= {password, unquote(password)}
    return found


def _looks_like_a_key(segment: str) -> bool:
    """16 characters or more with letters and digits (or both cases) in them, and neither an address nor a UUID."""
    if len(segment) < 16 or _ADDRESS.fullmatch(segment) or _UUID.fullmatch(segment):
        return False
    has_digit = any(character.isdigit() for character in segment)
    has_letter = any(character.isalpha() for character in segment)
    mixed = any(map(str.isupper, segment)) and any(map(str.islower, segment))
    return has_letter and (has_digit or mixed)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@lru_cache(maxsize=2_048)
def names_a_secret(name: str) -> bool:
    """Whether whatever stands under ``name`` is masked."""
    plain = _plain(name)
    return (
        plain in _SECRET_NAMES
        or plain.endswith(_BODY_ENDINGS)
        or any(part in plain for part in _SECRET_PARTS)
    )


class Redactor:
    """A structlog processor that masks what must not be logged; see the module.

    Args:
        secrets: exact texts that are masked wherever they occur, from ``text_secrets``.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        ordered = sorted(secrets, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __repr__(self) -> str:
        return "<Redactor>"

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Mask every field of an event; ``event`` itself and ``exception`` are texts."""
        del logger, method
        for name in list(event):
            event[name] = self.value(event[name], name)
        return event

    def value(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """``value`` as it may be logged under ``name``: plain JSON types, with what is secret masked."""
        if value is None or isinstance(value, bool | float):
            return value
        if name and names_a_secret(name):
            return MASK
        if isinstance(value, str):
            return self._named_text(value, name)
        if isinstance(value, int):
            return (
                value if abs(value) < _WIDE or value == _MAX_UINT256 or _is_harmless(name) else "[32 bytes]"
            )
        if isinstance(value, bytes | bytearray | memoryview):
            size = len(bytes(value))
            return f"0x{bytes(value).hex()}" if size == 32 and _is_harmless(name) else f"[{size} bytes]"
        if depth >= _MAX_DEPTH:
            return self._of_object(value)
        if isinstance(value, Mapping):
            items = cast(Mapping[Any, Any], value).items()
            return {self.text(str(key)): self.value(item, str(key), depth + 1) for key, item in items}
        if isinstance(value, list | tuple | set | frozenset):
            return self._sequence(cast(Iterable[Any], value), name, depth)
        return self._of_object(value)

    def _of_object(self, value: Any) -> str:
        try:
            shown = repr(value)
        except Exception as error:  # noqa: BLE001 - a log line must come out whatever an object does
            shown = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
        return self.text(shown)

    def _sequence(self, value: Iterable[Any], name: str, depth: int) -> list[Any]:
        items = list(value)
        # a header as a pair: its first member is the name of its second
        if len(items) == 2 and isinstance(items[0], str | bytes):
            first = items[0].decode("latin-1") if isinstance(items[0], bytes) else items[0]
            if names_a_secret(first):
                return [first, MASK]
        return [self.value(item, name, depth + 1) for item in items]

    def _named_text(self, value: str, name: str) -> str:
        if _is_harmless(name) and _ONE_HASH.fullmatch(value):
            return value
        return self.text(value)

    def text(self, text: str) -> str:
        """``text`` with everything masked that has the shape of a secret, or is a known one."""
        if len(text) < _SHORTEST_SECRET:
            return text
        if self._known is not None:
            text = self._known.sub(MASK, text)
        if "://" in text:
            text = _USERINFO.sub(rf"\1{MASK}@", text)
            text = _URL.sub(_mask_url, text)
        if "/" in text:
            text = _REQUEST_LINE.sub(_mask_url, text)
        # a search costs more than asking for a character or a length without which its pattern cannot match
        if '"' in text or "'" in text:
            text = _NAMED_QUOTED.sub(rf"\1{MASK}", text)
        if "=" in text:
            text = _NAMED_ASSIGNED.sub(rf"\1{MASK}", text)
        if ":" in text:
            text = _NAMED_COLON.sub(rf"\1{MASK}", text)
        if len(text) >= _SHORTEST_SCHEME:
            text = _SCHEME.sub(rf"\1 {MASK}", text)
        if "." in text:
            text = _TOKEN.sub(MASK, text)
        if "\\x" in text:
            text = _BYTES.sub(_mask_bytes, text)
        if len(text) >= _HEX_KEY:
            text = _HEX.sub(_mask_hex, text)
        if "=" in text:
            text = _BASE64_KEY.sub("[32 bytes]", text)
        return _DECIMAL_KEY.sub(_mask_decimal, text) if len(text) >= _SHORTEST_DECIMAL else text


@lru_cache(maxsize=2_048)
def _is_harmless(name: str) -> bool:
    return _plain(name).endswith(_HARMLESS_ENDINGS)


def _mask_url(match: re.Match[str]) -> str:
    shown = _QUERY.sub(_mask_query, match[0])
    path, mark, rest = shown.partition("?")
    return _SEGMENT.sub(_mask_segment, path) + mark + rest


def _mask_segment(match: re.Match[str]) -> str:
    return MASK if _looks_like_a_key(match[0]) else match[0]


def _mask_query(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    bare = name[1:-1]
    if names_a_secret(bare) or _plain(bare) in ("key", "token", "auth", "access") or _looks_like_a_key(value):
        return f"{name}{MASK}"
    return match[0]


def _mask_bytes(match: re.Match[str]) -> str:
    try:
        value: Any = ast.literal_eval(match[0])
    except (ValueError, SyntaxError):
        return MASK
    return match[0] if len(value) < 16 else f"[{len(value)} bytes]"


def _mask_hex(match: re.Match[str]) -> str:
    digits = match[1]
    before = match.string[max(0, match.start() - _LABEL_REACH) : match.start()]
    if len(digits) == 64 and _HARMLESS_LABEL.search(before):
        return match[0]
    return f"[{len(digits) // 2} bytes]"


def _mask_decimal(match: re.Match[str]) -> str:
    return match[0] if int(match[0]) == _MAX_UINT256 else "[32 bytes]"
