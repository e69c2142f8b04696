"""The scheduler: RedBeat, made to survive the loss of its lock.

RedBeat ends its process when its lock is gone (``LockNotOwnedError``), and schedules without any lock when Redis failed
while it was waiting for one. Here neither happens: without the lock nothing is sent, and the lock is asked for again. A
wrong answer would do no harm either, since a wake-up that comes twice finds each slot done.
"""

from __future__ import annotations

from typing import Any, cast

import redis
import structlog
from redbeat import RedBeatScheduler
from redbeat.schedulers import LUA_EXTEND_TO_SCRIPT, get_redis
from redis.exceptions import LockError

log = structlog.get_logger(__name__)

#: How long to leave Redis alone after an error, seconds.
_PAUSE_S = 1.0


class StrategyScheduler(RedBeatScheduler):
    """RedBeat's scheduler; start it with ``celery -A tasks.app beat --scheduler tasks.beat.StrategyScheduler``."""

    lock: Any

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due, if we are the leader; seconds until the next tick."""
        try:
            if self.lock is None and not self._take_lock():
                return _PAUSE_S
            return cast("float", super().tick(*args, **kwargs))
        except LockError:
            log.warning("the scheduler's lock was lost; asking for it again")
            self.lock = None
            return 0.0
        except (redis.RedisError, OSError) as error:
            log.warning("Redis does not answer the scheduler", error=type(error).__name__)
            self.lock = None
            return _PAUSE_S

    def close(self) -> None:
        """Give the lock back, so that the next leader need not wait for its end."""
        try:
            super().close()
        except (redis.RedisError, LockError, OSError) as error:
            log.warning("the scheduler's lock was not given back", error=type(error).__name__)

    def _take_lock(self) -> bool:
        lock: Any = get_redis(self.app).lock(self.lock_key, timeout=self.lock_timeout, blocking=False)
        lock.lua_extend = get_redis(self.app).register_script(LUA_EXTEND_TO_SCRIPT)
        if not lock.acquire():
            return False
        log.info("Acquired lock")
        self.lock = lock
        return True
