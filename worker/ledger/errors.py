"""What the ledger raises.

InputError
├── IdempotencyConflictError   the idempotency key is taken by another payload
├── IntentNotFoundError        no record has this id
│   └── IntentArchivedError    it has ended and lies in the archive; ``tombstone`` says how and when
└── LedgerInputError           an argument cannot be stored
ServiceError
├── GuardrailsChangedError     an operator has changed the guardrails meanwhile; judge again
├── LedgerUnavailableError     Redis did not answer, or refused the command; ``maybe_done`` tells which
├── LedgerLostError            Redis has forgotten something that we know; nothing is signed until a person confirms
└── LedgerInconsistentError    what Redis holds contradicts itself; nothing was written
ExecutorError
├── FenceLostError             another attempt has the intent
│   └── StrategyGoneError      the strategy was removed meanwhile
└── IllegalTransitionError     the table of states does not allow the move
RefusedError
├── ForgedRecordError          a record was not written by this program, or is an old copy of one that was
├── LimitExceededError         a counter would pass its limit
└── GuardrailExceededError     a guardrail of our own that counts over time says no
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.errors import ExecutorError, InputError, RefusedError, ServiceError
from worker.ledger.tombstone import Tombstone
from worker.policies.base import CounterChange

if TYPE_CHECKING:
    from worker.ledger.port import Charge


class IdempotencyConflictError(InputError):
    """The key names another execution already; the record that is there is left as it is."""


class IntentNotFoundError(InputError):
    """No record has this id."""


class IntentArchivedError(IntentNotFoundError):
    """The intent has ended, and its record lies in the archive.

    Attributes:
        tombstone: how it ended, and when it was archived.
    """

    def __init__(self, intent_id: str, tombstone: Tombstone) -> None:
        super().__init__(
            f"{intent_id} has ended as {tombstone.state} and is archived",
            field="intent_id",
            fix=f"`session-executor intents show {intent_id}` reads it from the archive",
        )
        self.tombstone = tombstone


class LedgerInputError(InputError):
    """An id, name or value that the ledger does not take."""


class LedgerUnavailableError(ServiceError):
    """Redis did not answer in time, or refused the command.

    Attributes:
        maybe_done: True when a write was on its way, so it may have been carried out: ask before doing it again
            (``enqueue`` may always be repeated, its id makes it idempotent). False when it was certainly not.
    """

    def __init__(self, message: str, *, field: str = "", fix: str = "", maybe_done: bool = False) -> None:
        super().__init__(message, field=field, fix=fix)
        self.maybe_done = maybe_done


class LedgerInconsistentError(ServiceError):
    """Redis holds something that this program never writes. The script stopped before its first write."""


class LedgerLostError(ServiceError):
    """Redis has forgotten what it held (flushed, an old copy, an empty replica): its counters cannot be trusted."""


class FenceLostError(ExecutorError):
    """Another attempt (or a cancel) has taken the intent; stop working on it."""


class StrategyGoneError(FenceLostError):
    """The strategy was removed while it was being evaluated."""


class IllegalTransitionError(ExecutorError):
    """The record is not in the expected state, or the table of states does not allow the move."""


class ForgedRecordError(RefusedError):
    """A record was not written by this program, or is an old copy of one that was; it must not be worked on."""


class LimitExceededError(RefusedError):
    """``spent + reserved + amount > limit``; nothing of the batch was reserved.

    Attributes:
        counter: the counter's key, as in ``CounterChange``.
        policy: the policy's type.
        token: lower-case token address, or ``""``.
        call_index: index of the call that does not fit.
        limit, spent, amount: base units.
        reserved: base units, what earlier calls of the same batch asked for included.
        elsewhere: base units, what the chain has counted beyond the books.
    """

    def __init__(self, change: CounterChange, *, spent: int, reserved: int, elsewhere: int = 0) -> None:
        self.counter = change.counter
        self.policy = change.policy
        self.token = change.token
        self.call_index = change.call_index
        self.limit = change.limit
        self.spent = spent
        self.reserved = reserved
        self.elsewhere = elsewhere
        self.amount = change.amount
        of_token = f" of token {change.token}" if change.token else ""
        super().__init__(
            f"call {change.call_index} asks for {change.amount}{of_token}, but of the limit {change.limit} "
            f"{spent} is spent{f', {elsewhere} used elsewhere' if elsewhere else ''} and {reserved} reserved",
            field=change.policy,
            fix="wait for open intents to end, ask for less, or have the user approve a higher limit",
        )


class GuardrailExceededError(RefusedError):
    """A rolling cap, the cooldown or the number of trades in flight says no; nothing was reserved.

    Attributes:
        scope: ``session``, or ``strategy:<name>``.
        kind: ``hour``, ``day``, ``week``, ``cooldown`` or ``in-flight``.
        token: lower-case token address of a rolling cap, else ``""``.
        limit: base units, milliseconds, or trades.
        used: the same unit; of a cooldown what has passed of it.
        amount: what the trade takes of the token, base units.
        session: whose guardrails, 16 hex digits; ``""`` for the intent's own session.
    """

    def __init__(self, charge: Charge, kind: str, *, token: str, limit: int, used: int) -> None:
        self.scope = charge.scope
        self.session = charge.session
        self.kind = kind
        self.token = token
        self.limit = limit
        self.used = used
        self.amount = charge.amounts.get(token, 0)
        super().__init__(f"{limit} allowed, {used} used, this takes {self.amount}", field=kind)


class GuardrailsChangedError(ServiceError):
    """The guardrails by which a trade was judged are not those of now; nothing was reserved."""
