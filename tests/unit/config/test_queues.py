"""A worker looks into the urgent queue first, and no other queue starves another."""

from __future__ import annotations

from config.celery import QUEUES, URGENT, UrgentFirst


def test_urgent_first_and_the_others_in_turn() -> None:
    cycle = UrgentFirst(list(QUEUES))
    seconds: set[str] = set()
    for _ in QUEUES:
        order = cycle.consume(len(QUEUES))
        assert order[0] == URGENT
        assert sorted(order) == sorted(QUEUES)
        seconds.add(order[1])
        cycle.rotate(order[1])
    assert seconds == set(QUEUES) - {URGENT}
