"""``make conformance N=draws``: random sessions, accounts and intents by us and by SDK 1.15.0; the last line says how many differ."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Generator
from functools import cache
from multiprocessing import get_context
from multiprocessing.util import Finalize

from tests.support.conformance import run_draws, smallest_difference
from tests.support.differences import Outcome
from tests.support.sdk import SdkOracle

#: Draws that one engine of Hypothesis makes: it remembers them all, so that more would fill the memory.
CHUNK = 100
#: Between two lines that say how far it is.
SAY_EVERY_S = 60
#: How long a simpler draw with a difference is looked for.
SHRINK_S = 60
#: Differences shown; the first of them as the smallest draw that shows it.
SHOWN = 10


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 if no draw differs, 1 if one does or the run is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("draws", type=int)
    parser.add_argument("--seed", default="", help="other draws, or those of a run that named it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if given.draws < 1 or given.processes < 1:
        parser.error("draws and processes: at least 1")
    seed = given.seed or f"{time.time_ns():x}"
    started = time.monotonic()
    _say(f"seed={seed} processes={given.processes}")
    total, said, shown = Outcome(), started, False
    interrupted = False
    try:
        for (label, count), found in _outcomes(_chunks(seed, given.draws), given.processes):
            if found.different and not shown:
                shown = True
                _say(f"the smallest draw that Hypothesis finds with a difference ({label}):")
                smallest = smallest_difference(_oracle(), label, count, within_s=SHRINK_S)
                _say(smallest or "none: it depends on more than the draw")
            total.add(found)
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                _say(f"{total.draws} draws, {total.different} with differences, {said - started:.0f} s")
    except KeyboardInterrupt:
        # what was compared until then counts
        interrupted = True
    for line in total.differences[:SHOWN]:
        _say(f"difference: {line}")
    for name in sorted(total.seen):
        _say(f"  {name}: {total.seen[name]}")
    _say(f"{total.values} values compared in {time.monotonic() - started:.0f} s")
    if interrupted:
        _say(f"interrupted before {given.draws} draws")
    _say(f"draws={total.draws} differences={total.different}")
    return 1 if total.different or interrupted else 0


def _chunks(seed: str, draws: int) -> list[tuple[str, int]]:
    return [(f"{seed}/{start}", min(CHUNK, draws - start)) for start in range(0, draws, CHUNK)]


def _outcomes(chunks: list[tuple[str, int]], processes: int) -> Generator[tuple[tuple[str, int], Outcome]]:
    """Each chunk with what became of it, as they end; one process makes them here, several each with a node of its own."""
    if processes == 1:
        for chunk in chunks:
            yield chunk, _run(*chunk)
        return
    with get_context("spawn").Pool(processes, initializer=_end_on_sigterm) as pool:
        yield from pool.imap_unordered(_run_chunk, chunks)
        # leaving the block would terminate them while they close what they started
        pool.close()
        pool.join()


def _run_chunk(chunk: tuple[str, int]) -> tuple[tuple[str, int], Outcome]:
    try:
        return chunk, _run(*chunk)
    except KeyboardInterrupt:
        raise SystemExit(1) from None


def _run(label: str, count: int) -> Outcome:
    return run_draws(_oracle(), label, count)


@cache
def _oracle() -> SdkOracle:
    """This process's node, for as long as it lives."""
    oracle = SdkOracle()
    # unlike atexit's, such a call is made in the processes of a pool, too
    Finalize(None, oracle.close, exitpriority=1)
    return oracle


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _end_on_sigterm() -> None:
    """So that a terminated process closes what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


if __name__ == "__main__":
    _end_on_sigterm()
    sys.exit(main())
