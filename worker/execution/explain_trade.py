"""No blind signing of trades: every field of a route's elements is what was asked for, or a reason to refuse.

A trade is settled in one of two ways. ``INTENT_EXECUTOR`` runs calls on one chain and takes nothing else. Every other
layer takes tokens by Permit2: one message per source chain says what may be taken (``permitted``), by whom
(``spender``), until when (``deadline``), and for what: the mandate with recipient, tokens out, target chain, fill expiry
and the calls on both sides. The message is rebuilt by ``worker/signing`` from the fields that are checked here.
``explain_claims.py`` judges it; here is what the wire has besides. This is alps; ``explain_trade_blanc.py`` reads the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from worker.execution.ask import Ask
from worker.execution.explain import MAX_QUOTE_LIFE_S, check_life, check_refund, refuse
from worker.execution.explain_claims import (
    PERMIT2_LAYERS,
    ClaimPaths,
    calls_of,
    check_claims,
    check_only,
    check_out,
    check_vt,
)
from worker.intents.trade import MAX_SOURCES
from worker.orchestrator.port import Quote
from worker.policies.base import Execution
from worker.policies.guardrails import GasRefundCap
from worker.sessions.v2 import known_arbiters
from worker.signing.contracts import ZERO_ADDRESS
from worker.signing.errors import SigningInputError
from worker.signing.intent_op import IntentPayloads, TypedPayload, payloads, read_ops
from worker.signing.messages import Permit2Message, SingleChainOps, TokenAmount
from worker.signing.structs import Ops

EXECUTOR_LAYER = "INTENT_EXECUTOR"
#: ``encodedVal`` of real routes is some hundred bytes.
MAX_QUALIFIER_BYTES = 16_384
_TRANSFER = bytes.fromhex("a9059cbb")


@dataclass(frozen=True, slots=True)
class ExplainedTrade:
    """A quote that is what was asked for.

    Attributes:
        executions: per chain every call that the signatures would allow there, in order.
        latest_s: the latest unix second at which anything can be executed.
        message: what is to be signed.
        taken: chain -> token -> base units that are claimed there.
        spenders: chain -> who claims them.
        delivered: token of the target chain -> base units that arrive.
    """

    executions: Mapping[int, tuple[Execution, ...]]
    latest_s: int
    message: IntentPayloads
    taken: Mapping[int, Mapping[str, int]] = field(default_factory=dict[int, Mapping[str, int]])
    spenders: Mapping[int, str] = field(default_factory=dict[int, str])
    delivered: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(
        cls, executions: Mapping[int, tuple[Execution, ...]], latest_s: int, message: IntentPayloads
    ) -> ExplainedTrade:
        """With what the message's claims take and deliver."""
        taken: dict[int, Counter[str]] = {}
        delivered: Counter[str] = Counter()
        spenders: dict[int, str] = {}
        for payload in message.origins:
            claim = payload.message
            if not isinstance(claim, Permit2Message):
                continue
            spenders[payload.chain_id] = claim.spender
            counted = taken.setdefault(payload.chain_id, Counter())
            for item in claim.permitted:
                counted[item.token] += item.amount
            for item in claim.mandate.target.token_out:
                delivered[item.token] += item.amount
        return cls(executions, latest_s, message, taken, spenders, delivered)


def explain_trade(
    quote: Quote,
    ask: Ask,
    *,
    arbiters: Collection[str] = (),
    now_s: int,
    min_left_s: int,
    refunds: Mapping[int, Mapping[str, GasRefundCap]] | None = None,
) -> ExplainedTrade:
    """Hold an alps quote against a trade.

    Args:
        quote: the orchestrator's answer.
        ask: the trade.
        arbiters: addresses that may be a spender besides those that the SDK knows, lower-case.
        now_s: our clock, unix seconds.
        min_left_s: how long the quote must still live.
        refunds: what may be signed as gas refund, by chain and token; nothing by default.

    Raises:
        UnexplainedQuoteError: names the field.
        PolicyDeniedError: a claim policy of a session says no.
        StaleQuoteError: it expires too soon; a new quote may be fine.
    """
    op = quote.intent_op
    sponsor = op.get("sponsor")
    if not isinstance(sponsor, str) or sponsor.lower() != ask.account:
        refuse("intentOp.sponsor", f"is {str(sponsor)[:60]}, not our account {ask.account}")
    check_life(quote.expires_s, now_s, min_left_s, "intentOp.expires")
    if ask.trade.deadline_s and quote.expires_s > ask.trade.deadline_s:
        refuse("intentOp.expires", f"is later than the deadline {ask.trade.deadline_s} that was asked for")
    if quote.cost.get("hasFulfilledAll") is not True:
        refuse("intentCost.hasFulfilledAll", "is not true: the route would not deliver all that was asked")
    elements = _elements(op)
    layers = [
        _settlement(element, f"intentOp.elements[{index}]", ask, refunds or {})
        for index, element in enumerate(elements)
    ]
    try:
        message = payloads(op, ask.account, with_target=ask.target.session.verify_executions)
    except SigningInputError as error:
        refuse(f"intentOp.{error.field}", error.message)
    if EXECUTOR_LAYER in layers:
        executions, latest_s = _check_executor(message, layers, elements, ask, now_s)
    else:
        executions, latest_s = _check_permit2(
            message, elements, ask, arbiters=known_arbiters() | frozenset(arbiters), now_s=now_s
        )
    return ExplainedTrade.of(executions, max(quote.expires_s, latest_s), message)


