"""No blind signing of trades: every field of a route's elements is what was asked for, or a reason to refuse.

A trade is settled in one of two ways. ``INTENT_EXECUTOR`` runs calls on one chain and takes nothing else. Every other
layer takes tokens by Permit2: one message per source chain says what may be taken (``permitted``), by whom
(``spender``), until when (``deadline``), and for what: the mandate with recipient, tokens out, target chain, fill expiry
and the calls on both sides. The message is rebuilt by ``worker/signing`` from the fields that are checked here.

The one thing that cannot be read is ``q``, the hash of the settlement layer's own data (``qualifier.encodedVal``), whose
layout is not published: the known arbiters are trusted to interpret it within the rest of the message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from worker.execution.ask import Ask, Leg
from worker.execution.errors import PolicyDeniedError
from worker.execution.explain import MAX_QUOTE_LIFE_S, VT_ERC7579, check_life, refuse
from worker.intents.trade import MAX_SOURCES
from worker.orchestrator.port import Quote
from worker.policies.base import Deny, Execution
from worker.policies.permit2_claim import Claim, evaluate_claim
from worker.sessions.chains import chain_of
from worker.sessions.v2 import known_arbiters
from worker.signing.contracts import PERMIT2, ZERO_ADDRESS
from worker.signing.errors import SigningInputError
from worker.signing.intent_op import IntentPayloads, TypedPayload, payloads, read_ops
from worker.signing.messages import Permit2Message, SingleChainOps
from worker.signing.structs import Ops

EXECUTOR_LAYER = "INTENT_EXECUTOR"
#: Layers that SDK 1.15.0 and the API name (orchestrator.md 4); what another one does is not known.
PERMIT2_LAYERS = frozenset({"SAME_CHAIN", "ACROSS", "ECO", "RELAY", "OFT", "NEAR", "RHINO", "CCTP"})
#: More gas than a block of any chain holds; a larger value has no purpose.
MAX_MIN_GAS = 100_000_000
#: ``encodedVal`` of real routes is some hundred bytes.
MAX_QUALIFIER_BYTES = 16_384
_APPROVE = bytes.fromhex("095ea7b3")
_TRANSFER = bytes.fromhex("a9059cbb")
_DEPOSIT = bytes.fromhex("d0e30db0")


@dataclass(frozen=True, slots=True)
class ExplainedTrade:
    """A quote that is what was asked for.

    Attributes:
        executions: per chain every call that the signatures would allow there, in order.
        latest_s: the latest unix second at which anything can be executed.
        message: what is to be signed.
    """

    executions: Mapping[int, tuple[Execution, ...]]
    latest_s: int
    message: IntentPayloads


def explain_trade(
    quote: Quote, ask: Ask, *, arbiters: Collection[str] = (), now_s: int, min_left_s: int
) -> ExplainedTrade:
    """Hold an alps quote against a trade.

    Args:
        quote: the orchestrator's answer.
        ask: the trade.
        arbiters: addresses that may be a spender besides those that the SDK knows, lower-case.
        now_s: our clock, unix seconds.
        min_left_s: how long the quote must still live.

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
        _settlement(element, f"intentOp.elements[{index}]", ask) for index, element in enumerate(elements)
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
    return ExplainedTrade(executions, max(quote.expires_s, latest_s), message)


