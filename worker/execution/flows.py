"""What calls take from the account, and for whom, as far as their calldata tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from worker.policies.base import Execution
from worker.policies.fields import ZERO_ADDRESS
from worker.policies.spending_limits import APPROVE, INCREASE_ALLOWANCE, TRANSFER, TRANSFER_FROM
from worker.signing.contracts import PERMIT2

DEPOSIT = bytes.fromhex("d0e30db0")
_DECREASE_ALLOWANCE = bytes.fromhex("a457c2d7")
_SET_APPROVAL_FOR_ALL = bytes.fromhex("a22cb465")
_PERMIT2_APPROVE = bytes.fromhex("87517c45")  # approve(address,address,uint160,uint48)
#: Function -> how many words its arguments are, and which of them are addresses.
_KNOWN = {
    TRANSFER: (2, (0,)),
    TRANSFER_FROM: (3, (0, 1)),
    APPROVE: (2, (0,)),
    INCREASE_ALLOWANCE: (2, (0,)),
    _DECREASE_ALLOWANCE: (2, (0,)),
    _SET_APPROVAL_FOR_ALL: (2, (0,)),
}
_PERMIT2_WORDS = (4, (0, 1))
MAX_UINT256 = 2**256 - 1


@dataclass(frozen=True, slots=True)
class Flows:
    """What some calls take.

    A call is named by its index in the list that was given.

    Attributes:
        amounts: token -> base units that leave the account, or that somebody is allowed to take; at most 2**256-1. The
            zero address is the chain's own currency.
        receivers: who is paid, with the call's index; -1 for no call.
        spenders: who is allowed to take, likewise.
        unclear: calls of functions that are not known here, or called oddly: who takes by them cannot be told.
        handed: tokens that such a function may turn into others: they were approved, or sent along.
    """

    amounts: Mapping[str, int] = field(default_factory=dict[str, int])
    receivers: tuple[tuple[int, str], ...] = ()
    spenders: tuple[tuple[int, str], ...] = ()
    unclear: tuple[tuple[int, Execution], ...] = ()
    handed: frozenset[str] = frozenset()


def flows_of(
    calls: Iterable[Execution],
    *,
    account: str,
    wrapped: str = "",
    taken: Mapping[str, int] | None = None,
    receivers: Iterable[str] = (),
    spenders: Iterable[str] = (),
) -> Flows:
    """Read calls.

    Args:
        calls: of one chain, in order.
        account: the account, lower-case. What it transfers to itself counts, as the spending limit counts it.
        wrapped: the chain's wrapped currency; depositing there pays nobody.
        taken: what is taken besides the calls: token -> base units.
        receivers: who is paid besides.
        spenders: who takes besides.
    """
    reader = _Reader(account, Counter(taken or {}))
    reader.receivers += ((-1, address) for address in receivers)
    reader.spenders += ((-1, address) for address in spenders)
    for index, call in enumerate(calls):
        reader.amounts[ZERO_ADDRESS] += call.value
        if not call.data:
            reader.receivers.append((index, call.to))
        elif call.to != wrapped or call.data != DEPOSIT:
            clear = reader.read(index, call)
            if call.value:
                reader.handed.add(ZERO_ADDRESS)
            if not clear or call.value:
                reader.unclear.append((index, call))
    return Flows(
        {token: min(amount, MAX_UINT256) for token, amount in reader.amounts.items() if amount},
        tuple(reader.receivers),
        tuple(reader.spenders),
        tuple(reader.unclear),
        frozenset(reader.handed),
    )


class _Reader:
    def __init__(self, account: str, amounts: Counter[str]) -> None:
        self.account = account
        self.amounts = amounts
        self.receivers: list[tuple[int, str]] = []
        self.spenders: list[tuple[int, str]] = []
        self.unclear: list[tuple[int, Execution]] = []
        self.handed: set[str] = set()

    def read(self, index: int, call: Execution) -> bool:
        """Add what a call takes; whether all of it could be told. What is short or dirty is read as the EVM would."""
        selector = call.data[:4]
        permit2 = call.to == PERMIT2 and selector == _PERMIT2_APPROVE
        length, addresses = _PERMIT2_WORDS if permit2 else _KNOWN.get(selector, (0, ()))
        if not length:
            return False
        data = call.data[4:].ljust(32 * length, b"\0")
        words = [int.from_bytes(data[32 * at : 32 * at + 32]) for at in range(length)]
        clear = len(call.data) >= 4 + 32 * length and not any(words[at] >> 160 for at in addresses)
        first, second = _address(words[0]), _address(words[1])
        if permit2:
            self._allow(index, second, first, words[2])
        elif selector == TRANSFER:
            self._pay(index, first, call.to, words[1])
        elif selector == TRANSFER_FROM:
            self._pay(index, second, call.to, 0 if second == self.account else words[2])
        elif selector in {APPROVE, INCREASE_ALLOWANCE}:
            self._allow(index, first, call.to, words[1])
        elif selector == _SET_APPROVAL_FOR_ALL and words[1]:
            self._allow(index, first, call.to, MAX_UINT256)
        return clear

    def _pay(self, index: int, receiver: str, token: str, amount: int) -> None:
        self.amounts[token] += amount
        self.receivers.append((index, receiver))

    def _allow(self, index: int, spender: str, token: str, amount: int) -> None:
        self.amounts[token] += amount
        if amount:
            self.spenders.append((index, spender))
            self.handed.add(token)


def _address(word: int) -> str:
    return f"0x{word % 2**160:040x}"
