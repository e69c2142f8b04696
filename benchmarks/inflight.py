"""inflight: what it takes to follow ten thousand intents at the same time, on a real Redis.

Every one of them is SUBMITTED, and the stub that plays the orchestrator (``stub.mjs``) reports PENDING for all. One worker
serves the queue ``watch`` and nothing else, with the settings as they are by default; it is given time to find its pace. Its CPU is read from the kernel for
all of its processes, its connections are the TCP sockets that they hold, and the polls are those that the stub has seen.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import redis

from benchmarks import report
from benchmarks.pipeline import Stub, all_processes, session_of, stub, transfer
from tests.support.redis import start_local
from worker.cli.doctor import no_dispatch
from worker.devnet.devnet import Devnet
from worker.devnet.stack import Child, Stack
from worker.execution.runtime import Runtime
from worker.intents.model import TradeIntent
from worker.intents.states import State

_QUOTE = (Path(__file__).parent / "intent_op.json").read_text()
_BODY = _QUOTE + "s" * 2_500
#: Until a quote must not be sent any more; nothing here lasts that long.
_EXPIRES_S = "4000000000"
#: What was sent so long ago is polled every two seconds, and not yet slow.
_SENT_AGO_MS = 20_000
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """The worker at one moment: CPU seconds so far, TCP connections, resident memory in MB, polls so far, intents due."""

    at_s: float
    cpu_s: float
    connections: int
    rss_mb: float
    polls: int
    due: int


def main(argv: list[str]) -> int:
    """Run it; 0, or 1 with one line when a real part is missing."""
    parser = report.arguments(
        "follow many intents at the same time", number=10_000, rounds=60, warm_up=90, unit="intents"
    )
    parser.description = "follow many intents at the same time: --rounds and --warm-up are seconds here"
    options = parser.parse_args(argv)

    def body() -> None:
        report.say(f"{report.machine()}; {options.number} intents, {options.rounds} s")
        with ExitStack() as running:
            place = running.enter_context(stub())
            place.keep_pending(pending=True)
            folder = Path(
                running.enter_context(tempfile.TemporaryDirectory(prefix="session-executor-bench-"))
            )
            server = running.enter_context(start_local(folder / "redis"))
            stack = running.enter_context(
                Stack(folder, redis_url=server.url, devnet=cast("Devnet", place), workers=0, beat=False)
            )
            begin = time.perf_counter()
            with redis.Redis.from_url(server.url) as client:
                client.config_set("appendfsync", "no")  # writing them is not what is measured
                _fill(stack, options.number, Path(running.enter_context(_memory())))
                client.config_set("appendfsync", "always")
            report.say(f"{options.number} intents written in {time.perf_counter() - begin:.0f} s")
            worker = stack.start_worker(queues=["watch"])
            worker.wait_for("ready.")
            time.sleep(options.warm_up)
            _tell(_watch(worker, place, stack, options.rounds), options.number)

    return report.run(body)


def _memory() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory, where there is such a place."""
    place = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    return tempfile.TemporaryDirectory(
        prefix="session-executor-bench-", dir=place if place.is_dir() else None
    )


def _fill(stack: Stack, number: int, state_dir: Path) -> None:
    """Write the intents as the pipeline leaves them after a submit; due times are spread over the longer delay."""
    settings = stack.settings.model_copy(update={"state_dir": state_dir})
    services = Runtime(settings, dispatch=no_dispatch)
    session = session_of(stack.keys.create().address)
    services.sessions.put(session)
    ledger, spread_ms = services.ledger, settings.poll_later_ms
    fields = {
        State.AUTHORIZED: {"quote": _QUOTE, "quote_expires_s": _EXPIRES_S, "digests": "d" * 130},
        State.SIGNED: {"body": _BODY, "sent": ""},
    }
    for place in range(number):
        intent = TradeIntent(session.session_id, f"benchmark {place}", (transfer(),))
        now_ms = services.now_ms()
        intent_id = ledger.enqueue(intent, now_ms=now_ms, due_ms=now_ms).record.intent_id
        before = State.QUEUED
        for state in (State.AUTHORIZED, State.SIGNED, State.SUBMITTED):
            ledger.transition(
                intent_id,
                fence=0,
                from_state=before,
                to_state=state,
                who="benchmark",
                why="written by the benchmark",
                now_ms=now_ms,
                due_ms=now_ms + place % spread_ms,
                fields=fields.get(state)
                or {
                    "orchestrator_id": str(place + 1),
                    "orchestrator_status": "PENDING",
                    "watch_from_ms": str(now_ms - _SENT_AGO_MS),
                },
            )
            before = state


def _watch(worker: Child, place: Stub, stack: Stack, seconds: int) -> list[Look]:
    looks: list[Look] = []
    services = Runtime(stack.settings, dispatch=no_dispatch)
    ends = time.perf_counter() + seconds
    while not looks or looks[-1].at_s < ends:
        looks.append(_look(worker, place, services))
        time.sleep(_LOOK_EVERY_S)
        if not worker.running():
            raise report.BenchmarkError("the worker has ended")
    return looks


def _look(worker: Child, place: Stub, services: Runtime) -> Look:
    found = [(pid, cpu) for pid, group, cpu in all_processes() if group == worker.pid]
    polls = httpx.get(f"{place.url}/polls", timeout=60).raise_for_status().json()["polls"]
    pids = [pid for pid, _ in found]
    return Look(
        time.perf_counter(),
        sum(cpu for _, cpu in found),
        _connections(pids),
        _rss_mb(pids),
        int(polls),
        services.ledger.count_due(now_ms=services.now_ms()),
    )


def _connections(pids: Iterable[int]) -> int:
    """How many TCP connections these processes hold; one that several inherited counts once."""
    held: set[str] = set()
    for pid in pids:
        try:
            held |= {str(name.readlink()) for name in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue  # it has ended, or has just closed one
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    lines = [
        line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]
    ]
    # 01: established
    return sum(line[3] == "01" and f"socket:[{line[9]}]" in held for line in lines)


def _rss_mb(pids: Iterable[int]) -> float:
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _tell(looks: list[Look], number: int) -> None:
    first, last = looks[0], looks[-1]
    wall_s, cpu_s = last.at_s - first.at_s, last.cpu_s - first.cpu_s
    polls = last.polls - first.polls
    if not polls:
        raise report.BenchmarkError("nothing was polled")
    report.say()
    report.table(
        ("one worker of `watch`", "min", "median", "max"),
        (
            ("TCP connections", *report.spread([look.connections for look in looks], 0)),
            ("intents due, not yet polled", *report.spread([look.due for look in looks], 0)),
            ("resident memory, MB", *report.spread([look.rss_mb for look in looks], 0)),
        ),
    )
    report.say(
        f"{polls / wall_s:.0f} polls per second, each intent every {number * wall_s / polls:.1f} s, "
        f"{cpu_s * 1000 / polls:.2f} ms of CPU per poll"
    )
    report.say(
        f"in_flight={number} cpu_share={cpu_s / wall_s:.2f} "
        f"connections_max={max(look.connections for look in looks)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