def _elements(op: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = op.get("elements")
    if not isinstance(listed, list) or not 1 <= len(cast("list[Any]", listed)) <= MAX_SOURCES:
        refuse("intentOp.elements", f"must hold 1 to {MAX_SOURCES} elements, one for each source chain used")
    return [
        _object(item, f"intentOp.elements[{index}]") for index, item in enumerate(cast("list[Any]", listed))
    ]


def _settlement(
    element: Mapping[str, Any], path: str, ask: Ask, refunds: Mapping[int, Mapping[str, GasRefundCap]]
) -> str:
    """The settlement layer of an element, its context explained."""
    mandate = _object(element.get("mandate"), f"{path}.mandate")
    qualifier = _object(mandate.get("qualifier"), f"{path}.mandate.qualifier")
    path = f"{path}.mandate.qualifier.settlementContext"
    context = _object(qualifier.get("settlementContext"), path)
    layer, funding = context.get("settlementLayer"), context.get("fundingMethod")
    if layer == EXECUTOR_LAYER:
        if funding != "NO_FUNDING":
            refuse(f"{path}.fundingMethod", f"is {funding!r}, and {EXECUTOR_LAYER} takes no funding")
    elif layer not in PERMIT2_LAYERS:
        refuse(f"{path}.settlementLayer", f"is {str(layer)[:40]!r}, which is not known")
    elif ask.trade.settlement_layers and layer not in ask.trade.settlement_layers:
        refuse(
            f"{path}.settlementLayer",
            f"is {layer}, and {', '.join(ask.trade.settlement_layers)} were asked for",
        )
    elif funding != "PERMIT2":
        refuse(
            f"{path}.fundingMethod",
            f"is {str(funding)[:40]!r}: the route would need a Compact signature, which SDK 1.15.0 slices wrongly for "
            "plain tokens, so it is not supported",
            fix="ask for other settlement layers",
        )
    if context.get("using7579") is not True:
        refuse(f"{path}.using7579", f"must be true for a {ask.target.session.account_kind} account")
    refund = context.get("gasRefund")
    if refund is not None or layer == EXECUTOR_LAYER:
        found = _object(refund, f"{path}.gasRefund")
        where = f"{path}.gasRefund"
        check_refund(
            str(found.get("token")).lower(),
            {name: _whole(found.get(name), f"{where}.{name}") for name in ("exchangeRate", "overhead")},
            refunds.get(_whole(element.get("chainId"), "chainId"), {}),
            where,
        )
    return str(layer)


# --- calls of the account by the Intent Executor: nothing is claimed


def _check_executor(
    message: IntentPayloads,
    layers: Sequence[str],
    elements: Sequence[Mapping[str, Any]],
    ask: Ask,
    now_s: int,
) -> tuple[dict[int, tuple[Execution, ...]], int]:
    if len(layers) != 1:
        refuse("intentOp.elements", f"must hold exactly one element with {EXECUTOR_LAYER}")
    path = "intentOp.elements[0]"
    element = elements[0]
    [origin] = message.origins
    executed = origin.message
    assert isinstance(executed, SingleChainOps)
    target = ask.target.chain_id
    if origin.chain_id != target:
        refuse(f"{path}.mandate.destinationChainId", f"is {origin.chain_id}, not {target}")
    if str(element.get("chainId")) != str(target):
        refuse(f"{path}.chainId", f"is {element.get('chainId')}, not {target}")
    for name in ("idsAndAmounts", "spendTokens"):
        if element.get(name, []) != []:
            refuse(f"{path}.{name}", f"would take tokens, and {EXECUTOR_LAYER} takes none")
    mandate = _object(element.get("mandate"), f"{path}.mandate")
    recipient = str(mandate.get("recipient")).lower()
    if recipient != ask.recipient:
        refuse(f"{path}.mandate.recipient", f"is {recipient[:60]}, not {ask.recipient}")
    deadline = _whole(mandate.get("fillDeadline"), f"{path}.mandate.fillDeadline")
    if deadline > now_s + MAX_QUOTE_LIFE_S:
        refuse(f"{path}.mandate.fillDeadline", f"is more than {MAX_QUOTE_LIFE_S} s away")
    before = _raw_ops(mandate.get("preClaimOps"), f"{path}.mandate.preClaimOps")
    where = f"{path}.mandate"
    check_vt(before, f"{where}.preClaimOps", ask)
    check_vt(executed.op, f"{where}.destinationOps", ask)
    ours = ask.pre_claim(ask.target)
    check_only(calls_of(before), ours, f"{where}.preClaimOps")
    # tokens for somebody else are transfers behind the caller's own calls
    wanted = [*ask.calls, *(transfers(ask) if ask.recipient != ask.account else ())]
    check_only(calls_of(executed.op), wanted, f"{where}.destinationOps")
    out = _amounts(mandate.get("tokenOut"), f"{where}.tokenOut", empty=True)
    check_out([TokenAmount(token, amount) for token, amount in out], ask, f"{where}.tokenOut")
    return {target: (*calls_of(before), *calls_of(executed.op))}, deadline


def transfers(ask: Ask) -> tuple[Execution, ...]:
    """The calls that pay another recipient the tokens of a trade on one chain."""
    for index, item in enumerate(ask.trade.tokens):
        if item.amount is None:
            refuse(
                f"tokenRequests[{index}]", "asks for as much as possible, which no exact call can be held to"
            )
    return tuple(
        Execution(ask.recipient, item.amount or 0, b"")
        if item.token == ZERO_ADDRESS
        else Execution(
            item.token,
            0,
            _TRANSFER + bytes(12) + bytes.fromhex(ask.recipient[2:]) + (item.amount or 0).to_bytes(32),
        )
        for item in ask.trade.tokens
    )


# --- tokens claimed by Permit2


def _check_permit2(
    message: IntentPayloads,
    elements: Sequence[Mapping[str, Any]],
    ask: Ask,
    *,
    arbiters: Collection[str],
    now_s: int,
) -> tuple[dict[int, tuple[Execution, ...]], int]:
    found: list[tuple[TypedPayload, ClaimPaths]] = []
    for index, (payload, element) in enumerate(zip(message.origins, elements, strict=True)):
        path = f"intentOp.elements[{index}]"
        mandate = _object(element.get("mandate"), f"{path}.mandate")
        # what the message cannot show: ids of locked tokens, of which it has the low 160 bits
        _amounts(element.get("idsAndAmounts"), f"{path}.idsAndAmounts")
        _amounts(mandate.get("tokenOut"), f"{path}.mandate.tokenOut", empty=True)
        _check_qualifier(mandate, f"{path}.mandate.qualifier.encodedVal")
        found.append((payload, _paths(path)))
    explained = check_claims(found, ask, arbiters=arbiters, now_s=now_s)
    for index, element in enumerate(elements):
        if element.get("spendTokens", []) not in ([], element.get("idsAndAmounts")):
            refuse(
                f"intentOp.elements[{index}].spendTokens",
                "differs from idsAndAmounts, which is what is signed",
            )
    return explained


def _paths(element: str) -> ClaimPaths:
    mandate = f"{element}.mandate"
    return ClaimPaths(
        origin=element,
        chain=f"{element}.chainId",
        spender=f"{element}.arbiter",
        permitted=f"{element}.idsAndAmounts",
        recipient=f"{mandate}.recipient",
        target_chain=f"{mandate}.destinationChainId",
        fill_expiry=f"{mandate}.fillDeadline",
        min_gas=f"{mandate}.minGas",
        out=f"{mandate}.tokenOut",
        before=f"{mandate}.preClaimOps",
        after=f"{mandate}.destinationOps",
    )


def _check_qualifier(mandate: Mapping[str, Any], path: str) -> None:
    encoded = str(_object(mandate.get("qualifier"), path).get("encodedVal"))
    if len(encoded) > 2 + 2 * MAX_QUALIFIER_BYTES:
        refuse(path, f"is longer than {MAX_QUALIFIER_BYTES} bytes")


# --- reading


def _raw_ops(value: object, path: str) -> Ops:
    """Ops that no message covers: the executor's pre-claim ops."""
    try:
        return read_ops(_object(value, path), path)
    except SigningInputError as error:
        refuse(error.field, error.message)


def _amounts(value: object, path: str, *, empty: bool = False) -> list[tuple[str, int]]:
    """Pairs of token and base units. An id above 160 bits is a lock of The Compact, no plain token."""
    if not isinstance(value, list) or not (value or empty):
        refuse(path, "must be a list of what is taken")
    pairs: list[tuple[str, int]] = []
    for index, pair in enumerate(cast("list[Any]", value)):
        if not isinstance(pair, list) or len(cast("list[Any]", pair)) != 2:
            refuse(f"{path}[{index}]", "must be a pair of token and amount")
        token_id, amount = (_whole(part, f"{path}[{index}]") for part in cast("list[Any]", pair))
        if token_id >> 160:
            refuse(f"{path}[{index}]", "is a locked token, not a plain one")
        if amount == 0:
            refuse(f"{path}[{index}]", "is for nothing")
        pairs.append((f"0x{token_id:040x}", amount))
    return pairs


def _whole(value: object, path: str) -> int:
    text = str(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | str)
        or not text.isascii()
        or not text.isdigit()
    ):
        refuse(path, f"must be a whole number of 256 bits, not {str(value)[:40]!r}")
    return int(text)


def _object(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        refuse(path, "must be an object")
    return cast("Mapping[str, Any]", value)
