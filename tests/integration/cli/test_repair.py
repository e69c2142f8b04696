"""Operators end or replay by hand what the pipeline has let go of."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.cli import Run, submit
from worker.audit import os_user
from worker.intents.states import State
from worker.ledger.redis_ledger import RedisLedger


@pytest.fixture
def ledger(redis_url: str) -> RedisLedger:
    return RedisLedger(redis_url)


def walk(ledger: RedisLedger, intent: str, *states: State, **fields: str) -> None:
    """Take a record through states as the pipeline would."""
    for state in states:
        record = ledger.get(intent)
        now_ms = time.time_ns() // 1_000_000
        ledger.transition(
            intent,
            fence=record.fence,
            from_state=record.state,
            to_state=state,
            who="test",
            why="test",
            now_ms=now_ms,
            due_ms=now_ms + 600_000,
            fields=fields,
        )


def test_replay(command: Run, session: str, ledger: RedisLedger) -> None:
    intent = submit(command, session)[1].strip()
    code, _, err = command("intents", "replay", intent)
    assert code == 2
    assert "is QUEUED" in err
    walk(ledger, intent, State.DEAD)
    assert command("intents", "replay", intent, "--why", "Vault is back")[1].split() == [intent, "QUEUED"]
    history = json.loads(command("intents", "show", intent, "--json")[1])["history"]
    assert (history[-1]["to"], history[-1]["who"], history[-1]["why"]) == (
        "QUEUED",
        os_user(),
        "Vault is back",
    )


def test_dead_ones_are_listed_and_dropped(command: Run, session: str, ledger: RedisLedger) -> None:
    intent = submit(command, session)[1].strip()
    assert command("intents", "drop", intent)[0] == 2
    walk(ledger, intent, State.DEAD, attention="QUARANTINED")
    assert [
        row["intent_id"] for row in json.loads(command("intents", "list", "--state", "DEAD", "--json")[1])
    ]
    code, out, _ = command("status", "--json")
    assert (code, json.loads(out)["attention"]) == (1, {"QUARANTINED": 1})
    assert command("intents", "drop", intent, "--why", "never mind")[1].split() == [intent, "CANCELED"]
    shown = json.loads(command("intents", "show", intent, "--json")[1])
    assert (shown["attention"], shown["reason"]) == ("", "never mind")
    assert (shown["history"][-1]["from"], shown["history"][-1]["to"]) == ("DEAD", "CANCELED")
    assert json.loads(command("status", "--json")[1])["attention"] == {}
    code, _, err = command("intents", "replay", intent)
    assert code == 2
    assert "is CANCELED" in err


def test_settle_and_what_attention_means(command: Run, session: str, ledger: RedisLedger) -> None:
    intent = submit(command, session)[1].strip()
    walk(ledger, intent, State.AUTHORIZED, State.SIGNED, State.SUBMITTED, attention="NOT_FOUND")
    shown = command("intents", "show", intent)[1]
    assert "does not know it any more" in shown
    assert "intents settle ID" in shown
    assert "!NOT_FOUND" in command("intents", "list")[1]
    assert command("intents", "settle", intent, "--as", "COMPLETED")[0] == 2  # why is required
    code, out, _ = command(
        "intents", "settle", intent, "--as", "COMPLETED", "--why", "seen on chain", "--json"
    )
    assert (code, json.loads(out)["state"]) == (0, "COMPLETED")
