"""Is this Redis fit to hold the books? For ``doctor`` and for the start of a worker."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import redis
from redis.cluster import RedisCluster

from worker.errors import ServiceError
from worker.ledger import connection
from worker.ledger.errors import LedgerInputError
from worker.outbound import is_loopback

#: Pings whose median is reported; one alone measures the connect.
_PINGS = 5
#: A submit passes some ten ledger steps; above this they alone take a second.
_SLOW_MS = 100.0
#: ``lua`` error replies and ``ZRANGE … REV`` need it.
_OLDEST = (6, 2)


class UnsafeRedisError(ServiceError):
    """This Redis may lose or leak what the ledger holds; nothing is started on it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to fix. ``fatal``: the worker must not start on this Redis."""

    message: str
    fix: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """What was found.

    Attributes:
        url: without credentials.
        server: ``redis`` or ``valkey``.
        version: its own version.
        latency_ms: median of a few pings.
        aof: whether the append-only file is on.
        appendfsync: ``always``, ``everysec``, ``no``, or ``unknown`` where CONFIG is forbidden.
        maxmemory_policy: the eviction policy.
        maxmemory: bytes, 0 for no bound.
        problems: what to fix, the fatal ones first.
    """

    url: str
    server: str
    version: str
    latency_ms: float
    aof: bool
    appendfsync: str
    maxmemory_policy: str
    maxmemory: int
    problems: tuple[Problem, ...]

    @property
    def fatal(self) -> tuple[Problem, ...]:
        """The problems that forbid a start."""
        return tuple(problem for problem in self.problems if problem.fatal)


def require_safe_url(url: str, *, allow_insecure: bool) -> None:
    """Refuse a Redis beyond loopback without a password and TLS: whoever can write to it commands trades.

    Args:
        url: the Redis URL.
        allow_insecure: the setting ``allow_insecure_redis``, for a network that is private by other means.

    Raises:
        LedgerInputError: it is refused, or no Redis URL.
    """
    parts = connection.read_url(url)
    if allow_insecure or all(is_loopback(host) for host, _ in parts.hosts):
        return
    lacks = [what for what, there in (("password", parts.password), ("TLS", parts.tls)) if not there]
    if lacks:
        raise LedgerInputError(
            f"{parts.where} is beyond this machine and has no {' and no '.join(lacks)}",
            field=connection.FIELD,
            fix="use rediss://:password@host, or SESSION_EXECUTOR_ALLOW_INSECURE_REDIS=true on a private network",
        )


def check_redis(url: str, *, timeout_ms: int = 2_000) -> RedisHealth:
    """Ask the server about itself.

    Args:
        url: the Redis URL.
        timeout_ms: bound on one command.

    Raises:
        LedgerInputError: the URL cannot be used.
        LedgerUnavailableError: it does not answer, or refuses us.
    """
    where = connection.safe_url(url)
    with (
        connection.connect(url, timeout_ms=timeout_ms) as client,
        connection.named_errors(where, writes=False),
    ):
        if not isinstance(client, RedisCluster):
            return _check(client, where)
        nodes = [_check(client.get_redis_connection(node), where) for node in client.get_primaries()]
    worst = max(nodes, key=lambda node: (len(node.fatal), len(node.problems)))
    return replace(worst, latency_ms=max(node.latency_ms for node in nodes))


def _check(client: redis.Redis, where: str) -> RedisHealth:
    """What one server says about itself."""
    client.ping()
    latency_ms = statistics.median(_ping_ms(client) for _ in range(_PINGS))
    info: dict[str, Any] = client.info()
    appendfsync = _appendfsync(client)
    server = "valkey" if info.get("server_name") == "valkey" else "redis"
    health = RedisHealth(
        url=where,
        server=server,
        version=str(info.get(f"{server}_version", "unknown")),
        latency_ms=round(latency_ms, 2),
        aof=bool(info.get("aof_enabled")),
        appendfsync=appendfsync,
        maxmemory_policy=str(info.get("maxmemory_policy", "unknown")),
        maxmemory=int(info.get("maxmemory", 0)),
        problems=(),
    )
    problems = sorted(_problems(health, info), key=lambda problem: not problem.fatal)
    return replace(health, problems=tuple(problems))


def require_fit(health: RedisHealth) -> None:
    """Refuse to start on a Redis with a fatal problem.

    Raises:
        UnsafeRedisError: the first one.
    """
    for problem in health.fatal:
        raise UnsafeRedisError(f"Redis at {health.url} {problem.message}", field="redis", fix=problem.fix)


def _problems(health: RedisHealth, info: dict[str, Any]) -> list[Problem]:
    found: list[Problem] = []
    policy = health.maxmemory_policy
    if policy.startswith("allkeys-"):
        found.append(
            Problem(
                f"evicts any key when memory is short (maxmemory-policy {policy}): budgets and queued intents would vanish",
                "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
                fatal=True,
            )
        )
    elif policy != "noeviction":
        found.append(
            Problem(
                f"has maxmemory-policy {policy}, which may evict Celery's keys",
                "set maxmemory-policy noeviction",
                fatal=False,
            )
        )
    if not health.aof:
        found.append(
            Problem(
                "keeps no append-only file: a restart forgets budgets and intents",
                "set appendonly yes and appendfsync always (config/redis/redis.conf)",
                fatal=False,
            )
        )
    elif health.appendfsync != "always":
        found.append(
            Problem(
                f"has appendfsync {health.appendfsync}: a crash may forget the last writes, and with them what was sent",
                "set appendfsync always (config/redis/redis.conf)",
                fatal=False,
            )
        )
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        found.append(Problem("could not write its append-only file", "free disk space", fatal=True))
    if info.get("role") in {"slave", "replica"}:
        found.append(Problem("is a read-only replica", "use the primary's address", fatal=True))
    if _version(health) < _OLDEST and health.server == "redis":
        found.append(Problem(f"is version {health.version}", "use Redis 6.2 or newer, or Valkey", fatal=True))
    if health.latency_ms > _SLOW_MS:
        found.append(
            Problem(f"answers in {health.latency_ms} ms", "move it closer to the workers", fatal=False)
        )
    return found


def _version(health: RedisHealth) -> tuple[int, ...]:
    return tuple(int(part) for part in health.version.split(".")[:2] if part.isdigit())


def _ping_ms(client: redis.Redis) -> float:
    start = time.perf_counter()
    client.ping()
    return (time.perf_counter() - start) * 1000


def _appendfsync(client: redis.Redis) -> str:
    try:
        values = cast("dict[str, str]", client.config_get("appendfsync"))
    except redis.ResponseError:
        # Hosted Redis often forbids CONFIG.
        return "unknown"
    return values.get("appendfsync", "unknown")
