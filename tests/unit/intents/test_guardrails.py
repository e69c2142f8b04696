"""Guardrails as people write them: exact, or refused with the place and the fix."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from worker.execution.tokens import amount_format, token_table
from worker.intents.guardrails import (
    NAMES,
    GuardrailInputError,
    kept_name,
    read_guardrails,
    read_settings,
    written,
)
from worker.policies.guardrails import GasRefundCap, Guardrails, MinRate, TokenAmount, loosened

PAGE = (Path(__file__).parents[3] / "docs" / "guardrails.md").read_text()
TOKENS = token_table(8453)
USDC = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
WETH = "0x4200000000000000000000000000000000000006"
BOB = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

EVERYTHING = f"""
per_trade = ["100 USDC", "0.05 WETH"]
per_hour = "200 USDC"
per_day = "500.5 USDC"
per_week = "1000 USDC"
approval_above = "50 USDC"
max_fee = "0.25 USDC"
recipients = ["{BOB}"]
spenders = []
cooldown = "5m"
max_lateness = "90s"
min_session_left = "12h"
min_quote_left = "30s"
max_in_flight = 3
max_slippage = "0.05%"
min_rates = "1 WETH = 2400 USDC"
max_gas_refund = {{ token = "USDC", exchange_rate = "3000", overhead = "90000" }}
"""


def read(text: str) -> Guardrails:
    return read_guardrails(tomllib.loads(text), TOKENS)


def test_everything_that_can_be_written() -> None:
    found = read(EVERYTHING)
    assert found == Guardrails(
        per_trade=(
            TokenAmount(token=USDC, amount=100_000_000),
            TokenAmount(token=WETH, amount=50_000_000_000_000_000),
        ),
        per_hour=(TokenAmount(token=USDC, amount=200_000_000),),
        per_day=(TokenAmount(token=USDC, amount=500_500_000),),
        per_week=(TokenAmount(token=USDC, amount=1_000_000_000),),
        approval_above=(TokenAmount(token=USDC, amount=50_000_000),),
        max_fee=(TokenAmount(token=USDC, amount=250_000),),
        recipients=(BOB.lower(),),
        spenders=(),
        cooldown_s=300,
        max_lateness_s=90,
        min_session_left_s=43_200,
        min_quote_left_s=30,
        max_in_flight=3,
        max_slippage_bps=5,
        min_rates=(MinRate(sell=WETH, sell_amount=10**18, buy=USDC, buy_amount=2_400_000_000),),
        max_gas_refund=(GasRefundCap(token=USDC, exchange_rate=3000, overhead=90_000),),
    )
    assert set(tomllib.loads(EVERYTHING)) == set(NAMES)
    assert {kept_name(name) for name in NAMES} == set(Guardrails.model_fields)


def test_what_is_shown_names_all_that_is_set() -> None:
    found = written(read(EVERYTHING), amount_format(8453))
    assert set(found) == set(NAMES)
    assert found["per_trade"] == "100 USDC, 0.05 WETH"
    assert (found["spenders"], found["max_slippage"]) == ("nobody", "0.05%")
    assert found["min_rates"] == "1 WETH = 2400 USDC"
    assert written(Guardrails(), amount_format(8453)) == {}


def test_the_stored_text_gives_the_same_guardrails() -> None:
    found = read(EVERYTHING)
    assert Guardrails.of_text(found.text()).text() == found.text()
    assert Guardrails.of_text("") == Guardrails()


@pytest.mark.parametrize(
    ("written_so", "message"),
    [
        ("per_trade = 100", 'guardrails.per_trade: is a int, not text (write e.g. "10 USDC")'),
        ("per_trade = 100.5", 'guardrails.per_trade: is a float, not text (write e.g. "10 USDC")'),
        ('per_trade = "100"', "guardrails.per_trade: '100' is no amount with a token"),
        ('per_trade = "1e2 USDC"', "guardrails.per_trade: '1e2' is no amount"),
        ('per_trade = "-1 USDC"', "guardrails.per_trade: '-1' is no amount"),
        (
            'per_day = "1.0000001 USDC"',
            "guardrails.per_day: '1.0000001' has more than the 6 decimals of USDC",
        ),
        ('per_day = "1 usdc"', "guardrails.per_day: the token 'usdc' is not known (did you mean USDC?)"),
        ('per_day = ["1 USDC", "2 USDC"]', "guardrails.per_day: names a token twice"),
        ("per_day = []", "guardrails.per_day: is empty (leave it out to set none)"),
        ('recipients = "me"', "guardrails.recipients: must be an address"),
        (f'recipients = "{BOB.replace("C5", "c5")}"', "guardrails.recipients: has a wrong EIP-55 checksum"),
        ("recipients = [0x70]", "guardrails.recipients: is no address"),
        ('cooldown = "5 minutes"', "guardrails.cooldown: '5 minutes' is no duration"),
        ("cooldown = 300", "guardrails.cooldown: '300' is no duration"),
        ('max_lateness = "32d"', "guardrails.max_lateness: '32d' is no duration of at most 31 days"),
        ("max_in_flight = 0", "guardrails.max_in_flight: must be a whole number from 1 to 10000"),
        ("max_in_flight = true", "guardrails.max_in_flight: must be a whole number from 1 to 10000"),
        ('max_slippage = "0.005%"', "guardrails.max_slippage: '0.005%' is no percentage below 100%"),
        ('max_slippage = "100%"', "guardrails.max_slippage: '100%' is no percentage below 100%"),
        ("max_slippage = 0.5", "guardrails.max_slippage: '0.5' is no percentage below 100%"),
        ('min_rates = "1 WETH"', "guardrails.min_rates: is no reference price"),
        ('min_rates = "0 WETH = 1 USDC"', "guardrails.min_rates: is zero"),
        ('min_rates = "1 USDC = 1 USDC"', "guardrails.min_rates: names one token on both sides"),
        (
            'min_rates = ["1 WETH = 2 USDC", "2 WETH = 4 USDC"]',
            "guardrails.min_rates: names a token twice",
        ),
        ('max_gas_refund = "1 USDC"', "guardrails.max_gas_refund: is no gas refund"),
        (
            'max_gas_refund = { token = "USDC", exchange_rate = 1, overhead = "1" }',
            "guardrails.max_gas_refund.exchange_rate: is not text",
        ),
        (
            'max_gas_refund = { token = "USDC", exchange_rate = "1.5", overhead = "1" }',
            "guardrails.max_gas_refund.exchange_rate: must be a whole number",
        ),
        ('per_year = "1 USDC"', "guardrails.per_year: is not known (known: per_trade, "),
    ],
)
def test_what_cannot_be_meant_is_refused(written_so: str, message: str) -> None:
    with pytest.raises(GuardrailInputError) as caught:
        read(written_so)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("setting", "attribute", "value"),
    [
        ("per_trade=100 USDC, 0.05 WETH", "per_trade", read(EVERYTHING).per_trade),
        ('per_trade=["100 USDC", "0.05 WETH"]', "per_trade", read(EVERYTHING).per_trade),
        (f"recipients={BOB}", "recipients", (BOB.lower(),)),
        (f"recipients={BOB},{USDC}", "recipients", (BOB.lower(), USDC)),
        ("spenders=[]", "spenders", ()),
        ("cooldown=5m", "cooldown_s", 300),
        ("max_in_flight=3", "max_in_flight", 3),
        ("max_slippage=0.05%", "max_slippage_bps", 5),
        ("min_rates=1 WETH = 2400 USDC", "min_rates", read(EVERYTHING).min_rates),
    ],
)
def test_settings_of_a_command_line(setting: str, attribute: str, value: Any) -> None:
    assert read_settings([setting], TOKENS) == {attribute: value}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["per_trade"], "--set: 'per_trade' is no NAME=VALUE"),
        (["=1 USDC"], "--set: '=1 USDC' is no NAME=VALUE"),
        (["per_trade="], "--set.per_trade: '' is no amount with a token"),
        (["recipients="], "--set.recipients: must be an address"),
        (["per_trade=100"], "--set.per_trade: is a int, not text"),
        (["cooldown=5m", "cooldown=6m"], "--set: gives cooldown twice"),
        (
            ["per_trade=1 USDC\nper_day = 1"],
            "--set.per_trade: '1 USDC\\nper_day = 1' is no amount with a token",
        ),
    ],
)
def test_settings_that_cannot_be_meant(settings: list[str], message: str) -> None:
    with pytest.raises(GuardrailInputError) as caught:
        read_settings(settings, TOKENS)
    assert str(caught.value).startswith(message)


def test_what_lets_more_through_is_told() -> None:
    """Taking any guardrail away, or raising it, loosens; the other way round does not."""
    old = read(EVERYTHING)
    names = set(Guardrails.model_fields) - {"max_gas_refund", "max_slippage_bps"}
    for name in names:
        without = old.model_copy(update={name: Guardrails.model_fields[name].default})
        assert loosened(old, without) == (name,)
        assert loosened(without, old) == ()
    assert loosened(old, old) == ()
    wider = old.model_copy(
        update={"max_gas_refund": (GasRefundCap(token=USDC, exchange_rate=3001, overhead=0),)}
    )
    assert loosened(old, wider) == ("max_gas_refund",)
    assert loosened(old, old.model_copy(update={"max_slippage_bps": 6})) == ("max_slippage_bps",)


def test_the_page_has_every_guardrail() -> None:
    rows = "".join(line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("| `"))
    assert {name for name in NAMES if f"`{name}`" in rows} == set(NAMES)
