"""Until when the orchestrator wants to be left alone by everybody who shares our key, kept in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

import redis
import structlog

from worker.errors import ExecutorError

log = structlog.get_logger(__name__)

#: Longer waits than a minute hold up their own request only, the others for this long: a proxy that answers once with a
#: day, or a word about one path, must not stop a stop-loss for that day. If it is meant, the next answer says so again.
LONGEST_MS = 60_000
DOUBTFUL_MS = 10_000
#: How long a process believes what it has read: requests by the thousand are no reads by the thousand.
_BELIEVED_S = 0.25
_KEY = "sx:orchestrator:until"


class SharedBrake:
    """One wait for all processes on a ledger. Redis being away is no reason to wait: its users say so themselves.

    Args:
        connect: gives the client, with a bound on every command; called at the first request.
        clock: unix milliseconds.
    """

    def __init__(self, connect: Callable[[], redis.Redis], clock: Callable[[], int]) -> None:
        self._connect = connect
        self._clock = clock
        self._until_ms = 0
        self._read_s = 0.0

    @cached_property
    def _client(self) -> redis.Redis:
        return self._connect()

    def wait_ms(self) -> int:
        """How long no request may leave, 0 if it may now."""
        now_s = time.monotonic()
        if now_s - self._read_s >= _BELIEVED_S:
            self._read_s = now_s
            try:
                self._until_ms = max(self._until_ms, int(self._client.get(_KEY) or 0))  # pyright: ignore[reportArgumentType] - the client is synchronous
            except (ExecutorError, redis.RedisError, OSError, ValueError) as error:
                log.debug("brake not read", error=type(error).__name__)
        # a machine whose clock is ahead cannot stop the others for longer than anybody may
        return max(0, min(self._until_ms - self._clock(), LONGEST_MS))

    def hold(self, wait_ms: int) -> None:
        """The orchestrator has asked for a wait of ``wait_ms``."""
        wait_ms = wait_ms if wait_ms <= LONGEST_MS else DOUBTFUL_MS
        until_ms = self._clock() + wait_ms
        if until_ms <= self._until_ms:
            return
        self._until_ms = until_ms
        log.warning(
            "requests held back", wait_ms=wait_ms, consequence="no quote, no submit and no poll until then"
        )
        try:
            self._client.set(_KEY, until_ms, px=LONGEST_MS)
        except (ExecutorError, redis.RedisError, OSError) as error:
            log.warning("others not told to wait", error=type(error).__name__)
