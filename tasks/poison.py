"""Messages that are none of ours are set aside before Celery sees them, since one of them can end a worker.

Measured with celery 5.7 and kombu 5.7: a queue entry that is no JSON, or no envelope, raises inside the worker's event
loop and ends the process; the next worker takes the next one. Here each entry is held against what this program sends
- JSON, one of our tasks, arguments that fit - right where it is read from Redis.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty
from typing import Any, cast

import redis
import structlog
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from redis.client import NEVER_DECODE

from worker.audit import AuditTrail
from worker.json_depth import check_depth

log = structlog.get_logger(__name__)

#: Ours carry an id: some 1 kB. Anything of this size is something else, and parsing it would hold up the others.
MAX_MESSAGE_BYTES = 64 * 1024
#: What is kept of each for people to look at, and of how many of them; the counts go on.
_KEPT_BYTES = 4_096
#: A refused request may be asked for again once its reason is gone, so more of it is kept.
_KEPT_REQUEST_BYTES = 16_384
_KEPT = 1_000
BOX = "sx:poison"
COUNTS = "sx:poison:counts"
REFUSED_REQUEST = "refused-request"
"""Kind of a request to ``tasks.enqueue`` that cannot be an intent; its ``why`` names the member."""

Signatures = Mapping[str, inspect.Signature]


def signatures(tasks: Mapping[str, Callable[..., Any]]) -> Signatures:
    """The parameters of each task by its name."""
    return {name: inspect.signature(task) for name, task in tasks.items()}


def problem_of(raw: bytes, known: Signatures) -> str:
    """Why a queue entry is no message of ours: a short name, ``""`` for one that Celery may have.

    Args:
        raw: as it lies in the queue.
        known: our tasks and their parameters.
    """
    if len(raw) > MAX_MESSAGE_BYTES:
        return "too-large"
    message = _json(raw)
    if message is None:
        return "not-json"
    properties = _mapping(_mapping(message).get("properties"))
    headers = _mapping(_mapping(message).get("headers"))
    info = _mapping(properties.get("delivery_info"))
    texts = (properties.get("delivery_tag"), info.get("exchange"), info.get("routing_key"), headers.get("id"))
    if not all(isinstance(text, str) for text in texts):
        return "no-message"
    message = _mapping(message)
    if message.get("content-type") != "application/json" or message.get("content-encoding") != "utf-8":
        return "not-json-content"
    name = headers.get("task")
    if not isinstance(name, str) or name not in known:
        return "unknown-task"
    return _arguments_problem(message.get("body"), properties.get("body_encoding"), known[name])


def _arguments_problem(body: object, encoding: object, signature: inspect.Signature) -> str:
    if not isinstance(body, str) or encoding != "base64":
        return "no-message"
    try:
        content = _json(base64.b64decode(body, validate=True))
    except binascii.Error:
        return "no-message"
    if not isinstance(content, list) or len(cast("list[Any]", content)) != 3:
        return "no-message"
    args, kwargs, _embed = cast("list[Any]", content)
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return "wrong-arguments"
    values = cast("list[Any]", args) + list(cast("dict[str, Any]", kwargs).values())
    # a request of others (``tasks.enqueue``) holds what its reader judges, with words; the stages take ids only
    open_ended = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    if not open_ended and not all(isinstance(value, str) for value in values):
        return "wrong-arguments"
    try:
        signature.bind(*cast("list[Any]", args), **cast("dict[str, Any]", kwargs))
    except TypeError:
        return "wrong-arguments"
    return ""


def _json(raw: bytes) -> Any:
    """Parsed, or None for what is no JSON (``null`` included)."""
    try:
        text = raw.decode()
        check_depth(text)
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


class PoisonBox:
    """Where poison is set aside: a list of the newest ones and a count of each kind, in Redis.

    Args:
        client: Redis, with a bound on every command.
        audit: gets a line for each.
    """

    def __init__(self, client: redis.Redis, audit: AuditTrail | None = None) -> None:
        self._client = client
        self._audit = audit

    def put(self, kind: str, queue: str, raw: bytes, *, why: str = "") -> None:
        """Keep the beginning of one, count it, and log that it was there; ``why`` in words. Never raises."""
        log.error("poison message set aside", kind=kind, queue=queue, size=len(raw), why=why, kept_in=BOX)
        if self._audit is not None:
            self._audit.tell("message refused", kind=kind, queue=queue, size=len(raw), why=why)
        kept = _KEPT_REQUEST_BYTES if kind == REFUSED_REQUEST else _KEPT_BYTES
        entry = {
            "id": f"psn_{secrets.token_hex(8)}",
            "at_ms": time.time_ns() // 1_000_000,
            "kind": kind,
            "why": why,
            "queue": queue,
            "size": len(raw),
            "beginning": raw[:kept].decode("utf-8", "backslashreplace"),
        }
        try:
            pipe = self._client.pipeline(transaction=True)
            pipe.lpush(BOX, json.dumps(entry))
            pipe.ltrim(BOX, 0, _KEPT - 1)
            pipe.hincrby(COUNTS, kind, 1)
            pipe.execute()
        except (redis.RedisError, OSError) as error:
            log.warning("poison message not kept", kind=kind, error=type(error).__name__)

    def counts(self) -> dict[str, int]:
        """How many there have been of each kind. Raises redis-py's errors."""
        found: Mapping[str | bytes, str | bytes] = self._client.hgetall(COUNTS)
        return {_text(kind): int(number) for kind, number in found.items()}

    def newest(self, limit: int = 50) -> list[Poison]:
        """The newest first. Raises redis-py's errors."""
        # as bytes, whatever the client does: what lies there may have been written by anybody
        command: Any = self._client.execute_command
        rows: Sequence[bytes] = command("LRANGE", BOX, 0, limit - 1, **{NEVER_DECODE: []})
        return [Poison(number, row) for number, row in enumerate(rows, 1)]

    def waiting(self) -> int:
        """How many lie here that nobody has dropped; at most the newest thousand are kept. Raises redis-py's errors."""
        return self._client.llen(BOX)

    def drop(self, poison: Poison) -> bool:
        """Take one out; False if somebody else has, or newer ones have pushed it out. Raises redis-py's errors."""
        return self._client.lrem(BOX, 1, poison.row) > 0  # pyright: ignore[reportArgumentType] - bytes are taken as they are


