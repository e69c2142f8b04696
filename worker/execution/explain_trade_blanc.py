"""No blind signing of trades in 2026-04.blanc, where the server names the typed data to sign.

Nothing of it is hashed as it came: domain, types and every field of each message are matched with what the trade asked
for, and the payload is then built by us from the matched values. What is there beyond that is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from worker.execution.ask import Ask
from worker.execution.explain import MAX_QUOTE_LIFE_S, VT_ERC7579, check_life, refuse
from worker.execution.explain_blanc import match_single_chain_ops
from worker.execution.explain_claims import PERMIT2_LAYERS, ClaimPaths, check_claims, check_out
from worker.execution.explain_trade import EXECUTOR_LAYER, ExplainedTrade, transfers
from worker.execution.typed_data import (
    match_address,
    match_domain,
    match_object,
    match_types,
    match_uint,
    read_calls,
    types_of,
)
from worker.intents.trade import MAX_SOURCES
from worker.orchestrator.port import Quote
from worker.policies.base import Execution
from worker.policies.guardrails import GasRefundCap
from worker.sessions.v2 import known_arbiters
from worker.signing.contracts import PERMIT2
from worker.signing.intent_op import TARGET_LAYERS, IntentPayloads, TypedPayload
from worker.signing.messages import (
    MANDATE,
    OP,
    OPS_ITEM,
    PERMIT_BATCH_WITNESS,
    TARGET,
    TOKEN,
    TOKEN_PERMISSIONS,
    Mandate,
    Permit2Message,
    SingleChainOps,
    Target,
    TokenAmount,
)
from worker.signing.structs import Op, Ops

_TYPES = types_of(PERMIT_BATCH_WITNESS, TOKEN_PERMISSIONS, TOKEN, TARGET, MANDATE, OP, OPS_ITEM)
_WORD = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_DOMAIN_TYPE = (("name", "string"), ("chainId", "uint256"), ("verifyingContract", "address"))


def explain_blanc_trade(
    quote: Quote,
    ask: Ask,
    *,
    arbiters: Collection[str] = (),
    now_s: int,
    min_left_s: int,
    refunds: Mapping[int, Mapping[str, GasRefundCap]] | None = None,
) -> ExplainedTrade:
    """Hold a blanc route against a trade; see ``explain_trade.explain_trade`` for the arguments.

    Raises:
        UnexplainedQuoteError: names the field.
        PolicyDeniedError: a claim policy of a session says no.
        StaleQuoteError: it expires too soon; a new quote may be fine.
    """
    route = quote.intent_op
    check_life(quote.expires_s, now_s, min_left_s, "expiresAt")
    if ask.trade.deadline_s and quote.expires_s > ask.trade.deadline_s:
        refuse("expiresAt", f"is later than the deadline {ask.trade.deadline_s} that was asked for")
    layer = route.get("settlementLayer")
    if layer != EXECUTOR_LAYER:
        if layer not in PERMIT2_LAYERS:
            refuse("settlementLayer", f"is {str(layer)[:40]!r}, which is not known")
        if ask.trade.settlement_layers and layer not in ask.trade.settlement_layers:
            asked = ", ".join(ask.trade.settlement_layers)
            refuse("settlementLayer", f"is {layer}, and {asked} were asked for")
    if route.get("tokenRequirements") not in (None, {}):
        refuse("tokenRequirements", "asks for approvals or wrapping that nobody has agreed to")
    _check_bridge(route.get("bridgeFill"), ask)
    _check_cost(quote.cost, ask)
    sign_data = match_object(route.get("signData"), "signData", required=("origin", "destination"), more=True)
    origins = sign_data["origin"]
    if not isinstance(origins, list) or not 1 <= len(cast("list[Any]", origins)) <= MAX_SOURCES:
        refuse("signData.origin", f"must hold 1 to {MAX_SOURCES} messages, one for each source chain used")
    listed = cast("list[Any]", origins)
    if layer == EXECUTOR_LAYER:
        return _executor(quote, ask, sign_data, listed, (refunds or {}).get(ask.target.chain_id, {}))
    payloads = [_read_permit2(item, f"signData.origin[{index}]", index) for index, item in enumerate(listed)]
    destination = _read_permit2(sign_data["destination"], "signData.destination", len(listed) - 1)
    executions, latest_s = check_claims(
        [(payload, _paths(f"signData.origin[{index}]")) for index, payload in enumerate(payloads)],
        ask,
        arbiters=known_arbiters() | frozenset(arbiters),
        now_s=now_s,
    )
    for index, payload in enumerate(payloads):
        deadline = cast("Permit2Message", payload.message).deadline
        if not now_s < deadline <= now_s + MAX_QUOTE_LIFE_S:
            refuse(
                f"signData.origin[{index}].message.deadline", f"is not within {MAX_QUOTE_LIFE_S} s from now"
            )
    if destination.digest != payloads[-1].digest:
        refuse("signData.destination.message", "is not the last origin's, which it repeats")
    if len({cast("Permit2Message", payload.message).nonce for payload in payloads}) != 1:
        refuse("signData.origin", "has messages with different nonces")
    executed = None
    if sign_data.get("targetExecution") is not None:
        if layer not in TARGET_LAYERS:
            refuse("signData.targetExecution", f"is there, and {layer} executes nothing by itself")
        if ask.target.session.verify_executions:
            executed = _target(
                sign_data["targetExecution"],
                ask,
                ask.calls,
                len(listed) - 1,
                (refunds or {}).get(ask.target.chain_id, {}),
            )
    message = IntentPayloads(tuple(payloads), payloads[-1], executed)
    return ExplainedTrade.of(executions, max(quote.expires_s, latest_s), message)


def _executor(
    quote: Quote,
    ask: Ask,
    sign_data: Mapping[str, Any],
    origins: Sequence[Any],
    refunds: Mapping[str, GasRefundCap],
) -> ExplainedTrade:
    """Calls on the target chain alone: nothing is claimed, and tokens for somebody else are transfers behind ours."""
    if len(origins) != 1:
        refuse("signData.origin", f"must hold exactly one message with {EXECUTOR_LAYER}")
    if quote.cost.get("input") not in ([], None) and any(
        _leg(item, f"cost.input[{index}]")[0] != ask.target.chain_id
        for index, item in enumerate(_listed(quote.cost["input"], "cost.input"))
    ):
        refuse("cost.input", f"takes tokens elsewhere, and {EXECUTOR_LAYER} takes none")
    target = ask.target
    wanted = (*ask.calls, *(transfers(ask) if ask.recipient != ask.account else ()))
    origin = _matched(origins[0], "signData.origin[0]", ask, wanted, refunds)
    destination = _matched(sign_data["destination"], "signData.destination", ask, wanted, refunds)
    if destination.nonce != origin.nonce:
        refuse("signData.destination.message.nonce", "differs from that of the origin it repeats")
    chain = target.chain_id
    payload = TypedPayload("single-chain-ops", chain, origin.digest(chain), origin, 0)
    executed = None
    if target.session.verify_executions and sign_data.get("targetExecution") is not None:
        executed = _target(sign_data["targetExecution"], ask, wanted, 0, refunds)
    return ExplainedTrade(
        {chain: (*ask.pre_claim(target), *wanted)},
        quote.expires_s,
        IntentPayloads((payload,), payload, executed),
    )


def _target(
    value: object,
    ask: Ask,
    calls: Sequence[Execution],
    index: int,
    refunds: Mapping[str, GasRefundCap],
) -> TypedPayload:
    chain = ask.target.chain_id
    executed = _matched(value, "signData.targetExecution", ask, calls, refunds)
    return TypedPayload("single-chain-ops", chain, executed.digest(chain), executed, index)


def _matched(
    value: object,
    path: str,
    ask: Ask,
    calls: Sequence[Execution],
    refunds: Mapping[str, GasRefundCap],
) -> SingleChainOps:
    vt = bytes([VT_ERC7579, ask.signature_mode]).ljust(32, b"\0")
    return match_single_chain_ops(value, path, ask.target.session, calls, vt=vt, refunds=refunds)


def _paths(at: str) -> ClaimPaths:
    message, mandate = f"{at}.message", f"{at}.message.mandate"
    return ClaimPaths(
        origin=at,
        chain=f"{at}.domain.chainId",
        spender=f"{message}.spender",
        permitted=f"{message}.permitted",
        recipient=f"{mandate}.target.recipient",
        target_chain=f"{mandate}.target.targetChain",
        fill_expiry=f"{mandate}.target.fillExpiry",
        min_gas=f"{mandate}.minGas",
        out=f"{mandate}.target.tokenOut",
        before=f"{mandate}.originOps",
        after=f"{mandate}.destOps",
    )


def _read_permit2(value: object, path: str, index: int) -> TypedPayload:
    """One typed data as the Permit2 message that it must be; its content is for ``check_claims`` to judge."""
    data = match_object(value, path, required=("domain", "types", "primaryType", "message"))
    if data["primaryType"] != PERMIT_BATCH_WITNESS.type_name:
        refuse(
            f"{path}.primaryType",
            f"is {str(data['primaryType'])[:60]!r}, not {PERMIT_BATCH_WITNESS.type_name}",
        )
    chain_id = match_domain(data["domain"], f"{path}.domain", {"name": "Permit2"}, contract=PERMIT2)
    match_types(data["types"], f"{path}.types", _TYPES, _DOMAIN_TYPE)
    at = f"{path}.message"
    message = match_object(
        data["message"], at, required=("permitted", "spender", "nonce", "deadline", "mandate")
    )
    inner = f"{at}.mandate"
    mandate = match_object(
        message["mandate"], inner, required=("target", "minGas", "originOps", "destOps", "q")
    )
    target = match_object(
        mandate["target"],
        f"{inner}.target",
        required=("recipient", "tokenOut", "targetChain", "fillExpiry"),
    )
    read = Permit2Message(
        permitted=_tokens(message["permitted"], f"{at}.permitted"),
        spender=match_address(message, "spender", at),
        nonce=match_uint(message, "nonce", at),
        deadline=match_uint(message, "deadline", at),
        mandate=Mandate(
            target=Target(
                recipient=match_address(target, "recipient", f"{inner}.target"),
                token_out=_tokens(target["tokenOut"], f"{inner}.target.tokenOut", empty=True),
                target_chain=match_uint(target, "targetChain", f"{inner}.target"),
                fill_expiry=match_uint(target, "fillExpiry", f"{inner}.target"),
            ),
            min_gas=match_uint(mandate, "minGas", inner, bits=128),
            origin_ops=_ops(mandate["originOps"], f"{inner}.originOps"),
            dest_ops=_ops(mandate["destOps"], f"{inner}.destOps"),
            q=_word(mandate["q"], f"{inner}.q"),
        ),
    )
    return TypedPayload("permit2", chain_id, read.digest(chain_id), read, index)


def _tokens(value: object, path: str, *, empty: bool = False) -> tuple[TokenAmount, ...]:
    listed = _listed(value, path)
    if not listed and not empty:
        refuse(path, "must be a list of what is taken")
    found: list[TokenAmount] = []
    for index, item in enumerate(listed):
        at = f"{path}[{index}]"
        entry = match_object(item, at, required=("token", "amount"))
        amount = match_uint(entry, "amount", at)
        if amount == 0:
            refuse(f"{at}.amount", "is for nothing")
        found.append(TokenAmount(match_address(entry, "token", at), amount))
    return tuple(found)


def _ops(value: object, path: str) -> Ops:
    op = match_object(value, path, required=("vt", "ops"))
    return Ops(
        _word(op["vt"], f"{path}.vt"),
        tuple(Op(call.to, call.value, call.data) for call in read_calls(op["ops"], f"{path}.ops")),
    )


def _word(value: object, path: str) -> bytes:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        refuse(path, f"must be 32 bytes in hex, not {str(value)[:40]!r}")
    return bytes.fromhex(value[2:])


def _check_bridge(value: object, ask: Ask) -> None:
    """How the layer's own bridge is followed; it says nothing that is signed but where it leads."""
    if value is None:
        return
    bridge = match_object(value, "bridgeFill", required=("type", "destinationChainId"), more=True)
    if bridge["destinationChainId"] != ask.target.chain_id:
        refuse("bridgeFill.destinationChainId", f"is not {ask.target.chain_id}")


