"""What Redis tells of workers and beat, with real Celery messages in it; the command is in ``tests/integration/cli``."""

from __future__ import annotations

import pytest
import redis
from celery import Celery

from config.celery import celery_settings
from config.health import STALLED_AFTER_S, problem
from config.settings import Settings

pytestmark = pytest.mark.services


def settings_for(url: str, **others: object) -> Settings:
    return Settings(_env_file=None, redis_url=url, **others)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


class TestWorker:
    """Unhealthy when ticks pile up that no worker takes."""

    def test_an_empty_queue_is_well(self, redis_url: str) -> None:
        assert problem("worker", settings_for(redis_url)) == ""

    def test_ticks_of_two_minutes_are_not(self, redis_url: str) -> None:
        settings = settings_for(redis_url, tick_ms=10_000)
        most = STALLED_AFTER_S // 10
        with Celery(set_as_current=False) as app:
            app.conf.update(celery_settings(settings))
            for _ in range(most):
                app.send_task("tasks.tick", queue="watch")
            assert problem("worker", settings) == ""
            app.send_task("tasks.tick", queue="watch")
            assert problem("worker", settings).startswith(f"{most + 1} ticks wait")


class TestBeat:
    """Unhealthy when nobody holds RedBeat's lock."""

    def test_without_a_lock(self, redis_url: str) -> None:
        assert "no scheduler holds the lock" in problem("beat", settings_for(redis_url))

    def test_with_a_lock(self, redis_url: str) -> None:
        prefix = celery_settings(settings_for(redis_url))["redbeat_key_prefix"]
        with redis.Redis.from_url(redis_url) as client:
            client.set(f"{prefix}:lock", "held", ex=15)
        assert problem("beat", settings_for(redis_url)) == ""
