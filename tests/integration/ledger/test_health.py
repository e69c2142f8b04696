"""What ``doctor`` finds out about a real Redis."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis

from tests.support.redis import start_local
from worker.devnet.valkey import LocalRedis
from worker.ledger.errors import LedgerUnavailableError
from worker.ledger.health import UnsafeRedisError, check_redis, require_fit

pytestmark = pytest.mark.services

SHIPPED = Path(__file__).parents[3] / "config" / "redis" / "redis.conf"


class TestCheck:
    """Persistence, eviction, latency and version, with what to fix."""

    def test_a_right_one_has_no_problems(self, own_redis: LocalRedis) -> None:
        health = check_redis(own_redis.url)
        assert health.problems == ()
        assert (health.aof, health.appendfsync, health.maxmemory_policy) == (True, "always", "noeviction")
        assert health.server == "redis"
        assert health.version[0].isdigit()
        assert 0 < health.latency_ms < 1_000
        assert health.url == f"redis://127.0.0.1:{own_redis.port}/0"
        require_fit(health)

    @pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
    def test_eviction_of_any_key_forbids_a_start(self, own_redis: LocalRedis, policy: str) -> None:
        _configure(own_redis, "maxmemory-policy", policy)
        with pytest.raises(UnsafeRedisError, match=policy) as caught:
            require_fit(check_redis(own_redis.url))
        assert "noeviction" in caught.value.fix

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("maxmemory-policy", "volatile-lru", "may evict Celery's keys"),
            ("appendfsync", "everysec", "appendfsync everysec"),
            ("appendonly", "no", "no append-only file"),
        ],
    )
    def test_weaker_settings_are_reported_with_the_fix(
        self, own_redis: LocalRedis, name: str, value: str, words: str
    ) -> None:
        _configure(own_redis, name, value)
        health = check_redis(own_redis.url)
        (problem,) = health.problems
        assert words in problem.message
        assert problem.fix
        assert not problem.fatal
        require_fit(health)

    def test_a_user_without_config_is_told_that_fsync_is_unknown(self, own_redis: LocalRedis) -> None:
        with redis.Redis.from_url(own_redis.url) as client:
            client.execute_command("ACL", "SETUSER", "app", "on", "nopass", "~*", "+@all", "-config")
        health = check_redis(f"redis://app:any@127.0.0.1:{own_redis.port}/0")
        assert health.aof
        assert health.appendfsync == "unknown"
        assert "appendfsync unknown" in health.problems[0].message

    def test_a_replica_forbids_a_start(self, own_redis: LocalRedis) -> None:
        with redis.Redis.from_url(own_redis.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(UnsafeRedisError, match="read-only replica"):
            require_fit(check_redis(own_redis.url))

    def test_one_that_is_down_is_named(self, own_redis: LocalRedis) -> None:
        url = own_redis.url
        own_redis.stop()
        with pytest.raises(LedgerUnavailableError, match="cannot be reached"):
            check_redis(url)


class TestShippedConfiguration:
    """``config/redis/redis.conf`` starts, and is what the check asks for."""

    def test_it_has_no_problems_and_cannot_be_wiped(self, tmp_path: Path) -> None:
        copy = tmp_path / "shipped.conf"
        shutil.copy(SHIPPED, copy)
        lines = [line for line in copy.read_text().splitlines() if line.split(" ")[0] not in {"port", "bind"}]
        copy.write_text("\n".join(lines) + "\n")
        with start_local(tmp_path / "data", extra=f'include "{copy}"\n') as server:
            assert check_redis(server.url).problems == ()
            with redis.Redis.from_url(server.url) as client:
                assert client.config_get("protected-mode") == {"protected-mode": "yes"}
                assert client.config_get("save") == {"save": ""}
                for command in ("FLUSHALL", "FLUSHDB"):
                    with pytest.raises(redis.ResponseError, match="unknown command"):
                        client.execute_command(command)


def _configure(server: LocalRedis, name: str, value: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set(name, value)
