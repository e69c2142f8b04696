"""Between the strings that Redis holds and the model's types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worker.errors import InputError
from worker.intents.model import HistoryEntry, IntentRecord, TradeIntent
from worker.intents.states import State
from worker.ledger.errors import LedgerInconsistentError, LedgerInputError
from worker.ledger.port import Charge, Resolution, Usage
from worker.policies.base import CounterChange

MAX_UINT256 = 2**256 - 1

#: Attributes of IntentRecord that callers may set by name; any other name becomes a free field.
SETTABLE = frozenset(
    {
        "quote",
        "quote_expires_s",
        "body",
        "orchestrator_id",
        "orchestrator_status",
        "tx_hash",
        "reason",
        "attention",
    }
)
#: These are compared or sent byte for byte: a character that cannot be stored is refused, not replaced.
_EXACT = frozenset({"quote", "body"})
#: What only scripts write; a free field of such a name would suggest that it can be set.
_OURS = frozenset(
    {
        "state",
        "fence",
        "attempts",
        "lease_until_ms",
        "lease_who",
        "deaths",
        "payload",
        "payload_hash",
        "idempotency_key",
        "session_id",
        "source",
        "note",
        "created_ms",
        "updated_ms",
        "reservation",
        "guard",
        "settled",
        "history",
        "fields",
        "intent",
        "approved_by",
        "approved_ms",
    }
)
_FREE = "f:"
_SESSION = re.compile(r"[0-9a-f]{16}", re.ASCII)
_USAGE = ("held", "hour", "day", "week")


def storable(text: str) -> str:
    """Text for people with what UTF-8 cannot hold (lone surrogates, which JSON can smuggle in) replaced by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def field_pairs(fields: Mapping[str, str]) -> list[str]:
    """Name, value, name, value, … as the scripts take them.

    Raises:
        LedgerInputError: a name that only the ledger writes, a value that is no text, or one that cannot be kept
            exactly.
    """
    pairs: list[str] = []
    for name, value in fields.items():
        if name in _OURS or not name:
            raise LedgerInputError(
                "only the ledger writes this field", field=name or "fields", fix="use another name"
            )
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers pass parsed JSON
            raise LedgerInputError(f"is {type(value).__name__}, not text", field=name, fix="pass a string")
        if name == "quote_expires_s" and not (value.isascii() and value.isdigit()):
            raise LedgerInputError("is no unix time", field=name, fix="pass whole seconds as decimal digits")
        kept = storable(value)
        if name in _EXACT and kept != value:
            raise LedgerInputError(
                "holds characters that UTF-8 cannot carry", field=name, fix="refuse the quote"
            )
        pairs += [name if name in SETTABLE else _FREE + name, kept]
    return pairs


def changes_json(changes: Sequence[CounterChange]) -> str:
    """The changes as JSON whose numbers are all decimal strings; ``""`` for none.

    Raises:
        LedgerInputError: an amount or limit outside 0..2**256-1, or a session that is none.
    """
    if not changes:
        return ""
    for change in changes:
        for name, value in (("amount", change.amount), ("limit", change.limit)):
            if type(value) is not int or not 0 <= value <= MAX_UINT256:
                raise LedgerInputError(
                    f"{name} {value!r} of {change.counter} is no uint256", field=name, fix="pass 0..2**256-1"
                )
        if change.session and not _SESSION.fullmatch(change.session):
            raise LedgerInputError(
                f"{change.session!r} of {change.counter} is no session",
                field="session",
                fix="pass 16 hex digits",
            )
    return json.dumps(
        [
            {
                "counter": change.counter,
                "amount": str(change.amount),
                "limit": str(change.limit),
                "policy": change.policy,
                "callIndex": str(change.call_index),
                "token": change.token,
                **({"session": change.session} if change.session else {}),
            }
            for change in changes
        ],
        separators=(",", ":"),
    )


def charges_json(charges: Sequence[Charge]) -> str:
    """What the guardrails count as JSON whose numbers are all decimal strings; ``""`` for nothing.

    Raises:
        LedgerInputError: an amount or limit outside 0..2**256-1.
    """
    if not charges:
        return ""
    for charge in charges:
        if charge.session and not _SESSION.fullmatch(charge.session):
            raise LedgerInputError(
                f"{charge.session!r} is no session",
                field=f"guardrails of {charge.scope}",
                fix="pass 16 hex digits",
            )
        for value in (*charge.amounts.values(), *(cap.limit for cap in charge.caps)):
            if type(value) is not int or not 0 <= value <= MAX_UINT256:
                raise LedgerInputError(
                    f"{value!r} is no uint256", field=f"guardrails of {charge.scope}", fix="pass 0..2**256-1"
                )
    return json.dumps(
        [
            {
                "scope": storable(charge.scope),
                "rulesField": storable(charge.rules_field),
                "rulesSha": charge.rules_sha,
                "amounts": {token: str(amount) for token, amount in charge.amounts.items()},
                "caps": [
                    {"window": cap.window, "token": cap.token, "limit": str(cap.limit)} for cap in charge.caps
                ],
                "cooldownMs": str(charge.cooldown_ms),
                "maxInFlight": str(charge.max_in_flight),
                **({"session": charge.session} if charge.session else {}),
            }
            for charge in charges
        ],
        separators=(",", ":"),
    )


