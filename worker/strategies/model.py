"""What an operator wrote into the strategies file, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.intents.amount import Amount
from worker.strategies.cron import Cron

Kind = Literal["recurring-transfer"]
KINDS: tuple[Kind, ...] = ("recurring-transfer",)


@dataclass(frozen=True, slots=True)
class Strategy:
    """A transfer that recurs.

    Attributes:
        name: unique, part of each fire's idempotency key.
        kind: what it does.
        session: id of the session that signs, ``ses_…``.
        cron: when it fires, in UTC.
        to: who receives, lower-case address.
        amount: how much of which token, base units; the zero address as token is the chain's own currency.
        enabled: whether it fires at all.
        sponsored: whether the integrator's project pays the fees.
        not_after_s: for how many seconds after a fire time its intent may still be signed; None for the default.
        start_s: unix seconds; no fire time before it counts. None: any.
        end_s: unix seconds; no fire time at or after it counts. None: any.
    """

    name: str
    kind: Kind
    session: str
    cron: Cron
    to: str
    amount: Amount
    enabled: bool = True
    sponsored: bool = True
    not_after_s: int | None = None
    start_s: int | None = None
    end_s: int | None = None
