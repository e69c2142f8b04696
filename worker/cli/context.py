"""What commands need of the program: settings, services, and the session that a person means."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from config.settings import Settings, get_settings
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.sessions.importing import RegisteredSession

_T = TypeVar("_T")

#: Fewer hex digits than this name a session by accident.
_MIN_PREFIX = 4
_ID_LENGTH = len("ses_") + 16


def settings() -> Settings:
    """The settings, with quiet logs unless an operator asked for more.

    Raises:
        SettingsError: one of them cannot be used.
    """
    from config.logging import configure_logging

    found = get_settings()
    configure_logging(
        "WARNING" if found.log_level.strip().upper() == "INFO" else found.log_level, json=found.log_json
    )
    return found


def runtime() -> Runtime:
    """The services, sending messages over Celery."""
    from worker.execution.dispatch import celery_app, dispatcher
    from worker.execution.runtime import Runtime

    found = settings()
    app = celery_app(found)
    return Runtime(found, dispatch=dispatcher(app), dispatch_urgent=dispatcher(app, urgent=True))


@contextmanager
def options(**names: str) -> Generator[None]:
    """Let errors name the option that a person typed: ``options(not_after="--not-after")``.

    Args:
        names: field of an ``InputError`` → what to call it here.
    """
    try:
        yield
    except InputError as error:
        error.field = names.get(error.field, error.field)
        raise


def find_session(services: Runtime, name: str, *, field: str = "session") -> RegisteredSession:
    """A session by its id or a prefix of it that only one has.

    Args:
        services: the services.
        name: ``ses_`` and 16 hex digits, or at least the first four of them, with or without ``ses_``.
        field: what the argument is called here.

    Raises:
        InputError: none or several fit.
        SessionStoreUnavailableError, SessionCorruptError
    """
    if len(name) == _ID_LENGTH:
        with options(session=field):
            return services.sessions.get(name)
    digits = name.removeprefix("ses_")
    fix = "see `session-executor sessions list`"
    if len(digits) < _MIN_PREFIX:
        raise InputError(
            f"{name[:60]!r} names no session: it is too short",
            field=field,
            fix=f"give at least {_MIN_PREFIX} hex digits of the id; {fix}",
        )
    # a damaged session ends the search: left out, its prefix could pass for another's
    fitting = [session for session in services.sessions.list() if session.session_id[4:].startswith(digits)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise InputError(
            f"{name[:60]!r} names {len(fitting)} sessions", field=field, fix=f"give more digits; {fix}"
        )
    raise InputError(f"{name[:60]!r} names no session", field=field, fix=fix)


def parsed(field: str, parse: Callable[[str], _T], text: str) -> _T:
    """A parsed option; a ValueError becomes an InputError that names it.

    Raises:
        InputError
    """
    try:
        return parse(text)
    except ValueError as error:
        # the parsers say after a colon what to do
        message, _, fix = str(error).partition(": ")
        raise InputError(f"{text[:60]!r} {message}", field=field, fix=fix or "see --help") from None
