"""A kill switch is obeyed by what is queued already, up to the last moment before signing."""

from __future__ import annotations

import pytest

from tests.support.pipeline import Pipeline
from tests.support.sessions import ACCOUNT
from worker.intents.states import State
from worker.ledger.pauses import EVERYTHING, Switch, account_switch, chain_switch, strategy_switch

pytestmark = pytest.mark.services
SWITCHES = [EVERYTHING, account_switch(ACCOUNT), chain_switch("8453"), strategy_switch("dca")]
OTHERS = [account_switch("0x" + "12" * 20), chain_switch("1"), strategy_switch("other")]


def stop(pipeline: Pipeline, switch: Switch) -> None:
    pipeline.runtime.pauses.pause(switch, why="the market is closed", who="ops", now_ms=1)


def refused(pipeline: Pipeline, intent_id: str, field: str) -> None:
    record = pipeline.run(intent_id)[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith(f"{field}: is paused by ops: the market is closed")
    assert record.body == ""
    assert pipeline.executed() == 0
    assert pipeline.budget() == (0, 0)


def field_of(switch: Switch) -> str:
    return "everything" if switch == EVERYTHING else switch.kind


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_what_is_queued_is_refused_and_goes_on_after_resume(pipeline: Pipeline, switch: Switch) -> None:
    first = pipeline.submit("a", source="strategy:dca")
    stop(pipeline, switch)
    refused(pipeline, first, field_of(switch))
    refused(pipeline, pipeline.submit("b", source="strategy:dca"), field_of(switch))
    assert pipeline.devnet.requests("/intents/route", "POST") == []
    pipeline.runtime.pauses.resume(switch)
    assert pipeline.run(pipeline.submit("c", source="strategy:dca"))[0].state is State.COMPLETED


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_what_is_authorized_is_refused_and_its_budget_comes_back(pipeline: Pipeline, switch: Switch) -> None:
    intent_id = pipeline.submit("a", source="strategy:dca")
    assert pipeline.step() == ("prepare", intent_id)
    assert pipeline.budget() == (0, 10_000_000)
    stop(pipeline, switch)
    refused(pipeline, intent_id, field_of(switch))


@pytest.mark.parametrize("how", ["switch", "session"])
def test_a_pause_in_the_middle_of_the_last_stage_is_obeyed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The chain takes long to answer, and meanwhile an operator stops it."""
    intent_id = pipeline.submit("a")
    pipeline.step()
    ask = pipeline.runtime.chain.call_and_time

    def slow(to: str, data: bytes) -> tuple[bytes, int]:
        if how == "switch":
            stop(pipeline, EVERYTHING)
        else:
            pipeline.runtime.sessions.set_paused(pipeline.session.session_id, paused=True)
        return ask(to, data)

    monkeypatch.setattr(pipeline.runtime.chain, "call_and_time", slow)
    assert pipeline.step() == ("sign", intent_id)
    record = pipeline.ledger.get(intent_id)
    assert record.state is State.REJECTED
    assert "is paused" in record.reason
    assert (record.body, pipeline.budget()) == ("", (0, 0))


def test_what_is_signed_already_is_followed_to_its_end(pipeline: Pipeline) -> None:
    intent_id = pipeline.submit("a")
    pipeline.step()
    pipeline.step()
    assert pipeline.state(intent_id) is State.SIGNED
    stop(pipeline, EVERYTHING)
    assert pipeline.run(intent_id)[0].state is State.COMPLETED


def test_switches_for_others_stop_nothing(pipeline: Pipeline) -> None:
    for switch in OTHERS:
        stop(pipeline, switch)
    assert pipeline.run(pipeline.submit("a", source="strategy:dca"))[0].state is State.COMPLETED
