"""Which workers there are, and whether they deal with their messages: a register, and a heartbeat sent through each.

Every worker serves, beside its other queues, one of its own (``heartbeat_queue``). A heartbeat is a task like any other:
read by the connection that reads the other queues, handed to the pool, carried out by one of its processes, which
answers in Redis. A worker that is frozen, cut off, or whose pool hangs answers none, whatever its process table says.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import redis
import structlog
from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from config.celery import KEY_PREFIX, heartbeat_queue
from config.settings import Settings, broker_of
from worker.errors import ServiceError
from worker.ledger.connection import connect, named_errors, safe_url

log = structlog.get_logger(__name__)

REGISTER_EVERY_S = 5.0
"""How often a worker says that it is there."""

KEPT_S = 60
"""How long its word holds: longer than its main process may be busy or Redis away. Then it counts as gone."""

_WORKERS = "sx:workers"
#: Heartbeats that lie in the queue of a worker that takes none: no more than these are kept, and no longer than this.
_MOST_WAITING = 10
_WAITING_S = 120
#: One wait for answers; below ``redis_timeout_ms``, so that a quiet moment is no error.
_WAIT_S = 0.5


class Fleet:
    """The workers that have registered at a broker.

    Args:
        settings: where the broker is.
    """

    def __init__(self, settings: Settings) -> None:
        url = broker_of(settings)
        self._client = connect(url, timeout_ms=settings.redis_timeout_ms)
        self._where = safe_url(url)
        self._wait_s = min(_WAIT_S, settings.redis_timeout_ms / 2000)

    def register(self, node: str, queues: Iterable[str]) -> None:
        """Say that a worker is there, for the next ``KEPT_S`` seconds.

        Args:
            node: its name, ``NAME@HOST``.
            queues: what it serves.

        Raises:
            LedgerUnavailableError
        """
        with named_errors(self._where, writes=True):
            pipe = self._client.pipeline(transaction=True)
            pipe.sadd(_WORKERS, node)
            pipe.set(_key(node), json.dumps(sorted(queues)), ex=KEPT_S)
            pipe.execute()

    def leave(self, node: str) -> None:
        """Say that it takes no messages from now on. Raises LedgerUnavailableError."""
        with named_errors(self._where, writes=True):
            pipe = self._client.pipeline(transaction=True)
            pipe.srem(_WORKERS, node)
            pipe.delete(_key(node), _list(node))
            pipe.execute()

    def workers(self) -> dict[str, tuple[str, ...]]:
        """The registered workers' names, and the queues that each serves. Raises LedgerUnavailableError."""
        with named_errors(self._where, writes=False):
            nodes = sorted(cast("set[str]", self._client.smembers(_WORKERS)))
            words = cast("list[str | None]", self._client.mget(map(_key, nodes))) if nodes else []
        found = dict(zip(nodes, words, strict=True))
        for node in [node for node, word in found.items() if word is None]:
            self.leave(node)  # nobody has heard of it for KEPT_S
        return {node: tuple(json.loads(word)) for node, word in found.items() if word is not None}

    def answer(self, token: str, node: str) -> None:
        """What the heartbeat's task does. Raises LedgerUnavailableError."""
        with named_errors(self._where, writes=True):
            pipe = self._client.pipeline(transaction=True)
            pipe.rpush(_answers(token), node)
            pipe.expire(_answers(token), KEPT_S)
            pipe.execute()

    def ask(self, app: Celery, nodes: Iterable[str], *, timeout_s: float) -> dict[str, float]:
        """Send a heartbeat through each worker and wait for the answers.

        Args:
            app: sends messages.
            nodes: the workers' names.
            timeout_s: how long to wait for all of them.

        Returns:
            Seconds until each one's answer; who did not answer in time is missing.

        Raises:
            LedgerUnavailableError, ServiceError: the broker does not answer.
        """
        token, begin = secrets.token_hex(16), time.monotonic()
        waited = set(nodes)
        for node in waited:
            self._send(app, node, token, timeout_s)
        found: dict[str, float] = {}
        while waited - set(found) and time.monotonic() - begin < timeout_s:
            left_s = max(0.01, min(self._wait_s, begin + timeout_s - time.monotonic()))
            with named_errors(self._where, writes=False):
                reply = cast("Any", self._client.blpop([_answers(token)], timeout=left_s))  # pyright: ignore[reportArgumentType] - fractions are allowed since Redis 6
            if reply is not None and reply[1] in waited:
                found.setdefault(str(reply[1]), time.monotonic() - begin)
        return found

    def _send(self, app: Celery, node: str, token: str, timeout_s: float) -> None:
        queue = Queue(heartbeat_queue(node))
        try:
            app.send_task("tasks.heartbeat", args=[token], queue=queue, expires=timeout_s)
            pipe = self._client.pipeline(transaction=True)
            pipe.ltrim(_list(node), 0, _MOST_WAITING - 1)  # the newest come first
            pipe.expire(_list(node), _WAITING_S)
            pipe.execute()
        except (OperationalError, redis.RedisError, OSError) as error:
            raise ServiceError(
                f"Redis at {self._where} took no heartbeat ({type(error).__name__})",
                field="redis",
                fix="see whether it is up and takes writes",
            ) from None


def uncovered(served: Mapping[str, Iterable[str]], queues: Iterable[str]) -> list[str]:
    """The queues of ``queues`` that none of the workers in ``served`` takes messages from."""
    covered = {name for names in served.values() for name in names}
    return [name for name in queues if name not in covered]


def _key(node: str) -> str:
    return f"sx:worker:{node}"


def _list(node: str) -> str:
    """Where Celery keeps the messages of its queue."""
    return f"{KEY_PREFIX}{heartbeat_queue(node)}"


def _answers(token: str) -> str:
    return f"sx:heartbeat:{token}"
