"""Trades from Base to Arbitrum by our own pipeline, on two real chains with a Permit2 that verifies what was signed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cross_chain import (
    ARBITRUM,
    BASE,
    FUNDS,
    RECIPIENT,
    USDC_OF,
    CrossChain,
    claim_policy,
)
from tests.support.openapi import load_openapi, problems
from tests.support.pipeline import transfer
from tests.support.sessions import ACCOUNT
from worker.devnet.chain import ARBITER, ARBITERS, RELAYER, revert_reason
from worker.devnet.devnet import Devnet
from worker.devnet.errors import RpcError
from worker.execution.runtime import now_ms
from worker.execution.watch import tick
from worker.intents.states import State

pytestmark = pytest.mark.services

STRANGER = "0x" + "51" * 20
NATIVE = "0x" + "00" * 20
SOME_USDC = {"chain": BASE, "token": USDC_OF[BASE], "amount": "2500000"}


@pytest.fixture
def make_pipeline(cross_devnet: Devnet, redis_url: str, tmp_path: Path) -> Callable[..., CrossChain]:
    """A pipeline over the two chains."""

    def make(**settings: Any) -> CrossChain:
        return CrossChain(cross_devnet, redis_url, tmp_path, **settings)

    return make


@pytest.fixture
def pipeline(make_pipeline: Callable[..., CrossChain]) -> CrossChain:
    """With claim policies that allow what the tests ask for."""
    return make_pipeline()


class TestTrades:
    """What was asked for arrives, what it costs is taken, and nothing else."""

    def test_the_first_trade_enables_both_sessions_and_the_next_one_uses_them(
        self, pipeline: CrossChain
    ) -> None:
        first = pipeline.run(pipeline.submit_trade("a"))[0]
        assert first.state is State.COMPLETED, first.reason
        assert first.fields["enable_chains"] == f"{BASE} {ARBITRUM}"
        assert pipeline.held() == (FUNDS - 5_000_000, 5_000_000)
        second = pipeline.run(
            pipeline.submit_trade("b", calls=[transfer(2_000_000, token=USDC_OF[ARBITRUM])])
        )[0]
        assert second.state is State.COMPLETED, second.reason
        assert second.fields["enable_chains"] == ""
        assert pipeline.held() == (FUNDS - 10_000_000, 8_000_000)
        assert pipeline.held(RECIPIENT) == (0, 2_000_000)
        # each was filled once on Arbitrum and claimed once on Base
        ids = [record.orchestrator_id for record in (first, second)]
        filled = pipeline.devnet.executions(ACCOUNT, chain_id=ARBITRUM)
        assert [(done.intent_id, done.enabled) for done in filled] == [(ids[0], True), (ids[1], False)]
        assert [record.tx_hash for record in (first, second)] == [done.tx_hash for done in filled]
        assert pipeline.devnet.claims(ACCOUNT, chain_id=BASE) == ids
        assert pipeline.budget(pipeline.target) == (2_000_000, 0)

    def test_who_pays_the_fee_takes_it_from_the_spend(self, pipeline: CrossChain) -> None:
        record = pipeline.run(pipeline.submit_trade("a", sponsored=False))[0]
        assert record.state is State.COMPLETED, record.reason
        assert pipeline.held() == (FUNDS - 5_005_000, 5_000_000)
        exact: dict[str, Any] = {"spend": [{"chain": BASE, "token": USDC_OF[BASE], "amount": "5000000"}]}
        refused = pipeline.run(pipeline.submit_trade("b", pipeline.trade(**exact), sponsored=False))[0]
        assert refused.state is State.REJECTED
        assert "idsAndAmounts" in refused.reason
        assert "the intent allows 5000000" in refused.reason

    def test_tokens_of_both_chains_are_taken_for_one_delivery(self, pipeline: CrossChain) -> None:
        pipeline.devnet.fund(ACCOUNT, usdc=3_000_000)
        pipeline.devnet.fund(ACCOUNT, usdc=4_000_000, chain_id=ARBITRUM)
        trade = pipeline.trade(
            5_000_000,
            sources=[pipeline.source.session_id, pipeline.target.session_id],
            spend=[{"chain": chain, "token": token, "amount": "3000000"} for chain, token in USDC_OF.items()],
        )
        record = pipeline.run(pipeline.submit_trade("a", trade))[0]
        assert record.state is State.COMPLETED, record.reason
        assert pipeline.held() == (0, 4_000_000 - 2_000_000 + 5_000_000)
        assert [len(pipeline.devnet.claims(ACCOUNT, chain_id=chain)) for chain in (BASE, ARBITRUM)] == [1, 1]

    def test_source_calls_are_made_before_the_claim_and_count_against_their_session(
        self, pipeline: CrossChain
    ) -> None:
        data = transfer(1_000_000).data.hex()
        calls = {str(BASE): [{"to": USDC_OF[BASE], "data": f"0x{data}"}]}
        record = pipeline.run(pipeline.submit_trade("a", pipeline.trade(sourceCalls=calls)))[0]
        assert record.state is State.COMPLETED, record.reason
        assert pipeline.held() == (FUNDS - 6_000_000, 5_000_000)
        assert pipeline.held(RECIPIENT) == (1_000_000, 0)
        assert pipeline.budget(pipeline.source) == (1_000_000, 0)
        assert pipeline.budget(pipeline.target) == (0, 0)

    def test_all_there_is_or_exactly_so_much(self, pipeline: CrossChain) -> None:
        pipeline.devnet.fund(ACCOUNT, usdc=7_000_000)
        exact = pipeline.trade(
            2_000_000,
            exactInputs=True,
            spend=[{"chain": BASE, "token": USDC_OF[BASE], "amount": "2500000"}],
        )
        assert pipeline.run(pipeline.submit_trade("exact", exact))[0].state is State.COMPLETED
        assert pipeline.held() == (4_500_000, 2_500_000)
        assert pipeline.run(pipeline.submit_trade("all", pipeline.trade(None)))[0].state is State.COMPLETED
        assert pipeline.held() == (0, 7_000_000)

    def test_another_recipient_where_the_claim_policy_allows_it(
        self, make_pipeline: Callable[..., CrossChain]
    ) -> None:
        pipeline = make_pipeline(claim=claim_policy(recipient_is_sponsor=False))
        record = pipeline.run(pipeline.submit_trade("a", pipeline.trade(recipient=RECIPIENT)))[0]
        assert record.state is State.COMPLETED, record.reason
        assert pipeline.held(RECIPIENT) == (0, 5_000_000)


class TestLost:
    """The orchestrator knows nothing of it any more; the chain is asked before anything is given up."""

    def test_taken_tokens_keep_the_reservation_and_ask_for_a_person(
        self, make_pipeline: Callable[..., CrossChain]
    ) -> None:
        pipeline = make_pipeline(not_found_grace_s=1, max_clock_skew_s=1_000)
        post: dict[str, Any] = {"method": "POST", "path": "/intent-operations"}
        pipeline.devnet.add_fault("hide", delay_ms=3_600_000, **post)
        pipeline.devnet.add_fault("drop_after_accept", **post)
        intent_id = pipeline.submit_trade("a", calls=[transfer(1, token=USDC_OF[ARBITRUM])])
        pipeline.until(lambda: len(pipeline.devnet.claims(ACCOUNT)) == 1, intent_id)
        pipeline.runtime.now_ms = lambda: now_ms() + 600_000
        told = f"its tokens were taken on {BASE}"
        record = pipeline.until(lambda: pipeline.ledger.get(intent_id).reason == told, intent_id)[0]
        assert (record.state, record.attention) == (State.SIGNED, "NOT_FOUND")
        assert pipeline.budget(pipeline.target) == (0, 1)

    def test_never_seen_it_ends_once_no_message_of_it_can_be_used(
        self, make_pipeline: Callable[..., CrossChain]
    ) -> None:
        pipeline = make_pipeline(not_found_grace_s=1, max_clock_skew_s=1_000)
        pipeline.devnet.add_fault("drop_before", method="POST", path="/intent-operations", times=0)
        # the fill may come five minutes after the quote's expiry
        late = {"/intentOp/elements/0/mandate/fillDeadline": str(int(time.time()) + 420)}
        pipeline.devnet.add_fault("alter_quote", path="/intents/route", values=late)
        intent_id = pipeline.submit_trade("a")
        pipeline.until(lambda: pipeline.ledger.get(intent_id).fields.get("sent") == "maybe", intent_id)
        pipeline.runtime.now_ms = lambda: now_ms() + 300_000
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            tick(pipeline.runtime)
            time.sleep(0.1)
        assert pipeline.state(intent_id) is State.SIGNED
        pipeline.runtime.now_ms = lambda: now_ms() + 600_000
        record = pipeline.run(intent_id)[0]
        assert record.state is State.EXPIRED
        assert not pipeline.devnet.executions(ACCOUNT, chain_id=ARBITRUM)


class TestBlanc:
    """The other wire version: the server names the messages, and they are matched."""

    def test_a_trade_in_blanc_and_its_words_are_the_published_ones(
        self, make_pipeline: Callable[..., CrossChain]
    ) -> None:
        description = load_openapi("blanc")
        pipeline = make_pipeline(orchestrator_version="2026-04.blanc")
        data = transfer(1).data.hex()
        calls = {str(BASE): [{"to": USDC_OF[BASE], "data": f"0x{data}"}]}
        first = pipeline.run(pipeline.submit_trade("a", pipeline.trade(sourceCalls=calls)))[0]
        assert first.state is State.COMPLETED, first.reason
        exact = pipeline.trade(
            2_000_000,
            exactInputs=True,
            spend=[{"chain": BASE, "token": USDC_OF[BASE], "amount": "2500000"}],
        )
        more = [transfer(2, token=USDC_OF[ARBITRUM])]
        second = pipeline.run(pipeline.submit_trade("b", exact, calls=more))[0]
        assert second.state is State.COMPLETED, second.reason
        assert pipeline.held() == (FUNDS - 7_500_001, 7_499_998)
        assert pipeline.held(RECIPIENT) == (1, 2)
        filled = pipeline.devnet.executions(ACCOUNT, chain_id=ARBITRUM)
        assert [done.enabled for done in filled] == [True, False]
        assert [first.tx_hash, second.tx_hash] == [done.tx_hash for done in filled]
        assert len(pipeline.devnet.claims(ACCOUNT, chain_id=BASE)) == 2
        found = [text for entry in pipeline.devnet.requests() for text in problems(description, entry)]
        assert not found

    def test_a_session_of_sdk_2_trades_by_its_cross_chain_permit(
        self, make_pipeline: Callable[..., CrossChain]
    ) -> None:
        pipeline = make_pipeline(orchestrator_version="2026-04.blanc")
        permit = {
            "from": {"chain": BASE, "token": USDC_OF[BASE]},
            "to": {"chain": ARBITRUM, "token": USDC_OF[ARBITRUM]},
            "settlementLayers": ["ACROSS"],
            "validUntil": (int(time.time()) + 3_600) * 1000,
        }
        source = pipeline.approve_v2(BASE, crossChainPermits=[permit])
        trade = pipeline.trade(sources=[source.session_id])
        record = pipeline.run(pipeline.submit_trade("a", trade))[0]
        assert record.state is State.COMPLETED, record.reason
        assert pipeline.held() == (FUNDS - 5_000_000, 5_000_000)
        elsewhere = pipeline.trade(sources=[source.session_id], recipient=STRANGER)
        record = pipeline.run(pipeline.submit_trade("b", elsewhere))[0]
        assert record.state is State.REJECTED
        assert "recipientIsSponsor" in record.reason

    def test_what_blanc_cannot_say_is_refused(self, make_pipeline: Callable[..., CrossChain]) -> None:
        pipeline = make_pipeline(orchestrator_version="2026-04.blanc")
        record = pipeline.run(pipeline.submit_trade("a", pipeline.trade(feeAsset="USDC")))[0]
        assert record.state is State.REJECTED
        assert record.reason.startswith("trade.feeAsset: cannot be said in 2026-04.blanc")


class TestChain:
    """The contracts decide by what was signed, whoever asks them."""

    def test_a_claim_is_taken_once_and_only_as_it_was_signed(self, pipeline: CrossChain) -> None:
        for key in ("a", "b"):  # the second one does not enable anything
            record = pipeline.run(pipeline.submit_trade(key))[0]
            assert record.state is State.COMPLETED, record.reason
        rpc = pipeline.devnet.rpc_of(BASE)
        [_, entry] = rpc.call("eth_getLogs", {"address": ARBITER, "fromBlock": "0x0", "toBlock": "latest"})
        data = str(rpc.call("eth_getTransactionByHash", entry["transactionHash"])["input"])
        before = hex(int(entry["blockNumber"], 16) - 1)

        def claim(data: str, block: str) -> str:
            """How the arbiter's call ends at a block: its revert, or nothing."""
            call = {"from": RELAYER, "to": ARBITER, "data": data, "gas": hex(10_000_000)}
            try:
                rpc.call("eth_call", call, block)
            except RpcError as error:
                return revert_reason(error)
            return ""

        assert claim(data, before) == ""
        assert claim(data, "latest") == "InvalidNonce"
        amount, recipient = f"{5_000_000:064x}", f"{int(ACCOUNT, 16):064x}"
        for wrong in (
            data.replace(amount, f"{5_000_001:064x}"),
            data[:74] + data[74:].replace(recipient, f"{int(STRANGER, 16):064x}"),
            data.replace(f"{ARBITRUM:064x}", f"{BASE:064x}"),
        ):
            assert wrong != data
            assert claim(wrong, before) == "InvalidContractSignature"


