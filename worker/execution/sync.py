"""What the chain's policy contracts have counted for a session, beside what the ledger has.

Where the chain has counted more, the difference was used elsewhere; ``sync`` holds it, so that the larger of the two counts
until an operator resolves it. Only some policies have getters (policies.md 3), and not every deployed revision is known to have them: what does not
answer is said to be unknown, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.chain.errors import CallRevertedError
from worker.execution.errors import SyncUnsettledError
from worker.execution.runtime import Runtime
from worker.ledger.port import Budget, Resolution
from worker.policies import ArgPolicy, SpendingLimits, UniversalAction, UsageLimit, ValueLimit
from worker.policies.arg_policy import AndExpression, Expression, NotExpression, OrExpression
from worker.policies.evaluate import FALLBACK_SELECTOR, FALLBACK_TARGET, action_id
from worker.policies.policy import PolicyModel
from worker.sessions import emissary
from worker.sessions.importing import RegisteredSession
from worker.sessions.v2 import SessionV2
from worker.signing.contracts import SMART_SESSION_EMISSARY

if TYPE_CHECKING:
    from worker.chain.reader import ChainReader

#: How often the two sides are read again when trades end in between.
_TRIES = 5
_FALLBACK = (FALLBACK_TARGET, FALLBACK_SELECTOR)


class Outcome(StrEnum):
    """What the comparison of one counter says.

    ``UNKNOWN``: the chain did not say. ``LIMIT_DIFFERS``: it enforces another limit than the session's file has.
    """

    AGREES = "agrees"
    CHAIN_AHEAD = "chain ahead"
    LEDGER_AHEAD = "ledger ahead"
    LIMIT_DIFFERS = "limit differs"
    UNKNOWN = "unknown"


DRIFT = frozenset({Outcome.CHAIN_AHEAD, Outcome.LEDGER_AHEAD, Outcome.LIMIT_DIFFERS})


@dataclass(frozen=True, slots=True)
class CounterState:
    """One counter on both sides; base units of the token, wei, or uses.

    Attributes:
        target: of the action, lower-case; ``selector`` 4 bytes.
        policy: the policy type.
        token: lower-case address for token counters, else ``""``.
        limit: what the session's file says; None where a policy has no single one.
        spent: settled in the ledger, before the chain was read.
        reserved: held in the ledger, after the chain was read.
        elsewhere: held in the ledger as used by others, after the chain was read.
        chain_limit: the contract's limit, None if unknown.
        chain_used: what the contract has counted, None if unknown.
        outcome: the comparison.
        note: why it is unknown, or what a difference means.
    """

    target: str
    selector: bytes
    policy: str
    token: str
    limit: int | None
    spent: int
    reserved: int
    elsewhere: int
    chain_limit: int | None
    chain_used: int | None
    outcome: Outcome
    note: str


@dataclass(frozen=True, slots=True)
class _Counter:
    key: tuple[str, bytes]
    policy: PolicyModel
    kind: str
    limit: int | None
    token: str = ""

    @property
    def name(self) -> str:
        """As the ledger names it."""
        return f"{action_id(*self.key)}:{self.kind}:{self.token or '-'}"


class _UnknownError(Exception):
    """The chain does not say; the message is why."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A counter, the chain's ``(limit, used)`` or why it is unknown, and its books before and after it was asked."""

    counter: _Counter
    found: tuple[int, int] | _UnknownError
    before: Budget | None
    after: Budget | None

    def budget(self) -> Budget:
        """The books before, also of a counter that has none yet."""
        counter = self.counter
        return self.before or Budget(counter.name, counter.token, counter.kind, counter.limit or 0, 0, 0)


def compare_counters(runtime: Runtime, session: RegisteredSession) -> tuple[CounterState, ...]:
    """Read every counter that has a getter and hold it against the ledger.

    Intents in flight are no drift: what the chain has counted may lie anywhere between what was spent before it was asked
    and what is spent or reserved after.

    Args:
        runtime: the services.
        session: the session.

    Raises:
        ChainError, WrongChainError: the chain cannot be asked at all.
        EmissaryReplyError, LedgerUnavailableError
    """
    return tuple(_compared(row) for row in _rows(runtime, session))


