"""Records in a real Redis: one atomic step each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL, TRANSITIONS, State
from worker.ledger import redis_ledger
from worker.ledger.errors import (
    FenceLostError,
    IdempotencyConflictError,
    IllegalTransitionError,
    IntentNotFoundError,
    LedgerInconsistentError,
    LedgerInputError,
)
from worker.ledger.port import Ledger
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import CounterChange, Execution

pytestmark = pytest.mark.services

T = TypeVar("T")

SESSION = "ses_" + "a1" * 8
OTHER = "ses_" + "b2" * 8
CALL = Execution("0x" + "11" * 20, 0, bytes.fromhex("a9059cbb"))
MISSING = "int_" + "00" * 8 + "_" + "00" * 12
CHANGE = CounterChange("aa:spending-limits:0x1", 60, 100, "spending-limits", 0, "0x1")
#: a way to each state, from QUEUED
PATHS: dict[State, tuple[State, ...]] = {
    State.QUEUED: (),
    State.AUTHORIZED: (State.AUTHORIZED,),
    State.SIGNED: (State.AUTHORIZED, State.SIGNED),
    State.SUBMITTED: (State.AUTHORIZED, State.SIGNED, State.SUBMITTED),
    State.COMPLETED: (State.AUTHORIZED, State.SIGNED, State.SUBMITTED, State.COMPLETED),
    State.FAILED: (State.FAILED,),
    State.EXPIRED: (State.EXPIRED,),
    State.REJECTED: (State.REJECTED,),
    State.CANCELED: (State.CANCELED,),
    State.DEAD: (State.DEAD,),
}


def intent(key: str = "k", *, session: str = SESSION, **changed: Any) -> TradeIntent:
    return replace(TradeIntent(session, key, (CALL,)), **changed)


@pytest.fixture
def ledger(redis_url: str) -> Generator[RedisLedger]:
    made = RedisLedger(redis_url)
    yield made
    made.close()


@pytest.fixture
def raw(redis_url: str) -> Generator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as client:
        yield client


def put(ledger: RedisLedger, key: str = "k", *, session: str = SESSION, now_ms: int = 1_000) -> str:
    return ledger.enqueue(intent(key, session=session), now_ms=now_ms, due_ms=now_ms).record.intent_id


def move(ledger: RedisLedger, intent_id: str, *states: State, **more: Any) -> None:
    for state in states:
        now = ledger.get(intent_id)
        ledger.transition(
            intent_id,
            fence=now.fence,
            from_state=now.state,
            to_state=state,
            who="test",
            why=f"to {state}",
            now_ms=2_000,
            due_ms=9_000,
            **more,
        )


def due_ids(ledger: RedisLedger, now_ms: int, *, push_back_ms: int = 1_000, limit: int = 100) -> list[str]:
    return [r.intent_id for r in ledger.take_due(now_ms=now_ms, push_back_ms=push_back_ms, limit=limit)]


def race(workers: int, calls: int, call: Callable[[int], T]) -> list[T]:
    """What ``calls`` calls give that ``workers`` threads make at the same time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, range(calls)))


ON_AN_UNKNOWN_ID: list[Callable[[RedisLedger], object]] = [
    lambda ledger: ledger.get(MISSING),
    lambda ledger: ledger.claim(MISSING, states=[State.QUEUED], lease_ms=1, now_ms=1, who="w"),
    lambda ledger: ledger.annotate(MISSING, now_ms=1, fence=0),
    lambda ledger: ledger.release_claim(MISSING, now_ms=1, fence=0, due_ms=1),
    lambda ledger: ledger.cancel(MISSING, who="o", why="", now_ms=1),
    lambda ledger: ledger.transition(
        MISSING, fence=0, from_state=State.QUEUED, to_state=State.DEAD, who="w", why="", now_ms=1
    ),
    lambda ledger: ledger.get("nonsense"),
]


