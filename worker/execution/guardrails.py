"""Guardrails applied: what a trade is held to beside its session's policies, before it is quoted and before it is signed.

Nothing here can allow what a policy denies: policies are judged as well, by themselves. What counts over time (rolling
caps, cooldown, trades in flight) is decided in the ledger's script, in one step with the budgets, under the guardrails
that ``charges`` was given; if they have changed by then, the trade is judged again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from worker.execution.errors import GuardrailDeniedError
from worker.execution.flows import Flows
from worker.execution.tokens import amount_format
from worker.intents.model import IntentRecord, Swap
from worker.ledger.errors import GuardrailExceededError
from worker.ledger.port import Charge, WindowCap
from worker.policies.base import Execution
from worker.policies.guardrails import (
    BPS,
    SESSION_SCOPE,
    STRATEGY_SCOPE,
    WINDOWS_MS,
    GasRefundCap,
    Guardrails,
    ScopeRules,
)
from worker.sessions.importing import RegisteredSession

_LESS = "ask for less"
_WINDOWS = tuple(WINDOWS_MS)
_KINDS = {window: f"per_{window}" for window in _WINDOWS} | {
    "cooldown": "cooldown",
    "in-flight": "max_in_flight",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What an intent does with one session, and the guardrails that hold for it.

    Attributes:
        session: on whose chain it is.
        rules: the session's own, and the strategy's.
        flows: what it takes there.
        own: whether it is the intent's own session, in whose books the record is.
    """

    session: RegisteredSession
    rules: tuple[ScopeRules, ...]
    flows: Flows
    own: bool = True

    def scope(self, rules: ScopeRules) -> str:
        """Whose guardrails they are, in words."""
        if rules.scope == SESSION_SCOPE:
            return f"session {self.session.session_id}"
        return f"strategy {rules.scope.removeprefix(STRATEGY_SCOPE)} (in session {self.session.session_id})"

    def write(self, token: str, amount: int) -> str:
        """An amount in words."""
        return amount_format(self.session.chain_id)(token, amount)


def rules_mark(parts: Iterable[tuple[RegisteredSession, str]]) -> str:
    """Names the guardrails by which an intent was judged; ``""`` when there are none.

    Args:
        parts: each session with the intent's source.
    """
    marks = [
        rules.sha if rules.text else "-" for session, source in parts for rules in session.rules_of(source)
    ]
    return " ".join(marks) if any(mark != "-" for mark in marks) else ""


# --- time


def latest_s(record: IntentRecord, sessions: Iterable[RegisteredSession]) -> tuple[int, str]:
    """The unix second until which an intent may be signed by its guardrails, and whose that is; 0 for no limit."""
    found, whose = 0, ""
    for session in sessions:
        for rules in session.rules_of(record.intent.source):
            lateness_s = rules.guardrails.max_lateness_s
            if lateness_s is None:
                continue
            until_s = born_s(record) + lateness_s
            if not found or until_s < found:
                part = Part(session, (), Flows())
                found = until_s
                whose = f"{lateness_s} s are allowed by {part.scope(rules)}"
    return found, whose


def born_s(record: IntentRecord) -> int:
    """The time that an intent is for, unix seconds: its slot's if a strategy fired it at one, else when it was enqueued."""
    source, key = record.intent.source, record.intent.idempotency_key
    if source.startswith(STRATEGY_SCOPE) and key.startswith(f"{source}:"):
        slot = key.removeprefix(f"{source}:")
        if slot.isascii() and slot.isdigit():
            return int(slot)
    return record.created_ms // 1000


def require_session_left(session: RegisteredSession, source: str, *, now_s: int) -> None:
    """Refuse a session that ends too soon.

    Raises:
        GuardrailDeniedError
    """
    for rules in session.rules_of(source):
        least_s = rules.guardrails.min_session_left_s
        if least_s is not None and session.expires_s and session.expires_s - now_s < least_s:
            scope = Part(session, (), Flows()).scope(rules)
            raise GuardrailDeniedError(
                f"{scope} asks for {least_s} s, and the session is valid for {session.expires_s - now_s} s",
                field="guardrail min_session_left",
                fix="have the user approve a new session",
            )


def quote_left_s(least_s: int, source: str, *sessions: RegisteredSession) -> int:
    """For how many seconds a quote must still be valid: the settings' ``least_s``, or what a guardrail asks for."""
    asked = [
        rules.guardrails.min_quote_left_s or 0 for session in sessions for rules in session.rules_of(source)
    ]
    return max(least_s, *asked, 0)


# --- amounts and addresses


