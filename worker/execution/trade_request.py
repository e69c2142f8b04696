"""The quote request of a trade: member for member what SDK 1.15.0 sends (orchestrator.md 3), and its blanc form (6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eth_utils.address import to_checksum_address

from worker.execution.ask import Ask
from worker.execution.errors import IntentInputError
from worker.execution.route_request import DUMMY_PRE_CLAIM
from worker.policies.base import Execution
from worker.signing.mock import mock_signature, mock_signatures


def trade_request(ask: Ask) -> dict[str, Any]:
    """The body of ``POST /intents/route``; its members are in the SDK's order."""
    trade, target, sources = ask.trade, ask.target, ask.sources
    mock = mock_signature(target.session.data, target.session.chain_id, len(sources))
    mocks = mock_signatures(
        {leg.chain_id: leg.session.data for leg in ask.legs},
        target.chain_id,
        [leg.chain_id for leg in sources],
    )
    options: dict[str, Any] = {"topupCompact": False}
    if trade.fee_asset:
        options["feeToken"] = _asset(trade.fee_asset)
    if trade.deadline_s:
        options["customDeadline"] = trade.deadline_s
    sponsor = _sponsor_settings(
        ask, ("gasSponsored", "bridgeFeesSponsored", "swapFeesSponsored", "protocolFeesSponsored")
    )
    if sponsor:
        options["sponsorSettings"] = sponsor
    if trade.settlement_layers:
        options["settlementLayers"] = list(trade.settlement_layers)
    quoters = _quoters(ask)
    if quoters is not None:
        options["quoters"] = {"include": quoters}
    options["signatureMode"] = ask.signature_mode
    request: dict[str, Any] = {
        "destinationChainId": target.chain_id,
        "tokenRequests": _token_requests(ask),
        **_recipient(ask),
        "account": {
            **_account(ask),
            "mockSignature": "0x" + mock.hex(),
            # as JavaScript orders members that are numbers
            "mockSignatures": dict(sorted(mocks.items(), key=lambda item: int(item[0]))),
        },
        "destinationExecutions": [_call(call) for call in ask.calls],
        "accountAccessList": _access_list(ask),
        "options": options,
    }
    before = {leg.chain_id: ask.pre_claim(leg) for leg in ask.legs}
    if any(before.values()):
        request["preClaimExecutions"] = {
            str(chain_id): _pre_claim(calls) for chain_id, calls in sorted(before.items()) if calls
        }
    return request


def blanc_trade_request(ask: Ask, mocks: Mapping[int, bytes]) -> dict[str, Any]:
    """The body of ``POST /quotes``.

    Args:
        ask: the trade.
        mocks: the mock signature of each chain's session.

    Raises:
        IntentInputError: the trade names a fee asset, which this version cannot say.
    """
    trade = ask.trade
    if trade.fee_asset:
        raise IntentInputError(
            "cannot be said in 2026-04.blanc", field="trade.feeAsset", fix="leave it out, or use 2026-01.alps"
        )
    options: dict[str, Any] = {}
    sponsor = _sponsor_settings(ask, ("gas", "bridgeFees", "swapFees", "protocolFees"))
    if sponsor:
        options["sponsorSettings"] = sponsor
    if trade.settlement_layers:
        options["settlementLayers"] = list(trade.settlement_layers)
    if trade.deadline_s:
        options["customDeadline"] = trade.deadline_s
    options["signatureMode"] = "EMISSARY_EXECUTION_ERC1271" if ask.signature_mode == 5 else "ERC1271"
    access: dict[str, Any] = {"chainIds": [_caip(leg.chain_id) for leg in ask.sources]}
    if trade.exact_inputs:
        amounts: dict[str, dict[str, str]] = {}
        for item in trade.spend:
            amounts.setdefault(_caip(item.chain_id), {})[to_checksum_address(item.token)] = str(item.amount)
        access = {"chainTokenAmounts": amounts}
    elif trade.source_assets:
        access["tokens"] = [_asset(asset) for asset in trade.source_assets]
    request: dict[str, Any] = {
        "destinationChainId": _caip(ask.target.chain_id),
        "tokenRequests": _token_requests(ask),
        **_recipient(ask),
        "account": {
            **_account(ask),
            # decimal keys, unlike everywhere else: the published schema says so
            "mockSignatures": {str(chain_id): "0x" + mock.hex() for chain_id, mock in sorted(mocks.items())},
        },
        "destinationExecutions": [_call(call) for call in ask.calls],
        "accountAccessList": access,
        "options": options,
    }
    before = {leg.chain_id: ask.pre_claim(leg) for leg in ask.legs}
    if any(before.values()):
        request["preClaimExecutions"] = {
            _caip(chain_id): _pre_claim(calls) for chain_id, calls in sorted(before.items()) if calls
        }
    return request


def _token_requests(ask: Ask) -> list[dict[str, str]]:
    return [
        {"tokenAddress": to_checksum_address(item.token)}
        | ({} if item.amount is None else {"amount": str(item.amount)})
        for item in ask.trade.tokens
    ]


def _recipient(ask: Ask) -> dict[str, Any]:
    recipient = ask.trade.recipient
    if not recipient:
        return {}
    return {"recipient": {"address": to_checksum_address(recipient), "accountType": "EOA", "setupOps": []}}


def _account(ask: Ask) -> dict[str, Any]:
    session = ask.target.session
    return {
        "address": to_checksum_address(session.account),
        "accountType": "ERC7579",
        "setupOps": [{"to": to, "data": "0x" + data.hex()} for to, data in session.setup_ops],
    }


def _access_list(ask: Ask) -> dict[str, Any] | list[dict[str, Any]]:
    trade = ask.trade
    if trade.exact_inputs:
        return [
            {
                "chainId": item.chain_id,
                "tokenAddress": to_checksum_address(item.token),
                "amount": str(item.amount),
            }
            for item in trade.spend
        ]
    access: dict[str, Any] = {"chainIds": [leg.chain_id for leg in ask.sources]}
    if trade.source_assets:
        access["tokens"] = [_asset(asset) for asset in trade.source_assets]
    return access


def _sponsor_settings(ask: Ask, names: Iterable[str]) -> dict[str, bool]:
    """Empty for none; terms that are given are sent even when they are all false, as the SDK does."""
    terms = ask.trade.sponsorship
    if terms is None:
        return dict.fromkeys(names, True) if ask.sponsored else {}
    return dict(zip(names, (terms.gas, terms.bridging, terms.swaps, terms.protocol_fees), strict=True))


def _quoters(ask: Ask) -> list[str] | None:
    """What every session that pins its quoters allows."""
    pinned: list[str] | None = None
    for leg in sorted(ask.legs, key=lambda leg: leg.chain_id):
        allowed = leg.session.quoters
        if allowed is not None:
            pinned = list(allowed) if pinned is None else [name for name in pinned if name in allowed]
    return pinned


def _asset(asset: str) -> str:
    return to_checksum_address(asset) if asset.startswith("0x") else asset


def _caip(chain_id: int) -> str:
    return f"eip155:{chain_id}"


def _pre_claim(calls: Iterable[Execution]) -> list[dict[str, str]]:
    """The dummy's members are in another order than those of the caller's own calls."""
    return [
        {"to": call.to, "value": "0", "data": "0x" + call.data.hex()}
        if call == DUMMY_PRE_CLAIM
        else _call(call)
        for call in calls
    ]


def _call(call: Execution) -> dict[str, str]:
    return {"data": "0x" + call.data.hex(), "value": str(call.value), "to": to_checksum_address(call.to)}
