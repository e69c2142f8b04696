"""What a session key may do, beyond what a trade needs: findings, a score, and words for people.

Pure: judged from the session alone, by the merged table that the emissary stores. What counts is what the chain lets a
stolen key do; that this program refuses more is no comfort then.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from worker.policies import (
    ArgPolicy,
    IntentExecution,
    SpendingLimits,
    Sudo,
    TimeFrame,
    UniversalAction,
    UsageLimit,
    ValueLimit,
)
from worker.policies.arg_policy import AndExpression, Expression, OrExpression, RuleExpression
from worker.policies.evaluate import FALLBACK_SELECTOR, FALLBACK_TARGET, NO_FUNCTION_SELECTOR
from worker.policies.policy import AmountFormat, PolicyModel, plain_amount
from worker.policies.rules import Rule
from worker.policies.spending_limits import APPROVE, INCREASE_ALLOWANCE, TRANSFER, TRANSFER_FROM
from worker.sessions.chains import chain_of
from worker.sessions.errors import ExcessPrivilegeError, SessionError
from worker.sessions.importing import RegisteredSession

Severity = Literal["severe", "notice"]

UNLIMITED = 2**127
"""An amount from here on is no limit. ``2**128-1`` and larger are the usual ways to write "all of it", and no token has
so many base units: the largest supplies with 18 decimals are some ``2**110``."""

LONG_WINDOW_S = 366 * 86_400
"""A key that is still good in more than a year outlives the people and machines that it was made for."""

SET_APPROVAL_FOR_ALL = bytes.fromhex("a22cb465")

#: Code → (severity, points off the score of 100, what is said before the list of actions).
_CODES: dict[str, tuple[Severity, int, str]] = {
    "unrestricted": (
        "severe",
        40,
        (
            "this session is not restricted: its key may sign any message for the account, token permits included, "
            "whatever its actions say; ask for restrictToActions"
        ),
    ),
    "sudo": ("severe", 40, "anything goes (sudo)"),
    "fallback": ("severe", 30, "calls that no action names are allowed"),
    "own-account": (
        "severe",
        40,
        "the account's own functions may be called, which can change its owners and modules",
    ),
    "no-expiry": ("severe", 25, "never ends"),
    "no-limit": ("severe", 25, "no limit on what is moved in all"),
    "unlimited-amount": ("severe", 25, "the limit is so large that it is none"),
    "any-spender": ("severe", 20, "whoever the key names may be given an allowance"),
    "long-window": ("severe", 15, "still good in more than a year"),
    "any-recipient": ("notice", 10, "whoever the key names may receive it"),
}
CODES = tuple(_CODES)
"""Every finding's code, in the order in which they are reported."""

#: The words that hold an amount, in bytes after the selector.
_AMOUNT_AT = {TRANSFER: 32, TRANSFER_FROM: 64, APPROVE: 32, INCREASE_ALLOWANCE: 32}
#: The word that names who gets it: a spender, an operator, or a recipient.
_SPENDER_AT = {APPROVE: 0, INCREASE_ALLOWANCE: 0, SET_APPROVAL_FOR_ALL: 0}
_RECIPIENT_AT = {TRANSFER: 0, TRANSFER_FROM: 32}
_FUNCTIONS = {
    TRANSFER: "transfer(address,uint256)",
    TRANSFER_FROM: "transferFrom(address,address,uint256)",
    APPROVE: "approve(address,uint256)",
    INCREASE_ALLOWANCE: "increaseAllowance(address,uint256)",
    SET_APPROVAL_FOR_ALL: "setApprovalForAll(address,bool)",
    NO_FUNCTION_SELECTOR: "plain transfers of native currency",
}
_FALLBACK = (FALLBACK_TARGET, FALLBACK_SELECTOR)
_SHOWN = 3
_LAST_PRINTABLE_S = 253_402_300_799  # 9999-12-31T23:59:59Z

