"""A function that a raw strategy of the tests names."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.pipeline import RECIPIENT, transfer
from worker.policies.base import Execution
from worker.strategies.port import Moment


def pay(moment: Moment) -> Sequence[Execution]:
    """Two transfers the first time, none later."""
    return [transfer(2_000_000, RECIPIENT), transfer(3_000_000, RECIPIENT)] if moment.number == 1 else []
