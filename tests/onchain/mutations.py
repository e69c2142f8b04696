"""Planted bugs of the evaluator: a comparison that does not find each of them proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from worker.policies import (
    ArgPolicy,
    IntentExecution,
    SpendingLimits,
    TimeFrame,
    UniversalAction,
    UsageLimit,
    ValueLimit,
    arg_policy,
    evaluate,
    intent_execution,
    spending_limits,
)
from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.policy import Call
from worker.policies.rules import Rule

Patch = Callable[[Any, str, Any], None]
"""``(owner, name, new value)``: pytest's ``monkeypatch.setattr``."""
Changes = tuple[CounterChange, ...]
Check = Callable[[Any, Call], Changes]


def _check(owner: type[Any], change: Callable[[Any, Call, Check], Changes]) -> Callable[[Patch], None]:
    """Puts ``change(policy, call, the real check)`` in place of a policy's check."""
    real: Check = owner.check

    def check(policy: Any, call: Call) -> Changes:
        return change(policy, call, real)

    def apply(patch: Patch) -> None:
        patch(owner, "check", check)

    return apply


def _with_data(call: Call, data: bytes) -> Call:
    return replace(call, execution=replace(call.execution, data=data))


def _with_value(call: Call, value: int) -> Call:
    return replace(call, execution=replace(call.execution, value=value))


def _approve_is_free(policy: SpendingLimits, call: Call, real: Check) -> Changes:
    changes = real(policy, call)
    return () if call.execution.data[:4] == spending_limits.APPROVE else changes


def _amounts_are_floats(policy: SpendingLimits, call: Call, real: Check) -> Changes:
    return tuple(replace(change, amount=int(float(change.amount))) for change in real(policy, call))


def _upper_bytes_are_ignored(policy: SpendingLimits, call: Call, real: Check) -> Changes:
    data = call.execution.data
    return real(policy, _with_data(call, data[:4] + bytes(12) + data[16:] if len(data) > 16 else data))


def _cut_arguments_are_zero(policy: SpendingLimits, call: Call, real: Check) -> Changes:
    data = call.execution.data
    return real(policy, _with_data(call, data.ljust(100, b"\0") if len(data) >= 4 else data))


def _native_value_passes(policy: SpendingLimits, call: Call, real: Check) -> Changes:
    return real(policy, _with_value(call, 0))


def _transfer_from_to_itself_is_charged(policy: SpendingLimits, call: Call, real: Check) -> Changes:
    data = call.execution.data
    if call.newest and data[:4] == spending_limits.TRANSFER_FROM:
        return real(policy, replace(call, account="0x" + "00" * 20))
    return real(policy, call)


def _first_limit_counts(patch: Patch) -> None:
    def limit_of(policy: SpendingLimits, token: str) -> int:
        return next((limit.amount for limit in policy.limits if limit.token == token), 0)

    patch(SpendingLimits, "limit_of", limit_of)


def _once_per_batch(policy: UsageLimit, call: Call, real: Check) -> Changes:
    return real(policy, call) if call.index == 0 else ()


def _value_is_128_bits(policy: ValueLimit, call: Call, real: Check) -> Changes:
    return real(policy, _with_value(call, call.execution.value % 2**128))


def _word_is_padded(patch: Patch) -> None:
    def word(rule: Rule, data: bytes) -> int:
        start = 4 + rule.calldata_offset
        return int.from_bytes(data[start : start + 32].ljust(32, b"\0"), "big")

    patch(Rule, "word", word)


def _words_are_signed(patch: Patch) -> None:
    real = Rule.holds

    def signed(word: int) -> int:
        return word - 2**256 if word >> 255 else word

    def holds(rule: Rule, word: int) -> bool:
        if rule.condition == "greaterThan":
            return signed(word) > signed(rule.reference_value)
        return real(rule, word)

    patch(Rule, "holds", holds)


def _range_is_exclusive(patch: Patch) -> None:
    real = Rule.holds

    def holds(rule: Rule, word: int) -> bool:
        if rule.condition == "inRange" and word == rule.reference_value % 2**128:
            return False
        return real(rule, word)

    patch(Rule, "holds", holds)


def _value_per_use_is_not_held(policy: UniversalAction, call: Call, real: Check) -> Changes:
    return real(policy, _with_value(call, 0))


def _first_sum_counts(policy: UniversalAction, call: Call, real: Check) -> Changes:
    return tuple(change for change in real(policy, call) if change.counter.endswith("rule0"))


def _node(change: Callable[[Any, int, int, Any], bool]) -> Callable[[Patch], None]:
    run: Any = arg_policy._Run  # pyright: ignore[reportPrivateUsage]
    real = run.true

    def true(self: Any, node: int, level: int) -> bool:
        return change(self, node, level, real)

    def apply(patch: Patch) -> None:
        patch(run, "true", true)

    return apply


