"""One attempt at one stage of one intent: the claim, the fence, and what an error does to the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import structlog

from worker.errors import ExecutorError, ServiceError
from worker.execution import metrics
from worker.execution.retry import LEDGER_LOST, Move, Plan, attention_of_wait, backoff_ms, plan_for
from worker.execution.runtime import Runtime
from worker.execution.suspects import SUSPECT_WAIT_MS, Suspects
from worker.execution.tracing import trace_id
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL, State
from worker.ledger import seals
from worker.ledger.errors import (
    FenceLostError,
    IllegalTransitionError,
    IntentNotFoundError,
    LedgerInconsistentError,
    LedgerLostError,
    LedgerUnavailableError,
)
from worker.ledger.keys import session_of
from worker.ledger.port import Charge
from worker.ledger.redis_ledger import FORGED
from worker.orchestrator.errors import HeldBackError
from worker.policies.base import CounterChange

log = structlog.get_logger(__name__)

MAYBE = "maybe"
"""Value of the field ``sent`` of a signed record whose bytes may have left us; see ``submit.py``."""
QUARANTINED = "QUARANTINED"
"""Attention code of an intent that killed its workers: nothing is signed or sent for it any more."""

STAGES = {State.QUEUED: "prepare", State.AUTHORIZED: "sign", State.SIGNED: "submit"}
"""The stage that takes an intent on from each state in which one is due."""

_AFTER_MOVE = {Move.REJECT: State.REJECTED, Move.FAIL: State.FAILED}


class Attempt:
    """A claimed record and the ways to leave it.

    Args:
        runtime: the process's services.
        record: as the claim returned it.
    """

    def __init__(self, runtime: Runtime, record: IntentRecord) -> None:
        self.runtime = runtime
        self.record = record
        self.left = False

    def move(
        self,
        to_state: State,
        why: str,
        *,
        next_stage: str = "",
        due_ms: int = 0,
        reserve: Sequence[CounterChange] = (),
        charges: Sequence[Charge] = (),
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Change the state and send the next stage's message.

        ``due_ms`` 0 with a next stage means: look again if nobody took the message for a while.

        Raises:
            FenceLostError, IllegalTransitionError, LimitExceededError, LedgerUnavailableError
            GuardrailExceededError, GuardrailsChangedError
        """
        runtime, record = self.runtime, self.record
        now_ms = runtime.now_ms()
        if next_stage and not due_ms:
            due_ms = now_ms + runtime.settings.stuck_after_ms
        stored = {"attention": "", "entered_ms": str(now_ms)} | dict(fields or {})
        runtime.ledger.transition(
            record.intent_id,
            fence=record.fence,
            from_state=record.state,
            to_state=to_state,
            who=runtime.who,
            why=why,
            now_ms=now_ms,
            due_ms=due_ms,
            reserve=reserve,
            charges=charges,
            fields=stored,
        )
        self.left = True
        audit(runtime, record, to_state, why, now_ms=now_ms)
        if next_stage:
            send(runtime, next_stage, record.intent)

    def leave(self, *, due_ms: int, counts: bool = True, **fields: str) -> None:
        """Give up the claim without a change of state. Raises FenceLostError, LedgerUnavailableError.

        ``counts`` False: nothing was tried, so this was no attempt.
        """
        runtime = self.runtime
        runtime.ledger.release_claim(
            self.record.intent_id,
            fence=self.record.fence,
            due_ms=due_ms,
            now_ms=runtime.now_ms(),
            counts=counts,
            **fields,
        )
        self.left = True

    def note(self, *, due_ms: int = 0, **fields: str) -> None:
        """Store fields and keep the claim. Raises FenceLostError, LedgerUnavailableError."""
        self.runtime.ledger.annotate(
            self.record.intent_id,
            now_ms=self.runtime.now_ms(),
            fence=self.record.fence,
            due_ms=due_ms,
            **fields,
        )

    def end_by_error(self, error: BaseException) -> None:
        """Do what the table says about an error that came before anything was signed."""
        plan = plan_for(error)
        words = describe(error)
        if plan.move is not Move.RETRY:
            self.move(_AFTER_MOVE[plan.move], words)
            return
        self.try_later(error, plan, words)

    def try_later(self, error: BaseException, plan: Plan, words: str) -> None:
        """Leave the record where it is, to be taken up again after a wait."""
        wait_ms = backoff_ms(self.record.attempts, error)
        if plan.attention == FORGED:
            record = self.record
            self.runtime.audit.tell_once("forged", intent_id=record.intent_id, state=record.state, why=words)
        log.warning(
            "attempt failed",
            intent_id=self.record.intent_id,
            state=self.record.state,
            attempt=self.record.attempts,
            retry_in_ms=wait_ms,
            error=words,
        )
        self.leave(
            due_ms=self.runtime.now_ms() + wait_ms,
            counts=not isinstance(error, HeldBackError),
            attention=plan.attention or attention_of_wait(wait_ms),
            reason=words,
        )


