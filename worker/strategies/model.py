"""What an operator wrote into the strategies file, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from worker.policies.guardrails import Guardrails
from worker.strategies.conditions import Condition
from worker.strategies.events import OnEvent
from worker.strategies.port import Strategy
from worker.strategies.timing import Schedule

CatchUp = Literal["none", "one", "all"]


@dataclass(frozen=True, slots=True)
class Retry:
    """Try a slot's intent again when it has ended without success: ``times`` more, each ``after_s`` after the end."""

    times: int
    after_s: int


@dataclass(frozen=True, slots=True)
class ScheduledStrategy:
    """A strategy with its trigger and its bounds. It has either ``when`` or ``event``.

    Attributes:
        name: unique, part of each fire's idempotency key.
        kind: what it does, as written.
        session: id of the session that signs, ``ses_…``.
        strategy: decides at each slot.
        when: its fire times (slots).
        event: the log that triggers it instead.
        only_if: what must hold besides.
        enabled: whether it fires at all.
        sponsored: whether the integrator's project pays the fees.
        max_lateness_s: for how many seconds after a slot its intent may still be signed; None for the default.
        start_s: unix seconds; no slot before it counts. None: any.
        end_s: unix seconds; no slot at or after it counts. None: any.
        max_executions: how many intents at most, ever. None: any number.
        catch_up: which of the slots that passed while nothing ran are made up for.
        jitter_s: each slot is fired up to so many seconds later, the same delay however often it is asked for.
        retry: what to do after an intent that failed.
        pause_after: after so many fires in a row that failed for want of money it pauses itself; 0: never.
        guardrails: what its intents are held to, beside the session's.
    """

    name: str
    kind: str
    session: str
    strategy: Strategy
    when: Schedule | None
    event: OnEvent | None = None
    only_if: Condition | None = None
    enabled: bool = True
    sponsored: bool = True
    max_lateness_s: int | None = None
    start_s: int | None = None
    end_s: int | None = None
    max_executions: int | None = None
    catch_up: CatchUp = "one"
    jitter_s: int = 0
    retry: Retry | None = None
    pause_after: int = 3
    guardrails: Guardrails = field(default_factory=Guardrails)
