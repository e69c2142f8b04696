"""Numbers keep their text, and floats are printed as JavaScript prints them."""

from __future__ import annotations

import json
import math

import pytest

from worker.devnet.exact_json import dumps, js_number, loads


class TestExactJson:
    """What was read is written as it was."""

    @pytest.mark.parametrize(
        "text",
        ['{"b":1e-7,"a":[1.0,-0,1E5,12345678901234567890123]}', '{"é\\n":[true,false,null,""]}', "[]", "7"],
    )
    def test_compact_text_comes_back_byte_for_byte(self, text: str) -> None:
        assert dumps(loads(text)) == text

    def test_it_is_json(self) -> None:
        value = {"a": [1, "x", None, {"b": True}], "c": 0.5}
        assert json.loads(dumps(value)) == value

    @pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", ""])
    def test_what_is_no_json_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - the decoder's own words
            loads(text)

    def test_another_type_is_refused(self) -> None:
        with pytest.raises(ValueError, match="bytes"):
            dumps({"a": b""})


class TestJsNumber:
    """ECMA-262, Number::toString."""

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1.0, "1"),
            (-0.0, "0"),
            (0.5, "0.5"),
            (-3000.25, "-3000.25"),
            (0.000001, "0.000001"),
            (1.5e-6, "0.0000015"),
            (1e-7, "1e-7"),
            (1.25e-9, "1.25e-9"),
            (123456789012345680000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
        ],
    )
    def test_known_values(self, value: float, text: str) -> None:
        assert js_number(value) == text

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_json_cannot_hold_is_refused(self, value: float) -> None:
        with pytest.raises(ValueError, match="no JSON number"):
            js_number(value)
