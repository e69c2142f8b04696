"""Eight threads on a real Redis: at no moment is reserved + spent above a limit, and every refusal is a true one.

``BUDGET_OPS`` sets how many operations are done (``make budgets OPS=10000``).

Each thread has counters of its own beside those that all share, in the same batches. Its own ones are held against a
model in Python's integers after every step, so that a batch that is refused for a shared counter must leave them alone.
The shared ones are watched from outside, recounted from the records, and their refusals are checked for truth.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import redis

from tests.support.last_line import SayLast
from worker.intents.model import TradeIntent
from worker.intents.states import FINAL, State
from worker.ledger.errors import IllegalTransitionError, LimitExceededError
from worker.ledger.port import Budget
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import CounterChange, Execution

pytestmark = [pytest.mark.services, pytest.mark.timeout(1800)]

OPERATIONS = int(os.environ.get("BUDGET_OPS", "1200"))
THREADS = 8
#: After so many operations of a thread the counters are new ones: a used up limit would only refuse.
EPOCH = 40
SESSION = "ses_" + "b7" * 8
CALL = Execution("0x" + "11" * 20, 0, b"")
MAX = 2**256 - 1
SIZES = (2**53, 2**63, 2**64, 2**128, MAX)


def limit_of(size: int) -> int:
    """Some 25 units fit; the largest limit is the largest amount."""
    return min(25 * size + 7, MAX)


def amount_near(random_: random.Random, size: int) -> int:
    unit = MAX // 25 if size == MAX else size
    return max(0, unit * random_.choice((0, 1, 1, 1, 2, 3)) + random_.randint(-2, 2))


def totals(budgets: list[Budget]) -> dict[str, tuple[int, int]]:
    return {budget.counter: (budget.spent, budget.reserved) for budget in budgets}


class Trader:
    """One thread: its intents, and the model of the counters that only it touches."""

    def __init__(self, url: str, number: int, shared: Shared) -> None:
        self.ledger = RedisLedger(url)
        self.number = number
        self.random = random.Random(f"budgets {number}")
        self.shared = shared
        self.spent: Counter[str] = Counter()
        self.reserved: Counter[str] = Counter()
        self.held: list[tuple[str, tuple[CounterChange, ...]]] = []
        self.refused = 0

    def run(self, operations: int) -> None:
        for turn in range(operations):
            what = self.random.choice(
                ("reserve", "reserve", "reserve", "complete", "fail", "requeue", "meddle")
            )
            if what == "reserve":
                self.reserve(turn)
            elif what == "meddle":
                self.meddle()
            elif self.held:
                self.end(what)
            if turn % 5 == 0:
                self.compare()
        self.compare()

    def batch(self, epoch: int) -> tuple[CounterChange, ...]:
        changes: list[CounterChange] = []
        for _ in range(self.random.randint(1, 3)):
            size = self.random.choice(SIZES)
            place = self.random.randrange(len(changes) + 1)
            amount = min(amount_near(self.random, size), limit_of(size))
            for counter in (f"own{self.number}.{epoch}.{size}", f"all.{epoch}.{size}"):
                changes.insert(place, CounterChange(f"{counter}:x:-", amount, limit_of(size), "x", 0))
        return tuple(changes)

    def reserve(self, turn: int) -> None:
        changes = self.batch(turn // EPOCH)
        intent = TradeIntent(SESSION, f"{self.number}:{turn}", (CALL,))
        intent_id = self.ledger.enqueue(intent, now_ms=1, due_ms=1).record.intent_id
        self.authorize(intent_id, changes)

    def authorize(self, intent_id: str, changes: tuple[CounterChange, ...]) -> None:
        try:
            self.move(intent_id, State.QUEUED, State.AUTHORIZED, changes)
        except LimitExceededError as error:
            self.refused += 1
            if error.spent + error.reserved + error.amount <= error.limit:
                raise  # a refusal without a reason
            return
        for change in changes:
            self.reserved[change.counter] += change.amount
        self.held.append((intent_id, changes))
        self.shared.offer(intent_id)

    def end(self, what: str) -> None:
        intent_id, changes = self.held.pop(self.random.randrange(len(self.held)))
        ends = {
            "complete": ((State.AUTHORIZED, State.SIGNED), (State.SIGNED, State.COMPLETED)),
            "fail": ((State.AUTHORIZED, State.FAILED),),
            "requeue": ((State.AUTHORIZED, State.QUEUED),),
        }
        try:
            for before, after in ends[what]:
                self.move(intent_id, before, after)
        except IllegalTransitionError:
            # a meddler was first, and ended it without spending
            assert self.ledger.get(intent_id).state is State.EXPIRED
            what = "fail"
        for change in changes:
            self.reserved[change.counter] -= change.amount
            if what == "complete":
                self.spent[change.counter] += change.amount
        if what == "requeue":
            self.authorize(intent_id, changes)

    def meddle(self) -> None:
        """End an intent of any thread, which may be ending it at the same time."""
        intent_id = self.shared.take(self.random)
        if intent_id:
            done = True
            try:
                self.move(intent_id, State.AUTHORIZED, State.EXPIRED)
            except IllegalTransitionError:
                done = False  # its owner was first
            self.shared.ended(intent_id, done=done)

    def move(
        self, intent_id: str, before: State, after: State, reserve: tuple[CounterChange, ...] = ()
    ) -> None:
        self.ledger.transition(
            intent_id,
            fence=0,
            from_state=before,
            to_state=after,
            who=f"thread {self.number}",
            why="",
            now_ms=1,
            reserve=reserve,
        )

    def compare(self) -> None:
        """The counters of this thread alone are those of the model, but for what a meddler has just ended."""
        meddled: Counter[str] = Counter()
        open_end: set[str] = set()
        with self.shared.still:
            found = totals(list(self.ledger.budgets(SESSION)))
            for intent_id, changes in self.held:
                if intent_id in self.shared.ending:
                    open_end |= {change.counter for change in changes}
                elif intent_id in self.shared.expired:
                    for change in changes:
                        meddled[change.counter] += change.amount
        for counter in (self.spent.keys() | self.reserved.keys()) - open_end:
            if counter.startswith("own"):
                expected = self.spent[counter], self.reserved[counter] - meddled[counter]
                assert found[counter] == expected, counter


@dataclass
class Shared:
    """What the threads know of each other's intents.

    An intent is ``ending`` while a meddler is at it and nobody can know whether it has succeeded.
    """

    still: threading.RLock = field(default_factory=threading.RLock)
    open: list[str] = field(default_factory=list[str])
    ending: set[str] = field(default_factory=set[str])
    expired: set[str] = field(default_factory=set[str])

    def offer(self, intent_id: str) -> None:
        with self.still:
            self.open.append(intent_id)

    def take(self, random_: random.Random) -> str:
        with self.still:
            free = [index for index, intent_id in enumerate(self.open) if intent_id not in self.ending]
            if not free:
                return ""
            intent_id = self.open.pop(random_.choice(free))
            self.ending.add(intent_id)
            return intent_id

    def ended(self, intent_id: str, *, done: bool) -> None:
        with self.still:
            self.ending.discard(intent_id)
            if done:
                self.expired.add(intent_id)


def watch(url: str, stop: threading.Event) -> int:
    """Look at all budgets over and over; how many counters were looked at."""
    ledger = RedisLedger(url)
    looks = 0
    while not stop.is_set():
        for budget in ledger.budgets(SESSION):
            assert budget.spent + budget.reserved <= budget.limit, budget
            looks += 1
        stop.wait(0.005)
    ledger.close()
    return looks


def test_under_any_interleaving_no_limit_is_passed(redis_url: str, say_last: SayLast) -> None:
    shared, stop = Shared(), threading.Event()
    traders = [Trader(redis_url, number, shared) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS + 1) as pool:
        watching = pool.submit(watch, redis_url, stop)
        try:
            running = [pool.submit(trader.run, OPERATIONS // THREADS) for trader in traders]
            for job in running:
                job.result()
        finally:
            stop.set()
        looks = watching.result()
        assert looks > 0
    # both ends were reached: some refused, some spent
    refused = sum(trader.refused for trader in traders)
    assert refused > OPERATIONS // 50
    assert sum(len(trader.spent) for trader in traders) > 0

    ledger = traders[0].ledger
    reserved: defaultdict[str, int] = defaultdict(int)
    spent: defaultdict[str, int] = defaultdict(int)
    for record in ledger.list_intents(limit=10 * OPERATIONS):
        assert not (record.reservation and record.state in FINAL)
        for change in record.reservation:
            reserved[change.counter] += change.amount
        for item in json.loads(record.fields.get("settled", "[]")):
            spent[item["counter"]] += int(item["amount"])
    found = totals(list(ledger.budgets(SESSION)))
    assert found == {counter: (spent[counter], reserved[counter]) for counter in found}
    assert spent.keys() | reserved.keys() <= found.keys()
    model = sum((trader.spent for trader in traders), Counter[str]())
    assert {counter: amounts[0] for counter, amounts in found.items() if amounts[0]} == +model
    over = sum(budget.spent + budget.reserved > budget.limit for budget in ledger.budgets(SESSION))
    assert over == 0
    say_last(
        f"operations={OPERATIONS} threads={THREADS} refused={refused} counters_watched={looks} over_limit={over}"
    )
    for trader in traders:
        trader.ledger.close()


def test_the_watcher_would_see_a_limit_that_is_passed(redis_url: str) -> None:
    ledger = RedisLedger(redis_url)
    intent_id = ledger.enqueue(TradeIntent(SESSION, "k", (CALL,)), now_ms=1, due_ms=1).record.intent_id
    ledger.transition(
        intent_id,
        fence=0,
        from_state=State.QUEUED,
        to_state=State.AUTHORIZED,
        who="test",
        why="",
        now_ms=1,
        reserve=[CounterChange("all:x:-", MAX, MAX, "x", 0)],
    )
    with redis.Redis.from_url(redis_url) as client:
        client.hset(f"sx:{{{SESSION[4:]}}}:budget", "all:x:-|spent", "1")
    with pytest.raises(AssertionError):
        watch(redis_url, threading.Event())
    ledger.close()
