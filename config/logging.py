"""Logging: structlog and the standard library's loggers through one redacting handler on standard error."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from pydantic import SecretStr
from structlog.typing import Processor

from config.redaction import Redactor, text_secrets
from config.settings import Settings, SettingsError, get_settings

#: These say of each request and message what our own lines, metrics and traces say; several lines for each intent.
_CHATTY = ("httpx", "celery.app.trace", "celery.worker.strategy")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def configure_logging(
    level: str = "INFO",
    *,
    json: bool = False,
    secrets: Iterable[str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send everything that is logged, ours and the libraries', through redaction to one handler. May be called again.

    Tracebacks are rendered without local variables and are redacted too, those of errors that nobody catches included. Fields bound by
    ``structlog.contextvars.bind_contextvars`` are on every line of ours.

    Args:
        level: one of ``LEVELS``, in any case; applies to every logger.
        json: one JSON object per line instead of text.
        secrets: texts to mask wherever they occur, on top of what is known by name and shape. None: the secrets in
            the process's settings.
        stream: where to write; None is standard error.

    Raises:
        SettingsError: ``level`` is none of ``LEVELS``.
    """
    wanted = level.strip().upper()
    if wanted not in LEVELS:
        raise SettingsError(f"SESSION_EXECUTOR_LOG_LEVEL: is not one of {', '.join(LEVELS)}")
    redact = Redactor(text_secrets(_own_secrets() if secrets is None else secrets))
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # to text here, without local variables, so that redaction sees it
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # a cached logger would keep the processors of an earlier call
        cache_logger_on_first_use=False,
    )
    output = stream or _standard_error()
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False, default=repr)
        if json
        else structlog.dev.ConsoleRenderer(
            colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    handler = _Handler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, renderer],
        )
    )
    root = logging.getLogger()
    for logger in (root, *_existing_loggers()):
        for old in list(logger.handlers):
            if not isinstance(old, logging.NullHandler):
                logger.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(wanted)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(wanted if wanted == "DEBUG" else "WARNING")
    logging.captureWarnings(True)
    _log_what_nobody_catches()


def _log_what_nobody_catches() -> None:
    """Python would print it as it is, from each thread and each finalizer. A hook that somebody else has set stays."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _uncaught_in_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable


def _uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None, where: str = "main"
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("uncaught").critical("nobody caught this (%s)", where, exc_info=(kind, error, trace))


def _uncaught_in_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_value is not None and not issubclass(what.exc_type, SystemExit):
        name = what.thread.name if what.thread is not None else "a thread"
        _uncaught(what.exc_type, what.exc_value, what.exc_traceback, name)


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    # neither its object nor its words are shown: both may be a repr of whatever was being cleaned up
    if what.exc_value is not None:
        _uncaught(what.exc_type, what.exc_value, what.exc_traceback, "while cleaning up")


class _Handler(logging.StreamHandler[TextIO]):
    """Says that a line could not be written without showing it: the standard one prints message and arguments."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """One line in place of the record."""
        problem = sys.exc_info()[0]
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(
                f"a log line of {record.name} could not be written: {problem.__name__ if problem else ''}\n"
            )


def secrets_of(settings: Settings) -> list[str]:
    """Every secret in ``settings`` as it was configured, URLs with what is in them."""
    values = [getattr(settings, name) for name in type(settings).model_fields]
    values += settings.source_rpc_urls.values()
    return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]


def _own_secrets() -> list[str]:
    try:
        return secrets_of(get_settings())
    except SettingsError:
        return []  # whoever needs the settings will say what is wrong with them


def _existing_loggers() -> list[logging.Logger]:
    """Every logger there is: one with a handler of its own, or that does not pass on, would escape redaction."""
    found: list[logging.Logger] = []
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True
            found.append(logger)
    return found


def _standard_error() -> TextIO:
    """``sys.stderr``, unless Celery has put a proxy in its place that would log what we write."""
    error: Any = sys.stderr
    if error is None or not hasattr(error, "fileno"):
        error = sys.__stderr__
    return cast(TextIO, error)
