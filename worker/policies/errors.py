"""The errors of the policies room.

ExecutorError
├── InputError
│   └── PolicyInputError          a policy or action cannot be encoded as asked
└── RefusedError
    └── PolicyViolationError      a policy said no to one call
"""

from __future__ import annotations

from worker.errors import InputError, RefusedError


class PolicyInputError(InputError):
    """A policy cannot be encoded as it is."""


class PolicyViolationError(RefusedError):
    """A policy denies the call. The message is the reason, in an operator's words."""
