"""An orchestrator that answers with something else than what was asked for gets no signature."""

from __future__ import annotations

import pytest

from tests.support.pipeline import Pipeline, transfer
from worker.devnet.lies import LIES
from worker.intents.states import State

ROUTE = "/intents/route"
SUBMIT = "/intent-operations"


@pytest.mark.parametrize("lie", [name for name in LIES if name != "expired"])
def test_a_lying_quote_is_refused_and_named(pipeline: Pipeline, lie: str) -> None:
    pipeline.devnet.add_fault("alter_quote", path=ROUTE, lies=[lie], times=0)
    record = pipeline.run(pipeline.submit("a", transfer(1), transfer(2)))[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith(("intentOp", "intentCost"))
    assert record.body == ""
    assert pipeline.budget() == (0, 0)


def test_an_expired_quote_is_asked_for_anew(pipeline: Pipeline) -> None:
    pipeline.devnet.add_fault("alter_quote", path=ROUTE, lies=["expired"])
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.COMPLETED
    assert record.attempts >= 4  # prepare twice, sign, submit


@pytest.mark.parametrize(
    ("pointer", "value", "field"),
    [
        ("/intentOp/elements/0/mandate/destinationOps/vt", "0x0201" + "00" * 30, "destinationOps.vt"),
        ("/intentOp/elements/0/mandate/destinationOps/ops/0/value", 0.5, "destinationOps.ops[0].value"),
        (
            "/intentOp/elements/0/mandate/destinationOps/ops/0/data",
            "0xa9 059cbb",
            "destinationOps.ops[0].data",
        ),
        ("/intentOp/elements/0/mandate/destinationOps/ops/0/to", "USDC", "destinationOps.ops[0].to"),
        ("/intentOp/elements/0/mandate/tokenOut", [["1", "2"]], "mandate.tokenOut"),
        ("/intentOp/elements/0/mandate/fillDeadline", str(2**255), "mandate.fillDeadline"),
        ("/intentOp/elements/0/mandate/qualifier/settlementContext/using7579", False, "using7579"),
        ("/intentOp/elements/0/spendTokens", [["1", "2"]], "spendTokens"),
        ("/intentOp/targetExecutionNonce", str(2**256), "targetExecutionNonce"),
        ("/intentOp/elements", [], "intentOp.elements"),
        ("/intentOp/sponsor", "0x", "intentOp.sponsor"),
        ("/intentCost", {}, "intentCost.hasFulfilledAll"),
    ],
)
def test_a_field_out_of_line_is_refused_and_named(
    pipeline: Pipeline, pointer: str, value: object, field: str
) -> None:
    pipeline.devnet.add_fault("alter_quote", path=ROUTE, values={pointer: value}, times=0)
    record = pipeline.run(pipeline.submit("a"))[0]
    assert record.state is State.REJECTED
    assert field in record.reason
    assert record.body == ""
    assert pipeline.budget() == (0, 0)


def test_a_quote_altered_in_redis_between_authorize_and_sign_is_not_signed(pipeline: Pipeline) -> None:
    intent_id = pipeline.submit("a")
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert record.state is State.AUTHORIZED
    nonce = record.orchestrator_id
    altered = record.quote.replace(nonce, str(int(nonce) ^ 1))
    pipeline.ledger.annotate(intent_id, now_ms=pipeline.runtime.now_ms(), fence=record.fence, quote=altered)
    record = pipeline.run(intent_id)[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith("its record in Redis was not written by this program: AUTHORIZED")
    assert pipeline.executed() == 0
