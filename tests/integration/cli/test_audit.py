"""``session-executor audit`` and ``ledger seal``, as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from tests.support.cli import Run
from worker.ledger import keys

pytestmark = pytest.mark.services
RECIPIENT = "0x" + "5e" * 20


def submit(command: Run, session: str, key: str) -> str:
    code, out, err = command(
        "intents",
        "submit",
        "--session",
        session,
        "--to",
        RECIPIENT,
        "--amount",
        "1 USDC",
        "--key",
        key,
        "--json",
    )
    assert code == 0, err
    return str(json.loads(out)["intent_id"])


def test_the_trail_is_shown_and_verified_and_an_edit_found(
    command: Run, session: str, tmp_path: Path
) -> None:
    intent_id = submit(command, session, "a")
    submit(command, session, "b")
    code, out, _ = command("audit", "show", "--intent", intent_id, "--json")
    assert code == 0
    assert [(line["event"], line["who"], line["key"]) for line in json.loads(out)] == [
        ("enqueued", "cli", "a")
    ]
    code, out, err = command("audit", "verify")
    assert (code, err) == (0, "")
    assert out.startswith("whole: 4 lines")
    file = tmp_path / "state" / "audit.jsonl"
    good = file.read_text()
    file.write_text("".join(good.splitlines(keepends=True)[:3]))
    code, _, err = command("audit", "verify")
    assert code == 1
    assert "its end was cut off" in err
    file.write_text(good.replace('"who":"cli"', '"who":"api"', 1))
    code, _, err = command("audit", "verify", "--json")
    assert code == 1
    assert "line 3 was edited" in err


def test_what_has_no_seal_is_shown_and_sealed(command: Run, session: str, redis_url: str) -> None:
    intent_id = submit(command, session, "a")
    with redis.Redis.from_url(redis_url) as client:
        client.hdel(keys.intent(intent_id), "f:seal")
        client.hdel(keys.of_session(session[4:], "session"), "seal")
    code, _, err = command("sessions", "show", session)
    assert code == 1
    assert "it has no seal" in err
    code, out, err = command("ledger", "seal", "--yes", "--json")
    assert code == 0
    assert set(json.loads(out)["sealed"]) == {session, intent_id}
    assert "it has no seal" in err
    code, out, _ = command("ledger", "seal")
    assert (code, out) == (0, "everything is sealed\n")
    assert command("sessions", "show", session)[0] == 0


def test_the_keys_of_the_seals_are_changed(command: Run, session: str) -> None:
    first = json.loads(command("ledger", "keys", "list", "--json")[1])["current"]
    code, out, _ = command("ledger", "keys", "rotate")
    assert code == 0
    second = out.strip()
    assert json.loads(command("ledger", "keys", "list", "--json")[1]) == {
        "current": second,
        "ids": sorted([first, second]),
    }
    assert command("sessions", "show", session)[0] == 0
    assert command("ledger", "seal", "--all", "--yes")[0] == 0
    assert command("ledger", "keys", "forget", first)[0] == 0
    assert command("sessions", "show", session)[0] == 0
    code, _, err = command("ledger", "keys", "forget", second)
    assert code == 1
    assert "rotate first" in err
