"""What an operator stops stays stopped: Redis and every worker restart, the message comes, and nothing is signed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import redis

from tests.support.e2e import Trader
from worker.devnet.stack import Child, Stack
from worker.devnet.valkey import LocalRedis
from worker.errors import ServiceError
from worker.intents.states import State
from worker.ledger.pauses import strategy_switch
from worker.sessions.importing import RegisteredSession

pytestmark = pytest.mark.services
ALL: tuple[str, ...] = ()
NO_SIGNER = ("urgent", "prepare", "submit", "watch")


class Operator:
    """Somebody with the command line, beside a stack whose Redis and workers are restarted."""

    def __init__(self, stack: Stack, server: LocalRedis) -> None:
        self.stack = stack
        self.server = server
        self.trader = Trader(stack)
        self.worker: Child | None = None
        self.sessions = [self.session(), self.session()]

    def session(self, **terms: int) -> RegisteredSession:
        """One more session of the account, with a key of its own."""
        return self.trader.import_session(self.stack.keys.create().address, **terms)

    def ask(self, name: str, session: RegisteredSession, **fields: Any) -> str:
        return self.trader.submit(session, name, 1_000_000, **fields)

    def stop(self, canceled: str, strategy: str, session: RegisteredSession) -> None:
        """Cancel one intent, pause the strategy of another, and the session of a third."""
        services, said = self.trader.runtime, {"why": "a test", "who": "ops"}
        services.ledger.cancel(canceled, **said, now_ms=services.now_ms())
        services.pauses.pause(strategy_switch(strategy), **said, now_ms=services.now_ms())
        services.sessions.set_paused(session.session_id, paused=True)

    def restart(self, queues: tuple[str, ...], *, waiting: Mapping[str, int]) -> None:
        """SIGKILL to the worker and to Redis; then Redis again, with its messages, and a worker for some queues."""
        if self.worker is not None:
            self.worker.kill()
        self.server.kill()
        self.server.start()
        # at least: the due index sends a message again when nobody took it in time
        assert all(self.waiting(queue) >= count for queue, count in waiting.items())
        self.worker = self.stack.start_worker(queues=queues)
        self.worker.wait_for("ready.")

    def waiting(self, queue: str) -> int:
        """Messages in a queue."""
        with redis.Redis.from_url(self.server.url, protocol=2) as client:
            return int(client.llen(f"sx:celery:{queue}"))  # pyright: ignore[reportArgumentType] - synchronous

    def states(self, *intent_ids: str) -> list[State]:
        """The states once they are final, or AUTHORIZED while no signer runs; what was not signed has no bytes to send."""
        records = self.trader.records(intent_ids)
        for record in records:
            assert bool(record.body) == (record.state is State.COMPLETED)
        return [record.state for record in records]

    def becomes(self, wanted: list[State], *intent_ids: str) -> None:
        def reached() -> bool:
            with contextlib.suppress(ServiceError):
                return [record.state for record in self.trader.records(intent_ids)] == wanted
            return False

        self.trader.wait_until(reached)
        assert self.states(*intent_ids) == wanted

    def submits(self) -> int:
        """How often the orchestrator was sent something signed."""
        return len(self.stack.devnet.requests("/intent-operations", "POST"))

    def signed(self) -> set[str]:
        """The intents of which the audit trail knows a signature."""
        trail = self.trader.runtime.audit.path.read_text().splitlines()
        return {line["intent_id"] for line in map(json.loads, trail) if line["event"] == "signing"}


@pytest.fixture
def operator(make_stack: Callable[..., Stack], own_redis: LocalRedis) -> Operator:
    settings = {"claim_lease_ms": "3000", "stuck_after_ms": "1000"}
    return Operator(
        make_stack(redis_url=own_redis.url, workers=0, concurrency=1, settings=settings), own_redis
    )


def test_cancel_and_pause_survive_restarts_before_the_quote_and_before_the_signature(
    operator: Operator,
) -> None:
    first, second = operator.sessions
    # queued, with the messages of all of them in Redis, and nobody there yet
    queued = [
        operator.ask("canceled", first),
        operator.ask("paused", first, source="strategy:dca"),
        operator.ask("session paused", second),
        operator.ask("good", first),
    ]
    operator.stop(queued[0], "dca", second)
    operator.restart(ALL, waiting={"prepare": 4})
    ends = [State.CANCELED, State.REJECTED, State.REJECTED, State.COMPLETED]
    operator.becomes(ends, *queued)
    assert operator.submits() == 1

    # authorized, each with a message for a signer that is not there
    operator.restart(NO_SIGNER, waiting={})
    third = operator.session(nonce=1)
    authorized = [
        operator.ask("canceled before it is signed", first),
        operator.ask("paused before it is signed", first, source="strategy:twap"),
        operator.ask("session paused before it is signed", third),
        operator.ask("good again", first),
    ]
    operator.becomes([State.AUTHORIZED] * 4, *authorized)
    assert operator.trader.budget(first) == (1_000_000, 3_000_000)
    deadline = time.monotonic() + 30
    while operator.waiting("sign") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    operator.stop(authorized[0], "twap", third)
    operator.restart(ALL, waiting={"sign": operator.waiting("sign")})
    operator.becomes(ends, *authorized)

    assert operator.signed() == {queued[3], authorized[3]}
    assert operator.submits() == operator.trader.executed() == 2
    assert operator.trader.budget(first) == (2_000_000, 0)
    assert operator.trader.budget(second) == operator.trader.budget(third) == (0, 0)
