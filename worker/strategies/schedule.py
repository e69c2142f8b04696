"""When a strategy fires: pure functions of the clock.

A fire time is called a slot: unix seconds, a whole minute in UTC. Whatever woke us (beat, a late message, an operator)
and however often, the slot is found from the clock, and the ledger gives each slot out once. After an outage only the
latest slot is fired, if it is still valid; the others are skipped and reported, so that nobody's recurring payment of
a day becomes five at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from worker.strategies.model import Strategy

#: Without ``not_after_s`` a slot stays valid until the next one, and no longer than this: a payment that is an hour
#: late is better looked at by a person.
DEFAULT_NOT_AFTER_S = 3600
#: How many missed slots are listed one by one.
MAX_MISSED = 1000


@dataclass(frozen=True, slots=True)
class ScheduleEntry:
    """What a scheduler needs to wake a strategy up: its name, and the fields of Celery's ``crontab`` (UTC)."""

    name: str
    crontab: Mapping[str, str]


def schedule_entries(strategies: Iterable[Strategy]) -> tuple[ScheduleEntry, ...]:
    """One entry for each enabled strategy. Waking up outside ``start`` and ``end`` does no harm: there is no slot."""
    return tuple(
        ScheduleEntry(
            strategy.name,
            MappingProxyType(
                {
                    "minute": strategy.cron.minute,
                    "hour": strategy.cron.hour,
                    "day_of_month": strategy.cron.day_of_month,
                    "month_of_year": strategy.cron.month_of_year,
                    "day_of_week": strategy.cron.day_of_week,
                }
            ),
        )
        for strategy in strategies
        if strategy.enabled
    )


def latest_slot(strategy: Strategy, now_s: int) -> int | None:
    """The latest slot at or before ``now_s`` (unix seconds) and within ``start`` and ``end``, valid or not."""
    top_s = now_s if strategy.end_s is None else min(now_s, strategy.end_s - 1)
    floor_s = max(strategy.start_s or 0, 0)
    if top_s < floor_s:
        return None
    slot_s = strategy.cron.latest(top_s)
    return slot_s if slot_s is not None and slot_s >= floor_s else None


def next_slot(strategy: Strategy, after_s: int) -> int | None:
    """The first slot after ``after_s`` (unix seconds) and within ``start`` and ``end``."""
    from_s = after_s if strategy.start_s is None else max(after_s, strategy.start_s - 1)
    slot_s = strategy.cron.next(max(from_s, -1))
    if slot_s is None or (strategy.end_s is not None and slot_s >= strategy.end_s):
        return None
    return slot_s


def valid_until(strategy: Strategy, slot_s: int) -> int:
    """Unix seconds up to which (inclusive) the slot's intent may be signed; the same whenever it is asked."""
    if strategy.not_after_s is not None:
        return slot_s + strategy.not_after_s
    following_s = strategy.cron.next(slot_s)
    latest_s = slot_s + DEFAULT_NOT_AFTER_S
    return latest_s if following_s is None else min(following_s, latest_s)


def due_slot(strategy: Strategy, now_s: int) -> int | None:
    """The slot to fire now: the latest one, unless it is no longer valid or the strategy is disabled.

    It stays due until then, also once it is fired: the ledger's ``claim_slot`` says who is first.
    """
    if not strategy.enabled:
        return None
    slot_s = latest_slot(strategy, now_s)
    return slot_s if slot_s is not None and now_s <= valid_until(strategy, slot_s) else None


def missed_slots(strategy: Strategy, last_s: int, now_s: int, *, limit: int = MAX_MISSED) -> tuple[int, ...]:
    """The slots after ``last_s`` and up to ``now_s`` that are not fired any more, to be reported as skipped.

    Args:
        strategy: a disabled one misses nothing.
        last_s: the slot that was fired or reported last, unix seconds.
        now_s: unix seconds.
        limit: at most so many, the newest; a result of this length may be incomplete.

    Returns:
        Oldest first, without the one that is due now.
    """
    if not strategy.enabled:
        return ()
    found: list[int] = []
    due_s = due_slot(strategy, now_s)
    slot_s = latest_slot(strategy, now_s)
    while slot_s is not None and slot_s > last_s and len(found) < limit:
        if slot_s != due_s:
            found.append(slot_s)
        slot_s = latest_slot(strategy, slot_s - 1)
    return tuple(reversed(found))
