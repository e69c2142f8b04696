"""Seals: HMACs by which this program knows what it wrote itself in Redis from what somebody else wrote there.

A seal is ``<key id>:<HMAC-SHA256, hex>`` over a kind and texts. Its keys are known to those who enqueue and those who
work, and are not in Redis. What a seal cannot tell is *when* something was written: an old copy has a good seal, too.
So whatever may change carries a revision, and each machine remembers the newest one it has seen (``Revisions``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from worker.errors import ServiceError

#: An unknown key id may be a key that was added a moment ago; asking for the keys again is held to this.
_RELOAD_AFTER_S = 5.0
#: A key that was withdrawn is forgotten within this.
_KEEP_S = 300.0

SEAL_FIX = "find out who else writes to this Redis; if all of it is yours, `session-executor ledger seal`"


class ForgedError(ServiceError):
    """What Redis holds was not written by this program, or is an old copy of what it wrote."""


class Revisions(Protocol):
    """The newest revision of each sealed thing that this machine has seen."""

    def revision(self, name: str) -> int:
        """0 for none."""
        ...

    def learn_revision(self, name: str, revision: int) -> None:
        """Remember it if it is newer."""
        ...


@dataclass(frozen=True, slots=True)
class SealKeys:
    """The keys, 32 bytes each, by their ids; ``current`` is the one that seals, all of them are accepted."""

    current: str
    keys: Mapping[str, bytes] = field(repr=False)


class Sealer:
    """Makes seals and checks them. May be used by several threads.

    Args:
        load: fetches the keys; called when they are first needed, and now and then again.
    """

    def __init__(self, load: Callable[[], SealKeys]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._known: SealKeys | None = None
        self._loaded_s = 0.0

    def __repr__(self) -> str:
        return "<Sealer>"

    def seal(self, kind: str, *parts: str) -> str:
        """The seal of these texts, in this order.

        Args:
            kind: what is sealed; a seal of one kind is worthless for another.
            parts: what it says.

        Raises:
            KeyStoreError: the keys cannot be had.
        """
        known = self._keys(_KEEP_S)
        return f"{known.current}:{_mac(known.keys[known.current], kind, parts)}"

    def problem(self, seal: str, kind: str, *parts: str) -> str:
        """Why the seal is not ours, ``""`` if it is.

        Raises:
            KeyStoreError: the keys cannot be had.
        """
        if not seal:
            return "it has no seal"
        key_id, _, mac = seal.partition(":")
        known = self._keys(_KEEP_S)
        if key_id not in known.keys:
            known = self._keys(_RELOAD_AFTER_S)
        key = known.keys.get(key_id)
        if key is None:
            name = key_id if key_id.isalnum() and len(key_id) <= 16 else "?"
            return f"its seal names the key {name}, which is none of ours ({', '.join(sorted(known.keys))})"
        if not hmac.compare_digest(_mac(key, kind, parts).encode(), mac.encode("utf-8", "replace")):
            return "its seal does not fit its content"
        return ""

    def _keys(self, keep_s: float) -> SealKeys:
        with self._lock:
            now_s = time.monotonic()
            if self._known is None or now_s - self._loaded_s >= keep_s:
                self._known = self._reloaded(self._known)
                self._loaded_s = now_s
            return self._known

    def _reloaded(self, before: SealKeys | None) -> SealKeys:
        """The keys as they are now; those of before while their store is away, since it is only integrity that they keep."""
        try:
            return self._load()
        except ServiceError:
            if before is None:
                raise
            return before


def _mac(key: bytes, kind: str, parts: tuple[str, ...]) -> str:
    # JSON, so that no two lists of texts are the same bytes
    return hmac.new(key, json.dumps([kind, *parts]).encode(), hashlib.sha256).hexdigest()
