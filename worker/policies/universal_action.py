"""universal-action: rules on the arguments of a call, all of which must hold."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from eth_abi.abi import encode
from pydantic import Field, field_validator

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Uint256
from worker.policies.policy import Call, PolicyModel
from worker.policies.rules import EMPTY_RULE, RULE_ABI, Rule

MAX_RULES = 16


class UniversalAction(PolicyModel):
    """Up to 16 rules, and a bound on the native value of each single call (0 unless given)."""

    address: ClassVar[str] = "0x0000006dda6c463511c4e9b05cfc34c1247fcf1f"
    v2_address: ClassVar[str] = "0x0000000000714cf48fcf88a0bfba70d313415032"

    type: Literal["universal-action"] = "universal-action"
    value_limit_per_use: Uint256 = 0
    rules: Annotated[tuple[Rule, ...], Field(strict=False)]

    @field_validator("rules")
    @classmethod
    def _at_most_16(cls, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        if len(rules) > MAX_RULES:
            raise ValueError(f"Universal action policy supports at most {MAX_RULES} rules")
        return rules

    def init_data(self) -> bytes:
        """``enc((uint256 valueLimitPerUse, (uint256 length, R[16] rules)))``, 3136 bytes."""
        rules = [rule.encoded() for rule in self.rules]
        rules += [EMPTY_RULE] * (MAX_RULES - len(rules))
        return encode(
            [f"(uint256,(uint256,{RULE_ABI}[{MAX_RULES}]))"],
            [(self.value_limit_per_use, (len(self.rules), rules))],
        )

    def enable_problem(self) -> tuple[str, str] | None:
        """Without rules every check reverts."""
        return None if self.rules else ("rules", "is empty, and without rules no call can pass")

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """All rules hold and all limited sums fit (policies.md 2, universal-action).

        Raises:
            PolicyViolationError: no rules, too much native value, calldata too short, or a rule is broken.
        """
        if not self.rules:
            raise PolicyViolationError("the policy has no rules")
        if call.execution.value > self.value_limit_per_use:
            raise PolicyViolationError(
                f"sends {call.amount('', call.execution.value)}, "
                f"above the limit of {call.amount('', self.value_limit_per_use)} per call"
            )
        changes: list[CounterChange] = []
        for number, rule in enumerate(self.rules):
            word = rule.word(call.execution.data)
            if not rule.holds(word):
                raise PolicyViolationError(rule.broken(number, word))
            if rule.usage_limit is not None and word:
                if word > rule.usage_limit:
                    raise PolicyViolationError(
                        f"rule {number}: {word} is above the whole usage limit of {rule.usage_limit}"
                    )
                changes.append(call.change(self.type, word, rule.usage_limit, counter=f"rule{number}"))
        return tuple(changes)