@pytest.mark.parametrize("version", ["2026-01.alps", "2026-04.blanc"])
class TestSwaps:
    """USDC for the chain's own currency: Permit2 on one chain, signed once more for the Intent Executor."""

    def test_a_swap_on_one_chain_enables_and_uses(
        self, make_pipeline: Callable[..., CrossChain], version: str
    ) -> None:
        pipeline = make_pipeline(
            claim=claim_policy(arbiters=tuple(ARBITERS.values())), orchestrator_version=version
        )
        ether = pipeline.devnet.eth_balance(ACCOUNT)
        swap = pipeline.trade(
            tokens=[{"token": NATIVE, "amount": str(10**15)}], sources=[], sourceAssets=["USDC"]
        )
        for key, calls in (("a", []), ("b", [transfer(1)])):
            intent = pipeline.submit_trade(key, swap, session_id=pipeline.source.session_id, calls=calls)
            record = pipeline.run(intent)[0]
            assert record.state is State.COMPLETED, record.reason
            assert "targetExecution" in record.body
        # 0.001 ETH for 2.5 USDC, twice, and one base unit for the recipient
        assert pipeline.devnet.eth_balance(ACCOUNT) - ether == 2 * 10**15
        assert pipeline.held() == (FUNDS - 5_000_001, 0)
        assert [done.enabled for done in pipeline.devnet.executions(ACCOUNT)] == [True, False]
        assert len(pipeline.devnet.claims(ACCOUNT)) == 2

    def test_ether_on_another_chain(self, make_pipeline: Callable[..., CrossChain], version: str) -> None:
        pipeline = make_pipeline(orchestrator_version=version)
        trade = pipeline.trade(tokens=[{"token": NATIVE}], spend=[SOME_USDC], exactInputs=True)
        record = pipeline.run(pipeline.submit_trade("a", trade))[0]
        assert record.state is State.COMPLETED, record.reason
        ether = pipeline.devnet.rpc_of(ARBITRUM).quantity("eth_getBalance", ACCOUNT, "latest")
        assert ether == 10**15
        assert pipeline.held() == (FUNDS - 2_500_000, 0)


