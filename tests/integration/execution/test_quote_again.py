"""A signed intent whose quote has run out: quoted again only if nothing of it was ever seen outside, executed once at most."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.pipeline import Pipeline
from worker.execution.runtime import now_ms
from worker.execution.watch import tick
from worker.intents.states import State
from worker.ledger.pauses import EVERYTHING

MakePipeline = Callable[..., Pipeline]
ROUTE = "/intents/route"
SUBMIT = "/intent-operations"
STATUS = "/intent-operation/"
LATER_MS = 600_000


def signed(pipeline: Pipeline, *, lateness_s: int = 3_600) -> str:
    """An intent that is signed and about to be sent."""
    intent_id = pipeline.submit("a", not_after=int(time.time()) + lateness_s if lateness_s else 0)
    while pipeline.messages[0][0] != "submit":
        pipeline.step()
    return intent_id


def unreachable(pipeline: Pipeline) -> None:
    """Try to send it while nothing listens at the orchestrator's address."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        online, pipeline.runtime = pipeline.runtime, pipeline.new_runtime(orchestrator_url=url)
        pipeline.step()
        pipeline.runtime = online


def sleep_over_the_quote(pipeline: Pipeline, by_ms: int = LATER_MS) -> None:
    """From now on our clock is past the quote's expiry; the session and ``not_after`` are still valid."""
    pipeline.runtime.now_ms = lambda: now_ms() + by_ms


def quotes(pipeline: Pipeline) -> int:
    """How often a quote was asked for."""
    return len([request for request in pipeline.devnet.requests() if request["path"] == ROUTE])


def tick_for(pipeline: Pipeline, seconds: float) -> None:
    """Go on working for a while, whatever happens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        while pipeline.messages:
            pipeline.step()
        tick(pipeline.runtime)
        time.sleep(0.05)


@pytest.fixture
def patient(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline that takes a clock of ten minutes ahead for right, and waits a second for a 404 to last."""
    return make_pipeline(not_found_grace_s=1, max_clock_skew_s=1_000)


def test_never_sent_it_is_quoted_and_signed_again_and_executed_once(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline(max_clock_skew_s=1_000)
    pipeline.devnet.set_delays(quote_life_s=12)
    intent_id = signed(pipeline)
    first = pipeline.ledger.get(intent_id)
    unreachable(pipeline)
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.fields["sent"]) == (State.SIGNED, "")
    pipeline.devnet.set_delays(quote_life_s=900)
    sleep_over_the_quote(pipeline, by_ms=15_000)
    record = pipeline.run(intent_id)[0]
    assert record.state is State.COMPLETED, record.reason
    assert [entry.to_state for entry in record.history].count("QUEUED") == 2
    assert record.body != first.body
    assert record.orchestrator_id != first.orchestrator_id
    assert quotes(pipeline) == 2
    assert pipeline.executed() == 1
    assert pipeline.budget() == (10_000_000, 0)


def test_without_a_latest_time_it_ends_as_expired(patient: Pipeline) -> None:
    intent_id = signed(patient, lateness_s=0)
    unreachable(patient)
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert (record.state, quotes(patient), patient.executed()) == (State.EXPIRED, 1, 0)
    assert "nothing left us" in record.reason
    assert patient.budget() == (0, 0)


def test_past_its_latest_time_it_ends_as_expired(patient: Pipeline) -> None:
    intent_id = signed(patient, lateness_s=300)
    unreachable(patient)
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert (record.state, quotes(patient), patient.executed()) == (State.EXPIRED, 1, 0)


def test_what_was_paused_meanwhile_is_refused_and_gives_its_budget_back(patient: Pipeline) -> None:
    intent_id = signed(patient)
    unreachable(patient)
    patient.runtime.pauses.pause(EVERYTHING, why="stop", who="test", now_ms=now_ms())
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert record.state is State.REJECTED
    assert "is paused by test: stop" in record.reason
    assert (quotes(patient), patient.executed(), patient.budget()) == (1, 0, (0, 0))


