"""What every command prints: tables for people, JSON for programs, one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output, never wrapped or coloured."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_line(text: str) -> None:
    """One plain line on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One plain line on standard error, for what is no result."""
    sys.stderr.write(text + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table, or the sentence ``empty``."""
    listed = list(rows)
    if not listed:
        print_line(empty)
        return
    table = Table(*columns)
    for row in listed:
        table.add_row(*(_escaped(cell) for cell in row))
    out.print(table)


def utc(seconds: float) -> str:
    """Unix seconds as people read them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"unix second {seconds}"


def _escaped(cell: str) -> str:
    return cell.replace("[", "\\[")
