"""What Redis holds without a seal of ours, for a person to look at and take over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from worker.execution.attempt import forgery
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.sealing import ForgedError
from worker.sessions.errors import SessionCorruptError, SessionForgedError

#: States in which a seal decides.
_OPEN = (State.QUEUED, State.AUTHORIZED, State.SIGNED)
_ALL = 1_000_000


@dataclass(frozen=True, slots=True)
class Unsealed:
    """One thing in Redis, what is in it, why it is not ours so far, and how to seal it (whether it was still so)."""

    name: str
    what: str
    why: str
    seal: Callable[[], bool]


def unsealed(runtime: Runtime, *, everything: bool = False) -> list[Unsealed]:
    """All that is refused for its seal; with ``everything`` also what has a good one.

    An old copy of an intent that was signed or ended is not among it: there is nothing that could make it good.

    Raises:
        LedgerUnavailableError, SessionStoreUnavailableError, KeyStoreError, StateDirError
    """
    return [
        *_sessions(runtime, everything),
        *_pauses(runtime, everything),
        *_strategies(runtime, everything),
        *_intents(runtime, everything),
    ]


def _sessions(runtime: Runtime, everything: bool) -> Iterator[Unsealed]:
    registry = runtime.sessions
    for session_id in registry.ids():
        why = "sealed"
        try:
            registry.get(session_id)
        except SessionForgedError as error:
            why = error.message
        except SessionCorruptError:
            continue  # a seal would not make it good
        if why != "sealed" or everything:
            yield Unsealed(session_id, "session", why, partial(_seal_session, runtime, session_id))


def _seal_session(runtime: Runtime, session_id: str) -> bool:
    runtime.sessions.seal(session_id)
    return True


def _pauses(runtime: Runtime, everything: bool) -> Iterator[Unsealed]:
    why = "sealed"
    try:
        runtime.pauses.list()
    except ForgedError as error:
        why = error.message
    found = runtime.pauses.list(trust=True)
    if why != "sealed" or (everything and found):
        words = ", ".join(f"{pause.switch}: {pause.why}" for pause in found) or "nothing is paused"
        yield Unsealed("pauses", words, why, runtime.pauses.seal)


def _strategies(runtime: Runtime, everything: bool) -> Iterator[Unsealed]:
    why = "sealed"
    try:
        runtime.strategies.definitions()
    except ForgedError as error:
        why = error.message
    found = runtime.strategies.unchecked()
    if why != "sealed" or (everything and found):
        words = "; ".join(f"{name}: {text}" for name, text in sorted(found.items())) or "none"
        yield Unsealed("strategies", words, why, runtime.strategies.seal)


def _intents(runtime: Runtime, everything: bool) -> Iterator[Unsealed]:
    for record in runtime.ledger.list_intents(states=_OPEN, limit=_ALL):
        why = forgery(runtime, record)
        if not why and not everything:
            continue
        if runtime.marks.is_closed(record.intent_id) and record.state is not State.SIGNED:
            continue
        yield Unsealed(
            record.intent_id, _words(record), why or "sealed", partial(runtime.ledger.reseal, record)
        )


def _words(record: IntentRecord) -> str:
    intent = record.intent
    calls = "; ".join(
        f"{call.to} value {call.value} data 0x{call.data[:4].hex()}…({len(call.data)} bytes)"
        for call in intent.calls
    )
    return f"{record.state} from {intent.source}, key {intent.idempotency_key!r}: {intent.note or calls}"
