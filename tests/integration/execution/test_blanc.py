"""Whole intents over blanc, and every request and reply on the way held against the published description."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.openapi import load_openapi, problems
from tests.support.pipeline import RECIPIENT, Pipeline, transfer
from tests.support.sessions import ACCOUNT, OWNER_KEY, usdc_transfer
from worker.devnet.lies import LIES
from worker.execution.owner import OwnedAccount, send_as_owner, wait_for_execution
from worker.execution.watch import tick
from worker.intents.states import State
from worker.orchestrator.blanc import BlancOrchestrator
from worker.orchestrator.errors import SimulationFailedError

BLANC = "2026-04.blanc"
QUOTES = "/quotes"
SUBMIT = "/intents"

#: blanc's answer has no field for what these change: the signed message holds none of it.
_NOT_IN_BLANC = {"extra_pre_claim_op", "other_recipient", "not_fulfilled"}


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """A pipeline that speaks blanc."""
    return make_pipeline(orchestrator_version=BLANC)


def test_the_first_intent_enables_the_session_and_the_next_one_uses_it(pipeline: Pipeline) -> None:
    before = pipeline.devnet.usdc_balance(RECIPIENT)
    first = pipeline.run(pipeline.submit("a"))[0]
    second = pipeline.run(pipeline.submit("b", transfer(1), transfer(2)))[0]
    assert [first.state, second.state] == [State.COMPLETED, State.COMPLETED], (first.reason, second.reason)
    done = pipeline.devnet.executions(ACCOUNT)
    assert [execution.enabled for execution in done] == [True, False]
    assert [first.tx_hash, second.tx_hash] == [execution.tx_hash for execution in done]
    assert pipeline.devnet.usdc_balance(RECIPIENT) - before == 10_000_003
    assert pipeline.budget() == (10_000_003, 0)
    assert not pipeline.devnet.requests("/intent-operation")
    assert set(json.loads(second.body)) == {"intentId", "signatures"}


def test_what_goes_over_the_wire_is_what_the_published_description_says(pipeline: Pipeline) -> None:
    description = load_openapi("blanc")
    pipeline.run(*[pipeline.submit(name) for name in ("a", "b")])
    pipeline.devnet.add_fault("fail_simulation", path=SUBMIT, method="POST")
    pipeline.run(pipeline.submit("c"))
    pipeline.run(pipeline.submit("d", sponsored=False))
    log = pipeline.devnet.requests()
    assert {(entry["method"], entry["status"]) for entry in log} >= {
        ("POST", 200),
        ("POST", 201),
        ("POST", 400),
        ("GET", 200),
    }
    found = {f"{entry['path']}: {text}" for entry in log for text in problems(description, entry)}
    assert not found


def test_an_unrestricted_session_and_the_owner_trade_too(pipeline: Pipeline) -> None:
    pipeline.key_address = pipeline.keys.create().address
    action = usdc_transfer(50_000_000, valid_until_ms=4_000_000_000_000)
    session = pipeline.approve(actions=[action], restrict=False)
    record = pipeline.run(pipeline.submit("a", session_id=session.session_id))[0]
    assert record.state is State.COMPLETED, record.reason
    owned = OwnedAccount(ACCOUNT, "nexus", pipeline.devnet.chain_id)
    orchestrator = pipeline.runtime.orchestrator
    assert isinstance(orchestrator, BlancOrchestrator)
    intent_id = send_as_owner(orchestrator, owned, [OWNER_KEY], [transfer(7)])
    assert wait_for_execution(orchestrator, intent_id, timeout_s=20).status == "COMPLETED"
    assert pipeline.executed() == 2
    pipeline.devnet.add_fault("fail_simulation", path=SUBMIT, method="POST")
    with pytest.raises(SimulationFailedError):
        send_as_owner(orchestrator, owned, [OWNER_KEY], [transfer(8)])


@pytest.mark.parametrize("lie", [name for name in LIES if name not in {"expired", *_NOT_IN_BLANC}])
def test_a_lying_quote_is_refused_and_named(pipeline: Pipeline, lie: str) -> None:
    pipeline.devnet.add_fault("alter_quote", path=QUOTES, lies=[lie], times=0)
    record = pipeline.run(pipeline.submit("a", transfer(1), transfer(2)))[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith(("signData.", "cost.", "expiresAt", "settlementLayer")), record.reason
    assert record.body == ""
    assert pipeline.budget() == (0, 0)


def test_an_expired_quote_is_asked_for_anew(pipeline: Pipeline) -> None:
    pipeline.devnet.add_fault("alter_quote", path=QUOTES, lies=["expired"])
    assert pipeline.run(pipeline.submit("a"))[0].state is State.COMPLETED
    assert len(pipeline.devnet.requests(QUOTES)) == 2


@pytest.mark.parametrize("action", ["drop_before", "drop_after_accept", "cut_reply"])
def test_a_lost_reply_to_the_submit_executes_once(pipeline: Pipeline, action: str) -> None:
    pipeline.devnet.add_fault(action, path=SUBMIT, method="POST")
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.COMPLETED, record.reason
    assert pipeline.executed() == 1
    assert pipeline.budget() == (10_000_000, 0)


@pytest.mark.parametrize(
    ("action", "state"), [("fail_execution", State.FAILED), ("expire_execution", State.FAILED)]
)
def test_what_fails_on_the_way_gives_its_budget_back(pipeline: Pipeline, action: str, state: State) -> None:
    pipeline.devnet.add_fault(action, path=SUBMIT, method="POST")
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is state
    assert pipeline.budget() == (0, 0)
    assert pipeline.executed() == 0


def test_a_failed_simulation_is_final_and_says_its_category(pipeline: Pipeline) -> None:
    pipeline.devnet.add_fault("fail_simulation", path=SUBMIT, method="POST")
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.FAILED
    assert "SIMULATION_FAILED" in record.reason
    assert "UNCLASSIFIED_REVERT" in record.reason
    assert pipeline.budget() == (0, 0)


def test_a_word_that_blanc_does_not_have_is_not_success(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline(orchestrator_version=BLANC, success_status="PRECONFIRMED", watch_stale_ms=50)
    pipeline.devnet.add_fault("override_status", path=SUBMIT, method="GET", word="PRECONFIRMED", times=0)
    intent_id = pipeline.submit("a")
    record = pipeline.until(lambda: pipeline.ledger.get(intent_id).attention == "UNKNOWN_STATUS", intent_id)[
        0
    ]
    assert record.state is State.SUBMITTED
    pipeline.devnet.clear_faults()
    assert pipeline.run(intent_id)[0].state is State.COMPLETED


def test_an_intent_goes_on_in_its_own_version_when_the_setting_changes(pipeline: Pipeline) -> None:
    intent_id = pipeline.submit("a")
    pipeline.step()
    assert pipeline.state(intent_id) is State.AUTHORIZED
    pipeline.runtime = pipeline.new_runtime(orchestrator_version="2026-01.alps")
    other = pipeline.submit("b")
    records = pipeline.run(intent_id, other)
    assert [record.state for record in records] == [State.COMPLETED, State.COMPLETED]
    assert [record.fields["api_version"] for record in records] == [BLANC, "2026-01.alps"]


def test_a_quote_altered_in_redis_between_authorize_and_sign_is_not_signed(pipeline: Pipeline) -> None:
    intent_id = pipeline.submit("a")
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    nonce = json.loads(record.quote)["signData"]["targetExecution"]["message"]["nonce"]
    altered = record.quote.replace(nonce, str(int(nonce) ^ 1))
    pipeline.ledger.annotate(intent_id, now_ms=pipeline.runtime.now_ms(), fence=record.fence, quote=altered)
    tick(pipeline.runtime)
    record = pipeline.run(intent_id)[0]
    assert record.state is State.REJECTED
    # the record's seal, before the digests are compared
    assert "was not written by this program" in record.reason
    assert pipeline.executed() == 0
