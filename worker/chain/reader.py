"""The chain as the pipeline reads it: plain ``eth_call`` and block data, nothing is ever sent.

web3.py's HTTP provider carries the requests; the few answers that we need are checked and decoded here. web3's own
decoding would follow a contract's ``OffchainLookup`` revert to whatever URL the contract names (ERC-3668), and cannot
read the blocks of chains with long ``extraData``.
"""

from __future__ import annotations

import json
import re
from typing import Any, cast
from urllib.parse import urlsplit

import requests
from web3.exceptions import Web3Exception
from web3.providers.rpc import HTTPProvider
from web3.types import RPCEndpoint, RPCResponse

from worker.chain.errors import CallRevertedError, ChainError, WrongChainError
from worker.guarded_session import GuardedSession
from worker.json_depth import check_depth
from worker.outbound import Rules, is_loopback, refusal

_FIELD = "SESSION_EXECUTOR_RPC_URL"
#: Execution-API encodings: a quantity has no leading zeros there, but some endpoints send them.
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
#: JSON-RPC error code of a reverted call (go-ethereum, and with it most others).
_REVERTED = 3
#: HTTP statuses by which an endpoint refuses a batch as such; 401, 403 and 429 are about who asks, and how often.
_NO_BATCHES = (400, 404, 405, 413, 415, 422, 501)


class _Provider(HTTPProvider):
    """web3's HTTP provider with a decoder that no reply can crash."""

    @staticmethod
    def decode_rpc_response(raw_response: bytes) -> RPCResponse:
        text = raw_response.decode("utf-8")
        check_depth(text)
        return cast("RPCResponse", json.loads(text))


class _EndpointSession(GuardedSession):
    """A session for one URL: what ``requests`` finds out anew for each request (proxy, CA bundle, headers, cookies) is found once.

    That is half of the cost of an exchange with a local node.
    """

    _prepared: tuple[requests.PreparedRequest, Any] | None = None

    def post(self, url: str | bytes, data: Any = None, json: Any = None, **kwargs: Any) -> requests.Response:
        """POST ``data``; ``json`` is not used by web3. Raises requests.RequestException."""
        del json
        if self._prepared is None:
            blank = self.prepare_request(requests.Request("POST", url, headers=kwargs.get("headers")))
            self._prepared = blank, self.merge_environment_settings(str(blank.url), {}, None, None, None)
        blank, settings = self._prepared
        request = blank.copy()
        request.prepare_body(data, None)
        return self.get_adapter(str(request.url)).send(request, timeout=kwargs.get("timeout"), **settings)


