"""Balances, chains and splits, asked of the devnet in both versions and held against the published descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.openapi import load_openapi, problems
from tests.support.sessions import ACCOUNT, BASE, OWNER_KEY, USDC
from worker.devnet.devnet import Devnet
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.blanc import BlancOrchestrator
from worker.orchestrator.errors import InsufficientLiquidityError, RequestRefusedError
from worker.orchestrator.port import Orchestrator
from worker.signing.sign import address_of

pytest_plugins = ["tests.support.anvil"]
pytestmark = pytest.mark.services

KINDS = {"alps": AlpsOrchestrator, "blanc": BlancOrchestrator}
#: More than all the devnet's fillers have: 2 million USDC and one base unit.
TOO_MUCH = 2_000_000_000_001


@pytest.fixture(params=["alps", "blanc"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def orchestrator(devnet: Devnet, version: str) -> Iterator[Orchestrator]:
    """A client of each version; the account has 12.5 USDC and 1 ETH."""
    devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=12_500_000, eth=10**18)
    client = KINDS[version](devnet.orchestrator_url, api_key=devnet.api_key, timeout_ms=10_000)
    yield client
    client.close()


def test_the_portfolio_is_read_and_its_text_kept(orchestrator: Orchestrator) -> None:
    found = orchestrator.portfolio(ACCOUNT)
    assert {(item.chain, item.symbol, item.decimals, item.unlocked) for item in found.holdings} == {
        (str(BASE), "USDC", 6, 12_500_000),
        (str(BASE), "ETH", 18, 10**18),
    }
    assert set(json.loads(found.raw)) == {"portfolio"}
    assert [item.symbol for item in orchestrator.portfolio(ACCOUNT, tokens=[(BASE, USDC)]).holdings] == [
        "USDC"
    ]
    assert len(orchestrator.portfolio(ACCOUNT, chains=[BASE]).holdings) == 2
    assert not orchestrator.portfolio(ACCOUNT, chains=[10, 1]).holdings


def test_the_chains_are_read_and_what_is_not_known_survives(orchestrator: Orchestrator) -> None:
    found = orchestrator.chains()
    [chain] = found.chains
    assert (chain.chain, chain.name, chain.testnet) == (str(BASE), "Base", False)
    assert ("USDC", USDC, 6) in {
        (token.symbol, token.token.lower(), token.decimals) for token in chain.tokens or ()
    }
    assert "devnetNote" in found.raw


def test_an_amount_is_split_or_what_cannot_be_filled_is_told(orchestrator: Orchestrator) -> None:
    assert orchestrator.splits(BASE, {USDC: 400_000_000_001}, layers=["ACROSS"]).intents == (
        {USDC: 400_000_000_000},
        {USDC: 1},
    )
    with pytest.raises(InsufficientLiquidityError, match=f"nobody can fill 1 of {USDC}") as caught:
        orchestrator.splits(BASE, {USDC: TOO_MUCH})
    assert caught.value.unfillable == {USDC: 1}
    assert sum(part[USDC] for part in caught.value.available) == TOO_MUCH - 1
    with pytest.raises(RequestRefusedError, match="Unsupported chain"):
        orchestrator.splits(1, {USDC: 1})


def test_the_requests_and_replies_are_the_published_ones(
    orchestrator: Orchestrator, devnet: Devnet, version: str
) -> None:
    description = load_openapi(version)
    orchestrator.portfolio(ACCOUNT, chains=[BASE], tokens=[(BASE, USDC)])
    orchestrator.chains()
    orchestrator.splits(BASE, {USDC: 1}, layers=["ACROSS", "ECO"])
    with pytest.raises(InsufficientLiquidityError):
        orchestrator.splits(BASE, {USDC: TOO_MUCH})
    log = devnet.requests()
    assert len(log) == 4
    assert [text for entry in log for text in problems(description, entry)] == []
