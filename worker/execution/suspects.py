"""Intents of which an attempt has died are tried one at a time, so that the one that kills is told from those beside it.

A worker that dies as a whole - out of memory, say - takes every intent with it that its processes had in hand. All of them
come due at the same time, and would die together again until all are quarantined. Tried alone, the innocent go on after
one death, and only the killer dies again.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

import structlog

log = structlog.get_logger(__name__)

SUSPECT_WAIT_MS = 1_000
"""How long an intent waits before it is looked at again while another suspect is being tried: most stages take less."""
_FILE = "suspect.lock"


class Suspects:
    """One process's turn to try a suspect; a context manager. Others of this machine, dead ones included, hold up nobody.

    Args:
        folder: the state folder, which the workers of a machine share.

    Attributes:
        busy: whether another process had its turn when this one asked.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder.expanduser() / _FILE
        self._descriptor = -1
        self.busy = False

    def take(self) -> bool:
        """Take the turn until the end of this context; False if another process has it. Never waits, never raises."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.busy = True
        except OSError as error:
            # nothing is signed without this folder, and the next stage says so with words
            log.warning("nobody's turn can be taken", path=str(self._path), error=type(error).__name__)
        return not self.busy

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)  # and the lock with it, as at the end of the process
