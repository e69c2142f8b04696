"""What an account's owners send themselves: enabling a session by a transaction, revoking one, installing a module.

For owners whose keys are at hand: the tutorial, tests, and accounts that an operator owns. A worker holds session keys
only, so nothing in ``tasks`` comes here. The quote is checked like a session's before it is signed, but no policy
limits an owner: whoever calls this decides what is signed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.address import to_checksum_address

from worker.execution.errors import IntentInputError, UnexplainedQuoteError
from worker.execution.retry import send_again
from worker.execution.route_request import MODE_ERC1271
from worker.execution.wire import ALPS, blanc_request, explain, submit_body
from worker.orchestrator.errors import (
    MaybeSentError,
    NotFoundError,
    OrchestratorError,
    RateLimitedError,
    ReplyError,
    SimulationFailedError,
    UnavailableError,
)
from worker.orchestrator.jwt_auth import sponsored_digest
from worker.orchestrator.port import IntentStatus, Orchestrator
from worker.policies.base import Execution
from worker.sessions.accounts import CounterfactualAccount
from worker.signing.enable import owner_enable_signature, verify_owner_enable_signature
from worker.signing.intent_op import IntentPayloads
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind

#: A quote must live this long when it arrives, to be signed and sent.
_MIN_LEFT_S = 5
#: SDK 1.15.0's ``waitForExecution``: every 0.5 s, after 15 s every 2 s, for 210 s.
_POLL_S, _POLL_LATER_S, _LATER_AFTER_S, _TIMEOUT_S = 0.5, 2.0, 15.0, 210.0
_FAILED = frozenset({"FAILED", "EXPIRED"})
#: FILLED is no end here: what comes next may depend on what the chain says now.
_DONE = frozenset({"FILLED", "COMPLETED"})


@dataclass(frozen=True, slots=True)
class OwnedAccount:
    """A smart account whose owners sign, behind the Ownable validator.

    Attributes:
        account: lower-case.
        account_kind: its kind.
        chain_id: where it acts.
        setup_ops: ``(to, calldata)`` of the calls that deploy it; none for an account that is.
        verify_executions: always False, owners sign as the account.
    """

    account: str
    account_kind: AccountKind
    chain_id: int
    setup_ops: tuple[tuple[str, bytes], ...] = ()
    verify_executions: bool = False

    @classmethod
    def of(cls, account: CounterfactualAccount, chain_id: int) -> OwnedAccount:
        """An account of the SDK's, which need not be deployed."""
        return cls(account.address, account.kind, chain_id, account.setup_ops)


def owner_route_request(
    owned: OwnedAccount, calls: Sequence[Execution], *, sponsored: bool, gas_units: int | None = None
) -> dict[str, Any]:
    """The body of ``POST /intents/route`` for owners, member for member what SDK 1.15.0 sends.

    Args:
        owned: for which account.
        calls: what it shall do, in order.
        sponsored: whether the project pays every fee.
        gas_units: gas limit of the calls, if the caller sets one.
    """
    request: dict[str, Any] = {
        "destinationChainId": owned.chain_id,
        "tokenRequests": [],
        "account": {
            "address": to_checksum_address(owned.account),
            "accountType": "ERC7579",
            "setupOps": [{"to": to, "data": "0x" + data.hex()} for to, data in owned.setup_ops],
        },
        "destinationExecutions": [
            {"data": "0x" + call.data.hex(), "value": str(call.value), "to": to_checksum_address(call.to)}
            for call in calls
        ],
    }
    if gas_units is not None:
        request["destinationGasUnits"] = str(gas_units)
    request["accountAccessList"] = {"chainIds": [owned.chain_id]}
    options: dict[str, Any] = {"topupCompact": False}
    if sponsored:
        options["sponsorSettings"] = {
            "gasSponsored": True,
            "bridgeFeesSponsored": True,
            "swapFeesSponsored": True,
            "protocolFeesSponsored": True,
        }
    options["signatureMode"] = MODE_ERC1271
    request["options"] = options
    return request


