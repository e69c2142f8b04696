"""Kill switches as an operator uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import PREFIX, Run
from tests.support.sessions import ACCOUNT

pytestmark = pytest.mark.services


@pytest.fixture
def strategies(session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A strategies file that is set, with one strategy named dca."""
    file = tmp_path / "strategies.toml"
    file.write_text(
        f'[[strategies]]\nname = "dca"\nkind = "recurring-transfer"\nsession = "{session}"\ncron = "0 0 * * *"\n'
        f'to = "0x{"5e" * 20}"\namount = "1 USDC"\n'
    )
    monkeypatch.setenv(PREFIX + "STRATEGIES_FILE", str(file))
    return file


def test_pause_is_listed_shown_by_doctor_and_taken_back(command: Run, session: str) -> None:
    del session  # registered, so that its account is known
    code, out, err = command("pause", "--account", ACCOUNT, "--why", "the keys may be stolen")
    assert (code, out, err) == (0, f"account {ACCOUNT} is paused\n", "")
    assert command("pause", "--all", "--why", "drill")[0] == 0
    listed = json.loads(command("paused", "--json")[1])
    assert [(entry["kind"], entry["name"], entry["why"]) for entry in listed] == [
        ("account", ACCOUNT, "the keys may be stolen"),
        ("all", "", "drill"),
    ]
    assert "@" in listed[0]["who"]
    assert "the keys may be stolen" in command("paused")[1]
    found = {finding["what"]: finding for finding in json.loads(command("doctor", "--json")[1])}
    assert found["kill switches"]["status"] == "warn"
    assert "everything is paused: drill" in found["kill switches"]["detail"]
    code, out, err = command("resume", "--all")
    assert (code, out) == (0, "everything goes on\n")
    assert err == f"still paused: account {ACCOUNT}\n"
    assert command("resume", "--account", ACCOUNT)[2] == ""
    assert command("resume", "--account", ACCOUNT)[1] == f"account {ACCOUNT} was not paused\n"
    assert "nothing is paused" in command("paused")[1]
    found = {finding["what"]: finding for finding in json.loads(command("doctor", "--json")[1])}
    assert found["kill switches"]["status"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (("--chain", "8453"), False),
        (("--chain", "1"), True),
        (("--account", "0x" + "12" * 20), True),
        (("--strategy", "dca"), False),
        (("--strategy", "dcaa"), True),
        (("--all",), False),
    ],
)
def test_a_switch_for_nothing_here_is_set_with_a_warning(
    command: Run, strategies: Path, arguments: tuple[str, ...], warned: bool
) -> None:
    assert strategies.exists()
    code, _, err = command("pause", *arguments, "--why", "test")
    assert code == 0
    assert ("warning: nothing here belongs to" in err) is warned
    assert len(json.loads(command("paused", "--json")[1])) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--why", "x"), "one of --account, --chain, --strategy and --all must be given"),
        (("--all", "--chain", "1", "--why", "x"), "--chain, --all: are too much at once"),
        (("--chain", "base", "--why", "x"), "chain: 'base' is no chain id"),
        (("--account", "0x12", "--why", "x"), "account: must be an address"),
        (("--all", "--why", ""), "why: is empty"),
        (("--all",), "--why"),
    ],
)
def test_a_wrong_command_line_pauses_nothing(command: Run, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = command("pause", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert json.loads(command("paused", "--json")[1]) == []
