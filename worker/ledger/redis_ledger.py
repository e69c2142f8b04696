"""The ``Ledger`` port on Redis: every state change is one Lua script in ``lua/``."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import structlog

from worker.audit import AuditTrail
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL, State
from worker.ledger import codec, connection, keys, scripts, seals
from worker.ledger.epoch import lost
from worker.ledger.errors import (
    FenceLostError,
    ForgedRecordError,
    GuardrailExceededError,
    GuardrailsChangedError,
    IdempotencyConflictError,
    IllegalTransitionError,
    IntentArchivedError,
    IntentNotFoundError,
    LedgerInconsistentError,
    LedgerInputError,
    LimitExceededError,
)
from worker.ledger.marks import Marks
from worker.ledger.port import Budget, Charge, Enqueued, Resolution, Usage
from worker.ledger.tombstone import Tombstone, field_of
from worker.policies.base import CounterChange
from worker.sealing import SEAL_FIX, Sealer

log = structlog.get_logger(__name__)

#: Records read in one round trip when listing: a record with its quote is some 20 kB.
_PAGE = 100
#: Fire times remembered one by one per strategy; a week of one-minute slots.
_SLOTS_KEPT = 10_080
#: What an operator needs to see is never longer than this, and an orchestrator's error page may be.
_MAX_WHY = 2_000
#: Fields of a step that its line in the audit trail repeats.
_AUDITED = (
    *("digests", "quote_expires_s", "orchestrator_id", "orchestrator_status"),
    *("tx_hash", "api_version", "enable", "enable_chains"),
)
#: An intent that has been here once is not worked on from the beginning again, but for the one way back that is legal.
#: A week: what a person has not looked at by then is in the history all the same.
_FAILED_LATE_KEPT_MS = 7 * 86_400_000
_CLOSED = (FINAL | {State.SIGNED}) - {State.DEAD}

FORGED = "FORGED"
"""Attention code of a record that this program did not write."""
AWAITING_APPROVAL = "AWAITING_APPROVAL"
"""Attention code of an intent that is above a guardrail's threshold and waits for an operator."""


