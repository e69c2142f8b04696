"""Hypothesis makes whole draws, and each is compared with SDK 1.15.0."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.support.differences import Outcome, asked, judge
from tests.support.sdk_draws import Draw
from tests.support.whole_draw import WholeDraw


class Oracle(Protocol):
    """Answers several questions at once with the SDK's own functions; see ``SdkOracle.batch``."""

    def batch(self, questions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """``{"result": …}`` or ``{"error": {"name", "message"}}`` for each question, in order."""
        ...


def compare(draw: Draw, oracle: Oracle) -> Outcome:
    """Make one draw, ask the SDK and compare. An exception on our side is a difference, too."""
    try:
        whole = WholeDraw(draw)
        questions = whole.questions()
    except Exception as error:  # noqa: BLE001 - whatever it is, the SDK has an answer where we have none
        at = traceback.extract_tb(error.__traceback__)[-1]
        words = f"ours raised {type(error).__name__} in {at.name}, line {at.lineno}: {error}"
        return Outcome(draws=1, different=1, differences=[words])
    return judge(questions, oracle.batch(asked(questions)), whole.seen)


def run_draws(oracle: Oracle, label: str, count: int) -> Outcome:
    """Let Hypothesis make ``count`` draws and compare each.

    Args:
        oracle: whom to ask.
        label: the same label makes the same draws.
        count: how many.
    """
    total = Outcome()

    def compare_one(choices: random.Random, seed: int) -> None:
        if total.draws < count:
            total.add(compare(Draw(choices, random.Random(seed)), oracle))

    part = 0
    while total.draws < count:
        # a few of Hypothesis's attempts may be too large for it; the rest is made up in another round
        _by_hypothesis(compare_one, f"{label}/{part}", count - total.draws, shrink=False)
        part += 1
    return total


class _Enough(KeyboardInterrupt):
    """Ends Hypothesis, which lets only this kind through."""


def smallest_difference(oracle: Oracle, label: str, count: int, *, within_s: float = 60) -> str:
    """The differences of the simplest differing draw that Hypothesis finds among those of ``run_draws``; ``""`` for none.

    Args:
        oracle: whom to ask.
        label: as in ``run_draws``.
        count: as in ``run_draws``.
        within_s: seconds of looking for a simpler one.
    """
    best: tuple[int, str] | None = None
    end_s = time.monotonic() + within_s

    def compare_one(choices: random.Random, seed: int) -> None:
        nonlocal best
        if best is not None and time.monotonic() > end_s:
            raise _Enough
        found = compare(Draw(choices, random.Random(seed)), oracle)
        if found.differences:
            # what is left of a simpler draw has fewer values
            if best is None or found.values <= best[0]:
                best = found.values, "\n".join(found.differences)
            raise AssertionError(found.differences[0])

    with suppress(AssertionError, _Enough):
        _by_hypothesis(compare_one, f"{label}/0", count, shrink=True)
    return "" if best is None else best[1]


def _by_hypothesis(
    compare_one: Callable[[random.Random, int], None], label: str, count: int, *, shrink: bool
) -> None:
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    configured = settings(
        max_examples=count,
        phases=phases,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=(
            HealthCheck.data_too_large,
            HealthCheck.too_slow,
            HealthCheck.large_base_example,
        ),
    )
    strategies = given(st.randoms(use_true_random=False), st.integers(0, 2**64 - 1))
    seed(label)(configured(strategies(compare_one)))()
