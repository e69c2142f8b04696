"""Matching, fallback, combination and time: what the evaluator allows, denies and says."""

from __future__ import annotations

import itertools

import pytest
from eth_abi.abi import encode

from tests.support.vectors import load_vectors
from worker.policies import (
    IntentExecution,
    SpendingLimits,
    Sudo,
    TimeFrame,
    TokenLimit,
    UniversalAction,
    UsageLimit,
    ValueLimit,
)
from worker.policies.base import Allow, CounterChange, Deny, Execution, Verdict
from worker.policies.evaluate import (
    FALLBACK_SELECTOR,
    FALLBACK_TARGET,
    ActionPolicies,
    PolicyTable,
    action_id,
    build_table,
    evaluate,
)
from worker.policies.policy import Call, PolicyModel
from worker.policies.rules import Rule

ACCOUNT = "0x" + "aa" * 20
EMISSARY = "0xad568b3f825a8d5ffc06dd3253526b64d810ae89"
USDC = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
OTHER = "0x" + "42" * 20
FRIEND = "0x" + "11" * 20
TRANSFER = bytes.fromhex("a9059cbb")
NOW = 1_800_000_000


def transfer(amount: int, to: str = FRIEND) -> bytes:
    return TRANSFER + encode(["address", "uint256"], [to, amount])


def table(*actions: tuple[str, bytes, tuple[PolicyModel, ...]]) -> PolicyTable:
    return build_table(ActionPolicies(*action) for action in actions)


def judge(
    policies: PolicyTable,
    *executions: Execution,
    now: int = NOW,
    chain: int | None = None,
    latest: int | None = None,
) -> Verdict:
    return evaluate(
        policies,
        executions,
        account=ACCOUNT,
        emissary=EMISSARY,
        now_s=now,
        chain_s=now if chain is None else chain,
        latest_s=now if latest is None else latest,
    )


def denied(verdict: Verdict) -> Deny:
    assert isinstance(verdict, Deny)
    return verdict


def allowed(verdict: Verdict) -> tuple[CounterChange, ...]:
    assert isinstance(verdict, Allow), verdict
    return verdict.changes


SPEND_100 = SpendingLimits(limits=(TokenLimit(token=USDC, amount=100),))
FALLBACK_SUDO = (FALLBACK_TARGET, FALLBACK_SELECTOR, (Sudo(),))


