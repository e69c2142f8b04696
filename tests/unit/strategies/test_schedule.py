"""Fire times: found from the clock alone, in UTC, each once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.intents.amount import Amount, TokenInfo
from worker.strategies.cron import parse_cron
from worker.strategies.model import ScheduledStrategy
from worker.strategies.schedule import (
    DEFAULT_LATENESS_S,
    MAX_BURST,
    MAX_MISSED,
    ON_TIME_S,
    due,
    due_slot,
    fires_at,
    latest_slot,
    next_slot,
    valid_until,
)
from worker.strategies.timing import FixedTimes, Interval
from worker.strategies.transfer import Transfer

USDC = TokenInfo("USDC", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913", 6, 8453)
MINUTE, HOUR, DAY = 60, 3_600, 86_400


def at(text: str) -> int:
    """Unix seconds of ``2026-01-31 09:00`` or ``2026-01-31 09:00:59`` in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def every(cron: str, **changes: object) -> ScheduledStrategy:
    strategy = ScheduledStrategy(
        "s",
        "recurring-transfer",
        "ses_0123456789abcdef",
        Transfer("0x" + "11" * 20, Amount(1, USDC)),
        parse_cron(cron),
    )
    return replace(strategy, **changes)


# --- an independent reading of cron: field by field, minute by minute

NAMES = {n: i + 1 for i, n in enumerate("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split())} | {  # noqa: SIM905
    n: i
    for i, n in enumerate("SUN MON TUE WED THU FRI SAT".split())  # noqa: SIM905
}


def matches(field: str, value: int, low: int, high: int) -> bool:
    for term in field.upper().split(","):
        span, _, step = term.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        start = NAMES[first] if first in NAMES else int(first)
        stop = start if not last else NAMES[last] if last in NAMES else int(last)
        if start <= value <= stop and (value - start) % int(step or 1) == 0:
            return True
    return False


def fires(cron: str, moment: datetime) -> bool:
    minute, hour, day, month, weekday = cron.split()
    dow = moment.isoweekday() % 7
    return (
        matches(minute, moment.minute, 0, 59)
        and matches(hour, moment.hour, 0, 23)
        and matches(day, moment.day, 1, 31)
        and matches(month, moment.month, 1, 12)
        and (matches(weekday, dow, 0, 7) or (dow == 0 and matches(weekday, 7, 0, 7)))
    )


@st.composite
def cron_field(draw: st.DrawFn, low: int, high: int) -> str:
    terms: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(low, high))
        last = draw(st.integers(first, high))
        step = f"/{draw(st.integers(1, last - first))}" if last > first and draw(st.booleans()) else ""
        terms.append(f"{first}-{last}{step}" if last > first else str(first))
    return ",".join(terms)


def starred(low: int, high: int) -> st.SearchStrategy[str]:
    return st.one_of(st.just("*"), st.integers(1, high - low).map("*/{}".format))


@st.composite
def crons(draw: st.DrawFn) -> str:
    """Expressions that fire within every few months, so that a search minute by minute stays short."""
    minute = draw(st.one_of(starred(0, 59), cron_field(0, 59)))
    hour = draw(st.one_of(starred(0, 23), cron_field(0, 23)))
    day, weekday = draw(
        st.one_of(
            st.tuples(starred(1, 31), cron_field(0, 7)),
            st.tuples(cron_field(1, 28), starred(0, 7)),
            st.just(("*", "*")),
        )
    )
    # both restricted by steps can be rare: keep one of them open
    if day != "*" and weekday != "*":
        weekday = "*"
    return f"{minute} {hour} {day} * {weekday}"


MOMENTS = st.integers(at("2023-01-01 00:00"), at("2029-01-01 00:00"))


