"""The ``Ledger`` port: the durable truth about intents and budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import State
from worker.policies.base import CounterChange


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The record, and whether this call created it (False: the same key and payload were there already)."""

    record: IntentRecord
    created: bool


@dataclass(frozen=True, slots=True)
class Budget:
    """One counter of a session. Base units; ``limit`` is the largest limit last seen for it.

    ``elsewhere`` is what the chain has counted beyond the books: others use the same key. It leaves as much less.
    """

    counter: str
    token: str
    policy: str
    limit: int
    spent: int
    reserved: int
    elsewhere: int = 0

    @property
    def used(self) -> int:
        """All that is not left."""
        return self.spent + self.elsewhere + self.reserved


@dataclass(frozen=True, slots=True)
class Resolution:
    """A difference between chain and books that an operator has decided: the chain's word became what is spent."""

    at_ms: int
    who: str
    why: str
    counter: str
    spent_before: int
    spent_after: int


@dataclass(frozen=True, slots=True)
class WindowCap:
    """A rolling cap: at most ``limit`` base units of ``token`` within any ``window`` (hour, day or week)."""

    window: str
    token: str
    limit: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What one trade takes in one scope of guardrails, and what the scope allows over time.

    Attributes:
        scope: ``session``, or ``strategy:<name>``.
        rules_field: the field of the session's hash that holds the scope's guardrails.
        rules_sha: SHA-1 (hex) of the text in it by which the trade was judged; another text by now is another judgement.
        amounts: token -> base units.
        caps: of the tokens in ``amounts``.
        cooldown_ms: between the starts of two trades; 0: none.
        max_in_flight: 0: any number.
        session: whose guardrails they are, 16 hex digits; ``""`` for the intent's own session.
    """

    scope: str
    rules_field: str
    rules_sha: str
    amounts: Mapping[str, int]
    caps: tuple[WindowCap, ...] = ()
    cooldown_ms: int = 0
    max_in_flight: int = 0
    session: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a scope's trades take of a token, base units.

    Attributes:
        scope: ``session``, or ``strategy:<name>``.
        token: lower-case address, zero for the chain's own currency.
        held: by trades that are in flight; counts in every window.
        hour, day, week: by trades that were settled within the window.
    """

    scope: str
    token: str
    held: int
    hour: int
    day: int
    week: int