class RedisLedger:
    """The ledger in one Redis (or Valkey) database.

    May be used by several threads and across a fork. Nothing is sent before the first call.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout_ms: bound on one Redis command; every method answers or raises within about 1 s more.
        marks: this machine's memory of the ledger: a change of state is refused by a Redis that knows less.
        sealer: seals what is asked for; None: nothing is sealed or checked.
        audit: is told of every change, and of a signature before it is stored; None: nobody is.

    Raises:
        LedgerInputError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_ms: int = 2_000,
        marks: Marks | None = None,
        sealer: Sealer | None = None,
        audit: AuditTrail | None = None,
    ) -> None:
        self.where = connection.safe_url(url)
        self._redis = connection.connect(url, timeout_ms=timeout_ms)
        self._marks = marks
        self._sealer = sealer
        self._audit = audit

    def __repr__(self) -> str:
        return f"<RedisLedger at {self.where}>"

    def close(self) -> None:
        """Close the pooled connections."""
        self._redis.close()

    # --- records

    def enqueue(self, intent: TradeIntent, *, now_ms: int, due_ms: int) -> Enqueued:
        """Create the record in QUEUED, or return the one that is there. See ``Ledger.enqueue``.

        Repeating it after LedgerUnavailableError is always safe.

        Raises:
            LedgerInputError: the session id or the idempotency key is malformed.
            IdempotencyConflictError: the key is taken by another payload.
            ForgedRecordError: the record that is there is not ours.
            KeyStoreError: the keys of the seals cannot be had; nothing is stored.
            LedgerUnavailableError: Redis did not answer in time.
        """
        digits = keys.digits_of_session(intent.session_id)
        key = intent.idempotency_key
        keys.require_idempotency_key(key)
        intent_id = intent.intent_id
        source, note = codec.storable(intent.source), codec.storable(intent.note)[:_MAX_WHY]
        seal = ""
        if self._sealer is not None:
            seal = seals.of_intent(self._sealer, intent, source=source, note=note, created_ms=now_ms)
        # The set of sessions lies in another slot, so it cannot be in the script. It goes first: a session without
        # records is harmless, a record in a session that nobody looks at is not.
        connection.reach(self._redis, self.where)
        with connection.named_errors(self.where, writes=False):
            self._redis.sadd(keys.SESSIONS, digits)
        reply = self._run(
            "enqueue",
            (
                keys.intent(intent_id),
                keys.history(intent_id),
                keys.of_session(digits, "open"),
                keys.of_session(digits, "all"),
                keys.of_session(digits, "counts"),
                keys.of_session(digits, "archived"),
            ),
            (
                intent_id,
                intent.payload(),
                intent.payload_hash(),
                key,
                intent.session_id,
                source,
                note,
                now_ms,
                due_ms,
                seal,
                field_of(intent_id),
            ),
        )
        if reply[0] == "archived":
            return Enqueued(_ended(intent, Tombstone.parse(reply[1])), created=False)
        if reply[0] == "conflict":
            raise IdempotencyConflictError(
                f"{key!r} is the key of {intent_id}, which asks for something else",
                field="idempotency_key",
                fix=f"use another key, or see `session-executor intents show {intent_id}`",
            )
        record = codec.parse_record(intent_id, _pairs(reply[1]))
        if reply[0] != "created" and self._sealer is not None:
            problem = seals.problem_of(self._sealer, record)
            if problem:
                raise ForgedRecordError(f"is not ours: {problem}", field=intent_id, fix=SEAL_FIX)
        if reply[0] == "created":
            self._tell(
                "enqueued",
                intent_id,
                who=source,
                key=key,
                payload_sha256=intent.payload_hash(),
                note=note,
            )
        return Enqueued(record, created=reply[0] == "created")

    def refuse(self, intent_id: str, *, who: str, why: str, now_ms: int) -> bool:
        """Take a record that is not ours out of the work. See ``Ledger.refuse``.

        Raises:
            IntentNotFoundError: the id is none.
            LedgerUnavailableError
        """
        digits = keys.digits_of_intent(intent_id)
        reply = self._run(
            "refuse",
            (
                keys.intent(intent_id),
                keys.history(intent_id),
                keys.of_session(digits, "open"),
                keys.of_session(digits, "counts"),
            ),
            (intent_id, codec.storable(who), codec.storable(why)[:_MAX_WHY], now_ms, FORGED),
        )
        if reply[0] != "missing":
            self._tell("forged", intent_id, who=who, why=why, state=reply[1], refused=reply[0] == "refused")
        return bool(reply[0] == "refused")

    def reseal(self, record: IntentRecord) -> bool:
        """Seal a record as it was read. See ``Ledger.reseal``. Raises LedgerUnavailableError, KeyStoreError."""
        if self._sealer is None:
            return False
        pairs = codec.field_pairs(seals.reseal(self._sealer, record))
        key = keys.intent(record.intent_id)
        done = bool(self._run("reseal", (key,), (record.state, record.fence, *pairs)))
        if done:
            self._tell("sealed by hand", record.intent_id, state=record.state)
        return done

    def get(self, intent_id: str) -> IntentRecord:
        """The record with its history.

        Raises:
            IntentArchivedError: it has ended, and is in Redis no more.
            IntentNotFoundError, LedgerUnavailableError, LedgerInconsistentError
        """
        with connection.named_errors(self.where, writes=False):
            pipe = self._redis.pipeline(transaction=True)
            pipe.hgetall(keys.intent(intent_id))
            pipe.lrange(keys.history(intent_id), 0, -1)
            archived = keys.of_session(keys.digits_of_intent(intent_id), "archived")
            pipe.hget(archived, field_of(intent_id))
            values, history, tombstone = pipe.execute()
        if isinstance(values, list):  # so it comes out of a cluster's transaction
            values = _pairs(cast("list[str]", values))
        if not values and tombstone:
            raise IntentArchivedError(intent_id, Tombstone.parse(tombstone))
        if not values:
            raise _not_found(intent_id)
        return codec.parse_record(intent_id, values, history)

    def list_intents(
        self, *, session_id: str = "", states: Iterable[State] = (), limit: int = 50, offset: int = 0
    ) -> Sequence[IntentRecord]:
        """Newest first, without history; one that does not parse is left out and logged.

        Args:
            session_id: only this session's.
            states: only these states; empty means all.
            limit: how many at most.
            offset: how many to leave out before.

        Raises:
            LedgerInputError, LedgerUnavailableError
        """
        wanted = frozenset(states)
        sessions = [keys.digits_of_session(session_id)] if session_id else self._sessions()
        ids = heapq.merge(*(self._newest(digits) for digits in sessions), reverse=True)
        found = (
            record
            for page in _pages((intent_id for _, intent_id in ids), min(_PAGE, limit + offset))
            for record in self._read(page)
            if not wanted or record.state in wanted
        )
        return list(islice(found, offset, offset + limit))

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
        """Take the intent for one attempt, or None. See ``Ledger.claim``.

        Raises:
            IntentNotFoundError, LedgerUnavailableError
        """
        digits = keys.digits_of_intent(intent_id)

        def claim(even_suspects: str) -> Any:
            return self._run(
                "claim",
                (keys.intent(intent_id), keys.of_session(digits, "open")),
                (intent_id, now_ms, now_ms + lease_ms, codec.storable(who), even_suspects, *sorted(states)),
            )

        reply = claim("0")
        if reply[0] == "suspect" and if_suspect():
            reply = claim("1")
        if reply[0] == "missing":
            raise _not_found(intent_id)
        return codec.parse_record(intent_id, _pairs(reply[1])) if reply[0] == "claimed" else None

    def release_claim(
        self, intent_id: str, *, fence: int, due_ms: int, now_ms: int, counts: bool = True, **fields: str
    ) -> None:
        """Give up the lease without a change of state; look again at ``due_ms``. See ``Ledger.release_claim``.

        Raises:
            FenceLostError, IntentNotFoundError, LedgerInputError, LedgerUnavailableError
        """
        lease = "1" if counts else "2"
        self._store(intent_id, fence=fence, now_ms=now_ms, due=str(due_ms), lease=lease, fields=fields)

    def annotate(self, intent_id: str, *, now_ms: int, fence: int, due_ms: int = 0, **fields: str) -> None:
        """Store fields without a change of state. ``due_ms`` 0 leaves the due time; the lease goes on.

        Raises:
            FenceLostError, IntentNotFoundError, LedgerInputError, LedgerUnavailableError
        """
        due = str(due_ms) if due_ms else ""
        self._store(intent_id, fence=fence, now_ms=now_ms, due=due, lease="0", fields=fields)

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
        """Compare-and-set of the state in one step with budgets, due time and history. See ``Ledger.transition``.

        Besides what the port says: ``due_ms`` 0 means *at once*. A final state takes ``why`` as its ``reason`` (but for
        COMPLETED) and clears ``attention``, unless ``fields`` says otherwise. Back in QUEUED the dropped quote's fields
        are cleared. DEAD → QUEUED sets ``attempts`` to 0.

        Raises:
            FenceLostError, IllegalTransitionError, LimitExceededError, IntentNotFoundError, LedgerInputError
            GuardrailExceededError, GuardrailsChangedError
            LedgerUnavailableError: ``maybe_done`` tells whether it may have happened.
            LedgerLostError: Redis knows less of the session than this machine; nothing happened.
            AuditError: a signature has no line in the audit trail, so it is not stored.
            StateDirError: it happened, and this machine cannot remember it.
        """
        digits = keys.digits_of_intent(intent_id)
        why = codec.storable(why)[:_MAX_WHY]
        stored = _implied_fields(to_state, why) | dict(fields or {})
        if self._sealer is not None and fields is not None:
            # the text that is stored is what is sealed
            kept = {name: codec.storable(value) for name, value in fields.items()}
            stored |= seals.of_stage(self._sealer, intent_id, to_state, kept, reserve)
        if self._marks and from_state is State.SIGNED and to_state is State.QUEUED:
            self._marks.reopen(intent_id)
        if to_state is State.SIGNED:
            self._tell_signing(intent_id, who, stored)
        reply = self._run(
            "transition",
            (
                keys.intent(intent_id),
                keys.history(intent_id),
                keys.of_session(digits, "open"),
                keys.of_session(digits, "counts"),
                keys.of_session(digits, "budget"),
                *_guard_keys(digits),
                keys.of_session(digits, "session"),
            ),
            (
                intent_id,
                fence,
                from_state,
                to_state,
                codec.storable(who),
                why,
                now_ms,
                due_ms or now_ms,
                codec.changes_json(reserve),
                codec.charges_json(charges),
                self._marks.seq(digits) if self._marks else 0,
                *codec.field_pairs(stored),
            ),
        )
        if to_state is State.SIGNED and reply[0] != "ok":
            self._tell("signature dropped", intent_id, who=who, why=reply[0])
        match reply[0]:
            case "ok":
                if self._marks:
                    self._marks.learn(digits, int(reply[1]))
                    if to_state in _CLOSED:
                        self._marks.close(intent_id)
                self._tell(
                    "moved",
                    intent_id,
                    who=who,
                    from_state=from_state,
                    to_state=to_state,
                    why=why,
                    **{name: stored[name] for name in _AUDITED if stored.get(name)},
                    **({"reserved": json.loads(codec.changes_json(reserve))} if reserve else {}),
                )
            case "lost":
                raise lost(f"it is at change {reply[1]} of session ses_{digits}", self.where)
            case "limit":
                change = reserve[int(reply[1]) - 1]
                raise LimitExceededError(
                    change, spent=int(reply[2]), reserved=int(reply[3]), elsewhere=int(reply[4])
                )
            case "guard" if reply[2] == "changed":
                raise GuardrailsChangedError(
                    "have changed since it was judged",
                    field=f"guardrails of {charges[int(reply[1]) - 1].scope}",
                    fix="it is judged again",
                )
            case "guard":
                charge = charges[int(reply[1]) - 1]
                raise GuardrailExceededError(
                    charge, reply[2], token=reply[3], limit=int(reply[4]), used=int(reply[5])
                )
            case "illegal":
                raise IllegalTransitionError(
                    f"cannot go from {from_state} to {to_state}{' with a reservation' if reserve else ''}: "
                    f"it is {reply[1]}",
                    field=intent_id,
                    fix="read the record again",
                )
            case "held":
                raise IllegalTransitionError(
                    "has a reservation already",
                    field=intent_id,
                    fix="reserve once, or go back to QUEUED first",
                )
            case _:
                raise _lost(intent_id, fence, reply)

    def cancel(self, intent_id: str, *, who: str, why: str, now_ms: int) -> IntentRecord:
        """CANCELED from QUEUED, AUTHORIZED or DEAD, whoever holds the claim.

        Raises:
            IllegalTransitionError: it is signed already, or final.
            IntentNotFoundError, LedgerUnavailableError
        """
        digits = keys.digits_of_intent(intent_id)
        reply = self._run(
            "cancel",
            (
                keys.intent(intent_id),
                keys.history(intent_id),
                keys.of_session(digits, "open"),
                keys.of_session(digits, "counts"),
                keys.of_session(digits, "budget"),
                *_guard_keys(digits),
            ),
            (intent_id, codec.storable(who), codec.storable(why)[:_MAX_WHY], now_ms),
        )
        if reply[0] == "missing":
            raise _not_found(intent_id)
        if reply[0] == "illegal":
            state = State(reply[1])
            raise IllegalTransitionError(
                f"is {state} and cannot be canceled any more",
                field=intent_id,
                fix="nothing to do" if state in FINAL else "what is signed may execute: wait for its end",
            )
        if self._marks:
            self._marks.close(intent_id)
        self._tell("canceled", intent_id, who=who, why=why)
        return codec.parse_record(intent_id, _pairs(reply[1]))

    def approve(self, intent_id: str, *, who: str, why: str, now_ms: int) -> IntentRecord:
        """Confirm an intent that waits for an operator. See ``Ledger.approve``.

        Raises:
            IllegalTransitionError: it does not wait for an approval.
            IntentNotFoundError, LedgerUnavailableError
        """
        digits = keys.digits_of_intent(intent_id)
        reply = self._run(
            "approve",
            (keys.intent(intent_id), keys.history(intent_id), keys.of_session(digits, "open")),
            (
                intent_id,
                codec.storable(who),
                codec.storable(why)[:_MAX_WHY],
                now_ms,
                AWAITING_APPROVAL,
                seals.of_approval(self._sealer, intent_id, who=codec.storable(who), at_ms=now_ms)
                if self._sealer
                else "",
            ),
        )
        if reply[0] == "missing":
            raise _not_found(intent_id)
        if reply[0] == "illegal":
            raise IllegalTransitionError(
                f"is {reply[1]}{f' ({reply[2]})' if reply[2] else ''} and waits for no approval",
                field=intent_id,
                fix="see `session-executor intents list --awaiting`",
            )
        self._tell("approved", intent_id, who=who, why=why)
        return codec.parse_record(intent_id, _pairs(reply[1]))

    # --- work that is due

    def take_due(
        self,
        *,
        now_ms: int,
        push_back_ms: int,
        limit: int,
        on_broken: Callable[[str, str], None] | None = None,
    ) -> Sequence[IntentRecord]:
        """Open records whose due time has passed, pushed back at once. See ``Ledger.take_due``.

        Sessions share ``limit`` evenly, in random order, so that a busy one cannot starve the others. Without history.

        Raises:
            LedgerUnavailableError: some due times may have been pushed back; they come up again after it.
        """
        ids = self._take("open", now_ms=now_ms, push_back_ms=push_back_ms, limit=limit)
        return [record for page in _pages(ids, _PAGE) for record in self._read(page, on_broken)]

    def _take(self, index: str, *, now_ms: int, push_back_ms: int, limit: int) -> list[str]:
        ids: list[str] = []
        for digits, share in _shares(self._waiting(index, now_ms), limit).items():
            key = keys.of_session(digits, index)
            taken: list[str] = self._run("take_due", (key,), (now_ms, now_ms + push_back_ms, share))
            ids += taken
        return ids

    def count_due(self, *, now_ms: int) -> int:
        """How many open records' due time has passed. Raises LedgerUnavailableError."""
        return sum(self._waiting("open", now_ms).values())

    def _waiting(self, index: str, now_ms: int) -> dict[str, int]:
        """How many are due by session, in random order."""
        sessions = self._sessions()
        random.shuffle(sessions)
        with connection.named_errors(self.where, writes=False):
            pipe = self._redis.pipeline(transaction=False)
            for digits in sessions:
                pipe.zcount(keys.of_session(digits, index), "-inf", now_ms)
            return dict(zip(sessions, cast("list[int]", pipe.execute()), strict=True))

    # --- what was completed before the orchestrator's last word

    def watch_late(self, intent_id: str, *, due_ms: int) -> None:
        """Look at it again at ``due_ms`` although it is COMPLETED. See ``Ledger.watch_late``.

        Raises:
            IntentNotFoundError: the id is malformed.
            LedgerUnavailableError
        """
        key = keys.of_session(keys.digits_of_intent(intent_id), "late")
        with connection.named_errors(self.where, writes=True):
            self._redis.zadd(key, {intent_id: due_ms})

    def take_late(self, *, now_ms: int, push_back_ms: int, limit: int) -> Sequence[IntentRecord]:
        """As ``take_due``, of what ``watch_late`` was told. Raises LedgerUnavailableError."""
        ids = self._take("late", now_ms=now_ms, push_back_ms=push_back_ms, limit=limit)
        return [record for page in _pages(ids, _PAGE) for record in self._read(page)]

    def end_late(self, intent_id: str, *, failed_ms: int = 0) -> None:
        """Look at it no more. See ``Ledger.end_late``.

        Raises:
            IntentNotFoundError: the id is malformed.
            LedgerUnavailableError
        """
        digits = keys.digits_of_intent(intent_id)
        failed = keys.of_session(digits, "failed_late")
        with connection.named_errors(self.where, writes=True):
            pipe = self._redis.pipeline(transaction=True)
            pipe.zrem(keys.of_session(digits, "late"), intent_id)
            if failed_ms:
                pipe.zadd(failed, {intent_id: failed_ms})
                pipe.zremrangebyscore(failed, "-inf", failed_ms - _FAILED_LATE_KEPT_MS)
            else:
                pipe.zrem(failed, intent_id)
            pipe.execute()

    def failed_late(self) -> Sequence[IntentRecord]:
        """What failed after it was COMPLETED, oldest first. Raises LedgerUnavailableError."""
        sessions = self._sessions()
        with connection.named_errors(self.where, writes=False):
            pipe = self._redis.pipeline(transaction=False)
            for digits in sessions:
                pipe.zrange(keys.of_session(digits, "failed_late"), 0, -1)
            ids = [intent_id for found in cast("list[list[str]]", pipe.execute()) for intent_id in found]
        return [record for page in _pages(ids, _PAGE) for record in self._read(page)]

    def claim_slot(self, strategy: str, fire_s: int, *, intent_id: str = "") -> bool:
        """True for the first caller of this (strategy, UTC fire time in unix seconds); False ever after.

        Raises:
            LedgerInputError: the strategy's name cannot be used.
            LedgerUnavailableError: ``maybe_done``: the slot may be taken by this very call.
        """
        key = keys.slots(strategy)
        return bool(self._run("claim_slot", (key, f"{key}:floor"), (fire_s, intent_id, _SLOTS_KEPT)))

    # --- sums

    def budgets(self, session_id: str) -> Sequence[Budget]:
        """The session's counters, by name. They outlive any re-import of the session.

        Raises:
            LedgerInputError, LedgerUnavailableError
        """
        key = keys.of_session(keys.digits_of_session(session_id), "budget")
        with connection.named_errors(self.where, writes=False):
            values = cast("dict[str, str]", self._redis.hgetall(key))
        counters = sorted({field.rpartition("|")[0] for field in values})
        return [
            Budget(
                counter=counter,
                token=values[f"{counter}|token"],
                policy=values[f"{counter}|policy"],
                limit=int(values[f"{counter}|limit"]),
                spent=int(values[f"{counter}|spent"]),
                reserved=int(values[f"{counter}|reserved"]),
                elsewhere=int(values.get(f"{counter}|elsewhere", 0)),
            )
            for counter in counters
        ]

    def book(
        self, session_id: str, budget: Budget, *, counted: int, resolve: Resolution | None = None
    ) -> int | None:
        """Hold what the chain has counted against a counter's books. See ``Ledger.book``.

        Raises:
            LedgerInputError, LedgerUnavailableError, LedgerInconsistentError
        """
        digits = keys.digits_of_session(session_id)
        reply = self._run(
            "book",
            (keys.of_session(digits, "budget"), keys.of_session(digits, "resolutions")),
            (
                budget.counter,
                str(budget.spent),
                str(budget.reserved),
                str(counted),
                str(budget.limit),
                budget.token,
                budget.policy,
                "1" if resolve else "0",
                codec.resolution_json(resolve) if resolve else "",
            ),
        )
        if reply[0] == "busy":
            raise LedgerInputError(
                f"has {reply[1]} reserved by trades in flight, which the chain may have counted or not",
                field=budget.counter,
                fix="wait until they have ended",
            )
        return int(reply[1]) if reply[0] == "ok" else None

    def resolutions(self, session_id: str) -> Sequence[Resolution]:
        """What operators have resolved, oldest first.

        Raises:
            LedgerInputError, LedgerUnavailableError
        """
        key = keys.of_session(keys.digits_of_session(session_id), "resolutions")
        with connection.named_errors(self.where, writes=False):
            lines = cast("list[str]", self._redis.lrange(key, 0, -1))
        return [codec.parse_resolution(line) for line in lines]

    def usage(self, session_id: str, *, now_ms: int) -> Sequence[Usage]:
        """What the guardrails have counted, by scope and token. See ``Ledger.usage``.

        Raises:
            LedgerInputError, LedgerUnavailableError, LedgerInconsistentError
        """
        digits = keys.digits_of_session(session_id)
        return codec.parse_usage(_pairs(self._run("usage", _guard_keys(digits), (now_ms,))))

    def counts(self) -> Mapping[State, int]:
        """How many records are in each state, all sessions together.

        Raises:
            LedgerUnavailableError
        """
        sessions = self._sessions()
        with connection.named_errors(self.where, writes=False):
            pipe = self._redis.pipeline(transaction=False)
            for digits in sessions:
                pipe.hgetall(keys.of_session(digits, "counts"))
            rows = cast("list[dict[str, str]]", pipe.execute())
        return {state: sum(int(row.get(state, 0)) for row in rows) for state in State}

    # --- inside

    def _tell(self, event: str, intent_id: str, **facts: object) -> None:
        """A line of the audit trail about what has happened."""
        if self._audit is not None:
            self._audit.tell(event, intent_id=intent_id, session_id=keys.session_of(intent_id), **facts)

    def _tell_signing(self, intent_id: str, who: str, fields: Mapping[str, str]) -> None:
        """The line of a signature, on disk before anybody else can have it. Raises AuditError."""
        if self._audit is not None:
            self._audit.write(
                "signing",
                intent_id=intent_id,
                session_id=keys.session_of(intent_id),
                who=who,
                digests=fields.get("signed_digests", ""),
                keys=fields.get("key_versions", ""),
            )

    def _run(self, name: str, names: Sequence[str], args: Sequence[str | int]) -> Any:
        return scripts.run(self._redis, self.where, name, names, args)

    def _store(
        self, intent_id: str, *, fence: int, now_ms: int, due: str, lease: str, fields: Mapping[str, str]
    ) -> None:
        digits = keys.digits_of_intent(intent_id)
        reply = self._run(
            "store",
            (keys.intent(intent_id), keys.of_session(digits, "open")),
            (intent_id, fence, now_ms, due, lease, *codec.field_pairs(fields)),
        )
        if reply[0] != "ok":
            raise _lost(intent_id, fence, reply)

    def _sessions(self) -> list[str]:
        with connection.named_errors(self.where, writes=False):
            return sorted(cast("set[str]", self._redis.smembers(keys.SESSIONS)))

    def _newest(self, digits: str) -> Iterator[tuple[float, str]]:
        """(created ms, id) of a session, newest first, read page by page."""
        start = 0
        while True:
            with connection.named_errors(self.where, writes=False):
                rows = cast(
                    "list[tuple[str, float]]",
                    self._redis.zrange(
                        keys.of_session(digits, "all"), start, start + _PAGE - 1, desc=True, withscores=True
                    ),
                )
            for intent_id, created_ms in rows:
                yield created_ms, intent_id
            if len(rows) < _PAGE:
                return
            start += _PAGE

    def _read(
        self, ids: Sequence[str], on_broken: Callable[[str, str], None] | None = None
    ) -> Iterator[IntentRecord]:
        with connection.named_errors(self.where, writes=False):
            pipe = self._redis.pipeline(transaction=False)
            for intent_id in ids:
                pipe.hgetall(keys.intent(intent_id))
            rows = cast("list[dict[str, str]]", pipe.execute())
        for intent_id, values in zip(ids, rows, strict=True):
            try:
                yield codec.parse_record(intent_id, values)
            except LedgerInconsistentError as error:
                # One broken record must not hide the others from the pollers; `get` raises it.
                log.error("record_unreadable", intent_id=intent_id, reason=str(error))  # noqa: TRY400
                if on_broken is not None:
                    on_broken(intent_id, error.message)