class TestLatestSlot:
    """The latest fire time at or before now."""

    @pytest.mark.parametrize(
        ("cron", "now", "slot"),
        [
            ("* * * * *", "2026-01-31 09:00:00", "2026-01-31 09:00"),
            ("* * * * *", "2026-01-31 09:00:59", "2026-01-31 09:00"),
            ("0 9 * * *", "2026-01-31 08:59:59", "2026-01-30 09:00"),
            ("0 9 * * *", "2026-01-31 09:00:00", "2026-01-31 09:00"),
            ("0 0 * * *", "2026-01-01 00:00:00", "2026-01-01 00:00"),
            ("0 0 * * *", "2025-12-31 23:59:59", "2025-12-31 00:00"),
            ("59 23 31 12 *", "2026-01-01 00:00:00", "2025-12-31 23:59"),
            # month ends: a day that a month has not is no fire time, and is not moved
            ("0 0 31 * *", "2026-03-01 00:00:00", "2026-01-31 00:00"),
            ("0 0 31 * *", "2026-05-30 12:00:00", "2026-03-31 00:00"),
            ("0 0 30 * *", "2026-03-01 00:00:00", "2026-01-30 00:00"),
            ("0 0 29 * *", "2026-03-01 00:00:00", "2026-01-29 00:00"),
            ("0 0 29 * *", "2028-03-01 00:00:00", "2028-02-29 00:00"),
            ("0 0 28-31 * *", "2026-03-01 00:00:00", "2026-02-28 00:00"),
            # leap days; 2100 has none
            ("0 0 29 2 *", "2027-12-31 00:00:00", "2024-02-29 00:00"),
            ("0 0 29 2 *", "2028-02-29 00:00:00", "2028-02-29 00:00"),
            ("0 0 29 2 *", "2103-12-31 00:00:00", "2096-02-29 00:00"),
            # weekdays: 2026-01-31 is a Saturday
            ("0 9 * * 0", "2026-01-31 12:00:00", "2026-01-25 09:00"),
            ("0 9 * * 7", "2026-01-31 12:00:00", "2026-01-25 09:00"),
            ("0 9 * * sun", "2026-01-31 12:00:00", "2026-01-25 09:00"),
            ("0 9 * * MON-FRI", "2026-01-31 12:00:00", "2026-01-30 09:00"),
            ("0 9 * * 5-7", "2026-01-31 12:00:00", "2026-01-31 09:00"),
            ("0 9 * * 1,3", "2026-01-31 12:00:00", "2026-01-28 09:00"),
            # steps start anew in each hour and day
            ("*/25 * * * *", "2026-01-31 09:59:00", "2026-01-31 09:50"),
            ("*/25 * * * *", "2026-01-31 10:00:00", "2026-01-31 10:00"),
            ("0 */7 * * *", "2026-01-31 23:59:00", "2026-01-31 21:00"),
            ("10-50/20 8-18/5 * * *", "2026-01-31 13:49:00", "2026-01-31 13:30"),
            ("0 0 */10 * *", "2026-02-05 00:00:00", "2026-02-01 00:00"),
            ("0 0 */10 * *", "2026-01-31 00:00:00", "2026-01-31 00:00"),
            ("0 0 1 JAN,jul *", "2026-06-30 23:59:59", "2026-01-01 00:00"),
            # the nights on which clocks change elsewhere are nights like others
            ("30 2 * * *", "2026-03-08 02:30:00", "2026-03-08 02:30"),
            ("30 1 * * *", "2026-10-25 01:30:00", "2026-10-25 01:30"),
            # the epoch
            ("* * * * *", "1970-01-01 00:00:00", "1970-01-01 00:00"),
        ],
    )
    def test_table(self, cron: str, now: str, slot: str) -> None:
        assert latest_slot(every(cron), at(now)) == at(slot)

    def test_none_before_the_epoch(self) -> None:
        assert latest_slot(every("0 9 * * *"), at("1970-01-01 08:59:59")) is None
        assert latest_slot(every("* * * * *"), -1) is None

    @given(crons(), MOMENTS)
    @example("0 0 29-31 * *", at("2026-03-28 23:59"))
    @settings(max_examples=150, deadline=None)
    def test_is_a_fire_time_with_none_after_it(self, cron: str, now_s: int) -> None:
        slot_s = latest_slot(every(cron), now_s)
        assert slot_s is not None
        assert slot_s <= now_s
        moment = datetime.fromtimestamp(slot_s, UTC)
        assert moment.second == 0
        assert fires(cron, moment)
        while (moment := moment + timedelta(minutes=1)).timestamp() <= now_s:
            assert not fires(cron, moment), moment

    @given(crons(), MOMENTS)
    @settings(deadline=None)
    def test_every_second_until_the_next_slot_gives_the_same(self, cron: str, now_s: int) -> None:
        strategy = every(cron)
        slot_s = latest_slot(strategy, now_s)
        assert slot_s is not None
        following_s = next_slot(strategy, slot_s)
        assert following_s is not None
        assert slot_s <= now_s < following_s
        assert latest_slot(strategy, following_s - 1) == slot_s == latest_slot(strategy, slot_s)
        assert latest_slot(strategy, following_s) == following_s

    def test_does_not_depend_on_local_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import time

        now_s = at("2026-03-29 12:00")
        with monkeypatch.context() as patch:
            for zone in ("XXX-11", "Europe/Berlin", "America/New_York"):
                patch.setenv("TZ", zone)
                time.tzset()
                assert latest_slot(every("30 2 * * *"), now_s) == at("2026-03-29 02:30")
        time.tzset()


