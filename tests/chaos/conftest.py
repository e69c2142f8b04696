"""Stacks that are struck at, each over a Redis of its own and the shared devnet."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.driver import Chaos
from worker.devnet.devnet import Devnet
from worker.devnet.valkey import LocalRedis

MakeChaos = Callable[..., Chaos]


@pytest.fixture
def make_chaos(devnet: Devnet, own_redis: LocalRedis, tmp_path: Path) -> Generator[MakeChaos]:
    """Start one, with the options of ``Chaos``; it is stopped after the test."""
    with ExitStack() as stacks:

        def make(**options: Any) -> Chaos:
            directory = tmp_path / "chaos"
            directory.mkdir()
            return stacks.enter_context(Chaos(directory, own_redis, devnet, **options))

        yield make
