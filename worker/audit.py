"""The audit trail: who asked for what, what was decided, which digests were signed with which key, and how it ended.

One file per machine, one JSON object per line, only ever appended to. Each line holds its number, the hash of the line
before and its own, so that an edited, removed or inserted line breaks the chain. That lines were cut off at the end is
seen by the *heads*, number and hash of the newest line, that are kept beside the file and elsewhere (``Heads``).

====================  ======================================================================================
``log``               random name of this file, in every line
``n``                 1, 2, 3, …
``at_ms``             unix milliseconds
``event``             ``enqueued``, ``moved``, ``signing``, ``forged``, ``change`` (an operator's), …
``by``                whose process wrote the line: ``user@host``
``prev``, ``hash``    SHA-256, hex: of the line before (64 zeros for the first), and of this one without ``hash``
====================  ======================================================================================
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import structlog

from worker.errors import ServiceError
from worker.json_depth import check_depth

log = structlog.get_logger(__name__)

FIELD = "SESSION_EXECUTOR_AUDIT_FILE"
FIRST = "0" * 64
#: A text of somebody else's (a reason, a note) is cut; our own are far shorter.
_MAX_TEXT = 4_000
#: The last line is within the first of these of the file's end, or else within the second.
_TAILS = (4_096, 262_144)
#: The same forgery, found at each attempt, is told once in this time.
_TELL_AGAIN_S = 600.0
_OURS = ("log", "n", "at_ms", "event", "prev", "hash")
_SET_HERE = (*_OURS, "by")


class AuditError(ServiceError):
    """The audit trail cannot be written, so nothing is signed; or it is not as it was written."""


@dataclass(frozen=True, slots=True)
class Head:
    """The newest line of a log: its number and its hash."""

    log: str
    n: int
    hash: str


class Heads(Protocol):
    """Where heads are kept outside of the file."""

    def keep(self, head: Head, line: str) -> None:
        """Remember a head; never an older one in place of a newer one."""
        ...


class AuditTrail:
    """The file of this machine. Used by all its processes at the same time.

    Args:
        path: of the file; it is made (mode 0600) with the first line. Its head is kept beside it, in ``<name>.head``.
        heads: where else heads go, best effort.
        clock: unix milliseconds.
    """

    def __init__(
        self,
        path: Path,
        heads: Heads | None = None,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.path = path.expanduser()
        self._heads = heads
        self._clock = clock
        self._told: dict[tuple[str, ...], float] = {}

    def __repr__(self) -> str:
        return f"<AuditTrail {self.path}>"

    def check(self) -> None:
        """Prove that a line could be written, without writing one. Raises AuditError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))
            elif not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise self._unwritable(error) from None

    def write(self, event: str, **facts: object) -> Head:
        """Append a line; it is on disk when this returns.

        Args:
            event: what happened.
            facts: texts, numbers, lists and mappings of them; no secrets.

        Raises:
            AuditError: it is not written.
        """
        try:
            head, line = self._append(event, facts)
        except OSError as error:
            raise self._unwritable(error) from None
        if self._heads is not None:
            self._heads.keep(head, line)
        return head

    def tell(self, event: str, **facts: object) -> None:
        """As ``write``, for what has happened already and goes on without its line: a failure is only logged."""
        try:
            self.write(event, **facts)
        except AuditError as error:
            log.error("audit line not written", audit_event=event, error=str(error))  # noqa: TRY400

    def tell_once(self, event: str, **facts: str) -> None:
        """As ``tell``, but the same line of this process once in a while only."""
        key, now_s = (event, *facts.values()), time.monotonic()
        if now_s - self._told.get(key, -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
            self._told[key] = now_s
            self.tell(event, **facts)

    def _unwritable(self, error: OSError) -> AuditError:
        return AuditError(
            f"{self.path} cannot be written: {error.strerror or type(error).__name__}",
            field=FIELD,
            fix="name a file that this user can write; see that the disk is not full",
        )

    def _append(self, event: str, facts: Mapping[str, object]) -> tuple[Head, str]:
        is_new = False
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags)
        except FileNotFoundError:
            is_new = True
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path, flags | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before, torn = _last(descriptor)
            if torn:
                # what a full disk or a crash has left of a line that nobody was told of
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - torn)
                before, _ = self._line(descriptor, before, "torn line dropped", {"bytes": torn})
            head, line = self._line(descriptor, before, event, facts)
            os.fdatasync(descriptor)
            self._keep_beside(head)
        finally:
            os.close(descriptor)
        if is_new:
            _sync_folder(self.path.parent)
        return head, line

    def _line(
        self, descriptor: int, before: Head | None, event: str, facts: Mapping[str, object]
    ) -> tuple[Head, str]:
        name = before.log if before else secrets.token_hex(8)
        entry: dict[str, object] = {
            "log": name,
            "n": before.n + 1 if before else 1,
            "at_ms": self._clock(),
            "event": event,
            "by": os_user(),
            **{name: _shortened(value) for name, value in facts.items() if name not in _SET_HERE},
            "prev": before.hash if before else FIRST,
        }
        own = _hash(entry)
        line = _text({**entry, "hash": own})
        data = f"{line}\n".encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(28, "the disk is full")
        return Head(name, before.n + 1 if before else 1, own), line

    def _keep_beside(self, head: Head) -> None:
        """Under the lock. Not synced: after a crash of the machine it may be behind the file, never ahead of it."""
        descriptor = os.open(f"{self.path}.head", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, f"{head.log} {head.n:020d} {head.hash}\n".encode(), 0)
        finally:
            os.close(descriptor)


