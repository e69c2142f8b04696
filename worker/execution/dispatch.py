"""Sending stage messages over Celery. A message carries the intent's id and nothing else."""

from __future__ import annotations

from celery import Celery

from config.celery import celery_settings, queue_of
from config.settings import Settings
from worker.execution.runtime import Dispatch


def celery_app(settings: Settings) -> Celery:
    """A Celery app with our settings; it knows no tasks until ``tasks.app`` adds them."""
    app = Celery("session-executor", set_as_current=False)
    app.conf.update(celery_settings(settings))
    return app


def dispatcher(app: Celery, *, urgent: bool = False) -> Dispatch:
    """Sends "do this stage of this intent" to the stage's queue (``queue_of``); raises kombu's and Redis's errors."""

    def dispatch(stage: str, intent_id: str) -> None:
        app.send_task(f"tasks.{stage}", args=[intent_id], queue=queue_of(stage, urgent=urgent))

    return dispatch
