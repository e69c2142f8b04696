"""One message for all the stages that a worker serves, and a message for each one that it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tasks.relay import PATIENCE_S, Relay
from worker.execution.runtime import Dispatch

NEXT = {"prepare": "sign", "sign": "submit", "submit": ""}


class Worker:
    """Stages that only say that they were done; each sends the next one's message."""

    def __init__(self, serves: Callable[[str], bool] = lambda _: True) -> None:
        self.done: list[str] = []
        self.sent: list[tuple[str, str]] = []
        self.now_s = 0.0
        self.takes_s = 0.0
        self.fails_after_sending = ""
        stages = {name: self.stage(name) for name in NEXT}
        self.relay = Relay(stages, serves=lambda stage, _: serves(stage), clock=lambda: self.now_s)
        self.dispatch: Dispatch = self.relay.dispatch(
            lambda stage, intent_id: self.sent.append((stage, intent_id)), urgent=False
        )

    def stage(self, name: str) -> Callable[[str], None]:
        def do(intent_id: str) -> None:
            self.done.append(name)
            self.now_s += self.takes_s
            if NEXT[name]:
                self.dispatch(NEXT[name], intent_id)
            if name == self.fails_after_sending:
                raise RuntimeError("after the next stage was due")

        return do


def test_one_message_for_all_stages() -> None:
    worker = Worker()
    worker.relay.run("prepare", "a")
    assert (worker.done, worker.sent) == (["prepare", "sign", "submit"], [])


def test_what_the_worker_does_not_serve_is_sent() -> None:
    worker = Worker(serves=lambda stage: stage != "sign")
    worker.relay.run("prepare", "a")
    assert (worker.done, worker.sent) == (["prepare"], [("sign", "a")])


def test_a_slow_stage_leaves_the_next_one_a_time_limit_of_its_own() -> None:
    worker = Worker()
    worker.takes_s = PATIENCE_S * 0.6
    worker.relay.run("prepare", "a")
    assert (worker.done, worker.sent) == (["prepare", "sign"], [("submit", "a")])


def test_other_intents_get_messages() -> None:
    worker = Worker()
    worker.dispatch("prepare", "a")
    assert worker.sent == [("prepare", "a")]
    worker.stage("prepare")("b")
    assert worker.sent == [("prepare", "a"), ("sign", "b")]


def test_a_stage_that_fails_after_all_loses_nothing() -> None:
    worker = Worker()
    worker.fails_after_sending = "sign"
    with pytest.raises(RuntimeError):
        worker.relay.run("prepare", "a")
    assert (worker.done, worker.sent) == (["prepare", "sign"], [("submit", "a")])
    worker.dispatch("sign", "a")
    assert worker.sent[1:] == [("sign", "a")]


def test_a_second_message_of_the_same_stage_is_sent() -> None:
    """Only the first can be done here: a stage that asks twice means two messages."""
    worker = Worker()

    def twice(intent_id: str) -> None:
        worker.dispatch("sign", intent_id)
        worker.dispatch("sign", intent_id)

    worker.relay = Relay({"prepare": twice, "sign": worker.done.append}, serves=lambda _stage, _urgent: True)
    worker.dispatch = worker.relay.dispatch(
        lambda stage, name: worker.sent.append((stage, name)), urgent=False
    )
    worker.relay.run("prepare", "a")
    assert (worker.done, worker.sent) == (["a"], [("sign", "a")])
