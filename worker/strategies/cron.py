"""Cron expressions of five fields, in UTC: the part of the language on which every cron agrees.

Dialects differ where the day of the month and the day of the week are both restricted (Vixie cron takes either,
Celery takes both), in ``L``, ``W``, ``#`` and ``?``, in a step without a range, and in nicknames such as ``@daily``.
A payment must not depend on whose cron reads it, so all of that is refused, with the fix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

#: Field names and ranges as crontab(5) has them; 7 is Sunday too.
_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 7),
)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_VALUE = r"[0-9]{1,2}|[A-Z]{3}"
_TERM = re.compile(
    rf"(?:(?P<star>\*)|(?P<first>{_VALUE})(?:-(?P<last>{_VALUE}))?)(?:/(?P<step>[0-9]{{1,2}}))?"
)
_MAX_TEXT = 200
#: Where the search for a first fire starts when an expression is checked; the search gives up after 50 years, and
#: every date that exists on some weekday comes up within 28.
_CHECK_FROM = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cron:
    """A checked expression.

    Attributes:
        text: as written, blanks tidied, names in upper case.
        minute, hour, day_of_month, month_of_year, day_of_week: the same as lists of numbers, or ``*``; Sunday is 0.
            An instant fires if all five match.
    """

    text: str
    minute: str
    hour: str
    day_of_month: str
    month_of_year: str
    day_of_week: str

    def __str__(self) -> str:
        return self.text

    def latest(self, at_s: int) -> int | None:
        """The latest fire time at or before ``at_s`` (unix seconds), None if there was none for 50 years."""
        found = next(CronSim(self.text, datetime.fromtimestamp(at_s + 1, UTC), reverse=True), None)
        return None if found is None else int(found.timestamp())

    def next(self, after_s: int) -> int | None:
        """The first fire time after ``after_s`` (unix seconds), None if there is none for 50 years."""
        found = next(CronSim(self.text, datetime.fromtimestamp(after_s, UTC)), None)
        return None if found is None else int(found.timestamp())


def parse_cron(text: str) -> Cron:
    """Check an expression.

    Raises:
        ValueError: with what is wrong and, after a line break, what to write instead.
    """
    if len(text) > _MAX_TEXT or not re.fullmatch(r"[ \t!-~]*", text):
        raise ValueError("is no cron expression\nwrite five fields of plain ASCII, e.g. 0 9 * * 1")
    fields = text.upper().split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"has {len(fields)} fields, not 5\n"
            "write minute, hour, day of month, month, day of week, e.g. 0 9 * * 1 for Mondays at 09:00 UTC"
        )
    for written, (name, low, high) in zip(fields, _FIELDS, strict=True):
        _check_field(written, name, low, high)
    if not fields[2].startswith("*") and not fields[4].startswith("*"):
        raise ValueError(
            "restricts both the day of the month and the day of the week, which crons read differently\n"
            "put * into one of them, or write two strategies"
        )
    tidy = " ".join(fields)
    never = ValueError("never fires\nname a date that exists")
    try:
        parsed = CronSim(tidy, _CHECK_FROM)
        first = next(CronSim(tidy, _CHECK_FROM), None)
    except CronSimError:
        raise never from None
    if first is None:
        raise never
    weekdays = {day % 7 for day in parsed.weekdays if isinstance(day, int)}
    return Cron(
        tidy,
        _list(parsed.minutes, 60),
        _list(parsed.hours, 24),
        _list(parsed.days, 31),
        _list(parsed.months, 12),
        _list(weekdays, 7),
    )


def _check_field(written: str, name: str, low: int, high: int) -> None:
    for term in written.split(","):
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(
                f"{term!r} is no {name}\nuse numbers, * , ranges 1-5, lists 1,3 and steps */15 or 8-18/2"
            )
        if match["star"]:
            first, last = low, high
        else:
            first = _number(match["first"], name, low, high)
            last = _number(match["last"], name, low, high) if match["last"] else first
            if last < first:
                raise ValueError(f"the {name} range {term} runs backwards\nsplit it in two: a-max,min-b")
        step = match["step"]
        if step is None:
            continue
        if not match["star"] and match["last"] is None:
            raise ValueError(
                f"the {name} {term} has a step without a range\nwrite e.g. {first}-{high}/{int(step)}"
            )
        if not 1 <= int(step) <= last - first:
            raise ValueError(
                f"the {name} step {term} does not fit between {first} and {last}\n"
                "steps count within their field and start anew with it; use a smaller one"
            )


def _number(word: str, name: str, low: int, high: int) -> int:
    names = {"month": _MONTHS, "day of week": _DAYS}.get(name, ())
    if word in names:
        return names.index(word) + (1 if name == "month" else 0)
    if not word.isdigit() or not low <= int(word) <= high:
        raise ValueError(f"{word} is no {name}\nuse {low} to {high}")
    return int(word)


def _list(values: set[int], size: int) -> str:
    return "*" if len(values) == size else ",".join(map(str, sorted(values)))
