"""What an operator may do by hand to an intent that the pipeline has let go of."""

from __future__ import annotations

from worker.execution.attempt import audit, send
from worker.execution.errors import IntentInputError
from worker.execution.late import FAILED_LATE
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord
from worker.intents.states import State

SETTLED_BY_HAND = (State.COMPLETED, State.FAILED, State.EXPIRED)


def replay(runtime: Runtime, intent_id: str, *, who: str, why: str) -> IntentRecord:
    """Queue a DEAD intent again: nothing of it was signed, so it starts afresh, its attempts counted from zero.

    Raises:
        IntentInputError: it is not DEAD.
        IntentNotFoundError, FenceLostError, LedgerUnavailableError
    """
    record = runtime.ledger.get(intent_id)
    if record.state is not State.DEAD:
        raise IntentInputError(f"is {record.state}", field=intent_id, fix="only DEAD intents can be replayed")
    return _move(runtime, record, State.QUEUED, who=who, why=why)


def drop(runtime: Runtime, intent_id: str, *, who: str, why: str) -> IntentRecord:
    """Let go of a DEAD intent for good: it is CANCELED, asks for nobody's attention, and can be archived.

    Raises:
        IntentInputError: it is not DEAD.
        IntentNotFoundError, FenceLostError, LedgerUnavailableError
    """
    record = runtime.ledger.get(intent_id)
    if record.state is not State.DEAD:
        raise IntentInputError(
            f"is {record.state}",
            field=intent_id,
            fix="only DEAD intents can be dropped; `intents cancel` is for those that wait",
        )
    return _move(runtime, record, State.CANCELED, who=who, why=why)


def settle(runtime: Runtime, intent_id: str, state: State, *, who: str, why: str) -> IntentRecord:
    """End a signed intent whose fate a person has looked up on the chain.

    COMPLETED turns its reservation into spend, the others give it back. One that failed after it was COMPLETED can only
    stay so: what it spent is not given back.

    Raises:
        IntentInputError: it is not signed, nobody was asked to look at it, or it may still be executed.
        IntentNotFoundError, FenceLostError, LedgerUnavailableError
    """
    record = runtime.ledger.get(intent_id)
    if state not in SETTLED_BY_HAND:
        raise IntentInputError(f"cannot be {state}", field="--as", fix=f"use {', '.join(SETTLED_BY_HAND)}")
    if record.state is State.COMPLETED and record.attention == FAILED_LATE:
        return _acknowledge(runtime, record, state, who=who, why=why)
    if record.state not in {State.SIGNED, State.SUBMITTED}:
        raise IntentInputError(
            f"is {record.state}",
            field=intent_id,
            fix="only SIGNED and SUBMITTED intents can be settled by hand",
        )
    if not record.attention:
        raise IntentInputError(
            "is being followed and nothing is wrong with it", field=intent_id, fix="wait for its end"
        )
    left_s = record.dead_after_s - runtime.now_s
    if state is not State.COMPLETED and left_s > 0:
        raise IntentInputError(
            f"may still be executed for {left_s} s",
            field=intent_id,
            fix="wait until it cannot be executed any more",
        )
    return _move(runtime, record, state, who=who, why=why)


def _acknowledge(runtime: Runtime, record: IntentRecord, state: State, *, who: str, why: str) -> IntentRecord:
    if state is not State.COMPLETED:
        raise IntentInputError(
            "is COMPLETED, and what it spent is not given back",
            field=record.intent_id,
            fix="use --as COMPLETED once you have looked at the chain",
        )
    runtime.ledger.end_late(record.intent_id)
    runtime.ledger.annotate(
        record.intent_id,
        now_ms=runtime.now_ms(),
        fence=record.fence,
        attention="",
        reason=f"{record.reason}; seen by {who}: {why}",
    )
    return runtime.ledger.get(record.intent_id)


def _move(runtime: Runtime, record: IntentRecord, state: State, *, who: str, why: str) -> IntentRecord:
    now_ms = runtime.now_ms()
    runtime.ledger.transition(
        record.intent_id,
        fence=record.fence,
        from_state=record.state,
        to_state=state,
        who=who,
        why=why,
        now_ms=now_ms,
        due_ms=now_ms + runtime.settings.stuck_after_ms,
        fields={"entered_ms": str(now_ms)},
    )
    audit(runtime, record, state, why, now_ms=now_ms)
    if state is State.QUEUED:
        send(runtime, "prepare", record.intent)
    return runtime.ledger.get(record.intent_id)
