"""Services that fail, lie about time or lose replies: nothing is executed twice, nothing is lost, nothing is signed blindly."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.pipeline import STAGES, Pipeline, transfer
from worker.execution.errors import IntentInputError
from worker.execution.repair import replay, settle
from worker.execution.runtime import now_ms
from worker.execution.submit import submit
from worker.execution.watch import tick
from worker.intents.states import FINAL, State

ROUTE = "/intents/route"
SUBMIT = "/intent-operations"
STATUS = "/intent-operation/"


@pytest.mark.parametrize(
    ("action", "details"),
    [
        ("drop_before", {}),
        ("drop_after_accept", {}),
        ("cut_reply", {}),
        ("delay_reply_ms", {"delay_ms": 3_500}),
        ("respond", {"status": 500}),
        ("respond", {"status": 503, "headers": {"Retry-After": "1"}}),
        ("respond", {"status": 502, "process": True}),
        ("respond", {"status": 504, "process": True}),
        ("respond", {"status": 201, "body": {"result": "what"}, "process": True}),
        ("respond", {"status": 404, "body": {"errors": [{"message": "Order bundle not found"}]}}),
        ("respond", {"status": 409, "process": True}),
        ("respond", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("respond", {"status": 401, "body": {"errors": [{"message": "Invalid API key"}]}}),
        ("hide", {"delay_ms": 1_500}),
    ],
)
def test_a_submit_that_goes_wrong_is_executed_once(
    pipeline: Pipeline, action: str, details: dict[str, Any]
) -> None:
    pipeline.devnet.add_fault(action, method="POST", path=SUBMIT, times=2, **details)
    record = pipeline.run(pipeline.submit("a"), timeout_s=60)[0]
    assert record.state is State.COMPLETED
    assert record.attention == ""
    assert pipeline.executed() == 1
    assert pipeline.budget() == (10_000_000, 0)


@pytest.mark.parametrize(
    ("action", "details"),
    [
        ("respond", {"status": 500}),
        ("respond", {"status": 502}),
        ("respond", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("respond", {"status": 429}),
        ("respond", {"status": 404}),
        ("respond", {"status": 200, "body": "no json"}),
        ("drop_before", {}),
        ("delay_reply_ms", {"delay_ms": 3_500}),
        ("override_status", {"word": "BRAND_NEW"}),
    ],
)
def test_a_status_that_cannot_be_had_is_asked_for_again(
    make_pipeline: Callable[..., Pipeline], action: str, details: dict[str, Any]
) -> None:
    pipeline = make_pipeline(watch_stale_ms=200)
    pipeline.devnet.add_fault(action, path=STATUS, times=2, **details)
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.COMPLETED
    assert pipeline.executed() == 1


@pytest.mark.parametrize(
    ("action", "details", "attention"),
    [
        ("respond", {"status": 500}, "ORCHESTRATOR"),
        ("respond", {"status": 401}, "ORCHESTRATOR_AUTH"),
        ("respond", {"status": 400, "body": {"errors": [{"message": "No Path Found"}]}}, "NO_ROUTE"),
        ("respond", {"status": 200, "body": {"intentOp": {}}}, "ORCHESTRATOR"),
        ("drop_before", {}, "ORCHESTRATOR"),
    ],
)
def test_a_quote_that_cannot_be_had_shows_why_and_is_asked_for_again(
    pipeline: Pipeline, action: str, details: dict[str, Any], attention: str
) -> None:
    pipeline.devnet.add_fault(action, path=ROUTE, times=0, **details)
    intent_id = pipeline.submit("a")
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.attention) == (State.QUEUED, attention)
    assert record.reason.lower().startswith(("orchestrator: ", "session_executor_orchestrator_"))
    pipeline.devnet.clear_faults()
    record = pipeline.run(intent_id)[0]
    assert (record.state, record.attention) == (State.COMPLETED, "")


def test_a_refused_quote_fails_the_intent_with_the_words(pipeline: Pipeline) -> None:
    pipeline.devnet.add_fault(
        "respond", path=ROUTE, status=400, body={"errors": [{"message": "Insufficient balance"}]}
    )
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.FAILED
    assert "Insufficient balance" in record.reason
    assert record.body == ""


@pytest.mark.parametrize("actions", [["fail_simulation"], ["fail_simulation", "simulation_error"]])
def test_a_failed_simulation_is_final_and_gives_the_budget_back(
    pipeline: Pipeline, actions: list[str]
) -> None:
    for action in actions:
        pipeline.devnet.add_fault(action, method="POST", path=SUBMIT)
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.FAILED
    assert pipeline.budget() == (0, 0)
    assert pipeline.executed() == 0


@pytest.mark.parametrize(
    ("action", "state"), [("fail_execution", State.FAILED), ("expire_execution", State.EXPIRED)]
)
def test_the_orchestrators_last_word_is_ours(pipeline: Pipeline, action: str, state: State) -> None:
    pipeline.devnet.add_fault(action, method="POST", path=SUBMIT)
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is state
    assert pipeline.budget() == (0, 0)
    # the approval was not used up, so the next intent can carry it
    assert pipeline.run(pipeline.submit("b"))[0].state is State.COMPLETED


def test_a_stalled_intent_asks_for_attention_and_keeps_its_reservation(
    make_pipeline: Callable[..., Pipeline],
) -> None:
    pipeline = make_pipeline(watch_attention_ms=300)
    pipeline.devnet.add_fault("stall", method="POST", path=SUBMIT)
    intent_id = pipeline.submit("a")
    record = pipeline.until(lambda: pipeline.ledger.get(intent_id).attention != "", intent_id)[0]
    assert (record.state, record.attention) == (State.SUBMITTED, "SLOW")
    assert record.orchestrator_status == "PENDING"
    assert pipeline.budget() == (0, 10_000_000)


def test_a_status_nobody_knows_asks_for_attention(pipeline: Pipeline) -> None:
    pipeline.devnet.add_fault("override_status", path=STATUS, word="ABRACADABRA", times=0)
    intent_id = pipeline.submit("a")
    record = pipeline.until(lambda: pipeline.ledger.get(intent_id).attention != "", intent_id)[0]
    assert (record.state, record.attention) == (State.SUBMITTED, "UNKNOWN_STATUS")
    assert pipeline.budget() == (0, 10_000_000)


def test_what_the_orchestrator_never_knew_expires_after_its_quote(
    make_pipeline: Callable[..., Pipeline],
) -> None:
    pipeline = make_pipeline(not_found_grace_s=1)
    pipeline.devnet.add_fault("drop_before", method="POST", path=SUBMIT, times=0)
    intent_id = pipeline.submit("a")
    pipeline.until(lambda: pipeline.state(intent_id) is State.SIGNED, intent_id)
    pipeline.runtime.now_ms = lambda: now_ms() + 600_000
    record = pipeline.run(intent_id)[0]
    assert record.state is State.EXPIRED
    assert pipeline.budget() == (0, 0)
    assert pipeline.executed() == 0


def test_a_lost_reply_is_not_taken_for_expired_when_the_intent_runs(
    make_pipeline: Callable[..., Pipeline],
) -> None:
    """Accepted, the reply lost, and found only after the quote's life: it is adopted, not buried."""
    # the grace is far above what four slow polls take: how long they take is not what is tested
    pipeline = make_pipeline(not_found_grace_s=60)
    pipeline.devnet.add_fault("drop_after_accept", method="POST", path=SUBMIT)
    pipeline.devnet.add_fault("respond", path=STATUS, status=404, times=4)
    intent_id = pipeline.submit("a")
    pipeline.until(lambda: pipeline.state(intent_id) is State.SIGNED, intent_id)
    pipeline.runtime.now_ms = lambda: now_ms() + 600_000
    record = pipeline.run(intent_id)[0]
    assert record.state is State.COMPLETED
    assert pipeline.executed() == 1


