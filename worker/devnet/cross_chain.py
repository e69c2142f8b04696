"""Routes that take USDC on some chains and deliver it on another: how much of it where, and for what fee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from worker.devnet.api_error import ApiError, insufficient
from worker.devnet.chain import ARBITER, Chain

if TYPE_CHECKING:
    from worker.devnet.quotes import RouteRequest

LAYER = "ACROSS"
# The layer's own data, whose layout nobody publishes: clients sign its hash without reading it.
QUALIFIER = "0x" + "de70" * 16
FEE_BASIS_POINTS = 10

__all__ = ["ARBITER", "FEE_BASIS_POINTS", "LAYER", "QUALIFIER", "plan"]


def plan(request: RouteRequest, chains: Mapping[int, Chain]) -> list[tuple[int, int, int]]:
    """What is taken and what is given for it, per source chain: (chain, base units taken, base units delivered).

    The chains are used up in the order of the request. The fee is 0.1 %, rounded up, or nothing when it is sponsored.

    Raises:
        ApiError: ``No Path Found`` for anything but USDC; ``Insufficient balance``.
    """
    target = chains[request.chain_id]
    if [token for token, _ in request.tokens] != [target.usdc]:
        raise ApiError(400, "No Path Found")
    wanted = request.tokens[0][1]
    taken: list[tuple[int, int]] = []
    if request.inputs:
        for chain_id, token, amount in request.inputs:
            balance = chains[chain_id].balance(token, request.account)
            if token != chains[chain_id].usdc:
                raise ApiError(400, "No Path Found")
            if balance < amount:
                raise insufficient(token, amount, balance)
            taken.append((chain_id, amount))
        given = _less_fee(sum(amount for _, amount in taken), request)
    else:
        held = {
            chain_id: chains[chain_id].balance(chains[chain_id].usdc, request.account)
            for chain_id in request.sources
        }
        given = _less_fee(sum(held.values()), request) if wanted is None else wanted
        left = sum(held.values()) if wanted is None else wanted + _fee(wanted, request)
        for chain_id, balance in held.items():
            if min(left, balance):
                taken.append((chain_id, min(left, balance)))
                left -= min(left, balance)
    total = sum(amount for _, amount in taken)
    needed = total if wanted is None else wanted + _fee(wanted, request)
    if not given or total < needed:
        raise insufficient(target.usdc, max(needed, 1), total)
    shares = [amount * given // total for _, amount in taken]
    shares[-1] += given - sum(shares)
    return [(chain_id, amount, share) for (chain_id, amount), share in zip(taken, shares, strict=True)]


def _fee(given: int, request: RouteRequest) -> int:
    return 0 if request.bridge_sponsored else -(-given * FEE_BASIS_POINTS // 10_000)


def _less_fee(total: int, request: RouteRequest) -> int:
    """What is delivered for so much; the fee is not less than that of what is delivered."""
    return total if request.bridge_sponsored else total * 10_000 // (10_000 + FEE_BASIS_POINTS)
