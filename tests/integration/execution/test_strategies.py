"""Strategies on a real Redis and the devnet: the counts are exact, whatever stopped meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.support.pipeline import RECIPIENT, Pipeline
from tests.support.sessions import ACCOUNT, USDC
from worker.execution.dry_run import DryRun, dry_run
from worker.execution.errors import GuardrailDeniedError
from worker.execution.fire import moment_of, remove, wake
from worker.execution.runtime import now_ms
from worker.execution.tokens import token_table
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.ledger.pauses import strategy_switch
from worker.strategies.build import decide, intent_of
from worker.strategies.load import load_strategies
from worker.strategies.model import ScheduledStrategy
from worker.strategies.port import Act

PERIOD_S = 600


class Scheduled:
    """A pipeline with one strategy, and a clock of its own that begins one second before a slot."""

    def __init__(self, pipeline: Pipeline, **fields: str) -> None:
        self.pipeline = pipeline
        self.now_s = now_ms() // 1000 // PERIOD_S * PERIOD_S - 1
        pipeline.runtime.now_ms = lambda: self.now_s * 1000
        self.strategy = self.load(**fields)
        self.wake()

    def load(self, **fields: str) -> ScheduledStrategy:
        written = {
            "name": '"s"',
            "kind": '"recurring-transfer"',
            "session": f'"{self.pipeline.session.session_id}"',
            "every": '"10m"',
            "to": f'"{RECIPIENT}"',
            "amount": '"1 USDC"',
        } | fields
        text = "[[strategies]]\n" + "".join(f"{name} = {value}\n" for name, value in written.items() if value)
        (strategy,) = load_strategies(text, tokens=token_table(8453))
        return strategy

    def wake(self, forward_s: int = 0) -> int:
        self.now_s += forward_s
        return wake(self.pipeline.runtime, [self.strategy])

    def records(self) -> list[IntentRecord]:
        return list(self.pipeline.ledger.list_intents(limit=1000))

    def missed(self) -> list[int]:
        return [entry.slot_s for entry in self.pipeline.runtime.strategies.missed("s")]


Make = Callable[..., Scheduled]


@pytest.fixture
def scheduled(pipeline: Pipeline) -> Make:
    def make(**fields: str) -> Scheduled:
        return Scheduled(pipeline, **fields)

    return make


def test_a_slot_becomes_one_intent_and_it_executes(scheduled: Make) -> None:
    run = scheduled()
    assert run.records() == []
    assert run.wake(1) == 1
    assert [run.wake(), run.wake(5), run.wake(0)] == [0, 0, 0]
    (record,) = run.records()
    assert record.intent.idempotency_key == f"strategy:s:{run.now_s - 5}"
    run.pipeline.runtime.now_ms = now_ms
    done = run.pipeline.run(record.intent_id)[0]
    # the slot may be up to ten minutes old by the real clock: within its validity, or expired without a signature
    assert done.state is State.COMPLETED or (done.state is State.EXPIRED and not done.body)


@pytest.mark.parametrize(("catch_up", "made"), [("none", 0), ("one", 1), ("all", 3)])
def test_the_scheduler_is_off_for_three_slots(scheduled: Make, catch_up: str, made: int) -> None:
    run = scheduled(catch_up=f'"{catch_up}"', max_lateness_s="86400")
    assert run.wake(1) == 1
    assert run.wake(3 * PERIOD_S + 60) == made
    assert run.wake() == 0
    keys = {record.intent.idempotency_key for record in run.records()}
    assert len(keys) == len(run.records()) == 1 + made
    assert len(run.missed()) == 3 - made
    # and the next one on time
    assert run.wake(PERIOD_S - 60) == 1


def test_no_worker_for_ten_slots_with_max_lateness(scheduled: Make) -> None:
    run = scheduled(catch_up='"all"', max_lateness_s="900")
    assert run.wake(1) == 1
    assert run.wake(10 * PERIOD_S) == 2
    assert len(run.missed()) == 8
    assert all("late" in entry.why for entry in run.pipeline.runtime.strategies.missed("s"))


def test_two_workers_and_a_death_between_the_intent_and_the_cursor(scheduled: Make) -> None:
    run = scheduled(max_executions="2")
    book = run.pipeline.runtime.strategies
    assert run.wake(1) == 1
    state = book.read("s")
    assert state is not None
    # as if the evaluator had died right after the enqueue: the cursor is where it was, the slot is pending
    book.commit(
        "s", fence=state.fence, cursor_s=state.cursor_s - PERIOD_S, fired=0, pending=str(state.cursor_s)
    )
    assert [wake(run.pipeline.new_runtime(), []), run.wake(), run.wake()] == [0, 0, 0]
    assert len(run.records()) == 1
    assert [run.wake(PERIOD_S) for _ in range(5)] == [1, 0, 0, 0, 0]
    assert len(run.records()) == 2
    after = book.read("s")
    assert after is not None
    assert (after.fired, after.finished) == (2, True)


def test_a_lease_keeps_others_away_and_runs_out(scheduled: Make) -> None:
    run = scheduled()
    book = run.pipeline.runtime.strategies
    claimed = book.claim("s", now_ms=run.now_s * 1000, lease_ms=60_000, first_cursor_s=0)
    assert claimed is not None
    assert run.wake(1) == 0
    assert run.wake(60) == 1


def test_what_is_paused_is_missed_and_what_is_removed_is_canceled(scheduled: Make) -> None:
    run = scheduled()
    run.pipeline.runtime.pauses.pause(strategy_switch("s"), why="a test", who="me", now_ms=1)
    assert run.wake(1) == 0
    assert run.pipeline.runtime.strategies.missed("s")[0].why == "paused: a test"
    run.pipeline.runtime.pauses.resume(strategy_switch("s"))
    assert run.wake(PERIOD_S) == 1
    assert remove(run.pipeline.runtime, "s", who="me") == (True, 1)
    (record,) = run.records()
    assert record.state is State.CANCELED
    while run.pipeline.messages:  # the message that is queued already finds nothing to do
        run.pipeline.step()
    assert run.pipeline.executed() == 0
    assert run.pipeline.runtime.strategies.read("s") is None


def test_what_fails_for_want_of_money_pauses_itself_and_money_does_not_start_it_again(
    scheduled: Make,
) -> None:
    run = scheduled()
    runtime, devnet = run.pipeline.runtime, run.pipeline.devnet
    devnet.fund(ACCOUNT, usdc=0)
    first = run.now_s + 1

    def fire(number: int) -> IntentRecord | None:
        run.now_s = first + number * PERIOD_S
        runtime.now_ms = lambda: run.now_s * 1000
        if run.wake() == 0:
            return None
        record = run.records()[0]
        runtime.now_ms = now_ms
        return run.pipeline.run(record.intent_id)[0]

    ends = [fire(number) for number in range(5)]
    assert [end is None for end in ends] == [False, False, False, True, True]
    for end in ends[:3]:
        assert end is not None
        assert end.state is State.FAILED
    (pause,) = runtime.pauses.list()
    assert pause.switch == strategy_switch("s")
    assert pause.why.startswith("paused itself: 3 fires in a row failed for want of money; the last one: ")
    assert "simulation" in pause.why
    assert run.missed() == [first + 4 * PERIOD_S, first + 3 * PERIOD_S]
    # a top-up alone changes nothing; a person resumes it, and the count begins anew
    devnet.fund(ACCOUNT, usdc=1_000_000_000)
    assert fire(5) is None
    runtime.pauses.resume(strategy_switch("s"))
    done = fire(6)
    assert done is not None
    assert done.state is State.COMPLETED
    devnet.fund(ACCOUNT, usdc=0)
    assert [fire(number) is None for number in (7, 8)] == [False, False]
    devnet.fund(ACCOUNT, usdc=1_000_000_000)
    # one that succeeds between them ends the row
    assert fire(9) is not None
    devnet.fund(ACCOUNT, usdc=0)
    assert [fire(number) is None for number in (10, 11)] == [False, False]
    assert runtime.pauses.list() == ()


def decided(run: Scheduled) -> Any:
    runtime = run.pipeline.runtime
    state = runtime.strategies.read("s")
    moment = moment_of(runtime, run.strategy, state, slot_s=run.now_s, until_s=run.now_s + 3600)
    return decide(run.strategy, moment)


def test_a_dry_run_signs_and_stores_nothing(scheduled: Make) -> None:
    run = scheduled()
    run.pipeline.runtime.now_ms = now_ms
    decision = decided(run)
    assert isinstance(decision, Act)
    intent = intent_of(run.strategy, "dry", decision, until_s=now_ms() // 1000 + 3600)
    found = dry_run(run.pipeline.runtime, intent)
    assert found.over == ()
    assert any(line.startswith("spending-limits: 1 USDC of 100 USDC") for line in found.budgets)
    assert run.records() == []
    assert "keys" not in vars(run.pipeline.runtime)
    assert run.pipeline.executed() == 0


def test_a_sweep_sends_what_is_above(scheduled: Make) -> None:
    run = scheduled(kind='"sweep"', amount="", above='"995 USDC"')
    run.pipeline.devnet.fund(ACCOUNT, usdc=1_000_000_000)
    before = run.pipeline.devnet.usdc_balance(RECIPIENT)
    assert run.wake(1) == 1
    (record,) = run.records()
    assert record.intent.note == f"sweep 5 USDC to {RECIPIENT}"
    run.strategy = run.load(kind='"sweep"', amount="", above='"2000 USDC"')
    assert run.wake(PERIOD_S) == 0
    state = run.pipeline.runtime.strategies.read("s")
    assert state is not None
    assert "not more than 2000 USDC" in state.said
    assert run.pipeline.devnet.usdc_balance(RECIPIENT) == before


@pytest.mark.parametrize(
    ("sent", "word", "again"), [("", "", 1), ("maybe", "", 0), ("refused", "", 0), ("maybe", "EXPIRED", 1)]
)
def test_what_may_still_execute_is_not_tried_again(scheduled: Make, sent: str, word: str, again: int) -> None:
    """Signed, sent and forgotten by the orchestrator, it ends as EXPIRED; whoever has the bytes may still execute it."""
    run = scheduled(retry='{ times = 3, after = "1m" }')
    assert run.wake(1) == 1
    (record,) = run.records()
    states = (State.QUEUED, State.AUTHORIZED, State.SIGNED, State.EXPIRED)
    for at, to in pairwise(states):
        run.pipeline.ledger.transition(
            record.intent_id,
            fence=record.fence,
            from_state=at,
            to_state=to,
            who="test",
            why="test",
            now_ms=run.now_s * 1000,
            fields={"sent": sent, "orchestrator_status": word} if to is State.SIGNED else {},
        )
    assert [run.wake(61), run.wake(61)] == [again, 0]
    assert len(run.records()) == 1 + again


class TestGuardrails:
    """What stands in a strategy's table holds for its intents, whoever judges them."""

    def test_its_intents_are_held_to_its_table(self, scheduled: Make) -> None:
        run = scheduled(guardrails='{ per_day = "1.5 USDC", approval_above = "1 USDC" }')
        rules = run.pipeline.runtime.sessions.rules(run.pipeline.session.session_id)["strategy:s"]
        assert rules.guardrails.limit("per_day", USDC) == 1_500_000
        assert run.wake(1) == 1
        run.pipeline.runtime.now_ms = now_ms
        [record] = run.records()
        assert run.pipeline.run(record.intent_id)[0].state is State.COMPLETED
        run.now_s += PERIOD_S - 1
        run.pipeline.runtime.now_ms = lambda: run.now_s * 1000
        assert run.wake(1) == 1
        second = run.records()[0]
        run.pipeline.runtime.now_ms = now_ms  # the chain's, too
        run.pipeline.step()
        reason = run.pipeline.ledger.get(second.intent_id).reason
        assert reason.startswith(
            "guardrail per_day: 1.5 USDC allowed in any day, 1 USDC is used or in flight"
        )
        assert "set for strategy s" in reason

    def test_a_table_that_changes_holds_for_what_is_queued(self, scheduled: Make) -> None:
        run = scheduled()
        assert run.wake(1) == 1
        [record] = run.records()
        run.strategy = run.load(guardrails="{ recipients = [] }")
        run.wake(1)
        run.pipeline.step()
        assert run.pipeline.ledger.get(record.intent_id).reason.startswith("guardrail recipients: ")
        # and taken out of the file it is gone
        run.strategy = run.load()
        run.wake(1)
        assert dict(run.pipeline.runtime.sessions.rules(run.pipeline.session.session_id)) == {}

    def test_a_dry_run_is_held_to_them_and_stores_none(self, scheduled: Make) -> None:
        run = scheduled()
        runtime = run.pipeline.runtime
        session_id = run.pipeline.session.session_id
        before = dict(runtime.sessions.rules(session_id))
        runtime.now_ms = now_ms

        def dry(guardrails: str) -> DryRun:
            strategy = run.load(guardrails=guardrails)
            moment = moment_of(runtime, strategy, None, slot_s=runtime.now_s, until_s=runtime.now_s + 60)
            act = decide(strategy, moment)
            assert isinstance(act, Act)
            return dry_run(
                runtime, intent_of(strategy, "dry", act, until_s=runtime.now_s + 60), strategy=strategy
            )

        with pytest.raises(GuardrailDeniedError, match=r"per_trade: 0\.5 USDC allowed"):
            dry('{ per_trade = "0.5 USDC" }')
        found = dry('{ per_week = "0.5 USDC", approval_above = "0.1 USDC" }')
        assert found.over == (
            f"per_week of strategy s (in session {session_id}): 1 USDC of 0.5 USDC, 0 USDC used or in flight",
        )
        assert found.approval.startswith("guardrail approval_above: 0.1 USDC")
        assert runtime.sessions.rules(session_id) == before
