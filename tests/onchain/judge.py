"""Our side of the comparison: the evaluator and the budgets' rule, over the steps of a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from worker.policies import (
    ArgPolicy,
    SpendingLimits,
    TimeFrame,
    UniversalAction,
    UsageLimit,
    ValueLimit,
    Whitelist,
)
from worker.policies.base import CounterChange, Deny, Execution, Verdict
from worker.policies.evaluate import ActionPolicies, PolicyTable, action_id, build_table, evaluate
from worker.policies.policy import PolicyModel
from worker.policies.rules import Rule

Session = tuple[str, bytes]
"""Account (lower-case) and permission id."""
Key = tuple[str, bytes]
"""Target (lower-case) and selector."""
Counts = tuple[int, int]
"""A limit and what is used of it; of a time frame its end and its start."""

# an expression so deep that the chain may not reach its end, an end of a window that the chain takes for none
_STRICTER = ("levels deep", "rounds to 0")


@dataclass(frozen=True, slots=True)
class Step:
    """An operation of a session, or the (further) enabling of it.

    Attributes:
        account: lower-case.
        permission: the permission id, 32 bytes.
        enabling: whether ``actions`` are enabled; else ``executions`` are an operation.
        actions: what is enabled.
        executions: what is executed.
    """

    account: str
    permission: bytes
    enabling: bool
    actions: tuple[ActionPolicies, ...] = ()
    executions: tuple[Execution, ...] = ()

    @property
    def session(self) -> Session:
        """Whose step it is."""
        return self.account, self.permission


@dataclass(frozen=True, slots=True)
class Watched:
    """One piece of a policy's state on the chain.

    Attributes:
        session, key: whose.
        model: the policy.
        part: the token, or the rule's number; ``""`` where a policy keeps one counter only.
    """

    session: Session
    key: Key
    model: type[PolicyModel]
    part: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What we say of a step.

    Attributes:
        passed: allowed, or enabled.
        why: of a denial.
        careful: the modes in use (which know less than the chain) that allow the step. The chain must allow it then.
        inexact: a denial that is stricter than the chain on purpose.
        policies: the policies that judged the calls, or the one that denied.
    """

    passed: bool
    why: str = ""
    careful: tuple[str, ...] = ()
    inexact: bool = False
    policies: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Held:
    actions: list[ActionPolicies] = field(default_factory=list[ActionPolicies])
    table: PolicyTable = field(default_factory=lambda: build_table([], newest=True))
    sums: dict[str, int] = field(default_factory=dict[str, int])


