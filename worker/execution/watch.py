"""Following what was sent until it is final, and finding what was left lying: one batch per tick.

Timing is that of SDK 1.15.0's ``waitForExecution`` (orchestrator.md 7), kept as due times in the ledger's open index
instead of sleeps. Where the SDK gives up (210 s) or raises (404, 502), we ask for attention and go on.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import structlog

from worker.errors import ExecutorError
from worker.execution import executor_nonce, late
from worker.execution.attempt import (
    MAYBE,
    STAGES,
    audit,
    describe,
    give_back,
    quarantined,
    refuse_forged,
    send,
)
from worker.execution.metrics import REQUESTS, timed
from worker.execution.retry import SPREAD_MS, attention_of_wait, plan_for
from worker.execution.runtime import Runtime, version_of
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.ledger.errors import (
    FenceLostError,
    IllegalTransitionError,
    LedgerLostError,
    LedgerUnavailableError,
)
from worker.ledger.marks import StateDirError
from worker.orchestrator.client import RATE_LIMIT_MS
from worker.orchestrator.errors import (
    AuthError,
    HeldBackError,
    NotFoundError,
    OrchestratorError,
    RateLimitedError,
    UnavailableError,
)
from worker.orchestrator.port import IntentStatus

log = structlog.get_logger(__name__)

#: Records looked at in one tick, and how many of them at the same time.
BATCH = 100
PARALLEL = 8
#: How long a tick begins polls. With an orchestrator that hangs, each takes its whole timeout, and a batch of them would
#: take longer than a task may.
POLLING_S = 10.0
#: How long an intent of some age is left alone when they are too many for the SDK's cadence: then the young ones, and what
#: a crash has left lying, still come up in time. Halved at each poll once they are not.
CROWDED_MS = 60_000
#: How often a process that ticks holds the ledger against its machine's marks: one round trip.
LOOK_EVERY_MS = 5_000
#: The SDK's first and longest wait after a 500 or 503.
_ERROR_FIRST_MS, _ERROR_MAX_MS = 1_000, 10_000
#: Polls in a row without an answer before somebody should look: some 30 s.
_SILENCE = 5
#: A 404 right after a submit is normal; asking for attention before this would cry wolf.
_NOT_FOUND_ATTENTION_MS = 10_000
#: The words that mean done, by the configured first one that counts.
_DONE = {
    "PRECONFIRMED": frozenset({"PRECONFIRMED", "FILLED", "COMPLETED"}),
    "FILLED": frozenset({"FILLED", "COMPLETED"}),
    "COMPLETED": frozenset({"COMPLETED"}),
}
_GOING_ON = frozenset({"PENDING", "CLAIMED", "PRECONFIRMED", "FILLED"})
#: Words that a version does not have: there they say nothing, whatever the setting counts as done.
_UNKNOWN_IN = {"2026-01.alps": frozenset[str](), "2026-04.blanc": frozenset({"PRECONFIRMED"})}


def tick(runtime: Runtime) -> int:
    """Look at every open record whose time has come; returns how many there were.

    Raises:
        LedgerUnavailableError: the next tick tries again.
    """
    give_back(runtime)
    _look_at_the_ledger(runtime)
    late.look(runtime)
    # whoever dies with a record in hand gives it back after this long
    push_back_ms = runtime.settings.http_timeout_ms + runtime.settings.stuck_after_ms
    records = runtime.ledger.take_due(
        now_ms=runtime.now_ms(),
        push_back_ms=push_back_ms,
        limit=BATCH,
        on_broken=partial(refuse_forged, runtime),
    )
    runtime.crowded = _is_crowded(runtime, len(records))
    to_poll = [record for record in records if _is_out(record)]
    for record in sorted(records, key=lambda record: not record.intent.urgent):
        if not _is_out(record):
            _ask_for_signer(runtime, record)
            send(runtime, STAGES[record.state], record.intent)
    to_poll.sort(key=lambda record: not record.intent.urgent)
    until_s = time.monotonic() + POLLING_S
    if len(to_poll) == 1:
        _poll_safely(runtime, to_poll[0], until_s)
    elif to_poll:
        with ThreadPoolExecutor(min(PARALLEL, len(to_poll)), thread_name_prefix="poll") as pool:
            list(pool.map(partial(_poll_safely, runtime, until_s=until_s), to_poll))
    return len(records)


def _is_crowded(runtime: Runtime, taken: int) -> bool:
    """Whether what is still due is more than one process's ticks get through within the SDK's longer delay."""
    settings = runtime.settings
    most = BATCH * settings.poll_later_ms // settings.tick_ms
    return taken >= BATCH and runtime.ledger.count_due(now_ms=runtime.now_ms()) > most


def _spaced(runtime: Runtime, record: IntentRecord, delay_ms: int) -> int:
    """The SDK's delay, or a longer one for an intent of some age while there are too many of them; never for an urgent one."""
    if record.intent.urgent or _watched_ms(runtime, record) < runtime.settings.poll_later_after_ms:
        return delay_ms
    last_ms = int(record.fields.get("spaced_ms") or 0)
    return max(delay_ms, CROWDED_MS if runtime.crowded else last_ms // 2)


def _ask_for_signer(runtime: Runtime, record: IntentRecord) -> None:
    """Signing has queues of its own: that nobody serves them shows only in records that nobody takes."""
    entered_ms = int(record.fields.get("entered_ms") or record.updated_ms)
    waited_ms = runtime.now_ms() - entered_ms
    # a claim since then, even one whose worker died: somebody serves them
    taken = bool(record.fields.get("lease_who")) or record.updated_ms > entered_ms
    if (
        record.state is not State.AUTHORIZED
        or taken
        or record.attention
        or waited_ms < 2 * runtime.settings.stuck_after_ms
    ):
        return
    with suppress(FenceLostError):  # it was taken at this moment
        runtime.ledger.annotate(
            record.intent_id,
            now_ms=runtime.now_ms(),
            fence=record.fence,
            attention="NO_SIGNER",
            reason=f"authorized {waited_ms // 1000} s ago, and no worker has taken it to sign it",
        )


def _look_at_the_ledger(runtime: Runtime) -> None:
    """Notice a loss although nobody trades: the marks of this machine may be the only ones that show it."""
    if runtime.now_ms() - runtime.looked_ms < LOOK_EVERY_MS:
        return
    runtime.looked_ms = runtime.now_ms()
    try:
        runtime.epoch.look(who=runtime.who, now_ms=runtime.now_ms())
    except (LedgerLostError, StateDirError) as error:
        # what was sent is followed all the same
        log.error("nothing is signed", reason=str(error))  # noqa: TRY400


def _is_out(record: IntentRecord) -> bool:
    """Whether the orchestrator may know it."""
    return record.state is State.SUBMITTED or (
        record.state is State.SIGNED and record.fields.get("sent") == MAYBE
    )


def _poll_safely(runtime: Runtime, record: IntentRecord, until_s: float) -> None:
    if time.monotonic() > until_s:
        return  # its turn comes with what was pushed back
    try:
        with runtime.tracing.stage("poll", record):
            poll(runtime, record)
    except (FenceLostError, IllegalTransitionError) as error:
        log.info("another has taken the intent", intent_id=record.intent_id, reason=str(error))
    except (LedgerUnavailableError, LedgerLostError) as error:
        log.warning("the ledger does not answer", intent_id=record.intent_id, reason=str(error))
    except Exception as error:  # one record's trouble must not stop the others
        log.exception("poll failed", intent_id=record.intent_id, error=type(error).__name__)


def poll(runtime: Runtime, record: IntentRecord) -> None:
    """Ask for the status of one intent that was, or may have been, sent, and act on the answer.

    Raises:
        FenceLostError, IllegalTransitionError, LedgerUnavailableError
    """
    if int(record.fields.get("lease_until_ms", "0") or "0") > runtime.now_ms():
        return  # being sent at this moment; its lease's end is its due time
    try:
        with timed(REQUESTS, "status"), runtime.tracing.step("orchestrator.status"):
            status = runtime.orchestrator_of(version_of(record)).status(record.orchestrator_id)
    except NotFoundError:
        _not_found(runtime, record)
        return
    except OrchestratorError as error:
        _no_status(runtime, record, error)
        return
    _act(runtime, record, status)


def _act(runtime: Runtime, record: IntentRecord, status: IntentStatus) -> None:
    word = status.status
    facts = {"orchestrator_status": word, "poll_failures": "0", "missing_since_ms": ""}
    if status.fill_tx_hash:
        facts["tx_hash"] = status.fill_tx_hash
    known = word not in _UNKNOWN_IN[version_of(record)]
    if known and word in _DONE[runtime.settings.success_status]:
        if word != "COMPLETED":
            # first, so that no crash in between leaves it unwatched
            late.follow(runtime, record)
            facts["completed_by"] = word
        _move(runtime, record, State.COMPLETED, f"the orchestrator reports {word}", facts)
        return
    if word in {"FAILED", "EXPIRED"}:
        _move(runtime, record, State(word), f"the orchestrator reports {word}", facts)
        return
    delay_ms, attention, reason = _next_poll(runtime, record), "", ""
    if not known or word not in _GOING_ON:
        attention, reason = "UNKNOWN_STATUS", f"the orchestrator reports {word!r}, which is no known status"
    elif _watched_ms(runtime, record) >= runtime.settings.watch_attention_ms:
        attention, reason = "SLOW", f"still {word} after {_watched_ms(runtime, record) // 1000} s"
    if _watched_ms(runtime, record) >= runtime.settings.watch_attention_ms:
        delay_ms = max(delay_ms, runtime.settings.watch_stale_ms)
    facts |= {"attention": attention, "reason": reason, "poll_delay_ms": str(_next_poll(runtime, record))}
    spaced_ms = _spaced(runtime, record, delay_ms)
    if spaced_ms > delay_ms:
        # not all at the same moment again
        spread_ms = random.randrange(spaced_ms // 4)  # noqa: S311 - a spread, no secret
        delay_ms = max(delay_ms, spaced_ms - spread_ms)
        facts["spaced_ms"] = str(spaced_ms)
    elif record.fields.get("spaced_ms"):
        facts["spaced_ms"] = ""
    due_ms = runtime.now_ms() + delay_ms
    if record.state is State.SIGNED:  # the lost reply is found: it was accepted
        facts["watch_from_ms"] = str(runtime.now_ms())
        _move(runtime, record, State.SUBMITTED, f"found at the orchestrator as {word}", facts, due_ms=due_ms)
        return
    runtime.ledger.annotate(
        record.intent_id, now_ms=runtime.now_ms(), fence=record.fence, due_ms=due_ms, **facts
    )


def _not_found(runtime: Runtime, record: IntentRecord) -> None:
    """A 404. One says little (a replica that lags, a proxy), and of an accepted intent even many prove nothing.

    Before anything is given up, the chain is asked. Only what was never seen accepted ends here, once its quote has
    run out and the 404 has lasted. An accepted one may have been executed before it was forgotten: it keeps its
    reservation until a person has looked at the chain.
    """
    now_ms = runtime.now_ms()
    grace_ms = runtime.settings.not_found_grace_s * 1000
    missing_since_ms = int(record.fields.get("missing_since_ms") or now_ms)
    dead_ms = max(record.dead_after_s * 1000, missing_since_ms) + grace_ms
    if now_ms >= dead_ms and _ended_by_the_chain(runtime, record):
        return
    if record.state is State.SIGNED and now_ms >= dead_ms:
        _move(
            runtime,
            record,
            State.EXPIRED,
            f"its quote ran out, and for {grace_ms // 1000} s the orchestrator has not known it",
            {},
        )
        return
    given_up = quarantined(runtime, record)
    if record.state is State.SIGNED and not given_up and now_ms // 1000 < record.quote_expires_s:
        # not known: the same bytes are sent again; the quote and the nonce allow one execution at most
        runtime.ledger.annotate(
            record.intent_id,
            now_ms=now_ms,
            fence=record.fence,
            due_ms=now_ms + runtime.settings.stuck_after_ms,
            attention="SUBMIT_UNKNOWN",
            reason="the orchestrator does not know it; the same bytes are sent again",
            missing_since_ms=str(missing_since_ms),
        )
        send(runtime, "submit", record.intent)
        return
    long_ago = _watched_ms(runtime, record) >= _NOT_FOUND_ATTENTION_MS
    fields = (
        {"attention": "NOT_FOUND", "reason": "the orchestrator does not know it (any more)"}
        if long_ago and not given_up
        else {}
    )
    runtime.ledger.annotate(
        record.intent_id,
        now_ms=now_ms,
        fence=record.fence,
        due_ms=now_ms + _error_delay(record),
        poll_failures=str(_failures(record) + 1),
        missing_since_ms=str(missing_since_ms),
        **fields,
    )


def _ended_by_the_chain(runtime: Runtime, record: IntentRecord) -> bool:
    """Whether nothing is left to do: it was executed, or it waits because the chain cannot be asked or a person must."""
    try:
        used = executor_nonce.executed_on(runtime, record)
        attention, reason = "NOT_FOUND", f"a part of it was executed on {', '.join(map(str, sorted(used)))}"
    except ExecutorError as error:
        used = None
        attention, reason = plan_for(error).attention or "RPC", describe(error)
    if used is not None and not used:
        return False
    if executor_nonce.claims(record):
        reason = f"its tokens were taken on {', '.join(map(str, sorted(used or ())))}" if used else reason
    elif used == executor_nonce.chains_of(record):
        why = "the orchestrator does not know it, and its nonce is used on chain: it was executed"
        _move(runtime, record, State.COMPLETED, why, {})
        return True
    now_ms = runtime.now_ms()
    runtime.ledger.annotate(
        record.intent_id,
        now_ms=now_ms,
        fence=record.fence,
        due_ms=now_ms + _error_delay(record),
        attention=attention,
        reason=reason,
        poll_failures=str(_failures(record) + 1),
    )
    return True


def _no_status(runtime: Runtime, record: IntentRecord, error: OrchestratorError) -> None:
    current_ms = int(record.fields.get("poll_delay_ms", str(runtime.settings.poll_initial_ms)))
    if isinstance(error, RateLimitedError):
        asked = RATE_LIMIT_MS if error.retry_after_ms is None else error.retry_after_ms
        delay_ms, failures = max(asked, current_ms), _failures(record)
        if isinstance(error, HeldBackError):  # all of them wait for the same moment
            delay_ms += random.randrange(SPREAD_MS)  # noqa: S311 - a spread, no secret
    else:
        delay_ms, failures = _error_delay(record), _failures(record) + 1
        if isinstance(error, UnavailableError):
            delay_ms = max(delay_ms, error.retry_after_ms or 0)
    fields = {"poll_failures": str(failures)}
    if isinstance(error, AuthError):
        fields |= {"attention": "ORCHESTRATOR_AUTH", "reason": describe(error)}
    elif failures >= _SILENCE and not record.attention:
        fields |= {"attention": "ORCHESTRATOR", "reason": describe(error)}
    elif attention_of_wait(delay_ms) and not record.attention:
        fields |= {"attention": attention_of_wait(delay_ms), "reason": describe(error)}
    log.info("no status", intent_id=record.intent_id, retry_in_ms=delay_ms, error=describe(error))
    now_ms = runtime.now_ms()
    runtime.ledger.annotate(
        record.intent_id, now_ms=now_ms, fence=record.fence, due_ms=now_ms + delay_ms, **fields
    )


def _move(
    runtime: Runtime,
    record: IntentRecord,
    to_state: State,
    why: str,
    fields: dict[str, str],
    *,
    due_ms: int = 0,
) -> None:
    now_ms = runtime.now_ms()
    runtime.ledger.transition(
        record.intent_id,
        fence=record.fence,
        from_state=record.state,
        to_state=to_state,
        who=runtime.who,
        why=why,
        now_ms=now_ms,
        due_ms=due_ms,
        fields={"entered_ms": str(now_ms)} | fields,
    )
    audit(runtime, record, to_state, why, now_ms=now_ms)


def _watched_ms(runtime: Runtime, record: IntentRecord) -> int:
    return runtime.now_ms() - int(record.fields.get("watch_from_ms", str(record.updated_ms)))


def _next_poll(runtime: Runtime, record: IntentRecord) -> int:
    settings = runtime.settings
    early = _watched_ms(runtime, record) < settings.poll_later_after_ms
    return settings.poll_initial_ms if early else settings.poll_later_ms


def _failures(record: IntentRecord) -> int:
    return int(record.fields.get("poll_failures", "0"))


def _error_delay(record: IntentRecord) -> int:
    return min(_ERROR_FIRST_MS * 2 ** min(_failures(record), 10), _ERROR_MAX_MS)
