"""What a test has counted, as the run's last lines: after pytest's own, so that a script can read them.

Of the process that runs the tests only: with pytest-xdist nothing is printed.
"""

from __future__ import annotations

import sys

import pytest

_LINES = pytest.StashKey[list[str]]()


class SayLast:
    """Takes the lines of one run."""

    def __init__(self, config: pytest.Config) -> None:
        self._lines = config.stash.setdefault(_LINES, [])

    def __call__(self, line: str) -> None:
        self._lines.append(line)


@pytest.fixture
def say_last(request: pytest.FixtureRequest) -> SayLast:
    """Call it with a line such as ``operations=10000 over_limit=0``."""
    return SayLast(request.config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """At the very end."""
    for line in config.stash.get(_LINES, []):
        sys.stdout.write(f"{line}\n")
