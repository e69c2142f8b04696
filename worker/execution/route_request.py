"""The quote request, member for member what SDK 1.15.0 sends for a same-chain transaction (orchestrator.md 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from eth_utils.address import to_checksum_address

from worker.policies.base import Execution
from worker.sessions.encoding import DUMMY_SELECTOR, DUMMY_TARGET
from worker.sessions.importing import RegisteredSession
from worker.signing.mock import mock_signature
from worker.signing.structs import AccountKind

MODE_ERC1271 = 1
MODE_EMISSARY_EXECUTION_ERC1271 = 5

DUMMY_PRE_CLAIM = Execution(DUMMY_TARGET, 0, DUMMY_SELECTOR)
"""Gives the filler an execution to verify, which is what triggers the enable (signing.md 2)."""


class Signer(Protocol):
    """Who signs an intent, as far as the quote depends on it: a session, or the account's owners."""

    @property
    def account(self) -> str:
        """The smart account, lower-case."""
        ...

    @property
    def account_kind(self) -> AccountKind:
        """Its kind."""
        ...

    @property
    def chain_id(self) -> int:
        """The one chain of the intent."""
        ...

    @property
    def verify_executions(self) -> bool:
        """Whether the emissary checks each call; owners and bare sessions sign as the account (ERC-1271)."""
        ...


def signature_mode(session: Signer) -> int:
    """``options.signatureMode`` of an intent that this signer signs."""
    return MODE_EMISSARY_EXECUTION_ERC1271 if session.verify_executions else MODE_ERC1271


def pre_claim_calls(session: Signer, *, enable: bool) -> tuple[Execution, ...]:
    """The calls ahead of the user's own: the dummy one when the session is enabled by this intent."""
    return (DUMMY_PRE_CLAIM,) if enable and session.verify_executions else ()


def route_request(
    session: RegisteredSession,
    calls: Sequence[Execution],
    *,
    sponsored: bool,
    enable: bool,
    gas_units: int | None = None,
) -> dict[str, Any]:
    """The body of ``POST /intents/route``; its members are in the SDK's order.

    Args:
        session: who signs, for which account, on which chain.
        calls: what the account shall do, in order.
        sponsored: whether the project pays every fee.
        enable: whether the intent carries the enable signature.
        gas_units: gas limit of the calls, if the caller sets one.
    """
    chain = session.chain_id
    mock = "0x" + mock_signature(session.data, chain).hex()
    request: dict[str, Any] = {
        "destinationChainId": chain,
        "tokenRequests": [],
        "account": {
            "address": to_checksum_address(session.account),
            "accountType": "ERC7579",
            "setupOps": [{"to": to, "data": "0x" + data.hex()} for to, data in session.setup_ops],
            "mockSignature": mock,
            "mockSignatures": {str(chain): mock},
        },
        "destinationExecutions": [
            {"data": "0x" + call.data.hex(), "value": str(call.value), "to": to_checksum_address(call.to)}
            for call in calls
        ],
    }
    if gas_units is not None:
        request["destinationGasUnits"] = str(gas_units)
    request["accountAccessList"] = {"chainIds": [chain]}
    options: dict[str, Any] = {"topupCompact": False}
    if sponsored:
        options["sponsorSettings"] = {
            "gasSponsored": True,
            "bridgeFeesSponsored": True,
            "swapFeesSponsored": True,
            "protocolFeesSponsored": True,
        }
    if session.quoters is not None:
        options["quoters"] = {"include": list(session.quoters)}
    options["signatureMode"] = signature_mode(session)
    request["options"] = options
    extra = pre_claim_calls(session, enable=enable)
    if extra:
        request["preClaimExecutions"] = {
            str(chain): [
                {"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()} for call in extra
            ]
        }
    return request
