"""The one error of the strategies room.

ExecutorError
└── InputError
    └── StrategyError   the strategies file, or a fire of one of its strategies, cannot be used
"""

from __future__ import annotations

from worker.errors import InputError


class StrategyError(InputError):
    """A strategy cannot be used as it is. ``field`` is a path such as ``strategies[0].cron``."""
