"""When: a cron expression in a time zone, a fixed interval, or single instants. Pure functions of the clock.

Every kind answers two questions in unix seconds, ``latest`` and ``next``; whoever asks twice gets the same answer.

What happens when clocks change is what Debian's cron does, and what people mean:

- An expression whose minute or hour begins with ``*`` means *again and again*: it follows real time. In the hour that
  comes twice it fires in both, in the hour that is skipped there is nothing to fire, and no hour of real time is blind.
- Any other expression names times of the day: each counts once per local date. A time that comes twice fires at the
  first; a time that is skipped fires at the instant at which the clock jumps (02:30 fires at 03:00).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property, lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from worker.strategies.cron import Cron

#: No expression is silent for longer: a 29 February comes up within 8 years, on a given weekday within 28 (40 around 2100).
_MAX_DAYS = 366 * 50
_DAY = timedelta(days=1)


class Schedule(Protocol):
    """A set of instants, each a whole second."""

    def latest(self, at_s: int) -> int | None:
        """The latest one at or before ``at_s`` (unix seconds), None if there is none."""
        ...

    def next(self, after_s: int) -> int | None:
        """The first one after ``after_s`` (unix seconds), None if there is none."""
        ...


@dataclass(frozen=True)
class ZonedCron:
    """A cron expression read on a clock of ``zone`` (a name of the IANA database, such as ``Europe/Berlin``)."""

    cron: Cron
    zone: str

    def __str__(self) -> str:
        return f"{self.cron} {self.zone}"

    @cached_property
    def _clock(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    def latest(self, at_s: int) -> int | None:
        """See ``Schedule``."""
        day = datetime.fromtimestamp(at_s, self._clock).date()
        for _ in range(_MAX_DAYS):
            fires = _fires(self.cron, self.zone, day)
            index = bisect_right(fires, at_s)
            if index:
                return fires[index - 1]
            if day == date.min:
                break
            day -= _DAY
        return None

    def next(self, after_s: int) -> int | None:
        """See ``Schedule``."""
        day = datetime.fromtimestamp(after_s, self._clock).date()
        # a fire that the clock's jump moves may belong to the date before
        day -= _DAY
        for _ in range(_MAX_DAYS):
            fires = _fires(self.cron, self.zone, day)
            index = bisect_right(fires, after_s)
            if index < len(fires):
                return fires[index]
            day += _DAY
        return None


@dataclass(frozen=True, slots=True)
class Interval:
    """Every ``every_s`` seconds, counted from ``anchor_s`` (unix seconds); an interval knows no clocks that change."""

    every_s: int
    anchor_s: int = 0

    def __str__(self) -> str:
        for unit_s, name in ((86_400, "d"), (3_600, "h"), (60, "m")):
            if self.every_s % unit_s == 0:
                return f"every {self.every_s // unit_s}{name}"
        return f"every {self.every_s}s"

    def latest(self, at_s: int) -> int | None:
        """See ``Schedule``."""
        return at_s - (at_s - self.anchor_s) % self.every_s

    def next(self, after_s: int) -> int | None:
        """See ``Schedule``."""
        return after_s - (after_s - self.anchor_s) % self.every_s + self.every_s


@dataclass(frozen=True, slots=True)
class FixedTimes:
    """Single instants, unix seconds, ascending."""

    times: tuple[int, ...]

    def __str__(self) -> str:
        first = datetime.fromtimestamp(self.times[0], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"at {first}" + (f" and {len(self.times) - 1} more" if len(self.times) > 1 else "")

    def latest(self, at_s: int) -> int | None:
        """See ``Schedule``."""
        index = bisect_right(self.times, at_s)
        return self.times[index - 1] if index else None

    def next(self, after_s: int) -> int | None:
        """See ``Schedule``."""
        index = bisect_right(self.times, after_s)
        return self.times[index] if index < len(self.times) else None


@lru_cache(maxsize=4096)
def _fires(cron: Cron, zone: str, day: date) -> tuple[int, ...]:
    """The instants that belong to one local date, ascending, unix seconds."""
    if not (
        day.day in _numbers(cron.day_of_month, 1, 31)
        and day.month in _numbers(cron.month_of_year, 1, 12)
        and day.isoweekday() % 7 in _numbers(cron.day_of_week, 0, 6)
    ):
        return ()
    clock = ZoneInfo(zone)
    minute, hour = cron.text.split()[:2]
    real_time = minute.startswith("*") or hour.startswith("*")
    found: set[int] = set()
    for at_hour in _numbers(cron.hour, 0, 23):
        for at_minute in _numbers(cron.minute, 0, 59):
            wall = datetime.combine(day, time(at_hour, at_minute), clock)
            first = _instant(wall, fold=0)
            if first is not None:
                found.add(first)
            elif not real_time:
                found.add(_after_gap(wall))
            if real_time:
                second = _instant(wall, fold=1)
                if second is not None:
                    found.add(second)
    return tuple(sorted(found))


def _instant(wall: datetime, *, fold: int) -> int | None:
    """Unix seconds at which clocks show ``wall``, the first or second time; None if they never do."""
    moment = wall.replace(fold=fold).astimezone(UTC)
    shown = moment.astimezone(wall.tzinfo)
    return int(moment.timestamp()) if shown.replace(tzinfo=None) == wall.replace(tzinfo=None) else None


def _after_gap(wall: datetime) -> int:
    """The first instant after the jump that skips ``wall``."""
    # read with the offset before the jump, a skipped time lies after it; with the one after it, before it
    after_s = int(wall.replace(fold=0).astimezone(UTC).timestamp())
    before_s = int(wall.replace(fold=1).astimezone(UTC).timestamp())

    def offset_at(moment_s: int) -> timedelta | None:
        return datetime.fromtimestamp(moment_s, wall.tzinfo).utcoffset()

    new = offset_at(after_s)
    return before_s + bisect_left(
        range(before_s, after_s + 1), True, key=lambda moment: offset_at(moment) == new
    )


@lru_cache(maxsize=1024)
def _numbers(field: str, low: int, high: int) -> tuple[int, ...]:
    return tuple(range(low, high + 1)) if field == "*" else tuple(map(int, field.split(",")))
