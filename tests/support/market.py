"""A market on the devnet's chain: WETH beside USDC, a feed, a pool's price, a router and a lender."""

from __future__ import annotations

from math import isqrt

from eth_abi.abi import encode

from tests.support.sessions import ACCOUNT, USDC
from worker.devnet.chain import WETH, Chain, artifact, selector
from worker.devnet.devnet import Devnet

MARKET = "0x" + "3a" * 20
SWAP = "swap(address,address,uint256,uint256,address)"
REPAY = "repay(address,uint256,uint256,address)"
APPROVE = "approve(address,uint256)"


class Market:
    """Contracts put onto the chain of a devnet, and dials to turn.

    Args:
        devnet: in its first state, the account registered.
        price: USDC for one WETH.
        weth: base units of WETH that the account holds.
    """

    def __init__(self, devnet: Devnet, *, price: int, weth: int) -> None:
        self._devnet = devnet
        self._chain = Chain(devnet.rpc)
        for name, address in (("DevMarket", MARKET), ("DevUsdc", WETH)):
            devnet.rpc.call("anvil_setCode", address, artifact(name)["deployedBytecode"])
        self._send(WETH, "devSetBalance(address,uint256)", ["address", "uint256"], ACCOUNT, weth)
        self._send(WETH, "devSetBalance(address,uint256)", ["address", "uint256"], MARKET, 10**24)
        devnet.fund(MARKET, usdc=10**15)
        self.set_price(price)
        self.set_health(3 * 10**18)

    def set_price(self, price: int) -> None:
        """USDC for one WETH, of the feed and of the pool."""
        root = isqrt((price * 10**6 << 192) // 10**18)
        types = ["address", "address", "int256", "uint160"]
        self._send(MARKET, "devSet(address,address,int256,uint160)", types, WETH, USDC, price * 10**8, root)

    def set_health(self, factor: int) -> None:
        """The loan's health factor, 18 decimals."""
        self._send(MARKET, "devSetHealth(uint256)", ["uint256"], factor)

    def holds(self, token: str, owner: str = ACCOUNT) -> int:
        """Base units."""
        return self._chain.balance(token, owner)

    def _send(self, to: str, signature: str, types: list[str], *values: object) -> None:
        receipt = self._chain.send(to, selector(signature) + encode(types, values))
        assert receipt["status"] == "0x1", signature
