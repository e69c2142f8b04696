"""Real beats and workers that die: each slot of each strategy is fired once or listed as missed, never both nor neither."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import redis

from tests.support.e2e import Trader, run_command
from tests.support.pipeline import RECIPIENT
from worker.devnet.stack import Child, Stack
from worker.execution.dispatch import celery_app
from worker.intents.states import State

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
EVERY_S = 2


class Scheduled:
    """A worker, and strategies that were added at run time: a transfer of one base unit every two seconds each."""

    def __init__(self, stack: Stack, redis_url: str) -> None:
        self.stack = stack
        self.redis_url = redis_url
        self.trader = Trader(stack)
        self.session = self.trader.import_session(stack.keys.create().address)

    def command(self, *arguments: str, stdin: str = "") -> str:
        reply = run_command(self.stack.environment, self.stack.directory, *arguments, stdin=stdin)
        assert reply.returncode == 0, reply.stderr
        return reply.stdout

    def add(self, *names: str, **fields: str) -> None:
        written = {
            "kind": '"recurring-transfer"',
            "session": f'"{self.session.session_id}"',
            "every": f'"{EVERY_S}s"',
            "to": f'"{RECIPIENT}"',
            "amount": '"0.000001 USDC"',
        } | fields
        tables = (
            f'[[strategies]]\nname = "{name}"\n'
            + "".join(f"{key} = {value}\n" for key, value in written.items())
            for name in names
        )
        self.command("strategies", "add", "-", stdin="\n".join(tables))

    def fired(self, name: str) -> list[int]:
        """Slots with an intent, oldest first; none has two."""
        prefix = f"strategy:{name}:"
        keys = [
            record.intent.idempotency_key
            for record in self.trader.runtime.ledger.list_intents(limit=10_000)
            if record.intent.source == f"strategy:{name}"
        ]
        slots = sorted(int(key.removeprefix(prefix)) for key in keys)
        assert len(set(slots)) == len(slots)
        return slots

    def missed(self, name: str) -> list[int]:
        """Slots that are listed as missed, oldest first; none is listed twice."""
        slots = sorted(entry.slot_s for entry in self.trader.runtime.strategies.missed(name, limit=10_000))
        assert len(set(slots)) == len(slots)
        return slots

    def every_slot_once(self, name: str) -> None:
        """Between its first fire and its last, each slot is in exactly one of the two lists."""
        fired, missed = self.fired(name), self.missed(name)
        assert not set(fired) & set(missed), name
        slots = sorted((*fired, *(slot for slot in missed if slot < fired[-1])))
        assert {after - before for before, after in pairwise(slots)} <= {EVERY_S}, (name, slots)

    def wait_for_fires(self, name: str, *, after_s: float, more: int = 2) -> None:
        self.trader.wait_until(lambda: len([s for s in self.fired(name) if s > after_s]) >= more)


def taken(beat: Child) -> int:
    """How often it has taken the scheduler's lock."""
    return beat.log().count("Acquired lock")


@pytest.fixture
def scheduled(make_stack: Callable[..., Stack], redis_url: str) -> Scheduled:
    return Scheduled(make_stack(), redis_url)


def test_beats_die_and_lose_their_lock_and_no_slot_is_lost_or_doubled(scheduled: Scheduled) -> None:
    # what nobody has switched on, a message of another program, is set aside meanwhile
    app = celery_app(scheduled.stack.settings)
    app.send_task("tasks.enqueue", kwargs={"session": scheduled.session.session_id}, queue="prepare")
    first = scheduled.stack.start_beat()
    first.wait_for("Acquired lock")
    second = Child("beat-2", first.command, scheduled.stack.environment, scheduled.stack.directory)
    try:
        # whatever the machine does meanwhile, a slot may be made up for within ten minutes
        scheduled.add("all", catch_up='"all"', max_lateness_s="600")
        scheduled.wait_for_fires("all", after_s=0)
        # the lock is deleted under its holder: one of the two takes it again
        before = {beat: taken(beat) for beat in (first, second)}
        with redis.Redis.from_url(scheduled.redis_url) as client:
            assert client.delete("sx:redbeat::lock") == 1
        deleted_s = time.time()
        scheduled.trader.wait_until(lambda: any(taken(beat) > before[beat] for beat in before))
        scheduled.wait_for_fires("all", after_s=deleted_s)
        assert first.running()
        assert second.running()
        # the leader dies: the other one takes over once the lock has run out
        leader = next(beat for beat in before if taken(beat) > before[beat])
        other = second if leader is first else first
        held = taken(other)
        leader.kill()
        killed_s = time.time()
        scheduled.trader.wait_until(lambda: taken(other) > held)
        scheduled.wait_for_fires("all", after_s=killed_s)
        scheduled.every_slot_once("all")
        assert scheduled.missed("all") == []
        assert "ACCEPT_CELERY_REQUESTS" in scheduled.command("poison", "--kind", "refused-request")
    finally:
        second.stop()


