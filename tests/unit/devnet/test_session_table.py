"""The devnet's own policy evaluator against what the policy contracts were recorded to do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vectors import load_vectors
from worker.devnet.chain import EMISSARY, OWNABLE_VALIDATOR, Call
from worker.devnet.session_table import (
    SPENDING_LIMITS,
    SUDO,
    TIME_FRAME,
    USAGE_LIMIT,
    VALUE_LIMIT,
    OperationDeniedError,
    SessionTable,
)

ADDRESSES = {
    "sudo": SUDO,
    "spending-limits": SPENDING_LIMITS,
    "usage-limit": USAGE_LIMIT,
    "value-limit": VALUE_LIMIT,
}
ACCOUNT = "0x" + "aa" * 20
TARGET = "0x" + "c0" * 20
PING = bytes.fromhex("12345678")
FALLBACK = ("0x" + "00" * 19 + "01", bytes.fromhex("00000001"))


def session(*actions: tuple[str, bytes, list[tuple[str, bytes]]]) -> tuple[Any, ...]:
    """The ABI tuple of a session with these (target, selector, policies)."""
    rows = [(sel, target, policies) for target, sel, policies in actions]
    return (OWNABLE_VALIDATOR, b"", b"\0" * 32, rows, [], ([], []))


def table(*actions: tuple[str, bytes, list[tuple[str, bytes]]]) -> SessionTable:
    made = SessionTable()
    made.enable(session(*actions))
    return made


def scenarios() -> list[Any]:
    # the vectors sit beside the project; without them the fixture below reports the skip
    try:
        found = load_vectors("policy_semantics")["vectors"]
    except BaseException:  # noqa: BLE001 - pytest's skip and fail are no Exceptions
        return []
    return [scenario for scenario in found if scenario["policy"].get("type") in ADDRESSES]


class TestRecordedSemantics:
    """The evaluator allows exactly what the contracts allowed."""

    def test_there_are_scenarios_for_each_policy(self) -> None:
        load_vectors("policy_semantics")
        assert {scenario["policy"]["type"] for scenario in scenarios()} == set(ADDRESSES)

    @pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario["name"])
    def test_every_step_is_decided_as_the_contract_decided_it(self, scenario: Any) -> None:
        policy = (ADDRESSES[scenario["policy"]["type"]], bytes.fromhex(scenario["initData"][2:]))
        # an action on the fallback reaches the policy whatever the call is
        wanted = session((*FALLBACK, [policy]))
        if scenario["initialize"] != "ok":
            with pytest.raises(OperationDeniedError):
                SessionTable().enable(wanted)
            return
        current = SessionTable()
        current.enable(wanted)
        for step in scenario["steps"]:
            call = Call(step["target"].lower(), int(step["value"]), bytes.fromhex(step["data"][2:]))
            attempt = current.copy()
            try:
                attempt.check(ACCOUNT, [call])
                allowed = True
            except OperationDeniedError:
                allowed = False
            assert allowed == step["expected"]["allowed"], step
            if allowed:
                current = attempt


class TestMatching:
    """Calls are matched to actions as the emissary matches them."""

    def test_an_empty_operation_is_refused(self) -> None:
        with pytest.raises(OperationDeniedError, match="NoExecutionsInBatch"):
            table((TARGET, PING, [(SUDO, b"")])).check(ACCOUNT, [])

    def test_a_call_without_action_and_fallback_is_refused_with_its_index(self) -> None:
        made = table((TARGET, PING, [(SUDO, b"")]))
        with pytest.raises(OperationDeniedError, match="NoPoliciesSet") as caught:
            made.check(ACCOUNT, [Call(TARGET, 0, PING), Call(TARGET, 0, b"\x99" * 4)])
        assert caught.value.call_index == 1

    def test_a_failing_scoped_action_does_not_fall_through(self) -> None:
        made = table((TARGET, PING, [(USAGE_LIMIT, (1).to_bytes(16))]), (*FALLBACK, [(SUDO, b"")]))
        made.check(ACCOUNT, [Call(TARGET, 0, PING)])
        with pytest.raises(OperationDeniedError, match="usage-limit"):
            made.check(ACCOUNT, [Call(TARGET, 0, PING)])

    def test_an_empty_policy_list_falls_back(self) -> None:
        table((TARGET, PING, []), (*FALLBACK, [(SUDO, b"")])).check(ACCOUNT, [Call(TARGET, 0, PING)])

    def test_sudo_may_not_call_the_emissary_the_sentinel_or_execute_on_itself(self) -> None:
        made = table((*FALLBACK, [(SUDO, b"")]))
        for call in (
            Call(EMISSARY, 0, PING),
            Call(FALLBACK[0], 0, PING),
            Call(ACCOUNT, 0, bytes.fromhex("e9ae5c53")),
        ):
            with pytest.raises(OperationDeniedError):
                made.copy().check(ACCOUNT, [call])

    def test_an_unknown_policy_contract_denies(self) -> None:
        with pytest.raises(OperationDeniedError, match="no contract"):
            table((TARGET, PING, [("0x" + "77" * 20, b"")])).check(ACCOUNT, [Call(TARGET, 0, PING)])

    def test_a_passed_time_frame_is_not_enforced(self) -> None:
        window = (1).to_bytes(16) + (0).to_bytes(16)
        table((TARGET, PING, [(TIME_FRAME, window)])).check(ACCOUNT, [Call(TARGET, 0, PING)])


class TestMerging:
    """A second enabling of a permission merges into the first."""

    def test_an_enabled_again_counter_starts_afresh_and_others_stay(self) -> None:
        other = bytes.fromhex("87654321")
        once = [(USAGE_LIMIT, (1).to_bytes(16))]
        made = table((TARGET, PING, once), (TARGET, other, once))
        made.check(ACCOUNT, [Call(TARGET, 0, PING), Call(TARGET, 0, other)])
        made.enable(session((TARGET, PING, once)))
        made.check(ACCOUNT, [Call(TARGET, 0, PING)])
        with pytest.raises(OperationDeniedError):
            made.check(ACCOUNT, [Call(TARGET, 0, other)])

    def test_policies_of_one_action_are_a_union(self) -> None:
        made = table((TARGET, PING, [(SUDO, b"")]))
        made.enable(session((TARGET, PING, [(USAGE_LIMIT, (1).to_bytes(16))])))
        made.check(ACCOUNT, [Call(TARGET, 0, PING)])
        with pytest.raises(OperationDeniedError):
            made.check(ACCOUNT, [Call(TARGET, 0, PING)])
