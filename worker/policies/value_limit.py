"""value-limit: how much native currency an action may send in all."""

from __future__ import annotations

from typing import ClassVar, Literal

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Uint256
from worker.policies.policy import Call, PolicyModel


class ValueLimit(PolicyModel):
    """``limit`` wei over all executions of the action."""

    address: ClassVar[str] = "0x730da93267e7e513e932301b47f2ac7d062abc83"
    v2_address: ClassVar[str] = "0x000000000021dc45451291bcdfc9f0b46d6f0278"

    type: Literal["value-limit"] = "value-limit"
    limit: Uint256

    def init_data(self) -> bytes:
        """``uint256(limit)``, 32 bytes."""
        return self.limit.to_bytes(32, "big")

    def enable_problem(self) -> tuple[str, str] | None:
        """A limit of 0 cannot be enabled."""
        return ("limit", "a value limit of 0 cannot be enabled") if self.limit == 0 else None

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """The call's value; the ledger holds ``used + value <= limit`` (policies.md 2, value-limit).

        A limit of 0 reverts every check on the 2024 revision and cannot be enabled on the newest, which would let calls
        without value pass: only there they do.

        Raises:
            PolicyViolationError: the limit is 0, or the value alone is above it.
        """
        if self.limit == 0 and not call.newest:
            raise PolicyViolationError("the value limit is 0")
        value = call.execution.value
        return (call.change(self.type, value, self.limit),) if value else ()
