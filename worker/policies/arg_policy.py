"""arg-policy: an expression over rules. Encoded here; its evaluation is not supported yet, so it denies."""

from __future__ import annotations

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
        rules, nodes = _compile(self.expression)
        if len(rules) > MAX_RULES:
            raise ValueError(f"ArgPolicy expression has {len(rules)} rules, max is {MAX_RULES}")
        if len(nodes) > MAX_NODES:
            raise ValueError(f"ArgPolicy expression has {len(nodes)} nodes, max is {MAX_NODES}")
        return self

    def init_data(self) -> bytes:
        """``enc((uint256 valueLimitPerUse, (uint8 rootNodeIndex, R[] rules, uint256[] packedNodes)))``."""
        rules, nodes = _compile(self.expression)
        return encode(
            [f"(uint256,(uint8,{RULE_ABI}[],uint256[]))"],
            [(self.value_limit_per_use, (len(nodes) - 1, [rule.encoded() for rule in rules], nodes))],
        )

    def enable_problem(self) -> tuple[str, str] | None:
        """The contract's node counter is 8 bits wide, so exactly 256 nodes cannot be enabled (measured)."""
        nodes = len(_compile(self.expression)[1])
        return ("expression", f"has {nodes} nodes, which cannot be enabled") if nodes >= MAX_NODES else None

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """Denies: evaluation is not supported by this version.

        Raises:
            PolicyViolationError: always.
        """
        del call
        raise PolicyViolationError("arg-policy is not supported by this version")


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


def _compile(expression: Expression) -> tuple[list[Rule], list[int]]:
    """Rules and packed nodes in post-order, left before right; the root is the last node (sessions.md 5)."""
    rules: list[Rule] = []
    nodes: list[int] = []

    def walk(part: Expression) -> int:
        if isinstance(part, RuleExpression):
            nodes.append(len(rules) << 2)
            rules.append(part.rule)
        elif isinstance(part, NotExpression):
            nodes.append(1 | walk(part.child) << 10)
        else:
            left = walk(part.left)
            right = walk(part.right)
            nodes.append((2 if isinstance(part, AndExpression) else 3) | left << 10 | right << 18)
        return len(nodes) - 1

    walk(expression)
    return rules, nodes
