"""A 429 slows everybody who shares the key: other intents, other processes, quotes and submits; and each form of its wait.

On a clock of the tests' own, with an orchestrator that counts what it is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import pytest
from pydantic import SecretStr

from config.settings import Settings
from tests.support.http_stub import Answer, Stub, http_stub
from worker.execution.retry import SPREAD_MS
from worker.execution.runtime import Runtime
from worker.execution.submit import submit
from worker.execution.watch import tick
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.brake import DOUBTFUL_MS, LONGEST_MS, SharedBrake
from worker.ledger.connection import connect
from worker.orchestrator.errors import HeldBackError, RateLimitedError
from worker.policies.base import Execution

pytestmark = pytest.mark.services
START_MS = 1_900_000_000_000
PENDING = Answer(200, {"status": "PENDING", "claims": [], "destinationChainId": 8453, "userAddress": "0x"})


class Clock:
    """Moves when told."""

    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


def process(redis_url: str, url: str, clock: Clock) -> Runtime:
    """One process of several on the same ledger."""
    settings = Settings(  # pyright: ignore[reportCallIssue]
        _env_file=None,  # pyright: ignore[reportCallIssue]
        redis_url=SecretStr(redis_url),
        orchestrator_url=url,
    )
    return Runtime(settings, dispatch=lambda stage, intent_id: None, clock=clock)


def sent(runtime: Runtime, key: str, *states: State, **fields: str) -> str:
    """An intent in the last of ``states``, due now."""
    intent = TradeIntent("ses_0123456789abcdef", key, (Execution("0x" + "11" * 20, 0, b""),))
    intent_id = runtime.ledger.enqueue(intent, now_ms=START_MS, due_ms=START_MS).record.intent_id
    before = State.QUEUED
    for state in states:
        runtime.ledger.transition(
            intent_id,
            fence=0,
            from_state=before,
            to_state=state,
            who="test",
            why="test",
            now_ms=START_MS,
            due_ms=START_MS,
            fields={
                "orchestrator_id": f"12{key}",
                "quote_expires_s": "2000000000",
                "watch_from_ms": str(START_MS),
                "body": "{}",
                **fields,
            },
        )
        before = state
    return intent_id


SUBMITTED = (State.AUTHORIZED, State.SIGNED, State.SUBMITTED)


@contextmanager
def limiting(header: str | None, status: int = 429) -> Generator[tuple[Stub, Callable[[], int]]]:
    """An orchestrator that refuses its first request and then reports PENDING; how often it was asked."""

    def answer(_: Any) -> Answer:
        if len(stubs[0].seen) > 1:
            return PENDING
        return Answer(status, {"errors": []}, {} if header is None else {"Retry-After": header})

    stubs: list[Stub] = []
    with http_stub(answer) as stub:
        stubs.append(stub)
        yield stub, lambda: len(stub.seen)


@pytest.mark.parametrize("status", [429, 503])
def test_everybody_waits(redis_url: str, status: int) -> None:
    with limiting("3", status) as (stub, asked):
        clock = Clock()
        first, second = (process(redis_url, stub.url, clock) for _ in range(2))
        sent(first, "1", *SUBMITTED)
        tick(first)
        assert asked() == 1
        others = [sent(first, key, *SUBMITTED) for key in ("2", "3")]
        waits = sent(second, "4", State.AUTHORIZED, State.SIGNED)
        for runtime in (first, second):
            with pytest.raises(HeldBackError, match="held back for"):
                runtime.orchestrator.quote({})
        tick(second)
        submit(second, waits)
        assert asked() == 1  # not one of them left
        record = second.ledger.get(waits)
        assert record.state is State.SIGNED
        assert record.fields.get("sent", "") == ""  # so it may still be quoted anew
        clock.ms += 2_999
        assert tick(second) == 0  # nobody looks before the wait is over
        clock.ms += 2_001
        tick(second)
        assert asked() == 1 + 1 + len(others)
        submit(second, waits)
        assert len([seen for seen in stub.seen if seen.method == "POST"]) == 1


def test_who_is_held_back_has_tried_nothing(redis_url: str) -> None:
    """However often: it comes again when the wait is over, not after a longer and longer one, and never gives up for it."""
    with limiting(None) as (stub, asked):
        clock = Clock()
        runtime = process(redis_url, stub.url, clock)
        waits = sent(runtime, "1", State.AUTHORIZED, State.SIGNED)
        other = sent(runtime, "2")
        for _ in range(runtime.settings.max_attempts + 2):
            runtime.brake.hold(3_000)
            submit(runtime, waits)
            record = runtime.ledger.get(waits)
            assert (record.attempts, record.fields.get("sent", "")) == (0, "")
            assert "held back for" in record.reason
            clock.ms += 3_000 + SPREAD_MS
            # due by then, wherever it stands
            due = runtime.ledger.take_due(now_ms=clock.ms, push_back_ms=60_000, limit=10)
            assert waits in {record.intent_id for record in due}
        assert asked() == 0
        submit(runtime, waits)
        record = runtime.ledger.get(waits)
        assert (record.attempts, record.fields["sent"]) == (1, "refused")
        assert runtime.ledger.get(other).attempts == 0


def test_a_wait_does_not_end_sooner_because_of_a_shorter_one(redis_url: str) -> None:
    clock = Clock()
    client = connect(redis_url, timeout_ms=2_000)
    first, second = SharedBrake(lambda: client, clock), SharedBrake(lambda: client, clock)
    first.hold(30_000)
    first.hold(1_000)
    assert first.wait_ms() == 30_000
    assert second.wait_ms() == 30_000
    clock.ms += 30_000
    assert (first.wait_ms(), second.wait_ms()) == (0, 0)


def test_a_day_holds_up_its_own_request_and_the_others_for_a_moment(redis_url: str) -> None:
    with limiting("86400") as (stub, asked):
        clock = Clock()
        runtime = process(redis_url, stub.url, clock)
        own = sent(runtime, "1", *SUBMITTED)
        tick(runtime)
        sent(runtime, "2", *SUBMITTED)
        clock.ms += DOUBTFUL_MS
        assert tick(runtime) == 1
        assert asked() == 2
        assert runtime.ledger.get(own).attention == "RATE_LIMITED"


def test_a_clock_that_is_ahead_stops_nobody_for_long(redis_url: str) -> None:
    ahead, here = Clock(), Clock()
    ahead.ms += 3_600_000
    client = connect(redis_url, timeout_ms=2_000)
    SharedBrake(lambda: client, ahead).hold(5_000)
    assert SharedBrake(lambda: client, here).wait_ms() == LONGEST_MS
    assert 0 < client.pttl("sx:orchestrator:until") <= LONGEST_MS  # and after that it is gone


def test_without_redis_nobody_waits_for_ever_or_fails() -> None:
    brake = SharedBrake(lambda: connect("redis://127.0.0.1:9/0", timeout_ms=200), Clock())
    assert brake.wait_ms() == 0
    brake.hold(1_000)
    assert brake.wait_ms() == 1_000


@pytest.mark.parametrize(
    ("form", "wait_ms"),
    [
        ("3", 3_000),
        ("2.5", 2_500),
        ("date", 3_000),
        ("past", 500),  # what asks for nothing, or cannot be read, leaves the current delay, as in the SDK
        ("0", 500),
        ("-5", 500),
        ("abc", 500),
        ("", 500),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 500),
        ("999999", 3_600_000),  # an hour at most; then it is asked again
        ("99999999999999999999", 3_600_000),
        (None, 2_000),
    ],
)
def test_each_form_of_the_header_leads_to_its_wait(redis_url: str, form: str | None, wait_ms: int) -> None:
    header = {"date": formatdate(time.time() + 3, usegmt=True), "past": formatdate(1, usegmt=True)}
    with limiting(header.get(form or "", form)) as (stub, asked):
        clock = Clock()
        runtime = process(redis_url, stub.url, clock)
        sent(runtime, "1", *SUBMITTED)
        tick(runtime)
        # a date has whole seconds, and is read against the real clock
        unsure_ms = 1_500 if form == "date" else 0
        clock.ms += wait_ms - 1 - unsure_ms
        assert (tick(runtime), asked()) == (0, 1)
        clock.ms += 1 + 2 * unsure_ms
        assert (tick(runtime), asked()) == (1, 2)


def test_the_error_tells_that_nothing_was_sent(redis_url: str) -> None:
    with limiting("3") as (stub, asked):
        runtime = process(redis_url, stub.url, Clock())
        with pytest.raises(RateLimitedError) as first:
            runtime.orchestrator.status("1")
        assert not isinstance(first.value, HeldBackError)
        with pytest.raises(HeldBackError) as second:
            runtime.orchestrator.status("1")
        assert second.value.retry_after_ms == 3_000
        assert asked() == 1
