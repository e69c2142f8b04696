"""The chain's counters beside the ledger's.

The devnet has no policy contracts, so a stand-in with their getters is put on the chain (``tests/support/policy_getters.py``).
"""

from __future__ import annotations

import pytest

from tests.support.pipeline import Pipeline, transfer
from tests.support.policy_getters import SPENDING, USAGE, VALUE, PolicyGetters
from tests.support.sessions import TRANSFER, USDC
from worker.chain.errors import ChainError
from worker.execution.sync import CounterState, Outcome, compare_counters
from worker.policies import SpendingLimits, TokenLimit, UniversalAction, UsageLimit, ValueLimit
from worker.policies.rules import Rule
from worker.sessions.enabling import enable_call
from worker.sessions.importing import RegisteredSession
from worker.sessions.model import Action

pytestmark = pytest.mark.services

LIMIT = 100_000_000


def session_of(pipeline: Pipeline) -> RegisteredSession:
    """One action with a counter of each kind, enabled by a trade of 10 USDC."""
    session = pipeline.approve(
        actions=[
            Action(
                target=USDC,
                selector=TRANSFER,
                policies=(
                    SpendingLimits(limits=(TokenLimit(token=USDC, amount=LIMIT),)),
                    UsageLimit(limit=7),
                    ValueLimit(limit=9),
                ),
            )
        ]
    )
    pipeline.run(pipeline.submit("enable", transfer(10_000_000), session_id=session.session_id))
    return session


def answer_all(
    contracts: PolicyGetters, *, spent: int = 10_000_000, approved: int = 0, used: int = 1, value: int = 0
) -> None:
    contracts.answer(SPENDING, "getPolicyData", LIMIT, spent, approved)
    contracts.answer(USAGE, "getUsageLimit", 7)
    contracts.answer(USAGE, "getUsed", used)
    contracts.answer(VALUE, "getValueLimit", 9)
    contracts.answer(VALUE, "getUsed", value)


def compare(pipeline: Pipeline, session: RegisteredSession) -> dict[str, CounterState]:
    return {state.policy: state for state in compare_counters(pipeline.runtime, session)}


def outcomes(pipeline: Pipeline, session: RegisteredSession) -> list[str]:
    return [state.outcome.value for state in compare_counters(pipeline.runtime, session)]


def test_equal_counters_agree_and_nothing_is_changed(pipeline: Pipeline) -> None:
    session = session_of(pipeline)
    answer_all(PolicyGetters(pipeline.devnet, session.permission_id))
    before = pipeline.ledger.budgets(session.session_id)
    found = compare(pipeline, session)
    assert {policy: state.outcome for policy, state in found.items()} == {
        "spending-limits": Outcome.AGREES,
        "usage-limit": Outcome.AGREES,
        "value-limit": Outcome.AGREES,
    }
    spending = found["spending-limits"]
    assert (spending.token, spending.limit, spending.chain_limit) == (USDC, LIMIT, LIMIT)
    assert (spending.spent, spending.reserved, spending.chain_used) == (10_000_000, 0, 10_000_000)
    assert pipeline.ledger.budgets(session.session_id) == before


def test_drift_is_shown_on_either_side(pipeline: Pipeline) -> None:
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    before = pipeline.ledger.budgets(session.session_id)
    answer_all(contracts, spent=6_000_000, approved=4_000_001, used=0, value=1)
    assert outcomes(pipeline, session) == ["chain ahead", "ledger ahead", "chain ahead"]
    contracts.answer(USAGE, "getUsageLimit", 8)
    assert outcomes(pipeline, session)[1] == "limit differs"
    assert pipeline.ledger.budgets(session.session_id) == before


def test_the_first_revisions_sum_counts_both(pipeline: Pipeline) -> None:
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    answer_all(contracts)
    contracts.answer(SPENDING, "getPolicyData", LIMIT, 10_000_000)
    assert outcomes(pipeline, session)[0] == "agrees"


def test_an_intent_in_flight_is_no_drift(pipeline: Pipeline) -> None:
    """The chain may have executed what is still reserved here, or not yet."""
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    pipeline.submit("more", transfer(5_000_000), session_id=session.session_id)
    pipeline.step()
    for spent, used in ((10_000_000, 1), (15_000_000, 2)):
        answer_all(contracts, spent=spent, used=used)
        assert outcomes(pipeline, session)[:2] == ["agrees", "agrees"]
    answer_all(contracts, spent=15_000_001, used=3)
    assert outcomes(pipeline, session)[:2] == ["chain ahead", "chain ahead"]
    assert compare(pipeline, session)["spending-limits"].reserved == 5_000_000


def test_contracts_that_do_not_answer_are_unknown(pipeline: Pipeline) -> None:
    session = session_of(pipeline)
    assert all("gives no answer" in state.note for state in compare(pipeline, session).values())
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    found = compare(pipeline, session)
    assert {state.outcome for state in found.values()} == {Outcome.UNKNOWN}
    assert all(state.chain_used is None for state in found.values())
    assert (
        "getPolicyData of 0x00000088d48cf102a8cdb0137a9b173f957c6343 reverts" in found["spending-limits"].note
    )
    answer_all(contracts)
    contracts.answer(SPENDING, "getPolicyData", LIMIT)
    contracts.answer(USAGE, "getUsed", 1, 1)
    contracts.answer(VALUE, "getUsed", 1, cut=1)
    found = compare(pipeline, session)
    assert {state.outcome for state in found.values()} == {Outcome.UNKNOWN}
    assert all("form that is not known" in state.note for state in found.values())


def test_sums_without_a_getter_are_unknown(pipeline: Pipeline) -> None:
    """The devnet's orchestrator does not know the policy, so the session is enabled by a transaction."""
    rule = Rule(condition="greaterThan", calldata_offset=32, reference_value=0, usage_limit=LIMIT)
    session = pipeline.approve(
        actions=[Action(target=USDC, selector=TRANSFER, policies=(UniversalAction(rules=(rule,)),))]
    )
    to, data = enable_call(session)
    sender = "0x" + "99" * 20
    pipeline.devnet.fund(sender, eth=10**18)
    pipeline.devnet.rpc.call("anvil_impersonateAccount", sender)
    pipeline.devnet.rpc.call("eth_sendTransaction", {"from": sender, "to": to, "data": "0x" + data.hex()})
    (state,) = compare_counters(pipeline.runtime, session)
    assert (state.outcome, state.limit, state.chain_used) == (Outcome.UNKNOWN, None, None)
    assert state.note == "its contract has no getter for the sums of its rules"


def test_a_session_that_is_not_enabled_has_nothing_to_compare(pipeline: Pipeline) -> None:
    (state,) = compare_counters(pipeline.runtime, pipeline.session)
    assert state.outcome is Outcome.UNKNOWN
    assert state.note == "the session is not enabled on chain"


def test_a_chain_that_is_down_is_an_error(pipeline: Pipeline) -> None:
    runtime = pipeline.new_runtime(rpc_url=type(pipeline.settings.rpc_url)("http://127.0.0.1:9"))
    with pytest.raises(ChainError):
        compare_counters(runtime, pipeline.session)
