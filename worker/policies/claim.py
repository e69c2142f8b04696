"""What a session's claim policy says of a Permit2 claim, judged before it is signed (policies.md 5).

By the published sources the chain does not consult claim policies for Permit2, so nobody else does. Where the contract's
behaviour is not known the answer is no.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worker.policies.permit2_claim import Bounds, Permit2Claim

_HALF = (1 << 128) - 1


@dataclass(frozen=True, slots=True)
class Claim:
    """The parts of a Permit2 message that a claim policy reads; addresses are lower-case, times unix seconds.

    Attributes:
        account: whose tokens are taken.
        origin_chain: where.
        spender: the arbiter that takes them.
        deadline: until when it may.
        tokens_in: what is taken.
        recipient: who gets the tokens out.
        target_chain: where.
        fill_expiry: until when.
        tokens_out: what is delivered.
    """

    account: str
    origin_chain: int
    spender: str
    deadline: int
    tokens_in: tuple[str, ...]
    recipient: str
    target_chain: int
    fill_expiry: int
    tokens_out: tuple[str, ...]


def judge_claim(policy: Permit2Claim, claim: Claim) -> str:
    """Why the policy refuses a claim, in words that begin with the field; ``""`` when it allows it.

    A list that is empty is not checked, as in the contract. Where a chain has several recipients or bounds, the contract
    keeps one of them and which is not certain, so that the claim must fit all.
    """
    if policy.arbiters and claim.spender not in policy.arbiters:
        return f"arbiters: {claim.spender} is not among them"
    if policy.expiry_bounds is not None and not _within(policy.expiry_bounds, claim.deadline):
        return f"expiryBounds: the deadline {claim.deadline} is outside"
    if policy.tokens_in:
        allowed = {entry.token for entry in policy.tokens_in if entry.chain_id == claim.origin_chain}
        wrong = _first(token for token in claim.tokens_in if token not in allowed)
        if wrong:
            return f"tokensIn: {wrong} on chain {claim.origin_chain} is not among them"
    if policy.recipients:
        entries = [entry.recipient for entry in policy.recipients if entry.chain_id == claim.target_chain]
        if not entries or any(entry not in ("any", claim.recipient) for entry in entries):
            return f"recipients: {claim.recipient} on chain {claim.target_chain} is not among them"
    if policy.fill_expiry_bounds:
        bounds = [entry for entry in policy.fill_expiry_bounds if entry.chain_id == claim.target_chain]
        if not bounds or not all(_within(entry, claim.fill_expiry) for entry in bounds):
            return f"fillExpiryBounds: the fill expiry {claim.fill_expiry} on chain {claim.target_chain} is outside"
    if policy.tokens_out:
        allowed = {entry.token for entry in policy.tokens_out if entry.chain_id == claim.target_chain}
        wrong = _first(token for token in claim.tokens_out if token not in allowed)
        if wrong:
            return f"tokensOut: {wrong} on chain {claim.target_chain} is not among them"
    if policy.recipient_is_sponsor and claim.recipient != claim.account:
        return f"recipientIsSponsor: the recipient {claim.recipient} is not the account"
    return ""


def _within(bounds: Bounds, value: int) -> bool:
    """Both ends inclusive, compared with the 128 bits that the contract stores."""
    high = _HALF if bounds.max is None else bounds.max & _HALF
    return (bounds.min or 0) & _HALF <= value <= high


def _first(tokens: Iterable[str]) -> str:
    return next(iter(tokens), "")
