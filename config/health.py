"""What Redis tells of workers and beat without a question to them: whether ticks are taken, and who holds beat's lock.

For ``status``, the metrics and ``health live``, which asks the workers, too (``tasks/heartbeat.py``).
"""

from __future__ import annotations

from typing import Any, Literal

import redis
from celery import Celery
from redbeat.schedulers import RedBeatConfig
from redis.sentinel import Sentinel

from config.celery import KEY_PREFIX, celery_settings
from config.redis_url import parse
from config.settings import Settings, SettingsError, broker_of

STALLED_AFTER_S = 120
"""Ticks of this long in the queue mean that no worker takes them: three times the longest that a task may run."""


def problem(role: Literal["worker", "beat"], settings: Settings) -> str:
    """What is wrong, in one line; empty when all is well.

    Args:
        role: ``worker`` (the queue of ticks is short, and Redis answers), or ``beat`` (a scheduler holds RedBeat's lock).
        settings: where Redis is, and how often there is a tick.

    Raises:
        SettingsError: Redis's URL cannot be used.
    """
    conf = celery_settings(settings)
    client = _client(settings)
    try:
        with client:
            if role == "beat":
                return (
                    "" if client.exists(_lock_key(conf)) else "no scheduler holds the lock: no strategy fires"
                )
            waiting = client.llen(f"{KEY_PREFIX}watch")
            most = STALLED_AFTER_S * 1000 // settings.tick_ms
            return "" if waiting <= most else f"{waiting} ticks wait (more than {most}): the tasks do not end"
    except redis.RedisError as error:
        # the text of a connection error names host and port; the URL with the password is in none
        return f"Redis does not answer ({type(error).__name__})"


def _client(settings: Settings) -> redis.Redis:
    """The broker, which also holds what workers leave word of."""
    timeout_s = settings.redis_timeout_ms / 1000
    bounds: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
    }
    url = broker_of(settings)
    try:
        parts = parse(url)
        if parts.kind == "single":
            return redis.Redis.from_url(url, **bounds)
    except ValueError:
        # the text quotes parts of the URL, which may be the password
        raise SettingsError("SESSION_EXECUTOR_REDIS_URL: is no Redis URL") from None
    # a cluster was refused by celery_settings
    tls: dict[str, Any] = {"ssl": True, **parts.tls_options} if parts.tls else {}
    sentinels = Sentinel(list(parts.hosts), sentinel_kwargs=bounds | parts.sentinel_options | tls)
    login = {"username": parts.username or None, "password": parts.password or None}
    return sentinels.master_for(parts.service, db=parts.db, **bounds, **login, **tls)


def _lock_key(conf: dict[str, Any]) -> str:
    app = Celery(set_as_current=False)
    app.conf.update(conf)
    return str(RedBeatConfig(app).lock_key)