def require_within(part: Part, swaps: Sequence[Swap] = ()) -> None:
    """Hold what an intent does with one session against everything that does not depend on time.

    Raises:
        GuardrailDeniedError: names the guardrail, its numbers and its scope.
    """
    for rules in part.rules:
        guardrails = rules.guardrails
        for token, amount in part.flows.amounts.items():
            limit = guardrails.limit("per_trade", token)
            if limit is not None and amount > limit:
                _deny(
                    "per_trade",
                    part,
                    rules,
                    f"{part.write(token, limit)} allowed, this trade takes {part.write(token, amount)}",
                    _LESS,
                )
        _require_receivers(part, rules)
        _require_rates(part, rules, swaps)


def approval_needed(part: Part) -> str:
    """Why an operator has to confirm an intent, in words; ``""`` if nobody has to."""
    for rules in part.rules:
        for token, amount in part.flows.amounts.items():
            above = rules.guardrails.limit("approval_above", token)
            if above is not None and amount > above:
                return (
                    f"guardrail approval_above: {part.write(token, above)} allowed by {part.scope(rules)} without an "
                    f"approval, this trade takes {part.write(token, amount)}"
                )
    return ""


def _require_receivers(part: Part, rules: ScopeRules) -> None:
    """Everybody who is paid or may take is listed. What cannot be told is denied while receivers are bounded."""
    guardrails, account = rules.guardrails, part.session.account
    recipients, spenders = guardrails.recipients, guardrails.spenders
    if recipients is not None:
        for index, address in part.flows.receivers:
            if address not in recipients and address != account:
                _deny(
                    "recipients", part, rules, f"{_call(index)}{address} is not listed", "list the receiver"
                )
    if spenders is None and recipients is None:
        return
    # an allowance can be turned into a payment, so a list of recipients holds for spenders, too, unless they have their own
    listed, name = (recipients, "recipients") if spenders is None else (spenders, "spenders")
    for index, address in part.flows.spenders:
        if address not in (listed or ()):
            _deny(name, part, rules, f"{_call(index)}{address} is not listed", "list the spender")
    if recipients is None:
        return
    known = {*recipients, *(spenders or ())}
    for index, call in part.flows.unclear:
        if call.to not in known:
            _deny(
                "recipients",
                part,
                rules,
                f"{_call(index)}who receives by function 0x{call.data[:4].hex()} of {call.to} cannot be told",
                "list that contract among the recipients or spenders if it may be called",
            )


def _require_rates(part: Part, rules: ScopeRules, swaps: Sequence[Swap]) -> None:
    """What calls swap brings at least its reference price, by a minimum that is in the calldata."""
    guardrails = rules.guardrails
    priced = {rate.sell for rate in guardrails.min_rates}
    # an approval without a swap counts, too: what is left of it could be swapped at any price later
    for token in sorted(part.flows.handed & priced):
        told = [swap for swap in swaps if swap.sell == token]
        if not told:
            _deny(
                "min_rates",
                part,
                rules,
                f"the calls sell {token}, and what they receive for it at least cannot be told",
                "swap by a strategy with a router, or as a trade with tokens",
            )
        sold = sum(swap.sell_amount for swap in told)
        if part.flows.amounts.get(token, 0) > sold:
            _deny(
                "min_rates",
                part,
                rules,
                f"the calls take {part.write(token, part.flows.amounts.get(token, 0))}, and only "
                f"{part.write(token, sold)} is said to be swapped",
                "say all that is swapped",
            )
    for swap in swaps:
        if swap.sell in priced and not _in_calldata(swap.least, part.flows.unclear):
            _deny(
                "min_rates",
                part,
                rules,
                f"the minimum {part.write(swap.buy, swap.least)} is in no call",
                "pass $min_out to the router",
            )
        require_rate(part, rules, {swap.sell: swap.sell_amount}, {swap.buy: swap.least})


def _in_calldata(word: int, calls: Iterable[tuple[int, Execution]]) -> bool:
    wanted = word.to_bytes(32)
    return any(
        call.data[at : at + 32] == wanted for _, call in calls for at in range(4, len(call.data) - 31, 32)
    )


