"""A fire becomes one intent, the same however often it is built."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from eth_abi.abi import decode
from hypothesis import given
from hypothesis import strategies as st

from worker.intents.amount import MAX_UINT256, Amount, TokenInfo
from worker.intents.model import TradeIntent
from worker.policies.base import Execution
from worker.strategies.build import decide, intent_of
from worker.strategies.cron import parse_cron
from worker.strategies.errors import StrategyError
from worker.strategies.model import ScheduledStrategy
from worker.strategies.port import Act, Moment, Reads
from worker.strategies.schedule import valid_until
from worker.strategies.transfer import Transfer

USDC = TokenInfo("USDC", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913", 6, 8453)
ETH = TokenInfo("ETH", "0x" + "00" * 20, 18, 8453)
TO = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
ACCOUNT = "0x" + "a1" * 20
SESSION = "ses_0123456789abcdef"
SLOT_S = 1_767_258_000  # 2026-01-01 09:00:00 UTC
DAILY = ScheduledStrategy(
    "rent",
    "recurring-transfer",
    SESSION,
    Transfer(TO, Amount(10_500_000, USDC)),
    parse_cron("0 9 * * *"),
)


def paying(amount: Amount, to: str = TO) -> ScheduledStrategy:
    return replace(DAILY, strategy=Transfer(to, amount))


def build(
    strategy: ScheduledStrategy = DAILY, slot_s: int = SLOT_S, session_account: str = ACCOUNT
) -> TradeIntent:
    until_s = valid_until(strategy, slot_s)
    moment = Moment(
        slot_s, 1, session_account, 8453, until_s, cast("Reads", None), event={"not": "looked at"}
    )
    decision = decide(strategy, moment)
    assert isinstance(decision, Act)
    return intent_of(strategy, str(slot_s), decision, until_s=until_s)


class TestIntent:
    """What is in it."""

    def test_token(self) -> None:
        intent = build()
        assert intent.session_id == SESSION
        assert intent.idempotency_key == f"strategy:rent:{SLOT_S}"
        assert intent.source == "strategy:rent"
        assert intent.note == f"transfer 10.5 USDC to {TO}"
        assert intent.not_after == SLOT_S + 3600
        assert intent.sponsored
        assert intent.calls == (
            Execution(
                USDC.address,
                0,
                bytes.fromhex(
                    "a9059cbb"
                    "00000000000000000000000070997970c51812dc3a010c7d01b50e0d17dc79c8"
                    "0000000000000000000000000000000000000000000000000000000000a037a0"
                ),
            ),
        )

    def test_native(self) -> None:
        intent = build(replace(paying(Amount(10**15, ETH)), sponsored=False, max_lateness_s=60))
        assert intent.calls == (Execution(TO, 10**15, b""),)
        assert (intent.sponsored, intent.not_after) == (False, SLOT_S + 60)

    @given(st.integers(1, MAX_UINT256), st.binary(min_size=20, max_size=20))
    def test_calldata_is_what_the_abi_says(self, value: int, to: bytes) -> None:
        address = "0x" + to.hex()
        (call,) = build(paying(Amount(value, USDC), address)).calls
        assert call.data[:4].hex() == "a9059cbb"
        assert decode(["address", "uint256"], call.data[4:]) == (address, value)

    def test_the_same_slot_is_the_same_intent(self) -> None:
        assert build() == build()
        assert build().intent_id == build().intent_id
        assert build(slot_s=SLOT_S + 86_400).intent_id != build().intent_id
        assert build(replace(DAILY, name="rent2")).intent_id != build().intent_id

    def test_another_amount_of_the_same_slot_is_a_conflict_not_a_second_payment(self) -> None:
        changed = build(paying(Amount(1, USDC)))
        assert changed.intent_id == build().intent_id
        assert changed.payload_hash() != build().payload_hash()

    def test_the_longest_name_fits_an_idempotency_key(self) -> None:
        assert len(build(replace(DAILY, name="n" * 64)).idempotency_key) <= 200


def test_to_itself() -> None:
    with pytest.raises(StrategyError, match="to the account itself"):
        build(session_account=TO)