class TestMatching:
    """A call is judged by its own action, else by the fallback, else not at all."""

    def test_an_empty_operation_is_denied(self) -> None:
        assert denied(judge(table(FALLBACK_SUDO))) == Deny(-1, "session", "the operation holds no calls")

    def test_an_empty_table_denies_everything(self) -> None:
        verdict = denied(judge(table(), Execution(USDC, 0, transfer(1))))
        assert (verdict.call_index, verdict.policy) == (0, "session")
        assert "no action" in verdict.reason

    def test_the_fallback_takes_what_no_action_names(self) -> None:
        assert allowed(judge(table(FALLBACK_SUDO), Execution(OTHER, 5, b"\x01\x02\x03\x04"))) == ()

    def test_a_scoped_action_that_refuses_does_not_fall_through(self) -> None:
        both = table((USDC, TRANSFER, (SPEND_100,)), FALLBACK_SUDO)
        assert denied(judge(both, Execution(USDC, 0, transfer(101)))).policy == "spending-limits"

    def test_the_fallbacks_policies_are_not_added_to_a_scoped_action(self) -> None:
        both = table(
            (USDC, TRANSFER, (Sudo(),)), (FALLBACK_TARGET, FALLBACK_SELECTOR, (UsageLimit(limit=1),))
        )
        assert allowed(judge(both, Execution(USDC, 0, transfer(101)))) == ()

    def test_an_action_with_an_empty_list_of_policies_uses_the_fallback(self) -> None:
        both = table((USDC, TRANSFER, ()), (FALLBACK_TARGET, FALLBACK_SELECTOR, (UsageLimit(limit=2),)))
        (change,) = allowed(judge(both, Execution(USDC, 0, transfer(1))))
        assert change.counter == f"{action_id(FALLBACK_TARGET, FALLBACK_SELECTOR)}:usage-limit:-"
        assert (
            "no action" in denied(judge(table((USDC, TRANSFER, ())), Execution(USDC, 0, transfer(1)))).reason
        )

    @pytest.mark.parametrize("data", [b"", b"\x01", TRANSFER[:3]])
    def test_data_below_4_bytes_needs_the_selector_ffffffff(self, data: bytes) -> None:
        plain = table((OTHER, b"\xff" * 4, (ValueLimit(limit=10),)))
        assert [change.amount for change in allowed(judge(plain, Execution(OTHER, 7, data)))] == [7]
        assert isinstance(judge(table((OTHER, TRANSFER, (Sudo(),))), Execution(OTHER, 7, data)), Deny)

    def test_another_selector_or_target_does_not_match(self) -> None:
        only = table((USDC, TRANSFER, (Sudo(),)))
        assert isinstance(judge(only, Execution(USDC, 0, bytes.fromhex("095ea7b3") + bytes(64))), Deny)
        assert isinstance(judge(only, Execution(OTHER, 0, transfer(1))), Deny)

    def test_the_account_may_not_execute_through_itself_but_may_call_its_other_functions(self) -> None:
        sudo = table(FALLBACK_SUDO)
        nested = Execution(ACCOUNT, 0, bytes.fromhex("e9ae5c53") + bytes(64))
        assert "own execute" in denied(judge(sudo, nested)).reason
        assert allowed(judge(sudo, Execution(ACCOUNT, 0, bytes.fromhex("9517e29f")))) == ()
        assert allowed(judge(sudo, Execution(OTHER, 0, nested.data))) == ()

    def test_the_sentinel_and_the_session_contract_can_never_be_called(self) -> None:
        for target in (FALLBACK_TARGET, EMISSARY):
            everything = table(FALLBACK_SUDO, (target, TRANSFER, (Sudo(),)))
            assert isinstance(judge(everything, Execution(target, 0, transfer(1))), Deny)

    def test_addresses_of_the_caller_may_be_mixed_case(self) -> None:
        verdict = evaluate(
            table(FALLBACK_SUDO),
            [Execution(EMISSARY, 0, b"")],
            account=ACCOUNT.upper().replace("0X", "0x"),
            emissary="0xAD568b3f825a8d5ffc06dd3253526b64d810ae89",
            now_s=NOW,
            chain_s=NOW,
            latest_s=NOW,
        )
        assert isinstance(verdict, Deny)

    @pytest.mark.parametrize(
        "execution",
        [
            Execution(USDC.upper(), 0, b""),
            Execution(USDC[:-2], 0, b""),
            Execution(USDC, -1, b""),
            Execution(USDC, 2**256, b""),
            Execution(USDC, True, b""),
            Execution(USDC, 0, "0x"),  # pyright: ignore[reportArgumentType]
            Execution(None, 0, b""),  # pyright: ignore[reportArgumentType]
        ],
    )
    def test_a_malformed_call_is_denied_even_under_sudo(self, execution: Execution) -> None:
        assert denied(judge(table(FALLBACK_SUDO), execution)).call_index == 0

    def test_action_ids_are_the_ones_of_the_chain(self) -> None:
        checked = 0
        for vector in load_vectors("config_ids")["vectors"]:
            for action in vector["actions"]:
                selector = bytes.fromhex(action["actionTargetSelector"][2:])
                assert "0x" + action_id(action["actionTarget"], selector) == action["actionId"]
                checked += 1
        assert checked == 7


