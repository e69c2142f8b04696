"""The stages of an intent that is a trade: as ``prepare`` and ``sign`` do for calls on one chain, for several sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from worker.execution import executor_nonce
from worker.execution.approval import RULES, end_if_late, wait_for_approval
from worker.execution.ask import Ask, Leg, check_legs
from worker.execution.attempt import Attempt
from worker.execution.errors import EnablingError, PolicyDeniedError, UnexplainedQuoteError
from worker.execution.explain_claims import is_permit2_approval
from worker.execution.explain_trade import ExplainedTrade, explain_trade
from worker.execution.explain_trade_blanc import explain_blanc_trade
from worker.execution.flows import flows_of
from worker.execution.guardrails import (
    Part,
    charges,
    over_time,
    quote_left_s,
    refund_caps,
    require_fee,
    require_rate,
    require_session_left,
    require_within,
    rules_mark,
)
from worker.execution.metrics import KEYS, REQUESTS, timed
from worker.execution.prepare import (
    ENABLE_POLICY,
    ChainState,
    digests,
    enable_once,
    judge,
    must_enable,
    over_limit,
    read_chain,
    require_running,
    usable_session,
)
from worker.execution.retry import read_again
from worker.execution.route_request import DUMMY_PRE_CLAIM
from worker.execution.runtime import Runtime, version_of
from worker.execution.sign import UsedKeys, emissary_form, signed_by_all, stopped_at_last
from worker.execution.trade_request import blanc_trade_request, trade_request
from worker.execution.wire import ALPS, blanc_mock, stored_quote, submit_body
from worker.intents.model import LATEST, TradeIntent
from worker.intents.states import State
from worker.intents.trade import Trade
from worker.keys.port import KeyGiver
from worker.ledger.errors import GuardrailExceededError, LimitExceededError
from worker.orchestrator.jwt_auth import sponsored_digest
from worker.orchestrator.port import ApiVersion, Quote
from worker.policies.base import CounterChange
from worker.sessions.chains import chain_of
from worker.sessions.importing import RegisteredSession
from worker.signing import session_signature
from worker.signing.claim_policy import claim_policy_data
from worker.signing.intent_op import IntentPayloads, TypedPayload
from worker.signing.messages import Permit2Message

ENABLES = "enable_chains"
"""Field of the record: the chains on which what is signed enables the session, in ascending order."""


def prepare_trade(attempt: Attempt) -> None:
    """QUEUED → AUTHORIZED."""
    runtime, record = attempt.runtime, attempt.record
    ask, states = read_ask(runtime, record.intent)
    # before the orchestrator hears of it: a refused trade costs no quote
    sessions = tuple(leg.session for leg in ask.legs)
    if end_if_late(attempt, sessions):
        return
    source = record.intent.source
    for session in sessions:
        require_session_left(session, source, now_s=runtime.now_s)
    parts = trade_parts(ask, source)
    for part in parts:
        require_within(part, record.intent.swaps)
    if wait_for_approval(attempt, parts):
        return
    for leg in ask.legs:
        ours = (*ask.pre_claim(leg), *(ask.calls if leg == ask.target else ()))
        if ours:
            judge(
                runtime,
                leg.session,
                states[leg.chain_id],
                ours,
                latest_s=runtime.now_s,
                ahead=_ahead(ask, leg),
            )
    request = _request(ask, runtime.orchestrator.version)
    with timed(REQUESTS, "quote"), runtime.tracing.step("orchestrator.quote"):
        quote = read_again(lambda: runtime.orchestrator.quote(request))
    least_s = quote_left_s(runtime.settings.min_quote_left_s, source, *sessions)
    explained = _explained(runtime, quote, ask, source, min_left_s=least_s)
    parts = trade_parts(ask, source, explained)
    require_trade_within(ask, parts, explained, quote.cost)
    reserve = _judge_all(runtime, ask, states, explained)
    try:
        attempt.move(
            State.AUTHORIZED,
            "every policy passed on every chain, the quote is what was asked for, budgets reserved",
            next_stage="sign",
            reserve=reserve,
            charges=charges(parts),
            fields={
                "quote": quote.raw,
                "quote_expires_s": str(quote.expires_s),
                "orchestrator_id": quote.quote_id,
                LATEST: str(explained.latest_s),
                ENABLES: _enables(ask),
                "digests": digests(explained.message),
                executor_nonce.FIELD: executor_nonce.nonces_of(explained.message),
                "api_version": quote.version,
                "intent_digest": sponsored_digest(request),
                RULES: rules_mark((session, source) for session in sessions),
            },
        )
    except GuardrailExceededError as error:
        raise over_time(error, parts) from None
    except LimitExceededError as error:
        if error.policy == ENABLE_POLICY:
            raise EnablingError(
                "another intent is enabling a session",
                field="session",
                fix="it goes on once that has ended",
            ) from None
        raise PolicyDeniedError(over_limit(error, ask.target.session), field=error.policy) from None


def sign_trade(attempt: Attempt) -> None:
    """AUTHORIZED → SIGNED, when the quote still lives."""
    runtime, record = attempt.runtime, attempt.record
    ask, states = read_ask(runtime, record.intent)
    if _enables(ask) != record.fields.get(ENABLES, ""):
        attempt.move(
            State.QUEUED, "a session's state on chain changed; a new quote is needed", next_stage="prepare"
        )
        return
    quote = stored_quote(
        version_of(record), record.quote, quote_id=record.orchestrator_id, expires_s=record.quote_expires_s
    )
    explained = _explained(runtime, quote, ask, record.intent.source, min_left_s=0)
    _judge_all(runtime, ask, states, explained)
    if digests(explained.message) != record.fields.get("digests"):
        raise UnexplainedQuoteError(
            "is not the one that was authorized",
            field="quote",
            fix="the record was altered: look at who writes to Redis",
        )
    # the last moment: what was read above may be seconds old
    if stopped_at_last(attempt, tuple(leg.session for leg in ask.legs)):
        return
    with timed(KEYS), runtime.tracing.step("keys.sign"):
        used = UsedKeys(runtime.signing_keys(*(leg.session.session_id for leg in ask.legs)))
    members = trade_signatures(explained.message, ask, used)
    owners = dict.fromkeys(owner for leg in ask.legs for owner in leg.session.owners)
    attempt.move(
        State.SIGNED,
        f"signed by {', '.join(owners)}",
        next_stage="submit",
        fields={
            "body": submit_body(quote, members),
            "sent": "",
            "signed_digests": digests(explained.message),
            "key_versions": used.words(),
        },
    )


def _request(ask: Ask, version: ApiVersion) -> dict[str, Any]:
    if version == ALPS:
        return trade_request(ask)
    return blanc_trade_request(
        ask, {leg.chain_id: blanc_mock(leg.session, enable=leg.enable) for leg in ask.legs}
    )


def _explained(runtime: Runtime, quote: Quote, ask: Ask, source: str, *, min_left_s: int) -> ExplainedTrade:
    explain = explain_trade if quote.version == ALPS else explain_blanc_trade
    return explain(
        quote,
        ask,
        arbiters=runtime.settings.arbiters,
        now_s=runtime.now_s,
        min_left_s=min_left_s,
        refunds={leg.chain_id: refund_caps(leg.session.rules_of(source)) for leg in ask.legs},
    )


def trade_parts(ask: Ask, source: str, explained: ExplainedTrade | None = None) -> tuple[Part, ...]:
    """What a trade takes on each chain, and the guardrails that hold there.

    Args:
        ask: the trade.
        source: the intent's.
        explained: its quote; without one, the most that the trade allows.
    """
    parts: list[Part] = []
    for leg in ask.legs:
        chain_id, target = leg.chain_id, leg == ask.target
        if explained is None:
            calls = [*ask.trade.calls_on(chain_id), *(ask.calls if target else ())]
            taken = {item.token: item.amount for item in ask.trade.spend if item.chain_id == chain_id}
        else:
            ours = {*ask.trade.calls_on(chain_id), *ask.calls}
            calls = [
                call
                for call in explained.executions.get(chain_id, ())
                # an approval to Permit2 that the route adds takes nothing: its spender does, and is judged by itself
                if call != DUMMY_PRE_CLAIM and (call in ours or not is_permit2_approval(call))
            ]
            taken = explained.taken.get(chain_id, {})
            if not target and not calls and not taken:
                continue
        spender = explained.spenders.get(chain_id) if explained is not None else None
        flows = flows_of(
            calls,
            account=ask.account,
            wrapped=chain_of(chain_id).wrapped,
            taken=taken,
            receivers=(ask.recipient,) if target and ask.trade.tokens else (),
            spenders=(spender,) if spender else (),
        )
        own = leg.session.session_id == ask.target.session.session_id
        parts.append(Part(leg.session, leg.session.rules_of(source), flows, own))
    return tuple(parts)


def require_trade_within(
    ask: Ask, parts: Sequence[Part], explained: ExplainedTrade, cost: Mapping[str, Any]
) -> None:
    """Hold what a trade's quote takes, costs and brings against every guardrail that does not depend on time.

    Raises:
        GuardrailDeniedError
    """
    sold: Counter[str] = Counter()
    for tokens in explained.taken.values():
        sold.update(tokens)
    fees = trade_fees(ask, explained, cost)
    for part in parts:
        require_within(part)
        for rules in part.rules:
            require_rate(part, rules, sold, explained.delivered)
            if part.own:
                require_fee(part, rules, fees)


def trade_fees(ask: Ask, explained: ExplainedTrade, cost: Mapping[str, Any]) -> dict[str, int]:
    """What a trade costs, in tokens of the target chain, base units.

    The larger of what the quote states, and of what is taken of a token and does not arrive: a token on two chains is the
    same one if its symbol is.
    """
    fees: dict[str, int] = {}
    stated = cost.get("tokensReceived")
    for item in cast("list[Any]", stated) if isinstance(stated, list) else []:
        entry = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
        fee, token = str(entry.get("fee", "0")), str(entry.get("tokenAddress", "")).lower()
        if fee.isascii() and fee.isdigit():
            fees[token] = max(fees.get(token, 0), int(fee))
    if len(explained.delivered) != 1:
        return fees
    [(token, arrived)] = explained.delivered.items()
    there = chain_of(ask.target.chain_id).token_at(token)
    taken = 0
    for chain_id, tokens in explained.taken.items():
        for address, amount in tokens.items():
            here = chain_of(chain_id).token_at(address)
            if there is None or here is None or here.symbol != there.symbol:
                return fees
            # rounded up: what is lost in it is no gain
            taken += -(-amount * 10**there.decimals // 10**here.decimals)
    fees[token] = max(fees.get(token, 0), taken - arrived)
    return fees


def read_ask(runtime: Runtime, intent: TradeIntent) -> tuple[Ask, Mapping[int, ChainState]]:
    """A trade with its sessions and the state of each on its chain.

    Raises:
        SessionUnusableError, PausedError: one of them may not sign.
        IntentInputError: they do not go together.
        SessionNotFoundError, SessionCorruptError, SessionStoreUnavailableError, ChainError, ClockSkewError
    """
    trade = intent.trade or Trade()
    target = usable_session(runtime, intent.session_id)
    sources = tuple(usable_session(runtime, name) for name in trade.sources) or (target,)
    check_legs(target, sources, trade)
    states: dict[int, ChainState] = {}
    legs: dict[int, Leg] = {}
    for session in (*sources, target):
        if session.chain_id not in legs:
            require_running(runtime, intent, session)
            states[session.chain_id] = state = read_chain(runtime, session)
            legs[session.chain_id] = Leg(session, must_enable(session, state))
    ask = Ask(
        legs[target.chain_id],
        tuple(legs[session.chain_id] for session in sources),
        intent.calls,
        trade,
        intent.sponsored,
    )
    return ask, states


def trade_signatures(message: IntentPayloads, ask: Ask, keys: KeyGiver) -> dict[str, Any]:
    """The members that signing adds to a trade's intentOp, in the SDK's order (signing.md 5).

    Each origin is signed with the session of its chain; the last of them again, and the executor's message, with the
    target chain's.

    Args:
        message: the payloads of the intentOp.
        ask: whose sessions sign.
        keys: where their keys are.

    Raises:
        KeyStoreError: a key cannot be had.
        UnexplainedQuoteError: a signature does not recover to its owner, or a chain has no session.
        SignatureFaultError: a signature does not recover to the key that made it.
        SigningInputError: a list of the message is too long for the claim policy's data.
    """
    target = ask.target
    kind, account = target.session.account_kind, target.session.account
    origins = [(payload, _leg(ask, payload)) for payload in message.origins]
    hashes = {
        payload.digest: session_signature.erc1271_hash(kind, account, payload.digest)
        for payload in message.origins
    }
    # sessions of several chains mostly have the same keys, which are then fetched once
    wanted: dict[tuple[str, ...], dict[bytes, None]] = {}
    for payload, leg in (*origins, (message.destination, target)):
        digests_of_owners = wanted.setdefault(leg.session.owners, {})
        digests_of_owners[hashes[payload.digest]] = None
        if leg.session.verify_executions:
            digests_of_owners[payload.digest] = None
    if message.target is not None and target.session.verify_executions:
        wanted[target.session.owners][message.target.digest] = None
    signed = {owners: signed_by_all(owners, keys, tuple(listed)) for owners, listed in wanted.items()}

    def as_account(payload: TypedPayload, session: RegisteredSession) -> str:
        claim = b""
        if isinstance(payload.message, Permit2Message) and session.claim_policies:
            claim = claim_policy_data(payload.message, session.claim_policies[0])
        made = signed[session.owners][hashes[payload.digest]]
        return "0x" + session_signature.erc1271(kind, account, session.permission_id, made, claim).hex()

    def as_emissary(payload: TypedPayload, leg: Leg) -> str:
        made = signed[leg.session.owners][payload.digest]
        return "0x" + emissary_form(leg.session, made, enable=leg.enable).hex()

    members: dict[str, Any] = {
        "originSignatures": [
            {
                "preClaimSig": as_emissary(payload, leg),
                "notarizedClaimSig": as_account(payload, leg.session),
            }
            if leg.session.verify_executions
            else as_account(payload, leg.session)
            for payload, leg in origins
        ]
    }
    if not target.session.verify_executions:
        return {**members, "destinationSignature": as_account(message.destination, target.session)}
    members["destinationSignature"] = as_emissary(message.destination, target)
    if message.target is not None:
        members["targetExecutionSignature"] = as_emissary(message.target, target)
    return members


def _leg(ask: Ask, payload: TypedPayload) -> Leg:
    leg = ask.leg(payload.chain_id)
    if leg is None:
        raise UnexplainedQuoteError(
            f"is {payload.chain_id}, for which the trade has no session",
            field=f"intentOp.elements[{payload.element}].chainId",
        )
    return leg


def _judge_all(
    runtime: Runtime, ask: Ask, states: Mapping[int, ChainState], explained: ExplainedTrade
) -> tuple[CounterChange, ...]:
    """Every policy of every call on every chain; the counter changes to reserve, each in its session's budget."""
    changes: list[CounterChange] = []
    for leg in ask.legs:
        own = leg.session.session_id == ask.target.session.session_id
        digits = "" if own else leg.session.session_id.removeprefix("ses_")
        found: tuple[CounterChange, ...] = ()
        executions = explained.executions.get(leg.chain_id, ())
        if executions:
            ahead = len(executions) - len(ask.calls) if own else 0
            found = judge(
                runtime,
                leg.session,
                states[leg.chain_id],
                executions,
                latest_s=explained.latest_s,
                ahead=ahead,
            )
        changes += (
            replace(change, session=digits)
            for change in (*found, *enable_once(leg.session, enable=leg.enable))
        )
    return tuple(changes)


def _ahead(ask: Ask, leg: Leg) -> int:
    return len(ask.pre_claim(leg)) if leg == ask.target else 0


def _enables(ask: Ask) -> str:
    return " ".join(str(chain_id) for chain_id in sorted(leg.chain_id for leg in ask.legs if leg.enable))
