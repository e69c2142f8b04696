"""The chain as the pipeline reads it: plain ``eth_call`` and block data, nothing is ever sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import requests
from web3 import Web3
from web3.exceptions import Web3Exception
from web3.providers.rpc import HTTPProvider

from worker.chain.errors import ChainError, WrongChainError

_T = TypeVar("_T")


class ChainReader:
    """Reads of one chain through one JSON-RPC endpoint.

    Args:
        rpc_url: endpoint; never shown in errors, since paid endpoints carry their key in it.
        chain_id: the chain it must report.
        timeout_ms: bound on one request.
    """

    def __init__(self, rpc_url: str, *, chain_id: int, timeout_ms: int) -> None:
        self.chain_id = chain_id
        provider = HTTPProvider(
            rpc_url,
            request_kwargs={"timeout": timeout_ms / 1000, "allow_redirects": False},
            exception_retry_configuration=None,
        )
        self._web3 = Web3(provider)
        self._checked = False

    def require_chain(self) -> None:
        """Check once that the endpoint serves ``chain_id``.

        Raises:
            WrongChainError, ChainError
        """
        if self._checked:
            return
        reported = self._ask("eth_chainId", lambda: self._web3.eth.chain_id)
        if reported != self.chain_id:
            raise WrongChainError(
                f"the endpoint serves chain {reported}, the configured chain is {self.chain_id}",
                field="SESSION_EXECUTOR_RPC_URL",
                fix="point it at the right chain or set SESSION_EXECUTOR_CHAIN_ID",
            )
        self._checked = True

    def call(self, to: str, data: bytes) -> bytes:
        """``eth_call`` at the latest block; the returned bytes.

        Raises:
            WrongChainError, ChainError
        """
        self.require_chain()
        return bytes(
            self._ask(
                "eth_call",
                lambda: self._web3.eth.call(
                    cast("Any", {"to": Web3.to_checksum_address(to), "data": "0x" + data.hex()})
                ),
            )
        )

    def latest_block_time(self) -> int:
        """Unix seconds of the latest block. Raises WrongChainError, ChainError."""
        self.require_chain()
        block = self._ask("eth_getBlockByNumber", lambda: self._web3.eth.get_block("latest"))
        return int(cast("dict[str, Any]", block)["timestamp"])

    def has_code(self, address: str) -> bool:
        """Whether a contract is at the address. Raises WrongChainError, ChainError."""
        self.require_chain()
        return bool(
            self._ask("eth_getCode", lambda: self._web3.eth.get_code(Web3.to_checksum_address(address)))
        )

    def erc20_balance(self, token: str, owner: str) -> int:
        """Base units. Raises WrongChainError, ChainError."""
        word = self.call(token, bytes.fromhex("70a08231") + bytes(12) + bytes.fromhex(owner[2:]))
        return _uint(word, "balanceOf")

    def erc20_decimals(self, token: str) -> int:
        """The token's own word on its decimals. Raises WrongChainError, ChainError."""
        return _uint(self.call(token, bytes.fromhex("313ce567")), "decimals")

    def _ask(self, what: str, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except (requests.RequestException, Web3Exception, ValueError, OSError) as error:
            # the error's text may hold the endpoint's URL, which may hold a key
            raise ChainError(
                f"{what} failed ({type(error).__name__})",
                field="SESSION_EXECUTOR_RPC_URL",
                fix="check that the endpoint is up and not rate limited",
            ) from None


def _uint(word: bytes, what: str) -> int:
    if len(word) != 32:
        raise ChainError(f"{what} returned {len(word)} bytes, 32 expected", field="SESSION_EXECUTOR_RPC_URL")
    return int.from_bytes(word, "big")
