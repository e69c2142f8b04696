"""What every policy and its callers share: an execution, a counter change, a verdict."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Execution:
    """One call of an operation, as ERC-7579 executes it.

    Attributes:
        to: target address, lower-case 0x hex.
        value: native value in wei.
        data: calldata.
    """

    to: str
    value: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CounterChange:
    """What one policy's counter would grow by, were the operation executed.

    The rule is always ``spent + reserved + amount <= limit``, exact integers up to 2**256-1.

    Attributes:
        counter: key of the on-chain state: ``<actionId hex>:<policy type>:<token or '-'>`` within one session
            (account, chain and permission are the session's).
        amount: growth, base units of the token (wei for native value, uses for usage-limit).
        limit: the policy's limit, same unit.
        policy: the policy type, for messages.
        call_index: index of the execution that causes the growth.
        token: lower-case token address for token counters, else ``""``.
        session: whose counter it is, in a trade over several chains: 16 hex digits of a source chain's session id;
            ``""`` for the intent's own session.
    """

    counter: str
    amount: int
    limit: int
    policy: str
    call_index: int
    token: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Allow:
    """The operation is allowed if every counter change fits its limit."""

    changes: tuple[CounterChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """The operation is denied.

    Attributes:
        call_index: index of the offending execution, -1 when it is the operation as a whole.
        policy: the policy type, or ``"session"`` when no policy was reached. Of several the first by name.
        reason: words that an operator understands; what further policies say follows, each after its type.
    """

    call_index: int
    policy: str
    reason: str


Verdict = Allow | Deny
