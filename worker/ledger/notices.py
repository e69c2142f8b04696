"""Notifications in Redis: what has ended and is to be told, and each message to each channel until it has arrived."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from worker.json_depth import check_depth
from worker.ledger import connection, keys, scripts
from worker.ledger.errors import LedgerInputError

KEPT = 10_000
"""Notices kept for people to look at; when there are more the oldest go, arrived or not."""
_LEASE_MS = 60_000
_PAGE = 100
_BODIES, _LIST, _DUE = "sx:{notices}:bodies", "sx:{notices}:list", "sx:{notices}:due"


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to one channel.

    Attributes:
        notice_id: the event's id and the channel's name.
        event_id: the same for all channels and tries.
        channel: name.
        event: its kind, such as ``intent.failed``.
        body: what a webhook gets, JSON.
        title: one line for people.
        text: more lines for people.
        created_ms: unix milliseconds.
        state: ``waiting``, ``arrived`` or ``given up``.
        tries: how often it was sent.
        problem: of the last try.
        at_ms: of the last try, unix milliseconds; 0 before the first.
    """

    notice_id: str
    event_id: str
    channel: str
    event: str
    body: str
    title: str
    text: str
    created_ms: int
    state: str = "waiting"
    tries: int = 0
    problem: str = ""
    at_ms: int = 0


class NoticeBook:
    """The notices in Redis.

    Args:
        client: as ``worker.ledger.connection.connect`` makes it.
        where: the server without credentials, for messages.
    """

    def __init__(self, client: redis.Redis, *, where: str) -> None:
        self._redis = client
        self._where = where

    def sessions(self) -> Sequence[str]:
        """The 16 hex digits of every session that has records. Raises LedgerUnavailableError."""
        with connection.named_errors(self._where, writes=False):
            return sorted(cast("set[str]", self._redis.smembers(keys.SESSIONS)))

    def ended(self, digits: str) -> Iterator[tuple[str, str, str]]:
        """Intents of a session that have ended, the oldest first: (entry, intent id, state). Forget each when it is told.

        Raises:
            LedgerUnavailableError
        """
        with connection.named_errors(self._where, writes=False):
            rows = cast("list[Any]", self._redis.xrange(keys.of_session(digits, "ended"), count=_PAGE))
        for entry, fields in rows:
            yield str(entry), str(fields["id"]), str(fields["state"])

    def forget(self, digits: str, entry: str) -> None:
        """What has ended is told. Raises LedgerUnavailableError."""
        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            self._redis.xdel(keys.of_session(digits, "ended"), entry)

    def add(self, notice: Notice) -> bool:
        """Store it to be sent, unless it is there already; whether it is new. Raises LedgerUnavailableError."""
        args = (notice.notice_id, json.dumps(asdict(notice)), notice.created_ms, KEPT)
        return bool(self._run("notice_add", (_BODIES, _LIST, _DUE), args))

    def take(self, *, now_ms: int, limit: int) -> Sequence[Notice]:
        """Those that are due; they come again when nothing is stored about them. Raises LedgerUnavailableError."""
        reply = self._run("notice_take", (_BODIES, _DUE), (now_ms, _LEASE_MS, limit))
        return [_notice(text) for text in reply[1::2]]

    def store(self, notice: Notice, *, due_ms: int | None) -> None:
        """What became of a try; ``due_ms``: when to try again, None for never. Raises LedgerUnavailableError."""
        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            pipe = self._redis.pipeline(transaction=True)
            pipe.hset(_BODIES, notice.notice_id, json.dumps(asdict(notice)))
            if due_ms is None:
                pipe.zrem(_DUE, notice.notice_id)
            else:
                pipe.zadd(_DUE, {notice.notice_id: due_ms})
            pipe.execute()

    def list(self, *, limit: int = 50, offset: int = 0) -> Sequence[Notice]:
        """The newest first. Raises LedgerUnavailableError."""
        with connection.named_errors(self._where, writes=False):
            ids = cast("list[str]", self._redis.zrevrange(_LIST, offset, offset + limit - 1))
            texts = cast("list[str | None]", self._redis.hmget(_BODIES, ids) if ids else [])
        return [_notice(text) for text in texts if text is not None]

    def get(self, notice_id: str) -> Notice:
        """Raises LedgerInputError: there is none; LedgerUnavailableError."""
        with connection.named_errors(self._where, writes=False):
            text = cast("str | None", self._redis.hget(_BODIES, notice_id))
        if text is None:
            raise LedgerInputError(
                f"no notification is {notice_id[:80]!r}",
                field="notification",
                fix="see `session-executor notifications list`",
            )
        return _notice(text)

    def _run(self, name: str, names: Sequence[str], args: Sequence[str | int]) -> Any:
        return scripts.run(self._redis, self._where, name, names, args)


def _notice(text: str) -> Notice:
    check_depth(text)
    return Notice(**json.loads(text))
