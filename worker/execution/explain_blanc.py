"""No blind signing of blanc's typed data: it comes from the server, and it is matched, never just hashed.

``signData`` is held field by field against the one message that a same-chain intent may ask for, ``SingleChainOps``:
domain, types, every member, nothing besides. What is then signed is the digest of the matched values by our own
encoder, so that the server's types and order decide nothing.

The executor's message covers neither the pre-claim calls nor a deadline (signing.md 3); blanc shows only ``expiresAt``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from worker.execution.explain import Explained, check_life, check_refund, refuse, signature_vt
from worker.execution.route_request import Signer, pre_claim_calls
from worker.execution.typed_data import (
    match_address,
    match_domain,
    match_object,
    match_types,
    match_uint,
    types_of,
)
from worker.orchestrator.port import Quote
from worker.policies.base import Execution
from worker.policies.guardrails import GasRefundCap
from worker.signing.contracts import INTENT_EXECUTOR
from worker.signing.intent_op import IntentPayloads, TypedPayload
from worker.signing.messages import GAS_REFUND, OP, OPS_ITEM, SINGLE_CHAIN_OPS, SingleChainOps
from worker.signing.structs import GasRefund, Op, Ops

_LAYER = "INTENT_EXECUTOR"
_PRIMARY_TYPE = "SingleChainOps"
_DOMAIN = {"name": "IntentExecutor", "version": "v0.0.1"}
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)
_TYPES = types_of(SINGLE_CHAIN_OPS, OP, OPS_ITEM, GAS_REFUND)
_DOMAIN_TYPE = (
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
)


def explain_blanc(
    quote: Quote,
    *,
    session: Signer,
    calls: Sequence[Execution],
    enable: bool,
    now_s: int,
    min_left_s: int,
    refunds: Mapping[str, GasRefundCap] | None = None,
) -> Explained:
    """Hold a blanc route against what was asked for; see ``explain.check_quote`` for the arguments.

    Raises:
        UnexplainedQuoteError: names the field.
        StaleQuoteError: it expires too soon; a new quote may be fine.
    """
    route = quote.intent_op
    check_life(quote.expires_s, now_s, min_left_s, "expiresAt")
    if route.get("settlementLayer") != _LAYER:
        refuse("settlementLayer", f"is {route.get('settlementLayer')!r}; this version signs {_LAYER} only")
    if route.get("bridgeFill") is not None:
        refuse("bridgeFill", "is there, and the intent stays on its chain")
    if route.get("tokenRequirements") not in (None, {}):
        refuse("tokenRequirements", "asks for approvals or wrapping that nobody has agreed to")
    for name, why in (
        ("input", "would take tokens from the account beyond the calls asked for"),
        ("output", "names tokens out, and none were asked for"),
    ):
        if quote.cost.get(name) != []:
            refuse(f"cost.{name}", why)
    sign_data = match_object(route.get("signData"), "signData", required=("origin", "destination"), more=True)
    origins = sign_data["origin"]
    if not isinstance(origins, list) or len(cast("list[Any]", origins)) != 1:
        refuse("signData.origin", "must hold exactly one message for a same-chain intent")
    origin = match_single_chain_ops(
        cast("list[Any]", origins)[0], "signData.origin[0]", session, calls, refunds=refunds
    )
    destination = match_single_chain_ops(
        sign_data["destination"], "signData.destination", session, calls, refunds=refunds
    )
    if destination.nonce != origin.nonce:
        refuse("signData.destination.message.nonce", "differs from that of the origin it repeats")
    chain = session.chain_id
    payload = TypedPayload("single-chain-ops", chain, origin.digest(chain), origin, 0)
    target = None
    # as v2: signed if it is there, by a session whose executions are verified
    if session.verify_executions and sign_data.get("targetExecution") is not None:
        executed = match_single_chain_ops(
            sign_data["targetExecution"], "signData.targetExecution", session, calls, refunds=refunds
        )
        target = TypedPayload("single-chain-ops", chain, executed.digest(chain), executed, 0)
    return Explained(
        (*pre_claim_calls(session, enable=enable), *calls),
        quote.expires_s,
        IntentPayloads((payload,), payload, target),
    )


def match_single_chain_ops(
    value: object,
    path: str,
    session: Signer,
    calls: Sequence[Execution],
    *,
    vt: bytes = b"",
    refunds: Mapping[str, GasRefundCap] | None = None,
) -> SingleChainOps:
    """The message of one typed data, every field of it explained.

    Args:
        value: the typed data.
        path: where it stands.
        session: who signs, for which account, on which chain.
        calls: what it must execute, and nothing else.
        vt: of the calls, if the session alone does not decide it.
        refunds: what may be signed as gas refund, by token; nothing by default.

    Raises:
        UnexplainedQuoteError: names the field.
    """
    data = match_object(value, path, required=("domain", "types", "primaryType", "message"))
    if data["primaryType"] != _PRIMARY_TYPE:
        refuse(f"{path}.primaryType", f"is {data['primaryType']!r}, not {_PRIMARY_TYPE}")
    chain_id = match_domain(data["domain"], f"{path}.domain", _DOMAIN, contract=INTENT_EXECUTOR)
    if chain_id != session.chain_id:
        refuse(f"{path}.domain.chainId", f"is {chain_id}, not {session.chain_id}")
    match_types(data["types"], f"{path}.types", _TYPES, _DOMAIN_TYPE)
    path = f"{path}.message"
    message = match_object(data["message"], path, required=("account", "nonce", "op", "gasRefund"))
    account = match_address(message, "account", path)
    if account != session.account:
        refuse(f"{path}.account", f"is {account}, not our account {session.account}")
    refund = _match_refund(message["gasRefund"], f"{path}.gasRefund", refunds or {})
    vt = vt or signature_vt(session)
    op = match_object(message["op"], f"{path}.op", required=("vt", "ops"))
    if op["vt"] != "0x" + vt.hex():
        refuse(f"{path}.op.vt", f"is {op['vt']!r}, not 0x{vt.hex()}")
    _match_calls(op["ops"], f"{path}.op.ops", calls)
    return SingleChainOps(
        session.account,
        match_uint(message, "nonce", path),
        Ops(vt, tuple(Op(call.to, call.value, call.data) for call in calls)),
        refund,
    )


def _match_refund(value: object, path: str, refunds: Mapping[str, GasRefundCap]) -> GasRefund:
    found = match_object(value, path, required=("token", "exchangeRate", "overhead"))
    token, rate, overhead = (
        match_address(found, "token", path),
        match_uint(found, "exchangeRate", path),
        match_uint(found, "overhead", path),
    )
    check_refund(token, {"exchangeRate": rate, "overhead": overhead}, refunds, path)
    return GasRefund(token, rate, overhead)


def _match_calls(value: object, path: str, calls: Sequence[Execution]) -> None:
    if not isinstance(value, list):
        refuse(path, "must be a list")
    listed = cast("list[Any]", value)
    for index, item in enumerate(listed):
        where = f"{path}[{index}]"
        op = match_object(item, where, required=("to", "value", "data"))
        if index >= len(calls):
            refuse(where, "is a call that nobody asked for")
        call = calls[index]
        if match_address(op, "to", where) != call.to:
            refuse(f"{where}.to", f"is {op['to']}, not {call.to}")
        if match_uint(op, "value", where) != call.value:
            refuse(f"{where}.value", f"is {op['value']}, not {call.value}")
        data = op["data"]
        if not isinstance(data, str) or not _HEX.fullmatch(data) or bytes.fromhex(data[2:]) != call.data:
            refuse(f"{where}.data", "differs from the calldata that was asked for")
    if len(listed) < len(calls):
        refuse(path, f"holds {len(listed)} calls, and {len(calls)} were asked for")