class Ledger(Protocol):
    """Every method is one atomic step (one Lua script) and raises ``worker/ledger/errors.py`` classes.

    Every record that is not final has a *due* time (unix ms) in its session's open index: the moment at which
    somebody must look at it again. ``take_due`` is how pollers and the sweep find work, so nothing can be
    forgotten by the death of whoever was working on it.
    """

    def enqueue(self, intent: TradeIntent, *, now_ms: int, due_ms: int) -> Enqueued:
        """Create the record in QUEUED, or return the one that is there.

        Raises:
            IdempotencyConflictError: the key is taken by another payload.
            ForgedRecordError: the record that is there is not ours.
            LedgerUnavailableError: Redis did not answer in time; nothing is known to be stored.
        """
        ...

    def refuse(self, intent_id: str, *, who: str, why: str, now_ms: int) -> bool:
        """Take a record that is not ours out of the work: REJECTED, its budgets untouched; what may be out is marked.

        Returns whether it was taken out.
        """
        ...

    def reseal(self, record: IntentRecord) -> bool:
        """Seal a record as it was read; whether it was still so. For a person who has looked at it."""
        ...

    def get(self, intent_id: str) -> IntentRecord:
        """The record with its history. Raises IntentNotFoundError."""
        ...

    def list_intents(
        self, *, session_id: str = "", states: Iterable[State] = (), limit: int = 50, offset: int = 0
    ) -> Sequence[IntentRecord]:
        """Newest first, without history."""
        ...

    def claim(
        self,
        intent_id: str,
        *,
        states: Iterable[State],
        lease_ms: int,
        now_ms: int,
        who: str,
        if_suspect: Callable[[], bool] = lambda: True,
    ) -> IntentRecord | None:
        """Take the intent for one attempt: bumps ``fence`` and ``attempts`` and sets the lease.

        Returns None when it is in another state or another attempt's lease has not run out. The due time becomes
        the end of the lease, so a dead attempt is found again. Claiming for polling does not count as an attempt
        of the work (use ``take_due`` for that). One of which an attempt has died since its last change of state is
        taken only if ``if_suspect``, asked then, says so.
        """
        ...

    def release_claim(
        self, intent_id: str, *, fence: int, due_ms: int, now_ms: int, counts: bool = True, **fields: str
    ) -> None:
        """Give up the lease without a change of state; look again at ``due_ms``. Raises FenceLostError.

        ``counts`` False takes the claim out of ``attempts``: nothing was tried.
        """
        ...

    def transition(
        self,
        intent_id: str,
        *,
        fence: int,
        from_state: State,
        to_state: State,
        who: str,
        why: str,
        now_ms: int,
        due_ms: int = 0,
        reserve: Sequence[CounterChange] = (),
        charges: Sequence[Charge] = (),
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Compare-and-set of the state, with its history line, in one step with the budgets.

        - ``reserve``: every change must fit ``spent + reserved + amount <= limit`` or nothing at all happens.
        - ``charges``: together with it, and likewise: what the guardrails count, one for each scope.
        - to COMPLETED the record's reservation becomes spend; to any other final state, and back to QUEUED, it is
          released.
        - ``due_ms``: when to look again (ignored for final states, which leave the open index). The lease ends.
        - ``fields``: named IntentRecord attributes (quote, body, …) or free bookkeeping fields to store.

        Raises:
            FenceLostError: another attempt has the intent.
            IllegalTransitionError: not in ``from_state``, or the table does not allow it.
            LimitExceededError: names the counter, limit, spent, reserved and asked amount.
            GuardrailExceededError: names the scope, the guardrail, and its numbers.
            GuardrailsChangedError: the scope's guardrails are not those of the charge any more.
        """
        ...

    def annotate(self, intent_id: str, *, now_ms: int, fence: int, due_ms: int = 0, **fields: str) -> None:
        """Store fields (orchestrator_status, attention, …) without a change of state. Raises FenceLostError."""
        ...

    def cancel(self, intent_id: str, *, who: str, why: str, now_ms: int) -> IntentRecord:
        """CANCELED from QUEUED or AUTHORIZED, whoever holds the claim (the fence is bumped).

        Raises:
            IllegalTransitionError: it is signed already, or final.
        """
        ...

    def approve(self, intent_id: str, *, who: str, why: str, now_ms: int) -> IntentRecord:
        """Confirm an intent that waits for it (QUEUED with attention AWAITING_APPROVAL); it is due at once.

        Raises:
            IllegalTransitionError: it does not wait for an approval.
        """
        ...

    def count_due(self, *, now_ms: int) -> int:
        """How many open records' due time has passed. Raises LedgerUnavailableError."""
        ...

    def take_due(
        self,
        *,
        now_ms: int,
        push_back_ms: int,
        limit: int,
        on_broken: Callable[[str, str], None] | None = None,
    ) -> Sequence[IntentRecord]:
        """Open records whose due time has passed; ``on_broken`` gets id and reason of each that does not parse.

        Each one's due time is moved ``push_back_ms`` ahead in the same step, so that two pollers never get the
        same record.
        """
        ...

    def watch_late(self, intent_id: str, *, due_ms: int) -> None:
        """Look at an intent again at ``due_ms`` although it is COMPLETED: the orchestrator has not said its last word."""
        ...

    def take_late(self, *, now_ms: int, push_back_ms: int, limit: int) -> Sequence[IntentRecord]:
        """As ``take_due``, of what ``watch_late`` was told."""
        ...

    def end_late(self, intent_id: str, *, failed_ms: int = 0) -> None:
        """Look at it no more; with ``failed_ms`` (unix ms) it is among ``failed_late`` for a week."""
        ...

    def failed_late(self) -> Sequence[IntentRecord]:
        """What failed after it was COMPLETED, oldest first."""
        ...

    def budgets(self, session_id: str) -> Sequence[Budget]:
        """The session's counters."""
        ...

    def book(
        self,
        session_id: str,
        budget: Budget,
        *,
        counted: int,
        resolve: Resolution | None = None,
    ) -> int | None:
        """Hold what the chain has counted against a counter's books, see ``Budget.elsewhere``.

        Args:
            session_id: the session.
            budget: the counter as it was read before the chain was asked.
            counted: what the chain has counted.
            resolve: make it what is spent, and keep this line.

        Returns:
            What is held as used elsewhere now; None when the books have moved on since they were read.

        Raises:
            LedgerInputError: resolve, and trades of the counter are in flight.
        """
        ...

    def resolutions(self, session_id: str) -> Sequence[Resolution]:
        """What operators have resolved, oldest first."""
        ...

    def usage(self, session_id: str, *, now_ms: int) -> Sequence[Usage]:
        """What the guardrails have counted, per scope and token; they outlive any re-import of the session."""
        ...

    def claim_slot(self, strategy: str, fire_s: int, *, intent_id: str = "") -> bool:
        """True for the first caller of this (strategy, UTC fire time, unix seconds); False ever after."""
        ...

    def counts(self) -> Mapping[State, int]:
        """How many records are in each state."""
        ...
