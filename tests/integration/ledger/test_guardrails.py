"""What guardrails count over time: decided and counted in one step with the budgets, on a real Redis."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator, Sequence
from typing import Any

import pytest
import redis

from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import State
from worker.ledger.errors import (
    GuardrailExceededError,
    GuardrailsChangedError,
    LedgerInputError,
    LimitExceededError,
)
from worker.ledger.port import Charge, Usage, WindowCap
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import CounterChange
from worker.policies.guardrails import ScopeRules

pytestmark = pytest.mark.services
SESSION, OTHER = "ses_" + "a1" * 8, "ses_" + "a2" * 8
TOKEN = "0x" + "51" * 20
MAX = 2**256 - 1
NOW = 1_800_000_000_000
MINUTE, HOUR, DAY, WEEK = 60_000, 3_600_000, 86_400_000, 604_800_000


@pytest.fixture
def ledger(redis_url: str) -> Generator[RedisLedger]:
    made = RedisLedger(redis_url)
    yield made
    made.close()


def charge(
    amount: int, *, scope: str = "session", session: str = "", caps: dict[str, int] | None = None, **more: Any
) -> Charge:
    rules = ScopeRules(scope)
    return Charge(
        scope,
        rules.field_name,
        rules.sha,
        {TOKEN: amount} if amount else {},
        tuple(WindowCap(window, TOKEN, limit) for window, limit in (caps or {}).items()),
        session=session,
        **more,
    )


def claimed(ledger: RedisLedger, key: str, now_ms: int = NOW, session: str = SESSION) -> IntentRecord:
    intent_id = ledger.enqueue(TradeIntent(session, key, ()), now_ms=now_ms, due_ms=now_ms).record.intent_id
    record = ledger.claim(intent_id, states=[State.QUEUED], lease_ms=9 * WEEK, now_ms=now_ms, who="t")
    assert record is not None
    return record


def move(
    ledger: RedisLedger,
    record: IntentRecord,
    to: State,
    *,
    since: State = State.QUEUED,
    now_ms: int = NOW,
    charges: Sequence[Charge] = (),
    reserve: Sequence[CounterChange] = (),
) -> None:
    ledger.transition(
        record.intent_id,
        fence=record.fence,
        from_state=since,
        to_state=to,
        who="t",
        why="",
        now_ms=now_ms,
        charges=charges,
        reserve=reserve,
    )


def settled(ledger: RedisLedger, key: str, *charges: Charge, now_ms: int = NOW) -> None:
    """A trade that is authorized, signed and completed at one time."""
    record = claimed(ledger, key, now_ms)
    move(ledger, record, State.AUTHORIZED, now_ms=now_ms, charges=charges)
    move(ledger, record, State.SIGNED, since=State.AUTHORIZED, now_ms=now_ms)
    move(ledger, record, State.COMPLETED, since=State.SIGNED, now_ms=now_ms)


def exceeded(ledger: RedisLedger, key: str, *charges: Charge, now_ms: int) -> GuardrailExceededError:
    record = claimed(ledger, key, now_ms)
    with pytest.raises(GuardrailExceededError) as caught:
        move(ledger, record, State.AUTHORIZED, now_ms=now_ms, charges=charges)
    assert ledger.get(record.intent_id).state is State.QUEUED
    return caught.value


def usage(ledger: RedisLedger, now_ms: int = NOW, session: str = SESSION) -> list[Usage]:
    return list(ledger.usage(session, now_ms=now_ms))


@pytest.mark.parametrize(("window", "length"), [("hour", HOUR), ("day", DAY), ("week", WEEK)])
def test_a_window_rolls(ledger: RedisLedger, window: str, length: int) -> None:
    """What was taken counts until the window's length has passed, to the millisecond, and not in steps of an hour."""
    caps = {window: 10}
    settled(ledger, "a", charge(6, caps=caps))
    settled(ledger, "b", charge(4, caps=caps), now_ms=NOW + MINUTE)
    error = exceeded(ledger, "c", charge(1, caps=caps), now_ms=NOW + length - 1)
    assert (error.kind, error.token, error.limit, error.used, error.amount) == (window, TOKEN, 10, 10, 1)
    settled(ledger, "d", charge(6, caps=caps), now_ms=NOW + length)
    assert exceeded(ledger, "e", charge(1, caps=caps), now_ms=NOW + length + MINUTE - 1).used == 10
    settled(ledger, "f", charge(4, caps=caps), now_ms=NOW + length + MINUTE)


