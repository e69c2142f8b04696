"""What `prepare` has read a moment ago is not read again by `sign`, and nothing that stops a signature is missed by that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.pipeline import Pipeline
from worker.chain.reader import ChainReader
from worker.intents.states import State
from worker.ledger.pauses import EVERYTHING

pytestmark = pytest.mark.services


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each look at the session on the chain."""
    seen: list[int] = []
    real: Callable[..., Any] = ChainReader.call_and_time

    def counted(reader: ChainReader, to: str, data: bytes) -> tuple[bytes, int]:
        seen.append(1)
        return real(reader, to, data)

    monkeypatch.setattr(ChainReader, "call_and_time", counted)
    return seen


def enabled(pipeline: Pipeline, hand_over_s: float) -> None:
    """The session is enabled on chain from here on."""
    pipeline.run(pipeline.submit("enables"))
    pipeline.runtime.hand_over_s = hand_over_s


def test_the_chain_is_asked_once(pipeline: Pipeline, reads: list[int]) -> None:
    enabled(pipeline, 600.0)
    reads.clear()
    pipeline.submit("a")
    assert [pipeline.step()[0], pipeline.step()[0]] == ["prepare", "sign"]
    assert len(reads) == 1
    assert pipeline.messages[0][0] == "submit"


@pytest.mark.parametrize("hand_over_s", [0.0, 1e-9])
def test_what_is_older_is_read_again(pipeline: Pipeline, reads: list[int], hand_over_s: float) -> None:
    enabled(pipeline, hand_over_s)
    reads.clear()
    pipeline.submit("a")
    pipeline.step()
    pipeline.step()
    assert len(reads) == 2


def test_what_another_intent_left_is_not_used(pipeline: Pipeline, reads: list[int]) -> None:
    enabled(pipeline, 600.0)
    one, two = pipeline.submit("a"), pipeline.submit("b")
    reads.clear()
    assert [pipeline.step() for _ in range(4)] == [
        ("prepare", one),
        ("prepare", two),
        ("sign", one),
        ("sign", two),
    ]
    assert len(reads) == 4  # the first `sign` finds what was left for the second, and leaves nothing


def test_a_session_that_is_not_enabled_is_looked_at_again(pipeline: Pipeline, reads: list[int]) -> None:
    pipeline.runtime.hand_over_s = 600.0
    pipeline.submit("a")
    pipeline.step()
    before = len(reads)
    pipeline.step()
    assert len(reads) > before


@pytest.mark.parametrize("what", ["session", "everything"])
def test_a_pause_in_between_stops_it(pipeline: Pipeline, what: str) -> None:
    enabled(pipeline, 600.0)
    intent_id = pipeline.submit("a")
    pipeline.step()
    if what == "session":
        pipeline.runtime.sessions.set_paused(pipeline.session.session_id, paused=True)
    else:
        now_ms = pipeline.runtime.now_ms()
        pipeline.runtime.pauses.pause(EVERYTHING, why="a test", who="operator", now_ms=now_ms)
    pipeline.step()
    assert pipeline.state(intent_id) not in {State.SIGNED, State.SUBMITTED, State.COMPLETED}
    assert not pipeline.ledger.get(intent_id).body
