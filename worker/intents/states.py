"""The state machine of an intent: the one table of what may follow what."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where an intent stands with us. The orchestrator's own status is a field of SUBMITTED, not a state."""

    QUEUED = "QUEUED"
    AUTHORIZED = "AUTHORIZED"
    SIGNED = "SIGNED"
    SUBMITTED = "SUBMITTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    DEAD = "DEAD"


#: state -> states that may follow. QUEUED follows AUTHORIZED when a quote is dropped before anything was signed.
#: COMPLETED/FAILED/EXPIRED follow SIGNED directly when a lost reply is resolved by asking for the known id. QUEUED
#: follows SIGNED only while nothing of what was signed has left us; ``lua/transition.lua`` looks at that itself.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset(
        {State.AUTHORIZED, State.REJECTED, State.CANCELED, State.EXPIRED, State.FAILED, State.DEAD}
    ),
    State.AUTHORIZED: frozenset(
        {State.QUEUED, State.SIGNED, State.REJECTED, State.CANCELED, State.EXPIRED, State.FAILED, State.DEAD}
    ),
    State.SIGNED: frozenset({State.QUEUED, State.SUBMITTED, State.COMPLETED, State.FAILED, State.EXPIRED}),
    State.SUBMITTED: frozenset({State.COMPLETED, State.FAILED, State.EXPIRED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.EXPIRED: frozenset(),
    State.REJECTED: frozenset(),
    State.CANCELED: frozenset(),
    State.DEAD: frozenset({State.QUEUED, State.CANCELED}),
}

FINAL = frozenset({State.COMPLETED, State.FAILED, State.EXPIRED, State.REJECTED, State.CANCELED, State.DEAD})
