"""The evaluator and the budgets together, on a real Redis.

The order of policies never changes a decision or its reason, and a batch that is denied, at whichever call, leaves every counter as it
was.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import cast

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.errors import LimitExceededError
from worker.ledger.redis_ledger import RedisLedger
from worker.policies import (
    SpendingLimits,
    Sudo,
    TimeFrame,
    TokenLimit,
    UniversalAction,
    UsageLimit,
    ValueLimit,
)
from worker.policies.base import Deny, Execution
from worker.policies.evaluate import ActionPolicies, PolicyTable, build_table, evaluate
from worker.policies.policy import PolicyModel
from worker.policies.rules import Rule

pytestmark = pytest.mark.services

EXAMPLES = 40 * max(1, int(os.environ.get("BUDGET_OPS", "1200")) // 1200)
MAX = 2**256 - 1
NOW = 1_800_000_000
ACCOUNT = "0x" + "aa" * 20
EMISSARY = "0x" + "ee" * 20
TOKENS = ("0x" + "51" * 20, "0x" + "52" * 20)
TRANSFER, APPROVE = bytes.fromhex("a9059cbb"), bytes.fromhex("095ea7b3")
SESSIONS = ("ses_" + "a1" * 8, "ses_" + "a2" * 8)

SIZES = st.sampled_from([1, 2**53, 2**63, 2**64, 2**128, MAX // 3, MAX - 1])


def near(size: int, more: int) -> int:
    return max(1, min(MAX, size + more))


AMOUNTS = st.one_of(
    st.builds(near, SIZES, st.integers(-2, 2)),
    st.integers(1, MAX),
)


@pytest.fixture
def ledger(redis_url: str) -> Generator[RedisLedger]:
    made = RedisLedger(redis_url)
    yield made
    made.close()


def spending(first: int, second: int) -> SpendingLimits:
    limits = (
        TokenLimit(token=token, amount=amount) for token, amount in zip(TOKENS, (first, second), strict=True)
    )
    return SpendingLimits(limits=tuple(limits))


def capped(most: int, total: int) -> UniversalAction:
    """Each amount at most ``most``, and ``total`` over all calls; values of 1 wei pass."""
    return UniversalAction(
        value_limit_per_use=1,
        rules=(
            Rule(condition="lessThanOrEqual", calldata_offset=32, reference_value=most, usage_limit=total),
        ),
    )


POLICIES: st.SearchStrategy[tuple[PolicyModel, ...]] = st.tuples(
    st.none() | st.builds(spending, AMOUNTS, AMOUNTS),
    st.none() | st.builds(UsageLimit, limit=st.integers(1, 6)),
    st.none() | st.builds(ValueLimit, limit=st.integers(1, 4)),
    st.none() | st.builds(capped, AMOUNTS, AMOUNTS),
    st.none()
    | st.sampled_from([1, 0, -1]).map(
        lambda end: TimeFrame(valid_until=(NOW + end) * 1000, valid_after=0)  # 1: open, else closed
    ),
    st.none() | st.just(Sudo()),
).map(lambda found: tuple(policy for policy in found if policy is not None))


def call(token: str, selector: bytes, amount: int, value: int, length: int) -> Execution:
    return Execution(token, value, (selector + bytes(32) + amount.to_bytes(32))[:length])


CALLS = st.builds(
    call,
    st.sampled_from(TOKENS),
    st.sampled_from([TRANSFER, TRANSFER, APPROVE]),
    AMOUNTS,
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([68, 68, 68, 68, 67]),  # one byte short now and then
)
BATCHES = st.lists(st.lists(CALLS, min_size=1, max_size=4), min_size=1, max_size=8)


def table(policies: Sequence[PolicyModel]) -> PolicyTable:
    """Both tokens' transfers are guarded, approvals of the first one, and nothing else."""
    actions = ((TOKENS[0], TRANSFER), (TOKENS[1], TRANSFER), (TOKENS[0], APPROVE))
    return build_table(ActionPolicies(target, selector, tuple(policies)) for target, selector in actions)


