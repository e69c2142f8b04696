"""A network layer for httpcore, and httpx above it, under which one exchange cannot outlast its deadline.

httpx bounds each read on its own, so a peer that sends one header byte every few seconds holds the caller for hours.
Here every connect, TLS handshake, write and read gets what is left of the exchange's time, and nothing after that.
"""

from __future__ import annotations

import ssl
import time
import urllib.request
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

from worker.outbound import Rules

#: ``time.monotonic()`` at which this thread's exchange must be over.
_deadline_s: ContextVar[float | None] = ContextVar("deadline_s", default=None)

#: A write is handed to the kernel in pieces of this size, with the time checked before each.
_WRITE_BYTES = 16 * 1024
#: Idle connections are closed before the usual servers and balancers close them (60 s), so that a request is
#: rarely written to a dead one, which would have to count as *maybe sent*.
_KEEPALIVE_S = 5.0

_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@contextmanager
def deadline(seconds: float) -> Generator[None]:
    """Bound everything that a ``deadline_pool`` does inside the block, in this thread, to ``seconds`` in all."""
    token = _deadline_s.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline_s.reset(token)


def _left(timeout_s: float | None, error: type[Exception], *, share: int = 1) -> float | None:
    """The seconds left, divided by ``share``, and never above ``timeout_s``. Raises ``error`` when there are none."""
    due_s = _deadline_s.get()
    if due_s is None:
        return timeout_s
    left_s = due_s - time.monotonic()
    if left_s <= 0:
        raise error("the exchange's time is over")
    left_s /= share
    return left_s if timeout_s is None else min(left_s, timeout_s)


class _Stream(httpcore.NetworkStream):
    """A connection that keeps to the deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._inner.write(buffer[start : start + _WRITE_BYTES], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(
            self._inner.start_tls(ssl_context, server_hostname, _left(timeout, httpcore.ConnectTimeout))
        )

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Connects within the deadline; a host's addresses share it, so that one dead address cannot use it up.

    Looking up the name is the system's own and bound by its resolver's settings. What it finds is held against the rules.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = self._rules.addresses(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectError("the name has no address")
        for tried, address in enumerate(found):
            left_s = _left(timeout, httpcore.ConnectTimeout, share=len(found) - tried)
            try:
                return _Stream(super().connect_tcp(address, port, left_s, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def deadline_pool(rules: Rules, *, proxy_url: str | None = None) -> httpcore.ConnectionPool:
    """Connections over the network layer above. It never retries by itself.

    Args:
        rules: what may be connected to.
        proxy_url: HTTP proxy to go through, or None. What it connects to is its own business.
    """
    proxy = None if proxy_url is None else httpx.Proxy(proxy_url)
    return httpcore.ConnectionPool(
        ssl_context=httpx.create_ssl_context(),
        proxy=None if proxy is None else httpcore.Proxy(str(proxy.url), auth=proxy.raw_auth),
        keepalive_expiry=_KEEPALIVE_S,
        retries=0,
        network_backend=_Backend(rules if proxy is None else Rules(rules.field)),
    )


class DeadlineTransport(httpx.HTTPTransport):
    """``httpx.HTTPTransport`` over such a pool.

    Args:
        rules: what may be connected to.
    """

    def __init__(self, rules: Rules) -> None:
        # the parent has no parameter for the network layer; all that it keeps is this pool
        self._pool = deadline_pool(rules)


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that the environment (``HTTPS_PROXY``, ``NO_PROXY``, …) names for a URL, or None."""
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(scheme) or proxies.get("all") or None
