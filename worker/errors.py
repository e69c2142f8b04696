"""The root of every error this program raises on purpose.

ExecutorError                 never raised itself
├── InputError                the caller's input is wrong; exit code 2
├── ServiceError              a service is down, refuses, or is not what it should be; exit code 1
└── RefusedError              a policy, a guardrail or the no-blind-signing check said no; exit code 1

Each room subclasses these in its own ``errors.py``. What the worker does with each is the table in
``worker/execution/retry.py``.
"""

from __future__ import annotations


class ExecutorError(Exception):
    """An error with words for an operator.

    Args:
        message: what is wrong, in one line. Never holds a secret.
        field: the input field, setting or service that it is about.
        fix: what to do about it, in one line.
    """

    exit_code = 1

    def __init__(self, message: str, *, field: str = "", fix: str = "") -> None:
        self.message = message
        self.field = field
        self.fix = fix
        super().__init__(message)

    def __str__(self) -> str:
        """``field: message (fix)``, on one line."""
        text = f"{self.field}: {self.message}" if self.field else self.message
        return f"{text} ({self.fix})" if self.fix else text


class InputError(ExecutorError):
    """The input cannot be used as it is."""

    exit_code = 2


class ServiceError(ExecutorError):
    """A service that is needed is unreachable, refuses us, or is not the one configured."""


class RefusedError(ExecutorError):
    """We decided not to sign."""