def _check_cost(cost: Mapping[str, Any], ask: Ask) -> None:
    """What the service says that it takes and gives: no more and no less than the trade allows."""
    allowed = {(item.chain_id, item.token): item.amount for item in ask.trade.spend}
    for index, item in enumerate(_listed(cost.get("input"), "cost.input")):
        chain_id, token, amount = _leg(item, f"cost.input[{index}]")
        # tokens of the target chain that stay with the account, or move by calls that are checked one by one
        if chain_id == ask.target.chain_id and (chain_id, token) not in allowed:
            continue
        if amount > allowed.get((chain_id, token), 0):
            refuse(
                f"cost.input[{index}]",
                f"takes {amount} of {token} on chain {chain_id}; the intent allows "
                f"{allowed.get((chain_id, token), 0)}",
            )
    given: Counter[str] = Counter()
    for index, item in enumerate(_listed(cost.get("output"), "cost.output")):
        chain_id, token, amount = _leg(item, f"cost.output[{index}]")
        if chain_id != ask.target.chain_id:
            refuse(f"cost.output[{index}].chainId", f"is {chain_id}, not {ask.target.chain_id}")
        given[token] += amount
    check_out([TokenAmount(token, amount) for token, amount in given.items()], ask, "cost.output")


def _leg(value: object, path: str) -> tuple[int, str, int]:
    leg = match_object(value, path, required=("chainId", "tokenAddress", "amount"), more=True)
    chain = str(leg["chainId"])
    digits = chain.removeprefix("eip155:")
    if not (chain.startswith("eip155:") and digits.isascii() and digits.isdigit()):
        refuse(f"{path}.chainId", f"must be the CAIP-2 id of an EVM chain, not {chain[:40]!r}")
    return int(digits), match_address(leg, "tokenAddress", path), match_uint(leg, "amount", path)


def _listed(value: object, path: str) -> Sequence[Any]:
    if not isinstance(value, list):
        refuse(path, "must be a list")
    return cast("list[Any]", value)