def decide(
    ledger: RedisLedger, session: str, key: str, policies: PolicyTable, batch: Sequence[Execution]
) -> str:
    """Judge and reserve, as ``prepare`` does; ``""`` if the batch may be signed, else why not."""
    verdict = evaluate(
        policies, batch, account=ACCOUNT, emissary=EMISSARY, now_s=NOW, chain_s=NOW, latest_s=NOW
    )
    intent = TradeIntent(session, key, tuple(batch))
    intent_id = ledger.enqueue(intent, now_ms=1, due_ms=1).record.intent_id
    if isinstance(verdict, Deny):
        return str(verdict)
    try:
        ledger.transition(
            intent_id,
            fence=0,
            from_state=State.QUEUED,
            to_state=State.AUTHORIZED,
            who="test",
            why="",
            now_ms=1,
            reserve=verdict.changes,
        )
    except LimitExceededError as error:
        assert ledger.get(intent_id).reservation == ()
        return str(error)
    return ""


def stored(client: redis.Redis, session: str) -> dict[bytes, bytes]:
    """Every counter as Redis has it."""
    return cast("dict[bytes, bytes]", client.hgetall(f"sx:{{{session[4:]}}}:budget"))


FILL = Execution(TOKENS[0], 0, TRANSFER + bytes(32) + (MAX - 1).to_bytes(32))
ONE = Execution(TOKENS[0], 0, TRANSFER + bytes(32) + (1).to_bytes(32))


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(POLICIES.flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))), BATCHES)
@example(
    ((spending(MAX, MAX), UsageLimit(limit=6)), [UsageLimit(limit=6), spending(MAX, MAX)]), [[FILL, ONE, ONE]]
)
def test_the_order_of_policies_and_a_denied_batch_change_nothing(
    ledger: RedisLedger,
    redis_url: str,
    orders: tuple[tuple[PolicyModel, ...], list[PolicyModel]],
    batches: list[list[Execution]],
) -> None:
    tables = [table(order) for order in orders]
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        for number, batch in enumerate(batches):
            before = [stored(client, session) for session in SESSIONS]
            decisions = [
                decide(ledger, session, f"k{number}", policies, batch)
                for session, policies in zip(SESSIONS, tables, strict=True)
            ]
            after = [stored(client, session) for session in SESSIONS]
            assert decisions[0] == decisions[1]
            assert after[0] == after[1]
            if decisions[0]:
                assert after == before


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(AMOUNTS, st.integers(1, 5), st.sampled_from(["limit", "policy", "action"]))
def test_a_batch_denied_at_its_last_call_leaves_every_counter(
    ledger: RedisLedger, redis_url: str, limit: int, calls: int, how: str
) -> None:
    """All calls but the last would pass: alone they do, with it nothing is counted."""
    policies = table((spending(limit, limit), UsageLimit(limit=100)))
    good = [Execution(TOKENS[1], 0, TRANSFER + bytes(32) + (limit // calls).to_bytes(32))] * calls
    last = {
        "limit": Execution(TOKENS[1], 0, TRANSFER + bytes(32) + (limit % calls + 1).to_bytes(32)),
        "policy": Execution(TOKENS[1], 1, TRANSFER + bytes(64)),
        "action": Execution(TOKENS[1], 0, APPROVE + bytes(64)),
    }[how]
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        assert not decide(
            ledger, SESSIONS[0], "first", policies, [Execution(TOKENS[0], 0, TRANSFER + bytes(64))]
        )
        before = stored(client, SESSIONS[0])
        if last.data[-32:] != (0).to_bytes(32) and int.from_bytes(last.data[-32:]) > limit:
            return  # it could not pass alone either
        assert decide(ledger, SESSIONS[0], "denied", policies, [*good, last])
        assert stored(client, SESSIONS[0]) == before
        assert not decide(ledger, SESSIONS[0], "good", policies, good)
        assert stored(client, SESSIONS[0]) != before