def _elements(op: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = op.get("elements")
    if not isinstance(listed, list) or not 1 <= len(cast("list[Any]", listed)) <= MAX_SOURCES:
        refuse("intentOp.elements", f"must hold 1 to {MAX_SOURCES} elements, one for each source chain used")
    return [
        _object(item, f"intentOp.elements[{index}]") for index, item in enumerate(cast("list[Any]", listed))
    ]


def _settlement(element: Mapping[str, Any], path: str, ask: Ask) -> str:
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
        for name in ("exchangeRate", "overhead"):
            if str(found.get(name)) != "0":
                refuse(
                    f"{path}.gasRefund.{name}",
                    "would let the executor take a fee from the account that nobody has agreed to",
                    fix="submit the trade with sponsored gas",
                )
        if str(found.get("token")).lower() != ZERO_ADDRESS:
            refuse(f"{path}.gasRefund.token", "names a fee token, and no fee was agreed to")
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
    _check_vt(before, f"{where}.preClaimOps", ask)
    _check_vt(executed.op, f"{where}.destinationOps", ask)
    ours = ask.pre_claim(ask.target)
    _only(_calls(before), ours, f"{where}.preClaimOps")
    # tokens for somebody else are transfers behind the caller's own calls
    wanted = [*ask.calls, *(_transfers(ask) if ask.recipient != ask.account else ())]
    _only(_calls(executed.op), wanted, f"{where}.destinationOps")
    out = _amounts(mandate.get("tokenOut"), f"{where}.tokenOut", empty=True)
    _check_out([out], ask, f"{where}.tokenOut")
    return {target: (*_calls(before), *_calls(executed.op))}, deadline


def _transfers(ask: Ask) -> tuple[Execution, ...]:
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


def _only(found: Sequence[Execution], wanted: Sequence[Execution], path: str) -> None:
    for index, call in enumerate(found):
        if index >= len(wanted):
            refuse(f"{path}.ops[{index}]", f"is a call to {call.to} that nobody asked for")
        if call != wanted[index]:
            refuse(f"{path}.ops[{index}]", "differs from the call that was asked for")
    if len(found) < len(wanted):
        refuse(f"{path}.ops", f"holds {len(found)} calls, and {len(wanted)} were asked for")


# --- tokens claimed by Permit2


def _check_permit2(
    message: IntentPayloads,
    elements: Sequence[Mapping[str, Any]],
    ask: Ask,
    *,
    arbiters: Collection[str],
    now_s: int,
) -> tuple[dict[int, tuple[Execution, ...]], int]:
    before: dict[int, tuple[Execution, ...]] = {}
    taken: Counter[tuple[int, str]] = Counter()
    latest_s = 0
    after: tuple[Execution, ...] = ()
    outs: list[list[tuple[str, int]]] = []
    claims: list[tuple[TypedPayload, Permit2Message, Leg]] = []
    for index, (payload, element) in enumerate(zip(message.origins, elements, strict=True)):
        path = f"intentOp.elements[{index}]"
        claim = payload.message
        assert isinstance(claim, Permit2Message)
        leg = ask.source(payload.chain_id)
        if leg is None:
            refuse(f"{path}.chainId", f"is {payload.chain_id}, which is none of the source chains")
        if payload.chain_id in before:
            refuse(f"{path}.chainId", "is there twice, and Permit2 takes a nonce once on each chain")
        if leg.session.restricted:
            refuse(
                f"{path}.chainId",
                "is a chain whose session is restricted: Permit2 would refuse its signature",
            )
        if claim.spender not in arbiters:
            refuse(
                f"{path}.arbiter",
                f"is {claim.spender}, which is no arbiter that we know",
                fix="if its operator vouches for it, add it to SESSION_EXECUTOR_ARBITERS",
            )
        for token, amount in _amounts(element.get("idsAndAmounts"), f"{path}.idsAndAmounts"):
            taken[payload.chain_id, token] += amount
        before[payload.chain_id] = _check_origin_ops(claim, leg, ask, f"{path}.mandate.preClaimOps")
        found = _check_mandate(claim, ask, f"{path}.mandate", now_s)
        if index and found != after:
            refuse(f"{path}.mandate.destinationOps", "differs from that of the other elements")
        after = found
        mandate = _object(element.get("mandate"), f"{path}.mandate")
        outs.append(_amounts(mandate.get("tokenOut"), f"{path}.mandate.tokenOut", empty=True))
        _check_qualifier(mandate, f"{path}.mandate.qualifier.encodedVal")
        latest_s = max(latest_s, claim.deadline, claim.mandate.target.fill_expiry)
        claims.append((payload, claim, leg))
    _check_taken(taken, ask, elements)
    for index, element in enumerate(elements):
        if element.get("spendTokens", []) not in ([], element.get("idsAndAmounts")):
            refuse(
                f"intentOp.elements[{index}].spendTokens",
                "differs from idsAndAmounts, which is what is signed",
            )
    _check_out(outs, ask, "intentOp.elements[0].mandate.tokenOut")
    for index, (payload, claim, leg) in enumerate(claims):
        _judge_claim(payload, claim, leg, f"intentOp.elements[{index}]")
    # one executor nonce for all elements: however many there are, the target's calls run once
    executions = {chain_id: calls for chain_id, calls in before.items() if calls}
    target = ask.target.chain_id
    if after:
        executions[target] = (*executions.get(target, ()), *after)
    return executions, latest_s


def _check_mandate(claim: Permit2Message, ask: Ask, path: str, now_s: int) -> tuple[Execution, ...]:
    """What is delivered where and until when, and the calls there."""
    target = claim.mandate.target
    if target.target_chain != ask.target.chain_id:
        refuse(f"{path}.destinationChainId", f"is {target.target_chain}, not {ask.target.chain_id}")
    if target.recipient != ask.recipient:
        refuse(f"{path}.recipient", f"is {target.recipient}, not {ask.recipient}")
    if not now_s < target.fill_expiry <= now_s + MAX_QUOTE_LIFE_S:
        refuse(f"{path}.fillDeadline", f"is not within {MAX_QUOTE_LIFE_S} s from now")
    if ask.trade.deadline_s and target.fill_expiry > ask.trade.deadline_s:
        refuse(
            f"{path}.fillDeadline", f"is later than the deadline {ask.trade.deadline_s} that was asked for"
        )
    if claim.mandate.min_gas > MAX_MIN_GAS:
        refuse(f"{path}.minGas", f"is more than {MAX_MIN_GAS} gas, which no block holds")
    _check_vt(claim.mandate.dest_ops, f"{path}.destinationOps", ask)
    found = _calls(claim.mandate.dest_ops)
    # nothing is added on the target chain: tokens for a recipient are the filler's to deliver
    _only(found, ask.calls, f"{path}.destinationOps")
    return found


def _check_origin_ops(claim: Permit2Message, leg: Leg, ask: Ask, path: str) -> tuple[Execution, ...]:
    """Ours unchanged and in order; besides them only what makes the claimed tokens available to Permit2."""
    _check_vt(claim.mandate.origin_ops, path, ask)
    found = _calls(claim.mandate.origin_ops)
    ours = list(ask.pre_claim(leg))
    permitted: Counter[str] = Counter()
    for item in claim.permitted:
        permitted[item.token] += item.amount
    for index, call in enumerate(found):
        if ours and call == ours[0]:
            ours.pop(0)
        elif not _makes_available(call, permitted, chain_of(leg.chain_id).wrapped):
            refuse(f"{path}.ops[{index}]", f"is a call to {call.to} that nobody asked for")
    if ours:
        refuse(
            f"{path}.ops", f"lacks {len(ours)} of the calls that were asked for, or has them in another order"
        )
    return found


def _makes_available(call: Execution, permitted: Mapping[str, int], wrapped: str) -> bool:
    """An approval of a claimed token to Permit2, for as much as is claimed or for ever, or the wrapping of as much.

    Whether the session may make the call is its policies' to say; they judge every call of the operation.
    """
    if call.to in permitted and call.value == 0 and len(call.data) == 68 and call.data[:4] == _APPROVE:
        return call.data[4:36] == bytes(12) + bytes.fromhex(PERMIT2[2:])
    return call.to == wrapped and call.data == _DEPOSIT and 0 < call.value <= permitted.get(wrapped, 0)


def _check_taken(
    taken: Mapping[tuple[int, str], int], ask: Ask, elements: Sequence[Mapping[str, Any]]
) -> None:
    allowed = {(item.chain_id, item.token): item.amount for item in ask.trade.spend}
    for (chain_id, token), amount in taken.items():
        index = next(
            number for number, element in enumerate(elements) if str(element.get("chainId")) == str(chain_id)
        )
        limit = allowed.get((chain_id, token))
        path = f"intentOp.elements[{index}].idsAndAmounts"
        if limit is None:
            refuse(path, f"takes {token} on chain {chain_id}, which the intent does not allow")
        if amount > limit:
            refuse(path, f"takes {amount} of {token} on chain {chain_id}; the intent allows {limit}")


def _check_out(outs: Sequence[Sequence[tuple[str, int]]], ask: Ask, path: str) -> None:
    delivered: Counter[str] = Counter()
    for tokens in outs:
        for token, amount in tokens:
            delivered[token] += amount
    asked = {item.token: item.amount for item in ask.trade.tokens}
    for token in delivered:
        if token not in asked:
            refuse(path, f"delivers {token}, which was not asked for")
    for token, least in asked.items():
        got = delivered[token]
        if got < (1 if least is None else least):
            refuse(path, f"delivers {got} of {token}, and {'some' if least is None else least} was asked for")


def _judge_claim(payload: TypedPayload, claim: Permit2Message, leg: Leg, path: str) -> None:
    """Every claim policy of the chain's session. The chain may not enforce them (policies.md 5), so we do."""
    target = claim.mandate.target
    judged = Claim(
        account=leg.session.account,
        chain_id=payload.chain_id,
        spender=claim.spender,
        deadline=claim.deadline,
        tokens_in=tuple(item.token for item in claim.permitted),
        recipient=target.recipient,
        target_chain=target.target_chain,
        fill_expiry=target.fill_expiry,
        tokens_out=tuple(item.token for item in target.token_out),
    )
    verdict = evaluate_claim(leg.session.claim_policies, judged)
    if isinstance(verdict, Deny):
        raise PolicyDeniedError(f"{path}: {verdict.reason}", field=verdict.policy)


def _check_qualifier(mandate: Mapping[str, Any], path: str) -> None:
    encoded = str(_object(mandate.get("qualifier"), path).get("encodedVal"))
    if len(encoded) > 2 + 2 * MAX_QUALIFIER_BYTES:
        refuse(path, f"is longer than {MAX_QUALIFIER_BYTES} bytes")


# --- reading


def _check_vt(ops: Ops, path: str, ask: Ask) -> None:
    wanted = bytes([VT_ERC7579, ask.signature_mode]).ljust(32, b"\0")
    if ops.vt != wanted:
        refuse(
            f"{path}.vt",
            f"is 0x{ops.vt.hex()}, not 0x{wanted.hex()} (ERC-7579 calls, signature mode {ask.signature_mode})",
        )


def _calls(ops: Ops) -> tuple[Execution, ...]:
    return tuple(Execution(op.to, op.value, op.data) for op in ops.ops)


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
