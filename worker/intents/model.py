"""TradeIntent (what is asked) and IntentRecord (what became of it)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from worker.intents.states import State
from worker.intents.trade import Trade
from worker.policies.base import CounterChange, Execution


@dataclass(frozen=True, slots=True)
class Swap:
    """What the calls of an intent sell and receive at least; base units, lower-case addresses.

    It says nothing to the chain: guardrails hold it against the calldata and against their reference prices.
    """

    sell: str
    sell_amount: int
    buy: str
    least: int

    def to_json(self) -> dict[str, str]:
        """Decimal strings; ``from_json`` is the inverse."""
        return {
            "sell": self.sell,
            "sellAmount": str(self.sell_amount),
            "buy": self.buy,
            "least": str(self.least),
        }

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Swap:
        """The inverse of ``to_json``."""
        return cls(value["sell"], int(value["sellAmount"]), value["buy"], int(value["least"]))


@lru_cache(maxsize=1_024)  # a record is asked for its id some thirty times on its way
def _intent_id(session_id: str, key: str) -> str:
    digest = hashlib.sha256(f"{session_id}\n{key}".encode()).hexdigest()
    return f"int_{session_id.removeprefix('ses_')}_{digest[:24]}"


@dataclass(frozen=True, slots=True)
class TradeIntent:
    """What an operator or a strategy asks for.

    Attributes:
        session_id: ``ses_`` + 16 hex digits, the target chain's session if there are several, see ``worker/sessions/registry.py``.
        idempotency_key: the caller's name for this one execution, 1..200 printable characters.
        calls: the calls the account shall make on the session's chain, in order.
        sponsored: whether the integrator's project pays the fees; a trade can say which.
        not_after: unix seconds after which the intent must not be signed any more; 0 means no limit.
        source: who enqueued it: ``cli``, ``api`` or ``strategy:<name>``.
        note: free text for people, e.g. ``transfer 10 USDC to 0x…``.
        urgent: to be worked on before everything that is not: a stop-loss, say.
        trade: tokens, other chains and terms, for intents that are more than calls on one chain.
        swaps: what the calls swap, if whoever made them says so; reference prices cannot be kept otherwise.
    """

    session_id: str
    idempotency_key: str
    calls: tuple[Execution, ...]
    sponsored: bool = True
    not_after: int = 0
    source: str = "api"
    note: str = ""
    urgent: bool = False
    trade: Trade | None = None
    swaps: tuple[Swap, ...] = ()

    @property
    def intent_id(self) -> str:
        """``int_<session 16 hex>_<24 hex>``: the same session and key always give the same id.

        The session's digits come first so that a record's Redis slot can be derived from its id alone.
        """
        return _intent_id(self.session_id, self.idempotency_key)

    def payload(self) -> str:
        """Canonical JSON of what was asked; two requests are the same iff these are equal.

        ``source`` and ``note`` do not change what is executed and are left out. An intent without a trade has no such
        member, so that the hashes of older records stay.
        """
        return json.dumps(
            {
                "calls": [
                    {"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()}
                    for call in self.calls
                ],
                "notAfter": self.not_after,
                "sessionId": self.session_id,
                "sponsored": self.sponsored,
            }
            # only where it says something: the payloads of earlier records keep their hashes
            | ({"urgent": True} if self.urgent else {})
            | ({} if self.trade is None else {"trade": self.trade.to_json()})
            | ({"swaps": [swap.to_json() for swap in self.swaps]} if self.swaps else {}),
            sort_keys=True,
            separators=(",", ":"),
        )

    def payload_hash(self) -> str:
        """SHA-256 of ``payload()``, hex."""
        return hashlib.sha256(self.payload().encode()).hexdigest()

    @classmethod
    def from_payload(
        cls, payload: str, *, idempotency_key: str, source: str = "api", note: str = ""
    ) -> TradeIntent:
        """The inverse of ``payload()``."""
        value: dict[str, Any] = json.loads(payload)
        return cls(
            session_id=value["sessionId"],
            idempotency_key=idempotency_key,
            calls=tuple(
                Execution(call["to"], int(call["value"]), bytes.fromhex(call["data"][2:]))
                for call in value["calls"]
            ),
            sponsored=value["sponsored"],
            not_after=value["notAfter"],
            source=source,
            note=note,
            urgent=value.get("urgent", False),
            trade=Trade.from_json(value["trade"]) if "trade" in value else None,
            swaps=tuple(Swap.from_json(item) for item in value.get("swaps", ())),
        )


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a record's append-only history. ``at_ms`` is unix milliseconds."""

    at_ms: int
    who: str
    from_state: str
    to_state: str
    why: str


LATEST = "latest_s"
"""Field of a record: the latest time that its signed messages name, if that can be after the quote's expiry."""


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """One intent as the ledger holds it.

    Attributes:
        intent: what was asked.
        state: where it stands.
        fence: number of the current attempt; a writer with another number is refused.
        attempts: how often the intent was claimed.
        created_ms, updated_ms: unix milliseconds.
        quote: text of the orchestrator's ``intentOp``, exactly as received (its HMAC covers the bytes).
        quote_expires_s: unix seconds after which the orchestrator takes the quote no more.
        body: the submit request's body, exactly as sent on every try; holds signatures, so it is never shown.
        orchestrator_id: the id to poll: the intentOp's nonce, then the orchestrator's own.
        orchestrator_status: last status word of the orchestrator.
        tx_hash: transaction of the fill, if known.
        reason: why it ended, or why it needs attention.
        attention: a short code when a person should look, else ``""``.
        reservation: the counter changes reserved for it.
        fields: everything else (poll bookkeeping), strings.
        history: oldest first.
    """

    intent: TradeIntent
    state: State
    fence: int
    attempts: int
    created_ms: int
    updated_ms: int
    quote: str = ""
    quote_expires_s: int = 0
    body: str = field(default="", repr=False)
    orchestrator_id: str = ""
    orchestrator_status: str = ""
    tx_hash: str = ""
    reason: str = ""
    attention: str = ""
    reservation: tuple[CounterChange, ...] = ()
    fields: dict[str, str] = field(default_factory=dict[str, str])
    history: tuple[HistoryEntry, ...] = ()

    @property
    def dead_after_s(self) -> int:
        """Unix seconds after which what was signed can no longer be executed, as far as its messages say.

        A Permit2 message may name later times than the quote's expiry.
        """
        return max(self.quote_expires_s, int(self.fields.get(LATEST, "") or 0))

    @property
    def intent_id(self) -> str:
        """The intent's id."""
        return self.intent.intent_id
