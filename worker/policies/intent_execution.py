"""intent-execution: calls to the targets that the policy's owner lists on chain.

SDK 1.15 puts it on the fallback action of every unrestricted session, for the calls that routes add. Its list is global
state on chain, so whoever asks reads it first (``Call.whitelist``); what was not read is denied.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.policy import Call, PolicyModel
from worker.policies.spending_limits import APPROVE

_APPROVE_LENGTH = 36  # selector and the first word


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
        """The target is listed, or it is an ``approve`` whose spender is listed or the paymaster (policies.md 2).

        Neither value nor other arguments are looked at, as in the contract. The spender is read as the contract reads it,
        without its upper 12 bytes.

        Raises:
            PolicyViolationError: neither, as far as the list is known.
        """
        target, data = call.execution.to, call.execution.data
        if target in call.whitelist.targets:
            return ()
        spender = approved_spender(data)
        if spender and (spender in call.whitelist.targets or spender == call.whitelist.paymaster):
            return ()
        who = f"neither it nor the spender {spender} is" if spender else "it is not"
        raise PolicyViolationError(
            f"no action of the session is for {target}, and {who} on the orchestrator's list (intent-execution)"
        )


def approved_spender(data: bytes) -> str:
    """The spender that intent-execution sees in ``approve(address,uint256)``, lower-case; ``""`` in other calldata."""
    if data[:4] != APPROVE or len(data) < _APPROVE_LENGTH:
        return ""
    return "0x" + data[16:36].hex()
