"""Workers and beat on a Redis behind a Sentinel, whose master is killed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from tests.chaos.driver import CLEAN, Chaos
from tests.support.redis_topologies import sentinels, wait_until
from worker.devnet.devnet import Devnet
from worker.errors import ServiceError

pytestmark = pytest.mark.services


def test_after_a_failover_the_same_processes_go_on(devnet: Devnet, tmp_path: Path) -> None:
    chaos_folder = tmp_path / "chaos"
    chaos_folder.mkdir()
    with sentinels(tmp_path / "redis") as watched:
        server = cast("Any", watched)  # its URL is all that is asked for
        with Chaos(chaos_folder, server, devnet, workers=1, beat=True) as chaos:
            assert chaos.settle([chaos.submit() for _ in range(3)])
            with redis.Redis.from_url(watched.master.url) as client:
                assert client.wait(1, 10_000) == 1
            watched.master.kill()
            later: list[str] = []

            def submitted() -> bool:
                with contextlib.suppress(ServiceError):
                    later.append(chaos.submit())
                return bool(later)

            wait_until(submitted, "the ledger can be written again")
            later += [chaos.submit() for _ in range(2)]
            assert chaos.settle(later)
            counts = chaos.counts()
            assert str(counts) == CLEAN, counts.notes
            assert chaos.said == []  # neither the worker nor beat has ended
