"""Intents from enqueue to their end, on a real chain behind a real orchestrator that verifies what we sign."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.pipeline import RECIPIENT, Pipeline, transfer
from tests.support.sessions import ACCOUNT, USDC, usdc_transfer
from worker.execution.enqueue import enqueue
from worker.execution.errors import IntentInputError
from worker.execution.runtime import now_ms
from worker.execution.watch import tick
from worker.intents.model import TradeIntent
from worker.intents.states import FINAL, State
from worker.ledger.errors import IdempotencyConflictError
from worker.policies import SpendingLimits, TokenLimit, UsageLimit
from worker.policies.base import Execution
from worker.sessions.errors import SessionNotFoundError
from worker.sessions.model import Action


def test_the_first_intent_enables_the_session_and_the_next_one_uses_it(pipeline: Pipeline) -> None:
    before = pipeline.devnet.usdc_balance(RECIPIENT)
    first = pipeline.run(pipeline.submit("a"))[0]
    second = pipeline.run(pipeline.submit("b"))[0]
    assert [first.state, second.state] == [State.COMPLETED, State.COMPLETED]
    done = pipeline.devnet.executions(ACCOUNT)
    assert [execution.enabled for execution in done] == [True, False]
    assert [first.tx_hash, second.tx_hash] == [execution.tx_hash for execution in done]
    assert pipeline.devnet.usdc_balance(RECIPIENT) - before == 20_000_000
    assert pipeline.budget() == (20_000_000, 0)
    assert [entry.to_state for entry in first.history] == [
        "QUEUED",
        "AUTHORIZED",
        "SIGNED",
        "SUBMITTED",
        "COMPLETED",
    ]


def test_ten_of_twelve_execute_and_two_are_refused_before_signing(pipeline: Pipeline) -> None:
    ids = [pipeline.submit(f"trade {number}") for number in range(12)]
    records = pipeline.run(*ids, timeout_s=60)
    refused = [record for record in records if record.state is State.REJECTED]
    assert sum(record.state is State.COMPLETED for record in records) == 10
    assert len(refused) == 2
    for record in refused:
        assert record.body == ""
        assert record.reason.startswith("spending-limits: 100.00 USDC allowed, ")
        assert record.reason.endswith("spent or reserved, this call takes 10.00 (call 0)")
    assert pipeline.executed() == 10
    assert pipeline.budget() == (100_000_000, 0)


def test_a_call_outside_the_session_is_refused_before_a_quote_is_asked_for(pipeline: Pipeline) -> None:
    other = Execution("0x" + "77" * 20, 0, bytes.fromhex("12345678"))
    record = pipeline.run(pipeline.submit("a", transfer(1), other))[0]
    assert record.state is State.REJECTED
    assert "call 1: the session has no action for 0x7777" in record.reason
    assert record.quote == ""


def test_after_expiry_it_is_refused_though_the_chain_would_let_it_pass(pipeline: Pipeline) -> None:
    short = pipeline.approve(valid_for_s=3)
    pipeline.runtime.now_ms = lambda: now_ms() + 4_000
    record = pipeline.run(pipeline.submit("late", session_id=short.session_id))[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith("time-frame: ")


def test_an_intent_that_could_be_executed_after_the_end_of_the_window_is_refused(pipeline: Pipeline) -> None:
    pipeline.devnet.set_delays(quote_life_s=120)
    soon = pipeline.approve(valid_for_s=60)  # open now, closed when the quote runs out
    record = pipeline.run(pipeline.submit("soon", session_id=soon.session_id))[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith("time-frame: ")
    assert record.body == ""


def test_an_unrestricted_session_trades_too(pipeline: Pipeline) -> None:
    key = pipeline.keys.create().address
    pipeline.key_address = key
    action = usdc_transfer(50_000_000, valid_until_ms=4_000_000_000_000)
    session = pipeline.approve(actions=[action], restrict=False)
    ids = [pipeline.submit(name, session_id=session.session_id) for name in ("a", "b")]
    assert [record.state for record in pipeline.run(*ids)] == [State.COMPLETED, State.COMPLETED]
    assert pipeline.budget(session) == (20_000_000, 0)


def test_several_policies_count_each_on_its_own(pipeline: Pipeline) -> None:
    action = Action(
        target=USDC,
        selector=bytes.fromhex("a9059cbb"),
        policies=(
            SpendingLimits(limits=(TokenLimit(token=USDC, amount=1_000_000_000),)),
            UsageLimit(limit=3),
        ),
    )
    session = pipeline.approve(actions=[action])
    ids = [
        pipeline.submit("two at once", transfer(1), transfer(2), session_id=session.session_id),
        pipeline.submit("two more", transfer(1), transfer(2), session_id=session.session_id),
        pipeline.submit("one", transfer(3), session_id=session.session_id),
    ]
    first, *rest = (pipeline.run(intent_id)[0] for intent_id in ids)
    assert first.state is State.COMPLETED
    assert sorted(record.state for record in rest) == [State.COMPLETED, State.REJECTED]
    assert rest[0].reason.startswith("usage-limit: ")


def test_the_same_key_is_one_intent_and_another_payload_is_a_conflict(pipeline: Pipeline) -> None:
    first = pipeline.submit("same", transfer(5))
    assert pipeline.submit("same", transfer(5)) == first
    with pytest.raises(IdempotencyConflictError):
        pipeline.submit("same", transfer(6))
    pipeline.run(first)
    assert pipeline.submit("same", transfer(5)) == first
    assert pipeline.messages == []  # a final intent is not sent to the workers again
    assert pipeline.executed() == 1


def test_a_message_that_comes_twice_or_late_does_nothing(pipeline: Pipeline) -> None:
    intent_id = pipeline.submit("a")
    pipeline.messages *= 3
    record = pipeline.run(intent_id)[0]
    for stage in ("prepare", "sign", "submit"):
        pipeline.messages.append((stage, intent_id))
        pipeline.step()
    assert pipeline.ledger.get(intent_id) == record
    assert pipeline.executed() == 1


@pytest.mark.parametrize("lost", ["prepare", "sign", "submit"])
def test_a_lost_message_is_sent_again(pipeline: Pipeline, lost: str) -> None:
    intent_id = pipeline.submit("a")
    while pipeline.messages[0][0] != lost:
        pipeline.step()
    pipeline.messages.clear()
    assert pipeline.run(intent_id)[0].state is State.COMPLETED
    assert pipeline.executed() == 1


def test_not_after_in_the_past_is_bad_input_and_passed_meanwhile_it_expires(pipeline: Pipeline) -> None:
    with pytest.raises(IntentInputError, match="not_after: is in the past"):
        pipeline.submit("a", not_after=1_700_000_000)
    intent_id = pipeline.submit("b", not_after=pipeline.runtime.now_s + 1)
    pipeline.runtime.now_ms = lambda: 4_000_000_000_000
    record = pipeline.run(intent_id)[0]
    assert record.state is State.EXPIRED
    assert record.body == ""


def test_an_unknown_session_and_an_empty_intent_are_bad_input(pipeline: Pipeline) -> None:
    with pytest.raises(SessionNotFoundError):
        pipeline.submit("a", session_id="ses_0123456789abcdef")
    with pytest.raises(IntentInputError, match="calls: holds no call"):
        enqueue(pipeline.runtime, TradeIntent(pipeline.session.session_id, "b", ()))
    with pytest.raises(IntentInputError, match="calls: holds 11 calls"):
        pipeline.submit("c", *[transfer(1)] * 11)
    assert pipeline.messages == []


def test_a_paused_session_signs_nothing(pipeline: Pipeline) -> None:
    pipeline.runtime.sessions.set_paused(pipeline.session.session_id, paused=True)
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith("session: is paused")


def test_a_canceled_intent_is_not_signed(pipeline: Pipeline) -> None:
    intent_id = pipeline.submit("a")
    pipeline.step()
    assert pipeline.state(intent_id) is State.AUTHORIZED
    pipeline.ledger.cancel(intent_id, who="test", why="changed my mind", now_ms=pipeline.runtime.now_ms())
    while pipeline.messages:
        pipeline.step()
    tick(pipeline.runtime)
    assert pipeline.state(intent_id) is State.CANCELED
    assert pipeline.budget() == (0, 0)
    assert pipeline.executed() == 0


def test_a_worker_of_another_chain_refuses_the_session(pipeline: Pipeline) -> None:
    other = pipeline.new_runtime(chain_id=1)
    with pytest.raises(IntentInputError, match="session: is for chain 8453"):
        enqueue(other, TradeIntent(pipeline.session.session_id, "a", (transfer(1),)))


def test_attempts_run_out_into_dead(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline(max_attempts=2)
    pipeline.devnet.add_fault("respond", path="/intents/route", status=500, times=0)
    intent_id = pipeline.submit("a")
    record = pipeline.run(intent_id)[0]
    assert record.state is State.DEAD
    assert record.state in FINAL
    assert record.reason.startswith("gave up after 2 attempts: orchestrator: ")
    assert record.body == ""
