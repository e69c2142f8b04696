"""A handful of the matrix that ``make chaos`` runs whole: SIGKILL and failing services at the worst moments."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.driver import CLEAN, FAULTS, Chaos
from tests.chaos.points import POINTS

pytestmark = pytest.mark.services

PAIRS = {
    "tree": ("after_signed_stored", "during_post", "settling"),
    "child": ("before_claim", "after_quote", "after_key_fetch", "settled"),
    "redis_restarted": ("after_reserve", "after_accept"),
    "connections_killed": ("polling", "during_post"),
    "reply_lost": ("during_post",),
    "502_page": ("after_signed_stored",),
    "503_storm": ("after_quote",),
    "429_date": ("polling",),
}


def test_nothing_is_executed_twice_lost_or_overspent(make_chaos: Callable[..., Chaos]) -> None:
    assert set(PAIRS) <= set(FAULTS)
    assert {point for points in PAIRS.values() for point in points} == set(POINTS)
    chaos = make_chaos(beat=True, storm_s=4.0)
    for fault, points in PAIRS.items():
        chaos.batch(fault, points)
        counts = chaos.counts()
        assert str(counts) == CLEAN, (fault, counts.notes, chaos.said)
    assert not [line for line in chaos.said if "not reached" in line]


def test_an_intent_that_kills_its_workers_is_set_aside_and_the_others_go_on(
    make_chaos: Callable[..., Chaos],
) -> None:
    chaos = make_chaos(settings={"claim_lease_ms": "1500", "max_worker_deaths": "3"})
    killer = chaos.submit(
        ("after_key_fetch", "child"),
        ("after_key_fetch", "tree"),
        ("after_key_fetch", "child"),
        ("after_key_fetch", "child"),
        ends_otherwise=True,
    )
    others = [chaos.submit() for _ in range(4)]
    assert chaos.settle([killer, *others])
    record = chaos.runtime.ledger.get(killer)
    assert (record.state, record.attention) == ("DEAD", "QUARANTINED")
    assert chaos.fired(killer) == 3
    counts = chaos.counts()
    assert str(counts) == CLEAN, counts.notes


def test_an_intent_beside_one_that_kills_whole_workers_is_not_set_aside_for_it(
    make_chaos: Callable[..., Chaos],
) -> None:
    chaos = make_chaos(
        workers=1, concurrency=3, settings={"claim_lease_ms": "1500", "max_worker_deaths": "3"}
    )
    # it is slow: whenever it is tried it stays under way for seconds, so that a killer would meet it there each time
    slow = chaos.submit(*[("after_quote", "tell")] * 4)
    seen: dict[Path, float] = {}

    def keep(place: Path) -> None:
        if time.monotonic() - seen.setdefault(place, time.monotonic()) > 4:
            chaos.go(place)

    assert chaos.settle([slow], keep, done=lambda _: bool(seen))
    killer = chaos.submit(*[("after_key_fetch", "tree")] * 4, ends_otherwise=True)
    assert chaos.settle([slow, killer], keep)
    records = {name: chaos.runtime.ledger.get(name) for name in (slow, killer)}
    assert (records[killer].state, records[killer].attention) == ("DEAD", "QUARANTINED")
    assert (records[slow].state, records[slow].attention) == ("COMPLETED", ""), records[slow].history
    assert chaos.fired(killer) == 3
    # the first time it met the killer, since nobody knew yet
    assert chaos.fired(slow) >= 2
    counts = chaos.counts()
    assert str(counts) == CLEAN, counts.notes


def test_redis_that_restarts_again_and_again_does_not_end_a_worker(make_chaos: Callable[..., Chaos]) -> None:
    """Kombu 5.7 ends it when Redis goes away while a connection is being closed."""
    chaos = make_chaos(workers=1)
    worker = chaos.stack.workers[0]
    ids: list[str] = []
    for _ in range(8):
        ids += [chaos.submit(), chaos.submit()]
        chaos.settle(ids, timeout_s=0.5)
        chaos.server.kill()
        time.sleep(0.1)
        chaos.server.start()
    assert chaos.settle(ids)
    counts = chaos.counts()
    assert str(counts) == CLEAN, counts.notes
    assert worker.running(), worker.log()[-3_000:]
    assert chaos.said == []
