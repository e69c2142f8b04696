"""Telling people and programs what happened, in a process of its own: no trade ever waits for a receiver.

What ended is written down by the script that ends it (``worker/ledger/lua/record.lua``); everything else - attention,
a limit, a session's end, a pause - is looked at. Each becomes one notice for each channel under an id that is the same
however often it is found, and each notice is sent until it has arrived or is given up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from worker.errors import ExecutorError
from worker.execution.channels import Channel, NotSentError
from worker.execution.prepare import ENABLE_POLICY
from worker.execution.runtime import Runtime
from worker.execution.tokens import amount_format
from worker.intents.model import IntentRecord
from worker.intents.states import FINAL, State
from worker.ledger.errors import IntentNotFoundError, LedgerUnavailableError
from worker.ledger.notices import Notice
from worker.policies import TimeFrame
from worker.sessions.importing import RegisteredSession

log = structlog.get_logger(__name__)

RETRY_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)
"""Waits after each try that failed, as the Standard Webhooks specification recommends them; then it is given up."""
NEARLY_PERCENT = 80
EXPIRING_S = 86_400
"""A session's end is told a day ahead."""
_LOOK_EVERY_MS = 5_000
_BATCH, _PARALLEL = 50, 8
_MOST_OPEN = 10_000
_KINDS = {
    State.COMPLETED: "intent.completed",
    State.REJECTED: "intent.refused",
    State.FAILED: "intent.failed",
    State.EXPIRED: "intent.failed",
    State.DEAD: "intent.failed",
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something to tell. ``subject`` makes its id: the same subject is told once."""

    kind: str
    subject: str
    title: str
    text: str
    data: dict[str, Any]

    @property
    def event_id(self) -> str:
        """``evt_`` and 24 hex digits."""
        digest = hashlib.sha256(f"{self.kind}\n{self.subject}".encode()).hexdigest()
        return f"evt_{digest[:24]}"


class Notifier:
    """Finds what is to be told, and tells it.

    Args:
        runtime: the services; no keys are used.
        channels: the receivers.
    """

    def __init__(self, runtime: Runtime, channels: Sequence[Channel]) -> None:
        self.runtime = runtime
        self.channels = {channel.name: channel for channel in channels}
        self._looked_ms = 0

    def step(self) -> tuple[int, int]:
        """One look and one round of sending; how many notices were new, how many arrived.

        Raises:
            ExecutorError: Redis does not answer, say; what is not told yet is found again.
        """
        return self.collect(), self.deliver()

    # --- finding

    def collect(self) -> int:
        """Make notices of what has happened; how many are new."""
        new = 0
        for digits in self.runtime.notices.sessions():
            for entry, intent_id, state in self.runtime.notices.ended(digits):
                event = self._ended(entry, intent_id, State(state))
                new += 0 if event is None else self.tell(event)
                self.runtime.notices.forget(digits, entry)
        if self.runtime.now_ms() - self._looked_ms < _LOOK_EVERY_MS:
            return new
        self._looked_ms = self.runtime.now_ms()
        for look in (self._attention, self._sessions, self._pauses):
            try:
                new += sum(self.tell(event) for event in look())
            except ExecutorError as error:  # a forged session, say: the others are told
                log.warning("not everything is told", look=look.__name__, error=str(error))
        return new

    def tell(self, event: Event) -> int:
        """One notice for each channel that wants it; how many are new. Raises LedgerUnavailableError."""
        now_ms = self.runtime.now_ms()
        body = json.dumps(
            {"type": event.kind, "timestamp": _iso(now_ms), "data": event.data}, separators=(",", ":")
        )
        return sum(
            self.runtime.notices.add(
                Notice(
                    notice_id=f"{event.event_id}:{channel.name}",
                    event_id=event.event_id,
                    channel=channel.name,
                    event=event.kind,
                    body=body,
                    title=event.title,
                    text=event.text,
                    created_ms=now_ms,
                )
            )
            for channel in self.channels.values()
            if event.kind in channel.events
        )

    def _ended(self, entry: str, intent_id: str, state: State) -> Event | None:
        kind = _KINDS.get(state)
        if kind is None:
            return None
        title, subject = f"{intent_id} is {state}", f"{intent_id} {state} {entry}"
        try:
            record = self.runtime.ledger.get(intent_id)
        except IntentNotFoundError:
            return None
        except LedgerUnavailableError:
            raise
        except ExecutorError as error:  # its record is damaged or forged: that it ended is told all the same
            return Event(kind, subject, title, str(error), {"intent_id": intent_id, "state": str(state)})
        words = f"{record.intent.note}\n{record.reason or record.tx_hash}".strip()
        return Event(kind, subject, title, words, {**_data(record), "state": str(state)})

    def _attention(self) -> Iterator[Event]:
        open_states = [state for state in State if state not in FINAL]
        for record in self.runtime.ledger.list_intents(states=open_states, limit=_MOST_OPEN):
            if record.attention:
                yield Event(
                    "intent.attention",
                    f"{record.intent_id} {record.attention}",
                    f"{record.intent_id} needs attention: {record.attention}",
                    f"{record.intent.note}\n{record.reason}".strip(),
                    _data(record),
                )

    def _pauses(self) -> Iterator[Event]:
        for pause in self.runtime.pauses.list():
            if pause.switch.kind == "strategy":
                yield Event(
                    "strategy.paused",
                    f"{pause.switch.name} {pause.at_ms}",
                    f"strategy {pause.switch.name} is paused",
                    f"{pause.why} ({pause.who})",
                    {"strategy": pause.switch.name, "why": pause.why, "who": pause.who, "at_ms": pause.at_ms},
                )

    def _sessions(self) -> Iterator[Event]:
        for session in self.runtime.sessions.list():
            yield from self._of_session(session)

    def _of_session(self, session: RegisteredSession) -> Iterator[Event]:
        name, now_s = session.session_id, self.runtime.now_s
        end_s = ends_s(session)
        if end_s is not None and now_s < end_s <= now_s + EXPIRING_S:
            at = _iso(end_s * 1000)
            yield Event(
                "session.expiring",
                f"{name} {end_s}",
                f"{name} ends at {at}",
                "nothing can be signed with it afterwards",
                {"session_id": name, "ends_s": end_s},
            )
        write = amount_format(session.chain_id)
        for budget in self.runtime.ledger.budgets(name):
            used = budget.spent + budget.reserved
            if (
                budget.policy == ENABLE_POLICY
                or not budget.limit
                or used * 100 < NEARLY_PERCENT * budget.limit
            ):
                continue
            amounts = [write(budget.token, n) if budget.token else str(n) for n in (used, budget.limit)]
            yield Event(
                "limit.nearly_used",
                f"{name} {budget.counter} {budget.limit}",
                f"{name} has used {amounts[0]} of {amounts[1]}",
                f"{budget.policy}: what does not fit is refused",
                {
                    "session_id": name,
                    "policy": budget.policy,
                    "token": budget.token,
                    "limit": str(budget.limit),
                    "spent": str(budget.spent),
                    "reserved": str(budget.reserved),
                },
            )

    # --- sending

    def deliver(self) -> int:
        """Send what is due; how many arrived."""
        due = self.runtime.notices.take(now_ms=self.runtime.now_ms(), limit=_BATCH)
        if not due:
            return 0
        with ThreadPoolExecutor(min(_PARALLEL, len(due)), thread_name_prefix="notify") as pool:
            return sum(pool.map(self._send, due))

    def _channel(self, name: str) -> Channel:
        """Raises NotSentError: it was taken out of the file."""
        if name not in self.channels:
            raise NotSentError(f"there is no channel {name} any more", final=True)
        return self.channels[name]

    def _send(self, notice: Notice) -> bool:
        tries, now_ms = notice.tries + 1, self.runtime.now_ms()
        try:
            self._channel(notice.channel).send(
                notice.event_id, notice.body, title=notice.title, text=notice.text, now_s=now_ms // 1000
            )
        except Exception as error:  # noqa: BLE001 - a service of Apprise may raise anything; one must not stop the others
            problem = error.message if isinstance(error, ExecutorError) else type(error).__name__
            over = tries > len(RETRY_S) or (isinstance(error, NotSentError) and error.final)
            state = "given up" if over else "waiting"
            due_ms = None if over else now_ms + RETRY_S[tries - 1] * 1000
            log.warning(
                "notification not sent", notice=notice.notice_id, tries=tries, state=state, problem=problem
            )
        else:
            problem, state, due_ms = "", "arrived", None
        self.runtime.notices.store(
            replace(notice, state=state, tries=tries, problem=problem, at_ms=now_ms), due_ms=due_ms
        )
        return state == "arrived"


def retry(runtime: Runtime, notice_id: str) -> Notice:
    """Send a notice again, also one that has arrived or was given up. Raises LedgerInputError, LedgerUnavailableError."""
    notice = replace(runtime.notices.get(notice_id), state="waiting", tries=0, problem="")
    runtime.notices.store(notice, due_ms=runtime.now_ms())
    return notice


def ends_s(session: RegisteredSession) -> int | None:
    """When the last of the session's time frames closes, unix seconds; None when one of its actions has none."""
    ends: list[int] = []
    for action in session.actions:
        closing = [
            policy.valid_until_s
            for policy in action.policies or ()
            if isinstance(policy, TimeFrame) and policy.valid_until_s
        ]
        if not closing:
            return None
        ends.append(min(closing))
    return max(ends, default=None)


def _data(record: IntentRecord) -> dict[str, Any]:
    return {
        "intent_id": record.intent_id,
        "session_id": record.intent.session_id,
        "key": record.intent.idempotency_key,
        "state": str(record.state),
        "attention": record.attention,
        "reason": record.reason,
        "tx_hash": record.tx_hash,
        "orchestrator_id": record.orchestrator_id,
        "source": record.intent.source,
        "note": record.intent.note,
    }


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
