"""What would become of calls: session, policies, quote and budgets, and then nothing. No key is taken, nothing stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.execution.prepare import judge, must_enable, read_chain, require_running, usable_session
from worker.execution.retry import read_again
from worker.execution.route_request import pre_claim_calls
from worker.execution.runtime import Runtime
from worker.execution.tokens import amount_format
from worker.execution.wire import explain, quote_request
from worker.intents.model import TradeIntent
from worker.ledger.port import Budget
from worker.policies.base import CounterChange
from worker.sessions.importing import RegisteredSession


@dataclass(frozen=True, slots=True)
class DryRun:
    """What was found.

    Attributes:
        quote_id: of the quote that was asked for and fits what was asked.
        enable: whether the intent would carry the user's approval.
        budgets: one line for each counter that would grow.
        over: the lines of those that have no room left; the intent would be refused.
    """

    quote_id: str
    enable: bool
    budgets: tuple[str, ...]
    over: tuple[str, ...]


def dry_run(runtime: Runtime, intent: TradeIntent) -> DryRun:
    """Take an intent through everything that comes before the first write.

    Raises:
        ExecutorError: what the worker would refuse it for, or what it would have to wait for.
    """
    session = usable_session(runtime, intent.session_id)
    require_running(runtime, intent, session)
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
        min_left_s=runtime.settings.min_quote_left_s,
    )
    changes = judge(
        runtime, session, state, explained.executions, latest_s=explained.latest_s, ahead=len(ours)
    )
    lines = _budget_lines(changes, runtime.ledger.budgets(session.session_id), session)
    return DryRun(
        quote.quote_id,
        enable,
        tuple(text for text, _ in lines),
        tuple(text for text, fits in lines if not fits),
    )


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
        used = budget.spent + budget.reserved if budget else 0

        def write(value: int, token: str = change.token) -> str:
            return amount_format(session.chain_id)(token, value) if token else str(value)

        lines.append(
            (
                f"{change.policy}: {write(amount)} of {write(change.limit)}, {write(used)} used or reserved",
                used + amount <= change.limit,
            )
        )
    return lines
