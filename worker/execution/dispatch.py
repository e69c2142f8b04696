"""Sending stage messages over Celery. A message carries the intent's id and nothing else."""

from __future__ import annotations

from typing import Any, cast

from celery import Celery
from kombu.transport import redis as kombu_redis

from config.celery import celery_settings, queue_of
from config.settings import Settings
from worker.execution.runtime import Dispatch


def celery_app(settings: Settings) -> Celery:
    """A Celery app with our settings; it knows no tasks until ``tasks.app`` adds them."""
    _keep_clients()
    app = Celery("session-executor", set_as_current=False)
    app.conf.update(celery_settings(settings))
    return app


def dispatcher(app: Celery, *, urgent: bool = False) -> Dispatch:
    """Sends "do this stage of this intent" to the stage's queue (``queue_of``); raises kombu's and Redis's errors."""

    def dispatch(stage: str, intent_id: str) -> None:
        app.send_task(f"tasks.{stage}", args=[intent_id], queue=queue_of(stage, urgent=urgent))

    return dispatch


def _keep_clients() -> None:
    """Let each of kombu's channels make one Redis client for its pool instead of one for every command.

    A client of redis-py copies a table of two hundred replies when it is made: a sixth of what a worker's main process did.
    """
    channel = cast("Any", kombu_redis.Channel)
    make = channel._create_client  # noqa: SLF001 - there is no other place to stand
    if getattr(make, "keeps", False):
        return

    def create(self: Any, asynchronous: bool = False) -> Any:
        if asynchronous:  # that one holds a connection of its own
            return make(self, asynchronous=True)
        kept = self.__dict__.get("kept_client")
        if kept is None or kept.connection_pool is not self.pool:
            kept = self.kept_client = make(self)
        return kept

    create.keeps = True  # type: ignore[attr-defined]
    channel._create_client = create  # noqa: SLF001