def test_a_clock_that_goes_back_gives_nothing_back(ledger: RedisLedger) -> None:
    settled(ledger, "a", charge(10, caps={"hour": 10}))
    assert exceeded(ledger, "b", charge(1, caps={"hour": 10}), now_ms=NOW - DAY).used == 10


def test_what_fails_is_forgotten_and_what_is_in_flight_counts(ledger: RedisLedger) -> None:
    caps = {"day": 10}
    record = claimed(ledger, "a")
    move(ledger, record, State.AUTHORIZED, charges=[charge(10, caps=caps)])
    assert usage(ledger) == [Usage("session", TOKEN, 10, 0, 0, 0)]
    # however long it takes
    assert exceeded(ledger, "b", charge(1, caps=caps), now_ms=NOW + 2 * WEEK).used == 10
    move(ledger, record, State.SIGNED, since=State.AUTHORIZED)
    move(ledger, record, State.FAILED, since=State.SIGNED)
    assert usage(ledger) == [Usage("session", TOKEN, 0, 0, 0, 0)]
    settled(ledger, "c", charge(10, caps=caps), now_ms=NOW + 2 * WEEK)


def test_cooldown_and_flight(ledger: RedisLedger) -> None:
    settled(ledger, "a", charge(1, cooldown_ms=MINUTE))
    error = exceeded(ledger, "b", charge(1, cooldown_ms=MINUTE), now_ms=NOW + MINUTE - 1)
    assert (error.kind, error.limit, error.used) == ("cooldown", MINUTE, MINUTE - 1)
    now = NOW + MINUTE
    first, second = claimed(ledger, "c", now), claimed(ledger, "d", now)
    move(
        ledger, first, State.AUTHORIZED, now_ms=now, charges=[charge(0, cooldown_ms=MINUTE, max_in_flight=1)]
    )
    with pytest.raises(GuardrailExceededError) as caught:
        move(ledger, second, State.AUTHORIZED, now_ms=now, charges=[charge(0, max_in_flight=1)])
    assert (caught.value.kind, caught.value.limit, caught.value.used) == ("in-flight", 1, 1)
    ledger.cancel(first.intent_id, who="t", why="", now_ms=now)
    move(
        ledger, second, State.AUTHORIZED, now_ms=now, charges=[charge(0, cooldown_ms=MINUTE, max_in_flight=1)]
    )


def test_guardrails_that_are_not_those_of_the_judgement_reserve_nothing(
    ledger: RedisLedger, redis_url: str
) -> None:
    client = redis.Redis.from_url(redis_url)
    record = claimed(ledger, "a")
    client.hset(f"sx:{{{'a1' * 8}}}:session", "guardrails:strategy:dca", '{"cooldownS":1}')
    change = CounterChange("c", 5, 10, "spending-limits", 0, TOKEN)
    with pytest.raises(GuardrailsChangedError, match="guardrails of strategy:dca"):
        move(
            ledger,
            record,
            State.AUTHORIZED,
            charges=[charge(1), charge(1, scope="strategy:dca")],
            reserve=[change],
        )
    assert (usage(ledger), list(ledger.budgets(SESSION))) == ([], [])


def test_a_budget_that_is_full_counts_nothing_and_a_guardrail_reserves_nothing(ledger: RedisLedger) -> None:
    record = claimed(ledger, "a")
    full = CounterChange("c", 11, 10, "spending-limits", 0, TOKEN)
    fits = CounterChange("c", 5, 10, "spending-limits", 0, TOKEN)
    with pytest.raises(LimitExceededError):
        move(ledger, record, State.AUTHORIZED, reserve=[full], charges=[charge(1)])
    with pytest.raises(GuardrailExceededError):
        move(
            ledger,
            record,
            State.AUTHORIZED,
            reserve=[fits],
            # the second scope says no: the first one's counts are not kept either
            charges=[charge(5), charge(5, scope="strategy:dca", caps={"day": 4})],
        )
    assert (usage(ledger), list(ledger.budgets(SESSION))) == ([], [])


