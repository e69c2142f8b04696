"""Keys that a signer may keep for some seconds, where an operator wants that (``SESSION_EXECUTOR_KEY_CACHE_S``).

Off by default. What is kept is a ``SecretKey``; every use gets a copy of its own, which is wiped after it as ever. A kept key
is wiped when

- its time is over, used or not: a key that is destroyed in the store is used no longer than that;
- the store shows that it has changed (``stamp``: of keystore files, at the next use);
- what was *watched* has changed since it was fetched: the session it signs for, the kill switches, the note that key commands
  leave. That is looked at within ``LOOK_S``, and whoever cannot look keeps nothing;
- the process forks: a child starts with none.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from worker.keys.port import KeyGiver, SecretKey
from worker.keys.secp256k1 import parse_address

log = structlog.get_logger(__name__)

LOOK_S = 1.0
"""How often the kept keys are looked at: an operator's pause should not leave a key in memory for longer."""

Watch = Callable[[str], str]
"""What must stay as it is for the keys of a session; raises if nobody can tell."""


class Stamped(Protocol):
    """A store that knows cheaply whether a key has changed."""

    def stamp(self, address: str) -> str:
        """Changes with every change of the key. Raises KeyStoreError."""
        ...


@dataclass(slots=True)
class _Kept:
    key: SecretKey
    until: float
    watched: str
    stamp: str


class KeyCache:
    """Keys of a store, kept for at most ``seconds``.

    Args:
        store: where they come from.
        seconds: how long one is kept.
        watch: what must not change meanwhile.
        stamp: of a stored key; None: the store does not know.
        look_s: how often kept keys are looked at.
    """

    def __init__(
        self,
        store: KeyGiver,
        seconds: float,
        watch: Watch,
        stamp: Callable[[str], str] | None = None,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._watch = watch
        self._stamp = stamp
        self._look_s = look_s
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._pid = os.getpid()
        self._looking = False

    def __repr__(self) -> str:
        return f"<KeyCache of {self._store!r}, {len(self._kept)} kept>"

    def of(self, session_id: str) -> KeyGiver:
        """The keys, for the signatures of one session."""
        return _OfSession(self, session_id)

    @contextmanager
    def get(self, session_id: str, address: str) -> Generator[SecretKey]:
        """As ``KeyStore.get``, from what is kept if it may be used.

        Raises:
            KeyStoreError: as the store's; nothing is kept then.
        """
        name = (session_id, parse_address(address))
        # before the key is fetched: what changes meanwhile shows at the next look
        watched, stamp = self._now(session_id), self._stamp_of(address)
        copy = self._copy_of(name, watched, stamp)
        if copy is None:
            with self._store.get(address) as key:
                if watched is not None:
                    self._keep(name, _Kept(_copy(key), time.monotonic() + self._seconds, watched, stamp))
                yield key
            return
        try:
            yield copy
        finally:
            copy.wipe()

    def drop(self) -> None:
        """Wipe everything that is kept."""
        with self._own():
            for kept in self._kept.values():
                kept.key.wipe()
            self._kept.clear()

    # ------------------------------------------------------------------ inside

    def _copy_of(self, name: tuple[str, str], watched: str | None, stamp: str) -> SecretKey | None:
        with self._own():
            kept = self._kept.get(name)
            if kept is None:
                return None
            if watched == kept.watched and stamp == kept.stamp and time.monotonic() < kept.until:
                return _copy(kept.key)
            self._wipe(name)
            return None

    def _keep(self, name: tuple[str, str], kept: _Kept) -> None:
        with self._own():
            if name in self._kept:
                self._wipe(name)
            self._kept[name] = kept
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look_after, name="key-cache", daemon=True).start()

    def _own(self) -> threading.Lock:
        """The lock of this process. A child of a fork has no thread that looks after the keys: it keeps none of its parent's."""
        if self._pid != os.getpid():
            # the parent's thread may have held the old one at that moment, and is not here to let go of it
            self._lock, self._pid, self._looking = threading.Lock(), os.getpid(), False
            for name in list(self._kept):
                self._wipe(name)
        return self._lock

    def _look_after(self) -> None:
        """Wipe what must not be kept any longer; ends with the last key. The body of a thread."""
        while True:
            time.sleep(self._look_s)
            with self._own():
                names = list(self._kept)
            # not under the lock: a Redis that does not answer must not hold up who needs no cache
            now = {session_id: self._now(session_id) for session_id, _ in names}
            with self._own():
                for name, kept in list(self._kept.items()):
                    changed = name[0] in now and now[name[0]] != kept.watched
                    if changed or time.monotonic() >= kept.until:
                        self._wipe(name)
                if not self._kept:
                    self._looking = False
                    return

    def _now(self, session_id: str) -> str | None:
        try:
            return self._watch(session_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody can tell
            log.warning("no key is kept: nobody can tell what has changed", error=type(error).__name__)
            return None

    def _stamp_of(self, address: str) -> str:
        return "" if self._stamp is None else self._stamp(address)

    def _wipe(self, name: tuple[str, str]) -> None:
        self._kept.pop(name).key.wipe()


class _OfSession:
    def __init__(self, cache: KeyCache, session_id: str) -> None:
        self._cache = cache
        self._session_id = session_id

    def get(self, address: str) -> AbstractContextManager[SecretKey]:
        return self._cache.get(self._session_id, address)


def _copy(key: SecretKey) -> SecretKey:
    copy = SecretKey(key.use(), key.address)
    copy.version = key.version
    return copy
