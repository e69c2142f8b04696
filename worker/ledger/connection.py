"""The Redis connection: bounded in time, and errors that tell never done from maybe done."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import BusyLoadingError, NoPermissionError, ReadOnlyError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from config.redis_url import RedisUrl, parse
from worker.ledger.errors import LedgerInconsistentError, LedgerInputError, LedgerUnavailableError

FIELD = "SESSION_EXECUTOR_REDIS_URL"

#: A Redis worth using for this answers a connect within milliseconds; enqueue must fail within 5 s in all.
_CONNECT_TIMEOUT_MS = 1_000


class _NotConnectedError(redis.ConnectionError):
    """There was no connection to write to."""


class _NotConnectedInTimeError(redis.TimeoutError):
    """The same, after a wait."""


class _Reconnecting(redis.Connection):
    """A connection that tells *never sent*, and is closed when its server turns out to be a replica.

    Behind a name or a proxy that follows the master, the next command reaches the new one. The Sentinels' connections do
    so by themselves.
    """

    def connect(self) -> None:
        """As the original; nothing of a command has left when it fails."""
        try:
            super().connect()
        except (redis.AuthenticationError, BusyLoadingError):
            raise
        except redis.TimeoutError as error:
            raise _NotConnectedInTimeError(*error.args) from error
        except redis.ConnectionError as error:
            raise _NotConnectedError(*error.args) from error

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """As the original; what was refused was not carried out."""
        try:
            return super().read_response(*args, **kwargs)
        except ReadOnlyError:
            self.disconnect()
            raise


class _ReconnectingTls(_Reconnecting, redis.SSLConnection):
    """The same over TLS."""


def safe_url(url: str) -> str:
    """The URL without user, password and query, for messages."""
    try:
        return parse(url).where
    except ValueError:
        return "(unreadable URL)"


def connect(url: str, *, timeout_ms: int) -> redis.Redis:
    """A client whose every command ends within ``timeout_ms`` and that never retries on its own.

    A retry inside the client would repeat writes whose outcome is not known; who calls decides instead.
    Nothing is sent yet, but that a cluster is asked for its nodes.

    Args:
        url: one server, Sentinels or a cluster, see ``config/redis_url.py``.
        timeout_ms: bound on one command, and (1 s at most) on the connect before it.

    Raises:
        LedgerInputError: the URL cannot be used.
        LedgerUnavailableError: no node of the cluster answers.
    """
    parts = read_url(url)
    bounds: dict[str, Any] = {
        "socket_timeout": timeout_ms / 1000,
        "socket_connect_timeout": min(timeout_ms, _CONNECT_TIMEOUT_MS) / 1000,
    }
    common: dict[str, Any] = bounds | {
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "protocol": 2,
    }
    if parts.kind != "single":
        common |= {"username": parts.username or None, "password": parts.password or None}
        common |= {"ssl": True, **parts.tls_options} if parts.tls else {}
    try:
        if parts.kind == "sentinel":
            ask = bounds | parts.sentinel_options
            ask |= {"ssl": True, **parts.tls_options} if parts.tls else {}
            sentinels = Sentinel(list(parts.hosts), sentinel_kwargs=ask)
            return sentinels.master_for(parts.service, db=parts.db, **common)
        if parts.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in parts.hosts]
            with named_errors(parts.where, writes=False):
                # it has the commands that we use, but not the class
                return cast("redis.Redis", RedisCluster(startup_nodes=nodes, **common))
        pool = redis.ConnectionPool.from_url(url, **common)
        own = {redis.Connection: _Reconnecting, redis.SSLConnection: _ReconnectingTls}
        pool.connection_class = own.get(pool.connection_class, pool.connection_class)
        return redis.Redis(connection_pool=pool)
    except (ValueError, TypeError):
        # The cause quotes parts of the URL, which may be the password.
        raise LedgerInputError(
            "cannot be read", field=FIELD, fix="percent-encode special characters in the password"
        ) from None


def read_url(url: str) -> RedisUrl:
    """The URL's parts.

    Raises:
        LedgerInputError: it is none; the text quotes nothing, since the URL may hold a password.
    """
    try:
        return parse(url)
    except ValueError as error:
        raise LedgerInputError(
            str(error),
            field=FIELD,
            fix="use redis://host:port/0, rediss:// for TLS, unix://, redis+sentinel://host:port,host:port/NAME or "
            "redis+cluster://host:port; percent-encode the password",
        ) from None


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
    except (redis.ConnectionError, redis.TimeoutError, RedisClusterException, OSError) as error:
        slow = isinstance(error, (redis.TimeoutError, TimeoutError))
        how = "did not answer in time" if slow else "cannot be reached"
        writes = writes and not isinstance(error, (_NotConnectedError, _NotConnectedInTimeError))
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

    Costs no round trip when a pooled connection is open, and nothing where connections tell by themselves. Of a cluster
    every write that fails is *maybe sent*.

    Raises:
        LedgerUnavailableError: with ``maybe_done`` False.
    """
    if isinstance(client, RedisCluster) or issubclass(client.connection_pool.connection_class, _Reconnecting):
        return
    with named_errors(where, writes=False):
        pool: Any = client.connection_pool
        pool.release(pool.get_connection())


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
