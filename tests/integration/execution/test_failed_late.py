"""What counts as done before the orchestrator's last word is followed until that word, and a failure is reported."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.integration.execution.test_wait_for_execution import Watched
from tests.support.http_stub import Answer, Seen, http_stub
from worker.cli.survey import survey
from worker.execution import late
from worker.execution.errors import IntentInputError
from worker.execution.late import GIVE_UP_MS
from worker.execution.repair import settle
from worker.execution.watch import tick
from worker.intents.model import IntentRecord
from worker.intents.states import State


class Followed(Watched):
    """An intent that FILLED (or, if so set, PRECONFIRMED) completes; ``word`` is what the orchestrator says."""

    def __init__(self, redis_url: str, url: str, *, early: str) -> None:
        super().__init__(redis_url, url, {"acceptsPreconfirmations": early == "PRECONFIRMED"})
        self.early = early

    @property
    def record(self) -> IntentRecord:
        """As it is in the ledger."""
        return self.runtime.ledger.get(self.intent_id)

    def pass_by(self, ms: int = 400_000) -> int:
        """Let time go on and look; how many late ones were asked for."""
        self.clock_ms += ms
        return late.look(self.runtime)


class Orchestrator:
    """Answers the status request."""

    def __init__(self) -> None:
        self.word = ""
        self.status = 200
        self.url = ""
        self.asked = 0

    def answer(self, seen: Seen) -> Answer:
        """Whatever is asked, the status."""
        self.asked += 1
        body: dict[str, Any] = {"status": self.word, "claims": [], "fillTransactionHash": "0xfill"}
        return Answer(self.status, body)


@pytest.fixture
def orchestrator() -> Generator[Orchestrator]:
    found = Orchestrator()
    with http_stub(found.answer) as stub:
        found.url = stub.url
        yield found


@pytest.fixture(params=["FILLED", "PRECONFIRMED"])
def followed(request: pytest.FixtureRequest, redis_url: str, orchestrator: Orchestrator) -> Followed:
    """It has just been completed by an early word."""
    orchestrator.word = request.param
    found = Followed(redis_url, orchestrator.url, early=request.param)
    assert found.poll() is State.COMPLETED
    return found


@pytest.mark.parametrize("word", ["FAILED", "EXPIRED"])
def test_a_later_failure_is_reported_and_the_intent_stays_completed(
    followed: Followed, orchestrator: Orchestrator, word: str
) -> None:
    orchestrator.word = "CLAIMED"
    assert followed.pass_by() == 1
    assert followed.record.attention == ""
    orchestrator.word = word
    assert followed.pass_by() == 1
    record = followed.record
    assert (record.state, record.attention, record.orchestrator_status) == (
        State.COMPLETED,
        "FAILED_LATE",
        word,
    )
    assert record.reason.startswith(f"the orchestrator reports {word} after {followed.early}")
    assert survey(followed.runtime)["attention"] == {"FAILED_LATE": 1}
    asked = orchestrator.asked
    assert followed.pass_by() == 0
    assert orchestrator.asked == asked


def test_a_person_who_has_looked_ends_it_and_nothing_is_given_back(
    followed: Followed, orchestrator: Orchestrator
) -> None:
    orchestrator.word = "FAILED"
    followed.pass_by()
    with pytest.raises(IntentInputError, match="not given back"):
        settle(followed.runtime, followed.intent_id, State.FAILED, who="me", why="nothing on chain")
    record = settle(followed.runtime, followed.intent_id, State.COMPLETED, who="me", why="in block 5")
    assert (record.state, record.attention) == (State.COMPLETED, "")
    assert record.reason.endswith("seen by me: in block 5")
    assert survey(followed.runtime)["attention"] == {}


def test_the_last_word_completed_ends_the_following(followed: Followed, orchestrator: Orchestrator) -> None:
    orchestrator.word = "COMPLETED"
    assert followed.pass_by() == 1
    assert (followed.record.orchestrator_status, followed.record.attention) == ("COMPLETED", "")
    assert followed.pass_by() == 0


def test_no_answer_and_unknown_words_are_asked_for_again_until_a_day_is_over(
    followed: Followed, orchestrator: Orchestrator
) -> None:
    for status, word in ((404, ""), (503, ""), (200, "SETTLING"), (200, followed.early)):
        orchestrator.status, orchestrator.word = status, word
        assert followed.pass_by() == 1
        assert (followed.record.state, followed.record.attention) == (State.COMPLETED, "")
    asked = orchestrator.asked
    assert followed.pass_by(GIVE_UP_MS) == 1
    assert followed.pass_by() == 0
    assert orchestrator.asked == asked


def test_the_tick_looks_for_them(followed: Followed, orchestrator: Orchestrator) -> None:
    orchestrator.word = "FAILED"
    followed.clock_ms += 10_000
    tick(followed.runtime)
    assert followed.record.attention == "FAILED_LATE"


def test_nothing_is_lost_when_the_process_dies_before_it_completes_the_intent(
    redis_url: str, orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    orchestrator.word = "FILLED"
    followed = Followed(redis_url, orchestrator.url, early="FILLED")
    with monkeypatch.context() as patch:
        patch.setattr(followed.runtime.ledger, "transition", _die)
        followed.clock_ms = followed.due_ms()
        tick(followed.runtime)
    assert followed.record.state is State.SUBMITTED
    assert followed.pass_by() == 1
    assert followed.record.state is State.SUBMITTED
    assert followed.poll() is State.COMPLETED
    orchestrator.word = "FAILED"
    followed.pass_by()
    assert followed.record.attention == "FAILED_LATE"


def test_the_default_waits_for_the_last_word_and_follows_nothing(
    redis_url: str, orchestrator: Orchestrator
) -> None:
    followed = Followed(redis_url, orchestrator.url, early="FILLED")
    followed.runtime.settings.success_status = "COMPLETED"
    orchestrator.word = "FILLED"
    assert followed.poll() is State.SUBMITTED
    orchestrator.word = "COMPLETED"
    assert followed.poll() is State.COMPLETED
    assert followed.pass_by() == 0
    assert followed.runtime.ledger.take_late(now_ms=2**52, push_back_ms=1, limit=5) == []


def _die(*_: object, **__: object) -> None:
    raise RuntimeError("killed")
