"""arg-policy's tree and intent-execution's list: what they allow, what they count, and where they deny to be safe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from worker.policies import ArgPolicy, IntentExecution, Whitelist
from worker.policies.arg_policy import MAX_LEVELS
from worker.policies.base import Allow, Deny, Execution, Verdict
from worker.policies.evaluate import ActionPolicies, action_id, build_table, evaluate
from worker.policies.policy import NO_WHITELIST, PolicyModel

_TARGET = "0x" + "11" * 20
_SPENDER = "0x" + "22" * 20
_SELECTOR = bytes.fromhex("12345678")
_ACTION = action_id(_TARGET, _SELECTOR)


def _rule(
    value: int, *, limit: int | None = None, offset: int = 0, condition: str = "equal"
) -> dict[str, Any]:
    rule: dict[str, Any] = {"condition": condition, "calldataOffset": offset, "referenceValue": str(value)}
    if limit is not None:
        rule["usageLimit"] = str(limit)
    return {"type": "rule", "rule": rule}


def _both(kind: str, left: Any, right: Any) -> dict[str, Any]:
    return {"type": kind, "left": left, "right": right}


def _chain(kind: str, rules: int) -> dict[str, Any]:
    """A right-leaning chain whose rules are true of 1, 2, 3, ... in this order."""
    tree = _rule(rules)
    for value in range(rules - 1, 0, -1):
        tree = _both(kind, _rule(value), tree)
    return tree


def _judge(
    policy: PolicyModel,
    *words: int,
    value: int = 0,
    whitelist: Whitelist = NO_WHITELIST,
    data: bytes | None = None,
    sums: Mapping[str, int] | None = None,
) -> Verdict:
    calldata = _SELECTOR + b"".join(word.to_bytes(32, "big") for word in words) if data is None else data
    return evaluate(
        build_table([ActionPolicies(_TARGET, calldata[:4], (policy,))]),
        [Execution(_TARGET, value, calldata)],
        account="0x" + "aa" * 20,
        emissary="0x" + "ee" * 20,
        now_s=1,
        chain_s=1,
        latest_s=1,
        whitelist=whitelist,
        sums=sums,
    )


def _policy(expression: Any, **more: Any) -> ArgPolicy:
    return ArgPolicy.model_validate({"expression": expression, **more})


def _allowed(verdict: Verdict) -> dict[str, int]:
    assert isinstance(verdict, Allow), verdict
    return {change.counter.split(":")[2]: change.amount for change in verdict.changes}


def _denied(verdict: Verdict) -> str:
    assert isinstance(verdict, Deny), verdict
    return verdict.reason


class TestTree:
    """Left before right, short circuit, and the contract's depth."""

    def test_a_false_expression_names_the_rules_that_were_false(self) -> None:
        reason = _denied(_judge(_policy(_both("or", _rule(1), _rule(2))), 3))
        assert reason.startswith("its expression is false (rule 0: the argument at offset 0 is 0x3")
        assert "rule 1" in reason

    def test_a_skipped_branch_neither_reads_nor_counts(self) -> None:
        beyond = _rule(0, offset=9_999)
        assert _allowed(_judge(_policy(_both("or", _rule(5, limit=9), beyond)), 5)) == {"rule0": 5}
        assert "ends before" in _denied(_judge(_policy(_both("or", _rule(6), beyond)), 5))
        assert "expression is false" in _denied(_judge(_policy(_both("and", _rule(6), beyond)), 5))

    def test_calldata_that_ends_too_early_denies_under_not_as_well(self) -> None:
        assert "ends before" in _denied(_judge(_policy({"type": "not", "child": _rule(0, offset=32)}), 5))

    def test_what_was_counted_in_a_branch_that_is_false_later_stays_counted(self) -> None:
        left = _both("and", _rule(5, limit=9), _rule(6))
        assert _allowed(_judge(_policy(_both("or", left, _rule(5))), 5)) == {"rule0": 5}

    def test_native_value_is_bounded_per_call(self) -> None:
        policy = _policy(_rule(5), valueLimitPerUse="3")
        assert _allowed(_judge(policy, 5, value=3)) == {}
        assert "above the limit" in _denied(_judge(policy, 5, value=4))

    def test_a_rule_81_levels_down_is_reached_and_one_further_is_not(self) -> None:
        deepest = MAX_LEVELS + 1
        assert _allowed(_judge(_policy(_chain("or", deepest)), deepest)) == {}
        deeper = _policy(_chain("or", deepest + 1))
        assert "levels deep" in _denied(_judge(deeper, deepest + 1))
        assert _allowed(_judge(deeper, deepest - 1)) == {}  # short circuit: the last two are never reached


