"""What the pipeline does differently for each wire version: ask, explain, and write what is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from eth_utils.address import to_checksum_address

from worker.execution.explain import Explained, check_quote
from worker.execution.explain_blanc import explain_blanc
from worker.execution.route_request import (
    MODE_EMISSARY_EXECUTION_ERC1271,
    MODE_ERC1271,
    Signer,
    pre_claim_calls,
    route_request,
    signature_mode,
)
from worker.orchestrator import exact_json
from worker.orchestrator.port import ApiVersion, Quote
from worker.policies.base import Execution
from worker.policies.guardrails import GasRefundCap
from worker.sessions.importing import RegisteredSession
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.intent_op import payloads
from worker.signing.mock import mock_signature
from worker.signing.session_signature import emissary_use, erc1271

ALPS: ApiVersion = "2026-01.alps"
BLANC: ApiVersion = "2026-04.blanc"

#: Member that signing adds to an alps op -> its name among blanc's ``signatures``.
_BLANC_SIGNATURES = {
    "originSignatures": "origin",
    "destinationSignature": "destination",
    "targetExecutionSignature": "targetExecution",
}
#: The published schema lists the numbers too, but as strings only the names fit its type.
_MODE_NAMES = {
    MODE_ERC1271: "ERC1271",
    MODE_EMISSARY_EXECUTION_ERC1271: "EMISSARY_EXECUTION_ERC1271",
}
_EMPTY_SIGNATURE = bytes(65)


def quote_request(
    version: ApiVersion,
    session: RegisteredSession,
    calls: Sequence[Execution],
    *,
    sponsored: bool,
    enable: bool,
) -> dict[str, Any]:
    """The body that asks for a quote; see ``route_request`` for the arguments."""
    if version == ALPS:
        return route_request(session, calls, sponsored=sponsored, enable=enable)
    return blanc_request(
        session,
        calls,
        setup_ops=session.setup_ops,
        sponsored=sponsored,
        enable=enable,
        mock=blanc_mock(session, enable=enable),
    )


def blanc_request(
    signer: Signer,
    calls: Sequence[Execution],
    *,
    setup_ops: Sequence[tuple[str, bytes]],
    sponsored: bool,
    enable: bool = False,
    mock: bytes = b"",
) -> dict[str, Any]:
    """The body of ``POST /quotes`` (orchestrator.md 6). This version has no choice of quoters.

    Args:
        signer: who signs, for which account, on which chain.
        calls: what the account shall do, in order.
        setup_ops: ``(to, calldata)`` of the calls that deploy the account.
        sponsored: whether the project pays every fee.
        enable: whether the intent carries the enable signature.
        mock: the mock signature, which a session needs and owners do not.
    """
    chain = f"eip155:{signer.chain_id}"
    account: dict[str, Any] = {
        "address": to_checksum_address(signer.account),
        "accountType": "ERC7579",
        "setupOps": [{"to": to, "data": "0x" + data.hex()} for to, data in setup_ops],
    }
    if mock:
        # decimal keys, unlike everywhere else: the published schema says so
        account["mockSignatures"] = {str(signer.chain_id): "0x" + mock.hex()}
    request: dict[str, Any] = {
        "destinationChainId": chain,
        "tokenRequests": [],
        "account": account,
        "destinationExecutions": [_call(call) for call in calls],
        "accountAccessList": {"chainIds": [chain]},
    }
    options: dict[str, Any] = {}
    if sponsored:
        options["sponsorSettings"] = {"gas": True, "bridgeFees": True, "swapFees": True, "protocolFees": True}
    options["signatureMode"] = _MODE_NAMES[signature_mode(signer)]
    request["options"] = options
    extra = pre_claim_calls(signer, enable=enable)
    if extra:
        request["preClaimExecutions"] = {chain: [_call(call) for call in extra]}
    return request


def blanc_mock(session: RegisteredSession, *, enable: bool) -> bytes:
    """The mock of the form that will really be signed, with zeros for signatures (signing.md 10)."""
    if not session.verify_executions:
        return erc1271(session.account_kind, session.account, session.permission_id, _EMPTY_SIGNATURE)
    if enable:
        return mock_signature(session.data, session.chain_id)
    return bytes.fromhex(SMART_SESSION_EMISSARY[2:]) + emissary_use(session.permission_id, _EMPTY_SIGNATURE)


def explain(
    quote: Quote,
    *,
    session: Signer,
    calls: Sequence[Execution],
    enable: bool,
    now_s: int,
    min_left_s: int,
    refunds: Mapping[str, GasRefundCap] | None = None,
) -> Explained:
    """Hold a quote of either version against what was asked for; see ``check_quote`` for the arguments.

    Raises:
        UnexplainedQuoteError: names the field.
        StaleQuoteError: it expires too soon; a new quote may be fine.
        SigningInputError: alps: a field that only signing needs is malformed.
    """
    if quote.version == BLANC:
        return explain_blanc(
            quote,
            session=session,
            calls=calls,
            enable=enable,
            now_s=now_s,
            min_left_s=min_left_s,
            refunds=refunds,
        )
    executions, latest_s = check_quote(
        quote,
        session=session,
        calls=calls,
        enable=enable,
        now_s=now_s,
        min_left_s=min_left_s,
        refunds=refunds,
    )
    message = payloads(quote.intent_op, session.account, with_target=session.verify_executions)
    return Explained(executions, latest_s, message)


def stored_quote(version: ApiVersion, raw: str, *, quote_id: str, expires_s: int) -> Quote:
    """The quote that a record holds. alps' cost is not kept: it was judged when the quote came."""
    found = cast("Mapping[str, Any]", exact_json.loads(raw))
    cost = found.get("cost") if version == BLANC else {"hasFulfilledAll": True}
    known = cast("Mapping[str, Any]", cost) if isinstance(cost, dict) else {}
    return Quote(quote_id, expires_s, raw, found, known, version)


def submit_body(quote: Quote, members: Mapping[str, Any]) -> str:
    """The body of the submit, to be sent as it is.

    Args:
        quote: what was signed.
        members: what signing adds to an alps op, in the SDK's order.
    """
    if quote.version == ALPS:
        return '{"signedIntentOp":' + exact_json.with_members(quote.raw, dict(members)) + "}"
    signatures = {_BLANC_SIGNATURES[name]: value for name, value in members.items()}
    return json.dumps({"intentId": quote.quote_id, "signatures": signatures}, separators=(",", ":"))


def _call(call: Execution) -> dict[str, str]:
    return {"to": to_checksum_address(call.to), "value": str(call.value), "data": "0x" + call.data.hex()}