def run_stage(
    runtime: Runtime,
    intent_id: str,
    states: Iterable[State],
    work: Callable[[Attempt], None],
    on_error: Callable[[Attempt, Exception], None],
) -> None:
    """Claim an intent, do one stage of work, and never let an error leave the record without a due time.

    Nothing happens when the record is in another state or somebody else holds it: messages may come twice. A record that
    this program did not write is taken out of the work.
    """
    give_back(runtime)
    with Suspects(runtime.settings.state_dir) as suspects:
        record = _claim(runtime, intent_id, states, suspects)
        if record is None:
            return
        metrics.claimed(record, now_ms=runtime.now_ms())
        runtime.tracing.waited(record, now_ms=runtime.now_ms())
        with runtime.tracing.stage(STAGES[record.state], record):
            _attempt(Attempt(runtime, record), work, on_error)


def _claim(
    runtime: Runtime, intent_id: str, states: Iterable[State], suspects: Suspects
) -> IntentRecord | None:
    try:
        record = runtime.ledger.claim(
            intent_id,
            states=states,
            lease_ms=runtime.settings.claim_lease_ms,
            now_ms=runtime.now_ms(),
            who=runtime.who,
            if_suspect=suspects.take,
        )
    except LedgerUnavailableError:
        runtime.hanging.add(intent_id)
        raise
    except LedgerInconsistentError as error:
        refuse_forged(runtime, intent_id, error.message)
        return None
    if record is None:
        log.debug("nothing to do", intent_id=intent_id)
        if suspects.busy:
            _wait_for_the_other_suspect(runtime, intent_id)
    return record


def _wait_for_the_other_suspect(runtime: Runtime, intent_id: str) -> None:
    # the due index has it anyway
    with suppress(FenceLostError, IntentNotFoundError, LedgerInconsistentError):
        now_ms = runtime.now_ms()
        runtime.ledger.annotate(
            intent_id,
            now_ms=now_ms,
            fence=runtime.ledger.get(intent_id).fence,
            due_ms=now_ms + SUSPECT_WAIT_MS,
        )
    log.info("waits: an attempt of it has died, as of another one that is being tried", intent_id=intent_id)


def _attempt(
    attempt: Attempt,
    work: Callable[[Attempt], None],
    on_error: Callable[[Attempt, Exception], None],
) -> None:
    runtime, record, intent_id = attempt.runtime, attempt.record, attempt.record.intent_id
    try:
        if quarantined(runtime, record):
            _quarantine(attempt)
            return
        try:
            problem = forgery(runtime, record)
        except (ServiceError, OSError) as error:  # nobody can tell, and nothing was done yet
            attempt.try_later(error, plan_for(error), describe(error))
            return
        if problem:
            _refuse(attempt, problem)
            return
        try:
            work(attempt)
        except (FenceLostError, IllegalTransitionError, LedgerUnavailableError):
            raise
        except Exception as error:
            # whatever went wrong, the record must not be left alone
            if attempt.left:
                raise
            on_error(attempt, error)
    except (FenceLostError, IllegalTransitionError) as error:
        log.info("another has taken the intent", intent_id=intent_id, reason=str(error))
    except LedgerUnavailableError as error:
        # given back when Redis is; else the lease ends by itself and the due index brings the record back
        runtime.hanging.add(intent_id)
        log.warning("the ledger does not answer", intent_id=intent_id, reason=str(error))


def held_back(runtime: Runtime, intent_id: str) -> bool:
    """Whether nothing may be signed, because the ledger has forgotten something; the intent then says so.

    Asked before the claim: an intent that waits for a person uses up none of its attempts.

    Raises:
        StateDirError, IntentNotFoundError, LedgerUnavailableError
    """
    try:
        runtime.epoch.require_whole(session_of(intent_id), who=runtime.who, now_ms=runtime.now_ms())
    except LedgerLostError as error:
        log.error("nothing is signed", intent_id=intent_id, reason=str(error))  # noqa: TRY400 - our own words say all
        _say_lost(runtime, intent_id, str(error))
        return True
    return False


def _say_lost(runtime: Runtime, intent_id: str, why: str) -> None:
    try:
        record = runtime.ledger.get(intent_id)
    except LedgerInconsistentError as error:
        refuse_forged(runtime, intent_id, error.message)
        return
    if record.state in FINAL:
        return
    with suppress(FenceLostError):  # somebody else is about to say the same
        now_ms = runtime.now_ms()
        runtime.ledger.annotate(
            intent_id,
            now_ms=now_ms,
            fence=record.fence,
            due_ms=now_ms + runtime.settings.stuck_after_ms,
            attention=LEDGER_LOST,
            reason=why,
        )


