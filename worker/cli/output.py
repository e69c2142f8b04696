"""What every command prints: tables for people, JSON for programs, one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)

#: How long a bar is, letters.
_BAR = 20

ListLimit = Annotated[int, typer.Option("--limit", help="How many.", min=1, max=10_000)]
ListOffset = Annotated[int, typer.Option("--offset", help="How many to skip.", min=0)]

#: No terminal has a width of its own; a table that is read by a program must not be folded at 80.
_PIPE_WIDTH = 10_000


def print_json(value: Any) -> None:
    """One JSON document on standard output, never wrapped or coloured."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_json_text(text: str) -> None:
    """JSON that another program wrote, number for number as it came; what could steer a terminal is escaped."""
    # such characters stand in strings only, where the escape means the same
    escaped = (
        letter if letter in "\n\r\t" or letter.isprintable() else json.dumps(letter)[1:-1] for letter in text
    )
    sys.stdout.write("".join(escaped) + "\n")


def print_line(text: str) -> None:
    """One plain line on standard output."""
    sys.stdout.write(printable(text) + "\n")


def note(text: str) -> None:
    """One plain line on standard error, for what is no result."""
    sys.stderr.write(printable(text) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table, or the sentence ``empty``. A cell may hold several lines."""
    listed = list(rows)
    if not listed:
        print_line(empty)
        return
    table = Table(*columns)
    for row in listed:
        # Text, so that brackets in what others wrote are not taken for markup
        table.add_row(*(Text("\n".join(printable(line) for line in cell.split("\n"))) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table)


def printable(text: str) -> str:
    """``text`` as one line without control characters: what others wrote must not steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def utc(seconds: float) -> str:
    """Unix seconds as people read them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"unix second {seconds}"


def time_left(end_s: int | None, now_s: float) -> str:
    """How long until a unix second, in words."""
    if not end_s:
        return "no end"
    return str(timedelta(seconds=int(end_s - now_s))) if end_s > now_s else "over"


def bar(used: int, limit: int) -> str:
    """``[#####---------------]  25 %``; whole numbers only, so that no limit is too large for it."""
    per_cent = min(100, used * 100 // limit) if limit else 100
    full = per_cent * _BAR // 100
    return f"[{'#' * full}{'-' * (_BAR - full)}] {per_cent:3} %"
