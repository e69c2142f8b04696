"""What the seals of a record cover, and whether a record that was read is one that this program wrote.

=====================  =====================================================================================
field of the record    covers
=====================  =====================================================================================
``seal``               what was asked for: id, payload, idempotency key, source, note, time. Made by ``enqueue``
``approval_seal``      which operator confirmed it, and when. Made by ``approve``
``stage_seal``         what the step to the present state stored and the next step relies on: the fields that
                       ``stage_fields`` names, and the reservation. Made with AUTHORIZED and SIGNED
=====================  =====================================================================================

State, fence and bookkeeping are not sealed: scripts change them in Redis, where no key is. That an old copy of a
record is put back is seen by ``Marks.is_closed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import State
from worker.ledger import codec
from worker.policies.base import CounterChange
from worker.sealing import Sealer

SEAL = "seal"
APPROVAL = "approval_seal"
STAGE, STAGE_FIELDS = "stage_seal", "stage_fields"
#: Fields that a step stores and that change afterwards without a change of state.
_LOOSE = frozenset({"attention", "reason", "entered_ms", "sent"})
_OWN = frozenset({"quote", "quote_expires_s", "body", "orchestrator_id", "orchestrator_status", "tx_hash"})
_STAGES = frozenset({State.AUTHORIZED, State.SIGNED})


def of_intent(sealer: Sealer, intent: TradeIntent, *, source: str, note: str, created_ms: int) -> str:
    """The seal of what was asked; source and note as they are stored."""
    return sealer.seal("intent", *_asked(intent, source, note, created_ms))


def of_approval(sealer: Sealer, intent_id: str, *, who: str, at_ms: int) -> str:
    """The seal of an operator's confirmation."""
    return sealer.seal("approval", intent_id, who, str(at_ms))


def of_stage(
    sealer: Sealer,
    intent_id: str,
    state: State,
    fields: Mapping[str, str],
    reservation: Sequence[CounterChange],
) -> dict[str, str]:
    """The fields that seal a step to ``state``, which stores ``fields`` and the reservation; none for other states."""
    if state not in _STAGES:
        return {}
    names = sorted(set(fields) - _LOOSE)
    parts = [
        intent_id,
        state,
        codec.changes_json(reservation),
        *(x for name in names for x in (name, fields[name])),
    ]
    return {STAGE_FIELDS: " ".join(names), STAGE: sealer.seal("stage", *parts)}


def problem_of(sealer: Sealer, record: IntentRecord) -> str:
    """Why a record is not what this program wrote, ``""`` if it is. Raises KeyStoreError."""
    found = record.fields
    intent = record.intent
    problem = sealer.problem(
        found.get(SEAL, ""), "intent", *_asked(intent, intent.source, intent.note, record.created_ms)
    )
    if problem:
        return problem
    by, at_ms = found.get("approved_by", ""), found.get("approved_ms", "")
    if by or at_ms:
        problem = sealer.problem(found.get(APPROVAL, ""), "approval", record.intent_id, by, at_ms)
        if problem:
            return f"approved_by: {problem}"
    if record.state in _STAGES:
        problem = _stage_problem(sealer, record)
        if problem:
            return f"{record.state}: {problem}"
    return ""


def reseal(sealer: Sealer, record: IntentRecord) -> dict[str, str]:
    """Every seal that the record needs as it is now, made anew: a person says that it is ours."""
    intent = record.intent
    seals = {
        SEAL: of_intent(sealer, intent, source=intent.source, note=intent.note, created_ms=record.created_ms)
    }
    by, at_ms = record.fields.get("approved_by", ""), record.fields.get("approved_ms", "")
    if by and at_ms.isdigit():
        seals[APPROVAL] = of_approval(sealer, record.intent_id, who=by, at_ms=int(at_ms))
    if record.state in _STAGES:
        # a record from before there were seals does not say what its step stored
        names = record.fields.get(STAGE_FIELDS, "").split() or (
            ["body"]
            if record.state is State.SIGNED
            else ["digests", "enable", "orchestrator_id", "quote", "quote_expires_s"]
        )
        reservation = record.reservation if record.state is State.AUTHORIZED else ()
        seals |= of_stage(
            sealer,
            record.intent_id,
            record.state,
            {name: _value(record, name) for name in names},
            reservation,
        )
    return seals


def _asked(intent: TradeIntent, source: str, note: str, created_ms: int) -> list[str]:
    return [intent.intent_id, intent.payload(), intent.idempotency_key, source, note, str(created_ms)]


def _stage_problem(sealer: Sealer, record: IntentRecord) -> str:
    names = record.fields.get(STAGE_FIELDS, "").split()
    reservation = record.reservation if record.state is State.AUTHORIZED else ()
    values = [text for name in names for text in (name, _value(record, name))]
    parts = [record.intent_id, str(record.state), codec.changes_json(reservation), *values]
    return sealer.problem(record.fields.get(STAGE, ""), "stage", *parts)


def _value(record: IntentRecord, name: str) -> str:
    return str(getattr(record, name)) if name in _OWN else record.fields.get(name, "")