_Key = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a session may do more than it needs.

    Attributes:
        code: one of ``CODES``; what ``--accept-risk`` takes.
        severity: ``severe`` is refused at import unless it is accepted by its code, ``notice`` is only told.
        words: what it is and which actions it is about, in an operator's words.
    """

    code: str
    severity: Severity
    words: str


def findings(session: RegisteredSession, *, now_s: int) -> tuple[Finding, ...]:
    """All that a session may do beyond what a trade needs, in the order of ``CODES``.

    Where it cannot be seen that something is bounded, it counts as unbounded.

    Args:
        session: the session.
        now_s: unix seconds, to tell how long it is still good.
    """
    found: dict[str, list[str]] = {}
    if not session.restricted:
        found["unrestricted"] = []
    for key, policies in _granted(session):
        for code in _codes(session, key, policies, now_s):
            found.setdefault(code, []).append(_name(session, key))
    return tuple(
        Finding(code, severity, words + _listed(found[code]))
        for code, (severity, _, words) in _CODES.items()
        if code in found
    )


def score(found: Sequence[Finding]) -> int:
    """From 100 (nothing found) down to 0; each code counts once."""
    return max(0, 100 - sum(_CODES[code][1] for code in {finding.code for finding in found}))


def require_accepted(found: Sequence[Finding], accepted: Collection[str]) -> None:
    """Refuse severe findings that nobody has accepted.

    Args:
        found: what ``findings`` returned.
        accepted: codes that an operator has accepted.

    Raises:
        ExcessPrivilegeError: a severe finding is not accepted, or there is no such code.
    """
    for code in accepted:
        if code not in _CODES:
            raise ExcessPrivilegeError(
                f"{code[:60]!r} is no finding's code", field="--accept-risk", fix=f"known: {', '.join(CODES)}"
            )
    refused = [finding for finding in found if finding.severity == "severe" and finding.code not in accepted]
    if refused:
        flags = " ".join(f"--accept-risk {finding.code}" for finding in refused)
        raise ExcessPrivilegeError(
            "may do more than it needs: "
            + "; ".join(f"{finding.words} [{finding.code}]" for finding in refused),
            field="session file",
            fix=f"have the user approve a narrower session, or import it with {flags}",
        )


def summary(session: RegisteredSession, *, amount: AmountFormat = plain_amount) -> tuple[str, ...]:
    """What the key can do, one sentence a line.

    Args:
        session: the session.
        amount: how amounts are written.
    """
    one = len(session.owners) == 1
    who = f"the key {session.owners[0]}" if one else f"the keys {', '.join(session.owners)} together"
    lines = [
        f"{who} may act for the account {session.account} on {_chain(session.chain_id)}, without asking its owner"
    ]
    if not session.restricted:
        lines.append(
            "may sign any message for the account, token permits included: nothing below is a limit to that"
        )
    for key, policies in _granted(session):
        told = [words for policy in policies if (words := _words(policy, amount))]
        if any(not isinstance(policy, Sudo) for policy in policies):
            told = [words for words in told if words != _SUDO]
        for at, role in ((_SPENDER_AT, "spender"), (_RECIPIENT_AT, "recipient")):
            if key[1] in at and not _always(policies, _equal_at(at[key[1]])):
                told.append(f"any {role}")
        if key != _FALLBACK and not policies:
            told = ["only as far as calls that no action names are allowed"]
        lines.append(f"may call {_name(session, key)}: {'; '.join(told)}")
    # policies.md 2, time-frame: the emissary discards the window
    lines.append(
        f"ends at {_utc(session.expires_s)} here; the chain does not hold it to that, so revoke it if its key may be stolen"
        if session.expires_s
        else "never ends by itself"
    )
    return tuple(lines)


def _granted(session: RegisteredSession) -> Iterator[tuple[_Key, tuple[PolicyModel, ...]]]:
    """What the user granted, each action once, with its merged policies; without actions it is the fallback."""
    keys = dict.fromkeys(
        _FALLBACK if action.target is None or action.selector is None else (action.target, action.selector)
        for action in session.actions
    )
    for key in keys or (_FALLBACK,):
        yield key, session.table.actions.get(key, ())


def _codes(
    session: RegisteredSession, key: _Key, policies: tuple[PolicyModel, ...], now_s: int
) -> Iterator[str]:
    target, selector = key
    if key == _FALLBACK:
        yield "fallback"
    elif not policies:
        return  # the fallback guards it
    if target == session.account:
        yield "own-account"
    end_s = max((policy.valid_until_s for policy in policies if isinstance(policy, TimeFrame)), default=0)
    if not end_s:
        yield "no-expiry"
    elif end_s - now_s > LONG_WINDOW_S:
        yield "long-window"
    if all(isinstance(policy, Sudo) for policy in policies):
        yield "sudo"
        return
    largest = _largest(key, policies)
    if largest is None:
        yield "no-limit"
    elif largest >= UNLIMITED:
        yield "unlimited-amount"
    if selector in _SPENDER_AT and not _always(policies, _equal_at(_SPENDER_AT[selector])):
        yield "any-spender"
    if selector in _RECIPIENT_AT and not _always(policies, _equal_at(_RECIPIENT_AT[selector])):
        yield "any-recipient"


def _largest(key: _Key, policies: Sequence[PolicyModel]) -> int | None:
    """The largest sum that the action may ever move: of what it names, or in wei. None: it is not bounded."""
    uses = min((policy.limit for policy in policies if isinstance(policy, UsageLimit)), default=None)
    if uses is not None and uses >= UNLIMITED:
        uses = None
    moved, native = _moved(key, policies, uses), _native(policies, uses)
    if moved is None or native is None:
        return None
    return max(moved, native)


def _moved(key: _Key, policies: Sequence[PolicyModel], uses: int | None) -> int | None:
    target, selector = key
    bounds: list[int] = []
    for policy in policies:
        if isinstance(policy, SpendingLimits):
            # on the fallback every listed token may be the target
            listed = [limit.amount for limit in policy.limits]
            bounds.append(max(listed, default=0) if key == _FALLBACK else policy.limit_of(target))
    at = _AMOUNT_AT.get(selector)
    if at is not None:
        if _always(policies, lambda rule: rule.calldata_offset == at and _sum_bounded(rule)):
            bounds.append(0)
        if uses is not None and _always(policies, lambda rule: rule.calldata_offset == at and _bounded(rule)):
            bounds.append(0)
        return min(bounds, default=None)
    if selector == SET_APPROVAL_FOR_ALL:
        return min(bounds, default=None)
    # what other functions move cannot be seen: a limit on calls, on native value or on a sum of arguments will do
    bounds += [policy.limit for policy in policies if isinstance(policy, ValueLimit)]
    if uses is not None or _always(policies, _sum_bounded):
        bounds.append(0)
    return min(bounds, default=None)


def _native(policies: Sequence[PolicyModel], uses: int | None) -> int | None:
    """Wei that the action may send in all; None: any."""
    bounds: list[int] = []
    for policy in policies:
        if isinstance(policy, SpendingLimits):
            bounds.append(0)
        elif isinstance(policy, ValueLimit):
            bounds.append(policy.limit)
        elif isinstance(policy, UniversalAction | ArgPolicy):
            if policy.value_limit_per_use == 0:
                bounds.append(0)
            elif uses is not None:
                bounds.append(policy.value_limit_per_use * uses)
    return min(bounds, default=None)


def _always(policies: Sequence[PolicyModel], test: Callable[[Rule], bool]) -> bool:
    """Whether no call can pass without a rule for which ``test`` is true."""
    return any(
        any(test(rule) for rule in policy.rules)
        if isinstance(policy, UniversalAction)
        else isinstance(policy, ArgPolicy) and _every_way(policy.expression, test)
        for policy in policies
    )


def _every_way(part: Expression, test: Callable[[Rule], bool]) -> bool:
    if isinstance(part, RuleExpression):
        return test(part.rule)
    if isinstance(part, AndExpression):
        return _every_way(part.left, test) or _every_way(part.right, test)
    if isinstance(part, OrExpression):
        return _every_way(part.left, test) and _every_way(part.right, test)
    return False  # what a negation pins is not worth finding out


def _equal_at(offset: int) -> Callable[[Rule], bool]:
    return lambda rule: rule.condition == "equal" and rule.calldata_offset == offset


def _sum_bounded(rule: Rule) -> bool:
    return rule.usage_limit is not None and rule.usage_limit < UNLIMITED


def _bounded(rule: Rule) -> bool:
    if rule.condition == "inRange":
        return rule.reference_value & (2**128 - 1) < UNLIMITED
    return rule.condition in {"equal", "lessThan", "lessThanOrEqual"} and rule.reference_value < UNLIMITED


_SUDO = "anything goes"


def _words(policy: PolicyModel, amount: AmountFormat) -> str:
    if isinstance(policy, Sudo):
        return _SUDO
    if isinstance(policy, SpendingLimits):
        limits = (_amount(limit.token, limit.amount, amount) for limit in policy.limits)
        return f"at most {', '.join(limits)} in all"
    if isinstance(policy, TimeFrame):
        start = f"from {_utc(policy.valid_after_s)} " if policy.valid_after_s else ""
        return f"{start}until {_utc(policy.valid_until_s)}" if policy.valid_until_s else f"{start}without end"
    if isinstance(policy, UsageLimit):
        return f"{policy.limit} calls in all"
    if isinstance(policy, ValueLimit):
        return f"at most {_amount('', policy.limit, amount)} sent with the calls in all"
    if isinstance(policy, UniversalAction):
        return "; ".join(_rule(rule) for rule in policy.rules)
    if isinstance(policy, ArgPolicy):
        return f"an expression of {len(policy.compiled[0])} rules over its arguments must hold"
    if isinstance(policy, IntentExecution):
        return "only targets on the orchestrator's list, which its owner may change"
    return ""


def _rule(rule: Rule) -> str:
    signs = {
        "equal": "is",
        "notEqual": "is not",
        "greaterThan": ">",
        "lessThan": "<",
        "greaterThanOrEqual": ">=",
        "lessThanOrEqual": "<=",
    }
    where = (
        f"argument {rule.calldata_offset // 32}"
        if rule.calldata_offset % 32 == 0
        else f"the word at {rule.calldata_offset}"
    )
    if rule.condition == "inRange":
        told = f"{where} from {rule.reference_value >> 128} to {rule.reference_value & (2**128 - 1)}"
    else:
        value = rule.reference_value
        # beyond 64 bits it is an address or a hash more often than a number
        told = f"{where} {signs[rule.condition]} {value if value < 2**64 else f'0x{value:040x}'}"
    return told if rule.usage_limit is None else f"{told}, at most {rule.usage_limit} over all calls"


def _amount(token: str, value: int, amount: AmountFormat) -> str:
    return "any amount" if value >= UNLIMITED else amount(token, value)


def _name(session: RegisteredSession, key: _Key) -> str:
    if key == _FALLBACK:
        return "whatever no action names" if session.actions else "anything"
    target, selector = key
    function = _FUNCTIONS.get(selector, f"function 0x{selector.hex()}")
    try:
        token = chain_of(session.chain_id).token_at(target)
    except SessionError:
        token = None
    return f"{function} of {target}" + (f" ({token.symbol})" if token else "")


def _listed(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = len(names) - _SHOWN
    return ": " + ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _chain(chain_id: int) -> str:
    try:
        return f"{chain_of(chain_id).name} ({chain_id})"
    except SessionError:
        return f"chain {chain_id}"


def _utc(seconds: int) -> str:
    if seconds > _LAST_PRINTABLE_S:
        return f"unix second {seconds}"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
