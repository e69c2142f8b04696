"""The parameter rules that universal-action and arg-policy share."""

from __future__ import annotations

from typing import Any, Literal

from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Uint64, Uint256, Word
from worker.policies.policy import StrictModel

Condition = Literal[
    "equal", "greaterThan", "lessThan", "greaterThanOrEqual", "lessThanOrEqual", "notEqual", "inRange"
]
CONDITIONS: tuple[Condition, ...] = (
    "equal",
    "greaterThan",
    "lessThan",
    "greaterThanOrEqual",
    "lessThanOrEqual",
    "notEqual",
    "inRange",
)
"""In the order of the contract's enum."""

RULE_ABI = "(uint8,uint64,bool,bytes32,(uint256,uint256))"
EMPTY_RULE: tuple[Any, ...] = (0, 0, False, bytes(32), (0, 0))

_HALF = 2**128 - 1


class Rule(StrictModel):
    """Compares the word at ``calldata_offset`` bytes after the selector, unsigned, with ``reference_value``.

    ``usage_limit``, if given (0 counts), bounds the sum of the words over all calls.
    """

    condition: Condition
    calldata_offset: Uint64
    reference_value: Word
    usage_limit: Uint256 | None = None

    def encoded(self) -> tuple[Any, ...]:
        """The rule as the value of ``RULE_ABI``."""
        return (
            CONDITIONS.index(self.condition),
            self.calldata_offset,
            self.usage_limit is not None,
            self.reference_value.to_bytes(32, "big"),
            (self.usage_limit or 0, 0),
        )

    def word(self, data: bytes) -> int:
        """The word that the rule looks at.

        Raises:
            PolicyViolationError: the calldata ends before it.
        """
        start = 4 + self.calldata_offset
        if len(data) < start + 32:
            raise PolicyViolationError(
                f"the calldata ends before the argument at offset {self.calldata_offset}"
            )
        return int.from_bytes(data[start : start + 32], "big")

    def broken(self, number: int, word: int) -> str:
        """What to say about rule ``number`` when its condition is not true of the word."""
        return (
            f"rule {number}: the argument at offset {self.calldata_offset} is 0x{word:x}, "
            f"which is not {self.condition} 0x{self.reference_value:x}"
        )

    def holds(self, word: int) -> bool:
        """Whether the condition is true of the word."""
        reference = self.reference_value
        return {
            "equal": word == reference,
            "greaterThan": word > reference,
            "lessThan": word < reference,
            "greaterThanOrEqual": word >= reference,
            "lessThanOrEqual": word <= reference,
            "notEqual": word != reference,
            "inRange": reference >> 128 <= word <= reference & _HALF,
        }[self.condition]
