"""QUEUED → AUTHORIZED: is it allowed, what would be signed, and is there budget for it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from worker.execution import executor_nonce
from worker.execution.approval import RULES, end_if_late, wait_for_approval
from worker.execution.attempt import Attempt, held_back, run_stage
from worker.execution.errors import (
    ClockSkewError,
    EnablingError,
    PausedError,
    PolicyDeniedError,
    SessionUnusableError,
)
from worker.execution.flows import flows_of
from worker.execution.guardrails import (
    Part,
    charges,
    over_time,
    quote_left_s,
    refund_caps,
    require_session_left,
    require_within,
    rules_mark,
)
from worker.execution.metrics import REQUESTS, timed
from worker.execution.retry import read_again
from worker.execution.route_request import pre_claim_calls
from worker.execution.runtime import Runtime
from worker.execution.tokens import amount_format, amounts_of
from worker.execution.whitelist import read_whitelist
from worker.execution.wire import explain, quote_request
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.errors import GuardrailExceededError, LimitExceededError
from worker.orchestrator.jwt_auth import sponsored_digest
from worker.policies.base import CounterChange, Deny, Execution
from worker.policies.evaluate import evaluate
from worker.sessions import emissary
from worker.sessions.chains import chain_of
from worker.sessions.importing import RegisteredSession
from worker.signing.contracts import OWNABLE_VALIDATOR, SMART_SESSION_EMISSARY
from worker.signing.intent_op import IntentPayloads

ENABLE_POLICY = "enable"
"""Policy name of the counter that lets one intent at a time carry the enable signature."""


@dataclass(frozen=True, slots=True)
class ChainState:
    """What the chain says about a session at the moment.

    Attributes:
        enabled: whether the emissary has the permission.
        nonce: the account's enable nonce; None when it was not needed.
        time_s: time of the latest block, unix seconds.
    """

    enabled: bool
    nonce: int | None
    time_s: int


@dataclass(frozen=True, slots=True)
class _Handed:
    """What was read when an intent was authorized, and ``time.monotonic()`` at that moment."""

    intent_id: str
    session: RegisteredSession
    state: ChainState
    read_s: float


def read_for_signing(
    runtime: Runtime, intent_id: str, session_id: str
) -> tuple[RegisteredSession, ChainState]:
    """The session and what the chain says about it, for the stage after ``prepare``.

    That is what ``prepare`` has read itself, if it did so in this process a moment ago and found the session enabled. A
    pause or a change of the session is seen all the same, by the last look before the keys are taken.

    Raises:
        As ``usable_session`` and ``read_chain``.
    """
    handed = _handed_to(runtime, intent_id)
    runtime.handed = None
    if handed is not None and handed.session.session_id == session_id:
        return handed.session, handed.state
    session = usable_session(runtime, session_id)
    return session, read_chain(runtime, session)


def looked_at_ledger(runtime: Runtime, intent_id: str) -> bool:
    """Whether ``prepare`` has found the ledger whole for this intent a moment ago.

    What has lost something since then has lost the record of that moment, too.
    """
    return _handed_to(runtime, intent_id) is not None


def _handed_to(runtime: Runtime, intent_id: str) -> _Handed | None:
    handed = runtime.handed
    if not isinstance(handed, _Handed) or handed.intent_id != intent_id:
        return None
    return handed if time.monotonic() - handed.read_s < runtime.hand_over_s else None


def prepare(runtime: Runtime, intent_id: str) -> None:
    """Do the stage for one intent, unless the ledger was lost; see ``run_stage``."""
    if held_back(runtime, intent_id):
        return
    run_stage(runtime, intent_id, (State.QUEUED,), _work, Attempt.end_by_error)


def _work(attempt: Attempt) -> None:
    runtime, record = attempt.runtime, attempt.record
    if end_if_out_of_time(attempt):
        return
    if record.intent.trade is not None:
        from worker.execution.trade import prepare_trade  # noqa: PLC0415 - it uses what is below

        prepare_trade(attempt)
        return
    session = usable_session(runtime, record.intent.session_id)
    require_running(runtime, record.intent, session)
    if end_if_late(attempt, (session,)):
        return
    source = record.intent.source
    require_session_left(session, source, now_s=runtime.now_s)
    part = part_of(session, record.intent)
    require_within(part, record.intent.swaps)
    if wait_for_approval(attempt, (part,)):
        return
    read_s = time.monotonic()
    state = read_chain(runtime, session)
    enable = must_enable(session, state)
    calls = record.intent.calls
    runtime.handed = None
    # before the orchestrator hears of it: a refused intent costs no quote
    ours = pre_claim_calls(session, enable=enable)
    judge(runtime, session, state, (*ours, *calls), latest_s=runtime.now_s, ahead=len(ours))
    request = quote_request(
        runtime.orchestrator.version, session, calls, sponsored=record.intent.sponsored, enable=enable
    )
    with timed(REQUESTS, "quote"), runtime.tracing.step("orchestrator.quote"):
        quote = read_again(lambda: runtime.orchestrator.quote(request))
    now_s = runtime.now_s
    explained = explain(
        quote,
        session=session,
        calls=calls,
        enable=enable,
        now_s=now_s,
        min_left_s=quote_left_s(runtime.settings.min_quote_left_s, source, session),
        refunds=refund_caps(part.rules),
    )
    changes = judge(
        runtime, session, state, explained.executions, latest_s=explained.latest_s, ahead=len(ours)
    )
    if state.enabled:
        runtime.handed = _Handed(record.intent_id, session, state, read_s)
    try:
        attempt.move(
            State.AUTHORIZED,
            "every policy passed, the quote is what was asked for, budgets reserved",
            next_stage="sign",
            reserve=(*changes, *enable_once(session, enable=enable)),
            charges=charges((part,)),
            fields={
                "quote": quote.raw,
                "quote_expires_s": str(quote.expires_s),
                "orchestrator_id": quote.quote_id,
                "enable": "1" if enable else "",
                "digests": digests(explained.message),
                executor_nonce.FIELD: executor_nonce.nonces_of(explained.message),
                "api_version": quote.version,
                "intent_digest": sponsored_digest(request),
                RULES: rules_mark(((session, source),)),
            },
        )
    except GuardrailExceededError as error:
        raise over_time(error, (part,)) from None
    except LimitExceededError as error:
        if error.policy == ENABLE_POLICY:
            raise EnablingError(
                "another intent is enabling the session",
                field="session",
                fix="it goes on once that has ended",
            ) from None
        raise PolicyDeniedError(over_limit(error, session), field=error.policy) from None


def part_of(session: RegisteredSession, intent: TradeIntent) -> Part:
    """What an intent's calls take, and the guardrails that hold for them."""
    flows = flows_of(intent.calls, account=session.account, wrapped=chain_of(session.chain_id).wrapped)
    return Part(session, session.rules_of(intent.source), flows)


