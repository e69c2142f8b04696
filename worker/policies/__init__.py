"""One file per policy: its model, its init data and its rule. ``evaluate.py`` combines them. No I/O."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from worker.policies.arg_policy import ArgPolicy
from worker.policies.intent_execution import IntentExecution
from worker.policies.permit2_claim import Claim, Permit2Claim, evaluate_claim
from worker.policies.policy import Whitelist
from worker.policies.spending_limits import SpendingLimits, TokenLimit
from worker.policies.sudo import Sudo
from worker.policies.time_frame import TimeFrame
from worker.policies.universal_action import UniversalAction
from worker.policies.usage_limit import UsageLimit
from worker.policies.value_limit import ValueLimit

Policy = Annotated[
    Sudo
    | UniversalAction
    | ArgPolicy
    | SpendingLimits
    | TimeFrame
    | UsageLimit
    | ValueLimit
    | IntentExecution,
    Field(discriminator="type"),
]
"""An action policy of SDK 1.15, told apart by ``type``."""

__all__ = [
    "ArgPolicy",
    "Claim",
    "IntentExecution",
    "Permit2Claim",
    "Policy",
    "SpendingLimits",
    "Sudo",
    "TimeFrame",
    "TokenLimit",
    "UniversalAction",
    "UsageLimit",
    "ValueLimit",
    "Whitelist",
    "evaluate_claim",
]
