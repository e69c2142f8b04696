"""What would become of calls: session, policies, quote and budgets, and then nothing. No key is taken, nothing stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.execution.guardrails import (
    Part,
    approval_needed,
    charges,
    quote_left_s,
    refund_caps,
    require_session_left,
    require_within,
)
from worker.execution.prepare import (
    judge,
    must_enable,
    part_of,
    read_chain,
    require_running,
    usable_session,
)
from worker.execution.retry import read_again
from worker.execution.route_request import pre_claim_calls
from worker.execution.runtime import Runtime
from worker.execution.strategy_guardrails import with_guardrails
from worker.execution.tokens import amount_format
from worker.execution.wire import explain, quote_request
from worker.intents.model import TradeIntent
from worker.ledger.port import Budget, Usage
from worker.policies.base import CounterChange
from worker.sessions.importing import RegisteredSession
from worker.strategies.model import ScheduledStrategy


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was found.

    Attributes:
        quote_id: of the quote that was asked for and fits what was asked.
        enable: whether the intent would carry the user's approval.
        budgets: one line for each counter that would grow.
        over: the lines of those that have no room left; the intent would be refused.
        approval: why an operator would have to confirm it first; ``""``: nobody has to.
    """

    quote_id: str
    enable: bool
    budgets: tuple[str, ...]
    over: tuple[str, ...]
    approval: str = ""


def dry_run(runtime: Runtime, intent: TradeIntent, *, strategy: ScheduledStrategy | None = None) -> DryRun:
    """Take an intent through everything that comes before the first write.

    Args:
        runtime: the services.
        intent: calls on one chain.
        strategy: whose intent it is: its guardrails may not be stored yet.

    Raises:
        ExecutorError: what the worker would refuse it for, or what it would have to wait for.
    """
    session = usable_session(runtime, intent.session_id)
    if strategy is not None:
        session = with_guardrails(session, strategy)
    require_running(runtime, intent, session)
    require_session_left(session, intent.source, now_s=runtime.now_s)
    part = part_of(session, intent)
    require_within(part, intent.swaps)
    state = read_chain(runtime, session)
    enable = must_enable(session, state)
    ours = pre_claim_calls(session, enable=enable)
    judge(runtime, session, state, (*ours, *intent.calls), latest_s=runtime.now_s, ahead=len(ours))
    request = quote_request(
        runtime.orchestrator.version, session, intent.calls, sponsored=intent.sponsored, enable=enable
    )
    quote = read_again(lambda: runtime.orchestrator.quote(request))
    explained = explain(
        quote,
        session=session,
        calls=intent.calls,
        enable=enable,
        now_s=runtime.now_s,
        min_left_s=quote_left_s(runtime.settings.min_quote_left_s, intent.source, session),
        refunds=refund_caps(part.rules),
    )
    changes = judge(
        runtime, session, state, explained.executions, latest_s=explained.latest_s, ahead=len(ours)
    )
    lines = _budget_lines(changes, runtime.ledger.budgets(session.session_id), session)
    lines += _cap_lines(part, runtime.ledger.usage(session.session_id, now_ms=runtime.now_ms()))
    return DryRun(
        quote.quote_id,
        enable,
        tuple(text for text, _ in lines),
        tuple(text for text, fits in lines if not fits),
        approval_needed(part),
    )


def _cap_lines(part: Part, usage: Sequence[Usage]) -> list[tuple[str, bool]]:
    """For each rolling cap: words, and whether it has room."""
    used = {(item.scope, item.token): item for item in usage}
    lines: list[tuple[str, bool]] = []
    for charge, rules in zip(charges((part,)), part.rules, strict=True):
        for cap in charge.caps:
            found, amount = used.get((charge.scope, cap.token)), charge.amounts[cap.token]
            now = found.held + getattr(found, cap.window) if found else 0
            words = (
                f"per_{cap.window} of {part.scope(rules)}: {part.write(cap.token, amount)} of "
                f"{part.write(cap.token, cap.limit)}, {part.write(cap.token, now)} used or in flight"
            )
            lines.append((words, now + amount <= cap.limit))
    return lines


def _budget_lines(
    changes: Sequence[CounterChange], budgets: Sequence[Budget], session: RegisteredSession
) -> list[tuple[str, bool]]:
    """For each counter: words, and whether what all changes ask of it fits together."""
    known = {budget.counter: budget for budget in budgets}
    asked: dict[str, int] = {}
    last: dict[str, CounterChange] = {}
    for change in changes:
        asked[change.counter] = asked.get(change.counter, 0) + change.amount
        last[change.counter] = change
    lines: list[tuple[str, bool]] = []
    for counter, amount in asked.items():
        change, budget = last[counter], known.get(counter)
        used = budget.used if budget else 0

        def write(value: int, token: str = change.token) -> str:
            return amount_format(session.chain_id)(token, value) if token else str(value)

        lines.append(
            (
                f"{change.policy}: {write(amount)} of {write(change.limit)}, {write(used)} used or reserved",
                used + amount <= change.limit,
            )
        )
    return lines
