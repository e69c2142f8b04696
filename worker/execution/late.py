"""Intents that a word before the orchestrator's last completed: followed until that last word, which may be FAILED.

With ``SESSION_EXECUTOR_SUCCESS_STATUS`` FILLED or PRECONFIRMED an intent is COMPLETED, and its reservation spent, while
the orchestrator goes on (source claims, confirmations). What fails after that is reported and stays spent: the calls
may have been executed, and a budget that is given back by mistake can be spent twice on chain.
"""

from __future__ import annotations

import structlog

from worker.execution import metrics
from worker.execution.runtime import Runtime, version_of
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.ledger.errors import FenceLostError, LedgerUnavailableError
from worker.orchestrator.errors import OrchestratorError

log = structlog.get_logger(__name__)

#: How often a process that ticks looks for them, and how many of them at a time: nothing waits for what they become.
LOOK_EVERY_MS = 2_000
BATCH = 20
#: Between two polls of one: a tenth of its age, at least and at most this.
_FIRST_MS, _LONGEST_MS = 2_000, 300_000
#: Settlement layers claim within minutes to hours; what has no last word a day later is not asked for any more.
GIVE_UP_MS = 86_400_000
FAILED_LATE = "FAILED_LATE"
"""The attention that a late failure asks for; the record stays COMPLETED."""


def follow(runtime: Runtime, record: IntentRecord) -> None:
    """Have an intent followed that is about to be COMPLETED early. Raises LedgerUnavailableError."""
    runtime.ledger.watch_late(record.intent_id, due_ms=runtime.now_ms() + _FIRST_MS)


def look(runtime: Runtime) -> int:
    """Ask for the status of those whose time has come; returns how many there were.

    Raises:
        LedgerUnavailableError: the next look tries again.
    """
    now_ms = runtime.now_ms()
    if now_ms - runtime.looked_late_ms < LOOK_EVERY_MS:
        return 0
    runtime.looked_late_ms = now_ms
    push_back_ms = runtime.settings.http_timeout_ms + runtime.settings.stuck_after_ms
    records = runtime.ledger.take_late(now_ms=now_ms, push_back_ms=push_back_ms, limit=BATCH)
    for record in records:
        try:
            _ask(runtime, record)
        except (FenceLostError, LedgerUnavailableError) as error:
            log.warning("not noted", intent_id=record.intent_id, reason=str(error))
        except Exception as error:  # one record's trouble must not stop the others
            log.exception("poll failed", intent_id=record.intent_id, error=type(error).__name__)
    return len(records)


def _ask(runtime: Runtime, record: IntentRecord) -> None:
    ledger, now_ms = runtime.ledger, runtime.now_ms()
    if record.state is not State.COMPLETED:
        # the process that was about to complete it died in between, or has not done it yet
        if record.state is State.SUBMITTED or record.state is State.SIGNED:
            follow(runtime, record)
        else:
            ledger.end_late(record.intent_id)
        return
    age_ms = now_ms - int(record.fields.get("entered_ms") or record.updated_ms)
    if age_ms >= GIVE_UP_MS:
        log.warning(
            "no last word", intent_id=record.intent_id, orchestrator_status=record.orchestrator_status
        )
        ledger.end_late(record.intent_id)
        return
    try:
        status = runtime.orchestrator_of(version_of(record)).status(record.orchestrator_id)
    except OrchestratorError as error:
        log.info("no status", intent_id=record.intent_id, error=type(error).__name__)
        ledger.watch_late(record.intent_id, due_ms=now_ms + _delay(age_ms))
        return
    word = status.status
    facts = {"orchestrator_status": word}
    if status.fill_tx_hash:
        facts["tx_hash"] = status.fill_tx_hash
    if word in {"FAILED", "EXPIRED"}:
        early = record.fields.get("completed_by") or record.orchestrator_status
        why = f"the orchestrator reports {word} after {early}, which counted as done; its amounts stay spent"
        facts |= {"attention": "FAILED_LATE", "reason": why}
        ledger.annotate(record.intent_id, now_ms=now_ms, fence=record.fence, due_ms=0, **facts)
        ledger.end_late(record.intent_id, failed_ms=now_ms)
        metrics.ended_late(word)
        log.error("intent failed after it was completed", intent_id=record.intent_id, why=why)
        return
    if word != record.orchestrator_status:
        ledger.annotate(record.intent_id, now_ms=now_ms, fence=record.fence, due_ms=0, **facts)
    if word == "COMPLETED":
        ledger.end_late(record.intent_id)
    else:
        ledger.watch_late(record.intent_id, due_ms=now_ms + _delay(age_ms))


def _delay(age_ms: int) -> int:
    return min(max(age_ms // 10, _FIRST_MS), _LONGEST_MS)
