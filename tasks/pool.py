"""Celery's pool of processes, made to survive a reconnect to Redis, and to end in time.

Measured with celery 5.7 and kombu 5.7:

- The worker registers its pool anew after each reconnect. For a process that has ended, and whose replacement has not
  come yet, it asks the event loop to watch no file descriptor at all; kombu raises ValueError, which nobody expects, and
  the whole worker ends.
- A message that arrives at the moment of SIGTERM is taken and never worked on, and the worker waits for its end for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any, cast

from billiard import active_children  # pyright: ignore[reportAttributeAccessIssue] - it makes its names at run time
from celery.concurrency import asynpool
from celery.signals import worker_shutting_down

SHUTDOWN_S = 8.0
"""How long after SIGTERM a worker ends at the latest: supervisors kill after 10 s, with less care."""


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


def end_in_time(seconds: float = SHUTDOWN_S) -> None:
    """Let this process and its pool end so long after the first signal to shut down, whatever still runs.

    What is cut off is found again: its claim ends, the ledger's due index brings the record back, and what was on its way
    to the orchestrator is *maybe sent*.
    """

    def begin(**_: Any) -> None:
        timer = threading.Timer(seconds, _end)
        timer.daemon = True
        timer.start()

    worker_shutting_down.connect(begin, weak=False)


def _end() -> None:
    sys.stderr.write("worker: not all tasks have ended in time; what they did is found again\n")
    for child in active_children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    os._exit(0)
