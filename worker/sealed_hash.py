"""Hashes in Redis that are sealed as a whole, with a number that grows with every change.

Beside its own fields such a hash has ``rev``, which is unix ms or one more than before, and ``seal`` over its name, the
number and all fields. A field that was changed, added or taken away breaks the seal; an old copy of the hash has a
number below the one that this machine has seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import redis

from worker.sealing import SEAL_FIX, ForgedError, Revisions, Sealer

REV, SEAL = "rev", "seal"
#: Somebody else's change in between means to look again.
_TRIES = 50

#: Replace all of a hash, if its number is still the one that was read. KEYS hash; ARGV number ('' = none), then field,
#: value, ... Returns 1, or 0 if another one is there.
_REPLACE = """
if (redis.call('HGET', KEYS[1], 'rev') or '') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
for index = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
return 1
"""


class SealedHashes:
    """Reads and changes them. Raises redis-py's errors besides its own.

    Args:
        client: as ``worker.ledger.connection.connect`` makes it.
        kind: of all of them, part of each seal.
        sealer: None: they are neither sealed nor checked.
        revisions: this machine's memory, None for none.
    """

    def __init__(
        self, client: redis.Redis, kind: str, sealer: Sealer | None, revisions: Revisions | None
    ) -> None:
        self._redis = client
        self._kind = kind
        self._sealer = sealer
        self._revisions = revisions

    def read(self, key: str, name: str) -> dict[str, str]:
        """The fields of a hash; none if there is no such hash.

        Args:
            key: in Redis.
            name: of what is in it: letters, digits and ``-``.

        Raises:
            ForgedError: somebody else has written to it.
            KeyStoreError: the keys of the seals cannot be had.
            StateDirError: this machine's memory cannot be read.
        """
        return self.checked(name, cast("dict[str, str]", self._redis.hgetall(key)))

    def checked(self, name: str, stored: Mapping[str, str]) -> dict[str, str]:
        """As ``read``, for one that was read already."""
        if self._sealer is None:
            return _without_ours(stored)
        seen = 0 if self._revisions is None else self._revisions.revision(name)
        if not stored:
            if seen and self._kind != "session":  # a session that is not there is not used
                raise _forged(name, f"it is gone, and this machine has seen its revision {seen}")
            return {}
        problem = self._sealer.problem(stored.get(SEAL, ""), self._kind, *_parts(name, stored))
        if problem:
            raise _forged(name, problem)
        revision = int(stored[REV])
        if revision < seen:
            raise _forged(name, f"it is an old copy: revision {revision}, this machine has seen {seen}")
        if revision > seen and self._revisions is not None:
            self._revisions.learn_revision(name, revision)
        return _without_ours(stored)

    def change(
        self,
        key: str,
        name: str,
        change: Callable[[dict[str, str]], Mapping[str, str] | None],
        *,
        trust: bool = False,
    ) -> bool:
        """Replace the fields by what ``change`` makes of them; whether anything was written.

        Args:
            key: in Redis.
            name: of what is in it.
            change: gets the fields, perhaps more than once; None leaves everything as it is.
            trust: take what is there for ours, whatever its seal says.

        Raises:
            As ``read``.
        """
        for _ in range(_TRIES):
            stored = cast("dict[str, str]", self._redis.hgetall(key))
            before = _without_ours(stored) if trust else self.checked(name, stored)
            wanted = change(dict(before))
            if wanted is None:
                return False
            seen = 0 if self._revisions is None else self._revisions.revision(name)
            old = stored.get(REV, "")
            number = max(int(old) if old.isascii() and old.isdigit() else 0, seen)
            revision = max(number + 1, time.time_ns() // 1_000_000)
            fields = {**wanted, REV: str(revision)}
            if self._sealer is not None:
                fields[SEAL] = self._sealer.seal(self._kind, *_parts(name, fields))
            pairs = [text for pair in fields.items() for text in pair]
            done: Any = self._redis.eval(_REPLACE, 1, key, old, *pairs)
            if done:
                if self._revisions is not None and self._sealer is not None:
                    self._revisions.learn_revision(name, revision)
                return True
        raise redis.ResponseError(f"{name} is being changed by others all the time")


def _parts(name: str, stored: Mapping[str, str]) -> list[str]:
    return [name, *(text for field in sorted(stored) if field != SEAL for text in (field, stored[field]))]


def _without_ours(stored: Mapping[str, str]) -> dict[str, str]:
    return {field: text for field, text in stored.items() if field not in {REV, SEAL}}


def _forged(name: str, problem: str) -> ForgedError:
    return ForgedError(f"{name}: {problem}", field="redis", fix=SEAL_FIX)
