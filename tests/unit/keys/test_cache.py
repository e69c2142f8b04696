"""Kept keys are given out as copies, and wiped when their time is over or anything around them has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
from eth_utils.crypto import keccak

from worker.keys.cache import KeyCache
from worker.keys.errors import KeyDeletedError
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import address_of

KEY = keccak(b"session-executor test key that is kept")
ADDRESS = address_of(KEY)
S1, S2 = "ses_1", "ses_2"


class Store:
    """A store that counts, with what a test changes."""

    def __init__(self) -> None:
        self.reads = 0
        self.watched = "a"
        self.stamp_now = "1"
        self.deleted = False
        self.given: list[SecretKey] = []

    @contextmanager
    def get(self, address: str) -> Generator[SecretKey]:
        if self.deleted:
            raise KeyDeletedError("deleted", field=address)
        self.reads += 1
        key = SecretKey(KEY, address)
        key.version = str(self.reads)
        self.given.append(key)
        try:
            yield key
        finally:
            key.wipe()

    def watch(self, session_id: str) -> str:
        if self.watched == "down":
            raise ConnectionError(session_id)
        return self.watched

    def stamp(self, address: str) -> str:
        return f"{address} {self.stamp_now}"


@pytest.fixture
def store() -> Store:
    return Store()


def cache(store: Store, seconds: float = 60, look_s: float = 0.01) -> KeyCache:
    return KeyCache(store, seconds, store.watch, store.stamp, look_s=look_s)


def use(kept: KeyCache, session_id: str = S1) -> SecretKey:
    """One use; the key as the signer had it, wiped by now."""
    with kept.of(session_id).get(ADDRESS) as key:
        assert key.use() == KEY
    return key


def is_wiped(key: SecretKey) -> bool:
    try:
        key.use()
    except ValueError:
        return True
    return False


def held(kept: KeyCache) -> list[SecretKey]:
    return [entry.key for entry in kept._kept.values()]  # pyright: ignore[reportPrivateUsage]


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_kept_key_is_read_once_and_each_use_has_its_own_copy(store: Store) -> None:
    kept = cache(store)
    first, second = use(kept), use(kept)
    assert store.reads == 1
    assert is_wiped(first)
    assert is_wiped(second)
    assert second.version == "1"
    assert KEY.hex() not in repr(kept) + str(vars(kept))
    use(kept, S2)
    assert store.reads == 2


def test_its_time_ends_used_or_not(store: Store) -> None:
    kept = cache(store, 0.05)
    use(kept)
    [key] = held(kept)
    until(lambda: not held(kept))
    assert is_wiped(key)
    use(kept)
    assert store.reads == 2


@pytest.mark.parametrize("change", ["watched", "stamp_now"])
def test_a_change_is_seen_at_the_next_use(store: Store, change: str) -> None:
    kept = cache(store, look_s=60)
    use(kept)
    [key] = held(kept)
    setattr(store, change, "other")
    use(kept)
    assert store.reads == 2
    assert is_wiped(key)
    use(kept)
    assert store.reads == 2


@pytest.mark.parametrize("watched", ["other", "down"])
def test_a_change_is_seen_without_any_use(store: Store, watched: str) -> None:
    """A session that was stopped is not used any more: its key goes all the same."""
    kept = cache(store)
    use(kept)
    [key] = held(kept)
    store.watched = watched
    until(lambda: not held(kept))
    assert is_wiped(key)


def test_while_nobody_can_tell_nothing_is_kept(store: Store) -> None:
    kept = cache(store)
    store.watched = "down"
    for _ in range(2):
        use(kept)
    assert store.reads == 2
    assert held(kept) == []


def test_a_key_that_is_gone_is_not_replaced_by_what_was_kept(store: Store) -> None:
    kept = cache(store)
    use(kept)
    store.stamp_now, store.deleted = "", True
    with pytest.raises(KeyDeletedError):
        use(kept)
    assert held(kept) == []


def test_all_is_wiped_on_demand(store: Store) -> None:
    kept = cache(store)
    use(kept)
    [key] = held(kept)
    kept.drop()
    assert is_wiped(key)
    assert held(kept) == []


def test_a_child_of_a_fork_keeps_nothing_of_its_parent(store: Store) -> None:
    kept = cache(store, look_s=60)
    use(kept)
    child = os.fork()
    if child == 0:
        # no assertion may leave this process through pytest
        [inherited] = held(kept)
        use(kept)
        os._exit(0 if store.reads == 2 and is_wiped(inherited) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    use(kept)
    assert store.reads == 1