class TestCombination:
    """All policies of an action must pass, all calls must pass, and counters stay in order."""

    def test_every_order_of_policies_gives_the_same_decision(self) -> None:
        window = TimeFrame(valid_until=(NOW + 100) * 1000, valid_after=0)
        for order in itertools.permutations((Sudo(), SPEND_100, window, UsageLimit(limit=5))):
            actions = table((USDC, TRANSFER, order))
            changes = allowed(judge(actions, Execution(USDC, 0, transfer(60))))
            assert {(change.policy, change.amount, change.limit) for change in changes} == {
                ("spending-limits", 60, 100),
                ("usage-limit", 1, 5),
            }
            assert (
                denied(judge(actions, Execution(USDC, 0, transfer(60)), now=NOW + 100)).policy == "time-frame"
            )
            assert denied(judge(actions, Execution(USDC, 0, transfer(101)))).policy == "spending-limits"

    def test_all_policies_that_refuse_are_named_in_every_order(self) -> None:
        closed = TimeFrame(valid_until=(NOW - 100) * 1000, valid_after=0)
        for order in itertools.permutations((SPEND_100, closed, ValueLimit(limit=5), Sudo())):
            verdict = denied(judge(table((USDC, TRANSFER, order)), Execution(USDC, 6, transfer(1))))
            assert (verdict.call_index, verdict.policy) == (0, "spending-limits")
            first, second, third = verdict.reason.split("; ", 2)
            assert first == "native value is not allowed with a spending limit"
            assert second.startswith("time-frame: expired at ")
            assert third.endswith("value-limit: asks for 6 wei, above the whole limit of 5 wei")

    def test_changes_of_one_counter_are_kept_apart_and_in_order(self) -> None:
        actions = table((USDC, TRANSFER, (SPEND_100, UsageLimit(limit=5))))
        changes = allowed(judge(actions, Execution(USDC, 0, transfer(60)), Execution(USDC, 0, transfer(50))))
        assert [(change.call_index, change.policy, change.amount) for change in changes] == [
            (0, "spending-limits", 60),
            (0, "usage-limit", 1),
            (1, "spending-limits", 50),
            (1, "usage-limit", 1),
        ]
        assert (
            changes[0].counter == f"{action_id(USDC, TRANSFER)}:spending-limits:{USDC}" == changes[2].counter
        )
        assert changes[0].token == USDC

    def test_the_first_offending_call_is_named(self) -> None:
        actions = table((USDC, TRANSFER, (SPEND_100,)))
        calls = [Execution(USDC, 0, transfer(1)), Execution(OTHER, 0, transfer(1)), Execution(OTHER, 0, b"")]
        assert denied(judge(actions, *calls)).call_index == 1

    def test_repeated_actions_merge_and_the_last_init_data_wins_in_the_first_place(self) -> None:
        merged = table(
            (USDC, TRANSFER, (ValueLimit(limit=1), SPEND_100)),
            (USDC, TRANSFER, (UsageLimit(limit=3), ValueLimit(limit=9))),
        )
        assert merged.actions[(USDC, TRANSFER)] == (ValueLimit(limit=9), SPEND_100, UsageLimit(limit=3))
        assert len(merged.actions) == 1

    def test_two_functions_of_a_token_have_counters_of_their_own(self) -> None:
        approve = bytes.fromhex("095ea7b3")
        actions = table((USDC, TRANSFER, (SPEND_100,)), (USDC, approve, (SPEND_100,)))
        changes = allowed(
            judge(
                actions,
                Execution(USDC, 0, transfer(60)),
                Execution(USDC, 0, approve + encode(["address", "uint256"], [FRIEND, 60])),
            )
        )
        assert changes[0].counter != changes[1].counter

    def test_an_exception_inside_a_policy_is_a_deny(self) -> None:
        class Broken(PolicyModel):
            address = "0x" + "99" * 20

            def check(self, call: Call) -> tuple[CounterChange, ...]:
                raise ZeroDivisionError("secret detail")

        verdict = denied(judge(table((USDC, TRANSFER, (Sudo(), Broken()))), Execution(USDC, 0, transfer(1))))
        assert "ZeroDivisionError" in verdict.reason
        assert "secret detail" not in verdict.reason

    def test_an_intent_execution_whose_list_is_not_known_denies(self) -> None:
        verdict = denied(
            judge(table((USDC, TRANSFER, (IntentExecution(),))), Execution(USDC, 0, transfer(1)))
        )
        assert verdict.policy == "intent-execution"
        assert "it is not on the orchestrator's list" in verdict.reason


class TestWords:
    """A reason names amounts as people write them."""

    def test_amounts_are_formatted_by_the_caller(self) -> None:
        verdict = evaluate(
            table((USDC, TRANSFER, (SPEND_100,))),
            [Execution(USDC, 0, transfer(150))],
            account=ACCOUNT,
            emissary=EMISSARY,
            now_s=NOW,
            chain_s=NOW,
            latest_s=NOW,
            amount=lambda token, units: f"{units}.00 {'USDC' if token == USDC else token}",
        )
        assert denied(verdict).reason == "asks for 150.00 USDC, above the whole limit of 100.00 USDC"

    def test_without_a_format_amounts_are_base_units(self) -> None:
        reason = denied(
            judge(table((USDC, TRANSFER, (SPEND_100,))), Execution(USDC, 0, transfer(150)))
        ).reason
        assert f"150 base units of {USDC}" in reason


