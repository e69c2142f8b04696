"""Guardrails of our own, beside what the user approved: the chain knows nothing of them.

They belong to a session or to a strategy. Amounts are base units per token; a token that is not named is not bounded by
that guardrail. ``worker/intents/guardrails.py`` reads them from what people write, ``worker/execution/guardrails.py``
applies them, and what is counted over time (rolling caps, in flight, cooldown) is decided in the ledger's script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from worker.policies.fields import Address, Uint256
from worker.policies.policy import StrictModel

WINDOWS_MS = {"hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}
"""The rolling windows: an amount counts from its reservation until this long after it was settled."""

SESSION_SCOPE = "session"
STRATEGY_SCOPE = "strategy:"
"""Followed by the strategy's name: also the ``source`` of its intents."""
RULES_FIELD = "guardrails"
MAX_SECONDS = 31 * 86_400
"""The longest time that a guardrail may name: a month."""
BPS = 10_000


class TokenAmount(StrictModel):
    """``amount`` base units of ``token``; the zero address stands for the chain's own currency."""

    token: Address
    amount: Uint256


class GasRefundCap(StrictModel):
    """The largest ``gasRefund`` that may be signed, field by field: what it comes to is known to the executor only."""

    token: Address
    exchange_rate: Uint256
    overhead: Uint256


class MinRate(StrictModel):
    """A reference price: ``buy_amount`` base units of ``buy`` for ``sell_amount`` of ``sell``."""

    sell: Address
    buy: Address
    buy_amount: Uint256
    sell_amount: Annotated[Uint256, Field(gt=0)]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Amounts = Annotated[tuple[TokenAmount, ...], BeforeValidator(_as_tuple)]
Addresses = Annotated[tuple[Address, ...] | None, BeforeValidator(_as_tuple)]
Seconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]


