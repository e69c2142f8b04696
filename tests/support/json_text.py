"""Hypothesis strategies of JSON *text*: the same value in every formatting that the grammar allows."""

from __future__ import annotations

import json

from hypothesis import strategies as st

_SPACE = st.text(" \t\r\n", max_size=2)
_INTEGER = st.one_of(
    st.integers(-(2**256), 2**256).map(str), st.sampled_from(["0", "-0", "9007199254740993", "1", "10"])
)
_EXPONENT = st.one_of(
    st.just(""),
    st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 400)),
)
_FRACTION = st.one_of(st.just(""), st.text("0123456789", min_size=1, max_size=20).map(".{}".format))


@st.composite
def json_number(draw: st.DrawFn) -> str:
    """Such as ``1``, ``1.10``, ``1E+2``, ``-0.0e-7``, 2**256-1."""
    return draw(_INTEGER) + draw(_FRACTION) + draw(_EXPONENT)


@st.composite
def json_string(draw: st.DrawFn) -> str:
    """A string literal; each character plain, escaped in short or as a Unicode escape in either case."""
    letters: list[str] = []
    for letter in draw(st.text(max_size=8)):
        form = draw(st.sampled_from(["plain", "escape", "upper"]))
        if letter == "/" and form == "escape":
            letters.append("\\/")
        elif form == "plain":
            letters.append(json.dumps(letter, ensure_ascii=False)[1:-1])
        else:
            units = letter.encode("utf-16-be", "surrogatepass").hex()
            units = units.upper() if form == "upper" else units
            letters += [f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)]
    return '"' + "".join(letters) + '"'


@st.composite
def json_value(draw: st.DrawFn, depth: int = 2) -> str:
    """Any value; no key twice in one object."""
    kind = draw(st.sampled_from(["number", "string", "word"] + (["list", "object"] if depth else [])))
    if kind == "number":
        return draw(json_number())
    if kind == "string":
        return draw(json_string())
    if kind == "word":
        return draw(st.sampled_from(["true", "false", "null"]))
    if kind == "object":
        return draw(json_object(depth=depth - 1))
    items = draw(st.lists(json_value(depth=depth - 1), max_size=4))
    return "[" + ",".join(draw(_SPACE) + item + draw(_SPACE) for item in items) + "]"


@st.composite
def json_object(draw: st.DrawFn, depth: int = 1, *, required: dict[str, str] | None = None) -> str:
    """An object with the ``required`` members (name: text of the value) somewhere among others."""
    names = draw(st.lists(json_string(), max_size=4, unique_by=json.loads))
    members = {
        name: draw(json_value(depth=depth)) for name in names if json.loads(name) not in (required or {})
    }
    members |= {json.dumps(name): text for name, text in (required or {}).items()}
    order = draw(st.permutations(list(members)))
    parts = [f"{draw(_SPACE)}{n}{draw(_SPACE)}:{draw(_SPACE)}{members[n]}{draw(_SPACE)}" for n in order]
    return "{" + ",".join(parts) + "}"
