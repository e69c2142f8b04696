"""A worker that is asked to stop while it polls stops, and the next one goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.driver import CLEAN, Chaos
from tests.support.sessions import ACCOUNT
from worker.intents.states import State

pytestmark = pytest.mark.services

#: What an init system gives a service before it kills it.
GRACE_S = 10.0


def test_sigterm_during_a_poll_ends_the_worker_in_time_and_the_next_one_goes_on(
    make_chaos: Callable[..., Chaos],
) -> None:
    chaos = make_chaos(workers=1, settings={"http_timeout_ms": "8000"})
    status = "/intent-operation/"
    chaos.devnet.add_fault("override_status", path=status, word="PENDING", times=0)
    intent_id = chaos.submit(("polling", "tell"))
    place = _reached(chaos)
    chaos.devnet.add_fault("delay_ms", path=status, delay_ms=4_000)
    chaos.go(place)
    time.sleep(0.3)  # the request is under way
    worker = chaos.stack.workers[-1]
    worker.terminate()
    deadline = time.monotonic() + GRACE_S
    while worker.running():
        assert time.monotonic() < deadline, worker.log()[-2_000:]
        time.sleep(0.05)
    assert worker.exit_code == 0
    assert chaos.runtime.ledger.get(intent_id).state is State.SUBMITTED
    chaos.hold_posts()  # no faults any more
    assert chaos.settle([intent_id])  # the driver has started another worker
    counts = chaos.counts()
    assert str(counts) == CLEAN, counts.notes


def test_workers_that_are_restarted_all_the_time_lose_and_repeat_nothing(
    make_chaos: Callable[..., Chaos],
) -> None:
    # `make restarts` is the long form
    trades, restarts = (int(os.environ.get(name, few)) for name, few in (("TRADES", 60), ("RESTARTS", 8)))
    chaos = make_chaos(workers=2)
    ids = [chaos.submit() for _ in range(trades)]
    for _ in range(restarts):
        worker = chaos.stack.workers[-2]  # the older one that runs
        worker.terminate()
        chaos.settle(ids, timeout_s=1)
        deadline = time.monotonic() + GRACE_S
        while worker.running():
            assert time.monotonic() < deadline, worker.log()[-2_000:]
            time.sleep(0.05)
        chaos.pump()  # starts another
        chaos.stack.workers[-1].wait_for("ready.")
    assert chaos.settle(ids)
    assert all(record.state is State.COMPLETED for record in chaos.records())
    counts = chaos.counts()
    assert str(counts) == CLEAN, counts.notes
    executed = len(chaos.devnet.executions(ACCOUNT))
    assert executed == trades + 1  # and the one that enabled the session
    sys.stdout.write(f"restarts={restarts} trades={trades} executed={executed - 1} {counts}\n")


def _reached(chaos: Chaos) -> Path:
    deadline = time.monotonic() + 30
    while not chaos.reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return chaos.reached()[0]
