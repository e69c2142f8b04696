"""A pool process that has ended does not end the worker when the pool is registered with the event loop again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery.concurrency import asynpool
from kombu.asynchronous.hub import Hub

from tasks.pool import guard_pool
from tests.support.processes import ended


@pytest.fixture
def track(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pool's function as Celery has it, put back afterwards."""
    pool = cast("Any", asynpool.AsynPool)
    monkeypatch.setattr(pool, "_track_child_process", pool._track_child_process)
    return pool


class TestGuardPool:
    """``guard_pool`` leaves out what Celery's own chokes on."""

    def test_a_process_that_has_ended_is_left_out(self, track: Any) -> None:
        ended = SimpleNamespace(_sentinel_poll=None)
        guard_pool()
        hub = Hub()
        try:
            track._track_child_process(SimpleNamespace(_event_process_exit=None), ended, hub)
            assert not hub.readers or None not in hub.readers
        finally:
            hub.close()

    def test_a_living_one_is_watched(self, track: Any) -> None:
        guard_pool()
        watched: list[int] = []

        def add_reader(number: int, *_: Any) -> None:
            watched.append(number)

        living = SimpleNamespace(_sentinel_poll=7)
        pool = SimpleNamespace(_event_process_exit=None)
        track._track_child_process(pool, living, SimpleNamespace(add_reader=add_reader))
        assert watched == [7]

    def test_without_it_celery_raises(self) -> None:
        """Should this begin to fail, the guard has become needless."""
        pool = cast("Any", asynpool.AsynPool)
        real = pool._track_child_process
        while real.__closure__ and getattr(real, "guarded", False):
            real = next(cell.cell_contents for cell in real.__closure__ if callable(cell.cell_contents))
        hub = Hub()
        try:
            with pytest.raises(ValueError, match="file descriptor is None"):
                real(SimpleNamespace(_event_process_exit=None), SimpleNamespace(_sentinel_poll=None), hub)
        finally:
            hub.close()


_STUCK = """
import time
from billiard import Process
from celery.signals import worker_shutting_down
from tasks.pool import end_in_time

end_in_time(0.5)
child = Process(target=time.sleep, args=(60,))
child.start()
print(child.pid, flush=True)
worker_shutting_down.send(sender="worker", sig="SIGTERM", how="Warm", exitcode=0)
time.sleep(60)
"""


class TestEndInTime:
    """A worker that waits for ever after SIGTERM ends all the same, with its pool."""

    def test_it_ends_with_its_pool(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _STUCK],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (done.returncode, "not all tasks have ended" in done.stderr) == (0, True), done.stderr
        # a signal that was sent is not yet one that was carried out: the machine may be busy
        assert ended(int(done.stdout))
