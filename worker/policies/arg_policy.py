"""arg-policy: an expression over rules, evaluated left before right with short circuit.

Whether a rule with a usage limit is true depends on what its sum holds by then, and an exhausted one makes the contract
go on to another branch. What is in flight can still fail, so without exact sums such a rule is taken as true and the
ledger holds its limit: that denies calls which another branch would let pass, and never allows one that the contract
denies.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from eth_abi.abi import encode
from pydantic import Field, model_validator

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Uint256
from worker.policies.policy import Call, PolicyModel, StrictModel
from worker.policies.rules import RULE_ABI, Rule

MAX_RULES = 128
MAX_NODES = 256
_RULE, _NOT, _AND, _OR = range(4)  # kinds of a packed node
_SHOWN = 3  # false rules named in a reason
MAX_LEVELS = 81
"""How far below the root a rule is still reached: the contract recurses on the EVM's stack (measured, policies.md 2)."""
_MAX_DEPTH = 300  # deeper input is refused before anything recurses on it; 256 nodes cannot be deeper


class RuleExpression(StrictModel):
    """One rule."""

    type: Literal["rule"]
    rule: Rule


class NotExpression(StrictModel):
    """The child is false."""

    type: Literal["not"]
    child: Expression


class AndExpression(StrictModel):
    """Both sides hold."""

    type: Literal["and"]
    left: Expression
    right: Expression


class OrExpression(StrictModel):
    """One side holds."""

    type: Literal["or"]
    left: Expression
    right: Expression


Expression = Annotated[
    RuleExpression | NotExpression | AndExpression | OrExpression, Field(discriminator="type")
]


class ArgPolicy(PolicyModel):
    """An expression tree of at most 128 rules and 256 nodes."""

    address: ClassVar[str] = "0x0000000000167ede64d8751daacddc0312565a73"
    v2_address: ClassVar[str] = "0x0000000000167ede64d8751daacddc0312565a73"

    type: Literal["arg-policy"] = "arg-policy"
    value_limit_per_use: Uint256 = 0
    expression: Expression

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("expression"), dict):  # pyright: ignore[reportUnknownMemberType]
            _check_depth(value["expression"])  # pyright: ignore[reportUnknownArgumentType]
        return value  # pyright: ignore[reportUnknownVariableType]

    @model_validator(mode="after")
    def _small_enough(self) -> ArgPolicy:
        rules, nodes = self.compiled
        if len(rules) > MAX_RULES:
            raise ValueError(f"ArgPolicy expression has {len(rules)} rules, max is {MAX_RULES}")
        if len(nodes) > MAX_NODES:
            raise ValueError(f"ArgPolicy expression has {len(nodes)} nodes, max is {MAX_NODES}")
        return self

    @cached_property
    def compiled(self) -> tuple[tuple[Rule, ...], tuple[int, ...]]:
        """Rules and packed nodes as the contract stores them; the root is the last node (sessions.md 5)."""
        return _compile(self.expression)

    def init_data(self) -> bytes:
        """``enc((uint256 valueLimitPerUse, (uint8 rootNodeIndex, R[] rules, uint256[] packedNodes)))``."""
        rules, nodes = self.compiled
        return encode(
            [f"(uint256,(uint8,{RULE_ABI}[],uint256[]))"],
            [(self.value_limit_per_use, (len(nodes) - 1, [rule.encoded() for rule in rules], nodes))],
        )

    def enable_problem(self) -> tuple[str, str] | None:
        """The contract's node counter is 8 bits wide, so exactly 256 nodes cannot be enabled (measured)."""
        nodes = len(self.compiled[1])
        return ("expression", f"has {nodes} nodes, which cannot be enabled") if nodes >= MAX_NODES else None

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """The expression is true; the sums of the limited rules that were reached and true grow (policies.md 2).

        Raises:
            PolicyViolationError: too much native value, a false expression, calldata that ends before a rule that is
                reached (under ``not`` too), or a rule too deep for the contract.
        """
        if call.execution.value > self.value_limit_per_use:
            raise PolicyViolationError(
                f"sends {call.amount('', call.execution.value)}, "
                f"above the limit of {call.amount('', self.value_limit_per_use)} per call"
            )
        run = _Run(self, call)
        if not run.true(len(self.compiled[1]) - 1, 0):
            why = "; ".join(run.broken[:_SHOWN]) + ("; and more" if len(run.broken) > _SHOWN else "")
            raise PolicyViolationError(f"its expression is false{f' ({why})' if why else ''}")
        return tuple(run.changes)


class _Run:
    """One evaluation: what was found false and which sums grow."""

    def __init__(self, policy: ArgPolicy, call: Call) -> None:
        self.policy = policy
        self.call = call
        self.broken: list[str] = []
        self.changes: list[CounterChange] = []

    def true(self, node: int, level: int) -> bool:
        if level > MAX_LEVELS:
            raise PolicyViolationError(
                f"its expression goes more than {MAX_LEVELS} levels deep, where the contract fails"
            )
        packed = self.policy.compiled[1][node]
        kind, left, right = packed & 3, packed >> 10 & 0xFF, packed >> 18 & 0xFF
        if kind == _RULE:
            return self.rule(packed >> 2 & 0xFF)
        if kind == _NOT:
            return not self.true(left, level + 1)
        if kind == _AND:
            return self.true(left, level + 1) and self.true(right, level + 1)
        return self.true(left, level + 1) or self.true(right, level + 1)

    def rule(self, number: int) -> bool:
        rule = self.policy.compiled[0][number]
        word = rule.word(self.call.execution.data)
        if not rule.holds(word):
            self.broken.append(rule.broken(number, word))
            return False
        if rule.usage_limit is None:
            return True
        name = f"rule{number}"
        used = self.call.used(self.policy.type, name)
        # not knowing the sum, the largest that it can be: an overflow reverts whatever the expression says
        if word + (rule.usage_limit if used is None and word > rule.usage_limit else used or 0) >= 2**256:
            raise PolicyViolationError(f"rule {number}: adding {word} to its sum may overflow")
        if word + (used or 0) > rule.usage_limit:
            self.broken.append(f"rule {number}: {word} is more than what is left of {rule.usage_limit}")
            return False
        if word:
            self.changes.append(self.call.change(self.policy.type, word, rule.usage_limit, counter=name))
        return True


def _check_depth(root: dict[Any, Any]) -> None:
    pending: list[tuple[dict[Any, Any], int]] = [(root, 1)]
    while pending:
        node, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"ArgPolicy expression is nested deeper than {_MAX_DEPTH} levels")
        pending.extend(
            (child, depth + 1)
            for name in ("child", "left", "right")
            if isinstance(child := node.get(name), dict)
        )


def _compile(expression: Expression) -> tuple[tuple[Rule, ...], tuple[int, ...]]:
    """Rules and packed nodes in post-order, left before right; the root is the last node (sessions.md 5)."""
    rules: list[Rule] = []
    nodes: list[int] = []

    def walk(part: Expression) -> int:
        if isinstance(part, RuleExpression):
            nodes.append(_RULE | len(rules) << 2)
            rules.append(part.rule)
        elif isinstance(part, NotExpression):
            nodes.append(_NOT | walk(part.child) << 10)
        else:
            left = walk(part.left)
            right = walk(part.right)
            nodes.append((_AND if isinstance(part, AndExpression) else _OR) | left << 10 | right << 18)
        return len(nodes) - 1

    walk(expression)
    return tuple(rules), tuple(nodes)
