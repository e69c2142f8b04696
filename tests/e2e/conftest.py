"""Stacks of real processes over a real Redis and the shared devnet."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from worker.devnet.devnet import Devnet
from worker.devnet.stack import Stack


@pytest.fixture
def make_stack(devnet: Devnet, redis_url: str, tmp_path: Path) -> Generator[Callable[..., Stack]]:
    """Start workers and, if asked for, beat; all of them are stopped after the test."""
    with ExitStack() as stacks:

        def make(**options: Any) -> Stack:
            directory = tmp_path / "stack"
            directory.mkdir(mode=0o700)
            defaults: dict[str, Any] = {"redis_url": redis_url, "devnet": devnet, "beat": False}
            return stacks.enter_context(Stack(directory, **(defaults | options)))

        yield make
