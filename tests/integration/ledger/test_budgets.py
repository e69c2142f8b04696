"""Reserve, settle and release in a real Redis: never over a limit, never off by one unit."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.intents.model import TradeIntent
from worker.intents.states import FINAL, State
from worker.ledger.errors import IllegalTransitionError, LedgerInputError, LimitExceededError
from worker.ledger.port import Budget
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import CounterChange, Execution

pytestmark = pytest.mark.services

SESSION = "ses_" + "c3" * 8
CALL = Execution("0x" + "11" * 20, 0, b"")
MAX = 2**256 - 1
EDGES = (
    1,
    10**7 - 1,
    10**7,
    2**53 - 1,
    2**53,
    2**53 + 1,
    2**63,
    2**64 - 1,
    2**64 + 1,
    2**128 + 1,
    MAX - 1,
    MAX,
)


@pytest.fixture
def ledger(redis_url: str) -> Generator[RedisLedger]:
    made = RedisLedger(redis_url)
    yield made
    made.close()


def change(
    amount: int, limit: int, *, counter: str = "aa:spending-limits:0x1", call: int = 0
) -> CounterChange:
    return CounterChange(counter, amount, limit, "spending-limits", call, "0x1")


def put(ledger: RedisLedger, key: str) -> str:
    return ledger.enqueue(TradeIntent(SESSION, key, (CALL,)), now_ms=1, due_ms=1).record.intent_id


def step(ledger: RedisLedger, intent_id: str, before: State, after: State, *reserve: CounterChange) -> None:
    ledger.transition(
        intent_id, fence=0, from_state=before, to_state=after, who="test", why="", now_ms=1, reserve=reserve
    )


def reserve(ledger: RedisLedger, key: str, *changes: CounterChange) -> str:
    intent_id = put(ledger, key)
    step(ledger, intent_id, State.QUEUED, State.AUTHORIZED, *changes)
    return intent_id


def complete(ledger: RedisLedger, intent_id: str) -> None:
    step(ledger, intent_id, State.AUTHORIZED, State.SIGNED)
    step(ledger, intent_id, State.SIGNED, State.COMPLETED)


def sums(ledger: RedisLedger) -> tuple[int, int]:
    (budget,) = ledger.budgets(SESSION)
    return budget.spent, budget.reserved


class TestOneCounter:
    """``spent + reserved + amount <= limit``, at every size."""

    @pytest.mark.parametrize("limit", EDGES)
    def test_the_last_unit_fits_and_one_more_does_not(self, ledger: RedisLedger, limit: int) -> None:
        first = reserve(ledger, "first", change(limit, limit))
        assert sums(ledger) == (0, limit)
        with pytest.raises(LimitExceededError) as caught:
            reserve(ledger, "second", change(1, limit))
        error = caught.value
        assert (error.limit, error.spent, error.reserved, error.amount) == (limit, 0, limit, 1)
        assert (error.counter, error.policy, error.token, error.call_index) == (
            "aa:spending-limits:0x1",
            "spending-limits",
            "0x1",
            0,
        )
        complete(ledger, first)
        assert sums(ledger) == (limit, 0)
        with pytest.raises(LimitExceededError) as caught:
            reserve(ledger, "third", change(1, limit))
        assert (caught.value.spent, caught.value.reserved) == (limit, 0)

    @pytest.mark.parametrize("limit", EDGES)
    def test_a_sum_beyond_uint256_is_refused(self, ledger: RedisLedger, limit: int) -> None:
        reserve(ledger, "first", change(limit, limit))
        with pytest.raises(LimitExceededError):
            reserve(ledger, "second", change(MAX, limit))
        assert sums(ledger) == (0, limit)

    @pytest.mark.parametrize(
        "final", [State.FAILED, State.EXPIRED, State.REJECTED, State.CANCELED, State.DEAD]
    )
    def test_any_end_but_completed_releases(self, ledger: RedisLedger, final: State) -> None:
        intent_id = reserve(ledger, "k", change(60, 100))
        step(ledger, intent_id, State.AUTHORIZED, final)
        assert sums(ledger) == (0, 0)
        assert ledger.get(intent_id).reservation == ()

    @pytest.mark.parametrize("final", [State.FAILED, State.EXPIRED])
    def test_a_signed_one_that_ends_without_execution_releases(
        self, ledger: RedisLedger, final: State
    ) -> None:
        intent_id = reserve(ledger, "k", change(60, 100))
        step(ledger, intent_id, State.AUTHORIZED, State.SIGNED)
        step(ledger, intent_id, State.SIGNED, State.SUBMITTED)
        assert sums(ledger) == (0, 60)
        step(ledger, intent_id, State.SUBMITTED, final)
        assert sums(ledger) == (0, 0)

    def test_a_dropped_quote_releases_and_can_reserve_again(self, ledger: RedisLedger) -> None:
        intent_id = reserve(ledger, "k", change(60, 100))
        step(ledger, intent_id, State.AUTHORIZED, State.QUEUED)
        assert sums(ledger) == (0, 0)
        step(ledger, intent_id, State.QUEUED, State.AUTHORIZED, change(70, 100))
        assert sums(ledger) == (0, 70)
        complete(ledger, intent_id)
        assert sums(ledger) == (70, 0)

    def test_a_replayed_intent_does_not_release_twice(self, ledger: RedisLedger) -> None:
        other = reserve(ledger, "other", change(30, 100))
        intent_id = reserve(ledger, "k", change(60, 100))
        step(ledger, intent_id, State.AUTHORIZED, State.DEAD)
        step(ledger, intent_id, State.DEAD, State.QUEUED)
        step(ledger, intent_id, State.QUEUED, State.FAILED)
        assert sums(ledger) == (0, 30)
        complete(ledger, other)
        assert sums(ledger) == (30, 0)

    def test_nothing_is_reserved_twice_for_one_intent(self, ledger: RedisLedger) -> None:
        intent_id = reserve(ledger, "k", change(60, 1_000))
        with pytest.raises(IllegalTransitionError, match="has a reservation already"):
            step(ledger, intent_id, State.AUTHORIZED, State.SIGNED, change(60, 1_000))
        assert sums(ledger) == (0, 60)

    @pytest.mark.parametrize("target", [State.FAILED, State.REJECTED])
    def test_a_final_state_reserves_nothing(self, ledger: RedisLedger, target: State) -> None:
        intent_id = put(ledger, "k")
        with pytest.raises(IllegalTransitionError, match="with a reservation"):
            step(ledger, intent_id, State.QUEUED, target, change(1, 100))
        assert ledger.budgets(SESSION) == []

    @pytest.mark.parametrize("amount", [-1, MAX + 1])
    def test_a_negative_or_oversized_amount_never_reaches_the_budget(
        self, ledger: RedisLedger, amount: int
    ) -> None:
        reserve(ledger, "first", change(50, 100))
        with pytest.raises(LedgerInputError):
            reserve(ledger, "second", change(amount, 100))
        assert sums(ledger) == (0, 50)

    def test_a_zero_amount_passes_at_the_limit_and_fails_beyond_it(self, ledger: RedisLedger) -> None:
        reserve(ledger, "full", change(100, 100))
        reserve(ledger, "zero", change(0, 100))
        with pytest.raises(LimitExceededError):
            reserve(ledger, "lowered", change(0, 99))
        assert sums(ledger) == (0, 100)

    def test_the_budget_names_what_it_counts(self, ledger: RedisLedger) -> None:
        complete(ledger, reserve(ledger, "k", change(2**64 + 1, MAX)))
        assert ledger.budgets(SESSION) == [
            Budget("aa:spending-limits:0x1", "0x1", "spending-limits", MAX, 2**64 + 1, 0)
        ]
        assert ledger.budgets("ses_" + "d4" * 8) == []


class TestBatch:
    """Changes of one operation stand or fall together."""

    def test_repeated_counters_add_up(self, ledger: RedisLedger) -> None:
        intent_id = reserve(ledger, "k", change(40, 100), change(60, 100, call=1))
        assert sums(ledger) == (0, 100)
        complete(ledger, intent_id)
        assert sums(ledger) == (100, 0)

    def test_the_call_that_breaks_the_limit_is_named_and_nothing_is_kept(self, ledger: RedisLedger) -> None:
        reserve(ledger, "before", change(10, 100))
        other = change(5, 10, counter="bb:usage-limit:-", call=0)
        with pytest.raises(LimitExceededError) as caught:
            reserve(ledger, "k", other, change(50, 100, call=1), change(41, 100, call=2))
        assert (caught.value.call_index, caught.value.reserved, caught.value.amount) == (2, 60, 41)
        assert sums(ledger) == (0, 10)
        assert ledger.get(put(ledger, "k")).state is State.QUEUED

    def test_different_counters_are_apart(self, ledger: RedisLedger) -> None:
        intent_id = reserve(
            ledger,
            "k",
            change(100, 100),
            change(1, 1, counter="aa:usage-limit:-"),
            change(7, 9, counter="bb:x:-"),
        )
        assert [(b.counter, b.reserved) for b in ledger.budgets(SESSION)] == [
            ("aa:spending-limits:0x1", 100),
            ("aa:usage-limit:-", 1),
            ("bb:x:-", 7),
        ]
        complete(ledger, intent_id)
        assert [b.spent for b in ledger.budgets(SESSION)] == [100, 1, 7]

    def test_a_large_batch_is_one_step(self, ledger: RedisLedger) -> None:
        changes = [change(1, 500, call=n) for n in range(500)]
        complete(ledger, reserve(ledger, "k", *changes))
        assert sums(ledger) == (500, 0)
        with pytest.raises(LimitExceededError):
            reserve(ledger, "one more", change(1, 500))


class TestRace:
    """Eight threads, one limit: exactly what fits is reserved."""

    @pytest.mark.parametrize("unit", [10_000_000, 2**53 + 1, 2**128 + 1, MAX // 10])
    def test_exactly_ten_of_forty_get_a_tenth_each(self, ledger: RedisLedger, unit: int) -> None:
        def attempt(number: int) -> bool:
            try:
                reserve(ledger, f"k{number}", change(unit, 10 * unit))
            except LimitExceededError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(attempt, range(40)))
        assert won.count(True) == 10
        assert sums(ledger) == (0, 10 * unit)

    def test_reserving_settling_and_releasing_at_once_keep_the_sum(self, ledger: RedisLedger) -> None:
        unit = 2**64 + 1

        def live(number: int) -> int:
            try:
                intent_id = reserve(ledger, f"k{number}", change(unit, 6 * unit))
            except LimitExceededError:
                return 0
            if number % 2:
                step(ledger, intent_id, State.AUTHORIZED, State.FAILED)
                return 0
            complete(ledger, intent_id)
            return unit

        with ThreadPoolExecutor(8) as pool:
            spent = sum(pool.map(live, range(48)))
        assert sums(ledger) == (spent, 0)
        assert 0 < spent <= 6 * unit


@dataclass
class Model:
    """What the budget must be, in Python's integers."""

    limit: int
    spent: int = 0
    held: dict[str, tuple[int, ...]] = field(default_factory=dict[str, "tuple[int, ...]"])

    @property
    def reserved(self) -> int:
        return sum(sum(amounts) for amounts in self.held.values())

    def fits(self, amounts: tuple[int, ...]) -> bool:
        return self.spent + self.reserved + sum(amounts) <= self.limit