def test_one_404_long_after_the_quotes_life_proves_nothing(pipeline: Pipeline) -> None:
    """Accepted, the reply lost, then nobody looked for ten minutes, and the first answer is a 404."""
    pipeline.devnet.add_fault("drop_after_accept", method="POST", path=SUBMIT)
    pipeline.devnet.add_fault("respond", path=STATUS, status=404, times=1)
    intent_id = pipeline.submit("a")
    while pipeline.messages[0][0] != "submit":
        pipeline.step()
    pipeline.step()
    pipeline.runtime.now_ms = lambda: now_ms() + 600_000
    record = pipeline.run(intent_id)[0]
    assert record.state is State.COMPLETED


def test_an_accepted_intent_that_the_orchestrator_forgot_keeps_its_reservation(
    make_pipeline: Callable[..., Pipeline],
) -> None:
    pipeline = make_pipeline(not_found_grace_s=1)
    pipeline.devnet.add_fault("stall", method="POST", path=SUBMIT)
    intent_id = pipeline.submit("a")
    pipeline.until(lambda: pipeline.state(intent_id) is State.SUBMITTED, intent_id)
    pipeline.devnet.add_fault("respond", path=STATUS, status=404, times=0)
    pipeline.runtime.now_ms = lambda: now_ms() + 600_000
    record = pipeline.until(lambda: pipeline.ledger.get(intent_id).attention == "NOT_FOUND", intent_id)[0]
    for _ in range(20):
        tick(pipeline.runtime)
    assert pipeline.state(intent_id) is record.state is State.SUBMITTED
    assert pipeline.budget() == (0, 10_000_000)