def over_limit(error: LimitExceededError, session: RegisteredSession) -> str:
    """Words for a limit that a reservation would break; ``session`` gives the chain whose tokens are named."""
    unit, write = amounts_of(session.chain_id, error.policy, error.token)
    rule = error.counter.rpartition(":rule")[2] if ":rule" in error.counter else ""
    return (
        f"{write(error.limit)}{unit} allowed{f' by rule {rule}' if rule else ''}, "
        f"{write(error.spent + error.reserved)} spent or reserved"
        + (f", {write(error.elsewhere)} used elsewhere" if error.elsewhere else "")
        + f", this call takes {write(error.amount)}"
        + (f" (call {error.call_index})" if error.call_index >= 0 else "")
    )


def end_if_out_of_time(attempt: Attempt) -> bool:
    """End an intent whose time or attempts have run out before it was signed; True if it did."""
    record, runtime = attempt.record, attempt.runtime
    not_after = record.intent.not_after
    if not_after and runtime.now_s > not_after:
        attempt.move(State.EXPIRED, f"not signed before its not_after time {not_after}")
        return True
    if record.attempts > runtime.settings.max_attempts:
        attempt.move(
            State.DEAD, f"gave up after {record.attempts - 1} attempts: {record.reason or 'no word'}"
        )
        return True
    return False


def usable_session(runtime: Runtime, session_id: str) -> RegisteredSession:
    """The session, if it may sign at all.

    Raises:
        SessionUnusableError: paused, of another chain, or with a validator whose signatures are not known.
        SessionNotFoundError, SessionCorruptError, SessionStoreUnavailableError
    """
    session = runtime.sessions.get(session_id)
    if session.paused:
        raise SessionUnusableError("is paused", field="session", fix="resume it, then submit again")
    if session.chain_id not in runtime.chain_ids:
        raise SessionUnusableError(
            f"is for chain {session.chain_id}, this worker serves chain {', '.join(map(str, runtime.chain_ids))}",
            field="session",
        )
    if session.data.session_validator != OWNABLE_VALIDATOR:
        raise SessionUnusableError(
            f"is checked by validator {session.data.session_validator}, whose signatures are not known",
            field="session",
            fix="use ECDSA owners with the default module",
        )
    return session


def require_running(runtime: Runtime, intent: TradeIntent, session: RegisteredSession) -> None:
    """Refuse what an operator has stopped, from Redis as it is now; for the session itself see ``usable_session``.

    Raises:
        PausedError: the account, the chain, the strategy or everything.
        LedgerUnavailableError
    """
    pause = runtime.pauses.stopping(intent, account=session.account, chain_id=session.chain_id)
    if pause is not None:
        kind = pause.switch.kind
        option = f"--{kind} {pause.switch.name}".rstrip()
        raise PausedError(
            f"is paused{f' by {pause.who}' if pause.who else ''}: {pause.why}",
            field="everything" if kind == "all" else kind,
            fix=f"`session-executor resume {option}`, then submit again",
        )


