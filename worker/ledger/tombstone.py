"""What stays in Redis of an intent that was archived: enough to know that its key was used, for what, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from worker.intents.states import State

#: Hex digits of the payload's SHA-256 that are kept: 128 bits, since each of a million tombstones is held in memory.
_HASH_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One archived intent.

    Attributes:
        payload_hash: the beginning of the payload's SHA-256, hex.
        state: how it ended.
        archived_ms: unix milliseconds; also in the name of the archive file that holds it.
    """

    payload_hash: str
    state: State
    archived_ms: int

    @classmethod
    def of(cls, payload_hash: str, state: State, archived_ms: int) -> Self:
        """The tombstone of a record with this whole payload hash."""
        return cls(payload_hash[:_HASH_DIGITS], state, archived_ms)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of ``str``. Raises ValueError."""
        payload_hash, state, archived_ms = text.split(" ")
        return cls(payload_hash, State(state), int(archived_ms))

    def __str__(self) -> str:
        return f"{self.payload_hash} {self.state} {self.archived_ms}"


def field_of(intent_id: str) -> str:
    """The tombstone's field in the hash of its session: the id's own digits."""
    return intent_id.rpartition("_")[2]
