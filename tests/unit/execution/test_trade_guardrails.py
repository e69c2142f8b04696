"""Guardrails of trades over several chains: each chain's session for what is taken there, prices and fees for the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.execution.test_trade_flows import (
    ARBITRUM,
    BASE,
    NOW_S,
    OPTIMISM,
    USDC,
    make_ask,
    make_quote,
)
from worker.execution.ask import Ask, Leg
from worker.execution.errors import GuardrailDeniedError
from worker.execution.explain_trade import ExplainedTrade, explain_trade
from worker.execution.guardrails import approval_needed, charges, over_time, require_within
from worker.execution.tokens import token_table
from worker.execution.trade import require_trade_within, trade_fees, trade_parts
from worker.intents.guardrails import read_guardrails
from worker.ledger.errors import GuardrailExceededError
from worker.policies.guardrails import SESSION_SCOPE, ScopeRules

ARBITER = "0x000000000006e2569caf8ff021810790e0a0d740"
PAID = "0x" + "11" * 20
WETH = "0x4200000000000000000000000000000000000006"
COST = {"hasFulfilledAll": True, "tokensReceived": []}


def held(chain: int, scope: str = SESSION_SCOPE, **entry: Any) -> Ask:
    """The recorded trade, its session of one chain held to guardrails."""
    ask = make_ask(both_claims=True)
    found = read_guardrails(entry, token_table(chain))
    rules = {scope: ScopeRules(scope, found.text(), found)}

    def with_rules(leg: Leg) -> Leg:
        return replace(leg, session=replace(leg.session, rules=rules)) if leg.chain_id == chain else leg

    return replace(ask, target=with_rules(ask.target), sources=tuple(with_rules(leg) for leg in ask.sources))


def explained(ask: Ask, **changes: Any) -> ExplainedTrade:
    return replace(explain_trade(make_quote(), ask, now_s=NOW_S, min_left_s=10), **changes)


def judge(ask: Ask, cost: Mapping[str, Any] = COST, source: str = "cli", **changes: Any) -> None:
    quote = explained(ask, **changes)
    require_trade_within(ask, trade_parts(ask, source, quote), quote, cost)


def test_each_chain_has_a_part_with_what_is_taken_there() -> None:
    ask = make_ask(both_claims=True)
    before = {part.session.chain_id: dict(part.flows.amounts) for part in trade_parts(ask, "cli")}
    # before the quote, the most that the trade allows
    assert before == {
        BASE: {USDC[BASE]: 2_500_000},
        ARBITRUM: {USDC[ARBITRUM]: 2_500_000},
        OPTIMISM: {USDC[OPTIMISM]: 4_000_000},
    }
    parts = trade_parts(ask, "cli", explained(ask))
    assert {part.session.chain_id: dict(part.flows.amounts) for part in parts} == before | {
        ARBITRUM: {USDC[ARBITRUM]: 1_600_000}
    }
    assert [part.own for part in parts] == [False, False, True]
    assert parts[0].flows.spenders == ((-1, ARBITER),)
    assert [charge.session for charge in charges(parts)] == [
        ask.sources[0].session.session_id[4:],
        ask.sources[1].session.session_id[4:],
        "",
    ]
    # a chain that the route takes nothing from counts nothing
    unused = explained(ask, taken={BASE: {USDC[BASE]: 2_500_000}}, spenders={BASE: ARBITER})
    assert [part.session.chain_id for part in trade_parts(ask, "cli", unused)] == [BASE, OPTIMISM]


@pytest.mark.parametrize(
    ("chain", "entry", "words"),
    [
        (BASE, {"per_trade": "2.49 USDC"}, "per_trade: 2.49 USDC allowed, this trade takes 2.5 USDC"),
        (ARBITRUM, {"per_trade": "1.59 USDC"}, "per_trade: 1.59 USDC allowed, this trade takes 1.6 USDC"),
        (OPTIMISM, {"per_trade": "3 USDC"}, "per_trade: 3 USDC allowed, this trade takes 4 USDC"),
        (BASE, {"spenders": [PAID]}, f"spenders: {ARBITER} is not listed"),
        (OPTIMISM, {"recipients": [ARBITER]}, f"recipients: call 0: {PAID} is not listed"),
    ],
)
def test_each_session_holds_its_own_chain(chain: int, entry: dict[str, Any], words: str) -> None:
    ask = held(chain, **entry)
    with pytest.raises(GuardrailDeniedError) as caught:
        judge(ask)
    assert f"guardrail {words}" in str(caught.value)
    session = next(leg.session.session_id for leg in ask.legs if leg.chain_id == chain)
    assert f"set for session {session}" in str(caught.value)


def test_what_is_within_passes() -> None:
    judge(held(BASE, per_trade="2.5 USDC", spenders=[ARBITER]))
    judge(held(OPTIMISM, per_trade="4 USDC", recipients=[PAID], max_fee="0 USDC"))


def test_the_most_that_a_trade_may_take_is_what_is_approved() -> None:
    def waits(threshold: str) -> str:
        return "".join(
            approval_needed(part) for part in trade_parts(held(ARBITRUM, approval_above=threshold), "cli")
        )

    assert "2.4 USDC allowed by session" in waits("2.4 USDC")
    assert waits("2.5 USDC") == ""


def test_a_recipient_of_tokens_is_judged() -> None:
    ask = held(OPTIMISM, recipients=[PAID])
    ask = replace(ask, trade=replace(ask.trade, recipient=ARBITER))
    [part] = [part for part in trade_parts(ask, "cli") if part.own]
    with pytest.raises(GuardrailDeniedError, match=f"recipients: {ARBITER} is not listed"):
        require_within(part)


class TestFees:
    """What is taken and does not arrive, or what the quote states: the larger counts."""

    def test_taken_less_delivered(self) -> None:
        ask = held(OPTIMISM, max_fee="0.1 USDC")
        assert trade_fees(ask, explained(ask), COST) == {USDC[OPTIMISM]: 0}
        judge(ask, delivered={USDC[OPTIMISM]: 4_000_000})
        with pytest.raises(
            GuardrailDeniedError, match=r"max_fee: 0.1 USDC allowed, this trade costs 0.100001 USDC"
        ):
            judge(ask, delivered={USDC[OPTIMISM]: 3_999_999})

    def test_what_the_quote_states(self) -> None:
        ask = held(OPTIMISM, max_fee="0.1 USDC")
        stated = {"tokensReceived": [{"tokenAddress": USDC[OPTIMISM].upper(), "fee": "100001"}]}
        stated["tokensReceived"][0]["tokenAddress"] = "0x" + USDC[OPTIMISM][2:].upper()
        with pytest.raises(GuardrailDeniedError, match=r"this trade costs 0.100001 USDC"):
            judge(ask, stated)

    def test_tokens_that_are_not_the_same_have_no_fee_of_their_own(self) -> None:
        ask = make_ask(both_claims=True)
        assert trade_fees(ask, explained(ask, taken={BASE: {WETH: 10**18}}), COST) == {}

    def test_other_decimals_are_converted_exactly(self) -> None:
        ask = make_ask(both_claims=True)
        weth = explained(ask, taken={BASE: {WETH: 10**18}}, delivered={WETH: 10**18 - 5})
        assert trade_fees(ask, weth, COST) == {WETH: 5}


class TestReferencePrices:
    """What arrives is held against what is taken, over all chains together."""

    def judge(self, delivered: dict[str, int], *rates: str, taken: dict[str, int] | None = None) -> None:
        ask = held(OPTIMISM, min_rates=list(rates), max_slippage="1%")
        judge(
            ask,
            taken={BASE: taken or {WETH: 10**18}},
            spenders={BASE: ARBITER},
            delivered=delivered,
        )

    def test_one_for_one(self) -> None:
        self.judge({USDC[OPTIMISM]: 2_475_000_000}, "1 WETH = 2500 USDC")
        with pytest.raises(
            GuardrailDeniedError, match=r"at least 2475 USDC must be received .* 2474.999999 USDC"
        ):
            self.judge({USDC[OPTIMISM]: 2_474_999_999}, "1 WETH = 2500 USDC")

    def test_a_pair_without_a_price_is_not_bounded(self) -> None:
        self.judge({PAID: 1}, "1 WETH = 2500 USDC")

    def test_one_for_several(self) -> None:
        both = {USDC[OPTIMISM]: 1_250_000_000, PAID: 1}
        with pytest.raises(GuardrailDeniedError, match="1 WETH is sold"):
            self.judge(both, "1 WETH = 2500 USDC")
        self.judge(both | {USDC[OPTIMISM]: 2_475_000_000}, "1 WETH = 2500 USDC")

    def test_several_for_several_cannot_be_told(self) -> None:
        with pytest.raises(GuardrailDeniedError, match="cannot be told"):
            self.judge(
                {USDC[OPTIMISM]: 10**12, PAID: 1}, "1 WETH = 2500 USDC", taken={WETH: 1, USDC[BASE]: 1}
            )


def test_the_ledgers_refusal_names_the_session_that_it_is_about() -> None:
    ask = held(ARBITRUM, per_day="1 USDC", cooldown="1m")
    parts = trade_parts(ask, "strategy:x", explained(ask))
    made = charges(parts)
    assert [charge.scope for charge in made] == ["session", "strategy:x"] * 3
    charge = made[2]
    assert (charge.cooldown_ms, [(cap.window, cap.limit) for cap in charge.caps]) == (
        60_000,
        [("day", 1_000_000)],
    )
    error = over_time(
        GuardrailExceededError(charge, "day", token=USDC[ARBITRUM], limit=1_000_000, used=5), parts
    )
    assert str(error) == (
        "guardrail per_day: 1 USDC allowed in any day, 0.000005 USDC is used or in flight, this trade takes 1.6 USDC; "
        f"set for session {ask.sources[1].session.session_id} (wait, or ask for less)"
    )