@pytest.mark.parametrize(
    ("action", "details"),
    [
        ("drop_before", {}),
        ("respond", {"status": 500}),
        ("respond", {"status": 429, "headers": {"Retry-After": "300"}}),
        ("respond", {"status": 401}),
    ],
)
def test_what_was_seen_outside_is_never_quoted_again(
    patient: Pipeline, action: str, details: dict[str, Any]
) -> None:
    """The orchestrator may not have it, and whoever read it may still execute it: there is no deadline in it."""
    patient.devnet.add_fault(action, method="POST", path=SUBMIT, times=0, **details)
    intent_id = signed(patient)
    patient.step()
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert (record.state, quotes(patient), patient.executed()) == (State.EXPIRED, 1, 0)
    assert patient.budget() == (0, 0)


def test_a_refusal_that_was_none_is_found(patient: Pipeline) -> None:
    """A proxy says 429 although the orchestrator took it, and asks for a wait beyond the quote's life."""
    patient.devnet.add_fault(
        "respond", method="POST", path=SUBMIT, status=429, headers={"Retry-After": "300"}, process=True
    )
    intent_id = signed(patient)
    patient.step()
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert (record.state, quotes(patient), patient.executed()) == (State.COMPLETED, 1, 1)


def test_executed_and_hidden_for_long_it_is_found_on_the_chain(patient: Pipeline) -> None:
    """The reply is lost, the status is a 404 for good, and the chain knows better."""
    patient.devnet.add_fault("hide", method="POST", path=SUBMIT, delay_ms=3_600_000)
    patient.devnet.add_fault("drop_after_accept", method="POST", path=SUBMIT)
    intent_id = signed(patient)
    patient.step()
    patient.until(lambda: patient.executed() == 1, intent_id)
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert record.state is State.COMPLETED
    assert "nonce is used on chain" in record.history[-1].why
    assert (quotes(patient), patient.executed(), patient.budget()) == (1, 1, (10_000_000, 0))


def test_executed_after_a_404_of_long_it_is_executed_once(patient: Pipeline) -> None:
    """Given up, with time left to try again, and executed after that: a second signature would have been a second trade."""
    patient.devnet.add_fault("late", method="POST", path=SUBMIT, delay_ms=6_000)
    patient.devnet.add_fault("drop_after_accept", method="POST", path=SUBMIT)
    intent_id = signed(patient)
    patient.step()
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert (record.state, patient.executed()) == (State.EXPIRED, 0)
    deadline = time.monotonic() + 30
    while not patient.executed():
        assert time.monotonic() < deadline
        tick_for(patient, 0.2)
    tick_for(patient, 1)
    assert (quotes(patient), patient.executed()) == (1, 1)


def test_a_chain_that_cannot_be_asked_gives_nothing_up(patient: Pipeline) -> None:
    patient.devnet.add_fault("drop_before", method="POST", path=SUBMIT, times=0)
    intent_id = signed(patient)
    patient.step()
    good = patient.runtime
    patient.runtime = patient.new_runtime(rpc_url=type(patient.settings.rpc_url)("http://127.0.0.1:9"))
    sleep_over_the_quote(patient)
    record = patient.until(lambda: patient.ledger.get(intent_id).attention == "RPC", intent_id)[0]
    assert record.state is State.SIGNED
    assert patient.budget() == (0, 10_000_000)
    patient.runtime = good
    sleep_over_the_quote(patient)
    assert patient.run(intent_id)[0].state is State.EXPIRED


def test_an_accepted_one_that_was_forgotten_is_found_on_the_chain(patient: Pipeline) -> None:
    patient.devnet.set_delays(preconfirm_ms=0, fill_ms=0, complete_ms=3_600_000)
    intent_id = signed(patient)
    patient.until(lambda: patient.state(intent_id) is State.SUBMITTED and patient.executed() == 1, intent_id)
    patient.devnet.add_fault("respond", path=STATUS, status=404, times=0)
    sleep_over_the_quote(patient)
    record = patient.run(intent_id)[0]
    assert (record.state, patient.budget()) == (State.COMPLETED, (10_000_000, 0))
