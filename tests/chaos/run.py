"""``make chaos N=rounds``: every point times every fault; the last line says what was broken.

Most of a round is waiting: for leases to end, for storms to pass. So lanes run side by side, each a process with a
chain, an orchestrator and a Redis of its own. With fewer rounds than lanes a round's faults are divided among them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.driver import CLEAN, FAULTS, Chaos, Counts
from tests.chaos.points import POINTS
from worker.devnet.devnet import Devnet, start_devnet
from worker.devnet.valkey import LocalRedis

#: A round, or a part of one: its number, and the faults of it.
Job = tuple[int, Sequence[str]]
_DONE = re.compile(
    r"^round (\d+) part done: doubles=(\d+) lost=(\d+) overspent=(\d+) leaked_budget=(\d+) unresolved=(\d+) unreached=(\d+)$"
)


class Stopped(SystemExit):
    """SIGTERM: whatever was started is stopped on the way out."""


def jobs_of(rounds: int, lanes: int) -> list[list[Job]]:
    """What each lane does, in order."""
    parts = max(1, min(lanes // rounds, len(FAULTS)))
    jobs: list[Job] = [(turn, FAULTS[part::parts]) for turn in range(1, rounds + 1) for part in range(parts)]
    return [jobs[lane::lanes] for lane in range(min(lanes, len(jobs)))]


def say(line: str) -> None:
    """To stdout, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def lane(jobs: Sequence[Job]) -> None:
    """Do the jobs one after the other, each on a stack of its own."""
    binary = shutil.which("redis-server")
    assert binary is not None
    with tempfile.TemporaryDirectory(prefix="session-executor-chaos-") as name, start_devnet() as devnet:
        for number, (turn, faults) in enumerate(jobs):
            folder = Path(name) / str(number)
            folder.mkdir()
            counts = _part(turn, faults, folder, Path(binary), devnet)
            for note in counts.notes:
                say(f"  round {turn}: {note}")
            unreached = sum("not reached" in note for note in counts.notes)
            say(f"round {turn} part done: {counts} unreached={unreached}")
            shutil.rmtree(folder, ignore_errors=True)


def _part(turn: int, faults: Sequence[str], folder: Path, binary: Path, devnet: Devnet) -> Counts:
    with ExitStack() as parts:
        server = parts.enter_context(LocalRedis(folder / "redis", binary=binary))
        chaos = parts.enter_context(Chaos(folder, server, devnet, workers=2, beat=True))
        worst = Counts()
        for fault in faults:
            started = time.monotonic()
            chaos.batch(fault, POINTS)
            counts = chaos.counts()
            worst.at_least(counts)
            say(f"round {turn} {fault:<20} {time.monotonic() - started:5.1f} s {counts}")
            for note in counts.notes:
                say(f"  round {turn} {fault}: {note}")
        counts = chaos.counts()
        worst.at_least(counts)
        worst.notes = counts.notes + chaos.said
        return worst


class Run:
    """The lanes' processes, and what they have said so far."""

    def __init__(self, rounds: int, lanes: int) -> None:
        plan = jobs_of(rounds, lanes)
        self.total = Counts()
        self.unreached = 0
        self._open = {
            turn: sum(turn == job[0] for jobs in plan for job in jobs) for turn in range(1, rounds + 1)
        }
        self._lock = threading.Lock()
        self._lanes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.run", "--lane", json.dumps(jobs)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for jobs in plan
        ]

    @property
    def done(self) -> int:
        """How many rounds are over."""
        return sum(not left for left in self._open.values())

    def wait(self) -> bool:
        """Hand on what the lanes say until all have ended; whether all of them did all that was theirs."""
        readers = [threading.Thread(target=self._read, args=(process,)) for process in self._lanes]
        for reader in readers:
            reader.start()
        try:
            codes = [process.wait() for process in self._lanes]
            return not any(codes)
        finally:
            for process in self._lanes:
                process.terminate()
            for reader in readers:
                reader.join()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            found = _DONE.match(line)
            with self._lock:
                if found is None:
                    say(line.rstrip("\n"))
                    continue
                turn, doubles, lost, overspent, leaked, unresolved, unreached = map(int, found.groups())
                self.total.add(Counts(doubles, lost, overspent, leaked, unresolved))
                self.unreached += unreached
                self._open[turn] -= 1
                if not self._open[turn]:
                    say(f"round {turn} done, {self.done} so far: {self.total}")


def main() -> int:
    """Run it; 0 if nothing was broken and every point was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=1)
    parser.add_argument("--lanes", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--lane", type=json.loads, help="jobs, as the lanes' processes get them")
    arguments = parser.parse_args()
    # so that a terminated run stops what it has started, and still says how far it came
    signal.signal(signal.SIGTERM, _end)
    if shutil.which("redis-server") is None:
        sys.stderr.write("redis-server: is not installed (apt-get install redis-server)\n")
        return 2
    if arguments.lane is not None:
        lane(arguments.lane)
        return 0
    run = Run(max(1, arguments.rounds), max(1, arguments.lanes))
    try:
        whole = run.wait()
    except (Stopped, KeyboardInterrupt):
        whole = False
    say(f"rounds={run.done} {run.total}")
    return 0 if whole and str(run.total) == CLEAN and not run.unreached else 1


def _end(_number: int, _frame: object) -> None:
    raise Stopped(1)


if __name__ == "__main__":
    sys.exit(main())
