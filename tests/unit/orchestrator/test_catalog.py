"""Answers about balances, chains and liquidity: exact amounts, unknown members ignored, anything else named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from worker.orchestrator.catalog import (
    alps_filter,
    alps_portfolio,
    blanc_filter,
    blanc_portfolio,
    splits,
    supported_chains,
)

MOST = 2**256 - 1
TOKEN = "0x" + "ab" * 20


def alps(**changes: Any) -> dict[str, Any]:
    entry = {
        "chainId": 8453,
        "tokenAddress": TOKEN,
        "balance": {"locked": "1", "unlocked": str(MOST), "more": 1},
        **changes,
    }
    return {"portfolio": [{"tokenName": "X", "tokenDecimals": 18, "tokenChainBalance": [entry], "usd": 1}]}


def blanc(**changes: Any) -> dict[str, Any]:
    entry = {"chainId": "eip155:8453", "address": TOKEN, "decimals": 18, "amount": str(MOST), **changes}
    return {"portfolio": [{"symbol": "X", "chains": [entry]}]}


class TestPortfolio:
    """The same balance in the words of both versions."""

    def test_amounts_are_exact_whether_text_or_number(self) -> None:
        [of_alps] = alps_portfolio(alps(), "").holdings
        [of_blanc] = blanc_portfolio(blanc(amount=MOST), "").holdings
        assert of_alps.unlocked == of_blanc.unlocked == MOST
        assert (of_alps.locked, of_blanc.locked) == (1, 0)
        assert of_alps.chain == of_blanc.chain == "8453"

    def test_a_chain_that_is_no_evm_one_keeps_its_name(self) -> None:
        [holding] = blanc_portfolio(blanc(chainId="solana:5eykt4"), "").holdings
        assert holding.chain == "solana:5eykt4"

    @pytest.mark.parametrize(
        ("read", "value", "path"),
        [
            (alps_portfolio, {}, "portfolio must be a list"),
            (alps_portfolio, {"portfolio": [1]}, r"portfolio\[0\] must be an object"),
            (alps_portfolio, alps(balance={"locked": "0"}), r"tokenChainBalance\[0\]\.balance\.unlocked"),
            (
                alps_portfolio,
                alps(balance={"locked": "0", "unlocked": "-1"}),
                r"balance\.unlocked must be a whole",
            ),
            (alps_portfolio, alps(chainId=True), r"tokenChainBalance\[0\]\.chainId"),
            (blanc_portfolio, blanc(amount=1.5), r"chains\[0\]\.amount"),
            (blanc_portfolio, blanc(decimals=256), r"chains\[0\]\.decimals is no uint8"),
            (blanc_portfolio, blanc(chainId=8453), r"chains\[0\]\.chainId must be text"),
        ],
    )
    def test_another_shape_is_named(
        self, read: Callable[[dict[str, Any], str], object], value: dict[str, Any], path: str
    ) -> None:
        with pytest.raises(ValueError, match=path):
            read(value, "")

    def test_filters_are_lists_in_alps_and_repeated_in_blanc(self) -> None:
        assert (
            alps_filter([1, 10], [(1, TOKEN), (10, TOKEN)])
            == f"?chainIds=1%2C10&tokens=1%3A{TOKEN}%2C10%3A{TOKEN}"
        )
        assert (
            blanc_filter([1, 10], [(1, TOKEN)])
            == f"?chainIds=eip155%3A1&chainIds=eip155%3A10&tokens=eip155%3A1%3A{TOKEN}"
        )
        assert alps_filter([], []) == blanc_filter([], []) == ""


class TestChainsAndSplits:
    """Lists of the service's, in its order."""

    def test_all_tokens_is_not_no_tokens(self) -> None:
        row = {"name": "A", "testnet": True, "supportedTokens": "all", "explorer": None}
        every, none = supported_chains(
            {"eip155:1": row, "10": {**row, "supportedTokens": [], "testnet": False}}, ""
        ).chains
        assert (every.chain, every.tokens, every.testnet) == ("1", None, True)
        assert (none.chain, none.tokens, none.testnet) == ("10", (), False)

    def test_another_shape_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"8453\.testnet"):
            supported_chains({"8453": {"name": "Base", "supportedTokens": "all"}}, "")
        with pytest.raises(ValueError, match="intents must be a list"):
            splits({}, "")
        with pytest.raises(ValueError, match=rf"intents\[0\]\.{TOKEN}"):
            splits({"intents": [{TOKEN: "0x1"}]}, "")
        assert splits({"intents": [{TOKEN: str(MOST)}], "more": 1}, "").intents == ({TOKEN: MOST},)