def _ended(intent: TradeIntent, tombstone: Tombstone) -> IntentRecord:
    """What is known of an archived intent when it is asked for again: what it is, and how it ended."""
    return IntentRecord(
        intent,
        tombstone.state,
        fence=0,
        attempts=0,
        created_ms=0,
        updated_ms=tombstone.archived_ms,
        fields={"archived_ms": str(tombstone.archived_ms)},
    )


def _guard_keys(digits: str) -> tuple[str, str, str]:
    return (
        keys.of_session(digits, "guard"),
        keys.of_session(digits, "flight"),
        keys.of_session(digits, "spent"),
    )


def _implied_fields(to_state: State, why: str) -> dict[str, str]:
    """What a move implies for the fields: see ``RedisLedger.transition``."""
    if to_state is State.COMPLETED:
        return {"attention": "", "reason": ""}
    if to_state in FINAL:
        return {"attention": "", "reason": why}
    if to_state is State.QUEUED:
        return {
            "quote": "",
            "quote_expires_s": "0",
            "body": "",
            "orchestrator_id": "",
            "reason": "",
            "attention": "",
        }
    return {}


def _lost(intent_id: str, fence: int, reply: Sequence[str]) -> Exception:
    if reply[0] == "missing":
        return _not_found(intent_id)
    return FenceLostError(
        f"attempt {fence} has lost it to attempt {reply[1]} (state {reply[2]})",
        field=intent_id,
        fix="stop this attempt; the other one goes on",
    )


def _not_found(intent_id: str) -> IntentNotFoundError:
    return IntentNotFoundError(
        f"no intent has the id {intent_id}", field="intent_id", fix="see `session-executor intents list`"
    )


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    """A hash as a script returns it: names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _pages(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(ids)
    while page := list(islice(rest, max(1, size))):
        yield page


def _shares(waiting: Mapping[str, int], limit: int) -> dict[str, int]:
    """Divide ``limit`` among the sessions that have something waiting, as evenly as they can use it."""
    shares: dict[str, int] = {}
    left = limit
    # Fewer places than sessions: the order they came in (which is random) decides, not how much they have.
    busy = [digits for digits, count in waiting.items() if count][:limit]
    # The least demanding first: what it does not use is divided among the others.
    busy.sort(key=lambda digits: waiting[digits])
    for index, digits in enumerate(busy):
        share = min(waiting[digits], -(-left // (len(busy) - index)))
        shares[digits] = share
        left -= share
    return shares
