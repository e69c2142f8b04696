"""sudo: everything passes."""

from __future__ import annotations

from typing import ClassVar, Literal

from worker.policies.base import CounterChange
from worker.policies.policy import Call, PolicyModel


class Sudo(PolicyModel):
    """Any value, any data."""

    address: ClassVar[str] = "0x0000003111cd8e92337c100f22b7a9dbf8dee301"
    v2_address: ClassVar[str] = "0x0000000000feec8d74e3143fbabbca515358d869"

    type: Literal["sudo"] = "sudo"

    def init_data(self) -> bytes:
        """Empty."""
        return b""

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """Always passes (policies.md 2, sudo)."""
        del call
        return ()
