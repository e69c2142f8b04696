"""A plain transfer as a call."""

from __future__ import annotations

from worker.intents.amount import TokenInfo
from worker.policies.base import Execution
from worker.policies.fields import ZERO_ADDRESS

#: ``transfer(address,uint256)`` of ERC-20.
_TRANSFER = bytes.fromhex("a9059cbb")


def transfer_call(token: TokenInfo, to: str, value: int) -> Execution:
    """One transfer of ``value`` base units; the zero address as token is the chain's own currency."""
    if token.address == ZERO_ADDRESS:
        return Execution(to, value, b"")
    words = bytes(12) + bytes.fromhex(to[2:]) + value.to_bytes(32)
    return Execution(token.address, 0, _TRANSFER + words)
