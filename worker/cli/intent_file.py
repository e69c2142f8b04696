"""``intents submit --file``: a CSV or JSON-lines file of requests, one intent a line, each line with its own result.

A file may be run as often as one likes, after an interruption or after its bad lines were mended: what was enqueued is
found by its key. A line without a key gets one made of the batch's name, of the calls that the line asks for, and of how
many like it stand above it, so that mending or moving lines changes no other line's key.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from worker.cli.context import find_session
from worker.errors import ExecutorError, InputError
from worker.execution.enqueue import check, enqueue
from worker.execution.request import MEMBERS, key_named, read_request
from worker.json_depth import check_depth

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.intents.model import TradeIntent
    from worker.sessions.importing import RegisteredSession

#: Some 200,000 lines; a larger file is better split, since one process enqueues it.
MAX_BYTES = 64 << 20
_TRADE = "trade"
#: Stands for a key while a line is read.
_TO_BE_MADE = "-"
_FLAGS = ("sponsored", "urgent")
#: Every way in which JSON or a spreadsheet says yes and no.
_BOOLEANS = {"true": True, "TRUE": True, "false": False, "FALSE": False}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: what it asks for, or why it cannot be read. ``number`` counts from 1, as editors do."""

    number: int
    request: Mapping[str, Any]
    problem: InputError | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a line: ``created``, ``there`` (enqueued before), ``good`` (only checked) or ``bad``."""

    line: int
    outcome: str
    key: str = ""
    intent_id: str = ""
    field: str = ""
    reason: str = ""


def read_file(path: Path) -> list[Line]:
    """The lines of a ``.csv`` or ``.jsonl`` file.

    Raises:
        InputError: the file as a whole cannot be used: not there, not UTF-8, no header, an unknown column.
    """
    kind = path.suffix.lower()
    if kind not in {".csv", ".jsonl", ".ndjson"}:
        raise InputError(f"{path.name!r} is neither .csv nor .jsonl", field="--file", fix="name it so")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        _unusable(f"{path} cannot be read ({error.strerror or type(error).__name__})", "check the path")
    if len(content) > MAX_BYTES:
        _unusable(f"is larger than {MAX_BYTES >> 20} MiB", "split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _unusable(f"is not UTF-8 at byte {error.start}", "save it as UTF-8")
    lines = list(_csv(text) if kind == ".csv" else _json_lines(text))
    if not lines:
        _unusable("holds no line", "is it the right file?")
    return lines


def submit_lines(
    services: Runtime, lines: list[Line], *, batch: str, defaults: Mapping[str, Any], only_check: bool
) -> Iterator[Result]:
    """Enqueue line after line, each with its result.

    Args:
        services: the services.
        lines: as ``read_file`` gives them.
        batch: part of the keys that are made.
        defaults: members for lines that do not say otherwise.
        only_check: read everything, enqueue nothing.

    Raises:
        ServiceError: Redis is down, say; the lines before it have had their results.
    """
    reader = _Reader(services, batch, defaults)
    for line in lines:
        try:
            intent = reader.intent(line)
            if only_check:
                yield Result(line.number, "good", intent.idempotency_key, intent.intent_id)
                continue
            with key_named():
                enqueued = enqueue(services, intent, checked=True)
        except InputError as error:
            reason = f"{error.message} ({error.fix})" if error.fix else error.message
            key = str(line.request.get("key", ""))
            yield Result(line.number, "bad", key, field=error.field, reason=reason)
            continue
        outcome = "created" if enqueued.created else "there"
        yield Result(line.number, outcome, intent.idempotency_key, intent.intent_id)


class _Reader:
    """Lines as intents; remembers sessions and keys of the lines before."""

    def __init__(self, services: Runtime, batch: str, defaults: Mapping[str, Any]) -> None:
        self._services = services
        self._batch = batch
        self._defaults = {"key": _TO_BE_MADE, **defaults}
        self._sessions: dict[str, RegisteredSession] = {}
        self._by_id: dict[str, RegisteredSession] = {}
        self._alike: Counter[str] = Counter()
        self._first: dict[str, int] = {}

    def intent(self, line: Line) -> TradeIntent:
        """What a line asks for. Raises InputError."""
        if line.problem is not None:
            raise line.problem
        request = {**self._defaults, **line.request}
        intent = read_request(self._services, request, source="cli", find=self._find)
        # a line that is bad takes no number from those like it
        with key_named():
            check(self._services, intent, self._by_id[intent.session_id])
        if "key" not in line.request:
            intent = replace(intent, idempotency_key=self._made_key(intent))
        first = self._first.setdefault(intent.intent_id, line.number)
        if first != line.number:
            raise InputError(
                f"{intent.idempotency_key!r} is the key of line {first}, too",
                field="key",
                fix="give each its own",
            )
        return intent

    def _find(self, name: str) -> RegisteredSession:
        if name not in self._sessions:
            found = find_session(self._services, name)
            self._sessions[name] = self._by_id[found.session_id] = found
        return self._sessions[name]

    def _made_key(self, intent: TradeIntent) -> str:
        # what moves money, and nothing else: another note, deadline or way to write an amount must not pay twice
        bare = replace(intent, idempotency_key="", sponsored=True, not_after=0, urgent=False)
        digest = bare.payload_hash()[:32]
        self._alike[digest] += 1
        return f"file:{self._batch}:{digest}:{self._alike[digest]}"


def failed_at(error: ExecutorError, done: int, total: int) -> ExecutorError:
    """The error that ended a run, saying what to do: nothing is lost, and nothing is done twice."""
    error.message = f"{error.message}; {done} of {total} lines were dealt with"
    error.fix = f"{error.fix}; then run the same file again: what is enqueued stays as it is"
    return error


def _csv(text: str) -> Iterator[Line]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    end = 0
    try:
        for row in reader:
            start, end = end + 1, reader.line_num
            if not any(row):
                continue
            if header is None:
                header = _header(row)
            else:
                yield _row(header, row, start)
    except csv.Error as error:
        # the reader has lost its place: what follows could be anything
        yield Line(
            end + 1, {}, InputError(f"is no CSV from here on: {error}", field="line", fix="mend its quotes")
        )


def _header(row: list[str]) -> list[str]:
    header = [name.strip() for name in row]
    known = [name for name in MEMBERS if name != _TRADE]
    for name in header:
        if name not in known:
            _unusable(f"has a column {name[:60]!r} in its first line", f"known: {', '.join(known)}")
        if header.count(name) > 1:
            _unusable(f"has two columns {name!r}", "leave one of them")
    return header


def _row(header: list[str], row: list[str], number: int) -> Line:
    if len(row) != len(header):
        problem = InputError(
            f"has {len(row)} cells for {len(header)} columns",
            field="line",
            fix="quote cells that hold commas",
        )
        return Line(number, {}, problem)
    # an empty cell says nothing, so the option or the default counts
    request: dict[str, Any] = {name: cell for name, cell in zip(header, row, strict=True) if cell != ""}
    for name in _FLAGS:
        request[name] = _BOOLEANS.get(request.get(name, ""), request.get(name))
        if request[name] is None:
            del request[name]
    if "calls" in request:
        request["calls"] = str(request["calls"]).split()
    return Line(number, request)


def _json_lines(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            check_depth(line)
            value: Any = _DECODER.decode(line.strip())
        except json.JSONDecodeError as error:
            problem = f"is no JSON at column {error.colno}: {error.msg}"
        except (ValueError, RecursionError) as error:
            problem = str(error)
        else:
            if isinstance(value, dict):
                yield Line(number, cast("dict[str, Any]", value))
                continue
            problem = "is no JSON object"
        yield Line(
            number, {}, InputError(problem, field="line", fix='write {"to": "0x…", "amount": "10 USDC"}')
        )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has {ascii(twice)[:60]} twice")
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"holds {word}, which is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _unusable(message: str, fix: str) -> NoReturn:
    raise InputError(message, field="--file", fix=fix)
