"""``python -m config.health`` against a real Redis with real Celery messages in it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import redis
from celery import Celery

from config.celery import celery_settings
from config.health import STALLED_AFTER_S, problem
from config.settings import Settings
from tests.support.compose import ROOT
from tests.support.vault import free_port

pytestmark = pytest.mark.services


def settings_for(url: str, **others: object) -> Settings:
    return Settings(_env_file=None, redis_url=url, **others)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def run(role: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "config.health", *role.split()],
        cwd=ROOT,
        env=os.environ | {"SESSION_EXECUTOR_REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


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


class TestCommand:
    """Exit codes, one line, no password."""

    def test_redis_is_down(self) -> None:
        done = run("worker", f"redis://:testpassword0123@127.0.0.1:{free_port()}/0")
        assert (done.returncode, done.stderr) == (1, "Redis does not answer (ConnectionError)\n")

    def test_a_wrong_password(self, redis_url: str) -> None:
        wrong = f"redis://:testpassword0123@{redis_url.rpartition('@')[2]}"
        done = run("beat", wrong)
        assert done.returncode == 1
        assert "testpassword0123" not in done.stdout + done.stderr

    @pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://127.0.0.1:port/0"])
    def test_a_url_that_is_none(self, url: str) -> None:
        done = run("worker", url)
        assert done.returncode == 2
        assert done.stderr.startswith("SESSION_EXECUTOR_REDIS_URL: ")
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("role", ["", "both", "worker beat"])
    def test_an_unknown_role(self, role: str, redis_url: str) -> None:
        done = run(role, redis_url)
        assert (done.returncode, done.stderr) == (2, "usage: python -m config.health worker|signer|beat\n")