class TestStartAndEnd:
    """Slots count from ``start`` on and before ``end``."""

    START, END = at("2026-02-01 09:00"), at("2026-02-04 09:00")

    @pytest.mark.parametrize(
        ("now", "slot"),
        [
            ("2026-02-01 08:59:59", None),
            ("2026-02-01 09:00:00", "2026-02-01 09:00"),
            ("2026-02-03 09:00:00", "2026-02-03 09:00"),
            ("2026-02-04 09:00:00", "2026-02-03 09:00"),
            ("2030-01-01 00:00:00", "2026-02-03 09:00"),
        ],
    )
    def test_latest(self, now: str, slot: str | None) -> None:
        strategy = every("0 9 * * *", start_s=self.START, end_s=self.END)
        assert latest_slot(strategy, at(now)) == (None if slot is None else at(slot))

    @pytest.mark.parametrize(
        ("after", "slot"),
        [
            ("1970-01-01 00:00:00", "2026-02-01 09:00"),
            ("2026-02-01 08:59:59", "2026-02-01 09:00"),
            ("2026-02-01 09:00:00", "2026-02-02 09:00"),
            ("2026-02-03 09:00:00", None),
        ],
    )
    def test_next(self, after: str, slot: str | None) -> None:
        strategy = every("0 9 * * *", start_s=self.START, end_s=self.END)
        assert next_slot(strategy, at(after)) == (None if slot is None else at(slot))


class TestMisfire:
    """Only the latest slot is fired, if it is still valid; the rest is reported."""

    def test_a_slot_is_valid_until_the_next_one_or_for_an_hour(self) -> None:
        assert valid_until(every("*/5 * * * *"), at("2026-01-01 00:05")) == at("2026-01-01 00:10")
        assert valid_until(every("0 9 * * *"), at("2026-01-01 09:00")) == at("2026-01-01 10:00")
        assert valid_until(every("0 9 * * *", max_lateness_s=7), at("2026-01-01 09:00")) == at(
            "2026-01-01 09:00:07"
        )
        assert DEFAULT_LATENESS_S == HOUR

    def test_the_last_slot_of_all_is_valid_as_long_as_the_others(self) -> None:
        strategy = every("*/5 * * * *", end_s=at("2026-01-01 00:10"))
        assert valid_until(strategy, at("2026-01-01 00:05")) == at("2026-01-01 00:10")

    @pytest.mark.parametrize(
        ("now", "slot"),
        [
            ("2026-01-02 08:59:59", None),
            ("2026-01-02 09:00:00", "2026-01-02 09:00"),
            ("2026-01-02 09:02:00", "2026-01-02 09:00"),
            ("2026-01-02 09:02:01", None),
        ],
    )
    def test_a_late_slot_is_not_fired(self, now: str, slot: str | None) -> None:
        assert due_slot(every("0 9 * * *", max_lateness_s=120), at(now)) == (
            None if slot is None else at(slot)
        )

    def test_a_new_strategy_does_not_fire_before_its_time(self) -> None:
        assert due_slot(every("0 9 * * *"), at("2026-01-02 08:57")) is None

    def test_a_disabled_one_is_not_fired(self) -> None:
        assert due_slot(every("* * * * *", enabled=False), at("2026-01-02 09:00")) is None


def outcome(
    strategy: ScheduledStrategy, cursor: str, now: str, paused: str = ""
) -> tuple[list[str], list[str]]:
    """The slots that are fired and those that are missed, as times of the day."""
    found = due(strategy, at(cursor), at(now), paused=paused)
    slots = [(datetime.fromtimestamp(slot.slot_s, UTC).strftime("%H:%M"), slot.missed) for slot in found]
    return [slot for slot, missed in slots if not missed], [slot for slot, missed in slots if missed]


