"""What a strategy is to the scheduler: something that is asked at a slot and answers with calls, or with why not.

A package brings its own by an entry point in the group ``session_executor.strategies``: the name is the ``kind`` that
people write, the value a function that takes ``worker.strategies.fields.Fields`` and returns a ``Strategy``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker.intents.model import Swap
from worker.policies.base import Execution

ENTRY_POINTS = "session_executor.strategies"
"""The entry point group."""


class Reads(Protocol):
    """What a strategy may read of the session's chain; ``worker.chain.reader.ChainReader`` is it."""

    def call(self, to: str, data: bytes) -> bytes:
        """``eth_call`` at the latest block. Raises ChainError."""
        ...

    def latest_block_time(self) -> int:
        """Unix seconds of the latest block. Raises ChainError."""
        ...

    def erc20_balance(self, token: str, owner: str) -> int:
        """Base units. Raises ChainError."""
        ...

    def native_balance(self, owner: str) -> int:
        """Wei. Raises ChainError."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that a decision may depend on.

    Attributes:
        slot_s: the fire time that is decided, unix seconds; for an event, the time of its block.
        number: which execution of the strategy this would be, from 1.
        account: the session's smart account, lower-case address.
        chain_id: its chain.
        until_s: unix seconds up to which the intent may be signed.
        reads: the chain.
        memory: what the strategy's last decision left, texts by name; empty at first.
        event: the decoded arguments of the log that triggered it, by name; empty for a time.
    """

    slot_s: int
    number: int
    account: str
    chain_id: int
    until_s: int
    reads: Reads
    memory: Mapping[str, str] = field(default_factory=dict[str, str])
    event: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Act:
    """Make these calls, in order, as one intent.

    Attributes:
        calls: at least one.
        note: words for people.
        memory: what to remember; stored in one step with the slot.
        swaps: what the calls swap, and for how much at least. Where a guardrail sets a reference price for a token that is
            sold, calls that do not say so are refused.
    """

    calls: tuple[Execution, ...]
    note: str
    memory: Mapping[str, str] = field(default_factory=dict[str, str])
    swaps: tuple[Swap, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing at this slot. ``finished``: nor at any later one."""

    why: str
    memory: Mapping[str, str] = field(default_factory=dict[str, str])
    finished: bool = False


Decision = Act | Wait


class Strategy(Protocol):
    """One configured strategy. It reads, and never writes: the same moment gives the same decision."""

    def decide(self, moment: Moment) -> Decision:
        """What to do at this moment.

        Raises:
            ExecutorError: it cannot be said now (a price is stale, the node is down); asked again until the slot is
                too late, and then listed as missed with this error.
        """
        ...

    def describe(self) -> str:
        """One line for people, such as ``10 USDC to 0x…``."""
        ...
