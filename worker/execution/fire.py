"""A strategy's fire time becomes an intent, once: however often and by whom it is woken up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from worker.errors import InputError
from worker.execution.enqueue import enqueue
from worker.execution.runtime import Runtime
from worker.execution.tokens import token_table
from worker.ledger.port import Enqueued
from worker.strategies.load import load_strategies
from worker.strategies.model import Strategy
from worker.strategies.schedule import due_slot, latest_slot
from worker.strategies.transfer import intent_of

log = structlog.get_logger(__name__)

FIELD = "SESSION_EXECUTOR_STRATEGIES_FILE"


def read_strategies(path: Path | None, chain_id: int) -> tuple[Strategy, ...]:
    """The strategies of the settings' file; none if no file is set.

    Raises:
        StrategyError: the file cannot be used.
    """
    return () if path is None else load_strategies(path, tokens=token_table(chain_id))


def fire(runtime: Runtime, strategies: Sequence[Strategy], name: str) -> Enqueued | None:
    """Enqueue what a strategy's due slot asks for.

    The slot is found from the clock, not from the message, and its idempotency key from the slot: two schedulers, a
    message delivered twice and an operator's hand make one intent. The ledger's slot key comes second, so that a crash
    in between cannot lose a slot.

    Returns:
        The intent, created by this call or there before; None when no slot is due.

    Raises:
        InputError: no such strategy, or its session is not imported.
        IntentInputError, IdempotencyConflictError, LedgerUnavailableError, SessionStoreUnavailableError
    """
    strategy = next((item for item in strategies if item.name == name), None)
    if strategy is None:
        names = ", ".join(item.name for item in strategies)
        raise InputError(
            f"has no strategy {name!r}", field=FIELD, fix=f"known: {names}" if names else "set it"
        )
    slot_s = due_slot(strategy, runtime.now_s)
    if slot_s is None:
        latest_s = latest_slot(strategy, runtime.now_s)
        log.info("no slot is due", strategy=name, enabled=strategy.enabled, latest_s=latest_s)
        return None
    session = runtime.sessions.get(strategy.session)
    intent = intent_of(
        strategy,
        slot_s,
        session_id=session.session_id,
        session_account=session.account,
        chain_id=session.chain_id,
    )
    enqueued = enqueue(runtime, intent)
    first = runtime.ledger.claim_slot(strategy.name, slot_s, intent_id=intent.intent_id)
    log.info(
        "slot fired" if first else "slot was fired before",
        strategy=name,
        slot_s=slot_s,
        intent_id=intent.intent_id,
    )
    return enqueued
