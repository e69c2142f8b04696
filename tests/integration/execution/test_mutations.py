"""Valid quotes of both versions with one field changed: each is refused by the field's name, and none is signed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cross_chain import ARBITRUM, BASE, USDC_OF, CrossChain
from tests.support.pipeline import RECIPIENT, Pipeline, transfer
from tests.support.summary import tell
from worker.devnet.devnet import Devnet
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


def _refund(**changes: Any) -> dict[str, Any]:
    return {"token": "0x" + "00" * 20, "exchangeRate": "0", "overhead": "0", **changes}


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

_ARBITRUM_USDC, _BASE_USDC = (str(int(USDC_OF[chain], 16)) for chain in (ARBITRUM, BASE))
_CLAIM_OPS = f"{_MANDATE}/preClaimOps"
_APPROVE_STRANGER = "0x095ea7b3" + "00" * 12 + STRANGER[2:] + "ff" * 32

#: The same for the alps answer to a trade that takes USDC of Base by Permit2 and delivers it on Arbitrum.
OF_PERMIT2: list[tuple[str, Any, str]] = [
    ("/intentOp/sponsor", STRANGER, "intentOp.sponsor"),
    ("/intentOp/nonce", str(2**256), "intentOp.nonce"),
    ("/intentOp/expires", str(IN_TEN_YEARS), "intentOp.expires"),
    ("/intentOp/elements", [], "intentOp.elements"),
    ("/intentOp/elements/-", {}, "elements[1].mandate"),
    ("/intentCost/hasFulfilledAll", False, "hasFulfilledAll"),
    # who takes what, where
    (f"{_ELEMENT}/arbiter", STRANGER, "elements[0].arbiter"),
    (f"{_ELEMENT}/arbiter", "0x00", "elements[0].arbiter"),
    (f"{_ELEMENT}/chainId", "10", "elements[0].chainId"),
    (f"{_ELEMENT}/chainId", str(ARBITRUM), "elements[0].chainId"),
    (f"{_ELEMENT}/idsAndAmounts", [], "elements[0].idsAndAmounts"),
    (f"{_ELEMENT}/idsAndAmounts/0/0", _ARBITRUM_USDC, "elements[0].idsAndAmounts"),
    (f"{_ELEMENT}/idsAndAmounts/0/0", str(2**160 + int(_BASE_USDC)), "idsAndAmounts[0]"),
    (f"{_ELEMENT}/idsAndAmounts/0/1", "5500001", "elements[0].idsAndAmounts"),
    (f"{_ELEMENT}/idsAndAmounts/0/1", "0", "elements[0].idsAndAmounts[0]"),
    (f"{_ELEMENT}/idsAndAmounts/0/1", str(2**256), "elements[0].idsAndAmounts[0][1]"),
    (f"{_ELEMENT}/idsAndAmounts/-", [_BASE_USDC, "500001"], "elements[0].idsAndAmounts"),
    (f"{_ELEMENT}/spendTokens/0/1", "4999999", "elements[0].spendTokens"),
    # for whom, what, until when
    (f"{_MANDATE}/recipient", STRANGER, "mandate.recipient"),
    (f"{_MANDATE}/tokenOut", [], "mandate.tokenOut"),
    (f"{_MANDATE}/tokenOut/0/0", _BASE_USDC, "mandate.tokenOut"),
    (f"{_MANDATE}/tokenOut/0/1", "4999999", "mandate.tokenOut"),
    (f"{_MANDATE}/tokenOut/-", ["1", "1"], "mandate.tokenOut"),
    (f"{_MANDATE}/destinationChainId", str(BASE), "mandate.destinationChainId"),
    (f"{_MANDATE}/destinationChainId", "10", "mandate.destinationChainId"),
    (f"{_MANDATE}/fillDeadline", "1", "mandate.fillDeadline"),
    (f"{_MANDATE}/fillDeadline", str(IN_TEN_YEARS), "mandate.fillDeadline"),
    (f"{_MANDATE}/minGas", "100000001", "mandate.minGas"),
    (f"{_MANDATE}/minGas", str(2**128), "mandate.minGas"),
    # the account's calls on both sides
    (f"{_OPS}/vt", "0x0201" + "00" * 30, "destinationOps.vt"),
    (f"{_OPS}/ops", [], "destinationOps.ops"),
    (f"{_OPS}/ops/0/to", STRANGER, "destinationOps.ops[0]"),
    (f"{_OPS}/ops/0/value", "1", "destinationOps.ops[0]"),
    (f"{_OPS}/ops/0/data", ELSEWHERE, "destinationOps.ops[0]"),
    (f"{_OPS}/ops/-", EXTRA, "destinationOps.ops[1]"),
    (f"{_CLAIM_OPS}/vt", "0x0205" + "00" * 29 + "01", "preClaimOps.vt"),
    (f"{_CLAIM_OPS}/ops", [], "preClaimOps.ops"),
    (f"{_CLAIM_OPS}/ops/0/to", STRANGER, "preClaimOps.ops[0]"),
    (f"{_CLAIM_OPS}/ops/0/value", "1", "preClaimOps.ops[0]"),
    (f"{_CLAIM_OPS}/ops/0/data", ELSEWHERE, "preClaimOps.ops[0]"),
    (f"{_CLAIM_OPS}/ops/-", EXTRA, "preClaimOps.ops[1]"),
    (
        f"{_CLAIM_OPS}/ops/-",
        {"to": USDC_OF[BASE], "value": "0", "data": _APPROVE_STRANGER},
        "preClaimOps.ops[1]",
    ),
    # how it settles
    (f"{_CONTEXT}/settlementLayer", "ECO", "settlementContext.settlementLayer"),
    (f"{_CONTEXT}/settlementLayer", "WORMHOLE", "settlementContext.settlementLayer"),
    (f"{_CONTEXT}/settlementLayer", "INTENT_EXECUTOR", "settlementContext.fundingMethod"),
    (f"{_CONTEXT}/fundingMethod", "COMPACT", "settlementContext.fundingMethod"),
    (f"{_CONTEXT}/fundingMethod", "NO_FUNDING", "settlementContext.fundingMethod"),
    (f"{_CONTEXT}/using7579", False, "settlementContext.using7579"),
    (f"{_CONTEXT}/gasRefund", _refund(token=STRANGER), "gasRefund.token"),
    (f"{_CONTEXT}/gasRefund", _refund(exchangeRate="1"), "gasRefund.exchangeRate"),
    (f"{_CONTEXT}/gasRefund", _refund(overhead="1"), "gasRefund.overhead"),
    (f"{_MANDATE}/qualifier/encodedVal", "0x" + "00" * 20_000, "qualifier.encodedVal"),
    (f"{_MANDATE}/qualifier/encodedVal", "1234", "qualifier.encodedVal"),
]


def _permit2(where: str, path: str) -> list[tuple[str, Any, str]]:
    """Every field of one Permit2 message of a blanc answer, changed."""
    data = f"/routes/0/signData/{where}"
    wrong: list[tuple[str, Any, str]] = [
        ("domain/name", "Permit3", "domain.name"),
        ("domain/chainId", 10, "domain.chainId"),
        ("domain/verifyingContract", STRANGER, "domain.verifyingContract"),
        ("domain/version", "1", "domain.version"),
        ("primaryType", "Mandate", "primaryType"),
        ("types/Mandate/1/type", "uint256", "types.Mandate"),
        ("types/Target/-", {"name": "fee", "type": "uint256"}, "types.Target"),
        ("types/TokenPermissions/0/name", "coin", "types.TokenPermissions"),
        ("types/Permit", [], "types.Permit"),
        ("types/EIP712Domain", [{"name": "name", "type": "string"}], "types.EIP712Domain"),
        ("message/spender", STRANGER, "message.spender"),
        ("message/nonce", str(2**256), "message.nonce"),
        ("message/deadline", str(IN_TEN_YEARS), "message.deadline"),
        ("message/owner", STRANGER, "message.owner"),
        ("message/permitted", [], "message.permitted"),
        ("message/permitted/0/token", USDC_OF[ARBITRUM], "message.permitted"),
        ("message/permitted/0/amount", "5500001", "message.permitted"),
        ("message/permitted/0/amount", "0", "message.permitted[0].amount"),
        ("message/permitted/-", {"token": USDC_OF[BASE], "amount": "500001"}, "message.permitted"),
        ("message/mandate/target/recipient", STRANGER, "target.recipient"),
        ("message/mandate/target/tokenOut", [], "target.tokenOut"),
        ("message/mandate/target/tokenOut/0/amount", "4999999", "target.tokenOut"),
        ("message/mandate/target/tokenOut/0/token", STRANGER, "target.tokenOut"),
        ("message/mandate/target/targetChain", str(BASE), "target.targetChain"),
        ("message/mandate/target/fillExpiry", str(IN_TEN_YEARS), "target.fillExpiry"),
        ("message/mandate/minGas", str(2**128), "mandate.minGas"),
        ("message/mandate/minGas", "100000001", "mandate.minGas"),
        ("message/mandate/originOps/vt", "0x0201" + "00" * 30, "originOps.vt"),
        ("message/mandate/originOps/ops", [], "originOps.ops"),
        ("message/mandate/originOps/ops/0/data", ELSEWHERE, "originOps.ops[0]"),
        ("message/mandate/originOps/ops/-", EXTRA, "originOps.ops[1]"),
        ("message/mandate/destOps/vt", "0x0205", "destOps.vt"),
        ("message/mandate/destOps/ops", [], "destOps.ops"),
        ("message/mandate/destOps/ops/0/to", STRANGER, "destOps.ops[0]"),
        ("message/mandate/destOps/ops/0/value", "1", "destOps.ops[0]"),
        ("message/mandate/destOps/ops/0/gas", "1", "destOps.ops[0].gas"),
        ("message/mandate/destOps/ops/-", EXTRA, "destOps.ops[1]"),
        ("message/mandate/q", "0x00", "mandate.q"),
        ("message/mandate/fee", "1", "mandate.fee"),
    ]
    mandate = f"{path}.message.mandate."
    return [
        (
            f"{data}/{pointer}",
            value,
            mandate + field.removeprefix("mandate.")
            if pointer.startswith("message/mandate/")
            else f"{path}.{field}",
        )
        for pointer, value, field in wrong
    ]


#: And of the blanc answer to it.
OF_BLANC_PERMIT2: list[tuple[str, Any, str]] = [
    ("/routes/0/expiresAt", IN_TEN_YEARS, "expiresAt"),
    ("/routes/0/settlementLayer", "ECO", "settlementLayer"),
    ("/routes/0/settlementLayer", "WORMHOLE", "settlementLayer"),
    ("/routes/0/bridgeFill", {"type": "OFT", "destinationChainId": 10}, "bridgeFill.destinationChainId"),
    ("/routes/0/tokenRequirements", {"8453": {STRANGER: {}}}, "tokenRequirements"),
    ("/routes/0/cost/input/0/amount", "5500001", "cost.input[0]"),
    ("/routes/0/cost/input/0/tokenAddress", STRANGER, "cost.input[0]"),
    ("/routes/0/cost/output/0/amount", "4999999", "cost.output"),
    ("/routes/0/cost/output/0/chainId", "eip155:10", "cost.output[0].chainId"),
    ("/routes/0/signData/origin", [], "signData.origin"),
    ("/routes/0/signData/origin/-", {}, "signData.origin[1].domain"),
    ("/routes/0/signData/targetExecution", {}, "signData.targetExecution"),
    ("/routes/0/signData/destination/message/nonce", "7", "signData.destination.message"),
    ("/routes/0/signData/destination/message/spender", STRANGER, "signData.destination.message"),
    ("/routes/0/signData/destination/domain/chainId", 10, "signData.destination.message"),
    ("/routes/0/signData/destination/domain/name", "Permit3", "signData.destination.domain.name"),
    ("/routes/0/signData/destination/types/Permit", [], "signData.destination.types.Permit"),
    *_permit2("origin/0", "signData.origin[0]"),
]


def refuse_all(
    pipeline: Pipeline, path: str, rows: list[tuple[str, Any, str]], submit: Callable[[str], str]
) -> list[str]:
    """What did not happen as it should: each row's quote refused by the field's name, and nothing of it signed."""
    wrong: list[str] = []
    for number, (pointer, value, field) in enumerate(rows):
        pipeline.devnet.add_fault("alter_quote", path=path, values={pointer: value})
        intent_id = submit(f"changed {number}")
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        refused = record.reason.split(" ")[0].rstrip(":").endswith(field)
        if not (record.state is State.REJECTED and refused) or record.body or record.fields.get("digests"):
            wrong.append(f"{pointer} = {str(value)[:80]}: {record.state} {record.reason}")
        pipeline.messages.clear()
    assert all(fault["hits"] == 1 for fault in pipeline.devnet.faults())
    return wrong


@pytest.mark.parametrize("version", [ALPS, BLANC])
def test_changed_in_one_field_a_quote_is_refused_and_untouched_it_is_signed(
    make_pipeline: Callable[..., Pipeline], version: str
) -> None:
    pipeline = make_pipeline(orchestrator_version=version)
    rows = [row[1:] for row in MUTATIONS if row[0] == version]
    assert not refuse_all(
        pipeline, PATHS[version], rows, lambda key: pipeline.submit(key, transfer(1), transfer(2))
    )
    assert pipeline.budget() == (0, 0)
    posted = {entry["path"] for entry in pipeline.devnet.requests(method="POST")}
    assert posted == {PATHS[version]}  # nothing was submitted
    before = pipeline.devnet.usdc_balance(RECIPIENT)
    record = pipeline.run(pipeline.submit("untouched", transfer(1), transfer(2)))[0]
    assert record.state is State.COMPLETED, record.reason
    assert pipeline.devnet.usdc_balance(RECIPIENT) - before == 3


@pytest.mark.parametrize("version", [ALPS, BLANC])
def test_a_trade_over_two_chains_is_refused_by_each_changed_field_and_untouched_it_is_signed(
    cross_devnet: Devnet, redis_url: str, tmp_path: Path, version: str
) -> None:
    pipeline = CrossChain(cross_devnet, redis_url, tmp_path, orchestrator_version=version)
    before = [{"to": USDC_OF[BASE], "data": "0x" + transfer(1).data.hex()}]
    trade = pipeline.trade(
        sourceCalls={str(BASE): before}, settlementLayers=["ACROSS"], sourceAssets=["USDC"]
    )

    def submit(key: str) -> str:
        return pipeline.submit_trade(key, trade, calls=[transfer(2, token=USDC_OF[ARBITRUM])])

    # the first one enables the sessions
    record = pipeline.run(submit("enabling"))[0]
    assert record.state is State.COMPLETED, record.reason
    budgets = [pipeline.budget(session) for session in (pipeline.source, pipeline.target)]
    assert budgets == [(1, 0), (2, 0)]
    quotes = len(cross_devnet.requests(method="POST", path=PATHS[version]))
    posts = len(cross_devnet.requests(method="POST"))
    rows = OF_PERMIT2 if version == ALPS else OF_BLANC_PERMIT2
    assert not refuse_all(pipeline, PATHS[version], rows, submit)
    assert [pipeline.budget(session) for session in (pipeline.source, pipeline.target)] == budgets
    asked = len(cross_devnet.requests(method="POST", path=PATHS[version])) - quotes
    assert asked == len(cross_devnet.requests(method="POST")) - posts == len(rows)  # nothing was submitted
    record = pipeline.run(submit("untouched"))[0]
    assert record.state is State.COMPLETED, record.reason
    assert pipeline.held(RECIPIENT) == (2, 4)


def test_there_are_enough_of_them() -> None:
    """Their number is in the report of the run."""
    every = [
        *MUTATIONS,
        *(("permit2", *row) for row in OF_PERMIT2),
        *(("blanc permit2", *row) for row in OF_BLANC_PERMIT2),
    ]
    assert len({(version, pointer, str(value)) for version, pointer, value, _ in every}) == len(every)
    counts = {
        "alps": len(OF_ALPS),
        "alps over chains": len(OF_PERMIT2),
        "blanc": len(OF_BLANC),
        "blanc over chains": len(OF_BLANC_PERMIT2),
    }
    assert sum(counts.values()) >= 40
    parts = ", ".join(f"{name} {count}" for name, count in counts.items())
    tell(f"mutations={len(every)} ({parts})")
