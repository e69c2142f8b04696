"""What this machine remembers about the ledger outside of Redis, so that a loss of Redis's memory is noticed.

A folder holds the ledger's epoch, and for each session the highest sequence number (``seq``, one more with every
transition) that a process of this machine has seen. Redis with another epoch, or with a lower number, has forgotten something:
it was flushed, an old snapshot was restored, or an empty replica took over.

A number is on disk before the step that follows from it: before a signature is made or sent, this machine knows of the
reservation and of the signed record.

Beside them the folder holds the newest revision of what is sealed (``worker/sealed_hash.py``), and which intents are
*closed*: signed, or at an end. An old copy of a closed intent's record, put back into Redis, is not worked on again.
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
#: One intent of the journal of closed ones: a sign, 24 hex digits, a line end.
_LINE = 26
#: More than any file of one number or name holds.
_LONGEST = 256
_EPOCH = re.compile(r"[0-9a-f]{32}")


class StateDirError(ServiceError):
    """The state folder cannot be read or written; without it nothing is signed."""


def _read(path: str) -> str:
    """A short file. Each stage of each intent reads several of them: this takes a third of what ``Path`` takes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _LONGEST).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def _halves(intent_id: str) -> tuple[str, str]:
    """Session digits and own digits of ``int_<16 hex>_<24 hex>``."""
    _, digits, own = intent_id.split("_")
    return digits, own


class Marks:
    """The epoch and the sequence numbers; used by all processes of a machine at the same time.

    Args:
        directory: the folder, made when it is first needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.expanduser()
        self._root = str(self._directory)
        self._closed: dict[str, tuple[int, set[str]]] = {}

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
                found = _read(f"{self._root}/epoch").strip()
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
            for kind in ("seq", "rev"):
                for folder in self._directory.glob(f"{kind}-*"):
                    if folder.name != f"{kind}-{epoch}":
                        shutil.rmtree(folder, ignore_errors=True)

    def seq(self, digits: str) -> int:
        """The highest number seen of a session, 0 if none. Raises StateDirError.

        Args:
            digits: the session's 16 hex digits.
        """
        return self._highest("seq", digits)

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
        self._learn("seq", digits, seq)

    def revision(self, name: str) -> int:
        """The newest revision seen of something sealed, 0 if none. Raises StateDirError."""
        return self._highest("rev", name)

    def learn_revision(self, name: str, revision: int) -> None:
        """Remember a revision, if it is newer; on disk when this returns. Raises StateDirError."""
        self._learn("rev", name, revision)

    def is_closed(self, intent_id: str) -> bool:
        """Whether an intent was signed or ended, as far as this machine knows. Raises StateDirError."""
        digits, own = _halves(intent_id)
        with self._named_errors():
            return own in self._closed_of(digits)

    def close(self, intent_id: str) -> None:
        """An intent is signed, or at its end; on disk when this returns. Raises StateDirError."""
        if not self.is_closed(intent_id):
            self._journal("+", intent_id)

    def reopen(self, intent_id: str) -> None:
        """What was signed of an intent is not sent and never will be. Raises StateDirError."""
        if self.is_closed(intent_id):
            self._journal("-", intent_id)

    def _journal(self, sign: str, intent_id: str) -> None:
        digits, own = _halves(intent_id)
        folder = self._directory / "closed"
        with self._named_errors():
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._sync_folder(self._directory)
            path = folder / digits
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # a line that a full disk cut short is not taken for the beginning of this one
                torn = os.fstat(descriptor).st_size % _LINE
                os.write(descriptor, b" " * (_LINE - torn if torn else 0) + f"{sign}{own}\n".encode())
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                self._sync_folder(folder)

    def _closed_of(self, digits: str) -> set[str]:
        """The session's closed intents; only what was added since the last look is read."""
        size, closed = self._closed.get(digits, (0, set[str]()))
        try:
            with (self._directory / "closed" / digits).open("rb") as file:
                if os.fstat(file.fileno()).st_size < size:
                    size, closed = 0, set()  # another folder was put in its place
                file.seek(size)
                added = file.read()
        except FileNotFoundError:
            size, closed, added = 0, set[str](), b""
        whole = len(added) - len(added) % _LINE
        for start in range(0, whole, _LINE):
            line = added[start : start + _LINE].decode("ascii", "replace")
            if line[0] == "+":
                closed.add(line[1:-1])
            elif line[0] == "-":
                closed.discard(line[1:-1])
        self._closed[digits] = (size + whole, closed)
        return closed

    def _highest(self, kind: str, name: str) -> int:
        epoch = self.epoch()
        if not epoch:
            return 0
        with self._named_errors():
            try:
                text = _read(f"{self._root}/{kind}-{epoch}/{name}")
            except FileNotFoundError:
                return 0
        return self._number(text, name)

    def _learn(self, kind: str, name: str, number: int) -> None:
        epoch = self.epoch()
        if not epoch:
            return  # nothing is signed before there is one
        folder = self._directory / f"{kind}-{epoch}"
        with self._named_errors():
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._sync_folder(self._directory)
            path = folder / name
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                text = os.pread(descriptor, _WIDTH + 1, 0).decode("ascii", "replace")
                if number > self._number(text, name):
                    os.pwrite(descriptor, f"{number:0{_WIDTH}d}".encode(), 0)
                    os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            if is_new:
                self._sync_folder(folder)

    def _number(self, text: str, name: str) -> int:
        if not text:
            return 0  # made, and not written yet: the process that made it has not gone on
        if not (len(text) == _WIDTH and text.isascii() and text.isdigit()):
            raise StateDirError(
                f"the number of {name} in {self._directory} cannot be read",
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
