"""A stop-loss enqueued behind five hundred others is the next one signed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from config.celery import QUEUES, SIGN_QUEUES
from tests.support.e2e import Trader
from worker.devnet.devnet import Devnet
from worker.devnet.stack import Stack
from worker.devnet.valkey import LocalRedis
from worker.intents.states import State

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]
BACKLOG = 500
#: One that a worker process may have in its hands when the urgent one comes, for each of its stages.
IN_HAND = 2


@pytest.fixture
def stack(own_redis: LocalRedis, devnet: Devnet, tmp_path: Path) -> Iterator[Stack]:
    directory = tmp_path / "stack"
    directory.mkdir(mode=0o700)
    devnet.reset()
    with Stack(
        directory,
        redis_url=own_redis.url,
        devnet=devnet,
        workers=0,
        beat=False,
        concurrency=1,
        # the first one enqueued has waited for longest: the due index sends it again meanwhile
        settings={"stuck_after_ms": "3000"},
    ) as stack:
        yield stack


def test_it_overtakes_the_backlog(stack: Stack) -> None:
    trader = Trader(stack)
    session = trader.import_session(stack.keys.create().address)
    worker = stack.start_worker()
    worker.wait_for("ready.")
    # it carries the approval, for which all others would wait
    trader.wait([trader.submit(session, "first", 1)])
    worker.stop()
    others = [trader.submit(session, f"other {number}", 1) for number in range(BACKLOG)]
    urgent = trader.submit(session, "stop-loss", 2, urgent=True)
    with redis.Redis.from_url(stack.settings.redis_url.get_secret_value(), protocol=2) as client:
        assert client.llen("sx:celery:prepare") >= BACKLOG
        assert client.llen("sx:celery:urgent") == 1
    # signing has workers of its own, whose urgent queue goes first too
    stack.start_worker(queues=[name for name in QUEUES if name not in SIGN_QUEUES])
    stack.start_worker(queues=SIGN_QUEUES)
    (record,) = trader.wait([urgent])
    assert record.state is State.COMPLETED
    signed_ms = next(entry.at_ms for entry in record.history if entry.to_state == State.SIGNED)
    before = [
        other.intent_id
        for other in trader.records(others)
        if any(entry.to_state == State.SIGNED and entry.at_ms < signed_ms for entry in other.history)
    ]
    assert len(before) <= IN_HAND, before
    # and the others go on
    deadline = time.monotonic() + 90
    while not any(other.state is State.COMPLETED for other in trader.records(others[:20])):
        assert time.monotonic() < deadline
        time.sleep(0.2)
