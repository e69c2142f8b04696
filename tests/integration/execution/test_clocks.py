"""Two clocks, ours and the latest block's: a skew refuses, and a window must hold by both until the last possible execution."""

from __future__ import annotations

import time

import pytest

from tests.support.pipeline import Pipeline
from worker.intents.states import State

pytestmark = pytest.mark.services


def freeze(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, *, chain_ahead_s: int) -> int:
    """Our clock stands still, and the latest block is so many seconds ahead of it (or behind); our second."""
    now_s = int(time.time())
    monkeypatch.setattr(pipeline.runtime, "now_ms", lambda: now_s * 1000 + 999)
    chain_says(pipeline, monkeypatch, now_s + chain_ahead_s)
    return now_s


def chain_says(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, time_s: int) -> None:
    """The latest block is of that second."""
    chain = pipeline.runtime.chain

    def call_and_time(to: str, data: bytes) -> tuple[bytes, int]:
        return chain.call(to, data), time_s

    monkeypatch.setattr(chain, "call_and_time", call_and_time)


@pytest.mark.parametrize("ahead_s", [60, -60])
def test_a_skew_at_the_limit_passes_both_stages(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    assert pipeline.settings.max_clock_skew_s == 60
    intent_id = pipeline.submit("a")
    freeze(pipeline, monkeypatch, chain_ahead_s=ahead_s)
    pipeline.step()
    pipeline.step()
    assert pipeline.state(intent_id) is State.SIGNED


@pytest.mark.parametrize("ahead_s", [61, -61])
@pytest.mark.parametrize("stage", [State.QUEUED, State.AUTHORIZED])
def test_a_skew_above_the_limit_stops_either_stage_and_goes_on_by_itself(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, ahead_s: int, stage: State
) -> None:
    intent_id = pipeline.submit("a")
    if stage is State.AUTHORIZED:
        pipeline.step()
    freeze(pipeline, monkeypatch, chain_ahead_s=ahead_s)
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.attention, record.body) == (stage, "CLOCK", "")
    assert "our clock and the latest block's differ by 61 s, 60 s are allowed" in record.reason
    monkeypatch.undo()
    assert pipeline.run(intent_id)[0].state is State.COMPLETED


@pytest.mark.parametrize(
    ("ahead_s", "state"), [(9, State.AUTHORIZED), (10, State.REJECTED), (30, State.REJECTED)]
)
def test_the_window_must_be_open_by_the_chains_clock(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, ahead_s: int, state: State
) -> None:
    """The end is exclusive: at its very second the chain's clock has passed it, though ours has not."""
    now_s = freeze(pipeline, monkeypatch, chain_ahead_s=ahead_s)
    session = pipeline.approve(valid_for_s=10)
    left_s = session.expires_s - now_s
    chain_says(pipeline, monkeypatch, now_s + left_s + ahead_s - 10)
    # the quote and the margin must not be what decides
    monkeypatch.setattr(pipeline.runtime.settings, "execution_margin_s", -1_000_000)
    intent_id = pipeline.submit("a", session_id=session.session_id)
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert record.state is state, record.reason
    if state is State.REJECTED:
        assert record.reason.startswith("time-frame: call 0: expired at ")
        assert "by the chain's clock" in record.reason


@pytest.mark.parametrize(("margin_s", "state"), [(0, State.AUTHORIZED), (1, State.REJECTED)])
def test_the_window_must_outlast_the_latest_execution(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, margin_s: int, state: State
) -> None:
    """Not open now is what counts, but open still when the quote's last second and the margin have passed."""
    quotes: list[int] = []
    ask = pipeline.runtime.orchestrator.quote
    session = pipeline.approve(valid_for_s=3_600)

    def remember(request: dict[str, object]) -> object:
        quote = ask(request)
        mandate = quote.intent_op["elements"][0]["mandate"]
        quotes.append(max(quote.expires_s, int(mandate["fillDeadline"])))
        # one second is left after the latest execution and this margin
        left_s = session.expires_s - quotes[-1] - 1
        monkeypatch.setattr(pipeline.runtime.settings, "execution_margin_s", left_s + margin_s)
        return quote

    monkeypatch.setattr(pipeline.runtime.orchestrator, "quote", remember)
    intent_id = pipeline.submit("a", session_id=session.session_id)
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert quotes
    assert record.state is state, record.reason
    if state is State.REJECTED:
        assert "expires too soon" in record.reason
