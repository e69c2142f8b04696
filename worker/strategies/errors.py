"""The errors of the strategies room.

ExecutorError
├── InputError
│   └── StrategyError   the strategies file, or a fire of one of its strategies, cannot be used
└── RefusedError
    └── PriceError      a price or another value is stale, absent or nonsense: nothing is decided on it
"""

from __future__ import annotations

from worker.errors import InputError, RefusedError


class StrategyError(InputError):
    """A strategy cannot be used as it is. ``field`` is a path such as ``strategies[0].cron``."""


class PriceError(RefusedError):
    """What was read from the chain is nothing to decide on."""
