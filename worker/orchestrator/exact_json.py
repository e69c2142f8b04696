"""JSON that loses nothing: exact numbers, no duplicate keys, and the source text of a member."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from worker.json_depth import check_depth


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_float=Decimal, parse_int=int, parse_constant=_no_constant
)
_SPACE = " \t\r\n"


def loads(text: str) -> Any:
    """Parse with integers exact, fractions as ``Decimal``, duplicate keys, NaN and deep nesting refused.

    Raises:
        ValueError: not such JSON.
    """
    check_depth(text)
    try:
        return _DECODER.decode(text)
    except InvalidOperation:
        raise ValueError("a number's exponent is out of range") from None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def member_text(text: str, name: str) -> str:
    """The source text of one member of the top-level object, byte for byte.

    Needed where a reply's part must go back unchanged because an HMAC covers it, number formatting included.

    Raises:
        ValueError: the text is no JSON object.
        KeyError: it has no such member.
    """
    loads(text)  # duplicate keys would make "the member" ambiguous
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("not a JSON object")
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, start)
        if key == name:
            return text[start:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    raise KeyError(name)


def first_item_text(text: str) -> str:
    """The source text of an array's first item, byte for byte.

    Raises:
        ValueError: the text is no JSON array.
        IndexError: it is empty.
    """
    value = loads(text)
    if not isinstance(value, list):
        raise ValueError("not a JSON array")
    if not value:
        raise IndexError(0)
    start = _skip(text, _skip(text, 0) + 1)
    _, end = _DECODER.raw_decode(text, start)
    return text[start:end]


def with_members(object_text: str, members: dict[str, Any]) -> str:
    """The object's text with members appended, the original bytes untouched.

    Raises:
        ValueError: the text is no object, or it has one of the members already.
    """
    value = loads(object_text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    for name in members:
        if name in value:
            raise ValueError(f"the object has a member {name} already")
    inner = object_text.strip()[1:-1].rstrip()
    added = json.dumps(members, separators=(",", ":"))[1:-1]
    return "{" + inner + ("," if inner.strip() and added else "") + added + "}"
