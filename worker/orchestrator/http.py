"""One HTTP exchange with a total deadline, sorted into *never sent*, *maybe sent* and an answer."""

from __future__ import annotations

import datetime as dt
import email.utils
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal
from urllib.parse import urlsplit

import httpcore
import httpx

from worker.orchestrator.deadline import deadline, deadline_pool, proxy_for
from worker.orchestrator.errors import MaybeSentError, NeverSentError, OrchestratorError
from worker.outbound import Rules, is_loopback, refusal

#: No byte of the request was handed to a peer. ``ProxyError``: the proxy would not open the tunnel to it.
_NEVER_SENT = (
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
    httpcore.PoolTimeout,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
#: Whatever else can end an exchange.
_BROKEN = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpx.DecodingError,
)
#: What httpx's own client sends.
_DEFAULT_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": f"session-executor python-httpx/{httpx.__version__}",
}
#: A reply larger than this is not a route or a status.
MAX_REPLY_BYTES = 8 * 1024 * 1024
#: A longer wait than this is not obeyed by sleeping on it: it is a refusal.
MAX_RETRY_AFTER_MS = 3_600_000
#: The digits of a ``Retry-After`` that can matter; more than these are beyond the cap anyway.
_MAX_RETRY_AFTER_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: HTTP status, body, and the two headers that matter.

    Attributes:
        status: HTTP status.
        body: as received, content coding undone.
        retry_after_ms: milliseconds to wait, None when the reply does not say.
        trace_id: the ``x-trace-id`` header, else ``""``.
    """

    status: int
    body: bytes = field(repr=False)
    retry_after_ms: int | None
    trace_id: str


_SECONDS = re.compile(r"([0-9]+)(\.[0-9]{1,9})?", re.ASCII)


def parse_retry_after(value: str | None, *, now_s: float) -> int | None:
    """A ``Retry-After`` header in milliseconds from now.

    Seconds, with a fraction as SDK 1.15.0 takes them, or an HTTP date (RFC 9110, always UTC); a date in the past is 0,
    and so is what is not readable (negative, words, a year out of range): the caller's current delay applies then. None
    when absent, for which the SDK has a delay of its own. Capped at one hour.
    """
    if value is None:
        return None
    text = value.strip()
    seconds = _SECONDS.fullmatch(text)
    if seconds is not None:
        digits = seconds[1].lstrip("0")
        if len(digits) > _MAX_RETRY_AFTER_DIGITS:
            return MAX_RETRY_AFTER_MS
        # the fraction is rounded up: never sooner than asked
        return min(math.ceil(Decimal((digits or "0") + (seconds[2] or "")) * 1000), MAX_RETRY_AFTER_MS)
    try:
        due = email.utils.parsedate_to_datetime(text)
        # without a zone, or with -0000, the result is naive and would be read as local time
        due_s = (due if due.tzinfo else due.replace(tzinfo=dt.UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0
    return min(max(0, int((due_s - now_s) * 1000)), MAX_RETRY_AFTER_MS)


class HttpClient:
    """A pooled client with fixed headers. Redirects are not followed: the API key must not travel.

    A proxy named by the environment is used, except for this machine itself. Make one client per process: pooled
    connections must not be shared across a fork.

    Args:
        base_url: as ``rules.check_url`` returns it.
        rules: what it may connect to.
        headers: sent with each request.
        timeout_ms: bound on the whole exchange, from connecting to the last byte of the answer.
    """

    def __init__(self, base_url: str, rules: Rules, *, headers: dict[str, str], timeout_ms: int) -> None:
        self._timeout_s = timeout_ms / 1000
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        self._url = httpx.URL(base_url)
        # httpcore as it is: cookies, redirects, event hooks and models of httpx are not wanted, and cost as much as the
        # exchange itself
        self._headers = _header_pairs({"Host": self._url.netloc.decode("ascii")} | _DEFAULT_HEADERS | headers)
        self._extensions = {"timeout": httpx.Timeout(self._timeout_s).as_dict()}
        self._pool = deadline_pool(
            rules, proxy_url=None if is_loopback(host) else proxy_for(parts.scheme, host)
        )

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        body: str | None = None,
        auth: Callable[[], Mapping[str, str]] | None = None,
    ) -> Reply:
        """One exchange.

        Args:
            method: of the request.
            path: below the base URL.
            body: text to send as UTF-8.
            auth: gives further headers as the request leaves, so that nothing else ever holds them.

        Raises:
            NeverSentError: nothing left this machine.
            MaybeSentError: the request may have been received.
        """
        content = None if body is None else body.encode()
        failure: OrchestratorError
        try:
            with deadline(self._timeout_s):
                return self._exchange(method, path, content, auth)
        except _NEVER_SENT as error:
            failure = NeverSentError(
                f"cannot connect ({refusal(error) or type(error).__name__})",
                fix="check SESSION_EXECUTOR_ORCHESTRATOR_URL and that the service is up",
            )
        except _BROKEN as error:
            failure = MaybeSentError(f"no answer ({type(error).__name__})", fix="its outcome is looked up")
        # raised out here so that it carries no context: what was raised there has the request in its frames, and that
        # the API key
        raise failure

    def _exchange(
        self,
        method: str,
        path: str,
        content: bytes | None,
        auth: Callable[[], Mapping[str, str]] | None,
    ) -> Reply:
        headers = list(self._headers)
        if content is not None:
            headers.append((b"Content-Length", b"%d" % len(content)))
        if auth is not None:
            headers += _header_pairs(auth())
        url = httpcore.URL(
            scheme=self._url.raw_scheme,
            host=self._url.raw_host,
            port=self._url.port,
            target=self._url.raw_path.rstrip(b"/") + path.encode("ascii"),
        )
        response = self._pool.handle_request(
            httpcore.Request(method, url, headers=headers, content=content, extensions=self._extensions)
        )
        try:
            chunks: list[bytes] = []
            size = 0
            for chunk in _decoded(response):
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_REPLY_BYTES:
                    raise MaybeSentError("the reply is too large to be one", fix="its outcome is looked up")
        finally:
            response.close()
        return Reply(
            response.status,
            b"".join(chunks),
            parse_retry_after(_header(response.headers, b"retry-after"), now_s=time.time()),
            _header(response.headers, b"x-trace-id") or "",
        )

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()


class _Undecoded(httpx.SyncByteStream):
    """What httpx takes the coding off."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()


def _decoded(response: httpcore.Response) -> Iterator[bytes]:
    """The body, piece by piece as it comes, without its content coding."""
    if _header(response.headers, b"content-encoding") is None:
        return response.iter_stream()
    return httpx.Response(
        response.status, headers=list(response.headers), stream=_Undecoded(response)
    ).iter_bytes()


def _header(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A header's value, of several all, with a comma between; None when it is not there."""
    values = [value.decode("utf-8", "replace") for key, value in headers if key.lower() == name]
    return ", ".join(values) if values else None


def _header_pairs(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