def test_a_worker_that_dies_while_sending_leaves_it_maybe_sent(
    make_pipeline: Callable[..., Pipeline],
) -> None:
    """Killed after the orchestrator accepted and before the reply was read."""
    pipeline = make_pipeline(claim_lease_ms=1_000)
    intent_id = pipeline.submit("a")
    while pipeline.messages[0][0] != "submit":
        pipeline.step()
    pipeline.messages.clear()

    class KilledError(BaseException):
        """Stands for SIGKILL: no handler of ours may run."""

    dying = pipeline.new_runtime()
    real = dying.orchestrator.submit

    def accepted_then_killed(body: str, **more: str) -> Any:
        real(body, **more)
        raise KilledError

    dying.orchestrator.submit = accepted_then_killed  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KilledError):
        submit(dying, intent_id)
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.fields["sent"]) == (State.SIGNED, "maybe")
    record = pipeline.run(intent_id)[0]
    assert record.state is State.COMPLETED
    assert pipeline.executed() == 1


def test_the_same_bytes_are_sent_on_every_try(pipeline: Pipeline) -> None:
    pipeline.devnet.add_fault("respond", method="POST", path=SUBMIT, status=500, times=2)
    pipeline.run(pipeline.submit("a"))
    bodies = [
        request["body"]
        for request in pipeline.devnet.requests()
        if request["path"] == SUBMIT and request["method"] == "POST"
    ]
    assert len(bodies) == 3
    assert bodies[0] == bodies[1] == bodies[2]


def test_a_missing_key_shows_and_signs_nothing_until_it_is_back(pipeline: Pipeline) -> None:
    file = next((pipeline.settings.keystore_dir).glob("*.json"))
    away = file.rename(file.with_suffix(".away"))
    intent_id = pipeline.submit("a")
    pipeline.step()
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.attention) == (State.AUTHORIZED, "KEY_STORE")
    assert record.body == ""
    away.rename(file)
    record = pipeline.run(intent_id)[0]
    assert (record.state, record.attention) == (State.COMPLETED, "")


