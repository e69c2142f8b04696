"""The first step: check, store once, tell the workers."""

from __future__ import annotations

from worker.execution.attempt import send
from worker.execution.errors import IntentInputError
from worker.execution.runtime import Runtime
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.port import Enqueued

MAX_CALLS = 10
"""Calls per chain that the API takes."""


def enqueue(runtime: Runtime, intent: TradeIntent) -> Enqueued:
    """Store an intent under its session and idempotency key, and send its first message.

    May be repeated: the same key and payload give the record that is there. Policies are judged by the worker, so
    that a refusal is a record too.

    Raises:
        IntentInputError: the intent cannot be executed as it is.
        SessionNotFoundError, IdempotencyConflictError, LedgerUnavailableError, SessionStoreUnavailableError
    """
    session = runtime.sessions.get(intent.session_id)
    _check(intent, runtime.now_s)
    if session.chain_id != runtime.settings.chain_id:
        raise IntentInputError(
            f"is for chain {session.chain_id}, and this program is set to chain {runtime.settings.chain_id}",
            field="session",
            fix="set SESSION_EXECUTOR_CHAIN_ID and SESSION_EXECUTOR_RPC_URL, or use another session",
        )
    now_ms = runtime.now_ms()
    enqueued = runtime.ledger.enqueue(intent, now_ms=now_ms, due_ms=now_ms + runtime.settings.stuck_after_ms)
    if enqueued.record.state is State.QUEUED:
        send(runtime, "prepare", enqueued.record.intent)
    return enqueued


def _check(intent: TradeIntent, now_s: int) -> None:
    if not intent.calls:
        raise IntentInputError("holds no call", field="calls", fix="give at least one")
    if len(intent.calls) > MAX_CALLS:
        raise IntentInputError(
            f"holds {len(intent.calls)} calls; the API takes {MAX_CALLS}", field="calls", fix="split it"
        )
    if intent.not_after and intent.not_after <= now_s:
        raise IntentInputError("is in the past", field="not_after", fix="give a later time, or none")