class Poison:
    """One that was set aside.

    Args:
        number: its place, the newest is 1; it changes when another one comes.
        row: as it lies in Redis.

    Attributes:
        entry: ``id``, ``at_ms``, ``kind``, ``why``, ``queue``, ``size`` in bytes, ``beginning``.
    """

    def __init__(self, number: int, row: bytes) -> None:
        self.number = number
        self.row = row
        found = _mapping(_json(row))
        self.entry: dict[str, Any] = {
            name: found[name] if type(found.get(name)) is type(empty) else empty
            for name, empty in _EMPTY.items()
        }

    @property
    def poison_id(self) -> str:
        """Names it for good."""
        return str(self.entry["id"])

    @property
    def kind(self) -> str:
        """Why it was set aside, in a short name."""
        return str(self.entry["kind"])

    def request(self) -> dict[str, Any] | None:
        """The request for an intent that it holds; None if it is none, or only its beginning was kept."""
        if self.kind != REFUSED_REQUEST:
            return None
        found = _json(str(self.entry["beginning"]).encode("utf-8", "replace"))
        return cast("dict[str, Any]", found) if isinstance(found, dict) else None


_EMPTY: Mapping[str, str | int] = {
    "id": "",
    "at_ms": 0,
    "kind": "",
    "why": "",
    "queue": "",
    "size": 0,
    "beginning": "",
}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def guard_broker(known: Callable[[], Signatures], box: Callable[[], PoisonBox]) -> None:
    """Let every Redis broker connection of this process, made from now on, read through the check above.

    Args:
        known: our tasks; asked for when a message comes.
        box: where poison goes; asked for with the first one.
    """

    class Guarded:
        """What a channel does with an entry that it has read, and how it closes."""

        def _brpop_read(self: Any, **options: Any) -> Any:
            """As kombu's own, which parses what it reads without a check."""
            client = self.client
            try:
                try:
                    found = client.parse_response(client.connection, "BRPOP", **options)
                except self.connection_errors:
                    client.connection.disconnect()
                    raise
                if not found:
                    raise Empty
                key, item = found
                queue = _text(key).rsplit(self.sep, 1)[0]
                self._queue_cycle.rotate(queue)
                raw = item if isinstance(item, bytes) else str(item).encode()
                problem = problem_of(raw, known())
                if problem:
                    box().put(problem, queue, raw)
                else:
                    self.connection._deliver(json.loads(raw), queue)  # noqa: SLF001 - as kombu does
                return True
            finally:
                self._in_poll = None
                self._flush_brpop_reauth()

        def _connparams(self: Any, asynchronous: bool = False) -> Any:
            """As kombu's own, but a closed connection is said to be closed, which every caller is prepared for."""
            if getattr(self.connection, "client", None) is None:
                raise redis.ConnectionError("the channel's connection is closed")
            return super()._connparams(asynchronous=asynchronous)  # pyright: ignore[reportAttributeAccessIssue] - of the class mixed with

        def close(self: Any) -> None:
            """As kombu's own, but for a connection that was closed before its channel.

            That happens when Redis goes away twice in a row. Kombu would put back what was not acknowledged, over
            a connection whose parameters are gone, and the AttributeError would end the worker. The messages come
            back by the visibility timeout, and the ledger's due index does not wait for them.
            """
            if getattr(self.connection, "client", None) is None:
                self.do_restore = False
            super().close()  # pyright: ignore[reportAttributeAccessIssue] - of the class mixed with

    class SingleChannel(Guarded, kombu_redis.Channel):
        """Of a single Redis."""

    class SentinelChannel(Guarded, kombu_redis.SentinelChannel):
        """Of a Redis behind Sentinels."""

    class Transport(kombu_redis.Transport):
        """With the channel above."""

        Channel = SingleChannel

    class SentinelTransport(kombu_redis.SentinelTransport):
        """With the channel above."""

        Channel = SentinelChannel

    # by alias and not by ``broker_transport``: with that, kombu would not see that a ``rediss://`` URL asks for TLS
    aliases = cast("dict[str, Any]", TRANSPORT_ALIASES)
    aliases |= {
        "redis": lambda: Transport,
        "rediss": lambda: Transport,
        "sentinel": lambda: SentinelTransport,
    }