def _both_sides_of_or(run: Any, node: int, level: int, real: Any) -> bool:
    packed = run.policy.compiled[1][node]
    if packed & 3 == 3:
        left = run.true(packed >> 10 & 0xFF, level + 1)
        right = run.true(packed >> 18 & 0xFF, level + 1)
        return left or right
    return bool(real(run, node, level))


def _false_branches_count_nothing(run: Any, node: int, level: int, real: Any) -> bool:
    before = len(run.changes)
    result = bool(real(run, node, level))
    if not result:
        del run.changes[before:]
    return result


def _exhausted_sums_are_not_seen(policy: ArgPolicy, call: Call, real: Check) -> Changes:
    return real(policy, replace(call, sums=None))


def _end_is_inclusive(policy: TimeFrame, call: Call, real: Check) -> Changes:
    try:
        return real(policy, call)
    except PolicyViolationError:
        before = replace(call, now_s=call.now_s - 1, chain_s=call.now_s - 1, latest_s=call.now_s - 1)
        if call.now_s == policy.valid_until_s:
            return real(policy, before)
        raise


def _spender_needs_the_amount(patch: Patch) -> None:
    patch(intent_execution, "_APPROVE_LENGTH", 68)


def _approve_of_anybody(policy: IntentExecution, call: Call, real: Check) -> Changes:
    return () if call.execution.data[:4] == spending_limits.APPROVE else real(policy, call)


def _table(change: Callable[[Any, str, bytes, Any], Any]) -> Callable[[Patch], None]:
    real = evaluate.PolicyTable.find

    def find(table: Any, target: str, selector: bytes) -> Any:
        return change(table, target, selector, real)

    def apply(patch: Patch) -> None:
        patch(evaluate.PolicyTable, "find", find)

    return apply


def _fallback_is_added(table: Any, target: str, selector: bytes, real: Any) -> Any:
    key, policies = real(table, target, selector)
    fallback = table.actions.get((evaluate.FALLBACK_TARGET, evaluate.FALLBACK_SELECTOR), ())
    return key, policies if key[0] == evaluate.FALLBACK_TARGET else (*policies, *fallback)


def _empty_action_denies(table: Any, target: str, selector: bytes, real: Any) -> Any:
    key = (target, selector)
    return (key, table.actions[key]) if key in table.actions else real(table, target, selector)


def _first_enabling_counts(patch: Patch) -> None:
    real = evaluate.build_table

    def build_table(actions: Any, *, newest: bool = False) -> Any:
        return real(reversed(list(actions)), newest=newest)

    # where the comparison has it from
    from tests.onchain import judge

    patch(judge, "build_table", build_table)


def _plain_transfer_has_no_selector(patch: Patch) -> None:
    patch(evaluate, "NO_FUNCTION_SELECTOR", bytes(4))


def _nested_execute_passes(patch: Patch) -> None:
    patch(evaluate, "EXECUTE_SELECTOR", b"none")


MUTATIONS: Mapping[str, Callable[[Patch], None]] = MappingProxyType(
    {
        "spending-limits: approve is free": _check(SpendingLimits, _approve_is_free),
        "spending-limits: amounts are floats": _check(SpendingLimits, _amounts_are_floats),
        "spending-limits: upper bytes of an address are ignored": _check(
            SpendingLimits, _upper_bytes_are_ignored
        ),
        "spending-limits: cut arguments are zero": _check(SpendingLimits, _cut_arguments_are_zero),
        "spending-limits: native value passes": _check(SpendingLimits, _native_value_passes),
        "spending-limits: transferFrom to itself is charged": _check(
            SpendingLimits, _transfer_from_to_itself_is_charged
        ),
        "spending-limits: the first limit of a token counts": _first_limit_counts,
        "usage-limit: once per batch": _check(UsageLimit, _once_per_batch),
        "value-limit: 128 bits": _check(ValueLimit, _value_is_128_bits),
        "rules: words beyond the calldata are zero": _word_is_padded,
        "rules: words are signed": _words_are_signed,
        "rules: the end of a range is exclusive": _range_is_exclusive,
        "universal-action: value per use is not held": _check(UniversalAction, _value_per_use_is_not_held),
        "universal-action: only the first sum counts": _check(UniversalAction, _first_sum_counts),
        "arg-policy: both sides of an or": _node(_both_sides_of_or),
        "arg-policy: a false branch counts nothing": _node(_false_branches_count_nothing),
        "arg-policy: exhausted sums are not seen": _check(ArgPolicy, _exhausted_sums_are_not_seen),
        "time-frame: the end is inclusive": _check(TimeFrame, _end_is_inclusive),
        "intent-execution: a spender needs the amount": _spender_needs_the_amount,
        "intent-execution: approve of anybody": _check(IntentExecution, _approve_of_anybody),
        "matching: the fallback is added to an action": _table(_fallback_is_added),
        "matching: an action without policies denies": _table(_empty_action_denies),
        "matching: a plain transfer has another selector": _plain_transfer_has_no_selector,
        "matching: a nested execute passes": _nested_execute_passes,
        "enabling: the first init data counts": _first_enabling_counts,
    }
)
