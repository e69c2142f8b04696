"""``intents submit --file``: every line has its result, and a file may be run as often as one likes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Run
from tests.support.pipeline import RECIPIENT
from tests.support.sessions import ACCOUNT, USDC

#: A bad line, and what its result names: cells of ``to,amount,token,key,not_after,sponsored,calls``.
BAD = {
    "0x1234,1 USDC,,,,,": ("to", "must be an address"),
    f"{RECIPIENT},1O USDC,,,,,": ("amount", "is no amount"),
    f"{RECIPIENT},-1 USDC,,,,,": ("amount", "is no amount"),
    f"{RECIPIENT},0 USDC,,,,,": ("amount", "is zero"),
    f"{RECIPIENT},0.0000001 USDC,,,,,": ("amount", "more than the 6 decimals"),
    f"{RECIPIENT},1 USDX,,,,,": ("amount", "is not known"),
    f"{RECIPIENT},1e3,USDC,,,,": ("amount", "is no amount"),
    f'{RECIPIENT},"1,000",USDC,,,,': ("amount", "is no amount"),
    f"{RECIPIENT},=1+1,USDC,,,,": ("amount", "is no amount"),
    f"{RECIPIENT},1,usdc,,,,": ("token", "did you mean USDC"),
    f"{RECIPIENT},1 USDC,USDC,,,,": ("amount", "names a token"),
    f"{ACCOUNT},1 USDC,,,,,": ("to", "is the paying account itself"),
    f"{USDC},1 USDC,,,,,": ("to", "is the USDC contract itself"),
    f"{RECIPIENT},,,,,,": ("amount", "is missing"),
    ",1 USDC,,,,,": ("to", "is missing"),
    f"{RECIPIENT},1 USDC,,,tomorrow,,": ("not_after", "is no time with a zone"),
    f"{RECIPIENT},1 USDC,,,1600000000,,": ("not_after", "is in the past"),
    f"{RECIPIENT},1 USDC,,,,yes,": ("sponsored", "is neither true nor false"),
    f"{RECIPIENT},1 USDC,,{'k' * 201},,,": ("key", "use 1 to 200"),
    f"{RECIPIENT},1 USDC": ("line", "has 2 cells for 7 columns"),
}
HEADER = "to,amount,token,key,not_after,sponsored,calls"

Submit = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def submit_file(command: Run, session: str, tmp_path: Path) -> Submit:
    """Write a file and run it: (exit code, JSON, standard error)."""

    def run(content: str, *more: str, name: str = "payroll.csv") -> tuple[int, Any, str]:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        code, out, err = command(
            "intents", "submit", "--file", str(path), "--session", session, "--json", *more
        )
        return code, json.loads(out) if out else None, err

    return run


def queued(command: Run) -> int:
    return len(json.loads(command("intents", "list", "--limit", "10000", "--json")[1]))


def test_of_500_lines_with_20_bad_ones_480_are_queued_and_a_rerun_adds_none(
    submit_file: Submit, command: Run
) -> None:
    lines = [HEADER] + [f"{RECIPIENT},{number + 1} USDC,,,,," for number in range(480)]
    expected: dict[int, tuple[str, str]] = {}
    for index, bad in enumerate(BAD):
        lines.insert(1 + 24 * index, bad)
    for number, line in enumerate(lines, 1):
        if line in BAD:
            expected[number] = BAD[line]
    assert (len(lines) - 1, len(expected)) == (500, 20)
    content = "\n".join(lines) + "\n"

    code, found, err = submit_file(content, "--check")
    assert (code, found["sums"]) == (2, {"good": 480, "bad": 20})
    assert queued(command) == 0

    code, found, err = submit_file(content)
    assert (code, found["sums"], err) == (2, {"created": 480, "bad": 20}, "480 queued, 20 bad\n")
    assert [line["line"] for line in found["lines"]] == list(range(2, 502))
    bad = {
        line["line"]: (line["field"], line["reason"]) for line in found["lines"] if line["outcome"] == "bad"
    }
    assert {number: field for number, (field, _) in bad.items()} == {
        number: field for number, (field, _) in expected.items()
    }
    assert all(expected[number][1] in reason for number, (_, reason) in bad.items()), bad
    assert queued(command) == 480

    code, found, err = submit_file(content)
    assert (code, found["sums"], err) == (2, {"there": 480, "bad": 20}, "480 there before, 20 bad\n")
    assert queued(command) == 480

    # one line mended, the others moved: one more
    mended = content.replace(f"{RECIPIENT},1O USDC", f"{RECIPIENT},10.0 USDC")
    code, found, _ = submit_file("\n".join([HEADER, *reversed(mended.split("\n")[1:-1])]))
    assert (code, found["sums"]) == (2, {"there": 480, "created": 1, "bad": 19})
    assert queued(command) == 481


def test_equal_lines_are_as_many_payments_and_what_moves_no_money_makes_none(
    submit_file: Submit, command: Run
) -> None:
    twice = f"to,amount,note\n{RECIPIENT},1 USDC,a\n{RECIPIENT},1 USDC,a\n"
    assert submit_file(twice)[1]["sums"] == {"created": 2}
    # another note, another way to write it: the same payments
    assert submit_file(twice.replace("1 USDC,a", "1.00 USDC,b"))[1]["sums"] == {"there": 2}
    # other terms: the key is taken, and that is said
    code, found, _ = submit_file(twice, "--unsponsored")
    assert (code, found["sums"]) == (2, {"bad": 2})
    assert found["lines"][0]["field"] == "key"
    assert "asks for something else" in found["lines"][0]["reason"]
    # another batch: other payments
    assert submit_file(twice, "--batch", "february")[1]["sums"] == {"created": 2}
    assert submit_file(twice, name="march.csv")[1]["sums"] == {"created": 2}
    assert queued(command) == 6


def test_json_lines(submit_file: Submit, command: Run) -> None:
    lines = (
        f'{{"to": "{RECIPIENT}", "amount": "1 USDC", "key": "a", "urgent": true}}',
        "",
        f'{{"calls": [{{"to": "{RECIPIENT}", "value": "7", "data": "0x"}}], "key": "b", "note": "raw"}}',
        f'{{"to": "{RECIPIENT}", "amount": 1, "token": "USDC", "key": "c"}}',
        f'{{"to": "{RECIPIENT}", "amount": "1 USDC", "key": "a"}}',
        f'{{"to": "{RECIPIENT}", "amout": "1 USDC", "key": "d"}}',
        f'{{"to": "{RECIPIENT}", "to": "{ACCOUNT}", "amount": "1 USDC", "key": "e"}}',
        '{"to": ',
        "[1]",
        "[" * 10_000,
        f'{{"calls": [{{"to": "{RECIPIENT}", "value": 1.5}}], "key": "f"}}',
        f'{{"calls": [{{"to": "{RECIPIENT}", "gas": 1}}], "key": "g"}}',
        f'{{"session": "ses_0000000000000000", "to": "{RECIPIENT}", "amount": "1 USDC", "key": "h"}}',
    )
    code, found, _ = submit_file("\n".join(lines), name="a.jsonl")
    assert code == 2
    outcomes = {line["line"]: (line["outcome"], line["field"]) for line in found["lines"]}
    assert outcomes == {
        1: ("created", ""),
        3: ("created", ""),
        4: ("bad", "amount"),
        5: ("bad", "key"),
        6: ("bad", "amout"),
        7: ("bad", "line"),
        8: ("bad", "line"),
        9: ("bad", "line"),
        10: ("bad", "line"),
        11: ("bad", "calls[0].value"),
        12: ("bad", "calls[0].gas"),
        13: ("bad", "session"),
    }
    assert "is the key of line 1, too" in found["lines"][3]["reason"]
    assert queued(command) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xlsx", "x", "neither .csv nor .jsonl"),
        ("a.csv", "", "holds no line"),
        ("a.csv", "to,amount\n", "holds no line"),
        ("a.csv", f"to,amout\n{RECIPIENT},1 USDC\n", "has a column 'amout'"),
        ("a.csv", f"to,to\n{RECIPIENT},{RECIPIENT}\n", "has two columns 'to'"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_queues_nothing(
    submit_file: Submit, command: Run, name: str, content: str, words: str
) -> None:
    code, found, err = submit_file(content, name=name)
    assert (code, found) == (2, None)
    assert err.startswith("error: --file: ")
    assert words in err
    assert queued(command) == 0


def test_quotes_that_never_close_end_the_file_there(submit_file: Submit, command: Run) -> None:
    code, found, _ = submit_file(f'to,amount\n{RECIPIENT},1 USDC\n{RECIPIENT},"2 USDC\n{RECIPIENT},3 USDC\n')
    assert code == 2
    assert [(line["line"], line["outcome"]) for line in found["lines"]] == [(2, "created"), (3, "bad")]
    assert queued(command) == 1


def test_what_does_not_go_together(command: Run, session: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(f"to,amount\n{RECIPIENT},1 USDC\n")
    at = ("intents", "submit", "--file", str(file), "--session", session)
    for option in ("--to", "--amount", "--token", "--call", "--key", "--note"):
        code, _, err = command(*at, option, "x")
        assert (code, err) == (2, f"error: {option}: cannot go with --file (write it in the file)\n")
    assert command(*at, "--batch", "a b")[0] == 2
    assert command("intents", "submit", "--session", session, "--check")[0] == 2
    assert queued(command) == 0
    code, out, err = command(*at)
    assert (code, err) == (0, "1 queued, 0 bad\n")
    assert out.startswith("line 2 created: int_")
