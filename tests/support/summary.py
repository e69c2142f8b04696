"""Lines for the end of a test run's report: what was counted, whichever process counted it."""

from __future__ import annotations

from typing import Any

import pytest

_lines: set[str] = set()


def tell(line: str) -> None:
    """Have a line printed once at the end of the run."""
    _lines.add(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that ran some of the tests tells the one that reports."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["told"] = sorted(_lines)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What such a process has told."""
    _lines.update(getattr(node, "workeroutput", {}).get("told", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print them."""
    for line in sorted(_lines):
        terminalreporter.write_line(line)