def require_rate(part: Part, rules: ScopeRules, sold: Mapping[str, int], bought: Mapping[str, int]) -> None:
    """Hold a swap against the reference prices; pairs without one are not bounded.

    Args:
        part: for the words.
        rules: whose reference prices.
        sold: token -> base units.
        bought: token -> base units that are received at least.

    Raises:
        GuardrailDeniedError
    """
    rates = {
        (rate.sell, rate.buy): Fraction(rate.buy_amount, rate.sell_amount)
        for rate in rules.guardrails.min_rates
        if sold.get(rate.sell) and rate.buy in bought
    }
    if not rates:
        return
    if len(sold) > 1 and len(bought) > 1:
        _deny(
            "min_rates",
            part,
            rules,
            "several tokens are sold for several others, and what is received for which cannot be told",
            "split the trade",
        )
    share = Fraction(BPS - (rules.guardrails.max_slippage_bps or 0), BPS)
    if len(bought) == 1:
        [(buy, got)] = bought.items()
        fair = sum((sold[sell] * rate for (sell, _), rate in rates.items()), Fraction(0))
        least = ceil(fair * share)
        if got < least:
            slippage = f" less {_percent(rules.guardrails)}" if rules.guardrails.max_slippage_bps else ""
            _deny(
                "min_rates",
                part,
                rules,
                f"at least {part.write(buy, least)} must be received (the reference price{slippage}), this trade is sure "
                f"of {part.write(buy, got)}",
                "wait for a better price, or set another reference price",
            )
        return
    [(sell, amount)] = sold.items()
    covered = sum((bought[buy] / rate for (_, buy), rate in rates.items()), Fraction(0))
    if covered < amount * share:
        _deny(
            "min_rates",
            part,
            rules,
            f"{part.write(sell, amount)} is sold, and by the reference prices what is received is worth "
            f"{part.write(sell, int(covered))}",
            "wait for a better price, or set another reference price",
        )


def require_fee(part: Part, rules: ScopeRules, fees: Mapping[str, int]) -> None:
    """Hold what a trade costs against ``max_fee``.

    Args:
        part: for the words.
        rules: whose guardrails.
        fees: token of the target chain -> base units.

    Raises:
        GuardrailDeniedError
    """
    for token, fee in fees.items():
        most = rules.guardrails.limit("max_fee", token)
        if most is not None and fee > most:
            _deny(
                "max_fee",
                part,
                rules,
                f"{part.write(token, most)} allowed, this trade costs {part.write(token, fee)}",
                "wait for a cheaper route",
            )


def refund_caps(rules: Sequence[ScopeRules]) -> dict[str, GasRefundCap]:
    """What may be signed as gas refund, by token. A session has to allow it; a strategy can only narrow it."""
    caps: dict[str, GasRefundCap] = {}
    for item in rules:
        own = {cap.token: cap for cap in item.guardrails.max_gas_refund}
        if item.scope == SESSION_SCOPE:
            caps = own
        elif own:
            caps = {
                token: GasRefundCap(
                    token=token,
                    exchange_rate=min(cap.exchange_rate, own[token].exchange_rate),
                    overhead=min(cap.overhead, own[token].overhead),
                )
                for token, cap in caps.items()
                if token in own
            }
    return caps


# --- over time


def charges(parts: Iterable[Part]) -> tuple[Charge, ...]:
    """What the ledger's script counts and decides, one for each scope."""
    return tuple(
        Charge(
            scope=rules.scope,
            rules_field=rules.field_name,
            rules_sha=rules.sha,
            amounts=part.flows.amounts,
            caps=tuple(
                WindowCap(window, token, limit)
                for window in _WINDOWS
                for token in part.flows.amounts
                if (limit := rules.guardrails.limit(f"per_{window}", token)) is not None
            ),
            cooldown_ms=(rules.guardrails.cooldown_s or 0) * 1000,
            max_in_flight=rules.guardrails.max_in_flight or 0,
            session="" if part.own else part.session.session_id.removeprefix("ses_"),
        )
        for part in parts
        for rules in part.rules
    )


def over_time(error: GuardrailExceededError, parts: Sequence[Part]) -> GuardrailDeniedError:
    """The ledger's refusal in words."""
    part, rules = next(
        (part, rules)
        for part in parts
        for rules in part.rules
        if rules.scope == error.scope
        and error.session in {"", part.session.session_id.removeprefix("ses_")}
        and (part.own or error.session)
    )
    name = _KINDS[error.kind]
    if error.kind == "cooldown":
        words = f"{error.limit // 1000} s must lie between two trades, {error.used / 1000:.1f} s have passed since the last"
        fix = "wait"
    elif error.kind == "in-flight":
        words, fix = f"{error.limit} trades allowed in flight, {error.used} are", "wait for one to end"
    else:
        token = error.token
        words = (
            f"{part.write(token, error.limit)} allowed in any {error.kind}, {part.write(token, error.used)} is used or "
            f"in flight, this trade takes {part.write(token, error.amount)}"
        )
        fix = "wait, or ask for less"
    return GuardrailDeniedError(f"{words}; set for {part.scope(rules)}", field=f"guardrail {name}", fix=fix)


def _deny(name: str, part: Part, rules: ScopeRules, words: str, fix: str) -> None:
    raise GuardrailDeniedError(f"{words}; set for {part.scope(rules)}", field=f"guardrail {name}", fix=fix)


def _call(index: int) -> str:
    return f"call {index}: " if index >= 0 else ""


def _percent(guardrails: Guardrails) -> str:
    bps = guardrails.max_slippage_bps or 0
    return f"{bps // 100}.{bps % 100:02} %"
