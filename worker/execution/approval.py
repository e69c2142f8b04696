"""An intent that guardrails let nobody sign yet, or any more: it waits for an operator, or its time has passed."""

from __future__ import annotations

from collections.abc import Sequence

from worker.execution.attempt import Attempt, send
from worker.execution.guardrails import Part, approval_needed, latest_s
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.ledger.redis_ledger import AWAITING_APPROVAL
from worker.sessions.importing import RegisteredSession

RULES = "rules"
"""Field of the record: the guardrails by which it was authorized, see ``rules_mark``."""

#: An intent without any end of its own is looked at again after so long; an approval brings it up at once.
_LOOK_AGAIN_MS = 31 * 86_400_000


def approve(runtime: Runtime, intent_id: str, *, who: str, why: str) -> IntentRecord:
    """Let an intent that waits for an operator go on. Who and when is kept in its record and its history.

    Raises:
        IllegalTransitionError: it does not wait for an approval.
        IntentNotFoundError, LedgerUnavailableError
    """
    record = runtime.ledger.approve(intent_id, who=who, why=why, now_ms=runtime.now_ms())
    send(runtime, "prepare", record.intent)
    return record


def end_if_late(attempt: Attempt, sessions: Sequence[RegisteredSession]) -> bool:
    """End an intent whose guardrails find it too late to be signed; True if it did."""
    until_s, whose = latest_s(attempt.record, sessions)
    if not until_s or attempt.runtime.now_s <= until_s:
        return False
    attempt.move(
        State.EXPIRED,
        f"guardrail max_lateness: {attempt.runtime.now_s - until_s} s too late to be signed; {whose}",
    )
    return True


def wait_for_approval(attempt: Attempt, parts: Sequence[Part]) -> bool:
    """Leave an intent that an operator has to confirm first; True if it was left."""
    record, runtime = attempt.record, attempt.runtime
    why = next((words for part in parts if (words := approval_needed(part))), "")
    if not why or record.fields.get("approved_by"):
        return False
    ends = [
        end_s
        for end_s in (record.intent.not_after, latest_s(record, [part.session for part in parts])[0])
        if end_s
    ]
    due_ms = (min(ends) + 1) * 1000 if ends else runtime.now_ms() + _LOOK_AGAIN_MS
    attempt.leave(due_ms=due_ms, attention=AWAITING_APPROVAL, reason=why)
    return True
