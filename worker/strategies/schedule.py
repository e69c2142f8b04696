"""What is due: pure functions of the clock and of the last slot that was dealt with.

A fire time is called a slot: unix seconds, UTC. Whatever woke us (beat, a late message, an operator) and however
often, what is due is found from the clock and from the strategy's cursor, the last slot that was dealt with. A slot is
either fired or, with the reason, missed; none is passed over in silence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from worker.strategies.model import ScheduledStrategy

#: Without ``max_lateness_s`` a slot stays valid until the next one, and no longer than this: a payment that is an hour
#: late is better looked at by a person.
DEFAULT_LATENESS_S = 3600
#: A slot that is not later than this is on time, whatever ``catch_up`` says: twice what a new leader of the schedulers
#: needs to take over, so that a crash costs no slot. For short periods it is half of the period.
ON_TIME_S = 30
#: How many slots are listed one by one; of a longer outage the older ones are listed as one entry.
MAX_MISSED = 1000
#: How many slots one call makes up for; the next one goes on.
MAX_BURST = 50


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that is dealt with now: fired, or missed because of ``missed``."""

    slot_s: int
    missed: str = ""


def latest_slot(strategy: ScheduledStrategy, now_s: int) -> int | None:
    """The latest slot at or before ``now_s`` (unix seconds) and within ``start`` and ``end``, valid or not."""
    top_s = now_s if strategy.end_s is None else min(now_s, strategy.end_s - 1)
    floor_s = max(strategy.start_s or 0, 0)
    if strategy.when is None or top_s < floor_s:
        return None
    slot_s = strategy.when.latest(top_s)
    return slot_s if slot_s is not None and slot_s >= floor_s else None


def next_slot(strategy: ScheduledStrategy, after_s: int) -> int | None:
    """The first slot after ``after_s`` (unix seconds) and within ``start`` and ``end``."""
    if strategy.when is None:
        return None
    from_s = after_s if strategy.start_s is None else max(after_s, strategy.start_s - 1)
    slot_s = strategy.when.next(max(from_s, -1))
    if slot_s is None or (strategy.end_s is not None and slot_s >= strategy.end_s):
        return None
    return slot_s


def fires_at(strategy: ScheduledStrategy, slot_s: int) -> int:
    """Unix seconds at which the slot is fired: itself and its jitter, which is a hash and so always the same."""
    if not strategy.jitter_s:
        return slot_s
    digest = hashlib.sha256(f"{strategy.name}\n{slot_s}".encode()).digest()
    return slot_s + int.from_bytes(digest[:8]) % (strategy.jitter_s + 1)


def valid_until(strategy: ScheduledStrategy, slot_s: int) -> int:
    """Unix seconds up to which (inclusive) the slot's intent may be signed; the same whenever it is asked."""
    fires_s = fires_at(strategy, slot_s)
    if strategy.max_lateness_s is not None:
        return fires_s + strategy.max_lateness_s
    following_s = None if strategy.when is None else strategy.when.next(slot_s)
    latest_s = fires_s + DEFAULT_LATENESS_S
    return latest_s if following_s is None else min(max(following_s, fires_s), latest_s)


def due_slot(strategy: ScheduledStrategy, now_s: int) -> int | None:
    """The latest slot, unless it is no longer valid or the strategy is disabled: what an operator's hand fires."""
    if not strategy.enabled:
        return None
    slot_s = latest_slot(strategy, now_s)
    while slot_s is not None and fires_at(strategy, slot_s) > now_s:
        slot_s = latest_slot(strategy, slot_s - 1)
    return slot_s if slot_s is not None and now_s <= valid_until(strategy, slot_s) else None


def due(strategy: ScheduledStrategy, cursor_s: int, now_s: int, *, paused: str = "") -> tuple[Slot, ...]:
    """What to do about the slots after ``cursor_s`` that have come, oldest first.

    Args:
        strategy: an enabled one.
        cursor_s: the last slot that was dealt with, unix seconds.
        now_s: unix seconds.
        paused: why nothing may be fired; every slot is missed for this reason.

    Returns:
        Slots to fire and slots that are missed. At most ``MAX_BURST`` are to be fired; ask again for the rest.
    """
    slots, older = _passed(strategy, cursor_s, now_s)
    found: list[Slot] = []
    if older is not None:
        found.append(Slot(older, f"and all before it since {cursor_s}: too many to list"))
    fired = 0
    for slot_s in slots:
        missed = paused or _too_late(strategy, slot_s, now_s, newest=slot_s == slots[-1])
        if not missed:
            fired += 1
            if fired > MAX_BURST:
                break
        found.append(Slot(slot_s, missed))
    return tuple(found)


def _passed(strategy: ScheduledStrategy, cursor_s: int, now_s: int) -> tuple[list[int], int | None]:
    """The slots after the cursor whose time has come, oldest first; and the newest of those too many to list."""
    found: list[int] = []
    slot_s = latest_slot(strategy, now_s)
    while slot_s is not None and slot_s > cursor_s:
        if len(found) == MAX_MISSED:
            return found[::-1], slot_s
        found.append(slot_s)
        slot_s = latest_slot(strategy, slot_s - 1)
    slots = found[::-1]
    if strategy.jitter_s:
        # they are dealt with in order: one that still waits holds back those after it
        ripe = next((i for i, item in enumerate(slots) if fires_at(strategy, item) > now_s), len(slots))
        slots = slots[:ripe]
    return slots, None


def _too_late(strategy: ScheduledStrategy, slot_s: int, now_s: int, *, newest: bool) -> str:
    """Why a slot is not fired any more, ``""`` if it is."""
    late_s = now_s - fires_at(strategy, slot_s)
    if now_s > valid_until(strategy, slot_s):
        return f"{late_s} s late, allowed are {valid_until(strategy, slot_s) - fires_at(strategy, slot_s)} s"
    if late_s <= _on_time_s(strategy, slot_s) or strategy.catch_up == "all":
        return ""
    if strategy.catch_up == "one" and newest:
        return ""
    return f"{late_s} s late, and catch_up is {strategy.catch_up}"


def _on_time_s(strategy: ScheduledStrategy, slot_s: int) -> int:
    following_s = None if strategy.when is None else strategy.when.next(slot_s)
    return ON_TIME_S if following_s is None else min(ON_TIME_S, max(1, (following_s - slot_s) // 2))
