"""The chains and tokens that SDK 1.15.0 knows (``chains.json`` beside this file).

A session's encoding depends on the chain's wrapped native token: it is the target of the injected ``deposit()``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from worker.sessions.errors import SessionError


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the SDK lists it. ``address`` is lower-case; the zero address is the native currency."""

    symbol: str
    address: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of the SDK's registry. ``wrapped`` is its wrapped native token, lower-case."""

    chain_id: int
    name: str
    testnet: bool
    wrapped: str
    tokens: tuple[Token, ...]

    def token_at(self, address: str) -> Token | None:
        """The listed token at a lower-case address."""
        return next((token for token in self.tokens if token.address == address), None)


@cache
def known_chains() -> Mapping[int, Chain]:
    """Every chain of the registry, by chain id."""
    table = json.loads(files("worker.sessions").joinpath("chains.json").read_text("utf-8"))
    return MappingProxyType(
        {
            int(chain_id): Chain(
                chain_id=int(chain_id),
                name=entry["name"],
                testnet=entry["testnet"],
                wrapped=entry["wrapped"],
                tokens=tuple(
                    Token(symbol, address, decimals)
                    for symbol, (address, decimals) in entry["tokens"].items()
                ),
            )
            for chain_id, entry in table.items()
        }
    )


def chain_of(chain_id: int) -> Chain:
    """The chain with this id.

    Raises:
        SessionError: SDK 1.15.0 does not know it, so no session for it can be encoded.
    """
    chain = known_chains().get(chain_id)
    if chain is None:
        known = ", ".join(f"{chain.name} {chain.chain_id}" for chain in known_chains().values())
        raise SessionError(
            f"chain {chain_id} is not known to SDK 1.15.0", field="chain", fix=f"use one of: {known}"
        )
    return chain
