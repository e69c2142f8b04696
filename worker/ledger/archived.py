"""The side of Redis of archiving: which records have ended long ago, and taking them out for a tombstone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import redis

from worker.intents.states import FINAL, State
from worker.ledger import connection, keys, scripts
from worker.ledger.archive import RawRecord
from worker.ledger.tombstone import Tombstone, field_of

#: DEAD can be replayed, so it stays until somebody has done so.
ARCHIVED = FINAL - {State.DEAD}
_PAGE = 100


class ArchivedRecords:
    """Finds and takes out what has ended.

    Args:
        client: as ``worker.ledger.connection.connect`` makes it.
        where: the server without credentials, for messages.
    """

    def __init__(self, client: redis.Redis, *, where: str) -> None:
        self._redis = client
        self._where = where

    def begin(self, *, who: str, hold_ms: int) -> bool:
        """Become the one process that archives, for so long at most; False if another one does.

        Raises:
            LedgerUnavailableError
        """
        with connection.named_errors(self._where, writes=True):
            return bool(self._redis.set(keys.ARCHIVING, who, nx=True, px=hold_ms))

    def end(self, *, who: str) -> None:
        """Let another process archive. Raises LedgerUnavailableError."""
        with connection.named_errors(self._where, writes=True):
            if self._redis.get(keys.ARCHIVING) == who:
                self._redis.delete(keys.ARCHIVING)

    def ended_before(self, before_ms: int, *, limit: int) -> list[RawRecord]:
        """Records that were last touched before a time (unix ms), have ended and need nobody's attention.

        Raises:
            LedgerUnavailableError
        """
        found: list[RawRecord] = []
        with connection.named_errors(self._where, writes=False):
            for digits in sorted(cast("set[str]", self._redis.smembers(keys.SESSIONS))):
                for raw in self._of_session(digits, before_ms):
                    found.append(raw)
                    if len(found) >= limit:
                        return found
        return found

    def _of_session(self, digits: str, before_ms: int) -> Iterator[RawRecord]:
        start = 0
        while True:
            ids = cast(
                "list[str]",
                self._redis.zrangebyscore(
                    keys.of_session(digits, "all"), "-inf", before_ms, start=start, num=_PAGE
                ),
            )
            pipe = self._redis.pipeline(transaction=False)
            for intent_id in ids:
                pipe.hgetall(keys.intent(intent_id))
                pipe.lrange(keys.history(intent_id), 0, -1)
            rows: list[Any] = pipe.execute() if ids else []
            for intent_id, values, history in zip(ids, rows[::2], rows[1::2], strict=True):
                if (
                    values.get("state") in ARCHIVED
                    and int(values["updated_ms"]) < before_ms
                    and not values.get("attention")
                ):
                    yield RawRecord(intent_id, values, history)
            if len(ids) < _PAGE:
                return
            start += _PAGE

    def trim(self, raw: RawRecord, *, archived_ms: int) -> bool:
        """Take a record out that is archived; False if somebody has touched it since it was read.

        Raises:
            LedgerUnavailableError
        """
        intent_id = raw.intent_id
        digits = keys.digits_of_intent(intent_id)
        reply = self._run(
            "archive",
            (
                keys.intent(intent_id),
                keys.history(intent_id),
                keys.of_session(digits, "all"),
                keys.of_session(digits, "counts"),
                keys.of_session(digits, "archived"),
            ),
            (
                intent_id,
                field_of(intent_id),
                raw.values["state"],
                raw.values["updated_ms"],
                str(raw.tombstone(archived_ms)),
            ),
        )
        return reply == "ok"

    def remember(self, intent_id: str, tombstone: Tombstone) -> bool:
        """Put a tombstone back that the ledger has lost; False if it knows the intent.

        Raises:
            IntentNotFoundError: no intent id.
            LedgerUnavailableError
        """
        digits = keys.digits_of_intent(intent_id)
        with connection.named_errors(self._where, writes=True):
            self._redis.sadd(keys.SESSIONS, digits)
        names = (keys.intent(intent_id), keys.of_session(digits, "archived"))
        return bool(self._run("tombstone", names, (field_of(intent_id), str(tombstone))))

    def _run(self, name: str, names: tuple[str, ...], args: tuple[str, ...]) -> Any:
        return scripts.run(self._redis, self._where, name, names, args)
