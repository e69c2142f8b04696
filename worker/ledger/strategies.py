"""Where each strategy stands: its cursor, its memory, what it has missed; and the strategies added at run time.

One evaluator at a time has a strategy (lease and fence, as for intents). Before it enqueues a slot's intent it writes
the slot down as *pending*, so that whoever comes after its death knows to look whether the intent is there.

The strategies that were added are rules that a worker enqueues by: their hash is sealed as a whole
(``worker/sealed_hash.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import redis

from worker.json_depth import check_depth
from worker.ledger import connection, keys, scripts
from worker.ledger.codec import storable
from worker.ledger.errors import FenceLostError, LedgerInconsistentError, StrategyGoneError
from worker.sealed_hash import SealedHashes
from worker.sealing import Revisions, Sealer

#: Missed slots kept per strategy: a week of one-minute slots.
MISSED_KEPT = 10_080
NAME = "strategies"
_MAX_WHY = 500
_INSTANT = "$instant"


@dataclass(frozen=True, slots=True)
class Missed:
    """A slot (unix seconds; of an event, its block's time) that was not fired, why, and when that was found (unix ms)."""

    slot_s: int
    why: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class StrategyState:
    """What is known of a strategy.

    Attributes:
        fence: number of the current evaluator.
        cursor_s: the last slot that was dealt with, unix seconds.
        fired: how many intents it has made, retries not counted.
        pending: the slot or log whose intent is being made; "" for none.
        pending_memory: what to remember once that intent is there.
        memory: what the last decision left.
        problem: why the slot that is due is not decided yet.
        said: what the last decision that did nothing said.
        finished: it makes no intent any more.
        block: of an event, the last block that was looked at; None before the first look.
        seen: the logs after ``block`` that are dealt with.
        next_ms: not to be looked at before, unix ms.
        last_slot_s, last_intent, tries: the last slot that was fired, its latest intent, and its retries so far.
        settled: the last intent has succeeded, or needs no retry.
        judged: the last intent whose end was counted.
        broke: how many fires in a row have failed for want of money.
    """

    fence: int
    cursor_s: int
    fired: int = 0
    pending: str = ""
    pending_memory: Mapping[str, str] = field(default_factory=dict[str, str])
    memory: Mapping[str, str] = field(default_factory=dict[str, str])
    problem: str = ""
    said: str = ""
    finished: bool = False
    block: int | None = None
    seen: tuple[str, ...] = ()
    next_ms: int = 0
    last_slot_s: int = 0
    last_intent: str = ""
    tries: int = 0
    settled: bool = False
    judged: str = ""
    broke: int = 0


class StrategyBook:
    """The states in Redis.

    Args:
        client: as ``worker.ledger.connection.connect`` makes it.
        where: the server without credentials, for messages.
        sealer: seals and checks the strategies that are added; None: not at all.
        revisions: this machine's memory.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        where: str,
        sealer: Sealer | None = None,
        revisions: Revisions | None = None,
    ) -> None:
        self._redis = client
        self._where = where
        self._hashes = SealedHashes(client, NAME, sealer, revisions)

    def read(self, name: str) -> StrategyState | None:
        """The state without a claim, None before the first. Raises LedgerUnavailableError, LedgerInconsistentError."""
        with connection.named_errors(self._where, writes=False):
            values = cast("dict[str, str]", self._redis.hgetall(keys.strategy(name)))
        return _state(name, values) if values else None

    def claim(self, name: str, *, now_ms: int, lease_ms: int, first_cursor_s: int) -> StrategyState | None:
        """Take the strategy for one evaluation, or None while another has it.

        Args:
            name: of the strategy.
            now_ms: unix ms.
            lease_ms: after which it is taken over.
            first_cursor_s: where a strategy begins that was never seen before: slots up to it do not count.

        Raises:
            LedgerInputError, LedgerUnavailableError, LedgerInconsistentError
        """
        reply = self._run("strategy_claim", (keys.strategy(name),), (now_ms, lease_ms, first_cursor_s))
        if reply[0] == "held":
            return None
        return _state(name, dict(zip(reply[1::2], reply[2::2], strict=True)))

    def commit(
        self, name: str, *, fence: int, missed: Sequence[Missed] = (), **fields: str | int | Mapping[str, str]
    ) -> None:
        """Store fields of the state and missed slots in one step.

        Args:
            name: of the strategy.
            fence: of the claim.
            missed: to be added to the list.
            fields: attributes of ``StrategyState``, and ``lease_ms=0`` to end the lease.

        Raises:
            StrategyGoneError, FenceLostError, LedgerUnavailableError
        """
        entries = [
            json.dumps({"slot_s": entry.slot_s, "why": storable(entry.why)[:_MAX_WHY], "at_ms": entry.at_ms})
            for entry in missed
        ]
        pairs: list[str | int] = []
        for field_name, value in fields.items():
            pairs += [
                field_name.removesuffix("_s") if field_name == "cursor_s" else field_name,
                _stored(value),
            ]
        key = keys.strategy(name)
        reply = self._run(
            "strategy_commit", (key, f"{key}:missed"), (fence, MISSED_KEPT, len(entries), *entries, *pairs)
        )
        if reply == "gone":
            raise StrategyGoneError("was removed meanwhile", field=f"strategy {name}", fix="nothing to do")
        if reply != "ok":
            raise FenceLostError(
                f"evaluation {fence} has lost it to another one",
                field=f"strategy {name}",
                fix="stop this one; the other one goes on",
            )

    def missed(self, name: str, *, limit: int = 100, offset: int = 0) -> Sequence[Missed]:
        """Slots that were not fired, the newest first. Raises LedgerInputError, LedgerUnavailableError."""
        key = f"{keys.strategy(name)}:missed"
        with connection.named_errors(self._where, writes=False):
            rows = cast("list[str]", self._redis.lrange(key, -(limit + offset), -1 - offset))
        found: list[Missed] = []
        for row in reversed(rows):
            entry: Any = _json(name, row)
            found.append(Missed(int(entry["slot_s"]), str(entry["why"]), int(entry["at_ms"])))
        return found

    # --- strategies added at run time

    def definitions(self) -> Mapping[str, dict[str, Any]]:
        """The tables as they were added, by name.

        Raises:
            ForgedError: somebody else has written to them.
            LedgerUnavailableError, LedgerInconsistentError, KeyStoreError
        """
        with connection.named_errors(self._where, writes=False):
            stored = self._hashes.read(keys.STRATEGIES, NAME)
        return {name: _json(name, text) for name, text in sorted(stored.items())}

    def define(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Add or replace strategies, all in one step. Raises LedgerUnavailableError, ForgedError, KeyStoreError."""
        texts = {name: json.dumps(entry, default=_instant_out) for name, entry in entries.items()}
        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            self._hashes.change(keys.STRATEGIES, NAME, lambda found: {**found, **texts})

    def seal(self) -> bool:
        """Take the strategies that are there for ours. Raises LedgerUnavailableError, KeyStoreError."""
        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            return self._hashes.change(keys.STRATEGIES, NAME, lambda found: found, trust=True)

    def unchecked(self) -> Mapping[str, str]:
        """The tables as JSON, whoever wrote them, for people to look at. Raises LedgerUnavailableError."""
        with connection.named_errors(self._where, writes=False):
            stored = cast("dict[str, str]", self._redis.hgetall(keys.STRATEGIES))
        return {name: text for name, text in stored.items() if name not in {"rev", "seal"}}

    def remove(self, name: str) -> bool:
        """Forget a strategy and where it stood; whether there was anything. Its intents stay.

        Raises:
            LedgerInputError, LedgerUnavailableError, ForgedError, KeyStoreError
        """

        def without(found: dict[str, str]) -> dict[str, str] | None:
            return None if found.pop(name, None) is None else found

        key, slots = keys.strategy(name), keys.slots(name)
        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            defined = self._hashes.change(keys.STRATEGIES, NAME, without)
        kept: int = self._run("strategy_remove", (key, f"{key}:missed", slots, f"{slots}:floor"), ())
        return defined or kept > 0

    def _run(self, name: str, names: Sequence[str], args: Sequence[str | int]) -> Any:
        return scripts.run(self._redis, self._where, name, names, args)


def _stored(value: str | int | Mapping[str, str]) -> str:
    if isinstance(value, str):
        return storable(value)
    return str(value) if isinstance(value, int) else json.dumps(dict(value))


def _state(name: str, values: Mapping[str, str]) -> StrategyState:
    try:
        block = values.get("block", "")
        return StrategyState(
            fence=int(values.get("fence", "0")),
            cursor_s=int(values["cursor"]),
            fired=int(values.get("fired", "0")),
            pending=values.get("pending", ""),
            pending_memory=_texts(values.get("pending_memory", "")),
            memory=_texts(values.get("memory", "")),
            problem=values.get("problem", ""),
            said=values.get("said", ""),
            finished=values.get("finished") == "1",
            block=int(block) if block else None,
            seen=tuple(filter(None, values.get("seen", "").split(" "))),
            next_ms=int(values.get("next_ms", "0")),
            last_slot_s=int(values.get("last_slot_s", "0")),
            last_intent=values.get("last_intent", ""),
            tries=int(values.get("tries", "0")),
            settled=values.get("settled") == "1",
            judged=values.get("judged", ""),
            broke=int(values.get("broke", "0")),
        )
    except (ValueError, KeyError) as error:
        raise _unreadable(name) from error


def _texts(text: str) -> dict[str, str]:
    if not text:
        return {}
    check_depth(text)
    value: Any = json.loads(text)
    return {str(key): str(item) for key, item in value.items()}


def _json(name: str, text: str) -> Any:
    try:
        check_depth(text)
        return json.loads(text, object_hook=_instant_in)
    except ValueError as error:
        raise _unreadable(name) from error


def _unreadable(name: str) -> LedgerInconsistentError:
    return LedgerInconsistentError(
        "its entry in Redis cannot be read",
        field=f"strategy {name}",
        fix=f"`session-executor strategies remove {name}`, then add it again",
    )


def _instant_out(value: Any) -> dict[str, str]:
    if isinstance(value, datetime):
        return {_INSTANT: value.astimezone(UTC).isoformat()}
    raise TypeError(type(value).__name__)


def _instant_in(value: dict[str, Any]) -> Any:
    return datetime.fromisoformat(str(value[_INSTANT])) if set(value) == {_INSTANT} else value
