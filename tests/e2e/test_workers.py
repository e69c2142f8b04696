"""Real Celery workers and beat: never twice, never over a limit, nothing lost, no key anywhere."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from tests.support.e2e import Trader, run_command
from tests.support.leaks import spellings
from tests.support.pipeline import RECIPIENT
from worker.devnet.stack import Stack
from worker.intents.states import State

pytestmark = pytest.mark.services
MakeStack = Callable[..., Stack]


def test_twelve_submits_at_once_against_four_workers_execute_exactly_ten(make_stack: MakeStack) -> None:
    stack = make_stack(workers=4, concurrency=1)
    trader = Trader(stack)
    session = trader.import_session(stack.keys.create().address)
    before = stack.devnet.usdc_balance(RECIPIENT)

    def submit(number: int) -> subprocess.CompletedProcess[str]:
        return run_command(
            stack.environment,
            stack.directory,
            *("intents", "submit", "--session", session.session_id, "--key", f"trade-{number}"),
            *("--to", RECIPIENT, "--amount", "10 USDC", "--json"),
        )

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(submit, range(12)))
    assert [reply.returncode for reply in replies] == [0] * 12, replies
    ids = [record.intent_id for record in trader.runtime.ledger.list_intents(limit=100)]
    assert len(ids) == 12
    states = [record.state for record in trader.wait(ids)]
    assert states.count(State.COMPLETED) == 10
    assert states.count(State.REJECTED) == 2
    assert trader.executed() == 10
    assert stack.devnet.usdc_balance(RECIPIENT) - before == 100_000_000
    assert trader.budget(session) == (100_000_000, 0)


def test_workers_killed_in_the_middle_lose_nothing_and_repeat_nothing(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2, settings={"claim_lease_ms": "3000", "stuck_after_ms": "1000"})
    trader = Trader(stack)
    stack.devnet.set_delays(preconfirm_ms=200, fill_ms=500, complete_ms=800)
    session = trader.import_session(stack.keys.create().address, limit=60_000_000)
    ids = [trader.submit(session, f"trade {number}") for number in range(6)]
    trader.wait_until(lambda: any(record.state is State.SUBMITTED for record in trader.records(ids)), ids)
    for worker in stack.workers:
        worker.kill()
    time.sleep(0.5)
    stack.start_worker()
    assert [record.state for record in trader.wait(ids)] == [State.COMPLETED] * 6
    assert trader.executed() == 6
    assert trader.budget(session) == (60_000_000, 0)


def test_the_private_key_is_nowhere(make_stack: MakeStack, redis_url: str, tmp_path: Path) -> None:
    stack = make_stack(settings={"log_level": "DEBUG"})
    trader = Trader(stack)
    created = run_command(stack.environment, stack.directory, "keys", "create", "--label", "e2e")
    assert created.returncode == 0, created.stderr
    address = created.stdout.strip().lower()
    session = trader.import_session(address)
    with stack.keys.get(address) as held:
        key = held.use()
    passphrase = (stack.directory / "passphrase").read_text()

    ids = [trader.submit(session, "a"), trader.submit(session, "b")]
    trader.wait(ids)
    # a key file that does not decrypt: the worker's error path runs with the key's surroundings in hand
    file = next((stack.directory / "keys").glob("*.json"))
    good = file.read_text()
    file.write_text(good.replace('"mac"', '"mac_"', 1))
    failing = trader.submit(session, "c")
    trader.wait_until(lambda: trader.records([failing])[0].attention == "KEY_STORE", [failing])
    file.write_text(good)
    ids.append(failing)
    trader.wait(ids)
    with redis.Redis.from_url(redis_url) as client:
        client.save()
        folder = Path(str(client.config_get("dir")["dir"]))
    outputs = [
        run_command(stack.environment, stack.directory, *command)
        for command in (
            ("keys", "list", "--json"),
            ("sessions", "show", session.session_id, "--json"),
            ("intents", "list", "--json"),
            ("intents", "show", ids[0], "--json"),
            ("intents", "show", failing),
            ("doctor", "--json"),
        )
    ]
    places = {
        "worker log": "".join(child.log() for child in stack.children).encode(),
        "devnet log": stack.devnet.log_path.read_bytes(),
        "command output": "".join(reply.stdout + reply.stderr for reply in (created, *outputs)).encode(),
        **{f"Redis file {path.name}": path.read_bytes() for path in folder.rglob("*") if path.is_file()},
    }
    assert b"DEBUG" in places["worker log"] or b"debug" in places["worker log"]
    # the append-only file has every command since the start: each task message and each script's argument
    assert any(b"tasks.sign" in content and ids[0].encode() in content for content in places.values())
    for place, content in places.items():
        for spelling in (*spellings(key), passphrase):
            assert spelling.encode() not in content, f"the key or its passphrase is in: {place}"
        assert key not in content


def test_beat_fires_a_strategy_once_per_slot_and_two_beats_are_one(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    strategies = tmp_path / "strategies.toml"
    strategies.write_text("")
    stack = make_stack(settings={"strategies_file": str(strategies)})
    trader = Trader(stack)
    session = trader.import_session(stack.keys.create().address)
    strategies.write_text(
        f"""
        [[strategies]]
        name = "every-minute"
        kind = "recurring-transfer"
        session = "{session.session_id}"
        cron = "* * * * *"
        to = "{RECIPIENT}"
        amount = "1 USDC"
        """
    )
    started = time.time()
    stack.start_beat()
    second = stack.start_beat()
    trader.wait_until(lambda: bool(trader.runtime.ledger.list_intents(limit=10)), timeout_s=75)
    records = trader.wait([record.intent_id for record in trader.runtime.ledger.list_intents(limit=10)])
    assert second.running()
    slots = {record.intent.idempotency_key for record in records}
    assert len(slots) == len(records) <= (time.time() - started) // 60 + 2
    assert all(record.state is State.COMPLETED for record in records)
    assert all(record.intent.source == "strategy:every-minute" for record in records)
    # an operator's hand on the same slot makes no second intent, unless the minute has passed meanwhile
    before = len(trader.runtime.ledger.list_intents(limit=10))
    minute = time.time() // 60
    reply = run_command(stack.environment, stack.directory, "strategies", "run", "every-minute")
    assert reply.returncode == 0, reply.stderr
    if time.time() // 60 == minute:
        assert len(trader.runtime.ledger.list_intents(limit=10)) == before
