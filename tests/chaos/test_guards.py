"""Each guard is needed: with it the scenario is clean, without it the reckoning finds what was broken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.driver import CLEAN, Chaos
from tests.chaos.mutations import MUTATIONS
from worker.intents.states import State

pytestmark = pytest.mark.services
POST: dict[str, Any] = {"method": "POST", "path": "/intent-operations"}


@dataclass(frozen=True)
class Scenario:
    """What happens, on what stack, and which counts the missing guard spoils.

    Attributes:
        play: strikes at a stack until everything that will end has ended.
        breaks: the counts of which at least one is not zero without the guard.
        options: of the ``Chaos``.
    """

    play: Callable[[Chaos], None]
    breaks: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict[str, Any])


def _killed_after_accept_and_found_after_the_quotes_life(chaos: Chaos) -> None:
    chaos.settle([chaos.submit(("after_accept", "child"))])


def _slept_over_a_new_quote(chaos: Chaos) -> None:
    """The first attempt wakes up with a signature of the old quote when a new quote is about to be signed."""
    intent_id = chaos.submit(("after_key_fetch", "tell"), ("after_key_fetch", "tell"))
    first, second = _wait_for_places(chaos, 2)
    chaos.devnet.add_fault("drop_after_accept", **POST)
    chaos.go(first)
    time.sleep(1.5)  # it writes, or is refused to
    chaos.go(second)
    chaos.settle([intent_id])


def _two_that_do_not_fit_together(chaos: Chaos) -> None:
    chaos.devnet.add_fault("override_status", path="/intent-operation/", word="PENDING", times=0)
    first = chaos.submit(amount=2_500_000)
    chaos.settle([first], done=lambda record: record.state is State.SUBMITTED)
    second = chaos.submit(amount=2_500_001, ends_otherwise=True)
    chaos.settle([second], timeout_s=15)
    chaos.hold_posts()
    chaos.settle([first])


def _accepted_hidden_and_its_sender_killed(chaos: Chaos) -> None:
    chaos.devnet.add_fault("hide", delay_ms=5_000, **POST)
    chaos.settle([chaos.submit(("after_accept", "child"))])


def _accepted_and_the_reply_lost(chaos: Chaos) -> None:
    chaos.devnet.add_fault("drop_after_accept", **POST)
    chaos.settle([chaos.submit()])


def _killed_after_the_quote(chaos: Chaos) -> None:
    # with its whole worker, or Celery would hand the message out again
    chaos.settle([chaos.submit(("after_quote", "tree"))], timeout_s=15)


def _nothing_special(chaos: Chaos) -> None:
    chaos.settle([chaos.submit()])


def _kills_every_worker(chaos: Chaos) -> None:
    armed = [("after_key_fetch", "child")] * 12
    killer = chaos.submit(*armed, ends_otherwise=True)
    chaos.settle([killer], timeout_s=15)
    if chaos.fired(killer) > 3:
        chaos.said.append("killed again")


def _wait_for_places(chaos: Chaos, number: int) -> list[Path]:
    """The places at which processes wait, in the order in which they came."""
    deadline = time.monotonic() + 40
    while len(chaos.reached()) < number:
        assert time.monotonic() < deadline, chaos.reached()
        chaos.pump()
        time.sleep(0.02)
    return chaos.reached()


_QUICK = {"settings": {"claim_lease_ms": "2000", "max_worker_deaths": "3"}}
_LATE = {
    "settings": {"claim_lease_ms": "9000", "min_quote_left_s": "1"},
    "delays": {"quote_life_s": 8},
}
_REQUOTED = {
    "settings": {"min_quote_left_s": "10", "not_found_grace_s": "2", "claim_lease_ms": "4000"},
    "delays": {"quote_life_s": 13},
}
SCENARIOS = {
    "sent_is_not_noted": Scenario(_killed_after_accept_and_found_after_the_quotes_life, ("lost",), _LATE),
    "fence_is_not_checked": Scenario(_slept_over_a_new_quote, ("lost", "unresolved"), _REQUOTED),
    "limit_is_not_checked": Scenario(
        _two_that_do_not_fit_together, ("overspent",), _QUICK | {"limit": 5_000_000}
    ),
    "not_known_is_expired": Scenario(_accepted_hidden_and_its_sender_killed, ("lost",), _QUICK),
    "not_known_is_quoted_anew": Scenario(_accepted_hidden_and_its_sender_killed, ("doubles",), _QUICK),
    "no_answer_is_a_failure": Scenario(_accepted_and_the_reply_lost, ("lost",), _QUICK),
    "claimed_is_not_due": Scenario(_killed_after_the_quote, ("unresolved",), _QUICK),
    "completed_is_not_spent": Scenario(_nothing_special, ("overspent",), _QUICK),
    "never_quarantined": Scenario(_kills_every_worker, ("unresolved",), _QUICK),
}


def test_every_guard_has_a_scenario() -> None:
    assert SCENARIOS.keys() == MUTATIONS.keys()


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_without_the_guard_something_breaks(make_chaos: Callable[..., Chaos], name: str) -> None:
    scenario = SCENARIOS[name]
    chaos = make_chaos(workers=1, mutation=name, **scenario.options)
    scenario.play(chaos)
    counts = chaos.counts(patience_s=20)
    assert any(getattr(counts, count) for count in scenario.breaks), (str(counts), counts.notes)


@pytest.mark.parametrize("options", ["_QUICK", "_LATE", "_REQUOTED", "small"])
def test_with_every_guard_in_place_the_same_is_clean(make_chaos: Callable[..., Chaos], options: str) -> None:
    wanted: dict[str, Any] = globals().get(options, SCENARIOS["limit_is_not_checked"].options)
    played = {scenario.play for scenario in SCENARIOS.values() if scenario.options == wanted}
    assert played
    chaos = make_chaos(workers=1, **wanted)
    for play in sorted(played, key=lambda play: play.__name__):
        play(chaos)
        chaos.hold_posts()
        counts = chaos.counts()
        assert str(counts) == CLEAN, (play.__name__, counts.notes)
    assert "killed again" not in chaos.said
