"""What Celery tells about its configuration holds no password."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import control
from pydantic import SecretStr
from redbeat.schedulers import RedBeatConfig, get_redis

from config.celery import celery_settings
from config.settings import Settings

PASSWORD = "a-password-of-redis"
URL = f"redis://:{PASSWORD}@127.0.0.1:6379/0"


def app(url: str = URL) -> Celery:
    made = Celery(set_as_current=False)
    made.conf.update(celery_settings(Settings(_env_file=None, redis_url=SecretStr(url))))  # pyright: ignore[reportCallIssue]
    return made


def test_the_report_and_the_table_of_settings_show_no_password() -> None:
    report = app().bugreport()
    assert "redbeat_redis_url: 'redis://********'" in report
    assert PASSWORD not in report
    table = app().conf.table(with_defaults=True, censored=True)
    assert PASSWORD not in repr(table)


def test_a_worker_that_answered_would_show_no_password() -> None:
    """What ``celery inspect conf`` and Flower are told, if somebody turned remote control on."""
    told: Any = control.conf(SimpleNamespace(app=app()), with_defaults=True)
    assert "redbeat_redis_url" in told
    assert PASSWORD not in repr(told)
    assert PASSWORD not in json.dumps(told)


def test_remote_control_and_events_are_off() -> None:
    conf = app().conf
    assert conf.worker_enable_remote_control is False
    assert conf.worker_send_task_events is False
    assert conf.task_send_sent_event is False


@pytest.mark.parametrize(
    "url",
    [URL, f"redis://somebody:{PASSWORD}@127.0.0.1:6379/3", f"redis://127.0.0.1/3?password={PASSWORD}"],
)
def test_the_scheduler_gets_the_password_all_the_same(url: str) -> None:
    made = app(url)
    assert PASSWORD not in RedBeatConfig(made).redis_url
    client: Any = get_redis(made)
    told = client.connection_pool.connection_kwargs
    assert told["password"] == PASSWORD
    assert told.get("username") == ("somebody" if "somebody" in url else None)
    assert told["db"] == (0 if url == URL else 3)
    assert told["socket_timeout"] == 2.0