class ChainReader:
    """Reads of one chain through one JSON-RPC endpoint.

    Args:
        rpc_url: endpoint; never shown in errors, since paid endpoints carry their key in it.
        chain_id: the chain it must report.
        timeout_ms: bound on connecting, and on each wait for the answer's next bytes.
        http_hosts: hosts that plain http may go to, beside this machine.

    Raises:
        InputError: the URL cannot be used.
    """

    def __init__(
        self, rpc_url: str, *, chain_id: int, timeout_ms: int, http_hosts: frozenset[str] = frozenset()
    ) -> None:
        self.chain_id = chain_id
        rules = Rules(_FIELD, http_hosts)
        rules.check_url(rpc_url, query=True)
        # no proxy of the environment is a way to this machine itself
        self._session = _EndpointSession(rules, trust_env=not is_loopback(urlsplit(rpc_url).hostname or ""))
        self._provider = _Provider(
            rpc_url,
            request_kwargs={"timeout": timeout_ms / 1000, "allow_redirects": False},
            session=self._session,
            exception_retry_configuration=None,
        )
        self._checked = False
        self._batches = True

    def require_chain(self) -> None:
        """Check once that the endpoint serves ``chain_id``.

        Raises:
            WrongChainError, ChainError
        """
        if self._checked:
            return
        reported = _quantity(self._ask("eth_chainId"), "eth_chainId")
        if reported != self.chain_id:
            raise WrongChainError(
                f"the endpoint serves chain {reported}, the configured chain is {self.chain_id}",
                field=_FIELD,
                fix="point it at the right chain or set SESSION_EXECUTOR_CHAIN_ID",
            )
        self._checked = True

    def call(self, to: str, data: bytes) -> bytes:
        """``eth_call`` at the latest block; the returned bytes, empty when there is no contract at ``to``.

        Args:
            to: address, 0x hex.
            data: calldata.

        Raises:
            CallRevertedError: the contract reverted.
            WrongChainError, ChainError
        """
        self.require_chain()
        return _data(self._ask("eth_call", {"to": to, "data": "0x" + data.hex()}, "latest"), "eth_call")

    def latest_block_time(self) -> int:
        """Unix seconds of the latest block. Raises WrongChainError, ChainError."""
        self.require_chain()
        block = self._ask("eth_getBlockByNumber", "latest", False)
        if not isinstance(block, dict):
            raise _nonsense("eth_getBlockByNumber", "no block")
        return _quantity(cast("dict[str, Any]", block).get("timestamp"), "eth_getBlockByNumber")

    def call_and_time(self, to: str, data: bytes) -> tuple[bytes, int]:
        """``call`` and ``latest_block_time`` in one exchange; in two where the endpoint answers no batches.

        Raises:
            CallRevertedError, WrongChainError, ChainError
        """
        self.require_chain()
        call = {"to": to, "data": "0x" + data.hex()}
        replies = self._ask_both(("eth_call", call, "latest"), ("eth_getBlockByNumber", "latest", False))
        if replies is None:
            return self.call(to, data), self.latest_block_time()
        returned, block = replies
        if not isinstance(block, dict):
            raise _nonsense("eth_getBlockByNumber", "no block")
        time = cast("dict[str, Any]", block).get("timestamp")
        return _data(returned, "eth_call"), _quantity(time, "eth_getBlockByNumber")

    def block_number(self) -> int:
        """Number of the latest block. Raises WrongChainError, ChainError."""
        self.require_chain()
        return _quantity(self._ask("eth_blockNumber"), "eth_blockNumber")

    def block_time(self, number: int) -> int:
        """Unix seconds of a block. Raises WrongChainError, ChainError."""
        self.require_chain()
        block = self._ask("eth_getBlockByNumber", hex(number), False)
        if not isinstance(block, dict):
            raise _nonsense("eth_getBlockByNumber", "no block")
        return _quantity(cast("dict[str, Any]", block).get("timestamp"), "eth_getBlockByNumber")

    def logs(self, address: str, topic: bytes, from_block: int, to_block: int) -> list[dict[str, Any]]:
        """Logs of one contract with a first topic, both blocks included, as the node gives them, in chain order.

        Raises:
            WrongChainError, ChainError: also when a log lacks one of the members that every log has.
        """
        self.require_chain()
        query = {
            "address": address,
            "topics": ["0x" + topic.hex()],
            "fromBlock": hex(from_block),
            "toBlock": hex(to_block),
        }
        found = self._ask("eth_getLogs", query)
        if not isinstance(found, list):
            raise _nonsense("eth_getLogs", "no list")
        logs = [_log(item) for item in cast("list[Any]", found)]
        return sorted(logs, key=lambda log: (log["block"], log["index"]))

    def native_balance(self, owner: str) -> int:
        """Wei. Raises WrongChainError, ChainError."""
        self.require_chain()
        return _quantity(self._ask("eth_getBalance", owner, "latest"), "eth_getBalance")

    def has_code(self, address: str) -> bool:
        """Whether a contract is at the address. Raises WrongChainError, ChainError."""
        self.require_chain()
        return bool(_data(self._ask("eth_getCode", address, "latest"), "eth_getCode"))

    def erc20_balance(self, token: str, owner: str) -> int:
        """Base units. Raises WrongChainError, ChainError."""
        word = self.call(token, bytes.fromhex("70a08231") + bytes(12) + bytes.fromhex(owner[2:]))
        return _uint(word, token, "balanceOf")

    def erc20_decimals(self, token: str) -> int:
        """The token's own word on its decimals. Raises WrongChainError, ChainError."""
        decimals = _uint(self.call(token, bytes.fromhex("313ce567")), token, "decimals")
        if decimals > 255:
            raise ChainError(
                f"{token} says that it has {decimals} decimals",
                field="token",
                fix="check the token's address",
            )
        return decimals

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def _ask_both(self, *asked: tuple[object, ...]) -> tuple[Any, Any] | None:
        """The ``result`` of each of two requests in one batch; None from an endpoint that answers no batches."""
        if not self._batches:
            return None
        methods = [str(method) for method, *_ in asked]
        requested = [(RPCEndpoint(str(method)), params) for method, *params in asked]
        replies: Any = None
        failure: ChainError | None = None
        try:
            replies = self._provider.make_batch_request(requested)
        except (AttributeError, TypeError, KeyError):
            pass  # web3 could not sort them: they are no replies
        except (requests.RequestException, Web3Exception, ValueError, OSError) as error:
            if not _refuses_batches(error):
                failure = _failed(" and ".join(methods), error)
        # raised out here so that it carries no context, see ``_ask``
        if failure is not None:
            raise failure
        if not isinstance(replies, list) or len(cast("list[Any]", replies)) != len(methods):
            self._batches = False
            return None
        first, second = map(_result, methods, cast("list[Any]", replies))
        return first, second

    def _ask(self, method: str, *params: object) -> Any:
        """The ``result`` of one request."""
        failure: ChainError
        try:
            reply: Any = self._provider.make_request(RPCEndpoint(method), list(params))
        except (requests.RequestException, Web3Exception, ValueError, OSError) as error:
            failure = _failed(method, error)
        else:
            return _result(method, reply)
        # raised out here so that it carries no context: the errors above hold the endpoint's URL, and that a key
        raise failure


