"""What the pipeline does about each error: one table for what happens before anything is signed, and the waits.

After signing there is no table: whether the bytes left us decides (``submit.py``, ``watch.py``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import tenacity

from worker.audit import AuditError
from worker.chain.errors import ChainError, WrongChainError
from worker.errors import InputError, RefusedError, ServiceError
from worker.execution.errors import ClockSkewError, EnablingError, StaleQuoteError
from worker.keys.errors import (
    KeyDeletedError,
    KeyStoreError,
    KeyStoreRateLimitedError,
    KeyStoreUnavailableError,
)
from worker.ledger.errors import GuardrailsChangedError, LedgerLostError
from worker.ledger.marks import StateDirError
from worker.ledger.redis_ledger import FORGED
from worker.orchestrator.errors import (
    AuthError,
    HeldBackError,
    MaybeSentError,
    NeverSentError,
    NoRouteError,
    OrchestratorError,
    RateLimitedError,
    RequestRefusedError,
    SimulationFailedError,
    UnavailableError,
)
from worker.sealing import ForgedError
from worker.sessions.errors import SessionCorruptError, SessionForgedError, SessionStoreUnavailableError

_T = TypeVar("_T")


class Move(StrEnum):
    """What becomes of an intent whose attempt ended in an error before anything was signed."""

    RETRY = "retry"
    REJECT = "reject"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Plan:
    """The move, and the attention code that a retry shows until it succeeds (``""``: none)."""

    move: Move
    attention: str = ""


LEDGER_LOST = "LEDGER_LOST"
"""Attention code of an intent that waits for a person to confirm the ledger."""

#: The first row whose class matches counts: special cases stand above their base classes.
PLANS: tuple[tuple[type[BaseException], Plan], ...] = (
    (EnablingError, Plan(Move.RETRY)),
    (GuardrailsChangedError, Plan(Move.RETRY)),
    (StaleQuoteError, Plan(Move.RETRY, "QUOTE")),
    (ClockSkewError, Plan(Move.RETRY, "CLOCK")),
    (WrongChainError, Plan(Move.RETRY, "WRONG_CHAIN")),
    (ChainError, Plan(Move.RETRY, "RPC")),
    (KeyDeletedError, Plan(Move.RETRY, "KEY_DELETED")),
    (KeyStoreError, Plan(Move.RETRY, "KEY_STORE")),
    (RateLimitedError, Plan(Move.RETRY)),
    (NoRouteError, Plan(Move.RETRY, "NO_ROUTE")),
    (AuthError, Plan(Move.RETRY, "ORCHESTRATOR_AUTH")),
    (RequestRefusedError, Plan(Move.FAIL)),
    (SimulationFailedError, Plan(Move.FAIL)),
    (OrchestratorError, Plan(Move.RETRY, "ORCHESTRATOR")),
    (SessionStoreUnavailableError, Plan(Move.RETRY, "REDIS")),
    (SessionForgedError, Plan(Move.RETRY, FORGED)),
    (ForgedError, Plan(Move.RETRY, FORGED)),
    (SessionCorruptError, Plan(Move.RETRY, "SESSION")),
    (LedgerLostError, Plan(Move.RETRY, LEDGER_LOST)),
    (StateDirError, Plan(Move.RETRY, "STATE_DIR")),
    (AuditError, Plan(Move.RETRY, "AUDIT")),
    (ServiceError, Plan(Move.RETRY, "SERVICE")),
    (RefusedError, Plan(Move.REJECT)),
    (InputError, Plan(Move.REJECT)),
)
UNEXPECTED = Plan(Move.RETRY, "BUG")


def plan_for(error: BaseException) -> Plan:
    """The table's row for an error that ended an attempt before anything was signed."""
    return next((plan for kind, plan in PLANS if isinstance(error, kind)), UNEXPECTED)


#: Failures of a read, or of a request that changes nothing: asking again at once often helps.
TRANSIENT = (ChainError, NeverSentError, MaybeSentError, UnavailableError, KeyStoreUnavailableError)

_BACKOFF = tenacity.wait_exponential_jitter(initial=1, max=30, jitter=1)


def read_again(read: Callable[[], _T]) -> _T:
    """Run a read (quotes included), again on a transient error: at most 3 times, within 6 s, jittered waits.

    Raises:
        The last error.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TRANSIENT),
        stop=tenacity.stop_after_attempt(3) | tenacity.stop_before_delay(6),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=2),
        reraise=True,
    )(read)


def send_again(send: Callable[[], _T]) -> _T:
    """Run a send, again only if it never left us: at most 3 times, within 4 s, jittered waits.

    Raises:
        The last error.
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(NeverSentError),
        stop=tenacity.stop_after_attempt(3) | tenacity.stop_before_delay(4),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=1),
        reraise=True,
    )(send)


#: A service may ask for a longer wait than our own longest: somebody should know that an intent stands still.
LONG_WAIT_MS = 35_000


def attention_of_wait(wait_ms: int) -> str:
    """The attention code of an intent that is left alone for so long, ``""`` if that is nothing unusual."""
    return "RATE_LIMITED" if wait_ms > LONG_WAIT_MS else ""


#: Those who waited for the same moment go on within this, not all at once.
SPREAD_MS = 2_000


def backoff_ms(attempt: int, error: BaseException | None = None) -> int:
    """How long to leave an intent alone after its attempt number ``attempt`` (from 1) failed.

    1 s doubling to 30 s with up to 1 s of jitter; a service's own ``Retry-After`` is never undercut. Who was only held back
    has not failed: it waits for the end of the wait, and a little, since all wait for the same moment.
    """
    if isinstance(error, HeldBackError):
        return int(error.retry_after_ms or 0) + random.randrange(SPREAD_MS)  # noqa: S311 - a spread, no secret
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = max(attempt, 1)
    wait_ms = int(_BACKOFF(state) * 1000)
    asked_ms: float | None = None
    if isinstance(error, RateLimitedError | UnavailableError):
        asked_ms = error.retry_after_ms
    elif isinstance(error, KeyStoreRateLimitedError) and error.retry_after_s is not None:
        asked_ms = error.retry_after_s * 1000
    return max(wait_ms, int(asked_ms or 0))
