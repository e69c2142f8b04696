"""An intent that kills its workers is set aside, with nothing of its budget lost and nothing sent again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tests.support.pipeline import STAGES, Pipeline
from worker.execution.runtime import Runtime, now_ms
from worker.execution.watch import tick
from worker.intents.states import State
from worker.ledger.errors import LedgerUnavailableError

MakePipeline = Callable[..., Pipeline]


class KilledError(BaseException):
    """Stands for SIGKILL: no handler of ours may run."""


def killed(*_: Any, **__: Any) -> NoReturn:
    raise KilledError


def die(pipeline: Pipeline, intent_id: str, stage: str, call: str, *, times: int) -> None:
    """Let workers die at the stage, each when it calls ``runtime.<call>``."""
    target, _, name = call.partition(".")
    for _ in range(times):
        dying = pipeline.new_runtime()
        setattr(getattr(dying, target), name, killed)
        deadline = time.monotonic() + 60
        while not _dies(dying, stage, intent_id):  # the lease of the one before still runs
            assert time.monotonic() < deadline
            time.sleep(0.02)


def _dies(runtime: Runtime, stage: str, intent_id: str) -> bool:
    try:
        STAGES[stage](runtime, intent_id)
    except KilledError:
        return True
    return False


@pytest.fixture
def short_lease(make_pipeline: MakePipeline) -> Pipeline:
    return make_pipeline(claim_lease_ms=150)


def test_one_that_kills_three_workers_before_it_is_authorized_is_dead(short_lease: Pipeline) -> None:
    pipeline = short_lease
    intent_id = pipeline.submit("a")
    pipeline.messages.clear()
    die(pipeline, intent_id, "prepare", "orchestrator.quote", times=3)
    record = pipeline.run(intent_id)[0]
    assert (record.state, record.attention) == (State.DEAD, "QUARANTINED")
    assert "died with their workers" in record.reason
    assert pipeline.budget() == (0, 0)


def test_one_that_kills_three_workers_before_it_is_signed_gives_its_budget_back(
    short_lease: Pipeline,
) -> None:
    pipeline = short_lease
    intent_id = pipeline.submit("a")
    pipeline.step()
    pipeline.messages.clear()
    assert pipeline.budget() == (0, 10_000_000)
    die(pipeline, intent_id, "sign", "keys.get", times=3)
    record = pipeline.run(intent_id)[0]
    assert (record.state, record.attention) == (State.DEAD, "QUARANTINED")
    assert pipeline.budget() == (0, 0)
    assert pipeline.executed() == 0


def test_those_that_died_together_are_tried_one_at_a_time(short_lease: Pipeline) -> None:
    """A killer and a bystander in one worker: the bystander is held back while the killer is tried, and the other way."""
    pipeline = short_lease
    killer, bystander = pipeline.submit("killer"), pipeline.submit("bystander")
    fresh = pipeline.submit("fresh")
    pipeline.messages.clear()
    die(pipeline, bystander, "prepare", "orchestrator.quote", times=1)
    die(pipeline, killer, "prepare", "orchestrator.quote", times=1)
    dying, beside = pipeline.new_runtime(), pipeline.new_runtime()
    met: list[tuple[State, str, State]] = []

    def kill(*_: Any) -> NoReturn:
        # while the killer is under way: another process gets the bystander's message, and one of an intent without blame
        STAGES["prepare"](beside, bystander)
        STAGES["prepare"](beside, fresh)
        found = pipeline.ledger.get(bystander)
        met.append((found.state, found.fields.get("deaths", "0"), pipeline.state(fresh)))
        raise KilledError

    setattr(dying.orchestrator, "quote", kill)  # noqa: B010 - its type says that it takes a request
    deadline = time.monotonic() + 60
    while not _dies(dying, "prepare", killer):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # its death was not even counted yet, and nobody has taken it
    assert met == [(State.QUEUED, "0", State.AUTHORIZED)]
    assert pipeline.ledger.get(killer).fields["deaths"] == "1"
    records = pipeline.run(killer, bystander, fresh)
    assert [record.state for record in records] == [State.COMPLETED] * 3
    assert not [line for record in records for line in record.history if "died" in line.why]


def test_two_deaths_are_bad_luck(short_lease: Pipeline) -> None:
    pipeline = short_lease
    intent_id = pipeline.submit("a")
    pipeline.messages.clear()
    die(pipeline, intent_id, "prepare", "orchestrator.quote", times=2)
    pipeline.until(lambda: pipeline.state(intent_id) is not State.QUEUED, intent_id)
    # a change of state is progress: the count starts again
    assert pipeline.ledger.get(intent_id).fields["deaths"] == "0"
    record = pipeline.run(intent_id)[0]
    assert (record.state, record.attention) == (State.COMPLETED, "")


def test_a_signed_one_is_not_sent_again_but_watched_until_its_quote_ran_out(
    make_pipeline: MakePipeline,
) -> None:
    pipeline = make_pipeline(claim_lease_ms=150, not_found_grace_s=1)
    intent_id = pipeline.submit("a")
    pipeline.step()
    pipeline.step()
    pipeline.messages.clear()
    die(pipeline, intent_id, "submit", "orchestrator.submit", times=3)
    record = pipeline.until(lambda: pipeline.ledger.get(intent_id).attention == "QUARANTINED", intent_id)[0]
    assert record.state is State.SIGNED
    assert pipeline.budget() == (0, 10_000_000)
    pipeline.runtime.now_ms = lambda: now_ms() + 600_000
    record = pipeline.run(intent_id)[0]
    assert record.state is State.EXPIRED
    assert pipeline.budget() == (0, 0)
    assert not [request for request in pipeline.devnet.requests() if request["path"] == "/intent-operations"]


def test_a_signed_one_that_went_out_is_found_and_completed(short_lease: Pipeline) -> None:
    pipeline = short_lease
    intent_id = pipeline.submit("a")
    pipeline.step()
    pipeline.step()
    pipeline.messages.clear()
    sender = pipeline.runtime.orchestrator.submit
    sender(pipeline.ledger.get(intent_id).body)
    die(pipeline, intent_id, "submit", "orchestrator.submit", times=3)
    STAGES["submit"](pipeline.runtime, intent_id)
    record = pipeline.run(intent_id)[0]
    assert (record.state, record.attention) == (State.COMPLETED, "")
    assert pipeline.budget() == (10_000_000, 0)
    assert pipeline.executed() == 1


def test_a_ledger_that_goes_away_is_not_the_death_of_a_worker(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to a claim, or the end of the attempt, is lost: the same process gives the intent back."""
    pipeline = make_pipeline(claim_lease_ms=60_000)
    intent_id = pipeline.submit("a")
    ledger = pipeline.ledger
    real = {name: getattr(ledger, name) for name in ("claim", "transition", "release_claim")}

    def gone(*_: Any, **__: Any) -> NoReturn:
        raise LedgerUnavailableError("gone", maybe_done=True)

    def claimed_but_unheard(*args: Any, **how: Any) -> NoReturn:
        real["claim"](*args, **how)
        gone()

    for _ in range(2):
        monkeypatch.setattr(ledger, "claim", claimed_but_unheard)
        with pytest.raises(LedgerUnavailableError):
            STAGES["prepare"](pipeline.runtime, intent_id)
        monkeypatch.setattr(ledger, "claim", real["claim"])
        for name in ("transition", "release_claim"):
            monkeypatch.setattr(ledger, name, gone)
        with pytest.raises(LedgerUnavailableError):  # it cannot be given back yet
            STAGES["prepare"](pipeline.runtime, intent_id)
        monkeypatch.setattr(ledger, "release_claim", real["release_claim"])
        STAGES["prepare"](pipeline.runtime, intent_id)
        monkeypatch.setattr(ledger, "transition", real["transition"])
    record = pipeline.run(intent_id)[0]
    assert (record.state, record.fields["deaths"]) == (State.COMPLETED, "0")
    assert not pipeline.runtime.hanging
    assert not [line for line in record.history if "died" in line.why]


@pytest.mark.parametrize("where", ["quote", "status", "submit"])
def test_a_wait_of_an_hour_that_a_service_asks_for_is_shown(pipeline: Pipeline, where: str) -> None:
    path = {"quote": "/intents/route", "status": "/intent-operation/", "submit": "/intent-operations"}[where]
    pipeline.devnet.add_fault("respond", path=path, status=429, headers={"Retry-After": "999999"})
    intent_id = pipeline.submit("a")
    pipeline.until(lambda: bool(pipeline.ledger.get(intent_id).attention), intent_id)
    assert pipeline.ledger.get(intent_id).attention == "RATE_LIMITED"
    assert tick(pipeline.runtime) == 0
