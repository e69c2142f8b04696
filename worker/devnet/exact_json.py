"""JSON whose numbers keep their text, so that a seal can cover how they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn


class Number(str):
    """The text of a JSON number, e.g. ``1e-7``. Written without quotes."""

    __slots__ = ()


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def loads(text: str) -> Any:
    """Parse; every number becomes a ``Number``.

    Raises:
        ValueError: not JSON.
    """
    return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=_no_constant)


def dumps(value: object) -> str:
    """JSON text without spaces, keys in their order, as JavaScript's ``JSON.stringify`` writes it.

    Floats are written as ECMA-262's Number::toString does; a ``Number`` as it is.

    Raises:
        ValueError: a float that JSON cannot hold, or a value of another type.
    """
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, float):
        return js_number(value)
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{dumps(str(key))}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(dumps(item) for item in value) + "]"
    raise ValueError(f"{type(value).__name__} is no JSON value")


def js_number(value: float) -> str:
    """A float as JavaScript prints it: 1e-7 (Python: 1e-07), 0.000001 (1e-06), 1e+21, 1 (1.0).

    Raises:
        ValueError: NaN or an infinity.
    """
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{value} is no JSON number")
    if value == 0:
        return "0"
    text = "".join(map(str, digits))
    count, point = len(text), len(text) + exponent
    if count <= point <= 21:
        body = text + "0" * (point - count)
    elif 0 < point <= 21:
        body = f"{text[:point]}.{text[point:]}"
    elif -6 < point <= 0:
        body = "0." + "0" * -point + text
    else:
        mantissa = text if count == 1 else f"{text[0]}.{text[1:]}"
        body = f"{mantissa}e{point - 1:+d}"
    return "-" + body if sign else body
