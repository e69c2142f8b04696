"""The first step: check, store once, tell the workers."""

from __future__ import annotations

from worker.execution.ask import check_legs
from worker.execution.attempt import send
from worker.execution.errors import IntentInputError
from worker.execution.runtime import Runtime
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.keys import require_idempotency_key
from worker.ledger.port import Enqueued
from worker.sessions.importing import RegisteredSession

MAX_CALLS = 10
"""Calls per chain that the API takes."""
DEADLINE_MIN_S, DEADLINE_MAX_S = 120, 86_400
"""How far ahead a custom deadline may lie (orchestrator.md 3)."""


def enqueue(runtime: Runtime, intent: TradeIntent, *, checked: bool = False) -> Enqueued:
    """Store an intent under its session and idempotency key, and send its first message.

    May be repeated: the same key and payload give the record that is there. Policies are judged by the worker, so
    that a refusal is a record too. ``checked``: the caller has just called ``check``.

    Raises:
        IntentInputError, TradeInputError: the intent cannot be executed as it is.
        SessionUnusableError: a source chain's session can sign no claim.
        SessionNotFoundError, IdempotencyConflictError, LedgerUnavailableError, SessionStoreUnavailableError
    """
    if not checked:
        check(runtime, intent)
    now_ms = runtime.now_ms()
    enqueued = runtime.ledger.enqueue(intent, now_ms=now_ms, due_ms=now_ms + runtime.settings.stuck_after_ms)
    if enqueued.record.state is State.QUEUED:
        send(runtime, "prepare", enqueued.record.intent)
    return enqueued


def check(runtime: Runtime, intent: TradeIntent, session: RegisteredSession | None = None) -> None:
    """Refuse what could not be enqueued; nothing is stored. ``session``: the intent's, if it is at hand.

    Raises:
        As ``enqueue``, but for conflicts and the ledger.
    """
    require_idempotency_key(intent.idempotency_key)
    session = session or runtime.sessions.get(intent.session_id)
    _check(intent, runtime.now_s)
    _check_chain(runtime, session)
    if intent.trade is not None:
        sources = tuple(runtime.sessions.get(name) for name in intent.trade.sources) or (session,)
        for source in sources:
            _check_chain(runtime, source)
        check_legs(session, sources, intent.trade)


def _check_chain(runtime: Runtime, session: RegisteredSession) -> None:
    if session.chain_id in runtime.chain_ids:
        return
    served = ", ".join(map(str, runtime.chain_ids))
    raise IntentInputError(
        f"is for chain {session.chain_id}, and this program is set to chain {served}",
        field="session",
        fix="set SESSION_EXECUTOR_CHAIN_ID and SESSION_EXECUTOR_RPC_URL, or use another session",
    )


def _check(intent: TradeIntent, now_s: int) -> None:
    trade = intent.trade
    if trade is not None:
        trade.check()
        if trade.deadline_s and not now_s + DEADLINE_MIN_S <= trade.deadline_s <= now_s + DEADLINE_MAX_S:
            raise IntentInputError(
                f"is not {DEADLINE_MIN_S} to {DEADLINE_MAX_S} s from now",
                field="trade.customDeadline",
                fix="give unix seconds in that range, or leave it out",
            )
    if not intent.calls and not (trade and (trade.tokens or trade.source_calls)):
        raise IntentInputError("holds no call", field="calls", fix="give at least one")
    if len(intent.calls) > MAX_CALLS:
        raise IntentInputError(
            f"holds {len(intent.calls)} calls; the API takes {MAX_CALLS}", field="calls", fix="split it"
        )
    if intent.not_after and intent.not_after <= now_s:
        raise IntentInputError("is in the past", field="not_after", fix="give a later time, or none")
