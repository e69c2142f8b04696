"""The Redis connection: bounded in time, and errors that tell never done from maybe done."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoPermissionError
from redis.retry import Retry

from worker.ledger.errors import LedgerInconsistentError, LedgerInputError, LedgerUnavailableError

FIELD = "SESSION_EXECUTOR_REDIS_URL"
SCHEMES = frozenset({"redis", "rediss", "unix"})

#: A Redis worth using for this answers a connect within milliseconds; enqueue must fail within 5 s in all.
_CONNECT_TIMEOUT_MS = 1_000


def safe_url(url: str) -> str:
    """The URL without user, password and query, for messages."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        host = parts.hostname or ""
    except ValueError:
        return "(unreadable URL)"
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    if ":" in host:
        host = f"[{host}]"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def connect(url: str, *, timeout_ms: int) -> redis.Redis:
    """A client whose every command ends within ``timeout_ms`` and that never retries on its own.

    A retry inside the client would repeat writes whose outcome is not known; who calls decides instead.
    Nothing is sent yet.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``.
        timeout_ms: bound on one command, and (1 s at most) on the connect before it.

    Raises:
        LedgerInputError: the URL cannot be used.
    """
    if scheme_of(url) not in SCHEMES:
        raise no_redis_url()
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_ms / 1000,
            socket_connect_timeout=min(timeout_ms, _CONNECT_TIMEOUT_MS) / 1000,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            protocol=2,
        )
    except (ValueError, TypeError):
        # The cause quotes parts of the URL, which may be the password.
        raise LedgerInputError(
            "cannot be read", field=FIELD, fix="percent-encode special characters in the password"
        ) from None


def scheme_of(url: str) -> str:
    """The URL's scheme, ``""`` if it has none or is malformed."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return ""
    return parts.scheme


def no_redis_url() -> LedgerInputError:
    """The error for a URL that is none; it quotes nothing, since the URL may hold a password."""
    return LedgerInputError(
        "is no Redis URL",
        field=FIELD,
        fix="use redis://host:port/0, rediss:// for TLS, or unix://; percent-encode the password",
    )


@contextmanager
def named_errors(where: str, *, writes: bool) -> Generator[None]:
    """Turn redis-py's errors into ours.

    Args:
        where: the URL without credentials.
        writes: whether what runs inside writes, so that a lost reply leaves its outcome open.
    """
    try:
        yield
    except (redis.AuthenticationError, NoPermissionError) as error:
        raise LedgerUnavailableError(
            f"Redis at {where} refuses our password or user",
            field="redis",
            fix=f"put the right one into {FIELD}",
        ) from error
    except BusyLoadingError as error:
        raise LedgerUnavailableError(
            f"Redis at {where} is still loading its data", field="redis", fix="try again in a moment"
        ) from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        slow = isinstance(error, (redis.TimeoutError, TimeoutError))
        how = "did not answer in time" if slow else "cannot be reached"
        open_end = "; whether it was carried out is not known" if writes else ""
        raise LedgerUnavailableError(
            f"Redis at {where} {how}{open_end}",
            field="redis",
            fix=f"start it, or correct {FIELD}",
            maybe_done=writes,
        ) from error
    except redis.ResponseError as error:
        if "SX_INCONSISTENT" in str(error):
            raise LedgerInconsistentError(
                f"the ledger at {where} contradicts itself: {_first_line(error)}",
                field="redis",
                fix="stop the workers and compare budgets with records; something else wrote to this Redis",
            ) from error
        # A refused command or script was not carried out (out of memory, disk full, read-only replica, …).
        raise LedgerUnavailableError(
            f"Redis at {where} refuses: {_first_line(error)}",
            field="redis",
            fix="run `session-executor doctor`",
        ) from error


def reach(client: redis.Redis, where: str) -> None:
    """Make sure that there is an open connection before a write, so that *never sent* can be told from *maybe sent*.

    Costs no round trip when a pooled connection is open.

    Raises:
        LedgerUnavailableError: with ``maybe_done`` False.
    """
    with named_errors(where, writes=False):
        pool: Any = client.connection_pool
        pool.release(pool.get_connection())


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
