"""What the chain has counted beyond the ledger counts until an operator resolves it; what changes on chain stops signing."""

from __future__ import annotations

import time

import pytest

from tests.integration.execution.test_sync import LIMIT, answer_all, session_of
from tests.support.pipeline import Pipeline, transfer
from tests.support.policy_getters import SPENDING, USAGE, PolicyGetters
from worker.chain.reader import ChainReader
from worker.execution.errors import SyncUnsettledError
from worker.execution.prepare import read_enable_nonce
from worker.execution.sync import CounterState, Outcome, resolve, sync
from worker.intents.states import State
from worker.ledger.port import Budget
from worker.policies.base import Execution
from worker.sessions.enabling import enable_call, revoke_call
from worker.sessions.importing import RegisteredSession

pytestmark = pytest.mark.services
MINE = 10_000_000


def spending(states: tuple[CounterState, ...]) -> CounterState:
    return next(state for state in states if state.policy == "spending-limits")


def books(pipeline: Pipeline, session: RegisteredSession) -> Budget:
    found = pipeline.ledger.budgets(session.session_id)
    return next(budget for budget in found if budget.policy == "spending-limits")


def send(pipeline: Pipeline, call: Execution, sender: str) -> None:
    pipeline.devnet.fund(sender, eth=10**18)
    pipeline.devnet.rpc.call("anvil_impersonateAccount", sender)
    tx_hash = pipeline.devnet.rpc.call(
        "eth_sendTransaction", {"from": sender, "to": call.to, "data": "0x" + call.data.hex()}
    )
    while pipeline.devnet.rpc.call("eth_getTransactionReceipt", tx_hash) is None:
        time.sleep(0.01)


def test_the_larger_counts_until_it_is_resolved(pipeline: Pipeline) -> None:
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    answer_all(contracts, spent=60_000_000)
    state = spending(sync(pipeline.runtime, session))
    assert (state.outcome, state.spent, state.elsewhere) == (Outcome.CHAIN_AHEAD, MINE, 50_000_000)
    # 60 of 100 are used: 40 are left, and not 90
    over = pipeline.submit("over", transfer(40_000_001), session_id=session.session_id)
    [record] = pipeline.run(over)
    assert record.reason == (
        "spending-limits: 100.00 USDC allowed, 10.00 spent or reserved, 50.00 used elsewhere, this call takes 40.000001 "
        "(call 0)"
    )
    # looking again changes nothing; our own trades go on counting
    assert spending(sync(pipeline.runtime, session)).elsewhere == 50_000_000
    pipeline.run(pipeline.submit("fits", transfer(40_000_000), session_id=session.session_id))
    assert books(pipeline, session).used == LIMIT
    answer_all(contracts, spent=LIMIT, used=2)
    state = spending(sync(pipeline.runtime, session))
    assert (state.outcome, state.spent, state.elsewhere) == (Outcome.CHAIN_AHEAD, 50_000_000, 50_000_000)

    lines = resolve(pipeline.runtime, session, who="ops@desk", why="the user's other app")
    assert [(line.spent_before, line.spent_after) for line in lines] == [(50_000_000, LIMIT)]
    assert pipeline.ledger.resolutions(session.session_id) == list(lines)
    assert (lines[0].who, lines[0].why) == ("ops@desk", "the user's other app")
    after = books(pipeline, session)
    assert (after.spent, after.elsewhere, after.used) == (LIMIT, 0, LIMIT)
    assert spending(sync(pipeline.runtime, session)).outcome is Outcome.AGREES
    assert resolve(pipeline.runtime, session, who="ops", why="again") == ()


def test_the_ledgers_larger_number_is_given_back_only_by_a_person(pipeline: Pipeline) -> None:
    """Enabled anew, the chain counts from zero."""
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    answer_all(contracts, spent=0, used=0)
    states = sync(pipeline.runtime, session)
    assert [state.outcome for state in states] == [Outcome.LEDGER_AHEAD, Outcome.LEDGER_AHEAD, Outcome.AGREES]
    assert books(pipeline, session).used == MINE
    lines = resolve(pipeline.runtime, session, who="ops", why="enabled anew in transaction 0x12")
    assert sorted((line.spent_before, line.spent_after) for line in lines) == [(1, 0), (MINE, 0)]
    assert books(pipeline, session).used == 0
    whole = pipeline.submit("all", transfer(LIMIT), session_id=session.session_id)
    pipeline.step()
    assert pipeline.state(whole) is State.AUTHORIZED