def resolution_json(line: Resolution) -> str:
    """One line of an operator's decision; amounts are decimal strings."""
    return json.dumps(
        {
            "atMs": line.at_ms,
            "who": storable(line.who),
            "why": storable(line.why),
            "counter": line.counter,
            "before": str(line.spent_before),
            "after": str(line.spent_after),
        }
    )


def parse_resolution(text: str) -> Resolution:
    """The inverse of ``resolution_json``."""
    value: dict[str, Any] = json.loads(text)
    return Resolution(
        value["atMs"], value["who"], value["why"], value["counter"], int(value["before"]), int(value["after"])
    )


def parse_usage(values: Mapping[str, str]) -> tuple[Usage, ...]:
    """What the guard hash holds per scope and token."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for field, value in values.items():
        rest, _, name = field.rpartition("|")
        scope, bar, token = rest.rpartition("|")
        if bar and name in _USAGE:
            sums.setdefault((scope, token), {})[name] = int(value)
    return tuple(
        Usage(scope, token, *(found.get(name, 0) for name in _USAGE))
        for (scope, token), found in sorted(sums.items())
    )


def parse_changes(text: str) -> tuple[CounterChange, ...]:
    """The inverse of ``changes_json``."""
    if not text:
        return ()
    return tuple(
        CounterChange(
            counter=item["counter"],
            amount=int(item["amount"]),
            limit=int(item["limit"]),
            policy=item["policy"],
            call_index=int(item["callIndex"]),
            token=item["token"],
            session=item.get("session", ""),
        )
        for item in json.loads(text)
    )


def parse_history(lines: Iterable[str]) -> tuple[HistoryEntry, ...]:
    """The history's JSON lines."""
    entries: list[HistoryEntry] = []
    for line in lines:
        value: dict[str, str] = json.loads(line)
        entries.append(
            HistoryEntry(
                at_ms=int(value["at_ms"]),
                who=value["who"],
                from_state=value["from_state"],
                to_state=value["to_state"],
                why=value["why"],
            )
        )
    return tuple(entries)


def parse_record(intent_id: str, values: Mapping[str, str], history: Iterable[str] = ()) -> IntentRecord:
    """The record of one Redis hash.

    ``fields`` of the result holds the free fields and, for people, ``lease_until_ms``, ``lease_who`` and ``settled``;
    and ``deaths``: attempts in a row, since the last change of state, whose lease nobody gave back.

    Raises:
        LedgerInconsistentError: the hash is not what the scripts write, or belongs to another id.
    """
    try:
        intent = TradeIntent.from_payload(
            values["payload"],
            idempotency_key=values["idempotency_key"],
            source=values["source"],
            note=values["note"],
        )
        record = IntentRecord(
            intent=intent,
            state=State(values["state"]),
            fence=int(values["fence"]),
            attempts=int(values["attempts"]),
            created_ms=int(values["created_ms"]),
            updated_ms=int(values["updated_ms"]),
            quote=values.get("quote", ""),
            quote_expires_s=int(values.get("quote_expires_s", "") or 0),
            body=values.get("body", ""),
            orchestrator_id=values.get("orchestrator_id", ""),
            orchestrator_status=values.get("orchestrator_status", ""),
            tx_hash=values.get("tx_hash", ""),
            reason=values.get("reason", ""),
            attention=values.get("attention", ""),
            reservation=parse_changes(values.get("reservation", "")),
            fields=_fields(values),
            history=parse_history(history),
        )
    except (KeyError, ValueError, TypeError, InputError) as error:
        raise _inconsistent(intent_id, f"it does not parse ({type(error).__name__})") from error
    # What is executed comes from the payload: it must be the payload that the id and the hash were made of.
    if record.intent_id != intent_id or intent.payload_hash() != values["payload_hash"]:
        raise _inconsistent(intent_id, "its payload is not the one it was created with")
    return record


def _fields(values: Mapping[str, str]) -> dict[str, str]:
    shown = {
        name: values[name] for name in ("lease_until_ms", "lease_who", "deaths", "settled") if name in values
    }
    return shown | {
        name.removeprefix(_FREE): value for name, value in values.items() if name.startswith(_FREE)
    }


def _inconsistent(intent_id: str, what: str) -> LedgerInconsistentError:
    return LedgerInconsistentError(
        f"the record of {intent_id} was changed outside of this program: {what}",
        field="redis",
        fix="find out who else writes to this Redis, and restore it from its AOF",
    )
