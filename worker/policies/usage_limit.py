"""usage-limit: how many executions an action allows in all."""

from __future__ import annotations

from typing import ClassVar, Literal

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Uint128
from worker.policies.policy import Call, PolicyModel


class UsageLimit(PolicyModel):
    """``limit`` executions of the action, counted per execution and not per transaction."""

    address: ClassVar[str] = "0x1f34ef8311345a3a4a4566af321b313052f51493"
    v2_address: ClassVar[str] = "0x00000000001d4479fa2a947026204d0283cede4b"

    type: Literal["usage-limit"] = "usage-limit"
    limit: Uint128

    def init_data(self) -> bytes:
        """``uint128(limit)``, 16 bytes."""
        return self.limit.to_bytes(16, "big")

    def enable_problem(self) -> tuple[str, str] | None:
        """A limit of 0 cannot be enabled."""
        return (
            ("limit", "a usage limit of 0 allows nothing and cannot be enabled") if self.limit == 0 else None
        )

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """One use; the ledger holds ``used + 1 <= limit`` (policies.md 2, usage-limit).

        Raises:
            PolicyViolationError: the limit is 0.
        """
        if self.limit == 0:
            raise PolicyViolationError("the usage limit is 0")
        return (call.change(self.type, 1, self.limit),)
