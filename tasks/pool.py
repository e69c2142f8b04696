"""Celery's pool of processes, made to survive a reconnect to Redis while one of its processes has just died.

Measured with celery 5.7 and kombu 5.7: the worker registers its pool anew after each reconnect. For a process that has
ended, and whose replacement has not come yet, it asks the event loop to watch no file descriptor at all; kombu raises
ValueError, which nobody expects, and the whole worker ends.
"""

from __future__ import annotations

from typing import Any, cast

from celery.concurrency import asynpool


def guard_pool() -> None:
    """Let every pool of this Python process leave out processes that have ended."""
    pool = cast("Any", asynpool.AsynPool)
    track = pool._track_child_process  # noqa: SLF001 - there is no other place to stand
    if getattr(track, "guarded", False):
        return

    def track_the_living(self: Any, proc: Any, hub: Any) -> None:
        # None from the end of a process on; missing before it is first watched
        if getattr(proc, "_sentinel_poll", 0) is not None:
            track(self, proc, hub)

    track_the_living.guarded = True  # type: ignore[attr-defined]
    pool._track_child_process = track_the_living  # noqa: SLF001
