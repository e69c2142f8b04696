"""Fire times: found from the clock alone, in UTC, each once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from celery.schedules import crontab
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.intents.amount import Amount, TokenInfo
from worker.strategies.cron import parse_cron
from worker.strategies.model import Strategy
from worker.strategies.schedule import (
    DEFAULT_NOT_AFTER_S,
    due_slot,
    latest_slot,
    missed_slots,
    next_slot,
    schedule_entries,
    valid_until,
)

USDC = TokenInfo("USDC", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913", 6, 8453)
MINUTE, HOUR, DAY = 60, 3_600, 86_400


def at(text: str) -> int:
    """Unix seconds of ``2026-01-31 09:00`` or ``2026-01-31 09:00:59`` in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def every(cron: str, **changes: object) -> Strategy:
    strategy = Strategy(
        "s", "recurring-transfer", "ses_0123456789abcdef", parse_cron(cron), "0x" + "11" * 20, Amount(1, USDC)
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
        assert valid_until(every("0 9 * * *", not_after_s=7), at("2026-01-01 09:00")) == at(
            "2026-01-01 09:00:07"
        )
        assert DEFAULT_NOT_AFTER_S == HOUR

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
        assert due_slot(every("0 9 * * *", not_after_s=120), at(now)) == (None if slot is None else at(slot))

    def test_a_new_strategy_does_not_fire_before_its_time(self) -> None:
        assert due_slot(every("0 9 * * *"), at("2026-01-02 08:57")) is None

    def test_a_disabled_one_neither_fires_nor_misses(self) -> None:
        strategy = every("* * * * *", enabled=False)
        assert due_slot(strategy, at("2026-01-02 09:00")) is None
        assert missed_slots(strategy, at("2026-01-01 09:00"), at("2026-01-02 09:00")) == ()

    def test_after_an_outage_the_latest_is_due_and_the_others_are_missed(self) -> None:
        strategy = every("0 */6 * * *")
        last_s, now_s = at("2026-01-01 00:00"), at("2026-01-02 00:10")
        assert due_slot(strategy, now_s) == at("2026-01-02 00:00")
        assert missed_slots(strategy, last_s, now_s) == tuple(
            at(f"2026-01-01 {hour}:00") for hour in ("06", "12", "18")
        )

    def test_once_it_is_late_the_latest_is_missed_too(self) -> None:
        strategy = every("0 */6 * * *")
        assert missed_slots(strategy, at("2026-01-01 12:00"), at("2026-01-02 01:01")) == (
            at("2026-01-01 18:00"),
            at("2026-01-02 00:00"),
        )

    def test_nothing_is_missed_when_nothing_passed(self) -> None:
        strategy = every("* * * * *")
        now_s = at("2026-01-01 12:00")
        assert missed_slots(strategy, now_s, now_s) == ()
        assert missed_slots(strategy, now_s - MINUTE, now_s) == ()
        assert missed_slots(strategy, now_s + DAY, now_s) == ()  # a clock that went back

    def test_a_long_outage_is_listed_from_its_end(self) -> None:
        strategy = every("* * * * *")
        now_s = at("2026-01-01 12:00")
        missed = missed_slots(strategy, 0, now_s, limit=3)
        assert missed == (now_s - 3 * MINUTE, now_s - 2 * MINUTE, now_s - MINUTE)

    @given(crons(), MOMENTS, st.integers(0, 3 * DAY))
    @settings(deadline=None, max_examples=60)
    def test_missed_and_due_are_all_slots_of_the_time(self, cron: str, last_s: int, gap_s: int) -> None:
        strategy = every(cron)
        now_s = last_s + gap_s
        expected: list[int] = []
        slot_s = next_slot(strategy, last_s)
        while slot_s is not None and slot_s <= now_s:
            expected.append(slot_s)
            slot_s = next_slot(strategy, slot_s)
        due_s = due_slot(strategy, now_s)
        missed = missed_slots(strategy, last_s, now_s, limit=10_000)
        assert sorted({*missed} | ({due_s} - {None} if due_s in expected else set())) == expected
        assert due_s not in missed


class TestScheduleEntries:
    """Celery's crontab wakes a strategy up at its fire times and at no others."""

    def test_only_the_enabled_ones(self) -> None:
        entries = schedule_entries(
            [
                every("0 9 * * MON"),
                every("* * * * *", enabled=False, name="off"),
                every("*/30 8,20 1-7 * *", name="b"),
            ]
        )
        assert [(entry.name, dict(entry.crontab)) for entry in entries] == [
            (
                "s",
                {"minute": "0", "hour": "9", "day_of_month": "*", "month_of_year": "*", "day_of_week": "1"},
            ),
            (
                "b",
                {
                    "minute": "0,30",
                    "hour": "8,20",
                    "day_of_month": "1,2,3,4,5,6,7",
                    "month_of_year": "*",
                    "day_of_week": "*",
                },
            ),
        ]

    @given(crons(), MOMENTS)
    @example("0 0 * * 0", at("2026-01-25 00:00"))
    @example("0 0 * * 7", at("2026-01-25 00:00"))
    @example("0 0 */2 * 5-7", at("2026-01-25 00:00"))
    @example("0 0 29 2 *", at("2024-02-29 00:00"))
    @settings(deadline=None)
    def test_celery_reads_the_same(self, cron: str, now_s: int) -> None:
        (entry,) = schedule_entries([every(cron)])
        schedule = crontab(**entry.crontab)
        slot_s = latest_slot(every(cron), now_s)
        assert slot_s is not None
        for moment_s in (slot_s, now_s - now_s % MINUTE, now_s - now_s % DAY):
            moment = datetime.fromtimestamp(moment_s, UTC)
            celery_fires = (
                moment.minute in schedule.minute
                and moment.hour in schedule.hour
                and moment.day in schedule.day_of_month
                and moment.month in schedule.month_of_year
                and moment.isoweekday() % 7 in schedule.day_of_week
            )
            assert celery_fires is (latest_slot(every(cron), moment_s) == moment_s)
