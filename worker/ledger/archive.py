"""Final records in files: compressed JSON lines, written whole and on disk before anything is taken out of Redis.

One file for each batch, ``intents-<UTC time>-<unix ms>.jsonl.gz``, mode 0600. A line is

    {"archived_ms": …, "seal": …, "intent_id": …, "values": {the record's hash}, "history": [{…}, …]}

with every value as Redis had it, but for the signed body: nobody needs the signatures of a trade that has ended. The seal (``worker/sealing.py``) is over all of the line.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.errors import InputError, ServiceError
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.json_depth import check_depth
from worker.ledger import codec
from worker.ledger.tombstone import Tombstone
from worker.sealing import Sealer

FIELD = "SESSION_EXECUTOR_ARCHIVE_DIR"
#: Not archived: signatures, and what only says who worked on it last.
_LEFT_OUT = frozenset({"body", "lease_until_ms", "lease_who"})


class ArchiveError(ServiceError):
    """The archive cannot be written or read. Nothing was taken out of Redis."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as Redis holds it: the hash, and the history's JSON lines."""

    intent_id: str
    values: Mapping[str, str]
    history: Sequence[str]

    @property
    def state(self) -> State:
        """How it ended."""
        return State(self.values["state"])

    def tombstone(self, archived_ms: int) -> Tombstone:
        """What stays in Redis."""
        return Tombstone.of(self.values["payload_hash"], self.state, archived_ms)


@dataclass(frozen=True, slots=True)
class Archived:
    """A record out of an archive file, and the seal of its line, "" for one of an older version."""

    raw: RawRecord
    archived_ms: int
    seal: str = ""

    def problem(self, sealer: Sealer) -> str:
        """Why the line is not as this program wrote it, ``""`` if it is. Raises KeyStoreError."""
        return sealer.problem(self.seal, "archive", *_sealed(self.raw, self.archived_ms))

    def record(self) -> IntentRecord:
        """The record, without its signed body. Raises LedgerInconsistentError."""
        return codec.parse_record(self.raw.intent_id, self.raw.values, self.raw.history)


class Archive:
    """A folder of archive files. Nothing is read or written before the first call.

    Args:
        directory: made with mode 0700 if it is missing.
        sealer: seals what is written; None: nothing is sealed.
    """

    def __init__(self, directory: Path, sealer: Sealer | None = None) -> None:
        self._directory = directory.expanduser()
        self._sealer = sealer

    def write(self, records: Sequence[RawRecord], *, now_ms: int) -> int:
        """Write one file and see it on disk; returns the archive time (unix ms) that names it.

        Raises:
            ArchiveError, KeyStoreError: nothing was written.
        """
        lines = [
            json.dumps(
                {
                    "intent_id": raw.intent_id,
                    "values": {name: value for name, value in raw.values.items() if name not in _LEFT_OUT},
                    "history": [json.loads(line) for line in raw.history],
                },
                separators=(",", ":"),
            )
            for raw in records
        ]
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            stamp = now_ms
            while list(self._directory.glob(f"intents-*-{stamp}.jsonl.gz")):
                stamp += 1
            # the time comes first in each line, and is known only now
            text = "".join(
                f'{{"archived_ms":{stamp},"seal":"{self._seal(raw, stamp)}",{line[1:]}\n'
                for raw, line in zip(records, lines, strict=True)
            )
            self._put(self._name(stamp), gzip.compress(text.encode()))
        except OSError as error:
            raise ArchiveError(
                f"cannot be written: {error.strerror or type(error).__name__}",
                field=FIELD,
                fix="name a folder of our own with room on its disk",
            ) from error
        return stamp

    def _seal(self, raw: RawRecord, stamp: int) -> str:
        return "" if self._sealer is None else self._sealer.seal("archive", *_sealed(raw, stamp))

    def find(self, intent_id: str, archived_ms: int) -> Archived | None:
        """The record of a tombstone; None if this folder does not hold its file.

        Raises:
            ArchiveError: a file cannot be read.
        """
        for path in self._directory.glob(f"intents-*-{archived_ms}.jsonl.gz"):
            for found in self.read(path):
                if found.raw.intent_id == intent_id:
                    return found
        return None

    def paths(self) -> list[Path]:
        """Every file, oldest first."""
        return sorted(self._directory.glob("intents-*.jsonl.gz"))

    @staticmethod
    def read(path: Path) -> Iterator[Archived]:
        """The records of one file.

        Raises:
            ArchiveError: it cannot be read, or is not what ``write`` wrote.
        """
        try:
            text = gzip.decompress(path.read_bytes()).decode()
            for line in text.splitlines():
                yield _archived(line)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(
                f"{path.name} cannot be read ({type(error).__name__})",
                field=FIELD,
                fix="restore the file from its backup",
            ) from error

    def _name(self, stamp: int) -> Path:
        moment = datetime.fromtimestamp(stamp / 1000, UTC)
        return self._directory / f"intents-{moment:%Y%m%dT%H%M%SZ}-{stamp}.jsonl.gz"

    def _put(self, path: Path, content: bytes) -> None:
        """Under its name only once all of it is on disk, the name included."""
        unfinished = path.with_name(f".{path.name}.unfinished")
        number = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        folder = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def files_of(places: Iterable[Path]) -> list[Path]:
    """The archive files that are named, or lie in folders that are.

    Raises:
        InputError: one does not exist.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += Archive(place).paths()
        elif place.is_file():
            found.append(place)
        else:
            raise InputError(f"{place} does not exist", field="PATH", fix="name an archive folder or file")
    return found


def _archived(line: str) -> Archived:
    check_depth(line)
    value: dict[str, Any] = json.loads(line)
    history = [json.dumps(entry) for entry in value["history"]]
    raw = RawRecord(value["intent_id"], value["values"], history)
    return Archived(raw, int(value["archived_ms"]), str(value.get("seal", "")))


def _sealed(raw: RawRecord, archived_ms: int) -> list[str]:
    """What the seal of a line is over: the same before it is written and after it was read."""
    values = {name: value for name, value in raw.values.items() if name not in _LEFT_OUT}
    history = [json.loads(line) for line in raw.history]
    return [
        raw.intent_id,
        str(archived_ms),
        *(json.dumps(part, sort_keys=True) for part in (values, history)),
    ]
