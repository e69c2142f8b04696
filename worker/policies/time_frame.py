"""time-frame: when an action may be used.

SDK 1.15 packs the window as two uint128 (32 bytes), seconds floored from milliseconds. SDK 2.x names another
contract that reads two uint48 (12 bytes): the 32 bytes given to that one read as the window (0, 0). Each address
below and its packing belong together.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, Literal

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Milliseconds
from worker.policies.policy import Call, PolicyModel

_LAST_PRINTABLE_S = 253_402_300_799  # 9999-12-31T23:59:59Z, the end of datetime's range


class TimeFrame(PolicyModel):
    """``valid_after <= now < valid_until``; 0 for the end means no end, 0 for the start means no start.

    Both are milliseconds since the epoch here and whole seconds on chain.
    """

    address: ClassVar[str] = "0x8177451511de0577b911c254e9551d981c26dc72"
    v2_address: ClassVar[str] = "0x0000000000d30f611fa3bf652ac6879428586930"

    type: Literal["time-frame"] = "time-frame"
    valid_until: Milliseconds
    valid_after: Milliseconds

    @property
    def valid_until_s(self) -> int:
        """End of the window as the contract knows it: unix seconds, exclusive, 0 means no end."""
        return self.valid_until // 1000

    @property
    def valid_after_s(self) -> int:
        """Start of the window as the contract knows it: unix seconds, inclusive."""
        return self.valid_after // 1000

    def init_data(self) -> bytes:
        """``uint128(floor(validUntil/1000)) ‖ uint128(floor(validAfter/1000))``, 32 bytes."""
        return self.valid_until_s.to_bytes(16, "big") + self.valid_after_s.to_bytes(16, "big")

    def v2_init_data(self) -> bytes:
        """``uint48(floor(validUntil/1000)) ‖ uint48(floor(validAfter/1000))``, 12 bytes."""
        return self.valid_until_s.to_bytes(6, "big") + self.valid_after_s.to_bytes(6, "big")

    def enable_problem(self) -> tuple[str, str] | None:
        """Windows that the contract refuses, that never open, or that rounding would open for ever."""
        if self.valid_until and not self.valid_until_s:
            return "validUntil", "is below one second after 1970, which the contract reads as no end at all"
        if not self.valid_until_s and not self.valid_after_s:
            return "validUntil", "0 with a validAfter of 0 is a window that no call can pass"
        if self.valid_until_s and self.valid_after_s >= self.valid_until_s:
            return "validAfter", "is not before validUntil, so no call can pass"
        return None

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """The window must be open by our clock, by the chain's, and until the latest possible execution.

        The emissary discards the window that the contract reports (policies.md 2, time-frame), so this check is
        the only one there is. Start inclusive, end exclusive, as the contract's own ERC-1271 form has it.

        Raises:
            PolicyViolationError: closed at one of the three times, or a window of (0, 0).
        """
        start, end = self.valid_after_s, self.valid_until_s
        if not start and not end:
            raise PolicyViolationError("the window has neither start nor end, which the contract refuses")
        if self.valid_until and not end:
            raise PolicyViolationError(
                "the end of the window rounds to 0, which the contract reads as no end"
            )
        for moment, whose in (
            (call.now_s, "now"),
            (call.chain_s, "by the chain's clock"),
            (call.latest_s, "when the operation would be executed"),
        ):
            if moment < start:
                raise PolicyViolationError(f"not valid before {_utc(start)}; it is {_utc(moment)} {whose}")
        if end:
            for moment, whose in ((call.now_s, "now"), (call.chain_s, "by the chain's clock")):
                if moment >= end:
                    raise PolicyViolationError(f"expired at {_utc(end)}; it is {_utc(moment)} {whose}")
            if call.latest_s >= end:
                raise PolicyViolationError(
                    f"expires too soon: at {_utc(end)}, and the operation could be executed until {_utc(call.latest_s)}"
                )
        return ()


def _utc(seconds: int) -> str:
    if seconds > _LAST_PRINTABLE_S:
        return f"unix second {seconds}"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