def forgery(runtime: Runtime, record: IntentRecord) -> str:
    """Why a record must not be worked on: it is not ours, or an old copy of one that was signed or ended; ``""`` if it may.

    Raises:
        KeyStoreError: the keys of the seals cannot be had, so nobody can tell.
        StateDirError
    """
    problem = seals.problem_of(runtime.sealer, record)
    if problem:
        return f"its record in Redis was not written by this program: {problem}"
    if record.state in {State.QUEUED, State.AUTHORIZED} and runtime.marks.is_closed(record.intent_id):
        return "its record in Redis is an old copy, or was forgotten: this machine has seen it signed, or ended, before"
    return ""


def refuse_forged(runtime: Runtime, intent_id: str, why: str) -> None:
    """Take a record that is not ours out of the work, and say so. Raises LedgerUnavailableError."""
    refused = runtime.ledger.refuse(intent_id, who=runtime.who, why=why, now_ms=runtime.now_ms())
    log.error("forged record", intent_id=intent_id, reason=why, refused=refused)


def _refuse(attempt: Attempt, why: str) -> None:
    record = attempt.record
    if record.state is not State.SIGNED:
        refuse_forged(attempt.runtime, record.intent_id, why)
        return
    # what was signed may be out, so it is followed; these bytes are not sent
    attempt.runtime.audit.tell_once("forged", intent_id=record.intent_id, state=record.state, why=why)
    log.error("forged record", intent_id=record.intent_id, reason=why, refused=False)
    attempt.leave(
        due_ms=attempt.runtime.now_ms() + attempt.runtime.settings.stuck_after_ms,
        attention=FORGED,
        reason=why,
    )


def give_back(runtime: Runtime) -> None:
    """Give back the leases that this process holds since Redis failed in the middle of its work.

    Otherwise the records would lie there until their leases end, and count as deaths of this process.

    Raises:
        LedgerUnavailableError: not yet; nothing is forgotten.
    """
    while runtime.hanging:
        intent_id = next(iter(runtime.hanging))
        with suppress(FenceLostError, IntentNotFoundError, LedgerInconsistentError):
            record = runtime.ledger.get(intent_id)
            if record.fields.get("lease_who") == runtime.who:
                now_ms = runtime.now_ms()
                runtime.ledger.release_claim(intent_id, fence=record.fence, due_ms=now_ms, now_ms=now_ms)
        runtime.hanging.discard(intent_id)


def quarantined(runtime: Runtime, record: IntentRecord) -> bool:
    """Whether so many attempts at the record's present stage died with their workers that nobody may try again."""
    return int(record.fields.get("deaths", "0")) >= runtime.settings.max_worker_deaths


def _quarantine(attempt: Attempt) -> None:
    """Before signing the intent is DEAD. What is signed may be out already: it is watched, but not sent again."""
    record = attempt.record
    why = f"its last {record.fields['deaths']} attempts died with their workers; not tried again"
    if record.state is State.SIGNED:
        log.error("intent quarantined", intent_id=record.intent_id, state=record.state, why=why)
        attempt.leave(due_ms=attempt.runtime.now_ms(), sent=MAYBE, attention=QUARANTINED, reason=why)
        return
    attempt.move(State.DEAD, why, fields={"attention": QUARANTINED})


def send(runtime: Runtime, stage: str, intent: TradeIntent) -> None:
    """Send a stage's message; a failure is only logged, since the due index finds the intent again."""
    intent_id = intent.intent_id
    try:
        (runtime.dispatch_urgent if intent.urgent else runtime.dispatch)(stage, intent_id)
    except Exception as error:  # noqa: BLE001 - kombu, redis and socket errors alike
        log.warning("message not sent", stage=stage, intent_id=intent_id, error=type(error).__name__)


def audit(runtime: Runtime, record: IntentRecord, to_state: State, why: str, *, now_ms: int) -> None:
    """One log line for each change of state, its figures, and the end of its trace."""
    metrics.moved(record, to_state, why, now_ms=now_ms)
    if to_state in FINAL:
        runtime.tracing.ended(record, to_state, why, now_ms=now_ms)
    log.info(
        "intent ended" if to_state in FINAL else "intent moved",
        intent_id=record.intent_id,
        session_id=record.intent.session_id,
        source=record.intent.source,
        trace_id=trace_id(record.intent_id),
        from_state=record.state,
        to_state=to_state,
        why=why,
    )


def describe(error: BaseException) -> str:
    """Words for the record: our own errors say what is wrong, of others only the type is safe to show."""
    return str(error) if isinstance(error, ExecutorError) else f"unexpected {type(error).__name__}"
