"""One HTTP exchange with a total deadline, sorted into *never sent*, *maybe sent* and an answer."""

from __future__ import annotations

import email.utils
import ipaddress
import time
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import httpx

from worker.errors import InputError
from worker.orchestrator.errors import MaybeSentError, NeverSentError

#: Connect errors mean that no byte of the request was handed to a peer.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
#: A reply larger than this is not a route or a status.
_MAX_REPLY_BYTES = 8 * 1024 * 1024
#: A longer wait than this is not obeyed by sleeping on it: it is a refusal.
MAX_RETRY_AFTER_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: HTTP status, body text, and the two headers that matter."""

    status: int
    text: str
    retry_after_ms: int | None
    trace_id: str


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str, *, field: str) -> str:
    """A base URL without trailing slash; https unless loopback.

    Raises:
        InputError: names ``field``.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("not an http(s) URL", field=field, fix="give a full URL such as https://host")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise InputError(
            "plain http beyond this machine would show the API key", field=field, fix="use https"
        )
    return url.rstrip("/")


def parse_retry_after(value: str | None, *, now_s: float) -> int | None:
    """A ``Retry-After`` header in milliseconds from now.

    Seconds or an HTTP date (RFC 9110); a date in the past is 0. None when absent or not readable (negative, words,
    a year out of range), so that the caller's own backoff applies. Capped at one hour.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(int(text[:12]) * 1000, MAX_RETRY_AFTER_MS)
    try:
        due_s = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0, int((due_s - now_s) * 1000)), MAX_RETRY_AFTER_MS)


class HttpClient:
    """A pooled client with fixed headers. Redirects are not followed: the API key must not travel.

    Args:
        base_url: without trailing slash.
        headers: sent with each request.
        timeout_ms: bound on each of connect, write and one read, and on the whole exchange (an answer that
            drips for longer is given up, at most one read later).
    """

    def __init__(self, base_url: str, *, headers: dict[str, str], timeout_ms: int) -> None:
        self._timeout_s = timeout_ms / 1000
        self._client = httpx.Client(
            base_url=base_url, headers=headers, timeout=self._timeout_s, follow_redirects=False
        )

    def request(self, method: Literal["GET", "POST"], path: str, body: str | None = None) -> Reply:
        """One exchange.

        Raises:
            NeverSentError: nothing left this machine.
            MaybeSentError: the request may have been received.
        """
        deadline = time.monotonic() + self._timeout_s
        content = None if body is None else body.encode()
        try:
            with self._client.stream(method, path, content=content) as response:
                chunks: list[bytes] = []
                size = 0
                for chunk in response.iter_bytes():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > _MAX_REPLY_BYTES:
                        raise MaybeSentError("the reply is too large to be one")
                    if time.monotonic() > deadline:
                        raise MaybeSentError(f"no whole answer within {self._timeout_s:g} s")
                return Reply(
                    response.status_code,
                    b"".join(chunks).decode("utf-8", "replace"),
                    parse_retry_after(response.headers.get("retry-after"), now_s=time.time()),
                    response.headers.get("x-trace-id", ""),
                )
        except _NEVER_SENT as error:
            raise NeverSentError(
                f"cannot connect ({type(error).__name__})",
                fix="check SESSION_EXECUTOR_ORCHESTRATOR_URL and that the service is up",
            ) from None
        except httpx.HTTPError as error:
            raise MaybeSentError(
                f"no answer ({type(error).__name__})", fix="its outcome is looked up"
            ) from None

    def close(self) -> None:
        """Close the pool."""
        self._client.close()
