"""Valid quotes of both versions with one field changed: each is refused by the field's name, and none is signed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.pipeline import RECIPIENT, Pipeline, transfer
from worker.intents.states import State

ALPS, BLANC = "2026-01.alps", "2026-04.blanc"
PATHS = {ALPS: "/intents/route", BLANC: "/quotes"}
STRANGER = "0x" + "51" * 20
#: The second of the two calls, with one base unit more.
MORE = "0x" + transfer(3).data.hex()
#: The first call to somebody else.
ELSEWHERE = "0x" + transfer(1, to=STRANGER).data.hex()
EXTRA = {"to": STRANGER, "value": "0", "data": "0x"}
IN_TEN_YEARS = int(time.time()) + 315_360_000

_ELEMENT = "/intentOp/elements/0"
_MANDATE = f"{_ELEMENT}/mandate"
_CONTEXT = f"{_MANDATE}/qualifier/settlementContext"
_OPS = f"{_MANDATE}/destinationOps"

#: JSON pointer into the alps answer, the value put there, and how the path in the refusal ends.
OF_ALPS: list[tuple[str, Any, str]] = [
    ("/intentOp/sponsor", STRANGER, "intentOp.sponsor"),
    ("/intentOp/targetExecutionNonce", "0x7", "targetExecutionNonce"),
    ("/intentOp/expires", str(IN_TEN_YEARS), "intentOp.expires"),
    ("/intentOp/elements/-", {}, "intentOp.elements"),
    ("/intentCost/hasFulfilledAll", False, "hasFulfilledAll"),
    (f"{_ELEMENT}/chainId", "10", "chainId"),
    (f"{_ELEMENT}/idsAndAmounts/-", ["1", "1"], "idsAndAmounts"),
    (f"{_ELEMENT}/spendTokens/-", ["1", "1"], "spendTokens"),
    (f"{_MANDATE}/recipient", STRANGER, "mandate.recipient"),
    (f"{_MANDATE}/tokenOut/-", ["1", "1"], "mandate.tokenOut"),
    (f"{_MANDATE}/destinationChainId", "1", "destinationChainId"),
    (f"{_MANDATE}/fillDeadline", str(IN_TEN_YEARS), "fillDeadline"),
    (f"{_CONTEXT}/settlementLayer", "SAME_CHAIN", "settlementContext"),
    (f"{_CONTEXT}/fundingMethod", "PERMIT2", "settlementContext"),
    (f"{_CONTEXT}/using7579", False, "using7579"),
    (f"{_CONTEXT}/gasRefund/token", STRANGER, "gasRefund.token"),
    (f"{_CONTEXT}/gasRefund/exchangeRate", "1", "gasRefund.exchangeRate"),
    (f"{_CONTEXT}/gasRefund/overhead", 1, "gasRefund.overhead"),
    (f"{_OPS}/vt", "0x0201" + "00" * 30, "destinationOps.vt"),
    (f"{_OPS}/ops/0/to", STRANGER, "destinationOps.ops[0]"),
    (f"{_OPS}/ops/0/value", "1", "destinationOps.ops[0]"),
    (f"{_OPS}/ops/0/data", ELSEWHERE, "destinationOps.ops[0]"),
    (f"{_OPS}/ops/1/data", MORE, "destinationOps.ops[1]"),
    (f"{_OPS}/ops/-", EXTRA, "destinationOps.ops[2]"),
    (f"{_MANDATE}/preClaimOps/vt", "0x0205" + "00" * 29 + "01", "preClaimOps.vt"),
    (f"{_MANDATE}/preClaimOps/ops/0/to", STRANGER, "preClaimOps.ops[0]"),
    (f"{_MANDATE}/preClaimOps/ops/-", EXTRA, "preClaimOps.ops[1]"),
]


def _typed(where: str, path: str) -> list[tuple[str, Any, str]]:
    """Every field of one typed data, changed."""
    data, ops = f"/routes/0/signData/{where}", f"/routes/0/signData/{where}/message/op/ops"
    wrong: list[tuple[str, Any, str]] = [
        ("domain/name", "Permit2", "domain.name"),
        ("domain/version", "v0.0.2", "domain.version"),
        ("domain/chainId", 1, "domain.chainId"),
        ("domain/verifyingContract", STRANGER, "domain.verifyingContract"),
        ("domain/salt", "0x00", "domain.salt"),
        ("primaryType", "Op", "primaryType"),
        ("types/SingleChainOps/1/type", "uint128", "types.SingleChainOps"),
        ("types/Op/0/name", "tv", "types.Op"),
        ("types/Ops/-", {"name": "gas", "type": "uint256"}, "types.Ops"),
        ("types/GasRefund", [], "types.GasRefund"),
        ("types/EIP712Domain", [{"name": "name", "type": "string"}], "types.EIP712Domain"),
        ("types/Permit", [], "types.Permit"),
        ("message/account", STRANGER, "message.account"),
        ("message/nonce", str(2**256), "message.nonce"),
        ("message/nonce", "007", "message.nonce"),
        ("message/spender", STRANGER, "message.spender"),
        ("message/op/vt", "0x0201" + "00" * 30, "message.op.vt"),
        ("message/op/sigMode", 1, "message.op.sigMode"),
        ("message/gasRefund/token", STRANGER, "message.gasRefund.token"),
        ("message/gasRefund/exchangeRate", "1", "message.gasRefund.exchangeRate"),
        ("message/gasRefund/overhead", "1", "message.gasRefund.overhead"),
        ("message/op/ops", [], "message.op.ops"),
    ]
    calls: list[tuple[str, Any, str]] = [
        ("0/to", STRANGER, "op.ops[0].to"),
        ("0/value", "1", "op.ops[0].value"),
        ("0/data", ELSEWHERE, "op.ops[0].data"),
        ("1/data", MORE, "op.ops[1].data"),
        ("-", EXTRA, "op.ops[2]"),
    ]
    return [
        *((f"{data}/{pointer}", value, f"{path}.{field}") for pointer, value, field in wrong),
        *((f"{ops}/{pointer}", value, f"{path}.message.{field}") for pointer, value, field in calls),
    ]


OF_BLANC: list[tuple[str, Any, str]] = [
    ("/routes/0/expiresAt", IN_TEN_YEARS, "expiresAt"),
    ("/routes/0/settlementLayer", "SAME_CHAIN", "settlementLayer"),
    ("/routes/0/bridgeFill", {"type": "OFT"}, "bridgeFill"),
    (
        "/routes/0/tokenRequirements",
        {"eip155:8453": {STRANGER: {"type": "wrap", "amount": "1"}}},
        "tokenRequirements",
    ),
    ("/routes/0/cost/input", [{"amount": "1"}], "cost.input"),
    ("/routes/0/cost/output", [{"amount": "1"}], "cost.output"),
    ("/routes/0/signData/origin", [], "signData.origin"),
    ("/routes/0/signData/origin/-", {}, "signData.origin"),
    ("/routes/0/signData/destination/message/nonce", "7", "signData.destination.message.nonce"),
    *_typed("origin/0", "signData.origin[0]"),
    *_typed("destination", "signData.destination"),
    *_typed("targetExecution", "signData.targetExecution"),
]

MUTATIONS = [(ALPS, *row) for row in OF_ALPS] + [(BLANC, *row) for row in OF_BLANC]


@pytest.mark.parametrize("version", [ALPS, BLANC])
def test_changed_in_one_field_a_quote_is_refused_and_untouched_it_is_signed(
    make_pipeline: Callable[..., Pipeline], version: str
) -> None:
    pipeline = make_pipeline(orchestrator_version=version)
    rows = [row[1:] for row in MUTATIONS if row[0] == version]
    wrong: list[str] = []
    for number, (pointer, value, field) in enumerate(rows):
        pipeline.devnet.add_fault("alter_quote", path=PATHS[version], values={pointer: value})
        intent_id = pipeline.submit(f"changed {number}", transfer(1), transfer(2))
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        refused = record.reason.split(" ")[0].rstrip(":").endswith(field)
        if not (record.state is State.REJECTED and refused) or record.body or record.fields.get("digests"):
            wrong.append(f"{pointer} = {value!r}: {record.state} {record.reason}")
        pipeline.messages.clear()
    assert not wrong
    assert pipeline.budget() == (0, 0)
    assert all(fault["hits"] == 1 for fault in pipeline.devnet.faults())
    posted = {entry["path"] for entry in pipeline.devnet.requests(method="POST")}
    assert posted == {PATHS[version]}  # nothing was submitted
    before = pipeline.devnet.usdc_balance(RECIPIENT)
    record = pipeline.run(pipeline.submit("untouched", transfer(1), transfer(2)))[0]
    assert record.state is State.COMPLETED, record.reason
    assert pipeline.devnet.usdc_balance(RECIPIENT) - before == 3


def test_there_are_enough_of_them() -> None:
    assert len(MUTATIONS) >= 40
    assert len({(version, pointer, str(value)) for version, pointer, value, _ in MUTATIONS}) == len(MUTATIONS)
