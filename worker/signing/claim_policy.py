"""The data that the Permit2 claim policy checks next to an ERC-1271 signature (protocol: signing.md 6)."""

from __future__ import annotations

from collections.abc import Sized
from typing import Protocol

from worker.signing import values
from worker.signing.eip712 import Array
from worker.signing.errors import SigningInputError
from worker.signing.messages import (
    MANDATE,
    OP,
    TOKEN,
    TOKEN_PERMISSIONS,
    Mandate,
    Permit2Message,
    TokenAmount,
    mandate_values,
    op_values,
    token_values,
)


class ClaimPolicy(Protocol):
    """What is needed of a ``permit2-claim`` policy: which of its lists are in use."""

    @property
    def tokens_in(self) -> Sized:
        """Tokens that may be taken."""
        ...

    @property
    def recipients(self) -> Sized:
        """Recipients per chain."""
        ...

    @property
    def fill_expiry_bounds(self) -> Sized:
        """Bounds of the fill's expiry per chain."""
        ...

    @property
    def tokens_out(self) -> Sized:
        """Tokens that may be delivered."""
        ...

    @property
    def recipient_is_sponsor(self) -> bool:
        """Whether the recipient must be the account."""
        ...


def claim_policy_data(message: Permit2Message, policy: ClaimPolicy) -> bytes:
    """What is appended to the ERC-1271 form: the parts of the message that the policy reads, the rest hashed.

    Args:
        message: the Permit2 message that is signed.
        policy: the session's first claim policy.

    Raises:
        SigningInputError: a field does not fit, or a list is too long for its count byte.
    """
    permitted = (
        _counted(message.permitted, "permitted")
        if len(policy.tokens_in)
        else Array(TOKEN_PERMISSIONS).encode(token_values(message.permitted), "permitted")
    )
    opened = (
        len(policy.recipients)
        or len(policy.fill_expiry_bounds)
        or len(policy.tokens_out)
        or policy.recipient_is_sponsor
    )
    return b"".join(
        (
            values.address(message.spender, "spender"),
            _word(message.nonce, "nonce"),
            _word(message.deadline, "deadline"),
            permitted,
            _mandate(message.mandate, policy)
            if opened
            else MANDATE.encode(mandate_values(message.mandate), "mandate"),
        )
    )


def _mandate(mandate: Mandate, policy: ClaimPolicy) -> bytes:
    target = mandate.target
    return b"".join(
        (
            values.address(target.recipient, "mandate.target.recipient"),
            _word(target.target_chain, "mandate.target.targetChain"),
            _word(target.fill_expiry, "mandate.target.fillExpiry"),
            _counted(target.token_out, "mandate.target.tokenOut")
            if len(policy.tokens_out)
            else Array(TOKEN).encode(token_values(target.token_out), "mandate.target.tokenOut"),
            values.uint(mandate.min_gas, 128, "mandate.minGas").to_bytes(16, "big"),
            OP.encode(op_values(mandate.origin_ops), "mandate.originOps"),
            OP.encode(op_values(mandate.dest_ops), "mandate.destOps"),
            values.fixed_bytes(mandate.q, 32, "mandate.q"),
        )
    )


def _counted(tokens: tuple[TokenAmount, ...], field: str) -> bytes:
    if len(tokens) > 255:
        raise SigningInputError(f"has {len(tokens)} entries, but its count is one byte", field=field)
    return bytes((len(tokens),)) + b"".join(
        bytes(12)
        + values.address(item.token, f"{field}[{index}].token")
        + _word(item.amount, f"{field}[{index}].amount")
        for index, item in enumerate(tokens)
    )


def _word(value: int, field: str) -> bytes:
    return values.uint(value, 256, field).to_bytes(32, "big")
