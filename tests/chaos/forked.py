"""Workers and beat as forks of a process that has imported everything: a killed one is back in a moment, for little CPU.

Starting Celery takes some three seconds of CPU, nearly all of it for imports, and a round of the matrix kills dozens.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import NoReturn, TextIO, cast

from worker.devnet.stack import Child

#: What workers and beat import, but for the modules that read settings or are changed (``tasks.app``, ``tests.chaos.app``).
_PRELOAD = (
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.worker.consumer",
    "config.celery",
    "config.logging",
    "redbeat",
    "tasks.poison",
    "tests.chaos.mutations",
    "tests.chaos.driver",
    "worker.chain.reader",
    "worker.execution.fire",
    "worker.execution.trade",
    "worker.keys.keystore",
    "worker.keys.vault",
)
_context = get_context("forkserver")
_context.set_forkserver_preload(list(_PRELOAD))


class ForkedChild(Child):
    """As ``Child``, for a command ``python -m celery …``."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        assert list(command[:3]) == [sys.executable, "-m", "celery"], command
        self.name = name
        self.log_path = directory / f"{name}.log"
        self.log_path.touch()
        self._forked = _context.Process(
            target=_run, args=(list(command[3:]), dict(environment), directory, self.log_path), daemon=True
        )
        self._forked.start()

    @property
    def pid(self) -> int:
        """Its process id, which is its group's, too."""
        return cast("int", self._forked.pid)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative number of the signal that ended it."""
        return self._forked.exitcode

    def terminate(self) -> None:
        """SIGTERM to the process alone."""
        if self.running():
            self._forked.terminate()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired
        """
        self._forked.join(timeout_s)
        if self.running():
            raise subprocess.TimeoutExpired(self.name, timeout_s or 0)


def _run(arguments: list[str], environment: dict[str, str], directory: Path, log_path: Path) -> NoReturn:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(number, target)
    for stream in (sys.stdout, sys.stderr):
        cast("TextIO", stream).reconfigure(line_buffering=True)  # type: ignore[attr-defined]
    sys.argv = ["celery", *arguments]
    from celery.__main__ import main

    sys.exit(main())
