"""Everywhere that a running system writes, or can be looked into: as bytes, by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import redis

_LOOK_S = 0.2


class Processes:
    """Environment and arguments of every process that descends from this one, looked at while they run.

    Args:
        others: process ids that are not ours, with what descends from them.
    """

    def __init__(self, others: Iterable[int] = ()) -> None:
        self._others = frozenset(others)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.places: dict[str, bytes] = {}
        self.closed: set[int] = set()
        self.seen: set[int] = set()

    def look(self) -> None:
        """Look once. A process whose environment is closed even to its own user is noted."""
        for pid in self.children():
            for name in ("environ", "cmdline"):
                try:
                    content = Path(f"/proc/{pid}/{name}").read_bytes()
                except PermissionError:
                    self.closed.add(pid)
                except OSError:
                    continue  # it is gone
                else:
                    if content:
                        self.seen.add(pid)
                        self.places[f"/proc/{pid}/{name} {hash(content) & 0xFFFF:x}"] = content

    def children(self) -> set[int]:
        """The processes that descend from this one."""
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry.name)] = int(fields[1])
        ours = {os.getpid()}
        while more := {
            pid for pid, parent in parents.items() if parent in ours and pid not in ours | self._others
        }:
            ours |= more
        return ours - {os.getpid()}

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self.look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def redis_keys(url: str, databases: Iterable[int] = (0, 1)) -> dict[str, bytes]:
    """Every key of a Redis, in the words of its type and as DUMP has it."""
    places: dict[str, bytes] = {}
    base = url.rpartition("/")[0]
    for database in databases:
        with redis.Redis.from_url(f"{base}/{database}", protocol=2) as client:
            for key in cast("list[bytes]", client.keys("*")):
                kind = cast("bytes", client.type(key)).decode()
                value = _read(client, kind, key)
                content = repr(value).encode() + b"\n" + _flat(value)
                dumped = client.dump(key) or b""
                places[f"Redis {database} {kind} {key.decode(errors='replace')}"] = (
                    key + b"\n" + content + b"\n" + dumped
                )
    return places


def _read(client: Any, kind: str, key: bytes) -> Any:
    if kind == "string":
        return client.get(key)
    if kind == "hash":
        return client.hgetall(key)
    if kind == "set":
        return client.smembers(key)
    if kind == "stream":
        return client.xrange(key)
    return client.lrange(key, 0, -1) if kind == "list" else client.zrange(key, 0, -1, withscores=True)


def _flat(value: Any) -> bytes:
    """All bytes in it, one after the other: a repr would hide what it escapes."""
    if isinstance(value, bytes):
        return value + b"\n"
    if isinstance(value, dict):
        return b"".join(_flat(one) for pair in cast("dict[Any, Any]", value).items() for one in pair)
    if isinstance(value, list | tuple | set):
        return b"".join(_flat(one) for one in cast("list[Any]", value))
    return str(value).encode() + b"\n"


def files(folder: Path, homes: Iterable[Path] = ()) -> dict[str, bytes]:
    """Every file below a folder, but for those that are there to hold a secret."""
    kept = {path.resolve() for path in homes}
    return {
        f"file {path.relative_to(folder)}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.resolve() not in kept
    }
