"""What this machine remembers about the ledger outside of Redis, so that a loss of Redis's memory is noticed.

A folder holds the ledger's epoch, and for each session the highest sequence number (``seq``, one more with every
transition) that a process of this machine has seen. Redis with another epoch, or with a lower number, has forgotten something:
it was flushed, an old snapshot was restored, or an empty replica took over.

A number is on disk before the step that follows from it: before a signature is made or sent, this machine knows of the
reservation and of the signed record.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import ServiceError

FIELD = "SESSION_EXECUTOR_STATE_DIR"

#: A number has a fixed width, so that writing it again replaces all of it: one sector, never half a number.
_WIDTH = 20
_EPOCH = re.compile(r"[0-9a-f]{32}")


class StateDirError(ServiceError):
    """The state folder cannot be read or written; without it nothing is signed."""


class Marks:
    """The epoch and the sequence numbers; used by all processes of a machine at the same time.

    Args:
        directory: the folder, made when it is first needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.expanduser()

    def __repr__(self) -> str:
        return f"<Marks in {self._directory}>"

    def check(self) -> None:
        """Raise StateDirError unless the folder can be written."""
        with self._named_errors(), self._locked():
            pass

    def epoch(self) -> str:
        """The epoch that this machine follows, ``""`` before it has seen one. Raises StateDirError."""
        with self._named_errors():
            try:
                found = (self._directory / "epoch").read_text(encoding="ascii").strip()
            except FileNotFoundError:
                return ""
        if not _EPOCH.fullmatch(found):
            raise StateDirError(
                f"{self._directory / 'epoch'} holds no epoch",
                field=FIELD,
                fix="restore the folder; or move it away and run `session-executor ledger confirm`",
            )
        return found

    def adopt(self, epoch: str) -> None:
        """Follow another epoch: what was remembered of the one before is forgotten. Raises StateDirError.

        Args:
            epoch: 32 lower-case hex digits.
        """
        with self._named_errors(), self._locked():
            if self.epoch() == epoch:
                return
            before = self._directory / "epoch.new"
            with before.open("w", encoding="ascii") as file:
                file.write(f"{epoch}\n")
                file.flush()
                os.fsync(file.fileno())
            before.rename(self._directory / "epoch")
            self._sync_folder(self._directory)
            for folder in self._directory.glob("seq-*"):
                if folder.name != f"seq-{epoch}":
                    shutil.rmtree(folder, ignore_errors=True)

    def seq(self, digits: str) -> int:
        """The highest number seen of a session, 0 if none. Raises StateDirError.

        Args:
            digits: the session's 16 hex digits.
        """
        epoch = self.epoch()
        if not epoch:
            return 0
        with self._named_errors():
            try:
                text = (self._directory / f"seq-{epoch}" / digits).read_text(encoding="ascii")
            except FileNotFoundError:
                return 0
        return self._number(text, digits)

    def sessions(self) -> list[str]:
        """The digits of the sessions that have a number. Raises StateDirError."""
        folder = self._directory / f"seq-{self.epoch()}"
        with self._named_errors():
            return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def learn(self, digits: str, seq: int) -> None:
        """Remember a session's number, if it is higher; on disk when this returns. Raises StateDirError.

        Args:
            digits: the session's 16 hex digits.
            seq: as a script returned it.
        """
        epoch = self.epoch()
        if not epoch:
            return  # nothing is signed before there is one
        folder = self._directory / f"seq-{epoch}"
        with self._named_errors():
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._sync_folder(self._directory)
            path = folder / digits
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                text = os.pread(descriptor, _WIDTH + 1, 0).decode("ascii", "replace")
                if seq > self._number(text, digits):
                    os.pwrite(descriptor, f"{seq:0{_WIDTH}d}".encode(), 0)
                    os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                self._sync_folder(folder)

    def _number(self, text: str, digits: str) -> int:
        if not text:
            return 0  # made, and not written yet: the process that made it has not gone on
        if not (len(text) == _WIDTH and text.isascii() and text.isdigit()):
            raise StateDirError(
                f"the number of session {digits} in {self._directory} cannot be read",
                field=FIELD,
                fix="restore the folder; or move it away and run `session-executor ledger confirm`",
            )
        return int(text)

    @contextmanager
    def _locked(self) -> Generator[None]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _named_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StateDirError(
                f"{self._directory} cannot be used: {error.strerror or type(error).__name__}",
                field=FIELD,
                fix="name a folder that this user can write and that survives a restart",
            ) from error
