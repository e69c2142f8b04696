"""SIGNED → SUBMITTED: send the stored bytes, and never mistake *maybe sent* for *failed*.

The field ``sent`` of the record says what is known about the body:

- ``""``       it has not left us,
- ``refused``  the orchestrator has seen it, and said that it did not take it (429, 401),
- ``maybe``    it was on its way when something broke, or the orchestrator does not say what became of it.

What has never left us may be quoted and signed anew once its quote has run out, if there is still time
(``not_after``); everything else can be executed as long as its nonce is unused, for what is signed has no deadline.

It is set to ``maybe`` before the first byte leaves, so that a crash in between is found as *maybe sent*. Sending the
same bytes again is always safe: a quote is taken once, and the executor's nonce is used once.
"""

from __future__ import annotations

import structlog

from worker.execution.attempt import MAYBE, Attempt, describe, run_stage
from worker.execution.metrics import REQUESTS, timed
from worker.execution.retry import attention_of_wait, backoff_ms, plan_for, send_again
from worker.execution.runtime import Runtime, version_of
from worker.intents.states import State
from worker.ledger.marks import StateDirError
from worker.orchestrator.errors import (
    AuthError,
    HeldBackError,
    NeverSentError,
    RateLimitedError,
    RequestRefusedError,
    SimulationFailedError,
)
from worker.orchestrator.port import SubmitResult

log = structlog.get_logger(__name__)

_REFUSED = "refused"
#: How long after a send whose fate is unknown the orchestrator is asked for the first time.
_ASK_AFTER_MS = 500


def submit(runtime: Runtime, intent_id: str) -> None:
    """Do the stage for one intent; see ``run_stage``."""
    run_stage(runtime, intent_id, (State.SIGNED,), _work, _on_error)


def _work(attempt: Attempt) -> None:
    runtime, record = attempt.runtime, attempt.record
    before = record.fields.get("sent", "")
    if runtime.now_s >= record.quote_expires_s:
        if before:  # only the watch may end it
            attempt.leave(due_ms=runtime.now_ms(), sent=MAYBE)
        elif record.intent.not_after > runtime.now_s:
            attempt.move(
                State.QUEUED,
                "the quote ran out before anything of it left us; a new one is needed",
                next_stage="prepare",
            )
        else:
            attempt.move(
                State.EXPIRED, "the quote ran out before the signed intent was sent; nothing left us"
            )
        return
    # on disk before a byte leaves: an old copy of the record is not quoted and signed a second time
    try:
        runtime.marks.close(record.intent_id)
    except StateDirError as error:
        attempt.try_later(error, plan_for(error), describe(error))
        return
    attempt.note(sent=MAYBE)
    try:
        with timed(REQUESTS, "submit"), runtime.tracing.step("orchestrator.submit"):
            result = send_again(
                lambda: runtime.orchestrator_of(version_of(record)).submit(
                    record.body, intent_digest=record.fields.get("intent_digest", "")
                )
            )
    except (NeverSentError, RateLimitedError, AuthError) as error:
        # certainly not accepted, by this try: what is known goes back to what it was, but that they have seen it
        known = before if isinstance(error, NeverSentError | HeldBackError) else before or _REFUSED
        wait_ms = backoff_ms(record.attempts, error)
        attention = plan_for(error).attention or attention_of_wait(wait_ms)
        log.warning("not sent", intent_id=record.intent_id, retry_in_ms=wait_ms, error=describe(error))
        attempt.leave(
            due_ms=runtime.now_ms() + wait_ms,
            counts=not isinstance(error, HeldBackError),
            sent=known,
            attention=attention,
            reason=describe(error),
        )
        return
    except (RequestRefusedError, SimulationFailedError) as error:
        if before == MAYBE:
            raise  # an earlier try of the same bytes may be running
        attempt.move(State.FAILED, f"the orchestrator refused it: {describe(error)}")
        return
    _accepted(attempt, result, before)


def _accepted(attempt: Attempt, result: SubmitResult, before: str) -> None:
    runtime, record = attempt.runtime, attempt.record
    if result.status == "FAILED":
        if before == MAYBE:
            attempt.leave(
                due_ms=runtime.now_ms(), attention="SUBMIT_UNKNOWN", reason="answered FAILED to a repeat"
            )
            return
        attempt.move(
            State.FAILED,
            "the orchestrator's simulation of it failed; it was not executed",
            fields={"orchestrator_status": "FAILED"},
        )
        return
    attempt.move(
        State.SUBMITTED,
        "accepted by the orchestrator",
        due_ms=runtime.now_ms(),
        fields={
            "orchestrator_id": result.intent_id or record.orchestrator_id,
            "orchestrator_status": result.status,
            "watch_from_ms": str(runtime.now_ms()),
            "reason": "",
        },
    )


def _on_error(attempt: Attempt, error: Exception) -> None:
    """No answer, a 5xx, a 404 or 409, nonsense, a bug: the bytes may have been accepted, so ask for the nonce."""
    log.warning("fate of the submit is unknown", intent_id=attempt.record.intent_id, error=describe(error))
    attempt.leave(
        due_ms=attempt.runtime.now_ms() + _ASK_AFTER_MS,
        sent=MAYBE,
        attention="SUBMIT_UNKNOWN",
        reason=describe(error),
    )
