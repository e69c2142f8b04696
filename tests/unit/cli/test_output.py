"""Tables and lines: nothing folded in a pipe, nothing of others' text obeyed."""

from __future__ import annotations

import json

import pytest

from worker.cli.output import print_json, print_table, utc


class TestTable:
    """A table for people that a pipe can read, too."""

    def test_a_pipe_gets_each_row_on_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        cell = "x" * 300
        print_table(("a", "b"), [(cell, "y")], empty="")
        assert any(cell in line and "y" in line for line in capsys.readouterr().out.splitlines())

    def test_brackets_are_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table(("a",), [("[red]not red[/] [/nope] \\[x]",)], empty="")
        assert "[red]not red[/] [/nope] \\[x]" in capsys.readouterr().out

    def test_control_characters_are_blanks_but_lines_stay_lines(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        print_table(("a",), [("one\x1b[31m\r\ntwo\u202e",)], empty="")
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert [line for line in out.splitlines() if "one" in line] != [
            line for line in out.splitlines() if "two" in line
        ]

    def test_without_rows_it_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table(("a",), [], empty="no intents")
        assert capsys.readouterr().out == "no intents\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"amount": str(2**256 - 1), "note": "ä\n" + "x" * 200}
    print_json(value)
    assert json.loads(capsys.readouterr().out) == value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01 00:00:00 UTC"), (2**64, f"unix second {2**64}"), (10**400, f"unix second {10**400}")],
)
def test_utc(seconds: int, text: str) -> None:
    assert utc(seconds) == text