def sync(runtime: Runtime, session: RegisteredSession) -> tuple[CounterState, ...]:
    """Compare, and hold what the chain has counted beyond the ledger: it leaves as much less until it is resolved.

    Args:
        runtime: the services.
        session: the session.

    Raises:
        SyncUnsettledError: trades end and begin faster than the chain can be read.
        ChainError, WrongChainError, EmissaryReplyError, LedgerUnavailableError
    """
    for _ in range(_TRIES):
        rows = _rows(runtime, session)
        if all(_held(runtime, session, row) for row in rows):
            held = _budgets(runtime, session)
            return tuple(_compared(replace(row, after=held.get(row.counter.name))) for row in rows)
    raise SyncUnsettledError(
        "its budgets change faster than the chain can be read", field="session", fix="pause it, and try again"
    )


def resolve(runtime: Runtime, session: RegisteredSession, *, who: str, why: str) -> tuple[Resolution, ...]:
    """Make the chain's word what is spent, for every counter where the two differ. Each is kept with who and why.

    Args:
        runtime: the services.
        session: the session.
        who: the operator.
        why: what was found out.

    Returns:
        What was resolved.

    Raises:
        SyncUnsettledError: trades of such a counter are in flight, and nothing is changed; or the books changed meanwhile.
        ChainError, WrongChainError, EmissaryReplyError, LedgerUnavailableError
    """
    rows = [
        row
        for row in _rows(runtime, session)
        if _compared(row).outcome in {Outcome.CHAIN_AHEAD, Outcome.LEDGER_AHEAD}
    ]
    for row in rows:
        if row.budget().reserved:
            raise SyncUnsettledError(
                f"has {row.budget().reserved} reserved by trades in flight, which the chain may have counted or not",
                field=row.counter.name,
                fix="pause the session, wait until they have ended, and try again",
            )
    done: list[Resolution] = []
    for row in rows:
        assert isinstance(row.found, tuple)
        line = Resolution(runtime.now_ms(), who, why, row.counter.name, row.budget().spent, row.found[1])
        if runtime.ledger.book(session.session_id, row.budget(), counted=row.found[1], resolve=line) is None:
            raise SyncUnsettledError("its budgets have changed meanwhile", field="session", fix="try again")
        done.append(line)
    return tuple(done)


def _held(runtime: Runtime, session: RegisteredSession, row: _Row) -> bool:
    """Hold one counter's difference; False when the books have moved on since they were read."""
    budget = row.budget()
    if not isinstance(row.found, tuple) or (row.found[1] <= budget.spent and not budget.elsewhere):
        return True
    return runtime.ledger.book(session.session_id, budget, counted=row.found[1]) is not None


def _rows(runtime: Runtime, session: RegisteredSession) -> list[_Row]:
    # asked once each: an operator can repeat a command, and a revert would not go away
    enabled = emissary.decode_is_permission_enabled(
        runtime.chain_of(session.chain_id).call(
            SMART_SESSION_EMISSARY,
            emissary.is_permission_enabled_call(session.account, session.permission_id),
        )
    )
    before = _budgets(runtime, session)
    read: list[tuple[_Counter, tuple[int, int] | _UnknownError]] = []
    for counter in _counters(session):
        try:
            read.append((counter, _read(runtime, session, counter, enabled=enabled)))
        except _UnknownError as why:
            read.append((counter, why))
    after = _budgets(runtime, session)
    return [
        _Row(counter, found, before.get(counter.name), after.get(counter.name)) for counter, found in read
    ]


def _budgets(runtime: Runtime, session: RegisteredSession) -> Mapping[str, Budget]:
    return {budget.counter: budget for budget in runtime.ledger.budgets(session.session_id)}


def _counters(session: RegisteredSession) -> Iterator[_Counter]:
    """The counters of what the user granted; the injected actions' are never spent."""
    keys = dict.fromkeys(
        _FALLBACK if action.target is None or action.selector is None else (action.target, action.selector)
        for action in session.actions
    )
    for key in keys:
        for policy in session.table.actions.get(key, ()):
            if isinstance(policy, SpendingLimits):
                listed = dict.fromkeys(limit.token for limit in policy.limits)
                # the token is the call's target, so an action for one target counts one token
                for token in listed if key == _FALLBACK else [key[0]] if key[0] in listed else []:
                    yield _Counter(key, policy, policy.type, policy.limit_of(token), token)
            elif isinstance(policy, UsageLimit | ValueLimit):
                yield _Counter(key, policy, policy.type, policy.limit)
            elif isinstance(policy, UniversalAction | ArgPolicy) and _has_sums(policy):
                yield _Counter(key, policy, policy.type, None)