def owner_signatures(message: IntentPayloads, owned: OwnedAccount, keys: Sequence[bytes]) -> dict[str, Any]:
    """The members that the owners' signing adds to the intentOp (signing.md 5).

    Args:
        message: the payloads of the intentOp.
        owned: whose owners sign.
        keys: private keys of all of them, in configured order.

    Raises:
        SigningInputError: a key is none.
        UnexplainedQuoteError: a signature does not recover to its owner.
    """
    made = [_sign(owned, origin.digest, keys) for origin in message.origins]
    return {"originSignatures": made, "destinationSignature": made[-1]}


def send_as_owner(
    orchestrator: Orchestrator,
    owned: OwnedAccount,
    keys: Sequence[bytes],
    calls: Sequence[Execution],
    *,
    sponsored: bool = True,
) -> str:
    """Have the account make some calls, signed by its owners: quote, check, sign, send.

    A reply that is lost does not raise: the bytes may have arrived, and the id returned is the quote's own, under which
    ``wait_for_execution`` finds out.

    Args:
        orchestrator: see ``worker/orchestrator``.
        owned: which account.
        keys: private keys of all its owners, in configured order.
        calls: what it shall do, at least one.
        sponsored: whether the project pays every fee. Without it a quote that takes a fee is refused.

    Returns:
        The intent's id.

    Raises:
        IntentInputError: no calls.
        UnexplainedQuoteError, StaleQuoteError: the quote is not what was asked for; nothing was signed.
        OrchestratorError: refused, or never sent.
    """
    if not calls:
        raise IntentInputError("is empty", field="calls", fix="give at least one call")
    request = (
        owner_route_request(owned, calls, sponsored=sponsored)
        if orchestrator.version == ALPS
        else blanc_request(owned, calls, setup_ops=owned.setup_ops, sponsored=sponsored)
    )
    quote = orchestrator.quote(request)
    explained = explain(
        quote, session=owned, calls=calls, enable=False, now_s=int(time.time()), min_left_s=_MIN_LEFT_S
    )
    members = owner_signatures(explained.message, owned, keys)
    body = submit_body(quote, members)
    try:
        result = send_again(lambda: orchestrator.submit(body, intent_digest=sponsored_digest(request)))
    except (MaybeSentError, UnavailableError, ReplyError):
        return quote.quote_id
    if result.status == "FAILED":
        raise SimulationFailedError("the simulation of the intent failed; it was not executed")
    return result.intent_id or quote.quote_id


def wait_for_execution(
    orchestrator: Orchestrator, intent_id: str, *, timeout_s: float = _TIMEOUT_S
) -> IntentStatus:
    """Ask until the intent is FILLED or COMPLETED.

    Args:
        orchestrator: see ``worker/orchestrator``.
        intent_id: what ``send_as_owner`` returned.
        timeout_s: when to give up.

    Raises:
        OrchestratorError: it FAILED, it EXPIRED, or nothing final was heard in time; the last trouble is named.
    """
    started = time.monotonic()
    last = "no answer"
    while (waited_s := time.monotonic() - started) < timeout_s:
        pause_s = _POLL_S if waited_s < _LATER_AFTER_S else _POLL_LATER_S
        try:
            status = orchestrator.status(intent_id)
        except (NotFoundError, RateLimitedError, UnavailableError, MaybeSentError) as error:
            last = str(error)
            pause_s = max(pause_s, (getattr(error, "retry_after_ms", None) or 0) / 1000)
        else:
            if status.status in _DONE:
                return status
            if status.status in _FAILED:
                raise OrchestratorError(
                    f"the intent {intent_id} is {status.status}", fix="see why at the orchestrator"
                )
            last = status.status
        time.sleep(min(pause_s, max(0.0, timeout_s - (time.monotonic() - started))))
    raise OrchestratorError(
        f"the intent {intent_id} is not final after {timeout_s:g} s (last: {last})",
        fix="ask again later: it may still execute",
    )


def _sign(owned: OwnedAccount, digest: bytes, keys: Sequence[bytes]) -> str:
    signature = owner_enable_signature(owned.account_kind, owned.account, digest, keys)
    owners = [address_of(key) for key in keys]
    signers = verify_owner_enable_signature(
        owned.account_kind, owned.account, digest, signature, owners, threshold=len(owners)
    )
    if list(signers) != owners:
        raise UnexplainedQuoteError("does not recover to its owner", field="signature")
    return "0x" + signature.hex()