class TestTimeFrame:
    """S3: start inclusive, end exclusive, by our clock, by the chain's, and until the latest execution."""

    START, END = NOW, NOW + 1000
    WINDOW = table(
        (USDC, TRANSFER, (TimeFrame(valid_until=END * 1000 + 999, valid_after=START * 1000 + 999),))
    )

    @pytest.mark.parametrize(
        ("moment", "inside"),
        [
            (START - 1, False),
            (START, True),
            (START + 1, True),
            (END - 1, True),
            (END, False),
            (END + 1, False),
        ],
    )
    def test_both_boundaries(self, moment: int, inside: bool) -> None:
        assert isinstance(judge(self.WINDOW, Execution(USDC, 0, transfer(1)), now=moment), Allow) is inside

    @pytest.mark.parametrize(
        ("now", "chain", "latest", "words"),
        [
            (START - 1, START, START, "not valid before"),
            (START, START - 1, START, "not valid before"),
            (END, END - 1, END - 1, "expired"),
            (END - 1, END, END - 1, "expired"),
            (END - 20, END - 20, END, "expires too soon"),
            (END - 20, END - 20, END + 40, "expires too soon"),
        ],
    )
    def test_each_of_the_three_times_counts(self, now: int, chain: int, latest: int, words: str) -> None:
        verdict = denied(
            judge(self.WINDOW, Execution(USDC, 0, transfer(1)), now=now, chain=chain, latest=latest)
        )
        assert verdict.policy == "time-frame"
        assert words in verdict.reason

    def test_zero_means_no_end_or_no_start_but_not_both(self) -> None:
        def window(until: int, after: int) -> Verdict:
            policies = table((USDC, TRANSFER, (TimeFrame(valid_until=until, valid_after=after),)))
            return judge(policies, Execution(USDC, 0, transfer(1)))

        assert isinstance(window(0, 1000), Allow)
        assert isinstance(window((NOW + 1) * 1000, 0), Allow)
        assert isinstance(window(0, 0), Deny)
        assert isinstance(window(0, 999), Deny)

    def test_an_end_that_rounds_to_zero_is_no_end_on_chain_and_denied_here(self) -> None:
        policies = table((USDC, TRANSFER, (TimeFrame(valid_until=999, valid_after=1000),)))
        assert isinstance(judge(policies, Execution(USDC, 0, transfer(1))), Deny)

    def test_a_far_end_can_be_put_in_words(self) -> None:
        far = 2**53 - 1
        policies = table((USDC, TRANSFER, (TimeFrame(valid_until=0, valid_after=far),)))
        assert f"unix second {far // 1000}" in denied(judge(policies, Execution(USDC, 0, transfer(1)))).reason


class TestStricterThanTheChain:
    """Where revisions differ, what every revision allows is allowed and nothing else."""

    def test_increase_allowance_is_refused(self) -> None:
        selector = bytes.fromhex("39509351")
        actions = table((USDC, selector, (SPEND_100,)))
        call = Execution(USDC, 0, selector + encode(["address", "uint256"], [FRIEND, 1]))
        assert "increaseAllowance" in denied(judge(actions, call)).reason

    def test_transfer_from_to_the_account_itself_is_charged(self) -> None:
        selector = bytes.fromhex("23b872dd")
        actions = table((USDC, selector, (SPEND_100,)))
        call = Execution(USDC, 0, selector + encode(["address", "address", "uint256"], [FRIEND, ACCOUNT, 70]))
        assert [change.amount for change in allowed(judge(actions, call))] == [70]

    def test_the_largest_approval_is_refused_under_any_smaller_limit(self) -> None:
        selector = bytes.fromhex("095ea7b3")
        actions = table((USDC, selector, (SPEND_100,)))
        call = Execution(USDC, 0, selector + encode(["address", "uint256"], [FRIEND, 2**256 - 1]))
        assert denied(judge(actions, call)).policy == "spending-limits"

    def test_zero_limits_allow_nothing(self) -> None:
        for policy in (UsageLimit(limit=0), ValueLimit(limit=0)):
            assert isinstance(
                judge(table((USDC, TRANSFER, (policy,))), Execution(USDC, 0, transfer(0))), Deny
            )

    def test_a_limited_rule_counts_the_words_value(self) -> None:
        rule = Rule(condition="lessThanOrEqual", calldata_offset=32, reference_value=50, usage_limit=120)
        actions = table((USDC, TRANSFER, (UniversalAction(rules=(rule,)),)))
        changes = allowed(judge(actions, Execution(USDC, 0, transfer(50)), Execution(USDC, 0, transfer(50))))
        assert [(change.amount, change.limit, change.token) for change in changes] == [(50, 120, "")] * 2
        assert changes[0].counter.endswith(":universal-action:rule0")