def test_two_beats_and_two_sweeps_execute_twenty_slots_twenty_times(
    make_stack: Callable[..., Stack], redis_url: str
) -> None:
    names, each = ("one", "two", "three", "four"), 5
    slots = len(names) * each
    # the sweeps are fast: what is still being done is sent again, by either of the two
    hasty = {"tick_ms": "100", "stuck_after_ms": "300"}
    scheduled = Scheduled(make_stack(workers=2, settings=hasty), redis_url)
    stack, trader = scheduled.stack, scheduled.trader
    before = stack.devnet.usdc_balance(RECIPIENT)
    first = stack.start_beat()
    first.wait_for("Acquired lock")
    second = Child("beat-2", first.command, stack.environment, stack.directory)
    app = celery_app(stack.settings)
    client = redis.Redis.from_url(redis_url)
    lost = time.monotonic()

    def disturbed(done: Callable[[], bool]) -> Callable[[], bool]:
        """Meanwhile the lock goes from one beat to the other, and every wake-up comes as from two that both hold it."""

        def look() -> bool:
            nonlocal lost
            for _ in range(2):
                app.send_task("tasks.wake_strategies", queue="prepare", expires=10)
            if time.monotonic() - lost > 1:
                lost = time.monotonic()
                client.delete("sx:redbeat::lock")
            return done()

        return look

    try:
        scheduled.add(*names, catch_up='"all"', max_lateness_s="600", max_executions=str(each))
        trader.wait_until(
            disturbed(lambda: all(len(scheduled.fired(name)) == each for name in names)), timeout_s=240
        )
        ids = [record.intent_id for record in trader.runtime.ledger.list_intents(limit=1_000)]
        records = trader.wait(ids, timeout_s=240)
        # further slots come, and beats and sweeps go on
        ends = time.monotonic() + 5
        trader.wait_until(disturbed(lambda: time.monotonic() > ends))
        trader.wait_until(lambda: taken(first) >= 1 and taken(second) >= 1)
    finally:
        second.stop()
    assert [record.state for record in records] == [State.COMPLETED] * slots
    assert len(trader.runtime.ledger.list_intents(limit=1_000)) == slots
    assert trader.executed() == slots
    assert stack.devnet.usdc_balance(RECIPIENT) - before == slots
    assert trader.budget(scheduled.session) == (slots, 0)
    for name in names:
        scheduled.every_slot_once(name)
        assert scheduled.missed(name) == []


def test_no_beat_for_three_slots_and_no_worker_for_ten(scheduled: Scheduled) -> None:
    stack = scheduled.stack
    names = ("none", "one", "all")
    beat = stack.start_beat()
    beat.wait_for("Acquired lock")
    for name in names:
        scheduled.add(name, catch_up=f'"{name}"', max_lateness_s="600")
    scheduled.add("late", catch_up='"all"', max_lateness_s="4")
    for name in (*names, "late"):
        scheduled.wait_for_fires(name, after_s=0, more=1)

    beat.kill()
    off_s = time.time()
    time.sleep(3 * EVERY_S + 1)
    stack.start_beat().wait_for("Acquired lock")
    on_s = time.time()
    for name in names:
        scheduled.wait_for_fires(name, after_s=on_s)
        scheduled.every_slot_once(name)
    passed = [slot for slot in scheduled.fired("all") if off_s < slot <= on_s]
    assert len(passed) >= 3
    assert scheduled.missed("all") == []
    # three slots and more went by: of them the newest at most is made up for, or none but the one that was on time
    for name in ("none", "one"):
        assert len(set(passed) & set(scheduled.fired(name))) <= 2
        assert len(set(passed) & set(scheduled.missed(name))) >= len(passed) - 2
    assert set(scheduled.missed("one")) <= set(scheduled.missed("none"))

    worker = stack.workers[0]
    worker.kill()
    off_s = time.time()
    time.sleep(10 * EVERY_S)
    stack.start_worker().wait_for("ready.")
    on_s = time.time()
    scheduled.wait_for_fires("late", after_s=on_s)
    scheduled.every_slot_once("late")
    gone = [slot for slot in scheduled.missed("late") if off_s < slot <= on_s - 4 - EVERY_S]
    assert len(gone) >= 6
    assert all(
        "s late, allowed are 4 s" in row.why for row in scheduled.trader.runtime.strategies.missed("late")
    )
    # the same outage costs those nothing that may be late
    scheduled.wait_for_fires("all", after_s=on_s)
    scheduled.every_slot_once("all")
    assert scheduled.missed("all") == []

    # a pause and a removal reach what is queued already
    stack.workers[-1].kill()
    open_before = [r.intent_id for r in scheduled.trader.runtime.ledger.list_intents(states=(State.QUEUED,))]
    scheduled.command("strategies", "pause", "all", "--why", "a test")
    scheduled.command("strategies", "remove", "one")
    left = [
        record
        for record in scheduled.trader.runtime.ledger.list_intents(states=(State.QUEUED, State.AUTHORIZED))
        if record.intent.source in ("strategy:all", "strategy:one")
    ]
    assert left == [], open_before
