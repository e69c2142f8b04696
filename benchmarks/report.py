"""What the benchmarks share: rounds, a table, the last line, and one plain line when a real part is missing."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence

import pytest

from worker.errors import ExecutorError


class BenchmarkError(Exception):
    """The work was not what it should have been, so its cost says nothing."""


def say(line: str = "") -> None:
    """One line on stdout, at once, so that a long run can be watched."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def machine() -> str:
    """Processors and load, because a figure without them says little."""
    one_minute = os.getloadavg()[0]
    count = os.cpu_count() or 1
    busy = " (busy: others share the processors)" if one_minute > count else ""
    return f"{count} processors, load {one_minute:.1f} before the run{busy}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; the first to the left, the rest to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        say("  ".join((first, *rest)).rstrip())


def spread(values: Sequence[float], digits: int = 3) -> tuple[str, str, str]:
    """Smallest, median and largest, as table cells."""

    def cell(value: float) -> str:
        return f"{value:.{digits}f}"

    return cell(min(values)), cell(statistics.median(values)), cell(max(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def arguments(words: str, *, number: int, rounds: int, warm_up: int, unit: str) -> argparse.ArgumentParser:
    """A parser with ``--number``, ``--rounds`` and ``--warm-up``, all of them counts of at least 1.

    Args:
        words: what the benchmark does.
        number: default of how many of ``unit`` make one round.
        rounds: default of how many rounds are counted.
        warm_up: default of how many of ``unit`` go before the first round and are not counted.
        unit: what is counted, in the plural.
    """
    parser = argparse.ArgumentParser(description=words)
    for name, default, what in (
        ("--number", number, f"{unit} per round"),
        ("--rounds", rounds, "counted rounds"),
        ("--warm-up", warm_up, f"{unit} before the first round"),
    ):
        parser.add_argument(name, type=_count, default=default, help=f"{what} ({default})")
    return parser


def run(body: Callable[[], None]) -> int:
    """Run a benchmark; 1 with one line on stderr when a service is missing or the work went wrong, else 0."""
    try:
        body()
    except (ExecutorError, BenchmarkError) as error:
        problem = str(error)
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        # what tests/support says when a real part is missing
        problem = str(error)
    else:
        return 0
    sys.stderr.write(f"{problem}\n")
    return 1


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no count: give 1 to 1000000")
    return int(text)
