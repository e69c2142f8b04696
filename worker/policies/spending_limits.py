"""spending-limits: how much of each token an action may move or approve in all.

SDK 1.15 names the revision of October 2024: its address is derived from that code (``tests/onchain/artifacts.py``). It has
one sum for everything and no getter, refuses ``increaseAllowance``, and charges ``transferFrom`` to the account itself.
SDK 2.x names the newest revision (``Call.newest``), which does the opposite in both; what it counts apart makes no other
difference, since its rule is ``spent + approved <= limit``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from eth_abi.abi import encode
from pydantic import Field

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import ZERO_ADDRESS, Address, Uint256
from worker.policies.policy import Call, PolicyModel, StrictModel

TRANSFER = bytes.fromhex("a9059cbb")
TRANSFER_FROM = bytes.fromhex("23b872dd")
APPROVE = bytes.fromhex("095ea7b3")
INCREASE_ALLOWANCE = bytes.fromhex("39509351")

# selector -> (name, number of leading address arguments); the amount is the word after them
_FUNCTIONS = {
    TRANSFER: ("transfer", 1),
    TRANSFER_FROM: ("transferFrom", 2),
    APPROVE: ("approve", 1),
    INCREASE_ALLOWANCE: ("increaseAllowance", 1),
}


class TokenLimit(StrictModel):
    """``amount`` base units of ``token``."""

    token: Address
    amount: Uint256


class SpendingLimits(PolicyModel):
    """A limit per token on ``spent + approved``. The token of a call is its target."""

    address: ClassVar[str] = "0x00000088d48cf102a8cdb0137a9b173f957c6343"
    v2_address: ClassVar[str] = "0x000000000033212e272655d8a22402db819477a6"

    type: Literal["spending-limits"] = "spending-limits"
    limits: Annotated[tuple[TokenLimit, ...], Field(strict=False)]

    def limit_of(self, token: str) -> int:
        """The limit of ``token`` in base units. A token listed twice keeps its last limit; unlisted means 0."""
        return next((limit.amount for limit in reversed(self.limits) if limit.token == token), 0)

    def init_data(self) -> bytes:
        """``enc(address[] tokens, uint256[] amounts)``."""
        return encode(
            ["address[]", "uint256[]"],
            [[limit.token for limit in self.limits], [limit.amount for limit in self.limits]],
        )

    def enable_problem(self) -> tuple[str, str] | None:
        """The zero address and a limit of 0 cannot be enabled."""
        for index, limit in enumerate(self.limits):
            if limit.token == ZERO_ADDRESS:
                return (
                    f"limits[{index}].token",
                    "is the zero address; native currency is limited by a value-limit",
                )
            if limit.amount == 0:
                return f"limits[{index}].amount", "a spending limit of 0 cannot be enabled"
        return None

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """Charge the amount; the ledger holds ``spent + approved + amount <= limit`` (policies.md 2).

        Raises:
            PolicyViolationError: native value, another function, malformed arguments, an unlisted token, or an
                amount above the whole limit.
        """
        if call.execution.value:
            raise PolicyViolationError("native value is not allowed with a spending limit")
        data = call.execution.data
        if len(data) < 4:
            raise PolicyViolationError("the call names no function, and only ERC-20 calls can be charged")
        if data[:4] == INCREASE_ALLOWANCE and not call.newest:
            raise PolicyViolationError(
                "increaseAllowance is refused: not every revision of the policy knows it"
            )
        function = _FUNCTIONS.get(data[:4])
        if function is None:
            raise PolicyViolationError(
                f"function 0x{data[:4].hex()} is not transfer, transferFrom or approve, the ones it can charge"
            )
        name, addresses = function
        arguments = data[4:]
        if len(arguments) < 32 * (addresses + 1):  # trailing bytes are ignored, as abi.decode does
            raise PolicyViolationError(f"the arguments of {name} are cut short")
        for number in range(addresses):
            if any(arguments[32 * number : 32 * number + 12]):
                raise PolicyViolationError(f"argument {number + 1} of {name} is no clean address")
        token = call.execution.to
        if token == ZERO_ADDRESS:
            raise PolicyViolationError("the zero address is no token")
        amount = int.from_bytes(arguments[32 * addresses : 32 * (addresses + 1)], "big")
        if call.newest and data[:4] == TRANSFER_FROM and arguments[44:64] == bytes.fromhex(call.account[2:]):
            return ()
        if amount == 0:
            return ()
        limit = self.limit_of(token)
        if limit == 0:
            raise PolicyViolationError(f"token {token} is not among the tokens that may be spent")
        return (call.change(self.type, amount, limit, token=token),)
