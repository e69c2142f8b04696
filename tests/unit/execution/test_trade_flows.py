"""Trades of SDK 1.15.0: our quote request and our submit body are the recorded ones; what they sign is explained."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.support.vectors import load_vectors
from tests.unit.execution.test_sdk_flows import MemoryKeys
from worker.execution.ask import Ask, Leg, check_legs
from worker.execution.errors import (
    IntentInputError,
    PolicyDeniedError,
    SessionUnusableError,
    StaleQuoteError,
    UnexplainedQuoteError,
)
from worker.execution.explain_trade import explain_trade
from worker.execution.trade import trade_signatures
from worker.execution.trade_request import blanc_trade_request, trade_request
from worker.intents.trade import Sponsorship, Trade
from worker.orchestrator import exact_json
from worker.orchestrator.port import Quote
from worker.policies.base import Execution
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.signing.intent_op import payloads

CROSS_CHAIN = "flow_c_cross_chain_permit2"
SAME_CHAIN = ("flow_d_bare_session_permit2_same_chain", "flow_e_jwt_sponsored_same_chain_permit2")
BASE, ARBITRUM, OPTIMISM = 8453, 42161, 10
USDC = {
    BASE: "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913",
    ARBITRUM: "0xaf88d065e77c8cc2239327c5edb3a432268e5831",
    OPTIMISM: "0x0b2c639c533813f4aa9d7837caf62653d097ff85",
}
STRANGER = "0x" + "51" * 20
#: Shortly before the recorded quote's fill deadline.
NOW_S = 1_893_454_900


def _call(given: dict[str, str]) -> Execution:
    return Execution(given["to"].lower(), int(given["value"]), bytes.fromhex(given["data"][2:]))


def _session(flow: dict[str, Any], given: dict[str, Any], **changes: Any) -> RegisteredSession:
    account = flow["account"]
    setup = []
    if not account["existing"]:
        setup = [{"to": account["factory"], "data": account["factoryData"]}]
    content: dict[str, Any] = {
        "account": {
            "address": account["address"],
            "kind": account["type"],
            "setupOps": setup,
            "owners": {"accounts": [flow["keys"]["owner"]["address"]]},
        },
        "chain": given["chainId"],
        "owners": {"accounts": given["owners"]["addresses"]},
        "actions": given.get("actions", []),
        **{name: given[name] for name in ("claimPolicies", "restrictToActions") if name in given},
        **changes,
    }
    return recompute(load_session_file(json.dumps(content)))


def make_ask(name: str = CROSS_CHAIN, *, both_claims: bool = False) -> Ask:
    """The trade of a flow. ``both_claims``: the claim policies list the tokens of both source chains."""
    flow = load_vectors(name)
    transaction = flow["transaction"]
    signer = transaction["signer"]
    given = signer.get("sessions") or {str(transaction["chainId"]): signer}
    changes: dict[str, Any] = {}
    if both_claims:
        changes["claimPolicies"] = [
            {
                "type": "permit2-claim",
                "arbiters": ["0x000000000006e2569CaF8Ff021810790e0A0D740"],
                "tokensIn": [{"chainId": chain, "token": USDC[chain]} for chain in (BASE, ARBITRUM)],
                "recipientIsSponsor": True,
            }
        ]
    sources = transaction.get("sourceChainIds") or [transaction["chainId"]]
    target = transaction.get("targetChainId", transaction.get("chainId"))
    legs = {
        int(chain): Leg(
            _session(flow, entry["session"], **(changes if int(chain) in sources and both_claims else {})),
            False,
        )
        for chain, entry in given.items()
    }
    trade = Trade.from_json(
        {
            "tokens": [
                {"token": item["address"], "amount": item["amount"]}
                for item in transaction.get("tokenRequests", [])
            ],
            "sources": [legs[chain].session.session_id for chain in sources],
            "spend": [
                {"chain": chain, "token": USDC[chain], "amount": "2500000"}
                for chain in sources
                if chain in USDC
            ],
            "sourceAssets": transaction.get("sourceAssets", []),
            "sourceCalls": transaction.get("sourceCalls", {}),
            "settlementLayers": transaction.get("settlementLayers", []),
            **({"feeAsset": transaction["feeAsset"]} if "feeAsset" in transaction else {}),
        }
    )
    return Ask(
        legs[target],
        tuple(legs[chain] for chain in sources),
        tuple(_call(call) for call in transaction["calls"]),
        trade,
        transaction.get("sponsored", False),
    )


def _keys(name: str) -> MemoryKeys:
    return MemoryKeys(
        {
            entry["address"].lower(): bytes.fromhex(entry["privateKey"][2:])
            for entry in load_vectors(name)["keys"].values()
        }
    )


@pytest.mark.parametrize("name", [CROSS_CHAIN, *SAME_CHAIN])
class TestTheSdksBytes:
    """What is sent is what SDK 1.15.0 sent."""

    def test_the_quote_request(self, name: str) -> None:
        recorded = load_vectors(name)["expected"]["http"][0]["request"]["bodyText"]
        # addresses keep the case in which they were given, which nothing depends on
        assert json.dumps(trade_request(make_ask(name)), separators=(",", ":")).lower() == recorded.lower()

    def test_the_submit_body(self, name: str) -> None:
        route, submit = load_vectors(name)["expected"]["http"][:2]
        intent_op = route["response"]["body"]["intentOp"]
        ask = make_ask(name)
        message = payloads(intent_op, ask.account, with_target=ask.target.session.verify_executions)
        members = trade_signatures(message, ask, _keys(name))
        raw = json.dumps(intent_op, separators=(",", ":"))
        body = '{"signedIntentOp":' + exact_json.with_members(raw, members) + "}"
        assert body == submit["request"]["bodyText"]


def make_quote(change: Callable[[dict[str, Any]], None] = lambda _answer: None) -> Quote:
    answer = copy.deepcopy(load_vectors(CROSS_CHAIN)["expected"]["http"][0]["response"]["body"])
    change(answer)
    op = answer["intentOp"]
    expires = op["expires"]
    return Quote(
        str(op["nonce"]),
        int(expires) if str(expires).isdigit() else 0,
        json.dumps(op),
        op,
        answer["intentCost"],
    )


def _put(pointer: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(answer: dict[str, Any]) -> None:
        here: Any = answer
        *parts, last = pointer.split("/")[1:]
        for part in parts:
            here = here[int(part)] if isinstance(here, list) else here[part]
        if isinstance(here, list):
            if last == "-":
                here.append(value)
            else:
                here[int(last)] = value
        else:
            here[last] = value

    return change


def _explain(quote: Quote, ask: Ask | None = None, *, now_s: int = NOW_S) -> Any:
    return explain_trade(quote, ask or make_ask(both_claims=True), now_s=now_s, min_left_s=10)


def _word(address: str) -> str:
    return str(int(address, 16))


def _approve(spender: str, amount: int = 2**256 - 1) -> str:
    return "0x095ea7b3" + "00" * 12 + spender[2:] + f"{amount:064x}"


PERMIT2 = "0x000000000022d473030f116ddee9f6b43ac78ba3"
E0, E1 = "/intentOp/elements/0", "/intentOp/elements/1"
M0, M1 = f"{E0}/mandate", f"{E1}/mandate"
C0 = f"{M0}/qualifier/settlementContext"
EXTRA = {"to": STRANGER, "value": "0", "data": "0x"}

#: JSON pointer, the value put there, and how the path in the refusal ends.
MUTATIONS: list[tuple[str, Any, str]] = [
    ("/intentOp/sponsor", STRANGER, "intentOp.sponsor"),
    ("/intentOp/nonce", "0x7", "intentOp.nonce"),
    ("/intentOp/expires", str(NOW_S + 90_000), "intentOp.expires"),
    ("/intentOp/elements", [], "intentOp.elements"),
    ("/intentCost/hasFulfilledAll", False, "hasFulfilledAll"),
    (f"{E0}/arbiter", STRANGER, "elements[0].arbiter"),
    (f"{E1}/arbiter", "0x00", "elements[1].arbiter"),
    (f"{E0}/chainId", "1", "elements[0].chainId"),
    (f"{E1}/chainId", str(BASE), "elements[1].chainId"),
    (f"{E0}/idsAndAmounts", [], "elements[0].idsAndAmounts"),
    (f"{E0}/idsAndAmounts/0/1", "2500001", "elements[0].idsAndAmounts"),
    (f"{E1}/idsAndAmounts/0/1", "0", "elements[1].idsAndAmounts[0]"),
    (f"{E0}/idsAndAmounts/0/0", _word(STRANGER), "elements[0].idsAndAmounts"),
    (f"{E0}/idsAndAmounts/0/0", str(2**160 + int(USDC[BASE], 16)), "elements[0].idsAndAmounts[0]"),
    (f"{E0}/idsAndAmounts/-", [_word(USDC[BASE]), "1"], "elements[0].idsAndAmounts"),
    (f"{E0}/spendTokens/0/1", "2499999", "elements[0].spendTokens"),
    (f"{M0}/recipient", STRANGER, "mandate.recipient"),
    (f"{M0}/destinationChainId", "1", "mandate.destinationChainId"),
    (f"{M0}/fillDeadline", str(NOW_S - 1), "mandate.fillDeadline"),
    (f"{M0}/fillDeadline", str(NOW_S + 90_000), "mandate.fillDeadline"),
    (f"{M0}/tokenOut", [], "mandate.tokenOut"),
    (f"{M0}/tokenOut/0/1", "2399999", "mandate.tokenOut"),
    (f"{M0}/tokenOut/0/0", _word(STRANGER), "mandate.tokenOut"),
    (f"{M0}/minGas", "100000001", "mandate.minGas"),
    (f"{M0}/destinationOps/vt", "0x0201" + "00" * 30, "destinationOps.vt"),
    (f"{M0}/destinationOps/ops", [], "destinationOps.ops"),
    (f"{M0}/destinationOps/ops/0/to", STRANGER, "destinationOps.ops[0]"),
    (f"{M0}/destinationOps/ops/0/value", "1", "destinationOps.ops[0]"),
    (f"{M1}/destinationOps/ops/0/data", "0xa9059cbb", "destinationOps.ops[0]"),
    (f"{M0}/destinationOps/ops/-", EXTRA, "destinationOps.ops[1]"),
    (f"{M0}/preClaimOps/vt", "0x0205" + "00" * 29 + "01", "preClaimOps.vt"),
    (f"{M0}/preClaimOps/ops/-", EXTRA, "preClaimOps.ops[0]"),
    (
        f"{M0}/preClaimOps/ops/-",
        {"to": USDC[BASE], "value": "0", "data": _approve(STRANGER)},
        "preClaimOps.ops[0]",
    ),
    (f"{C0}/settlementLayer", "ECO", "settlementContext.settlementLayer"),
    (f"{C0}/settlementLayer", "WORMHOLE", "settlementContext.settlementLayer"),
    (f"{C0}/settlementLayer", "INTENT_EXECUTOR", "settlementContext.fundingMethod"),
    (f"{C0}/fundingMethod", "COMPACT", "settlementContext.fundingMethod"),
    (f"{C0}/fundingMethod", "NO_FUNDING", "settlementContext.fundingMethod"),
    (f"{C0}/using7579", False, "settlementContext.using7579"),
    (f"{C0}/gasRefund", {"token": STRANGER, "exchangeRate": "0", "overhead": "0"}, "gasRefund.token"),
    (
        f"{C0}/gasRefund",
        {"token": "0x" + "00" * 20, "exchangeRate": "1", "overhead": "0"},
        "gasRefund.exchangeRate",
    ),
    (f"{M0}/qualifier/encodedVal", "0x" + "00" * 20_000, "qualifier.encodedVal"),
    (f"{M0}/qualifier/encodedVal", "1234", "qualifier.encodedVal"),
]


class TestExplanation:
    """Every field of a Permit2 route is what was asked for, or names itself."""

    def test_the_untouched_route_is_explained(self) -> None:
        explained = _explain(make_quote())
        assert set(explained.executions) == {OPTIMISM}
        assert explained.executions[OPTIMISM] == make_ask().calls
        assert [payload.kind for payload in explained.message.origins] == ["permit2", "permit2"]
        assert explained.message.target is None
        assert explained.latest_s == 1_893_456_000

    @pytest.mark.parametrize(("pointer", "value", "field"), MUTATIONS)
    def test_one_changed_field_is_refused_by_its_name(self, pointer: str, value: Any, field: str) -> None:
        with pytest.raises(UnexplainedQuoteError) as caught:
            _explain(make_quote(_put(pointer, value)))
        assert caught.value.field.endswith(field), str(caught.value)

    def test_compact_is_refused_with_its_reason(self) -> None:
        with pytest.raises(
            UnexplainedQuoteError, match="Compact signature, which SDK 1\\.15\\.0 slices wrongly"
        ):
            _explain(make_quote(_put(f"{C0}/fundingMethod", "COMPACT")))

    def test_a_quote_that_ends_too_soon_is_asked_for_anew(self) -> None:
        with pytest.raises(StaleQuoteError):
            _explain(make_quote(_put("/intentOp/expires", str(NOW_S + 10))))

    def test_a_policy_may_allow_permit2_for_a_claimed_token(self) -> None:
        call = {"to": USDC[BASE], "value": "0", "data": _approve(PERMIT2)}
        explained = _explain(make_quote(_put(f"{M0}/preClaimOps/ops/-", call)))
        # the session's policies then judge it on its chain
        assert explained.executions[BASE] == (_call(call),)

    def test_an_arbiter_of_the_settings_is_known(self) -> None:
        ask = make_ask()
        quote = make_quote(_put(f"{E0}/arbiter", STRANGER))
        with pytest.raises(
            PolicyDeniedError, match="arbiters"
        ):  # known, and the session's claim policy says no
            explain_trade(quote, ask, arbiters=[STRANGER], now_s=NOW_S, min_left_s=10)

    def test_a_token_that_the_claim_policy_does_not_list_for_the_chain_is_denied(self) -> None:
        # as recorded, Arbitrum's session lists Base's token only
        with pytest.raises(PolicyDeniedError, match=r"elements\[1\]: tokensIn") as caught:
            _explain(make_quote(), make_ask())
        assert caught.value.field == "permit2-claim"

    def test_a_recipient_that_is_not_the_account_is_denied_by_the_claim_policy(self) -> None:
        ask = make_ask(both_claims=True)
        ask = replace(ask, trade=replace(ask.trade, recipient=STRANGER))

        def change(answer: dict[str, Any]) -> None:
            for element in answer["intentOp"]["elements"]:
                element["mandate"]["recipient"] = STRANGER

        with pytest.raises(PolicyDeniedError, match="recipientIsSponsor"):
            _explain(make_quote(change), ask)

    def test_the_deadline_that_was_asked_for_holds(self) -> None:
        ask = make_ask(both_claims=True)
        ask = replace(ask, trade=replace(ask.trade, deadline_s=1_893_455_999))
        with pytest.raises(UnexplainedQuoteError, match="deadline"):
            _explain(make_quote(), ask)

    def test_there_are_enough_of_them(self) -> None:
        assert len(MUTATIONS) >= 15
        assert len({(pointer, str(value)) for pointer, value, _ in MUTATIONS}) == len(MUTATIONS)


class TestTerms:
    """Every term of a trade is in the request."""

    def test_recipient_deadline_exact_inputs_and_partial_sponsorship(self) -> None:
        ask = make_ask()
        trade = replace(
            ask.trade,
            recipient=STRANGER,
            deadline_s=NOW_S,
            exact_inputs=True,
            source_assets=(),
            sponsorship=Sponsorship(gas=True, bridging=False, swaps=False),
        )
        request = trade_request(replace(ask, trade=trade))
        assert list(request)[:4] == ["destinationChainId", "tokenRequests", "recipient", "account"]
        assert request["recipient"]["accountType"] == "EOA"
        assert request["options"]["customDeadline"] == NOW_S
        assert request["options"]["sponsorSettings"] == {
            "gasSponsored": True,
            "bridgeFeesSponsored": False,
            "swapFeesSponsored": False,
            "protocolFeesSponsored": False,
        }
        assert [(item["chainId"], item["amount"]) for item in request["accountAccessList"]] == [
            (BASE, "2500000"),
            (ARBITRUM, "2500000"),
        ]

    def test_blanc_says_them_in_its_own_words(self) -> None:
        ask = make_ask()
        trade = replace(ask.trade, fee_asset="", exact_inputs=True, source_assets=())
        request = blanc_trade_request(
            replace(ask, trade=trade), {BASE: b"\1", ARBITRUM: b"\2", OPTIMISM: b"\3"}
        )
        assert request["destinationChainId"] == "eip155:10"
        assert set(request["accountAccessList"]["chainTokenAmounts"]) == {"eip155:8453", "eip155:42161"}
        with pytest.raises(IntentInputError, match="feeAsset"):
            blanc_trade_request(ask, {})

    def test_sessions_must_go_together(self) -> None:
        ask = make_ask()
        target, sources = ask.target.session, tuple(leg.session for leg in ask.sources)
        check_legs(target, sources, ask.trade)
        with pytest.raises(IntentInputError, match="two sessions are for chain 8453"):
            check_legs(target, (*sources, sources[0]), ask.trade)
        with pytest.raises(IntentInputError, match="is of account"):
            check_legs(replace(target, account=STRANGER), sources, ask.trade)
        with pytest.raises(IntentInputError, match="which is no source chain"):
            check_legs(target, sources[:1], ask.trade)
        with pytest.raises(SessionUnusableError, match="can sign no Permit2 claim"):
            check_legs(target, (replace(sources[0], restricted=True), sources[1]), ask.trade)