def _has_sums(policy: UniversalAction | ArgPolicy) -> bool:
    if isinstance(policy, UniversalAction):
        return any(rule.usage_limit is not None for rule in policy.rules)
    pending: list[Expression] = [policy.expression]
    while pending:
        part = pending.pop()
        if isinstance(part, AndExpression | OrExpression):
            pending += [part.left, part.right]
        elif isinstance(part, NotExpression):
            pending.append(part.child)
        elif part.rule.usage_limit is not None:
            return True
    return False


def _read(
    runtime: Runtime, session: RegisteredSession, counter: _Counter, *, enabled: bool
) -> tuple[int, int]:
    """``(limit, used)`` as the policy's contract has them (policies.md 3). Raises _UnknownError, ChainError."""
    if not enabled:
        raise _UnknownError("the session is not enabled on chain")
    config = emissary.config_id(
        session.account, session.permission_id, bytes.fromhex(action_id(*counter.key))
    )
    contract = (
        session.session.contract(counter.policy)
        if isinstance(session.session, SessionV2)
        else counter.policy.contract()
    )

    def ask(function: str, *more: str) -> list[int]:
        types = ["bytes32", *(["address"] * (2 + len(more)))]
        data = keccak(f"{function}({','.join(types)})".encode())[:4]
        data += encode(types, [config, SMART_SESSION_EMISSARY, *more, session.account])
        return _words(function, _asked(runtime.chain_of(session.chain_id), contract, function, data))

    match counter.kind:
        case "spending-limits":
            limit, *used = ask("getPolicyData", counter.token)
            if not 1 <= len(used) <= 2:  # the first revisions have one sum for both
                raise _UnknownError(f"getPolicyData of {contract} answers in a form that is not known")
            return limit, sum(used)
        case "usage-limit":
            return _one(ask, "getUsageLimit"), _one(ask, "getUsed")
        case "value-limit":
            return _one(ask, "getValueLimit"), _one(ask, "getUsed")
        case _:
            raise _UnknownError("its contract has no getter for the sums of its rules")


def _one(ask: Callable[[str], list[int]], function: str) -> int:
    words = ask(function)
    if len(words) != 1:
        raise _UnknownError(f"{function} answers in a form that is not known")
    return words[0]


def _asked(chain: ChainReader, contract: str, function: str, data: bytes) -> bytes:
    try:
        return chain.call(contract, data)
    except CallRevertedError:
        raise _UnknownError(
            f"{function} of {contract} reverts: its revision has no such getter, or nothing is enabled there"
        ) from None


def _words(function: str, reply: bytes) -> list[int]:
    if not reply:
        raise _UnknownError(f"{function} gives no answer: no contract is there, or one without that getter")
    if len(reply) % 32:
        raise _UnknownError(f"{function} answers in a form that is not known")
    return [int.from_bytes(reply[start : start + 32]) for start in range(0, len(reply), 32)]


def _compared(row: _Row) -> CounterState:
    counter, found, after = row.counter, row.found, row.after
    spent = row.before.spent if row.before else 0
    most = after.spent + after.reserved if after else 0
    chain_limit, chain_used = (None, None) if isinstance(found, _UnknownError) else found
    outcome, note = Outcome.UNKNOWN, str(found)
    if chain_used is not None:
        if chain_limit != counter.limit:
            outcome, note = (
                Outcome.LIMIT_DIFFERS,
                "the chain enforces another limit than the session's file has",
            )
        elif chain_used > most:
            outcome, note = (
                Outcome.CHAIN_AHEAD,
                "the key is used elsewhere too: the chain's number counts until it is resolved",
            )
        elif chain_used < spent:
            outcome, note = (
                Outcome.LEDGER_AHEAD,
                "the ledger's number counts until it is resolved: the session was enabled anew, or a transfer to oneself was charged",
            )
        else:
            outcome, note = Outcome.AGREES, ""
    return CounterState(
        target=counter.key[0],
        selector=counter.key[1],
        policy=counter.kind,
        token=counter.token,
        limit=counter.limit,
        spent=spent,
        reserved=after.reserved if after else 0,
        elsewhere=after.elsewhere if after else 0,
        chain_limit=chain_limit,
        chain_used=chain_used,
        outcome=outcome,
        note=note,
    )
