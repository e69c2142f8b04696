"""JSON-RPC to the local chain, dev methods included."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import Any, Self

import httpx

from worker.devnet.errors import DevnetError, RpcError


class JsonRpc:
    """A JSON-RPC client, safe to share between threads.

    Args:
        url: the endpoint.
        timeout_s: bound on one request; forks fetch state on demand, so it is generous.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        self._url = url
        self._client = httpx.Client(timeout=timeout_s, trust_env=False)
        self._ids = itertools.count(1)

    def call(self, method: str, *params: Any) -> Any:
        """The result of one request.

        Raises:
            RpcError: the chain answered with an error; ``data`` holds revert data.
            DevnetError: the chain does not answer.
        """
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}
        try:
            answer = self._client.post(self._url, json=request).json()
        except (httpx.HTTPError, ValueError) as error:
            raise DevnetError(
                f"{method}: no answer ({error})", field="rpc", fix="is the local chain running?"
            ) from None
        if "error" in answer:
            problem = answer["error"]
            data = problem.get("data")
            raw = bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""
            raise RpcError(str(problem.get("message", "")), code=int(problem.get("code", 0)), data=raw)
        return answer["result"]

    def quantity(self, method: str, *params: Any) -> int:
        """A result that is a hex quantity."""
        return int(self.call(method, *params), 16)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
