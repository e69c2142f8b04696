"""What Celery tells about its configuration holds no password."""

from __future__ import annotations

from celery import Celery
from pydantic import SecretStr
from redbeat.schedulers import RedBeatConfig

from config.celery import celery_settings
from config.settings import Settings

PASSWORD = "a-password-of-redis"
URL = f"redis://:{PASSWORD}@127.0.0.1:6379/0"


def app() -> Celery:
    made = Celery(set_as_current=False)
    made.conf.update(celery_settings(Settings(_env_file=None, redis_url=SecretStr(URL))))  # pyright: ignore[reportCallIssue]
    return made


def test_the_report_and_the_table_of_settings_show_no_password() -> None:
    report = app().bugreport()
    assert "redbeat_redis_url: 'redis://********'" in report
    assert PASSWORD not in report
    table = app().conf.table(with_defaults=True, censored=True)
    assert PASSWORD not in repr(table)


def test_the_scheduler_gets_the_password_all_the_same() -> None:
    assert str(RedBeatConfig(app()).redis_url) == URL