AMOUNT = st.one_of(
    st.sampled_from([0, *EDGES]),
    st.integers(0, MAX),
    st.integers(0, 2**64),
    st.sampled_from([MAX // 2, MAX // 3, 2**255, 10**70]),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "complete", "fail", "requeue"]),
        st.lists(AMOUNT, min_size=1, max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=14,
)


class TestModel:
    """Any sequence of steps leaves exactly what Python's integers say."""

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(EDGES), STEPS)
    def test_budgets_are_those_of_the_model(
        self, ledger: RedisLedger, redis_url: str, limit: int, steps: list[tuple[str, tuple[int, ...]]]
    ) -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        model = Model(limit)
        for number, (what, amounts) in enumerate(steps):
            self._apply(ledger, model, f"k{number}", what, amounts)
            if ledger.budgets(SESSION):
                assert sums(ledger) == (model.spent, model.reserved)
            else:
                assert (model.spent, model.reserved) == (0, 0)
            assert model.spent + model.reserved <= limit
        self._recount(ledger, model)

    @staticmethod
    def _apply(ledger: RedisLedger, model: Model, key: str, what: str, amounts: tuple[int, ...]) -> None:
        if what == "reserve":
            intent_id = put(ledger, key)
            changes = [change(amount, model.limit, call=call) for call, amount in enumerate(amounts)]
            if model.fits(amounts):
                step(ledger, intent_id, State.QUEUED, State.AUTHORIZED, *changes)
                model.held[intent_id] = amounts
            else:
                with pytest.raises(LimitExceededError):
                    step(ledger, intent_id, State.QUEUED, State.AUTHORIZED, *changes)
        elif model.held:
            intent_id, held = model.held.popitem()
            ends: dict[str, Callable[[], None]] = {
                "complete": lambda: complete(ledger, intent_id),
                "fail": lambda: step(ledger, intent_id, State.AUTHORIZED, State.FAILED),
                "requeue": lambda: step(ledger, intent_id, State.AUTHORIZED, State.QUEUED),
            }
            ends[what]()
            model.spent += sum(held) if what == "complete" else 0

    @staticmethod
    def _recount(ledger: RedisLedger, model: Model) -> None:
        """The records alone tell the same sums."""
        records = ledger.list_intents(limit=100)
        reserved = sum(item.amount for record in records for item in record.reservation)
        settled = [json.loads(record.fields["settled"]) for record in records if "settled" in record.fields]
        assert reserved == model.reserved
        assert sum(int(item["amount"]) for items in settled for item in items) == model.spent
        assert all(not record.reservation for record in records if record.state in FINAL)


class TestSeveralSessions:
    """A trade over several chains counts in the budget of each chain's session, all or nothing."""

    OTHER = "ses_" + "b" * 16

    def _changes(self, amount: int, limit: int) -> tuple[CounterChange, CounterChange]:
        theirs = change(amount, limit)
        return change(5, 100), replace(theirs, session=self.OTHER.removeprefix("ses_"))

    def test_the_same_counter_of_another_session_is_another_counter(self, ledger: RedisLedger) -> None:
        intent_id = reserve(ledger, "a", *self._changes(2**200, 2**201))
        [ours], [theirs] = ledger.budgets(SESSION), ledger.budgets(self.OTHER)
        assert (ours.spent, ours.reserved, ours.limit) == (0, 5, 100)
        assert (theirs.spent, theirs.reserved, theirs.limit) == (0, 2**200, 2**201)
        complete(ledger, intent_id)
        assert ledger.budgets(SESSION)[0].spent == 5
        assert ledger.budgets(self.OTHER)[0].spent == 2**200
        assert ledger.budgets(self.OTHER)[0].reserved == 0

    def test_one_limit_that_breaks_reserves_nothing_anywhere(self, ledger: RedisLedger) -> None:
        reserve(ledger, "first", *self._changes(60, 100))
        with pytest.raises(LimitExceededError) as caught:
            reserve(ledger, "second", *self._changes(41, 100))
        assert (caught.value.spent, caught.value.reserved) == (0, 60)
        assert ledger.budgets(SESSION)[0].reserved == 5
        assert ledger.budgets(self.OTHER)[0].reserved == 60

    def test_a_cancelled_intent_gives_back_in_every_session(self, ledger: RedisLedger) -> None:
        intent_id = reserve(ledger, "a", *self._changes(7, 100))
        ledger.cancel(intent_id, who="test", why="", now_ms=2)
        assert ledger.budgets(SESSION)[0].reserved == ledger.budgets(self.OTHER)[0].reserved == 0

    def test_a_name_that_is_no_session_is_refused(self, ledger: RedisLedger) -> None:
        with pytest.raises(LedgerInputError, match="is no session"):
            reserve(ledger, "a", replace(change(1, 2), session="x}:budget"))
