"""The nights on which clocks change, by a fake clock: no blind hour, and a daily time once per local date."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.intents.amount import Amount, TokenInfo
from worker.strategies.cron import parse_cron
from worker.strategies.model import ScheduledStrategy
from worker.strategies.schedule import due
from worker.strategies.timing import ZonedCron
from worker.strategies.transfer import Transfer

USDC = TokenInfo("USDC", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913", 6, 8453)
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
#: zone, date of the change, hours that the date has
NIGHTS = [
    (BERLIN, date(2026, 10, 25), 25),
    (NEW_YORK, date(2026, 11, 1), 25),
    (NEW_YORK, date(2027, 3, 14), 23),
    (BERLIN, date(2027, 3, 28), 23),
]
ZONES = ("UTC", BERLIN, NEW_YORK, "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo", "Asia/Kathmandu")


def strategy(cron: str, zone: str) -> ScheduledStrategy:
    return ScheduledStrategy(
        "s",
        "recurring-transfer",
        "ses_0123456789abcdef",
        Transfer("0x" + "11" * 20, Amount(1, USDC)),
        ZonedCron(parse_cron(cron), zone),
    )


def midnight(zone: str, day: date) -> int:
    return int(datetime.combine(day, time(), ZoneInfo(zone)).timestamp())


def fired(cron: str, zone: str, day: date, *, days: int = 3, step_s: int = 30) -> list[int]:
    """What a scheduler fires that looks at the clock every ``step_s`` from the day before the change on."""
    now_s = midnight(zone, day - timedelta(days=1))
    cursor_s, end_s = now_s - 1, midnight(zone, day + timedelta(days=days - 1))
    found: list[int] = []
    while now_s < end_s:
        for slot in due(
            replace(strategy(cron, zone), catch_up="none" if step_s <= 30 else "one"), cursor_s, now_s
        ):
            assert slot.missed == ""
            assert now_s - slot.slot_s <= step_s
            found.append(slot.slot_s)
            cursor_s = slot.slot_s
        now_s += step_s
    return found


@pytest.mark.parametrize(("zone", "day", "hours"), NIGHTS)
class TestNights:
    """The two kinds of night, in two zones."""

    def test_every_minute_of_real_time(self, zone: str, day: date, hours: int) -> None:
        found = fired("* * * * *", zone, day)
        assert len(found) == (24 + hours + 24) * 60
        assert {after - before for before, after in pairwise(found)} == {60}

    def test_every_hour_of_real_time(self, zone: str, day: date, hours: int) -> None:
        found = fired("0 * * * *", zone, day, step_s=300)
        assert len(found) == 24 + hours + 24
        assert {after - before for before, after in pairwise(found)} == {3_600}

    @pytest.mark.parametrize(
        "cron", ["30 1 * * *", "30 2 * * *", "0 0 * * *", "45 23 * * *", "0,30 1,2 * * *"]
    )
    def test_a_time_of_the_day_once_per_local_date(self, zone: str, day: date, hours: int, cron: str) -> None:
        found = fired(cron, zone, day, step_s=300)
        per_date = Counter(datetime.fromtimestamp(slot, ZoneInfo(zone)).date() for slot in found)
        times = 4 if "," in cron else 1
        expected = dict.fromkeys((day + timedelta(days=n) for n in (-1, 0, 1)), times)
        if times > 1 and hours == 23:
            # both skipped times fall on the instant of the jump (with 03:00 not among them)
            expected[day] = 3
        assert per_date == expected


@pytest.mark.parametrize(
    ("zone", "cron", "day", "fires"),
    [
        # the repeated hour: at the first
        (NEW_YORK, "30 1 * * *", date(2026, 11, 1), "2026-11-01T05:30:00+00:00"),
        (BERLIN, "30 2 * * *", date(2026, 10, 25), "2026-10-25T00:30:00+00:00"),
        # outside of it
        (NEW_YORK, "30 2 * * *", date(2026, 11, 1), "2026-11-01T07:30:00+00:00"),
        (BERLIN, "30 1 * * *", date(2026, 10, 25), "2026-10-24T23:30:00+00:00"),
        # the skipped hour: when the clock jumps
        (NEW_YORK, "30 2 * * *", date(2027, 3, 14), "2027-03-14T07:00:00+00:00"),
        (NEW_YORK, "30 1 * * *", date(2027, 3, 14), "2027-03-14T06:30:00+00:00"),
    ],
)
def test_the_instant(zone: str, cron: str, day: date, fires: str) -> None:
    schedule = ZonedCron(parse_cron(cron), zone)
    slot_s = schedule.next(midnight(zone, day))
    assert slot_s is not None
    assert datetime.fromtimestamp(slot_s, UTC).isoformat() == fires


@given(
    st.sampled_from(ZONES),
    st.sampled_from(
        ["* * * * *", "*/7 * * * *", "30 1 * * *", "30 2 * * *", "0 0 * * MON", "15 3 1 * *", "0 */6 * * *"]
    ),
    st.integers(1_700_000_000, 1_900_000_000),
)
@settings(max_examples=200)
def test_next_and_latest_agree(zone: str, cron: str, at_s: int) -> None:
    schedule = ZonedCron(parse_cron(cron), zone)
    latest_s, next_s = schedule.latest(at_s), schedule.next(at_s)
    assert latest_s is not None
    assert next_s is not None
    assert latest_s <= at_s < next_s
    assert schedule.next(latest_s) == next_s
    assert schedule.latest(next_s) == next_s
    assert schedule.latest(next_s - 1) == latest_s


@given(
    st.sampled_from(["* * * * *", "*/7 8-18 * * *", "30 1 29 2 *", "0 0 * * 7"]),
    st.integers(0, 2_000_000_000),
)
def test_in_utc_it_is_the_same_as_without_a_zone(cron: str, at_s: int) -> None:
    plain, zoned = parse_cron(cron), ZonedCron(parse_cron(cron), "UTC")
    assert (zoned.latest(at_s), zoned.next(at_s)) == (plain.latest(at_s), plain.next(at_s))
