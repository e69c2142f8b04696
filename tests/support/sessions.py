"""Session files for tests: what a frontend would export, with keys derived from labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from eth_hash.auto import keccak

from worker.policies import Permit2Claim, SpendingLimits, TimeFrame, TokenLimit
from worker.sessions.approval import approve
from worker.sessions.model import Action, EcdsaOwners, Session
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind, HashAndChainId

BASE = 8453
USDC = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
TRANSFER = bytes.fromhex("a9059cbb")
ACCOUNT = "0x" + keccak(b"session-executor test account")[12:].hex()
NOW_S = 1_800_000_000
"""A fixed now for tests without a clock."""


def key_of(label: str) -> bytes:
    """A throw-away private key derived from a label."""
    return keccak(f"session-executor test {label}".encode())


OWNER_KEY = key_of("owner")
SESSION_KEY = key_of("session key")
SESSION_ADDRESS = address_of(SESSION_KEY)


def usdc_transfer(limit: int, *, valid_until_ms: int, valid_after_ms: int = 0) -> Action:
    """Only ``USDC.transfer`` on Base, ``limit`` base units in all, until ``valid_until_ms``."""
    return Action(
        target=USDC,
        selector=TRANSFER,
        policies=(
            SpendingLimits(limits=(TokenLimit(token=USDC, amount=limit),)),
            TimeFrame(valid_until=valid_until_ms, valid_after=valid_after_ms),
        ),
    )


def make_session_file(
    account_owner_key: bytes = OWNER_KEY,
    session_key_address: str | Sequence[str] = SESSION_ADDRESS,
    *,
    account: str = ACCOUNT,
    kind: AccountKind = "nexus",
    limit: int = 100_000_000,
    valid_until_ms: int = (NOW_S + 86_400) * 1000,
    actions: Sequence[Action] | None = None,
    restrict: bool = True,
    setup_ops: Sequence[tuple[str, bytes]] = (),
    nonce: int = 0,
    chain: int = BASE,
    threshold: int = 1,
    more_owner_keys: Sequence[bytes] = (),
    verify_executions: bool | None = None,
    other_chains: Sequence[HashAndChainId] = (),
    claim_policies: Sequence[Permit2Claim] = (),
) -> str:
    """A session file with the owner's approval.

    By default: restricted to ``USDC.transfer`` of 100 USDC in all within a day from ``NOW_S``.

    Args:
        account_owner_key: private key of the account's owner, which approves.
        session_key_address: address of the session key, or of several.
        account: the smart account, lower-case.
        kind: the account's kind.
        limit: base units of USDC.
        valid_until_ms: end of the time frame.
        actions: instead of the default action.
        restrict: ``restrictToActions``.
        setup_ops: ``(to, calldata)`` that deploy the account.
        nonce: the emissary's nonce of the account.
        chain: chain id.
        threshold: of the session keys.
        more_owner_keys: further owners of the account, who all sign.
        verify_executions: the SDK's signer option.
        other_chains: digests of the same approval on other chains.
        claim_policies: at most one; only without ``restrict``.
    """
    addresses = (session_key_address,) if isinstance(session_key_address, str) else tuple(session_key_address)
    session = Session(
        chain=chain,
        owners=EcdsaOwners(accounts=addresses, threshold=threshold),
        actions=tuple(actions)
        if actions is not None
        else (usdc_transfer(limit, valid_until_ms=valid_until_ms),),
        restrict_to_actions=restrict,
        claim_policies=tuple(claim_policies),
    )
    return approve(
        session,
        account=account,
        kind=kind,
        owner_keys=(account_owner_key, *more_owner_keys),
        nonce=nonce,
        setup_ops=setup_ops,
        verify_executions=verify_executions,
        other_chains=other_chains,
    )


def session_dict(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """``make_session_file`` parsed, to be changed by a test."""
    return json.loads(make_session_file(*args, **kwargs))
