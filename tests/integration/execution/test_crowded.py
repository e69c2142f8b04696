"""More in flight than can be polled at the SDK's cadence: the old ones wait longer, the young ones and the sweep do not."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest
import redis
from pydantic import SecretStr

from config.settings import Settings
from tests.support.http_stub import Answer, Seen, http_stub
from worker.execution.runtime import Runtime
from worker.execution.watch import CROWDED_MS, PARALLEL, tick
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger import keys
from worker.policies.base import Execution

pytestmark = pytest.mark.services
START_MS = 1_900_000_000_000
PENDING = {"status": "PENDING", "claims": [], "destinationChainId": 8453, "userAddress": "0x"}


class Crowd:
    """One process, an orchestrator that reports PENDING for all, and a clock that moves when told."""

    def __init__(self, redis_url: str, url: str, polled: list[str]) -> None:
        self.ms = START_MS
        self.polled = polled
        settings = Settings(  # pyright: ignore[reportCallIssue]
            _env_file=None,  # pyright: ignore[reportCallIssue]
            redis_url=SecretStr(redis_url),
            orchestrator_url=url,
        )
        self.settings = settings
        self.runtime = Runtime(settings, dispatch=self._dispatch, clock=lambda: self.ms)
        self.sent: list[str] = []

    def _dispatch(self, stage: str, intent_id: str) -> None:
        self.sent.append(stage)

    def add(self, number: int, *, sent_ago_ms: int, due_ms: int = START_MS, urgent: bool = False) -> None:
        ledger = self.runtime.ledger
        for place in range(number):
            key = f"{sent_ago_ms}-{place}{'-urgent' * urgent}"
            calls = (Execution("0x" + "11" * 20, 0, b""),)
            intent = TradeIntent("ses_0123456789abcdef", key, calls, urgent=urgent)
            intent_id = ledger.enqueue(intent, now_ms=self.ms, due_ms=self.ms).record.intent_id
            before = State.QUEUED
            for state in (State.AUTHORIZED, State.SIGNED, State.SUBMITTED):
                ledger.transition(
                    intent_id,
                    fence=0,
                    from_state=before,
                    to_state=state,
                    who="test",
                    why="test",
                    now_ms=self.ms,
                    due_ms=due_ms,
                    fields={
                        "orchestrator_id": key,
                        "quote_expires_s": "2000000000",
                        "watch_from_ms": str(self.ms - sent_ago_ms),
                    },
                )
                before = state

    def delays(self) -> list[int]:
        """How long each open record is left alone from now, shortest first; 0 for what is due."""
        url = self.settings.redis_url.get_secret_value()
        with redis.Redis.from_url(url) as client:
            scores: Any = client.zrange(keys.of_session("0123456789abcdef", "open"), 0, -1, withscores=True)
        return sorted(max(0, int(score) - self.ms) for _, score in scores)


@pytest.fixture
def crowd(redis_url: str) -> Generator[Crowd]:
    polled: list[str] = []

    def answer(seen: Seen) -> Answer:
        polled.append(seen.path.rpartition("/")[2])
        return Answer(200, PENDING)

    with http_stub(answer) as stub:
        yield Crowd(redis_url, stub.url, polled)


def test_the_old_ones_make_room_and_come_back(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.execution.watch.BATCH", 10)  # some fifty intents are a crowd then
    crowd.add(60, sent_ago_ms=20_000)
    assert tick(crowd.runtime) == 10
    assert crowd.runtime.crowded
    waits = [wait for wait in crowd.delays() if wait]
    assert len(waits) == 10
    assert all(CROWDED_MS * 3 // 4 <= wait <= CROWDED_MS for wait in waits)
    # the crowd has gone: each poll halves the wait, down to the SDK's
    while tick(crowd.runtime):
        pass
    assert not crowd.runtime.crowded
    longest: list[int] = []
    for _ in range(8):
        crowd.ms += max(crowd.delays())
        monkeypatch.setattr("worker.execution.watch.BATCH", 1_000)
        assert tick(crowd.runtime)
        longest.append(max(crowd.delays()))
    assert longest[-1] == crowd.settings.poll_later_ms
    assert longest == sorted(longest, reverse=True)


def test_the_young_ones_keep_the_cadence(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.execution.watch.BATCH", 10)
    crowd.add(3, sent_ago_ms=1_000, due_ms=START_MS - 1)  # the first to come up
    crowd.add(60, sent_ago_ms=20_000)
    tick(crowd.runtime)
    assert crowd.runtime.crowded
    young = [wait for wait in crowd.delays() if wait][:3]
    assert young == [crowd.settings.poll_initial_ms] * 3


def test_a_batch_that_is_full_once_is_no_crowd(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.execution.watch.BATCH", 10)
    crowd.add(40, sent_ago_ms=20_000)  # four ticks: two seconds
    tick(crowd.runtime)
    assert not crowd.runtime.crowded
    assert [wait for wait in crowd.delays() if wait] == [crowd.settings.poll_later_ms] * 10


def test_urgent_ones_keep_the_cadence_whatever_their_age(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.execution.watch.BATCH", 10)
    crowd.add(3, sent_ago_ms=20_000, due_ms=START_MS - 1, urgent=True)
    crowd.add(60, sent_ago_ms=20_000)
    tick(crowd.runtime)
    assert crowd.runtime.crowded
    assert [wait for wait in crowd.delays() if wait][:3] == [crowd.settings.poll_later_ms] * 3


def test_an_orchestrator_that_hangs_does_not_hold_a_tick_for_longer_than_a_task_may_take(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tick did not come to has its turn once it was pushed back; the urgent ones go first."""
    polled: list[str] = []

    def slow(seen: Seen) -> Answer:
        polled.append(seen.path.rpartition("/")[2])
        time.sleep(0.3)
        return Answer(200, PENDING)

    monkeypatch.setattr("worker.execution.watch.POLLING_S", 0.2)
    with http_stub(slow) as stub:
        crowd = Crowd(redis_url, stub.url, polled)
        crowd.add(40, sent_ago_ms=1_000)
        crowd.add(4, sent_ago_ms=1_000, urgent=True)
        assert tick(crowd.runtime) == 44
        first = list(polled)
        assert 1 <= len(first) <= PARALLEL
        assert {"1000-0-urgent", "1000-1-urgent", "1000-2-urgent", "1000-3-urgent"} <= set(first)
        assert tick(crowd.runtime) == 0
        monkeypatch.setattr("worker.execution.watch.POLLING_S", 60.0)
        crowd.ms += crowd.settings.http_timeout_ms + crowd.settings.stuck_after_ms
        while len(set(polled)) < 44:
            assert tick(crowd.runtime)