def test_a_trade_counts_with_the_sessions_of_its_other_chains(ledger: RedisLedger) -> None:
    digits = OTHER.removeprefix("ses_")
    caps = {"day": 10}
    record = claimed(ledger, "a")
    move(ledger, record, State.AUTHORIZED, charges=[charge(1), charge(8, session=digits, caps=caps)])
    assert usage(ledger, session=OTHER) == [Usage("session", TOKEN, 8, 0, 0, 0)]
    error = exceeded(ledger, "b", charge(1), charge(3, session=digits, caps=caps), now_ms=NOW)
    assert (error.session, error.used, error.limit) == (digits, 8, 10)
    move(ledger, record, State.SIGNED, since=State.AUTHORIZED)
    move(ledger, record, State.COMPLETED, since=State.SIGNED)
    assert usage(ledger, session=OTHER) == [Usage("session", TOKEN, 0, 8, 8, 8)]
    assert usage(ledger) == [Usage("session", TOKEN, 0, 1, 1, 1)]
    with pytest.raises(LedgerInputError):
        move(ledger, claimed(ledger, "c"), State.AUTHORIZED, charges=[charge(1, session="ses_1")])


@pytest.mark.parametrize("size", [2**53, 2**63, 2**64, 2**128, MAX])
def test_amounts_are_exact(ledger: RedisLedger, size: int) -> None:
    caps = {"hour": size, "day": size, "week": size}
    settled(ledger, "a", charge(size - 1, caps=caps))
    assert exceeded(ledger, "b", charge(2, caps=caps), now_ms=NOW).used == size - 1
    settled(ledger, "c", charge(1, caps=caps))
    assert usage(ledger) == [Usage("session", TOKEN, 0, size, size, size)]
    # without a cap more than 2**256-1 may be counted, and a cap still says no afterwards
    settled(ledger, "d", charge(size))
    assert exceeded(ledger, "e", charge(1, caps=caps), now_ms=NOW).used == 2 * size


def test_caps_and_flight_hold_under_any_interleaving(ledger: RedisLedger, redis_url: str) -> None:
    """8 threads: what is held and what was taken never passes a cap, in flight never the most, and the sums come out."""
    cap, most, per_thread = 1_000, 5, 25
    caps = {"hour": cap}
    outcome: list[tuple[str, int]] = []
    seen: list[tuple[int, int]] = []

    def work(number: int) -> None:
        draw = random.Random(number)
        own = RedisLedger(redis_url)
        for index in range(per_thread):
            amount = draw.randint(1, 40)
            record = claimed(own, f"{number}-{index}")
            try:
                move(own, record, State.AUTHORIZED, charges=[charge(amount, caps=caps, max_in_flight=most)])
            except GuardrailExceededError as error:
                outcome.append((error.kind, 0))
                continue
            values = redis.Redis.from_url(redis_url, decode_responses=True).hgetall(
                f"sx:{{{'a1' * 8}}}:guard"
            )
            assert isinstance(values, dict)
            held, taken = (int(values.get(f"session|{TOKEN}|{name}", 0)) for name in ("held", "hour"))
            seen.append((held + taken, int(values["session|flight"])))
            if draw.random() < 0.3:
                own.cancel(record.intent_id, who="t", why="", now_ms=NOW)
                outcome.append(("canceled", 0))
            else:
                move(own, record, State.SIGNED, since=State.AUTHORIZED)
                move(own, record, State.COMPLETED, since=State.SIGNED)
                outcome.append(("completed", amount))
        own.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcome) == 8 * per_thread
    assert all(total <= cap and flight <= most for total, flight in seen)
    completed = sum(amount for kind, amount in outcome if kind == "completed")
    assert usage(ledger) == [Usage("session", TOKEN, 0, completed, completed, completed)]
    assert {"completed", "canceled", "hour"} <= {kind for kind, _ in outcome}
    assert completed > cap - 40