@pytest.mark.parametrize(
    ("settings", "attention"),
    [({"chain_id": 8453, "rpc_url": "http://127.0.0.1:9"}, "RPC"), ({"max_clock_skew_s": 1}, "CLOCK")],
)
def test_a_chain_that_cannot_be_trusted_shows_and_signs_nothing(
    make_pipeline: Callable[..., Pipeline], settings: dict[str, Any], attention: str
) -> None:
    pipeline = make_pipeline()
    if "rpc_url" in settings:
        settings = settings | {"rpc_url": type(pipeline.settings.rpc_url)(settings["rpc_url"])}
    good, bad = pipeline.runtime, pipeline.new_runtime(**settings)
    if attention == "CLOCK":
        bad.now_ms = lambda: good.now_ms() + 90_000
    intent_id = pipeline.submit("a")
    pipeline.messages.clear()
    pipeline.runtime = bad
    pipeline.messages.append(("prepare", intent_id))
    pipeline.step()
    record = good.ledger.get(intent_id)
    assert (record.state, record.attention) == (State.QUEUED, attention)
    if attention == "RPC":
        pipeline.runtime = good
        assert pipeline.run(intent_id)[0].state is State.COMPLETED


def test_two_workers_with_the_same_message_do_the_work_once(pipeline: Pipeline) -> None:
    ids = [pipeline.submit(f"trade {number}", transfer(1_000_000)) for number in range(4)]
    workers = [pipeline.new_runtime() for _ in range(4)]
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(8) as pool:
        while not all(pipeline.state(intent_id) in FINAL for intent_id in ids):
            assert time.monotonic() < deadline
            batch, pipeline.messages = pipeline.messages, []
            work = [
                pool.submit(STAGES[stage], worker, intent_id)
                for stage, intent_id in batch
                for worker in workers
            ]
            work += [pool.submit(tick, worker) for worker in workers]
            for item in work:
                item.result()
            time.sleep(0.02)
    assert [pipeline.state(intent_id) for intent_id in ids] == [State.COMPLETED] * 4
    assert pipeline.executed() == 4


def test_a_dead_intent_is_replayed_by_hand(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline(max_attempts=1)
    pipeline.devnet.add_fault("respond", path=ROUTE, status=401, times=1)
    intent_id = pipeline.submit("a")
    assert pipeline.run(intent_id)[0].state is State.DEAD
    pipeline.runtime = pipeline.new_runtime(max_attempts=10)
    assert replay(pipeline.runtime, intent_id, who="test", why="key is set").state is State.QUEUED
    assert pipeline.run(intent_id)[0].state is State.COMPLETED
    with pytest.raises(IntentInputError, match="only DEAD intents"):
        replay(pipeline.runtime, intent_id, who="test", why="again")
    assert pipeline.executed() == 1


def test_a_forgotten_intent_is_settled_by_hand_once_it_cannot_execute(pipeline: Pipeline) -> None:
    pipeline.devnet.add_fault("stall", method="POST", path=SUBMIT)
    intent_id = pipeline.submit("a")
    pipeline.until(lambda: pipeline.state(intent_id) is State.SUBMITTED, intent_id)

    def by_hand(state: State) -> State:
        return settle(pipeline.runtime, intent_id, state, who="test", why="looked at the chain").state

    with pytest.raises(IntentInputError, match="nothing is wrong with it"):
        by_hand(State.FAILED)
    pipeline.devnet.add_fault("override_status", path=STATUS, word="ODD", times=0)
    pipeline.until(lambda: pipeline.ledger.get(intent_id).attention == "UNKNOWN_STATUS", intent_id)
    with pytest.raises(IntentInputError, match="may still be executed for"):
        by_hand(State.FAILED)
    with pytest.raises(IntentInputError, match="cannot be CANCELED"):
        by_hand(State.CANCELED)
    assert pipeline.budget() == (0, 10_000_000)
    pipeline.runtime.now_ms = lambda: now_ms() + 600_000
    assert by_hand(State.FAILED) is State.FAILED
    assert pipeline.budget() == (0, 0)
    with pytest.raises(IntentInputError, match="only SIGNED and SUBMITTED"):
        by_hand(State.COMPLETED)
