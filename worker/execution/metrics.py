"""What the workers count and time, for Prometheus.

Set ``PROMETHEUS_MULTIPROC_DIR`` (prometheus-client's own variable) to one empty folder for all worker processes of a
machine; ``session-executor metrics`` serves what they wrote together with what the ledger knows. Without the variable
counting costs next to nothing and nobody sees it.

Labels are few and closed: no id, address or text from outside is ever one.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from prometheus_client import Counter, Histogram

from worker.intents.guardrails import NAMES
from worker.intents.model import IntentRecord
from worker.intents.states import FINAL, State

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
#: Policies and reasons a refusal may begin with; anything else is counted as ``other``.
_REASONS = frozenset(
    {
        *("spending-limits", "time-frame", "usage-limit", "value-limit", "universal-action", "arg-policy"),
        *("intent-execution", "permit2-claim", "sudo", "session", "quote", "orchestrator"),
        *(f"guardrail {name}" for name in NAMES),
    }
)

MOVES = Counter("sx_intent_moves", "Changes of state of intents.", ["from_state", "to_state"], registry=None)
ENDS = Counter(
    "sx_intents_ended_badly",
    "Intents REJECTED, FAILED, EXPIRED or DEAD, by what said so and the state they were in.",
    ["state", "from_state", "reason"],
    registry=None,
)
STAGE = Histogram(
    "sx_intent_stage_seconds",
    "Time an intent spent in a state before it left it.",
    ["state"],
    buckets=_SECONDS,
    registry=None,
)
LIFE = Histogram(
    "sx_intent_life_seconds", "From enqueued to final.", ["state"], buckets=_SECONDS, registry=None
)
PICKUP = Histogram(
    "sx_intent_pickup_seconds", "From enqueued to first claimed.", buckets=_SECONDS, registry=None
)
REQUESTS = Histogram(
    "sx_orchestrator_request_seconds",
    "Requests to the orchestrator by what was asked and how it answered.",
    ["request", "outcome"],
    buckets=_SECONDS,
    registry=None,
)
KEYS = Histogram(
    "sx_key_use_seconds",
    "Fetching the keys, signing and dropping them.",
    ["outcome"],
    buckets=_SECONDS,
    registry=None,
)
ALL = (MOVES, ENDS, STAGE, LIFE, PICKUP, REQUESTS, KEYS)


def moved(record: IntentRecord, to_state: State, why: str, *, now_ms: int) -> None:
    """Count one change of state.

    Args:
        record: as it was before.
        to_state: where it went.
        why: as in the history; only its first word before a colon is used, and only if it is a known one.
        now_ms: unix milliseconds.
    """
    MOVES.labels(str(record.state), str(to_state)).inc()
    entered_ms = int(record.fields.get("entered_ms") or record.created_ms)
    STAGE.labels(str(record.state)).observe(max(0, now_ms - entered_ms) / 1000)
    if to_state not in FINAL:
        return
    LIFE.labels(str(to_state)).observe(max(0, now_ms - record.created_ms) / 1000)
    if to_state not in {State.COMPLETED, State.CANCELED}:
        reason = why.partition(":")[0]
        ENDS.labels(str(to_state), str(record.state), reason if reason in _REASONS else "other").inc()


def ended_late(word: str) -> None:
    """Count an intent that the orchestrator reports as FAILED or EXPIRED after it was COMPLETED."""
    ENDS.labels(word, str(State.COMPLETED), "orchestrator").inc()


def claimed(record: IntentRecord, *, now_ms: int) -> None:
    """Time the first claim of an intent."""
    if record.state is State.QUEUED and record.attempts == 1:
        PICKUP.observe(max(0, now_ms - record.created_ms) / 1000)


@contextmanager
def timed(histogram: Histogram, *labels: str) -> Generator[None]:
    """Time a block; the last label is its outcome: ``ok``, or the class of the error."""
    start = time.perf_counter()
    outcome = "ok"
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        histogram.labels(*labels, outcome).observe(time.perf_counter() - start)