class TestEnqueue:
    """The same key and payload give the first record; another payload is a conflict."""

    def test_the_ledger_is_one(self, ledger: RedisLedger) -> None:
        port: Ledger = ledger
        assert port.counts() == dict.fromkeys(State, 0)

    def test_a_new_intent_is_queued_with_its_first_line_of_history(self, ledger: RedisLedger) -> None:
        asked = intent(source="cli", note="transfer 10 USDC \u2192 Zo\u00eb", not_after=77)
        made = ledger.enqueue(asked, now_ms=1_000, due_ms=1_500)
        assert made.created
        record = ledger.get(asked.intent_id)
        assert record.intent == asked == made.record.intent
        assert (record.state, record.fence, record.attempts) == (State.QUEUED, 0, 0)
        assert (record.created_ms, record.updated_ms) == (1_000, 1_000)
        assert [(h.at_ms, h.who, h.from_state, h.to_state) for h in record.history] == [
            (1_000, "cli", "", "QUEUED")
        ]

    def test_the_same_again_returns_the_first_record_untouched(self, ledger: RedisLedger) -> None:
        first = ledger.enqueue(intent(note="first"), now_ms=1_000, due_ms=1_000)
        ledger.claim(first.record.intent_id, states=[State.QUEUED], lease_ms=10, now_ms=1_001, who="w")
        again = ledger.enqueue(intent(note="second"), now_ms=2_000, due_ms=2_000)
        assert not again.created
        assert (again.record.intent.note, again.record.created_ms, again.record.attempts) == (
            "first",
            1_000,
            1,
        )
        assert ledger.counts()[State.QUEUED] == 1
        assert len(ledger.get(first.record.intent_id).history) == 1

    @pytest.mark.parametrize(
        "changed",
        [
            {"calls": (replace(CALL, value=1),)},
            {"calls": (CALL, CALL)},
            {"calls": (replace(CALL, data=b""),)},
            {"sponsored": False},
            {"not_after": 1},
        ],
    )
    def test_another_payload_under_the_key_is_a_conflict(
        self, ledger: RedisLedger, changed: dict[str, Any]
    ) -> None:
        put(ledger)
        with pytest.raises(IdempotencyConflictError) as caught:
            ledger.enqueue(intent(**changed), now_ms=2_000, due_ms=2_000)
        assert caught.value.field == "idempotency_key"
        assert caught.value.exit_code == 2
        assert ledger.get(intent().intent_id).intent == intent()

    def test_a_finished_intent_is_not_started_again_by_its_key(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        move(ledger, intent_id, *PATHS[State.COMPLETED])
        again = ledger.enqueue(intent(), now_ms=9_000, due_ms=9_000)
        assert (again.created, again.record.state) == (False, State.COMPLETED)
        assert due_ids(ledger, 99_000) == []

    def test_twenty_racing_calls_create_one_record(self, ledger: RedisLedger) -> None:
        made = race(8, 20, lambda n: ledger.enqueue(intent(), now_ms=1_000 + n, due_ms=1_000).created)
        assert made.count(True) == 1
        assert ledger.counts()[State.QUEUED] == 1

    @pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", "a\x00b"])
    def test_a_malformed_key_is_refused(self, ledger: RedisLedger, key: str) -> None:
        with pytest.raises(LedgerInputError) as caught:
            put(ledger, key)
        assert caught.value.field == "idempotency_key"
        assert ledger.counts()[State.QUEUED] == 0

    def test_a_malformed_session_is_refused(self, ledger: RedisLedger) -> None:
        with pytest.raises(LedgerInputError, match="session id"):
            put(ledger, session="ses_{}")


class TestClaim:
    """One attempt at a time, and a dead one is found again."""

    def test_a_claim_counts_and_keeps_others_out_until_its_lease_ends(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)

        def claim(now_ms: int) -> IntentRecord | None:
            return ledger.claim(intent_id, states=[State.QUEUED], lease_ms=100, now_ms=now_ms, who="w")

        first = claim(1_000)
        assert first is not None
        assert (first.fence, first.attempts, first.fields["lease_who"]) == (1, 1, "w")
        assert claim(1_099) is None
        assert due_ids(ledger, 1_099) == []
        assert due_ids(ledger, 1_100) == [intent_id]
        second = claim(1_100)
        assert second is not None
        assert (second.fence, second.attempts) == (2, 2)

    def test_another_state_is_not_claimed(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        states = [State.AUTHORIZED, State.SIGNED]
        assert ledger.claim(intent_id, states=states, lease_ms=1, now_ms=1, who="w") is None
        assert ledger.get(intent_id).fence == 0

    def test_a_final_record_is_never_claimed(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        move(ledger, intent_id, State.DEAD)
        assert ledger.claim(intent_id, states=list(State), lease_ms=1, now_ms=9_999, who="w") is None
        assert due_ids(ledger, 10**9) == []

    def test_of_racing_claims_one_wins(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        won = race(
            8,
            24,
            lambda n: ledger.claim(
                intent_id, states=[State.QUEUED], lease_ms=1_000, now_ms=1_000, who=f"w{n}"
            ),
        )
        assert len([record for record in won if record]) == 1

    def test_releasing_ends_the_lease_and_sets_the_due_time(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        ledger.claim(intent_id, states=[State.QUEUED], lease_ms=10_000, now_ms=1_000, who="w")
        ledger.release_claim(intent_id, fence=1, due_ms=1_500, now_ms=1_100, reason="vault sealed", tries="1")
        record = ledger.get(intent_id)
        assert (record.reason, record.fields["tries"], record.updated_ms) == ("vault sealed", "1", 1_100)
        assert due_ids(ledger, 1_499) == []
        assert due_ids(ledger, 1_500) == [intent_id]
        assert ledger.claim(intent_id, states=[State.QUEUED], lease_ms=1, now_ms=1_101, who="x") is not None

    def test_an_attempt_that_lost_its_claim_can_write_nothing(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        for now_ms in (1_000, 2_000):
            ledger.claim(intent_id, states=[State.QUEUED], lease_ms=100, now_ms=now_ms, who="w")
        with pytest.raises(FenceLostError, match="attempt 1 has lost it to attempt 2"):
            ledger.release_claim(intent_id, fence=1, due_ms=1, now_ms=2_001)
        with pytest.raises(FenceLostError):
            ledger.annotate(intent_id, fence=1, now_ms=2_001, reason="x")
        with pytest.raises(FenceLostError):
            ledger.transition(
                intent_id,
                fence=1,
                from_state=State.QUEUED,
                to_state=State.AUTHORIZED,
                who="w",
                why="",
                now_ms=2_001,
                reserve=[CHANGE],
            )
        record = ledger.get(intent_id)
        assert (record.state, record.reason, len(record.history)) == (State.QUEUED, "", 1)
        assert ledger.budgets(SESSION) == []


class TestTransition:
    """Only moves of the table, only from the state that was seen."""

    @pytest.mark.parametrize("start", list(State))
    def test_the_table_is_kept_for_every_pair_of_states(self, ledger: RedisLedger, start: State) -> None:
        for number, target in enumerate(State):
            intent_id = put(ledger, f"k{number}")
            move(ledger, intent_id, *PATHS[start])
            if target in TRANSITIONS[start]:
                if (start, target) == (State.SIGNED, State.QUEUED):
                    ledger.annotate(intent_id, now_ms=1, fence=0, sent="")
                move(ledger, intent_id, target)
                assert ledger.get(intent_id).state is target
            else:
                with pytest.raises(IllegalTransitionError, match=f"from {start} to {target}"):
                    move(ledger, intent_id, target)
                assert ledger.get(intent_id).state is start

    @pytest.mark.parametrize("sent", [None, "maybe", "refused"])
    def test_what_may_have_been_seen_outside_cannot_be_signed_anew(
        self, ledger: RedisLedger, sent: str | None
    ) -> None:
        intent_id = put(ledger)
        move(ledger, intent_id, *PATHS[State.SIGNED])
        if sent is not None:
            ledger.annotate(intent_id, now_ms=1, fence=0, sent=sent)
        with pytest.raises(IllegalTransitionError, match="from SIGNED to QUEUED"):
            move(ledger, intent_id, State.QUEUED)
        assert ledger.get(intent_id).state is State.SIGNED

    def test_a_stale_from_state_is_refused(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        with pytest.raises(IllegalTransitionError, match="it is QUEUED"):
            ledger.transition(
                intent_id,
                fence=0,
                from_state=State.AUTHORIZED,
                to_state=State.SIGNED,
                who="w",
                why="",
                now_ms=1,
            )

    def test_fields_due_time_and_history_move_with_the_state(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        quote = '{"nonce": 1.0e18, "text": "\u00e9\\u0000"}'
        move(
            ledger,
            intent_id,
            State.AUTHORIZED,
            reserve=[CHANGE],
            fields={"quote": quote, "quote_expires_s": "1700", "step": "a"},
        )
        record = ledger.get(intent_id)
        assert (record.quote, record.quote_expires_s, record.fields["step"]) == (quote, 1_700, "a")
        assert record.reservation == (CHANGE,)
        assert [(h.from_state, h.to_state, h.why) for h in record.history][1:] == [
            ("QUEUED", "AUTHORIZED", "to AUTHORIZED")
        ]
        assert due_ids(ledger, 8_999) == []
        assert due_ids(ledger, 9_000) == [intent_id]

    def test_a_refused_field_changes_nothing(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        with pytest.raises(LedgerInputError):
            move(ledger, intent_id, State.AUTHORIZED, reserve=[CHANGE], fields={"fence": "9"})
        assert ledger.get(intent_id).state is State.QUEUED
        assert ledger.budgets(SESSION) == []

    def test_an_open_record_without_a_due_time_is_due_at_once(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        ledger.transition(
            intent_id,
            fence=0,
            from_state=State.QUEUED,
            to_state=State.AUTHORIZED,
            who="w",
            why="",
            now_ms=5_000,
        )
        assert due_ids(ledger, 4_999) == []
        assert due_ids(ledger, 5_000) == [intent_id]

    @pytest.mark.parametrize("final", sorted(FINAL))
    def test_a_final_state_leaves_the_open_index_and_says_why(
        self, ledger: RedisLedger, final: State
    ) -> None:
        intent_id = put(ledger)
        ledger.annotate(intent_id, fence=0, now_ms=1, attention="look")
        move(ledger, intent_id, *PATHS[final])
        record = ledger.get(intent_id)
        assert record.reason == ("" if final is State.COMPLETED else f"to {final}")
        assert record.attention == ""
        assert due_ids(ledger, 10**12) == []

    def test_a_late_note_does_not_reopen_a_final_record(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        move(ledger, intent_id, State.FAILED)
        ledger.annotate(intent_id, fence=0, now_ms=3_000, due_ms=3_000, tx_hash="0x1")
        ledger.release_claim(intent_id, fence=0, now_ms=3_000, due_ms=3_000)
        assert ledger.get(intent_id).tx_hash == "0x1"
        assert due_ids(ledger, 10**12) == []

    def test_a_dropped_quote_is_forgotten(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        fields = {"quote": "{}", "quote_expires_s": "5", "orchestrator_id": "7"}
        move(ledger, intent_id, State.AUTHORIZED, fields=fields)
        move(ledger, intent_id, State.QUEUED)
        record = ledger.get(intent_id)
        assert (record.quote, record.quote_expires_s, record.orchestrator_id) == ("", 0, "")

    def test_a_replay_of_a_dead_intent_starts_afresh(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        for now_ms in (1_000, 2_000, 3_000):
            ledger.claim(intent_id, states=[State.QUEUED], lease_ms=100, now_ms=now_ms, who="w")
        move(ledger, intent_id, State.DEAD, State.QUEUED)
        record = ledger.get(intent_id)
        assert (record.state, record.attempts, record.fence, record.reason) == (State.QUEUED, 0, 3, "")
        assert due_ids(ledger, 9_000) == [intent_id]

    @pytest.mark.parametrize("call", ON_AN_UNKNOWN_ID)
    def test_an_unknown_id_is_named(self, ledger: RedisLedger, call: Callable[[RedisLedger], object]) -> None:
        with pytest.raises(IntentNotFoundError, match="no intent has the id"):
            call(ledger)


class TestCancel:
    """Before SIGNED an operator's word ends it, whoever is working on it."""

    @pytest.mark.parametrize("start", [State.QUEUED, State.AUTHORIZED])
    def test_it_ends_and_the_running_attempt_is_locked_out(self, ledger: RedisLedger, start: State) -> None:
        intent_id = put(ledger)
        if start is State.AUTHORIZED:
            move(ledger, intent_id, State.AUTHORIZED, reserve=[CHANGE])
        claimed = ledger.claim(intent_id, states=[start], lease_ms=10_000, now_ms=9_000, who="w")
        assert claimed is not None
        record = ledger.cancel(intent_id, who="operator", why="wrong recipient", now_ms=9_100)
        assert (record.state, record.reason, record.reservation) == (State.CANCELED, "wrong recipient", ())
        with pytest.raises(FenceLostError):
            ledger.annotate(intent_id, fence=claimed.fence, now_ms=9_200)
        assert all(budget.reserved == budget.spent == 0 for budget in ledger.budgets(SESSION))
        assert ledger.get(intent_id).history[-1].who == "operator"
        assert due_ids(ledger, 10**12) == []

    @pytest.mark.parametrize("start", [state for state in State if State.CANCELED not in TRANSITIONS[state]])
    def test_what_is_signed_or_final_stays_as_it_is(self, ledger: RedisLedger, start: State) -> None:
        intent_id = put(ledger)
        move(ledger, intent_id, *PATHS[start])
        with pytest.raises(IllegalTransitionError, match=f"is {start} and cannot be canceled"):
            ledger.cancel(intent_id, who="operator", why="late", now_ms=9_000)
        assert ledger.get(intent_id).state is start


class TestTakeDue:
    """Every open record comes up when it is due, to one poller only."""

    def test_nothing_is_taken_twice_before_its_new_due_time(self, ledger: RedisLedger) -> None:
        ids = {put(ledger, f"k{n}") for n in range(5)}
        assert set(due_ids(ledger, 1_000, push_back_ms=50)) == ids
        assert due_ids(ledger, 1_049) == []
        assert set(due_ids(ledger, 1_050)) == ids

    def test_racing_pollers_share_without_overlap(self, ledger: RedisLedger) -> None:
        ids = sorted(put(ledger, f"k{n}") for n in range(40))
        taken = race(4, 16, lambda _: due_ids(ledger, 1_000, limit=7))
        assert sorted(intent_id for part in taken for intent_id in part) == ids

    def test_a_busy_session_does_not_starve_the_others(self, ledger: RedisLedger) -> None:
        for n in range(30):
            put(ledger, f"k{n}", now_ms=500)
        few = {put(ledger, f"k{n}", session=OTHER) for n in range(2)}
        taken = due_ids(ledger, 1_000, limit=10)
        assert len(taken) == 10
        assert few < set(taken)

    def test_more_sessions_than_places_all_get_their_turn(self, ledger: RedisLedger) -> None:
        ids = {put(ledger, session=f"ses_{n:016x}") for n in range(12)}
        seen: set[str] = set()
        for _ in range(4):
            taken = due_ids(ledger, 1_000, push_back_ms=10_000, limit=3)
            assert len(taken) == 3
            seen |= set(taken)
        assert seen == ids

    def test_the_longest_overdue_come_first(self, ledger: RedisLedger) -> None:
        late = put(ledger, "late", now_ms=900)
        later = put(ledger, "later", now_ms=100)
        assert due_ids(ledger, 1_000, limit=1) == [later]
        assert due_ids(ledger, 1_000, limit=1) == [late]

    def test_a_note_may_move_the_due_time_or_leave_it(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        ledger.annotate(intent_id, fence=0, now_ms=1_000, due_ms=5_000, orchestrator_status="PENDING")
        assert due_ids(ledger, 4_999) == []
        ledger.annotate(intent_id, fence=0, now_ms=4_999, orchestrator_status="FILLED")
        assert due_ids(ledger, 5_000) == [intent_id]
        assert ledger.get(intent_id).orchestrator_status == "FILLED"


class TestLists:
    """What operators read."""

    def test_newest_first_across_sessions_by_page(self, ledger: RedisLedger) -> None:
        ids = [put(ledger, f"k{n}", session=(SESSION, OTHER)[n % 2], now_ms=1_000 + n) for n in range(9)]
        newest = ids[::-1]

        def listed(**options: Any) -> list[str]:
            return [record.intent_id for record in ledger.list_intents(**options)]

        assert listed() == newest
        assert listed(limit=4) == newest[:4]
        assert listed(limit=4, offset=6) == newest[6:]
        assert listed(session_id=OTHER) == newest[1::2]
        assert listed(limit=0) == []

    def test_only_the_states_asked_for(self, ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis_ledger, "_PAGE", 3)
        ids = [put(ledger, f"k{n}", now_ms=1_000 + n) for n in range(10)]
        for intent_id in ids[:2]:
            move(ledger, intent_id, State.FAILED)
        listed = ledger.list_intents(states=[State.FAILED], limit=2)
        assert [record.intent_id for record in listed] == [ids[1], ids[0]]
        assert ledger.list_intents(states=[State.FAILED], limit=5, offset=1)[0].intent_id == ids[0]
        assert ledger.list_intents(states=[State.SIGNED]) == []

    def test_counts_follow_every_move(self, ledger: RedisLedger) -> None:
        for number, state in enumerate(State):
            move(ledger, put(ledger, f"k{number}", session=(SESSION, OTHER)[number % 2]), *PATHS[state])
        ledger.cancel(put(ledger, "c"), who="o", why="", now_ms=1)
        assert ledger.counts() == dict.fromkeys(State, 1) | {State.CANCELED: 2}

    def test_the_signed_body_is_not_in_a_records_repr(self, ledger: RedisLedger) -> None:
        intent_id = put(ledger)
        move(ledger, intent_id, State.AUTHORIZED)
        move(ledger, intent_id, State.SIGNED, fields={"body": '{"signature":"0xfeed"}'})
        record = ledger.get(intent_id)
        assert record.body == '{"signature":"0xfeed"}'
        assert "0xfeed" not in repr(record)


class TestSlots:
    """A fire time of a strategy is given out once."""

    def test_of_racing_beats_one_gets_the_slot(self, ledger: RedisLedger) -> None:
        won = race(8, 24, lambda _: ledger.claim_slot("dca", 1_700_000_000))
        assert won.count(True) == 1

    def test_strategies_and_fire_times_are_apart(self, ledger: RedisLedger) -> None:
        assert ledger.claim_slot("dca", 60)
        assert ledger.claim_slot("dca", 120, intent_id="int_x")
        assert ledger.claim_slot("rebalance", 60)
        assert not ledger.claim_slot("dca", 60, intent_id="int_y")

    def test_a_forgotten_slot_still_counts_as_taken(
        self, ledger: RedisLedger, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_ledger, "_SLOTS_KEPT", 3)
        assert all(ledger.claim_slot("dca", fire_s) for fire_s in (60, 120, 180, 240, 300))
        assert raw.zcard("sx:slots:{dca}") == 3
        assert not any(ledger.claim_slot("dca", fire_s) for fire_s in (30, 60, 120, 180, 240, 300))
        assert ledger.claim_slot("dca", 360)


class TestForeignWrites:
    """What another program did to our keys is named, never acted on."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("payload", intent("k").payload().replace("11", "22")),
            ("payload", "{}"),
            ("payload", "nonsense"),
            ("state", "DONE"),
            ("fence", "x"),
            ("idempotency_key", "other"),
        ],
    )
    def test_a_changed_record_is_refused(
        self, ledger: RedisLedger, raw: redis.Redis, field: str, value: str
    ) -> None:
        intent_id = put(ledger)
        good = put(ledger, "good")
        raw.hset(f"sx:{{{SESSION[4:]}}}:intent:{intent_id}", field, value)
        with pytest.raises(LedgerInconsistentError, match="changed outside of this program"):
            ledger.get(intent_id)
        assert due_ids(ledger, 1_000) == [good]
        assert [record.intent_id for record in ledger.list_intents()] == [good]

    def test_a_reservation_that_the_budget_does_not_hold_stops_the_move(
        self, ledger: RedisLedger, raw: redis.Redis
    ) -> None:
        intent_id = put(ledger)
        move(ledger, intent_id, State.AUTHORIZED, reserve=[CHANGE])
        raw.hset(f"sx:{{{SESSION[4:]}}}:budget", f"{CHANGE.counter}|reserved", "59")
        with pytest.raises(LedgerInconsistentError, match="less is reserved"):
            move(ledger, intent_id, State.FAILED)
        assert ledger.get(intent_id).state is State.AUTHORIZED
        assert ledger.budgets(SESSION)[0].reserved == 59


class TestAnyOrder:
    """Whatever is called in whatever order, the indexes agree with the records."""

    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([*State, "claim", "cancel"])), max_size=15))
    def test_open_index_and_counts_match_the_states(
        self, ledger: RedisLedger, raw: redis.Redis, steps: list[tuple[int, str]]
    ) -> None:
        raw.flushall()
        ids = [put(ledger, f"k{n}") for n in range(3)]
        for index, step in steps:
            intent_id = ids[index]
            try:
                if step == "claim":
                    ledger.claim(intent_id, states=list(State), lease_ms=1, now_ms=1_000, who="w")
                elif step == "cancel":
                    ledger.cancel(intent_id, who="o", why="", now_ms=1_000)
                else:
                    move(ledger, intent_id, State(step))
            except IllegalTransitionError:
                pass
        states = {intent_id: ledger.get(intent_id).state for intent_id in ids}
        index_key = f"sx:{{{SESSION[4:]}}}:open"
        opened: Any = raw.zrange(index_key, 0, -1)
        assert set(opened) == {intent_id for intent_id, state in states.items() if state not in FINAL}
        assert Counter(states.values()) == Counter(ledger.counts())
        for intent_id, state in states.items():
            history = ledger.get(intent_id).history
            assert history[-1].to_state == state
            assert all(before.to_state == after.from_state for before, after in pairwise(history))
