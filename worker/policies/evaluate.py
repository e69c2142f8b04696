"""From an operation to a verdict: matching, fallback, and all policies of each call.

The rules are those of ``SmartSession``/``PolicyLib`` and of the emissary (policies.md 1): deny by default, the
scoped action or else the fallback (never both), every policy must pass, one refusal denies the whole operation.
The order of an action's policies changes neither the decision nor its reasons: all that refuse a call are heard.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from eth_hash.auto import keccak

from worker.policies.base import Allow, CounterChange, Deny, Execution, Verdict
from worker.policies.errors import PolicyViolationError
from worker.policies.policy import NO_WHITELIST, AmountFormat, Call, PolicyModel, Whitelist, plain_amount

FALLBACK_TARGET = "0x" + "00" * 19 + "01"
FALLBACK_SELECTOR = bytes.fromhex("00000001")
EMISSARY_CALL_SELECTOR = bytes.fromhex("00000002")
"""With the fallback target: "may call the session contract", which the emissary refuses to enable."""
NO_FUNCTION_SELECTOR = bytes.fromhex("ffffffff")
"""The selector of a call with fewer than 4 bytes of data: a plain transfer of value."""
EXECUTE_SELECTOR = bytes.fromhex("e9ae5c53")
"""``execute(bytes32,bytes)``, which would run a nested batch past the policies."""

_ADDRESS = re.compile(r"0x[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ActionPolicies:
    """A (target, selector) pair and its policies in order. ``target`` is lower-case, ``selector`` 4 bytes."""

    target: str
    selector: bytes
    policies: tuple[PolicyModel, ...]

    @property
    def is_fallback(self) -> bool:
        """Whether this is the action for calls that match no other."""
        return self.target == FALLBACK_TARGET and self.selector == FALLBACK_SELECTOR


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """What the emissary stores for one session: the merged policies of each action.

    Attributes:
        actions: (target, selector) -> its policies.
        newest: whether the policies' contracts are known to be the newest revision. SDK 2.x's are: their addresses are
            derived from its bytecode. 1.15's spending-limits is an older one, and of some others it is not known, so
            only what every revision allows is allowed.
    """

    actions: Mapping[tuple[str, bytes], tuple[PolicyModel, ...]]
    newest: bool = False

    def find(self, target: str, selector: bytes) -> tuple[tuple[str, bytes], tuple[PolicyModel, ...]]:
        """The action that guards a call and its policies: the scoped one if it has any, else the fallback."""
        key = (target, selector)
        policies = self.actions.get(key, ())
        if policies:
            return key, policies
        key = (FALLBACK_TARGET, FALLBACK_SELECTOR)
        return key, self.actions.get(key, ())


def action_id(target: str, selector: bytes) -> str:
    """``keccak(target(20) ‖ selector(4))``, hex without 0x; the name of an action on chain."""
    return keccak(bytes.fromhex(target[2:]) + selector).hex()


def build_table(actions: Iterable[ActionPolicies], *, newest: bool = False) -> PolicyTable:
    """Merge the actions of a session as enabling them does (policies.md 1).

    Entries of the same (target, selector) merge. Policies are a set by contract address in the order first seen;
    a repeated address is initialised again by the last entry.
    """
    merged: dict[tuple[str, bytes], dict[str, PolicyModel]] = {}
    for action in actions:
        policies = merged.setdefault((action.target, action.selector), {})
        for policy in action.policies:
            policies[policy.contract()] = policy  # a dict keeps the place of a key that is set again
    return PolicyTable(
        MappingProxyType({key: tuple(value.values()) for key, value in merged.items()}), newest=newest
    )


def evaluate(
    table: PolicyTable,
    executions: Sequence[Execution],
    *,
    account: str,
    emissary: str,
    now_s: int,
    chain_s: int,
    latest_s: int,
    amount: AmountFormat = plain_amount,
    whitelist: Whitelist = NO_WHITELIST,
    sums: Mapping[str, int] | None = None,
) -> Verdict:
    """Judge one operation as the emissary would judge it; never raises.

    Args:
        table: the session's policies.
        executions: all calls of the operation, in order, those that the route added included.
        account: the account, lower-case.
        emissary: the session contract, lower-case.
        now_s: our clock, unix seconds.
        chain_s: time of the latest block, unix seconds.
        latest_s: the latest second at which the operation can still be executed (the fill deadline).
        amount: how amounts are written in the reasons.
        whitelist: what is known of intent-execution's list.
        sums: counter -> what it holds before the operation, if that is known exactly, with nothing in flight. Only
            arg-policy asks: an exhausted rule sends it down another branch.

    Returns:
        ``Allow`` with every counter change, call after call and by policy type, several changes of one counter kept
        apart; or ``Deny`` with the first offending call, what each policy says that refuses it, and the first of
        these by type. The caller must still hold ``spent + reserved + amount <= limit`` for all of them together.
    """
    if not executions:
        return Deny(-1, "session", "the operation holds no calls")
    changes: list[CounterChange] = []
    held = None if sums is None else dict(sums)
    for index, execution in enumerate(executions):
        call = Call(
            execution=execution,
            index=index,
            action_id="",
            account=account.lower(),
            now_s=now_s,
            chain_s=chain_s,
            latest_s=latest_s,
            amount=amount,
            newest=table.newest,
            whitelist=whitelist,
            sums=held,
        )
        outcome = _judge(table, call, emissary.lower())
        if isinstance(outcome, Deny):
            return outcome
        changes.extend(outcome)
        if held is not None:
            for change in outcome:
                held[change.counter] = held.get(change.counter, 0) + change.amount
    return Allow(tuple(changes))


def _judge(table: PolicyTable, call: Call, emissary: str) -> list[CounterChange] | Deny:
    index, execution = call.index, call.execution
    try:
        if not _well_formed(execution):
            return Deny(index, "session", "the call is malformed: target, value or data is out of range")
        target, data = execution.to, execution.data
        selector = data[:4] if len(data) >= 4 else NO_FUNCTION_SELECTOR
        if target == call.account and selector == EXECUTE_SELECTOR:
            return Deny(index, "session", "the account may not call its own execute")
        if target == FALLBACK_TARGET:
            return Deny(
                index, "session", f"{target} is reserved for the fallback action and cannot be called"
            )
        if target == emissary:
            return Deny(index, "session", "a session key may not call the session contract")
        key, policies = table.find(target, selector)
        if not policies:
            return Deny(
                index,
                "session",
                f"the session has no action for {target} with function 0x{selector.hex()}, and no fallback",
            )
        return _ask_all(policies, replace(call, action_id=action_id(*key)))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is a deny, as a revert is on chain
        return Deny(index, "session", f"the call could not be evaluated ({type(error).__name__})")


def _ask_all(policies: Sequence[PolicyModel], call: Call) -> list[CounterChange] | Deny:
    changes: list[CounterChange] = []
    refusals: list[tuple[str, str]] = []
    for policy in policies:
        policy_type = str(getattr(policy, "type", type(policy).__name__))
        try:
            changes.extend(policy.check(call))
        except PolicyViolationError as error:
            refusals.append((policy_type, error.message))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in a policy is a deny, as a revert is on chain
            refusals.append((policy_type, f"the policy could not be evaluated ({type(error).__name__})"))
    if refusals:
        (first, reason), *others = sorted(refusals)
        return Deny(call.index, first, "; ".join([reason, *(f"{name}: {why}" for name, why in others)]))
    return sorted(changes, key=lambda change: change.policy)


def _well_formed(execution: Execution) -> bool:
    # the types are checked too: what comes out of a route is data of others until here
    return (
        _ADDRESS.fullmatch(execution.to) is not None
        and type(execution.value) is int
        and 0 <= execution.value < 2**256
        and type(execution.data) is bytes
    )
