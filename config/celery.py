"""Celery's settings, derived from ours. JSON only, ids only, at-least-once delivery of messages that may repeat."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from kombu.entity import Queue
from kombu.utils.scheduling import round_robin_cycle

from config.redis_url import parse
from config.settings import Settings, SettingsError, broker_of

#: Urgent intents: taken before all others, and by workers of their own where there are some.
URGENT, URGENT_SIGN = "urgent", "urgent-sign"
#: The queues whose workers need keys. Everything else is done by workers that can read none.
SIGN_QUEUES = (URGENT_SIGN, "sign")
#: One queue per kind of work, so that each can have workers of its own.
QUEUES = (URGENT, URGENT_SIGN, "prepare", "sign", "submit", "watch")
_HEARTBEAT = "heartbeat."
#: Before the names of Celery's lists and sets in Redis.
KEY_PREFIX = "sx:celery:"
#: Seconds after which Redis hands an unacknowledged message out again; above every task's hard limit.
VISIBILITY_S = 120
#: Seconds between two wake-ups of the strategies: a slot is fired at most this late.
WAKE_S = 1
#: Seconds for which a beat that died still holds its lock: at least five of its loops, and below the 15 s within which
#: another one is to take over.
LEADER_S = 10


class SecretUrl(str):
    """A URL that clients can use and that does not show in a printed configuration (``celery report``)."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{urlsplit(self).scheme}://********'"


class SecretText(str):
    """A password that clients can use and that does not show in a printed configuration."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'"


def heartbeat_queue(node: str) -> str:
    """The queue that only the worker of this name (``NAME@HOST``) serves, see ``tasks/heartbeat.py``."""
    return f"{_HEARTBEAT}{node}"


class UrgentFirst(round_robin_cycle):
    """The order in which a worker looks into its queues: heartbeats, then the urgent ones, then the others in turn.

    A heartbeat takes a millisecond and asks whether the worker works, not how much waits.

    kombu's ``priority`` order would let a backlog in ``prepare`` starve what is signed already, and its message
    priorities would hide each queue's length in several lists.
    """

    def consume(self, n: int) -> list[str]:
        """The names of all queues, the first to look into first."""
        return sorted(super().consume(n), key=_rank)


def _rank(name: str) -> int:
    return 0 if name.startswith(_HEARTBEAT) else 1 if name in (URGENT, URGENT_SIGN) else 2


def queue_of(stage: str, *, urgent: bool) -> str:
    """The queue of a stage's messages. Signing has queues of its own, so that only who serves them needs keys."""
    if not urgent:
        return stage
    return URGENT_SIGN if stage == "sign" else URGENT


def celery_settings(settings: Settings) -> dict[str, Any]:
    """The mapping for ``app.conf``.

    Raises:
        SettingsError: the broker's URL cannot be used.
    """
    timeout_s = settings.redis_timeout_ms / 1000
    broker = _broker(settings)
    return {
        "broker_url": broker.url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_S,
            "global_keyprefix": KEY_PREFIX,
            "queue_order_strategy": UrgentFirst,
            "socket_connect_timeout": min(timeout_s, 1.0),
            "socket_timeout": timeout_s,
            "socket_keepalive": True,
            "health_check_interval": 25,
            **broker.options,
        },
        # pickle is refused in both directions: whoever can write to Redis must not run code in a worker
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_soft_time_limit": settings.task_soft_limit_s,
        "task_time_limit": settings.task_hard_limit_s,
        "task_queues": [Queue(name) for name in QUEUES],
        "task_default_queue": "prepare",
        "task_create_missing_queues": False,
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1},
        "worker_prefetch_multiplier": 1,
        "worker_soft_shutdown_timeout": 10.0,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        # remote control would let anybody on Redis stop a worker; events would repeat arguments
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "enable_utc": True,
        "timezone": "UTC",
        "beat_max_loop_interval": WAKE_S,
        # Celery masks broker_url and passwords by themselves, and knows nothing of this one: it has none of its own
        "redbeat_redis_url": SecretUrl(broker.redbeat_url),
        "redbeat_redis_options": {
            "socket_connect_timeout": min(timeout_s, 1.0),
            "socket_timeout": timeout_s,
            # beat has to survive a restart of Redis
            "retry_period": 60,
            **broker.redbeat_options,
        },
        # for the results of ``tasks.enqueue``, which lie beside the messages
        **({"result_backend_transport_options": broker.options} if broker.options else {}),
        **(
            {
                "broker_use_ssl": broker.tls,
                "redbeat_redis_use_ssl": broker.tls,
                "redis_backend_use_ssl": broker.tls,
            }
            if broker.tls
            else {}
        ),
        "redbeat_key_prefix": "sx:redbeat:",
        # a beat that died holds the lock this long: no strategy fires meanwhile, and never two beats at once
        "redbeat_lock_timeout": LEADER_S,
    }


@dataclass(frozen=True, slots=True)
class _Broker:
    """The broker's URL and options, as kombu wants them, and as RedBeat does. ``tls`` only where the URL cannot say it."""

    url: str
    redbeat_url: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    redbeat_options: dict[str, Any] = field(default_factory=dict[str, Any])
    tls: dict[str, Any] = field(default_factory=dict[str, Any])


def _broker(settings: Settings) -> _Broker:
    name = f"SESSION_EXECUTOR_{'REDIS' if settings.broker_url is None else 'BROKER'}_URL"
    try:
        parts = parse(broker_of(settings))
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None
    if parts.kind == "cluster":
        raise SettingsError(
            "SESSION_EXECUTOR_BROKER_URL: Celery cannot use a Redis Cluster; name a single Redis, or Sentinels "
            "(redis+sentinel://host:port/NAME). The ledger may stay in the cluster (SESSION_EXECUTOR_REDIS_URL)"
        )
    if parts.kind == "single":
        username = parts.username or parts.options.get("username", "")
        login = {"password": SecretText(parts.password)} if parts.password else {}
        login |= {"username": SecretText(username)} if username else {}
        return _Broker(parts.text, parts.without_login, redbeat_options=login)
    timeouts: dict[str, Any] = {
        "socket_timeout": settings.redis_timeout_ms / 1000,
        "socket_connect_timeout": min(settings.redis_timeout_ms / 1000, 1.0),
    }
    tls: dict[str, Any] = {"ssl_cert_reqs": ssl.CERT_REQUIRED, **parts.tls_options} if parts.tls else {}
    login = {name: SecretText(value) for name, value in parts.sentinel_options.items()}
    sentinel: dict[str, Any] = timeouts | login | ({"ssl": True, **tls} if tls else {})
    return _Broker(
        ";".join(f"sentinel://{parts.login}{host}:{port}/{parts.db}" for host, port in parts.hosts),
        "redis-sentinel://",
        {"master_name": parts.service, "sentinel_kwargs": sentinel},
        {
            "sentinels": list(parts.hosts),
            "service_name": parts.service,
            "username": parts.username or None,
            "password": SecretText(parts.password) if parts.password else None,
            "db": parts.db,
            "sentinel_kwargs": sentinel,
        },
        tls,
    )