def read_chain(runtime: Runtime, session: RegisteredSession) -> ChainState:
    """Read the session's state and the chain's time, once for an attempt.

    Raises:
        ClockSkewError, ChainError, WrongChainError
    """
    chain = runtime.chain_of(session.chain_id)
    to = SMART_SESSION_EMISSARY
    call = emissary.is_permission_enabled_call(session.account, session.permission_id)
    answer, time_s = read_again(lambda: chain.call_and_time(to, call))
    enabled = emissary.decode_is_permission_enabled(answer)
    nonce = None
    if not enabled:
        nonce = read_enable_nonce(runtime, session.account, session.chain_id)
        if nonce != session.enable_nonce:
            # it may have been enabled between the two answers, and would look revoked
            enabled = emissary.decode_is_permission_enabled(read_again(lambda: chain.call(to, call)))
    skew = abs(runtime.now_s - time_s)
    if skew > runtime.settings.max_clock_skew_s:
        raise ClockSkewError(
            f"our clock and the latest block's differ by {skew} s, {runtime.settings.max_clock_skew_s} s are allowed",
            field="clock",
            fix="set the machine's clock by NTP; check that the RPC endpoint follows the chain",
        )
    return ChainState(enabled, nonce, time_s)


def read_enable_nonce(runtime: Runtime, account: str, chain_id: int | None = None) -> int:
    """The nonce that the account's next approval must name, on the program's own chain or another that it serves.

    Raises:
        ChainError, WrongChainError, EmissaryReplyError, UnservedChainError
    """
    chain = runtime.chain if chain_id is None else runtime.chain_of(chain_id)
    call = emissary.get_nonce_call(account)
    return emissary.decode_nonce(read_again(lambda: chain.call(SMART_SESSION_EMISSARY, call)))


def must_enable(session: RegisteredSession, state: ChainState) -> bool:
    """Whether the intent has to carry the user's approval.

    Raises:
        SessionUnusableError: the session is not enabled, and no approval is at hand that would still count.
    """
    if state.enabled:
        return False
    if not session.verify_executions:
        raise SessionUnusableError(
            "is not enabled on chain, and a session without actions cannot be enabled by an intent",
            field="session",
            fix="enable it by transaction first",
        )
    if session.enable_data is None:
        raise SessionUnusableError(
            "is not enabled on chain, and its file had no enableData",
            field="session",
            fix="let the user enable it, or import a file with enableData",
        )
    if state.nonce != session.enable_nonce:
        raise SessionUnusableError(
            f"is not enabled on chain, and the approval is for enable nonce {session.enable_nonce} while the account "
            f"is at {state.nonce}: it was used up or revoked",
            field="session",
            fix="ask the user for a new approval and import it",
        )
    return True


def judge(
    runtime: Runtime,
    session: RegisteredSession,
    state: ChainState,
    executions: tuple[Execution, ...],
    *,
    latest_s: int,
    ahead: int,
) -> tuple[CounterChange, ...]:
    """Every policy of every call; the counter changes to reserve.

    Calls are numbered as the caller gave them: the first ``ahead`` executions are ours.

    A session without actions signs plain ERC-1271, where no policy is consulted: its table is one sudo fallback.

    Raises:
        PolicyDeniedError
        ChainError, WrongChainError: the list of intent-execution cannot be read.
    """
    verdict = evaluate(
        session.table,
        executions,
        account=session.account,
        emissary=SMART_SESSION_EMISSARY,
        now_s=runtime.now_s,
        chain_s=state.time_s,
        latest_s=latest_s + runtime.settings.execution_margin_s,
        amount=amount_format(session.chain_id),
        whitelist=read_whitelist(runtime, session.table, executions, session.chain_id),
    )
    if isinstance(verdict, Deny):
        index = verdict.call_index - ahead
        where = f"call {index}: " if index >= 0 else ""
        raise PolicyDeniedError(f"{where}{verdict.reason}", field=verdict.policy)
    return tuple(replace(change, call_index=change.call_index - ahead) for change in verdict.changes)


def digests(message: IntentPayloads) -> str:
    """Every digest that signing the message means, as one text."""
    signed = (*message.origins, message.destination, *((message.target,) if message.target else ()))
    return " ".join(payload.digest.hex() for payload in signed)


def enable_once(session: RegisteredSession, *, enable: bool) -> tuple[CounterChange, ...]:
    """The counter of an enabling intent. The emissary takes an enable signature once: a counter with limit 1 lets one intent at a time try it."""
    if not enable:
        return ()
    return (CounterChange(f"{ENABLE_POLICY}:{session.enable_nonce}", 1, 1, ENABLE_POLICY, -1),)
