"""What operators change is in the audit trail: who asked, before and after, and what came of it; also what was refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from eth_utils.crypto import keccak

from tests.support.cli import PREFIX, Run, submit
from worker.audit import os_user
from worker.keys.secp256k1 import address_of
from worker.ledger import keys as names

pytestmark = pytest.mark.services
KEY = keccak(b"session-executor test key of the changes")


def changes(command: Run, *filters: str) -> list[dict[str, Any]]:
    """The lines of the changes, oldest first, of a trail that is whole."""
    code, out, err = command("audit", "verify")
    assert (code, err) == (0, "")
    assert out.startswith("whole")
    found: list[dict[str, Any]] = json.loads(
        command("audit", "show", "--event", "change", "--json", *filters)[1]
    )
    assert all(line["who"] == line["by"] == os_user() for line in found)
    return found


def told(command: Run, *filters: str) -> list[tuple[str, str]]:
    return [(line["what"], line["outcome"]) for line in changes(command, *filters)]


def test_sessions_and_switches(command: Run, session: str) -> None:
    assert command("sessions", "guardrails", session, "--set", 'per_day="5 USDC"')[0] == 0
    assert command("sessions", "pause", session)[0] == 0
    assert command("sessions", "resume", session)[0] == 0
    assert command("pause", "--all", "--why", "drill")[0] == 0
    assert command("resume", "--all")[0] == 0
    made, imported, guardrails, stopped, resumed, paused, went_on = changes(command)
    assert (made["what"], made["outcome"]) == ("key created", "done")
    assert (imported["what"], imported["session_id"]) == ("session imported", session)
    assert imported["keys"] == [made["key"]]
    assert (imported["before"], len(imported["after"])) == ("not registered", 64)
    assert (guardrails["what"], guardrails["before"]) == ("guardrails changed", "")
    assert "5000000" in guardrails["after"]
    assert (stopped["what"], stopped["before"], stopped["after"]) == (
        "session paused",
        "not paused",
        "paused",
    )
    assert (resumed["what"], resumed["before"]) == ("session resumed", "paused")
    assert (paused["what"], paused["switch"], paused["why"]) == ("paused", "everything", "drill")
    assert "drill" in went_on["before"]
    assert {line["session_id"] for line in changes(command, "--session", session)} == {session}
    assert told(command, "--what", "resumed") == [("resumed", "done")]
    assert len(changes(command, "--who", os_user().partition("@")[0])) == 7
    assert changes(command, "--who", "nobody") == []


def test_intents_and_what_was_refused(command: Run, session: str) -> None:
    assert command("sessions", "guardrails", session, "--set", 'approval_above="5 USDC"')[0] == 0
    intent_id = submit(command, session)[1].strip()
    assert command("intents", "approve", intent_id)[0] == 1
    assert command("intents", "replay", intent_id)[0] == 2
    assert command("intents", "cancel", intent_id, "--why", "no")[0] == 0
    assert command("intents", "cancel", intent_id)[0] == 1
    found = changes(command, "--intent", intent_id)
    assert [(line["what"], line["outcome"]) for line in found] == [
        ("intent approved", "refused"),
        ("intent replayed", "refused"),
        ("intent canceled", "done"),
        ("intent canceled", "refused"),
    ]
    assert (found[2]["before"], found[2]["after"], found[2]["why"]) == ("QUEUED", "CANCELED", "no")
    assert "cannot be canceled any more" in found[3]["error"]
    assert {line["session_id"] for line in found} == {session}


def test_keys(command: Run, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.StringIO(KEY.hex()))
        command("keys", "import")
    assert command("keys", "rotate", key, "--out", str(tmp_path))[0] == 0
    assert command("keys", "destroy", address_of(KEY), "--yes")[0] == 0
    found = changes(command)
    assert [(line["what"], line["outcome"]) for line in found] == [
        ("key created", "done"),
        ("key imported", "done"),
        ("key imported", "refused"),
        ("next key created", "done"),
        ("key destroyed", "done"),
    ]
    assert found[3]["replaces"] == key.lower()
    assert found[4]["key"] == address_of(KEY)
    assert KEY.hex() not in (tmp_path / "state" / "audit.jsonl").read_text()


def test_strategies_and_books(command: Run, session: str, tmp_path: Path, redis_url: str) -> None:
    file = tmp_path / "added.toml"
    file.write_text(
        f'[[strategies]]\nname = "dca"\nkind = "recurring-transfer"\nsession = "{session}"\ncron = "0 0 * * *"\n'
        f'to = "0x{"5e" * 20}"\namount = "1 USDC"\n'
    )
    assert command("strategies", "add", str(file))[0] == 0
    file.write_text(file.read_text().replace("1 USDC", "2 USDC"))
    assert command("strategies", "add", str(file), "--replace")[0] == 0
    assert command("strategies", "pause", "dca", "--why", "drill")[0] == 0
    assert command("strategies", "remove", "dca")[0] == 0
    assert command("ledger", "keys", "rotate")[0] == 0
    with redis.Redis.from_url(redis_url) as client:
        client.hdel(names.of_session(session[4:], "session"), "seal")
    assert command("ledger", "seal", "--yes")[0] == 0
    assert command("ledger", "confirm", "--why", "looked")[0] == 2
    found = {line["what"]: line for line in changes(command)}
    assert "1 USDC" in found["strategy added"]["after"]
    assert "1 USDC" in found["strategy replaced"]["before"]
    assert "2 USDC" in found["strategy replaced"]["after"]
    assert found["paused"]["switch"] == "strategy dca"
    assert "2 USDC" in found["strategy removed"]["before"]
    assert found["record key added"]["after"]
    assert (found["sealed"]["number"], found["sealed"]["after"]) == (1, session)
    assert (found["ledger confirmed"]["outcome"], found["ledger confirmed"]["why"]) == ("refused", "looked")


def test_without_a_trail_only_stops_are_possible(command: Run, session: str, tmp_path: Path) -> None:
    trail = tmp_path / "state" / "audit.jsonl"
    trail.rename(tmp_path / "away")
    trail.mkdir()
    assert command("sessions", "pause", session)[0] == 0
    for refused in (
        ("sessions", "resume", session),
        ("resume", "--all"),
        ("keys", "create"),
        ("sessions", "guardrails", session, "--set", 'per_day="5 USDC"'),
    ):
        code, _, err = command(*refused)
        assert code == 1
        assert "SESSION_EXECUTOR_AUDIT_FILE" in err
    shown = json.loads(command("sessions", "show", session, "--json")[1])
    assert (shown["paused"], shown["guardrails"]) == (True, {})


def test_lines_are_copied_to_a_stream(
    command: Run, session: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + "AUDIT_STREAM", "audit-lines")
    assert command("sessions", "pause", session)[0] == 0
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        copied: Any = client.xrange("audit-lines")
    assert [fields["line"] for _, fields in copied] == [
        (tmp_path / "state" / "audit.jsonl").read_text().splitlines()[-1]
    ]