class Guardrails(StrictModel):
    """What one scope (a session, a strategy) is held to. Every part may be left out.

    Attributes:
        per_trade: the most that one intent may take of a token.
        per_hour, per_day, per_week: the most within any such stretch of time, in flight included.
        approval_above: an intent that takes more than this needs an operator's approval.
        recipients: who may receive; None: anybody, (): nobody.
        spenders: who may be approved to spend; None: anybody, (): nobody.
        cooldown_s: seconds between the authorization of one trade and of the next.
        max_in_flight: trades that are authorized and not ended.
        max_lateness_s: seconds after its time (enqueued, or its slot) within which an intent must be signed.
        min_session_left_s: seconds for which the session must still be valid.
        min_quote_left_s: seconds for which the quote must still be valid.
        max_fee: the most of a token that a trade may cost: what is taken of it and not delivered.
        max_gas_refund: what may be signed as gas refund; without it a refund must be zero.
        min_rates: reference prices; a swap must receive at least that much, less ``max_slippage_bps``.
        max_slippage_bps: hundredths of a percent below the reference price (and a quoted amount) that are taken.
    """

    per_trade: Amounts = ()
    per_hour: Amounts = ()
    per_day: Amounts = ()
    per_week: Amounts = ()
    approval_above: Amounts = ()
    recipients: Addresses = None
    spenders: Addresses = None
    cooldown_s: Seconds | None = None
    max_in_flight: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_lateness_s: Seconds | None = None
    min_session_left_s: Seconds | None = None
    min_quote_left_s: Seconds | None = None
    max_fee: Amounts = ()
    max_gas_refund: Annotated[tuple[GasRefundCap, ...], BeforeValidator(_as_tuple)] = ()
    min_rates: Annotated[tuple[MinRate, ...], BeforeValidator(_as_tuple)] = ()
    max_slippage_bps: Annotated[int, Field(ge=0, lt=BPS)] | None = None

    AMOUNTS: ClassVar[tuple[str, ...]] = (
        "per_trade",
        "per_hour",
        "per_day",
        "per_week",
        "approval_above",
        "max_fee",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in (*self.AMOUNTS, "max_gas_refund"):
            tokens = [item.token for item in getattr(self, name)]
            if len(set(tokens)) != len(tokens):
                raise ValueError(f"{name} names a token twice")
        pairs = [(rate.sell, rate.buy) for rate in self.min_rates]
        if len(set(pairs)) != len(pairs):
            raise ValueError("min_rates names a pair twice")
        return self

    def text(self) -> str:
        """Canonical JSON; ``""`` when nothing is set. Equal guardrails have equal texts."""
        ordered = self.model_copy(
            update={
                **{name: _by_token(getattr(self, name)) for name in (*self.AMOUNTS, "max_gas_refund")},
                "min_rates": tuple(sorted(self.min_rates, key=lambda rate: (rate.sell, rate.buy))),
                **{
                    name: None if getattr(self, name) is None else tuple(sorted(set(getattr(self, name))))
                    for name in ("recipients", "spenders")
                },
            }
        )
        text = ordered.model_dump_json(by_alias=True, exclude_defaults=True)
        return "" if text == "{}" else text

    @classmethod
    def of_text(cls, text: str) -> Guardrails:
        """The inverse of ``text``. Raises ValueError."""
        return cls.model_validate_json(text) if text else cls()

    def limit(self, name: str, token: str) -> int | None:
        """The amount that the guardrail ``name`` (one of ``AMOUNTS``) sets for a token; None if it sets none."""
        return next((item.amount for item in getattr(self, name) if item.token == token), None)

    def refund_cap(self, token: str) -> GasRefundCap | None:
        """What may be signed as gas refund in a token; None: nothing."""
        return next((cap for cap in self.max_gas_refund if cap.token == token), None)


@dataclass(frozen=True, slots=True)
class ScopeRules:
    """The guardrails of one scope as they are stored.

    Attributes:
        scope: ``session``, or ``strategy:<name>``.
        text: as stored; ``""`` when none are set.
        guardrails: the same, read.
    """

    scope: str
    text: str = ""
    guardrails: Guardrails = field(default_factory=Guardrails)

    @property
    def field_name(self) -> str:
        """Their field in the session's hash."""
        return rules_field(self.scope)

    @property
    def sha(self) -> str:
        """SHA-1 of the text, hex: what the ledger's script compares. It protects nothing."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def rules_field(scope: str) -> str:
    """The field of the session's hash that holds the guardrails of a scope."""
    return RULES_FIELD if scope == SESSION_SCOPE else f"{RULES_FIELD}:{scope}"


def loosened(old: Guardrails, new: Guardrails) -> tuple[str, ...]:
    """The names of the guardrails by which ``new`` lets through what ``old`` would have stopped."""
    found = [
        name
        for name in Guardrails.AMOUNTS
        if any(_is_above(new.limit(name, item.token), item.amount) for item in getattr(old, name))
    ]
    for name in ("recipients", "spenders"):
        before, after = getattr(old, name), getattr(new, name)
        if before is not None and (after is None or not set(after) <= set(before)):
            found.append(name)
    found += [
        name
        for name in ("max_in_flight", "max_lateness_s")
        if _is_above(getattr(new, name), getattr(old, name))
    ]
    found += [
        name
        for name in ("cooldown_s", "min_session_left_s", "min_quote_left_s")
        if (getattr(new, name) or 0) < (getattr(old, name) or 0)
    ]
    for cap in new.max_gas_refund:
        before = old.refund_cap(cap.token)
        if before is None or cap.exchange_rate > before.exchange_rate or cap.overhead > before.overhead:
            found.append("max_gas_refund")
            break
    if _rates_loosened(old, new):
        found.append("min_rates")
    if old.min_rates and (new.max_slippage_bps or 0) > (old.max_slippage_bps or 0):
        found.append("max_slippage_bps")
    return tuple(found)


def _rates_loosened(old: Guardrails, new: Guardrails) -> bool:
    after = {(rate.sell, rate.buy): rate for rate in new.min_rates}
    for rate in old.min_rates:
        other = after.get((rate.sell, rate.buy))
        if other is None or other.buy_amount * rate.sell_amount < rate.buy_amount * other.sell_amount:
            return True
    return False


def _is_above(new: int | None, old: int | None) -> bool:
    return old is not None and (new is None or new > old)


def _by_token(items: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(items, key=lambda item: item.token))