def test_trades_in_flight_are_never_left_out_and_stop_a_resolution(pipeline: Pipeline) -> None:
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    waiting = pipeline.submit("more", transfer(5_000_000), session_id=session.session_id)
    pipeline.step()
    answer_all(contracts, spent=15_000_000, used=2)  # executed already
    assert spending(sync(pipeline.runtime, session)).elsewhere == 0
    answer_all(contracts, spent=20_000_000, used=2)  # 5 of others, or 10 if ours is not executed yet
    assert spending(sync(pipeline.runtime, session)).elsewhere == 10_000_000
    before = pipeline.ledger.budgets(session.session_id)
    with pytest.raises(SyncUnsettledError, match="5000000 reserved by trades in flight"):
        resolve(pipeline.runtime, session, who="ops", why="?")
    assert pipeline.ledger.budgets(session.session_id) == before
    pipeline.run(waiting)
    # now it is known to be ours
    assert spending(sync(pipeline.runtime, session)).elsewhere == 5_000_000


def test_books_that_move_on_while_the_chain_is_read_are_read_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    answer_all(contracts, spent=30_000_000)
    chain = pipeline.runtime.chain_of(session.chain_id)
    assert isinstance(chain, ChainReader)
    call, done = chain.call, list[str]()

    def slow(to: str, data: bytes) -> bytes:
        reply = call(to, data)
        if not done and to == SPENDING:
            done.append("once")
            # ours settles after the chain was read and before it is held
            pipeline.run(pipeline.submit("b", transfer(1_000_000), session_id=session.session_id))
            answer_all(contracts, spent=31_000_000, used=2)
        return reply

    monkeypatch.setattr(chain, "call", slow)
    state = spending(sync(pipeline.runtime, session))
    assert done == ["once"]
    assert (state.spent, state.elsewhere, state.chain_used) == (11_000_000, 20_000_000, 31_000_000)


def test_a_limit_that_differs_is_still_counted(pipeline: Pipeline) -> None:
    session = session_of(pipeline)
    contracts = PolicyGetters(pipeline.devnet, session.permission_id)
    answer_all(contracts, used=3)
    contracts.answer(USAGE, "getUsageLimit", 8)
    states = {state.policy: state for state in sync(pipeline.runtime, session)}
    assert (states["usage-limit"].outcome, states["usage-limit"].elsewhere) == (Outcome.LIMIT_DIFFERS, 2)


class TestChangedOnChain:
    """Between authorize and sign the user takes the session back, or enables it otherwise."""

    def test_a_session_that_is_removed_is_not_signed(self, pipeline: Pipeline) -> None:
        session = pipeline.session
        pipeline.run(pipeline.submit("enables"))
        intent_id = pipeline.submit("a")
        pipeline.step()
        assert pipeline.state(intent_id) is State.AUTHORIZED
        nonce = read_enable_nonce(pipeline.runtime, session.account)
        send(pipeline, revoke_call(session, nonce=nonce), session.account)
        pipeline.step()
        # another quote is asked for first: perhaps the approval is still good
        pipeline.run(intent_id)
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.body) == (State.REJECTED, "")
        assert record.reason == (
            "session: is not enabled on chain, and the approval is for enable nonce 0 while the account is at "
            f"{nonce + 1}: it was used up or revoked (ask the user for a new approval and import it)"
        )
        assert pipeline.budget() == (10_000_000, 0)
        assert pipeline.executed() == 1

    def test_an_approval_that_is_taken_back_is_not_signed(self, pipeline: Pipeline) -> None:
        session = pipeline.session
        intent_id = pipeline.submit("a")
        pipeline.step()
        assert pipeline.ledger.get(intent_id).fields["enable"] == "1"
        send(pipeline, revoke_call(session, nonce=0), session.account)
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.body) == (State.REJECTED, "")
        assert "it was used up or revoked" in record.reason
        assert pipeline.budget() == (0, 0)

    def test_a_session_that_is_enabled_meanwhile_gets_another_quote(self, pipeline: Pipeline) -> None:
        intent_id = pipeline.submit("a")
        pipeline.step()
        to, data = enable_call(pipeline.session)
        send(pipeline, Execution(to, 0, data), "0x" + "99" * 20)
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.body) == (State.QUEUED, "")
        [record] = pipeline.run(intent_id)
        assert (record.state, record.fields["enable"]) == (State.COMPLETED, "")

    def test_a_session_that_is_enabled_between_two_answers_is_not_taken_for_revoked(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        to, data = enable_call(pipeline.session)
        send(pipeline, Execution(to, 0, data), "0x" + "99" * 20)
        chain = pipeline.runtime.chain
        time_s = chain.latest_block_time()

        def not_yet(_to: str, _data: bytes) -> tuple[bytes, int]:
            return bytes(32), time_s

        monkeypatch.setattr(chain, "call_and_time", not_yet)
        intent_id = pipeline.submit("a")
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.fields["enable"]) == (State.AUTHORIZED, "")
