"""A plain transfer as a call."""

from __future__ import annotations

from collections.abc import Iterable

from worker.intents.amount import TokenInfo
from worker.policies.base import Execution
from worker.policies.fields import ZERO_ADDRESS

#: ``transfer(address,uint256)`` of ERC-20.
_TRANSFER = bytes.fromhex("a9059cbb")
#: ERC-20 functions that move tokens of their caller's or of another's: how many words the arguments have, the amount last.
_MOVES = {_TRANSFER: 2, bytes.fromhex("23b872dd"): 3}
_APPROVE = bytes.fromhex("095ea7b3")


def transfer_call(token: TokenInfo, to: str, value: int) -> Execution:
    """One transfer of ``value`` base units; the zero address as token is the chain's own currency."""
    if token.address == ZERO_ADDRESS:
        return Execution(to, value, b"")
    words = bytes(12) + bytes.fromhex(to[2:]) + value.to_bytes(32)
    return Execution(token.address, 0, _TRANSFER + words)


def moved_by(calls: Iterable[Execution]) -> list[tuple[str, int]]:
    """What calls send away: token (the zero address for native currency) and base units.

    Plain transfers only: what a contract moves in a call of its own is not in the call's data.
    """
    moved: list[tuple[str, int]] = []
    for call in calls:
        if call.value:
            moved.append((ZERO_ADDRESS, call.value))
        words = _MOVES.get(call.data[:4])
        if words is not None and len(call.data) >= 4 + 32 * words:
            moved.append((call.to, int.from_bytes(call.data[4 + 32 * (words - 1) : 4 + 32 * words])))
    return moved


def needed_by(calls: Iterable[Execution]) -> dict[str, int]:
    """What the account must hold for calls at least, base units by token: what they move, or approve others to move."""
    listed = tuple(calls)
    needed: dict[str, int] = {}
    for token, amount in moved_by(listed):
        needed[token] = needed.get(token, 0) + amount
    for call in listed:
        if call.data[:4] == _APPROVE and len(call.data) == 68:
            amount = int.from_bytes(call.data[36:])
            # an approval without limit is no amount
            if amount < 2**255:
                needed[call.to] = max(needed.get(call.to, 0), amount)
    return needed
