"""What the system is doing, at one moment: what ``status`` shows and what a scrape of the metrics tells."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from config.celery import KEY_PREFIX, QUEUES
from config.health import problem
from config.settings import broker_of
from tasks.poison import PoisonBox
from worker.execution.fire import all_strategies
from worker.execution.notify import ends_s
from worker.execution.prepare import ENABLE_POLICY
from worker.intents.states import FINAL, State
from worker.ledger.connection import connect
from worker.strategies.schedule import next_slot

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.ledger.port import Budget

#: How many records that are not final are looked at for attention.
_MOST_OPEN = 10_000


def survey(services: Runtime) -> dict[str, Any]:
    """What ``status`` shows, as JSON has it; amounts are strings of base units.

    Raises:
        LedgerUnavailableError and what Redis's other users raise.
    """
    settings = services.settings
    client = connect(broker_of(settings), timeout_ms=settings.redis_timeout_ms)
    open_states = [state for state in State if state not in FINAL]
    waiting = services.ledger.list_intents(states=open_states, limit=_MOST_OPEN)
    dead = services.ledger.list_intents(states=[State.DEAD], limit=_MOST_OPEN)
    late = services.ledger.failed_late()
    attention = Counter(record.attention for record in (*waiting, *dead, *late) if record.attention)
    return {
        "at_ms": services.now_ms(),
        "chain_id": settings.chain_id,
        "workers": problem("worker", settings),
        "queues": {name: int(client.llen(f"{KEY_PREFIX}{name}")) for name in QUEUES},  # pyright: ignore[reportArgumentType] - the client is synchronous
        "poison": PoisonBox(client).waiting(),
        "poison_ever": PoisonBox(client).counts(),
        "intents": {str(state): number for state, number in services.ledger.counts().items() if number},
        "in_flight": sum(record.state in {State.SIGNED, State.SUBMITTED} for record in waiting),
        "attention": dict(sorted(attention.items())),
        "pauses": [f"{pause.switch}: {pause.why}" for pause in services.pauses.list()],
        "sessions": [
            {
                "session_id": session.session_id,
                "paused": session.paused,
                "ends_s": ends_s(session),
                "budgets": [budget_json(budget) for budget in limits(services, session.session_id)],
            }
            for session in services.sessions.list()
        ],
        "next_fires": _next_fires(services),
    }


def _next_fires(services: Runtime) -> list[dict[str, Any]]:
    fires = [
        (strategy.name, next_slot(strategy, services.now_s))
        for strategy in all_strategies(services)
        if strategy.enabled
    ]
    return [
        {"strategy": name, "at_s": at_s}
        for name, at_s in sorted(fires, key=lambda fire: (fire[1] or 0, fire[0]))
        if at_s is not None
    ]


def limits(services: Runtime, session_id: str) -> list[Budget]:
    """The limits that a person set; that an approval enables once is counted like one, and is none."""
    return [budget for budget in services.ledger.budgets(session_id) if budget.policy != ENABLE_POLICY]


def budget_json(budget: Budget) -> dict[str, str]:
    """A limit as JSON has it; base units as strings."""
    return {
        "policy": budget.policy,
        "token": budget.token,
        "limit": str(budget.limit),
        "spent": str(budget.spent),
        "reserved": str(budget.reserved),
    }
