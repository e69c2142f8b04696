"""A real redis-server for the tests.

``TEST_REDIS_URL`` names a running one instead (a container, say); its databases 0 to 15 are emptied by the tests, so
it must be one that holds nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.support.need import missing
from worker.devnet.valkey import LocalRedis


@dataclass
class RedisServer:
    """A server to test against. ``local`` is None when it is not ours and cannot be killed."""

    url: str
    local: LocalRedis | None

    def process(self) -> LocalRedis:
        """Our own process, to be killed, paused and started again."""
        if self.local is None:
            missing("a Redis process of our own", "unset TEST_REDIS_URL and install redis-server")
        return self.local


def start_local(directory: Path, *, password: str | None = None, extra: str = "") -> LocalRedis:
    """A ``redis-server`` from PATH with AOF and a random password (``""``: none); call ``stop``, or use as context."""
    binary = shutil.which("redis-server")
    if binary is None:
        missing("redis-server", "apt-get install redis-server, or set TEST_REDIS_URL")
    return LocalRedis(directory, binary=Path(binary), password=password, extra=extra)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    """One server for the whole run."""
    outside = os.environ.get("TEST_REDIS_URL")
    if outside:
        yield RedisServer(outside, None)
        return
    with start_local(tmp_path_factory.mktemp("redis")) as local:
        yield RedisServer(local.url, local)


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty database."""
    if redis_server.local is not None:
        # A test before may have killed or paused it.
        redis_server.local.resume()
        redis_server.local.start()
    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Generator[LocalRedis]:
    """A server for this test alone, to be killed, paused and started again."""
    with start_local(tmp_path / "redis") as local:
        yield local
        local.resume()
