"""What an orchestrator tells apart from intents: balances, chains with their tokens, and how much can be filled at once.

Both wire versions are read into the same values; ``raw`` keeps each answer's text as it came, with whatever is not known here.
Integers come as text or as numbers and are exact. A member that is missing or of another shape is a ``ValueError`` that
names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_EVM = re.compile(r"eip155:([1-9][0-9]{0,31})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Holding:
    """A token of an account on one chain.

    Attributes:
        chain: the chain id in decimal digits; for a chain that is no EVM one whatever the service calls it.
        symbol, token: as the service writes them.
        decimals: of the token on this chain.
        unlocked: base units that can be spent.
        locked: base units in locks; 2026-04.blanc does not tell, so 0 there.
    """

    chain: str
    symbol: str
    token: str
    decimals: int
    unlocked: int
    locked: int


@dataclass(frozen=True, slots=True)
class Portfolio:
    """An account's balances; ``raw`` is the answer."""

    holdings: tuple[Holding, ...]
    raw: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ListedToken:
    """A token that the service names."""

    symbol: str
    token: str
    decimals: int


@dataclass(frozen=True, slots=True)
class SupportedChain:
    """A chain that intents may use.

    Attributes:
        chain: as in ``Holding``.
        name: for people.
        testnet: whether it is one.
        tokens: those that are supported; None for every one.
    """

    chain: str
    name: str
    testnet: bool
    tokens: tuple[ListedToken, ...] | None


@dataclass(frozen=True, slots=True)
class SupportedChains:
    """Every supported chain in the service's order; ``raw`` is the answer."""

    chains: tuple[SupportedChain, ...]
    raw: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Splits:
    """Parts of an amount, each of which one filler can fill: token -> base units. ``raw`` is the answer."""

    intents: tuple[Mapping[str, int], ...]
    raw: str = field(repr=False)


def alps_portfolio(value: Mapping[str, Any], raw: str) -> Portfolio:
    """``{portfolio: [{tokenName, tokenDecimals, tokenChainBalance: [{chainId, tokenAddress, balance}]}]}``."""
    found: list[Holding] = []
    for at, row in _rows(value, "portfolio"):
        symbol, decimals = _text(row, "tokenName", at), _decimals(row, "tokenDecimals", at)
        for inner, entry in _rows(row, "tokenChainBalance", at):
            balance, where = _object(entry.get("balance"), f"{inner}.balance"), f"{inner}.balance"
            found.append(
                Holding(
                    chain=str(_whole(entry, "chainId", inner)),
                    symbol=symbol,
                    token=_text(entry, "tokenAddress", inner),
                    decimals=decimals,
                    unlocked=_whole(balance, "unlocked", where),
                    locked=_whole(balance, "locked", where),
                )
            )
    return Portfolio(tuple(found), raw)


def blanc_portfolio(value: Mapping[str, Any], raw: str) -> Portfolio:
    """``{portfolio: [{symbol, chains: [{chainId, address, decimals, amount}]}]}``."""
    return Portfolio(
        tuple(
            Holding(
                chain=_plain(_text(entry, "chainId", inner)),
                symbol=_text(row, "symbol", at),
                token=_text(entry, "address", inner),
                decimals=_decimals(entry, "decimals", inner),
                unlocked=_whole(entry, "amount", inner),
                locked=0,
            )
            for at, row in _rows(value, "portfolio")
            for inner, entry in _rows(row, "chains", at)
        ),
        raw,
    )


def supported_chains(value: Mapping[str, Any], raw: str) -> SupportedChains:
    """``{"<chain>": {name, testnet, supportedTokens: "all" | [{symbol, address, decimals}], …}}``, of either version."""
    found: list[SupportedChain] = []
    for name, entry in value.items():
        row = _object(entry, name)
        tokens = row.get("supportedTokens")
        if not isinstance(row.get("testnet"), bool):
            raise ValueError(f"{name}.testnet must be true or false")
        found.append(
            SupportedChain(
                chain=_plain(name),
                name=_text(row, "name", name),
                testnet=row["testnet"],
                tokens=None
                if tokens == "all"
                else tuple(
                    ListedToken(
                        _text(token, "symbol", at),
                        _text(token, "address", at),
                        _decimals(token, "decimals", at),
                    )
                    for at, token in _rows(row, "supportedTokens", name)
                ),
            )
        )
    return SupportedChains(tuple(found), raw)


def splits(value: Mapping[str, Any], raw: str) -> Splits:
    """``{intents: [{"<token>": "<amount>"}]}``, of either version."""
    return Splits(amounts(value.get("intents"), "intents"), raw)


def amounts(value: object, path: str) -> tuple[Mapping[str, int], ...]:
    """A list of token -> base units."""
    if not isinstance(value, list):
        raise ValueError(f"{path} must be a list")
    return tuple(
        token_amounts(item, f"{path}[{index}]") for index, item in enumerate(cast("list[Any]", value))
    )


def token_amounts(value: object, path: str) -> Mapping[str, int]:
    """Token -> base units."""
    found = _object(value, path)
    return {token: _whole(found, token, path) for token in found}


def query(pairs: Iterable[tuple[str, str]]) -> str:
    """``?name=value&…``, or nothing. The values hold characters that a query may hold as they are."""
    parts = "&".join(f"{name}={value}" for name, value in pairs)
    return f"?{parts}" if parts else ""


def alps_filter(chains: Sequence[int], tokens: Sequence[tuple[int, str]]) -> str:
    """The portfolio's query in alps: lists with commas, as SDK 1.15.0 sends them."""
    pairs: list[tuple[str, str]] = []
    if chains:
        pairs.append(("chainIds", "%2C".join(map(str, chains))))
    if tokens:
        pairs.append(("tokens", "%2C".join(f"{chain}%3A{token}" for chain, token in tokens)))
    return query(pairs)


def blanc_filter(chains: Sequence[int], tokens: Sequence[tuple[int, str]]) -> str:
    """The portfolio's query in blanc: CAIP-2 ids, a parameter for each."""
    return query(
        [
            *(("chainIds", f"eip155%3A{chain}") for chain in chains),
            *(("tokens", f"eip155%3A{chain}%3A{token}") for chain, token in tokens),
        ]
    )


def _plain(chain: str) -> str:
    match = _EVM.fullmatch(chain)
    return match[1] if match else chain


def _rows(parent: Mapping[str, Any], name: str, where: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    path = f"{where}.{name}" if where else name
    value = parent.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{path} must be a list")
    return [
        (f"{path}[{index}]", _object(item, f"{path}[{index}]"))
        for index, item in enumerate(cast("list[Any]", value))
    ]


def _object(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path} must be an object")
    return cast("Mapping[str, Any]", value)


def _text(parent: Mapping[str, Any], name: str, where: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{where}.{name} must be text")
    return value


def _decimals(parent: Mapping[str, Any], name: str, where: str) -> int:
    value = _whole(parent, name, where)
    if value > 255:
        raise ValueError(f"{where}.{name} is no uint8")
    return value


def _whole(parent: Mapping[str, Any], name: str, where: str) -> int:
    value = parent.get(name)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{where}.{name} must be a whole number")
