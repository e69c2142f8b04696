"""What a decision becomes: a trade intent that is the same however often it is built."""

from __future__ import annotations

from dataclasses import replace

from worker.intents.model import TradeIntent
from worker.strategies.model import ScheduledStrategy
from worker.strategies.port import Act, Decision, Moment, Wait


def key_of(strategy: ScheduledStrategy, slot: str, *, retry: int = 0) -> str:
    """The idempotency key of a slot (unix seconds, or ``log:…``): two schedulers and an operator make one execution."""
    return f"strategy:{strategy.name}:{slot}" + (f":retry{retry}" if retry else "")


def intent_of(
    strategy: ScheduledStrategy, slot: str, act: Act, *, until_s: int, retry: int = 0
) -> TradeIntent:
    """The intent of one slot.

    Args:
        strategy: whose slot it is.
        slot: unix seconds as text, or ``log:…``.
        act: what was decided.
        until_s: unix seconds up to which it may be signed.
        retry: number of the retry, 0 for the first try.
    """
    return TradeIntent(
        session_id=strategy.session,
        idempotency_key=key_of(strategy, slot, retry=retry),
        calls=act.calls,
        sponsored=strategy.sponsored,
        not_after=until_s,
        source=f"strategy:{strategy.name}",
        note=act.note,
        swaps=act.swaps,
    )


def decide(strategy: ScheduledStrategy, moment: Moment) -> Decision:
    """The strategy's decision under its condition.

    Raises:
        ExecutorError: it cannot be said now.
    """
    if strategy.only_if is None:
        return strategy.strategy.decide(moment)
    why, memory = strategy.only_if.why_not(moment)
    if why:
        return Wait(why, {**moment.memory, **memory})
    decision = strategy.strategy.decide(moment)
    if isinstance(decision, Wait):
        return decision
    return replace(decision, memory={**decision.memory, **memory})
