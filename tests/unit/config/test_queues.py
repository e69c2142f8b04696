"""A worker looks into the urgent queues first, and no other queue starves another."""

from __future__ import annotations

from config.celery import QUEUES, SIGN_QUEUES, URGENT, URGENT_SIGN, UrgentFirst, heartbeat_queue, queue_of


def test_urgent_first_and_the_others_in_turn() -> None:
    cycle = UrgentFirst(list(QUEUES))
    firsts: set[str] = set()
    seconds: set[str] = set()
    for _ in QUEUES:
        order = cycle.consume(len(QUEUES))
        assert set(order[:2]) == {URGENT, URGENT_SIGN}
        assert sorted(order) == sorted(QUEUES)
        firsts.add(order[0])
        seconds.add(order[2])
        cycle.rotate(order[0])
        cycle.rotate(order[2])
    assert firsts == {URGENT, URGENT_SIGN}
    assert seconds == set(QUEUES) - firsts


def test_a_signers_urgent_queue_goes_before_its_other() -> None:
    cycle = UrgentFirst(["sign", URGENT_SIGN])
    for _ in range(3):
        assert cycle.consume(2) == [URGENT_SIGN, "sign"]
        cycle.rotate(URGENT_SIGN)


def test_a_heartbeat_waits_for_no_backlog() -> None:
    own = heartbeat_queue("worker-1@host")
    assert own not in QUEUES
    cycle = UrgentFirst([*QUEUES, own])
    for _ in range(3):
        order = cycle.consume(len(QUEUES) + 1)
        assert order[0] == own
        assert set(order[1:3]) == {URGENT, URGENT_SIGN}
        cycle.rotate(own)


def test_messages_of_signing_are_in_no_other_queue() -> None:
    stages = ("prepare", "sign", "submit")
    for urgent in (True, False):
        queues = {stage: queue_of(stage, urgent=urgent) for stage in stages}
        assert set(queues.values()) <= set(QUEUES)
        assert [stage for stage in stages if queues[stage] in SIGN_QUEUES] == ["sign"]
