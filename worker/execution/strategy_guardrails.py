"""A strategy's guardrails, from its table to where its intents are judged: the session's hash in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from worker.execution.runtime import Runtime
from worker.policies.guardrails import STRATEGY_SCOPE, ScopeRules
from worker.sessions.errors import SessionConflictError, SessionNotFoundError
from worker.sessions.importing import RegisteredSession
from worker.strategies.model import ScheduledStrategy


def store_guardrails(runtime: Runtime, strategy: ScheduledStrategy) -> None:
    """Make the strategy's guardrails those that its intents are judged by, whether or not they are queued already.

    Called before each intent is made, so that none can come before them.

    Raises:
        SessionConflictError: somebody keeps changing them at the same moment.
        SessionNotFoundError, SessionCorruptError, SessionStoreUnavailableError
    """
    scope = STRATEGY_SCOPE + strategy.name
    text = strategy.guardrails.text()
    for last in (False, True):
        stored = runtime.sessions.rules(strategy.session).get(scope, ScopeRules(scope))
        if stored.text == text:
            break
        try:
            runtime.sessions.set_guardrails(strategy.session, strategy.guardrails, replaces=stored)
            runtime.audit.tell(
                "change",
                who=runtime.who,
                what="guardrails changed",
                session_id=strategy.session,
                scope=scope,
                before=stored.text,
                after=text,
                outcome="done",
            )
            break
        except SessionConflictError:  # another worker has read the same file
            if last:
                raise
    runtime.stored_guardrails[strategy.name] = (strategy.session, text)


def store_changed(runtime: Runtime, strategies: Sequence[ScheduledStrategy]) -> None:
    """``store_guardrails`` for those that this process has not stored as they are now.

    Raises:
        SessionConflictError, SessionCorruptError, SessionStoreUnavailableError
    """
    for strategy in strategies:
        now = (strategy.session, strategy.guardrails.text())
        if runtime.stored_guardrails.get(strategy.name) != now:
            with suppress(SessionNotFoundError):  # nothing can be made with it either
                store_guardrails(runtime, strategy)


def with_guardrails(session: RegisteredSession, strategy: ScheduledStrategy) -> RegisteredSession:
    """The session as it will be once the strategy's guardrails are stored."""
    scope = STRATEGY_SCOPE + strategy.name
    rules = ScopeRules(scope, strategy.guardrails.text(), strategy.guardrails)
    return replace(session, rules={**session.rules, scope: rules})