def _cause(error: Exception) -> str:
    """What went wrong, in words that hold nothing of the request or the reply."""
    response = getattr(error, "response", None)
    if isinstance(error, requests.HTTPError) and response is not None:
        return f"HTTP {response.status_code}"
    return refusal(error) or type(error).__name__


def _failed(method: str, error: Exception) -> ChainError:
    return ChainError(
        f"{method} failed ({_cause(error)})",
        field=_FIELD,
        fix="check that the endpoint is up and not rate limited",
    )


def _refuses_batches(error: Exception) -> bool:
    """Whether the endpoint has understood that several requests came at once, and answers no such thing."""
    response = getattr(error, "response", None)
    status = None if response is None else response.status_code
    return isinstance(error, requests.HTTPError) and status in _NO_BATCHES


def _result(method: str, reply: Any) -> Any:
    if not isinstance(reply, dict):
        raise _nonsense(method, "no JSON-RPC object")
    fields = cast("dict[str, Any]", reply)
    error = fields.get("error")
    if error is not None:
        code, text = _rpc_error(error)
        if method == "eth_call" and (code == _REVERTED or "revert" in text.lower()):
            raise CallRevertedError(
                "the contract reverted the call",
                field="eth_call",
                fix="check the contract's address and that it is set up on this chain",
            )
        # the text may repeat the request, and with it the endpoint's key: only the number is shown
        raise ChainError(
            f"{method} was refused (JSON-RPC error {code})",
            field=_FIELD,
            fix="check that the endpoint serves this method and is not rate limited",
        )
    if "result" not in fields:
        raise _nonsense(method, "neither result nor error")
    return fields["result"]


def _rpc_error(error: Any) -> tuple[int, str]:
    """Code and message of a JSON-RPC error object; 0 and ``""`` for what is missing."""
    fields = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    code, text = fields.get("code"), fields.get("message")
    return (code if type(code) is int else 0), (text if isinstance(text, str) else "")


def _quantity(value: Any, method: str) -> int:
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise _nonsense(method, "no number")
    return int(value, 16)


def _data(value: Any, method: str) -> bytes:
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise _nonsense(method, "no bytes")
    return bytes.fromhex(value[2:])


def _log(item: Any) -> dict[str, Any]:
    """A log's members: numbers as numbers, topics and data as bytes, addresses and hashes in lower case."""
    if not isinstance(item, dict) or item.get("removed") is True:
        raise _nonsense("eth_getLogs", "no log")
    fields = cast("dict[str, Any]", item)
    topics = fields.get("topics")
    if not isinstance(topics, list):
        raise _nonsense("eth_getLogs", "a log without topics")
    return {
        "block": _quantity(fields.get("blockNumber"), "eth_getLogs"),
        "index": _quantity(fields.get("logIndex"), "eth_getLogs"),
        "tx_hash": "0x" + _data(fields.get("transactionHash"), "eth_getLogs").hex(),
        "address": "0x" + _data(fields.get("address"), "eth_getLogs").hex(),
        "topics": tuple(_data(topic, "eth_getLogs") for topic in cast("list[Any]", topics)),
        "data": _data(fields.get("data"), "eth_getLogs"),
    }


def _uint(word: bytes, token: str, what: str) -> int:
    if len(word) != 32:
        raise ChainError(
            f"{what} of {token} returned {len(word)} bytes, 32 expected",
            field="token",
            fix="check that a token contract is at this address on this chain",
        )
    return int.from_bytes(word, "big")


def _nonsense(method: str, what: str) -> ChainError:
    return ChainError(
        f"{method} answered with {what}", field=_FIELD, fix="check that the endpoint is a JSON-RPC node"
    )
