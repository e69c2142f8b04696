"""What commands need of the program: settings, services, and the session that a person means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from config.settings import Settings, get_settings
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.sessions.importing import RegisteredSession

#: Fewer hex digits than this name a session by accident.
_MIN_PREFIX = 4


def settings() -> Settings:
    """The settings, with quiet logs unless an operator asked for more.

    Raises:
        SettingsError: one of them cannot be used.
    """
    from config.logging import configure_logging

    found = get_settings()
    configure_logging(
        "WARNING" if found.log_level.upper() == "INFO" else found.log_level, json=found.log_json
    )
    return found


def runtime() -> Runtime:
    """The services, sending messages over Celery."""
    from worker.execution.dispatch import celery_app, dispatcher
    from worker.execution.runtime import Runtime

    found = settings()
    return Runtime(found, dispatch=dispatcher(celery_app(found)))


def find_session(services: Runtime, name: str) -> RegisteredSession:
    """A session by its id or a prefix of it that only one has.

    Raises:
        InputError: none or several fit.
        SessionStoreUnavailableError, SessionCorruptError
    """
    if len(name) == len("ses_") + 16:
        return services.sessions.get(name)
    digits = name.removeprefix("ses_")
    fitting = [session for session in services.sessions.list() if session.session_id[4:].startswith(digits)]
    if len(fitting) == 1 and len(digits) >= _MIN_PREFIX:
        return fitting[0]
    raise InputError(
        f"{name!r} names {len(fitting) if digits else 'no'} sessions",
        field="--session",
        fix="give the whole id, or at least four digits of it: see `session-executor sessions list`",
    )


def parsed(field: str, parse: Callable[[str], object], text: str) -> object:
    """A parsed option; a ValueError becomes an InputError that names it."""
    try:
        return parse(text)
    except ValueError as error:
        raise InputError(str(error), field=field, fix="see --help") from None
