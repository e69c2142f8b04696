"""Two hundred intents released at once to eight worker processes, against limits that allow fifty."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.e2e import Trader
from tests.support.pipeline import RECIPIENT, transfer
from tests.support.sessions import ACCOUNT, OWNER_KEY, USDC, make_session_file
from worker.devnet.stack import Stack
from worker.execution.dispatch import celery_app, dispatcher
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import State
from worker.policies import SpendingLimits, TimeFrame, TokenLimit, UsageLimit
from worker.sessions.enabling import enable_call
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, verify
from worker.sessions.model import Action

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

INTENTS, ALLOWED = 200, 50
WORKERS = 8
#: An odd number of base units, so that no other sum of trades gives the same balance.
AMOUNT = 1_000_003
#: A sender of the enable transaction; anyone may send it.
ANYONE = "0x" + "99" * 20


def register(stack: Stack, trader: Trader) -> RegisteredSession:
    """A session whose limits, in tokens and in calls, allow just so many; enabled by transaction beforehand."""
    key = stack.keys.create().address
    action = Action(
        target=USDC,
        selector=bytes.fromhex("a9059cbb"),
        policies=(
            # one base unit short of one trade more
            SpendingLimits(limits=(TokenLimit(token=USDC, amount=(ALLOWED + 1) * AMOUNT - 1),)),
            UsageLimit(limit=ALLOWED),
            TimeFrame(valid_until=(int(time.time()) + 86_400) * 1000, valid_after=0),
        ),
    )
    session = verify(
        load_session_file(make_session_file(OWNER_KEY, key, actions=[action])),
        our_keys=[key],
        chain_id=stack.settings.chain_id,
        now_s=int(time.time()),
    )
    trader.runtime.sessions.put(session)
    to, data = enable_call(session)
    stack.devnet.fund(ANYONE, eth=10**18)
    stack.devnet.rpc.call("anvil_impersonateAccount", ANYONE)
    stack.devnet.rpc.call("eth_sendTransaction", {"from": ANYONE, "to": to, "data": "0x" + data.hex()})
    return session


def signed(record: IntentRecord) -> bool:
    return any(entry.to_state == State.SIGNED for entry in record.history)


def test_just_as_many_as_the_limits_allow_are_signed(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(workers=WORKERS, concurrency=1)
    trader = Trader(stack)
    session = register(stack, trader)
    before = stack.devnet.usdc_balance(ACCOUNT), stack.devnet.usdc_balance(RECIPIENT)

    # all of them are stored before the first message is sent, so that they are there at once
    ledger, now_ms = trader.runtime.ledger, trader.runtime.now_ms()
    ids = [
        ledger.enqueue(
            TradeIntent(session.session_id, f"trade {number}", (transfer(AMOUNT),)),
            now_ms=now_ms,
            due_ms=now_ms + 60_000,
        ).record.intent_id
        for number in range(INTENTS)
    ]
    dispatch = dispatcher(celery_app(stack.settings))
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(dispatch, ["prepare"] * INTENTS, ids))
    records = trader.wait(ids, timeout_s=500)

    done = [record for record in records if record.state is State.COMPLETED]
    refused = [record for record in records if record.state is State.REJECTED]
    assert (len(done), len(refused)) == (ALLOWED, INTENTS - ALLOWED)
    # signed is what was allowed, and nothing else ever was
    assert [record.intent_id for record in records if signed(record)] == [record.intent_id for record in done]
    assert not any(record.body for record in refused)
    assert {record.reason.partition(":")[0] for record in refused} <= {"spending-limits", "usage-limit"}
    # several workers took part
    assert (
        len({entry.who for record in done for entry in record.history if entry.to_state == State.SIGNED}) > 1
    )

    # the ledger,
    budgets = {budget.policy: budget for budget in ledger.budgets(session.session_id)}
    assert budgets.keys() == {"spending-limits", "usage-limit"}
    assert (budgets["spending-limits"].spent, budgets["spending-limits"].reserved) == (ALLOWED * AMOUNT, 0)
    assert (budgets["usage-limit"].spent, budgets["usage-limit"].reserved) == (ALLOWED, 0)
    # the devnet's counters,
    counters = {
        row["policy"]: row["used"]
        for row in stack.devnet.state()["counters"]
        if row["permissionId"] == "0x" + session.permission_id.hex() and row["target"] == USDC
    }
    used = [int(value) for value in counters["spending-limits"].values()]
    assert sum(used) == ALLOWED * AMOUNT
    assert [int(value) for value in counters["usage-limit"].values()] == [ALLOWED]
    # the chain's balances, and what it executed
    assert before[0] - stack.devnet.usdc_balance(ACCOUNT) == ALLOWED * AMOUNT
    assert stack.devnet.usdc_balance(RECIPIENT) - before[1] == ALLOWED * AMOUNT
    executions = stack.devnet.executions(ACCOUNT)
    assert len(executions) == ALLOWED
    assert {record.tx_hash for record in done} == {execution.tx_hash for execution in executions}
