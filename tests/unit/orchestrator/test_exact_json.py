"""JSON that loses nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.json_text import json_object, json_value
from worker.orchestrator.exact_json import loads, member_text, with_members


class TestLoads:
    """Numbers are exact; what is ambiguous is refused."""

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("115792089237316195423570985008687907853269984665640564039457584007913129639935", 2**256 - 1),
            ("9007199254740993", 2**53 + 1),
            ("-0", 0),
            ("1E+2", Decimal("1E+2")),
            ("1.10", Decimal("1.10")),
            ("0.1", Decimal("0.1")),
            ("1e400", Decimal("1e400")),
        ],
    )
    def test_number(self, text: str, value: Any) -> None:
        found = loads(text)
        assert found == value
        assert type(found) is type(value)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            '{"a":1}x',
            '{"a":1,"a":1}',
            '{"a":{"b":1,"\\u0062":2}}',
            "NaN",
            "-Infinity",
            '{"a":Infinity}',
            "01",
            "+1",
            ".5",
            "'a'",
            '{"a":1,}',
            "\ufeff{}",
            "[" * 200_000,
            "[" * 200_000 + "]" * 200_000,
            '{"a":' * 200_000,
            "1E+99999999999999999999999",
            "9" * 5000,
        ],
        ids=lambda text: repr(text[:20]),
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            loads(text)

    @given(st.text(max_size=50))
    def test_any_text_is_a_value_or_a_value_error(self, text: str) -> None:
        try:
            loads(text)
        except ValueError:
            return
        json.loads(text)


class TestMemberText:
    """A member's source text, byte for byte."""

    @pytest.mark.parametrize(
        ("text", "member"),
        [
            ('{"a":1E+2}', "1E+2"),
            ('{"b":[1,2],"a":{ "x" : 1.0 }}', '{ "x" : 1.0 }'),
            (' \n{ "b" : "a" ,\t"a"\r\n:  [ 1 , 2 ]  } ', "[ 1 , 2 ]"),
            ('{"b":{"a":2},"a":3}', "3"),
            ('{"b":"\\"a\\":9,","a":3}', "3"),
            ('{"\\u0061":"\\u00e9é\\/"}', '"\\u00e9é\\/"'),
        ],
    )
    def test_found(self, text: str, member: str) -> None:
        assert member_text(text, "a") == member

    @pytest.mark.parametrize("text", ["{}", '{"b":1}', '{"b":{"a":1}}', '{"b":"a"}', '{"A":1}', "{ }"])
    def test_absent(self, text: str) -> None:
        with pytest.raises(KeyError):
            member_text(text, "a")

    @pytest.mark.parametrize("text", ["[]", '"a"', "1", "null", '{"a":1,"a":2}', '{"a":1'])
    def test_no_object(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            member_text(text, "a")

    @given(st.lists(st.tuples(st.text(max_size=5), json_value()), max_size=6), st.data())
    def test_every_member_of_any_object(self, members: list[tuple[str, str]], data: st.DataObject) -> None:
        unique = dict(members)
        space = st.text(" \t\r\n", max_size=3)
        parts = [
            f"{data.draw(space)}{json.dumps(name, ensure_ascii=data.draw(st.booleans()))}{data.draw(space)}:"
            f"{data.draw(space)}{value}{data.draw(space)}"
            for name, value in unique.items()
        ]
        text = "{" + ",".join(parts) + "}"
        for name, value in unique.items():
            assert member_text(text, name) == value


class TestWithMembers:
    """Members are appended; what was there stays as it was."""

    def test_appended(self) -> None:
        assert with_members('{ "n":1E+2 }', {"s": ["0x"]}) == '{ "n":1E+2,"s":["0x"]}'

    def test_to_an_empty_object(self) -> None:
        assert with_members("{ }", {"s": 1}) == '{"s":1}'
        assert with_members("{}", {}) == "{}"

    def test_nothing(self) -> None:
        assert with_members('{"a":1}', {}) == '{"a":1}'

    @pytest.mark.parametrize("text", ["[]", "1", '{"s":0}', '{"\\u0073":0}', '{"a":1,"a":1}', "{"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            with_members(text, {"s": 1})

    @given(json_object())
    def test_the_rest_is_unchanged(self, text: str) -> None:
        longer = with_members(text, {"destinationSignature": "0x00"})
        assert longer.startswith(text.rstrip()[:-1].rstrip())
        assert loads(longer) == {**loads(text), "destinationSignature": "0x00"}
