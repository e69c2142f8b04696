"""``python -m config.health worker|signer|beat``: does the process of this container make headway? For container health checks.

Remote control is off in the workers, so nothing can be asked of them directly; what they leave in Redis tells as much.
"""

from __future__ import annotations

import sys
from typing import Any

import redis
from celery import Celery
from redbeat.schedulers import RedBeatConfig
from redis.sentinel import Sentinel

from config.celery import celery_settings
from config.redis_url import parse
from config.settings import Settings, SettingsError, broker_of, get_settings

STALLED_AFTER_S = 120
"""Ticks of this long in the queue mean that no worker takes them: three times the longest that a task may run."""


SIGNER_PULSE = "sx:pulse:signer"
"""Set by every message that a worker of the queue ``sign`` sends to itself (``tasks/app.py``)."""

SIGNER_PULSE_S = 60
"""How long one counts: longer than a task may run (40 s) and Redis may be away."""


def problem(role: str, settings: Settings) -> str:
    """What is wrong, in one line; empty when all is well.

    Args:
        role: ``worker`` (its queue of ticks is short, and Redis answers), ``signer`` (a worker that only signs took its own
            message), or ``beat`` (a scheduler holds RedBeat's lock).
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
            if role == "signer":
                return (
                    "" if client.exists(SIGNER_PULSE) else "no signer takes its messages: nothing is signed"
                )
            prefix = conf["broker_transport_options"].get("global_keyprefix", "")
            waiting = client.llen(f"{prefix}watch")
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


def main(arguments: list[str]) -> int:
    """Exit code 0 when well, 1 when not, 2 for wrong arguments or settings."""
    if arguments not in (["worker"], ["signer"], ["beat"]):
        sys.stderr.write("usage: python -m config.health worker|signer|beat\n")
        return 2
    try:
        found = problem(arguments[0], get_settings())
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(f"{found}\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
