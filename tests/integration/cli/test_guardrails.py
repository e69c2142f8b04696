"""``sessions guardrails``, ``intents approve`` and what ``sessions show`` says of them."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Run, write_session
from worker.cli.context import runtime
from worker.execution.prepare import prepare

pytestmark = pytest.mark.services
TO = "0x" + "5e" * 20


def shown(command: Run, session: str) -> dict[str, Any]:
    code, out, _ = command("sessions", "guardrails", session, "--json")
    assert code == 0
    return json.loads(out)["guardrails"].get("session", {})


def test_they_are_set_shown_and_taken_away(command: Run, session: str) -> None:
    assert shown(command, session) == {}
    code, out, err = command(
        "sessions", "guardrails", session[:12], "--set", "per_day=500 USDC, 0.1 ETH", "--set", "cooldown=5m"
    )
    assert (code, err) == (0, "")
    assert "0.1 ETH, 500 USDC" in out
    assert "nothing was counted within a week" in out
    assert shown(command, session) == {"per_day": "0.1 ETH, 500 USDC", "cooldown": "300s"}
    assert command("sessions", "guardrails", session, "--set", "per_trade=100 USDC")[0] == 0
    assert set(shown(command, session)) == {"per_day", "cooldown", "per_trade"}
    code, out, _ = command("sessions", "show", session)
    assert code == 0
    assert "0.1 ETH, 500 USDC" in out
    listed = json.loads(command("sessions", "show", session, "--json")[1])
    assert listed["guardrails"]["session"]["per_trade"] == "100 USDC"


def test_what_lets_more_through_needs_a_word(command: Run, session: str) -> None:
    command("sessions", "guardrails", session, "--set", "per_day=500 USDC", "--set", "max_in_flight=2")
    for change in (("--set", "per_day=501 USDC"), ("--unset", "per_day")):
        code, out, err = command("sessions", "guardrails", session, *change)
        assert (code, out) == (2, "")
        assert err == (
            "error: guardrails: would let more through than before: per_day (add --loosen if that is meant)\n"
        )
    assert shown(command, session)["per_day"] == "500 USDC"
    code, _, err = command("sessions", "guardrails", session, "--unset", "per_day", "--loosen")
    assert (code, err) == (0, "warning: loosened: per_day\n")
    assert shown(command, session) == {"max_in_flight": "2"}


def test_a_file_replaces_them_as_a_whole(command: Run, session: str, tmp_path: Path) -> None:
    command("sessions", "guardrails", session, "--set", "max_in_flight=2")
    path = tmp_path / "held.toml"
    path.write_text('[guardrails]\nmax_in_flight = 1\nper_trade = "10 USDC"\n')
    assert command("sessions", "guardrails", session, "--file", str(path))[0] == 0
    assert shown(command, session) == {"per_trade": "10 USDC", "max_in_flight": "1"}
    path.write_text("max_in_flight = 1\nper_trade = 10\n")
    code, _, err = command("sessions", "guardrails", session, "--file", str(path))
    assert (code, err) == (2, 'error: per_trade: is a int, not text (write e.g. "10 USDC")\n')
    path.write_text("max_in_flight = ")
    code, _, err = command("sessions", "guardrails", session, "--file", str(path))
    assert code == 2
    assert err.startswith("error: --file: is not TOML (")
    assert shown(command, session) == {"per_trade": "10 USDC", "max_in_flight": "1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "per_day=5"), "error: --set.per_day: is a int, not text"),
        (("--set", "per_day"), "error: --set: 'per_day' is no NAME=VALUE"),
        (("--unset", "per_dya"), "error: --unset: 'per_dya' is no guardrail (known: per_trade"),
        (("--unset", "per_day", "--set", "per_day=1 USDC"), "error: --unset: per_day is set, too"),
        (("--file", "x.toml", "--set", "per_day=1 USDC"), "error: --file: replaces all of them"),
        (("--file", "x.toml"), "error: FILE: x.toml cannot be read"),
    ],
)
def test_bad_input_is_one_line(command: Run, session: str, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = command("sessions", "guardrails", session, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(words)
    assert err.count("\n") == 1
    assert shown(command, session) == {}


def test_a_new_session_is_held_from_its_first_moment(command: Run, key: str, tmp_path: Path) -> None:
    held = tmp_path / "held.toml"
    held.write_text('per_trade = "10 USDC"\n')
    path = str(write_session(key, tmp_path / "session.json"))
    code, out, err = command("sessions", "import", path, "--guardrails", str(held))
    assert (code, err) == (0, "")
    session = out.strip()
    assert shown(command, session) == {"per_trade": "10 USDC"}
    held.write_text('per_trade = "20 USDC"\n')
    code, _, err = command("sessions", "import", path, "--guardrails", str(held))
    assert code == 0
    assert err.startswith("warning: the session was registered before and keeps its guardrails")
    assert shown(command, session) == {"per_trade": "10 USDC"}


def test_an_intent_that_waits_is_listed_explained_and_approved(command: Run, session: str) -> None:
    command("sessions", "guardrails", session, "--set", "approval_above=5 USDC")
    arguments = ("--session", session, "--to", TO, "--amount", "6 USDC", "--key", "a")
    intent_id = command("intents", "submit", *arguments)[1].strip()
    assert command("intents", "list", "--awaiting")[1] == "no intents\n"
    code, _, err = command("intents", "approve", intent_id)
    assert (code, err.startswith(f"error: {intent_id}: is QUEUED and waits for no approval")) == (1, True)
    prepare(runtime(), intent_id)
    code, out, _ = command("intents", "list", "--awaiting", "--json")
    assert [entry["intent_id"] for entry in json.loads(out)] == [intent_id]
    out = command("intents", "show", intent_id)[1]
    assert "guardrail approval_above: 5 USDC allowed by session" in out
    assert "intents approve ID" in out
    code, out, err = command("intents", "approve", intent_id, "--why", "called the owner")
    assert (code, err) == (0, "")
    assert out.startswith(f"{intent_id} approved by {getpass.getuser()}@")
    details = json.loads(command("intents", "show", intent_id, "--json")[1])
    assert details["approved_by"].startswith(getpass.getuser() + "@")
    assert details["approved_ms"] > 0
    assert details["attention"] == ""
    assert details["history"][-1]["why"] == "called the owner"
    prepare(runtime(), intent_id)
    assert json.loads(command("intents", "show", intent_id, "--json")[1])["state"] == "AUTHORIZED"
    used = json.loads(command("sessions", "guardrails", session, "--json")[1])["usage"]
    assert [(item["held"], item["week"]) for item in used] == [("6000000", "0")]