class TestRefusals:
    """What a session's claim policy does not allow, and what nobody can fill, ends without a signature."""

    @pytest.mark.parametrize(
        ("claim", "trade", "field"),
        [
            ({}, {"recipient": STRANGER}, "recipientIsSponsor"),
            ({"arbiters": (STRANGER,)}, {}, "arbiters"),
            ({"tokens_in": claim_policy().tokens_in[1:]}, {}, "tokensIn"),
        ],
    )
    def test_the_claim_policy_decides_before_we_sign(
        self,
        make_pipeline: Callable[..., CrossChain],
        claim: dict[str, Any],
        trade: dict[str, Any],
        field: str,
    ) -> None:
        pipeline = make_pipeline(claim=claim_policy(**claim))
        record = pipeline.run(pipeline.submit_trade("a", pipeline.trade(**trade)))[0]
        assert record.state is State.REJECTED
        assert "permit2-claim" in record.reason
        assert field in record.reason
        assert not record.body
        assert not pipeline.devnet.requests("/intent-operations")

    def test_too_little_on_the_source_chain_is_said_by_the_orchestrator(self, pipeline: CrossChain) -> None:
        pipeline.devnet.fund(ACCOUNT, usdc=4_999_999)
        record = pipeline.run(pipeline.submit_trade("a"))[0]
        assert record.state is State.FAILED
        assert "Insufficient balance" in record.reason
        assert pipeline.budget(pipeline.target) == (0, 0)

    def test_a_fill_that_cannot_be_claimed_ends_as_failed(self, pipeline: CrossChain) -> None:
        pipeline.devnet.set_delays(preconfirm_ms=0, fill_ms=0, complete_ms=1_500)
        intent_id = pipeline.submit_trade("a")
        pipeline.until(lambda: pipeline.ledger.get(intent_id).orchestrator_status == "FILLED", intent_id)
        pipeline.devnet.fund(ACCOUNT, usdc=0)
        record = pipeline.run(intent_id)[0]
        assert record.state is State.FAILED
        assert pipeline.held() == (0, 5_000_000)
