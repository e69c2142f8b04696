"""Routes that take USDC by Permit2: how much of it where, for what fee, and what is delivered for it.

Delivered is USDC on another chain (a bridge), or the native currency there or on the same chain (a swap).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from worker.devnet.api_error import ApiError, insufficient
from worker.devnet.chain import ARBITERS, ZERO_ADDRESS, Chain

if TYPE_CHECKING:
    from worker.devnet.quotes import RouteRequest

BRIDGE, SWAP = "ACROSS", "SAME_CHAIN"
# The layer's own data, whose layout nobody publishes: clients sign its hash without reading it.
QUALIFIER = "0x" + "de70" * 16
FEE_BASIS_POINTS = 10
# USDC base units for one ETH, which is as good a number as any
USDC_PER_ETH = 2_500_000_000
_WEI_PER_ETH = 10**18

__all__ = ["ARBITERS", "BRIDGE", "FEE_BASIS_POINTS", "QUALIFIER", "SWAP", "USDC_PER_ETH", "layer_of", "plan"]


def layer_of(request: RouteRequest) -> str:
    """The layer of the request's route."""
    return BRIDGE if request.crosses else SWAP


def plan(request: RouteRequest, chains: Mapping[int, Chain]) -> list[tuple[int, int, int]]:
    """What is taken and what is given for it, per source chain: (chain, USDC taken, base units delivered).

    The chains are used up in the order of the request. The fee is 0.1 %, rounded up, or nothing when it is sponsored.

    Raises:
        ApiError: ``No Path Found`` for tokens that are not dealt in; ``Insufficient balance``.
    """
    target = chains[request.chain_id]
    if len(request.tokens) != 1 or request.tokens[0][0] not in (target.usdc, ZERO_ADDRESS):
        raise ApiError(400, "No Path Found")
    token, wanted = request.tokens[0]
    taken: list[tuple[int, int]] = []
    if request.inputs:
        for chain_id, given_token, amount in request.inputs:
            balance = chains[chain_id].balance(given_token, request.account)
            if given_token != chains[chain_id].usdc:
                raise ApiError(400, "No Path Found")
            if balance < amount:
                raise insufficient(given_token, amount, balance)
            taken.append((chain_id, amount))
        given = _bought(sum(amount for _, amount in taken), token, request)
    else:
        held = {
            chain_id: chains[chain_id].balance(chains[chain_id].usdc, request.account)
            for chain_id in request.sources or (request.chain_id,)
        }
        given = _bought(sum(held.values()), token, request) if wanted is None else wanted
        left = sum(held.values()) if wanted is None else _cost(wanted, token, request)
        for chain_id, balance in held.items():
            if min(left, balance):
                taken.append((chain_id, min(left, balance)))
                left -= min(left, balance)
    total = sum(amount for _, amount in taken)
    needed = total if wanted is None else _cost(wanted, token, request)
    if not given or total < needed:
        raise insufficient(target.usdc, max(needed, 1), total)
    shares = [amount * given // total for _, amount in taken]
    shares[-1] += given - sum(shares)
    return [(chain_id, amount, share) for (chain_id, amount), share in zip(taken, shares, strict=True)]


def _cost(given: int, token: str, request: RouteRequest) -> int:
    """USDC for so much of a token, the fee included."""
    price = -(-given * USDC_PER_ETH // _WEI_PER_ETH) if token == ZERO_ADDRESS else given
    return price + (0 if request.fee_sponsored else -(-price * FEE_BASIS_POINTS // 10_000))


def _bought(total: int, token: str, request: RouteRequest) -> int:
    """What so much USDC gives of a token; never more than it costs."""
    price = total if request.fee_sponsored else total * 10_000 // (10_000 + FEE_BASIS_POINTS)
    return price * _WEI_PER_ETH // USDC_PER_ETH if token == ZERO_ADDRESS else price
