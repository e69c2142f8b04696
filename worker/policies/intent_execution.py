"""intent-execution: calls to the targets that the policy's owner lists on chain.

SDK 1.15 puts it on the fallback action of every unrestricted session, for the calls that routes add. Its list is
on-chain state that this version does not read, so it denies.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.policy import Call, PolicyModel


class IntentExecution(PolicyModel):
    """Calls to whitelisted targets, and ``approve`` to a whitelisted spender."""

    address: ClassVar[str] = "0xe9ea54d063975cdee9e06b7636d5563d95a7a23c"
    v2_address: ClassVar[str] = "0xe9ea54d063975cdee9e06b7636d5563d95a7a23c"
    dev_address: ClassVar[str] = "0xa09b47de6e510cbdc18b97e9239bedcb44fb4901"

    type: Literal["intent-execution"] = "intent-execution"

    def init_data(self) -> bytes:
        """Empty."""
        return b""

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """Denies: the whitelist is not supported by this version.

        Raises:
            PolicyViolationError: always.
        """
        raise PolicyViolationError(
            f"no action of the session is for {call.execution.to}, and the orchestrator's whitelist "
            "(intent-execution) is not supported by this version"
        )