class Judge:
    """Holds each session's table and counters as the ledger does, and judges one step after the other.

    Args:
        now_s: the chain's time, unix seconds.
        caller: the session contract, lower-case.
        whitelist: intent-execution's list.
        newest: whether the chain has the newest revision of the policies.
    """

    def __init__(self, now_s: int, caller: str, whitelist: Whitelist, *, newest: bool = True) -> None:
        self.newest = newest
        self.now_s = now_s
        self.caller = caller
        self.whitelist = whitelist
        self._held: dict[Session, _Held] = {}
        self._watched: dict[Watched, None] = {}

    def take(self, step: Step) -> Judgement:
        """Judge a step; what passes changes the state."""
        held = self._held.setdefault(step.session, _Held())
        return self._enable(held, step) if step.enabling else self._operate(held, step)

    def table(self, session: Session) -> PolicyTable:
        """The policies that a session has by now."""
        return self._held.setdefault(session, _Held()).table

    def used(self, session: Session, counter: str) -> int:
        """What a counter of ours holds."""
        return self._held.setdefault(session, _Held()).sums.get(counter, 0)

    @property
    def watched(self) -> tuple[Watched, ...]:
        """All state that the steps so far may have touched."""
        return tuple(self._watched)

    def state(self, watched: Watched) -> Counts | None:
        """What the chain must hold; None where a policy leaves older state behind that nothing reads."""
        held = self._held[watched.session]
        policy = next(
            (one for one in held.table.actions.get(watched.key, ()) if isinstance(one, watched.model)), None
        )
        name = f"rule{watched.part}" if watched.model in {UniversalAction, ArgPolicy} else watched.part or "-"
        match policy:
            case SpendingLimits():
                limit = policy.limit_of(watched.part)
            case UsageLimit() | ValueLimit():
                limit = policy.limit
            case UniversalAction() | ArgPolicy():
                rules = _rules(policy)
                found = rules[int(watched.part)].usage_limit if int(watched.part) < len(rules) else None
                if found is None:
                    return None
                limit = found
            case TimeFrame():
                return policy.valid_until_s, policy.valid_after_s
            case _:
                return None if watched.model in {UniversalAction, ArgPolicy} else (0, 0)
        return limit, held.sums.get(f"{action_id(*watched.key)}:{policy.type}:{name}", 0)

    def _enable(self, held: _Held, step: Step) -> Judgement:
        for action in step.actions:
            for policy in action.policies:
                if _cannot_be_enabled(policy):
                    return Judgement(passed=False, why=f"{type(policy).__name__} cannot be enabled")
        for action in step.actions:
            for policy in action.policies:
                prefix = f"{action_id(action.target, action.selector)}:{getattr(policy, 'type', '')}:"
                for counter in [name for name in held.sums if name.startswith(prefix)]:
                    del held.sums[counter]
                for part in _parts(policy):
                    key = (action.target, action.selector)
                    self._watched.setdefault(Watched(step.session, key, type(policy), part))
        held.actions.extend(step.actions)
        held.table = build_table(held.actions, newest=True)
        return Judgement(passed=True)

    def _operate(self, held: _Held, step: Step) -> Judgement:
        def judge(*, newest: bool, exact: bool) -> Verdict:
            return evaluate(
                PolicyTable(held.table.actions, newest=newest),
                step.executions,
                account=step.account,
                emissary=self.caller,
                now_s=self.now_s,
                chain_s=self.now_s,
                latest_s=self.now_s,
                whitelist=self.whitelist,
                sums=held.sums if exact else None,
            )

        careful: list[str] = []
        for name, newest in (("1.15", False), ("2.x", True)) if self.newest else (("1.15", False),):
            verdict = judge(newest=newest, exact=False)
            if not isinstance(verdict, Deny) and not isinstance(_grown(held.sums, verdict.changes), str):
                careful.append(name)
        verdict = judge(newest=self.newest, exact=True)
        if isinstance(verdict, Deny):
            return Judgement(
                passed=False,
                why=f"call {verdict.call_index}: {verdict.policy}: {verdict.reason}",
                careful=tuple(careful),
                inexact=any(words in verdict.reason for words in _STRICTER),
                policies=frozenset({verdict.policy}),
            )
        policies = frozenset(
            str(getattr(policy, "type", ""))
            for call in step.executions
            for policy in held.table.find(call.to, call.data[:4] if len(call.data) >= 4 else b"\xff" * 4)[1]
        )
        grown = _grown(held.sums, verdict.changes)
        if isinstance(grown, str):
            denied = frozenset({grown.split(": ")[1]})
            return Judgement(passed=False, why=grown, careful=tuple(careful), policies=denied)
        held.sums.update(grown)
        return Judgement(passed=True, careful=tuple(careful), policies=policies)


def _grown(sums: Mapping[str, int], changes: tuple[CounterChange, ...]) -> dict[str, int] | str:
    """The counters after all changes, or why they do not fit: ``spent + reserved + amount <= limit``, as the ledger's."""
    grown = dict(sums)
    for change in changes:
        grown[change.counter] = grown.get(change.counter, 0) + change.amount
        if grown[change.counter] > change.limit:
            return f"call {change.call_index}: {change.policy}: {grown[change.counter]} of {change.limit}"
    return grown


def _cannot_be_enabled(policy: PolicyModel) -> bool:
    # the chain takes a window that is never open and rules that are none; we refuse them on import (enable_problem)
    if isinstance(policy, TimeFrame):
        return 0 < policy.valid_until_s < policy.valid_after_s
    return not isinstance(policy, UniversalAction) and policy.enable_problem() is not None


def _rules(policy: UniversalAction | ArgPolicy) -> tuple[Rule, ...]:
    return policy.rules if isinstance(policy, UniversalAction) else policy.compiled[0]


def _parts(policy: PolicyModel) -> Iterator[str]:
    match policy:
        case SpendingLimits():
            yield from dict.fromkeys(limit.token for limit in policy.limits)
        case UniversalAction() | ArgPolicy():
            for number, rule in enumerate(_rules(policy)):
                if rule.usage_limit is not None:
                    yield str(number)
        case UsageLimit() | ValueLimit() | TimeFrame():
            yield ""
        case _:
            pass