class TestDue:
    """Each slot after the cursor is fired or missed, oldest first."""

    def test_nothing_when_nothing_passed(self) -> None:
        strategy = every("* * * * *")
        now_s = at("2026-01-01 12:00")
        assert due(strategy, now_s, now_s) == ()
        assert due(strategy, now_s + DAY, now_s) == ()  # a clock that went back

    @pytest.mark.parametrize("catch_up", ["none", "one", "all"])
    def test_a_slot_on_time_is_fired_whatever_catch_up_says(self, catch_up: str) -> None:
        strategy = every("0 9 * * *", catch_up=catch_up, max_lateness_s=60)
        late = f"2026-01-02 09:00:{ON_TIME_S}"
        assert outcome(strategy, "2026-01-02 08:57", late) == (["09:00"], [])

    @pytest.mark.parametrize(
        ("catch_up", "fired", "missed"),
        [
            ("none", [], ["09:00", "09:10", "09:20"]),
            ("one", ["09:20"], ["09:00", "09:10"]),
            ("all", ["09:00", "09:10", "09:20"], []),
        ],
    )
    def test_three_slots_passed_while_nothing_ran(
        self, catch_up: str, fired: list[str], missed: list[str]
    ) -> None:
        strategy = every("*/10 * * * *", catch_up=catch_up, max_lateness_s=DAY)
        assert outcome(strategy, "2026-01-02 08:50", "2026-01-02 09:25") == (fired, missed)

    def test_what_is_older_than_max_lateness_is_missed(self) -> None:
        strategy = every("* * * * *", catch_up="all", max_lateness_s=120)
        fired, missed = outcome(strategy, "2026-01-02 09:00", "2026-01-02 09:10:01")
        assert fired == ["09:09", "09:10"]
        assert missed == [f"09:0{minute}" for minute in range(1, 9)]

    def test_by_default_a_slot_is_made_up_for_until_the_next_or_for_an_hour(self) -> None:
        assert outcome(every("0 9 * * *"), "2026-01-01 09:00", "2026-01-02 10:00") == (["09:00"], [])
        assert outcome(every("0 9 * * *"), "2026-01-01 09:00", "2026-01-02 10:00:01") == ([], ["09:00"])

    def test_a_paused_one_misses_everything(self) -> None:
        strategy = every("* * * * *")
        (slot,) = due(strategy, at("2026-01-02 09:00"), at("2026-01-02 09:01"), paused="paused: x")
        assert slot.missed == "paused: x"

    def test_a_long_outage_is_listed_from_its_end(self) -> None:
        found = due(every("* * * * *"), 0, at("2026-01-02 09:00"))
        assert len(found) == MAX_MISSED + 1
        assert "and all before it" in found[0].missed
        assert found[-1].missed == ""

    def test_a_burst_is_bounded_and_the_rest_comes_next_time(self) -> None:
        strategy = every("* * * * *", catch_up="all", max_lateness_s=DAY)
        now_s = at("2026-01-02 09:00")
        first = due(strategy, now_s - 2 * HOUR, now_s)
        assert len(first) == MAX_BURST
        assert due(strategy, first[-1].slot_s, now_s)[0].slot_s == first[-1].slot_s + MINUTE

    @given(crons(), MOMENTS, st.integers(0, 12 * HOUR), st.sampled_from(["none", "one", "all"]))
    @settings(deadline=None, max_examples=60)
    def test_every_slot_is_dealt_with_once(self, cron: str, last_s: int, gap_s: int, catch_up: str) -> None:
        strategy = every(cron, catch_up=catch_up, max_lateness_s=DAY)
        now_s = last_s + gap_s
        expected: list[int] = []
        slot_s = next_slot(strategy, last_s)
        while slot_s is not None and slot_s <= now_s:
            expected.append(slot_s)
            slot_s = next_slot(strategy, slot_s)
        dealt: list[int] = []
        cursor_s = last_s
        while found := due(strategy, cursor_s, now_s):
            dealt += [slot.slot_s for slot in found]
            cursor_s = dealt[-1]
        assert dealt == expected


class TestJitter:
    """Later by up to so much, always the same for a slot, and never out of order."""

    def test_the_delay_is_a_function_of_the_slot(self) -> None:
        strategy = every("0 * * * *", jitter_s=600)
        delays = {fires_at(strategy, at("2026-01-01 00:00") + HOUR * n) % HOUR for n in range(48)}
        assert len(delays) > 20
        assert max(delays) <= 600

    def test_a_slot_waits_for_its_delay_and_holds_back_those_after_it(self) -> None:
        strategy = every("* * * * *", jitter_s=300, catch_up="all", max_lateness_s=DAY)
        start_s = at("2026-01-01 00:00")
        cursor_s = start_s
        fired: list[int] = []
        for now_s in range(start_s, start_s + 2 * HOUR, 7):
            for slot in due(strategy, cursor_s, now_s):
                assert fires_at(strategy, slot.slot_s) <= now_s
                fired.append(slot.slot_s)
                cursor_s = slot.slot_s
        assert fired == [start_s + MINUTE * n for n in range(1, len(fired) + 1)]
        assert len(fired) >= 114


class TestOtherTriggers:
    """Intervals and single instants."""

    def test_interval(self) -> None:
        interval = Interval(90, anchor_s=30)
        assert [interval.latest(s) for s in (29, 30, 119, 120)] == [-60, 30, 30, 120]
        assert [interval.next(s) for s in (29, 30, 119, 120)] == [30, 120, 120, 210]
        assert str(Interval(300)) == "every 5m"

    def test_an_interval_counts_from_the_start(self) -> None:
        start_s = at("2026-01-01 00:00:10")
        strategy = every("* * * * *", when=Interval(60, start_s), start_s=start_s)
        assert next_slot(strategy, 0) == start_s
        assert latest_slot(strategy, start_s - 1) is None

    def test_fixed_times(self) -> None:
        times = FixedTimes((10, 20))
        assert [times.latest(s) for s in (9, 10, 19, 25)] == [None, 10, 10, 20]
        assert [times.next(s) for s in (9, 10, 19, 20)] == [10, 20, 20, None]