@cache
def os_user() -> str:
    """Whose process this is, as the operating system knows them: ``user@host``."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def kept_beside(path: Path) -> Head | None:
    """The head in the file beside a log, None if there is none. Raises AuditError."""
    beside = path.with_name(f"{path.name}.head")
    try:
        words = beside.read_text(encoding="ascii").split()
        return Head(words[0], int(words[1]), words[2])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, IndexError):
        raise AuditError(
            "cannot be read", field=str(beside), fix="restore it, or find out who changed it"
        ) from None


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log as they are, one after the other; checked by ``verify``.

    Raises:
        AuditError: there is no such file, or a line is none.
    """
    for number, text in _numbered(path):
        entry = _parsed(text)
        if entry is None:
            raise AuditError(
                f"line {number} is no line of an audit trail", field=str(path), fix="see `audit verify`"
            )
        yield entry


def verify(path: Path, heads: Mapping[str, Head | None]) -> Head:
    """Check a log from its first line to its last, and that it holds every head that was kept elsewhere.

    Args:
        path: of the file.
        heads: by where they were kept; None where there is none of this log.

    Returns:
        The head of the log.

    Raises:
        AuditError: names the first line that is not as it was written, or the head that is missing.
    """
    head = Head("", 0, FIRST)
    wanted = {(kept.log, kept.n): (where, kept) for where, kept in heads.items() if kept is not None}
    for number, text in _numbered(path):
        entry = _parsed(text)
        problem = "is no line of an audit trail" if entry is None else _problem(entry, text, head)
        if entry is None or problem:
            raise _broken(path, f"line {number} {problem}")
        head = Head(str(entry["log"]), int(entry["n"]), str(entry["hash"]))
        where, kept = wanted.pop((head.log, head.n), ("", None))
        if kept is not None and kept.hash != head.hash:
            raise _broken(path, f"line {number} is not the one whose hash was kept {where}")
    for where, kept in wanted.values():
        if kept.log != head.log:
            raise _broken(path, f"it is not the log {kept.log} of which {kept.n} lines are known {where}")
        raise _broken(
            path, f"it ends at line {head.n}, and line {kept.n} is known {where}: its end was cut off"
        )
    return head


def _problem(entry: Mapping[str, Any], text: str, before: Head) -> str:
    found = {name: value for name, value in entry.items() if name != "hash"}
    if entry["hash"] != _hash(found) or _text(entry) != text:
        return "was edited"
    if entry["n"] != before.n + 1:
        return f"has the number {entry['n']} after {before.n}: lines were taken out or put in"
    if entry["prev"] != before.hash or (before.log and entry["log"] != before.log):
        return "does not follow the one before: lines were taken out or put in"
    return ""


def _numbered(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for number, text in enumerate(file, 1):
                if not text.endswith("\n"):
                    raise _broken(path, f"line {number} ends in the middle")
                yield number, text[:-1]
    except OSError as error:
        raise AuditError(
            f"cannot be read: {error.strerror or type(error).__name__}",
            field=str(path),
            fix="nothing was written yet, or name the right file",
        ) from None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        check_depth(text)
        entry: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not set(_OURS) <= cast("dict[str, Any]", entry).keys():
        return None
    found = cast("dict[str, Any]", entry)
    fits = type(found["n"]) is int and all(isinstance(found[name], str) for name in ("log", "prev", "hash"))
    return found if fits else None


def _last(descriptor: int) -> tuple[Head | None, int]:
    """The head of the file, and how many bytes after its last line are no line. Raises AuditError."""
    size = os.fstat(descriptor).st_size
    tail, end, start = b"", -1, 0
    for reach in _TAILS:
        tail = os.pread(descriptor, reach, max(0, size - reach))
        end = tail.rfind(b"\n")
        start = tail.rfind(b"\n", 0, end) + 1
        if start or reach >= size:  # all of the line is here
            break
    torn = len(tail) - end - 1
    if end < 0:
        if len(tail) < size:
            raise _broken(Path("the audit trail"), "its last line does not end")
        return None, torn
    entry = _parsed(tail[start:end].decode("utf-8", "surrogateescape"))
    if entry is None:
        raise _broken(Path("the audit trail"), "its last line is none")
    return Head(str(entry["log"]), int(entry["n"]), str(entry["hash"])), torn


def _broken(path: Path, what: str) -> AuditError:
    return AuditError(
        what, field=str(path), fix="find out who else writes to it, and keep a copy of it as it is"
    )


def _shortened(value: object) -> object:
    """As JSON can hold it, and without what UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:_MAX_TEXT]
    if isinstance(value, Mapping):
        found = cast("Mapping[object, object]", value)
        return {str(name): _shortened(item) for name, item in found.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in cast("list[object]", value)]
    if value is None or isinstance(value, bool | int):
        return value
    return _shortened(str(value))


def _text(entry: Mapping[str, object]) -> str:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":"))


def _hash(entry: Mapping[str, object]) -> str:
    return hashlib.sha256(_text(entry).encode("utf-8", "surrogateescape")).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