class TestSums:
    """A limited rule without exact sums is held by the ledger; with them it decides as the contract does."""

    LIMITED = _both("or", _rule(5, limit=9), _rule(5))

    def test_without_sums_the_left_branch_is_charged(self) -> None:
        assert _allowed(_judge(_policy(self.LIMITED), 5)) == {"rule0": 5}

    def test_with_sums_an_exhausted_rule_goes_on_to_the_right_branch(self) -> None:
        exhausted = {f"{_ACTION}:arg-policy:rule0": 5}
        assert _allowed(_judge(_policy(self.LIMITED), 5, sums=exhausted)) == {}
        assert _allowed(_judge(_policy(self.LIMITED), 5, sums={})) == {"rule0": 5}

    def test_not_of_a_limited_rule_is_denied_unless_its_limit_can_never_be_met(self) -> None:
        def tree(limit: int) -> ArgPolicy:
            return _policy({"type": "not", "child": _rule(5, limit=limit)})

        assert "expression is false" in _denied(_judge(tree(9), 5))
        assert _allowed(_judge(tree(4), 5)) == {}

    def test_a_sum_that_may_overflow_is_a_deny_even_under_not(self) -> None:
        most = 2**256 - 1
        tree = _policy({"type": "not", "child": _rule(0, limit=most - 1, condition="greaterThan")})
        assert "may overflow" in _denied(_judge(tree, most))

    def test_two_calls_of_one_batch_add_up(self) -> None:
        call = Execution(_TARGET, 0, _SELECTOR + (5).to_bytes(32, "big"))
        verdict = evaluate(
            build_table([ActionPolicies(_TARGET, _SELECTOR, (_policy(self.LIMITED),))]),
            [call, call],
            account="0x" + "aa" * 20,
            emissary="0x" + "ee" * 20,
            now_s=1,
            chain_s=1,
            latest_s=1,
            sums={},
        )
        assert isinstance(verdict, Allow)
        assert [change.call_index for change in verdict.changes] == [0]  # the second found 5 of 9 used


class TestList:
    """intent-execution knows only what was read of its list."""

    APPROVE = bytes.fromhex("095ea7b3") + bytes(12) + bytes.fromhex("22" * 20)

    @pytest.mark.parametrize(
        "whitelist",
        [
            Whitelist(frozenset({_TARGET})),
            Whitelist(frozenset({_SPENDER})),
            Whitelist(paymaster=_SPENDER),
        ],
    )
    def test_listed_targets_and_spenders_and_the_paymaster_pass_with_any_value(
        self, whitelist: Whitelist
    ) -> None:
        verdict = _judge(IntentExecution(), data=self.APPROVE, value=7, whitelist=whitelist)
        assert _allowed(verdict) == {}

    def test_the_spender_counts_in_an_approve_with_a_whole_word_only(self) -> None:
        listed = Whitelist(frozenset({_SPENDER}), _SPENDER)
        for data in (self.APPROVE[:35], _SELECTOR + self.APPROVE[4:]):
            assert "it is not on" in _denied(_judge(IntentExecution(), data=data, whitelist=listed))

    def test_the_unknown_paymaster_is_not_the_zero_address(self) -> None:
        zero = self.APPROVE[:4] + bytes(32)
        assert "nor the spender" in _denied(_judge(IntentExecution(), data=zero))
