"""What a policy is: a model of the SDK's object, its contract, its init data and its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from worker.policies.base import CounterChange, Execution
from worker.policies.errors import PolicyViolationError

AmountFormat = Callable[[str, int], str]
"""``(token, base units) -> text for people``; the token ``""`` is the chain's native currency."""


def plain_amount(token: str, amount: int) -> str:
    """The format without knowledge of tokens: base units."""
    return f"{amount} base units of {token}" if token else f"{amount} wei"


@dataclass(frozen=True, slots=True)
class Whitelist:
    """What is known of the list that intent-execution asks; nothing is known to be on it unless it is here.

    Attributes:
        targets: listed addresses, lower-case.
        paymaster: the spender that any token may be approved to, lower-case; ``""`` if unknown.
    """

    targets: frozenset[str] = frozenset()
    paymaster: str = ""


NO_WHITELIST = Whitelist()


@dataclass(frozen=True, slots=True)
class Call:
    """One execution as a policy sees it.

    Attributes:
        execution: target, value and calldata.
        index: its place in the operation.
        action_id: ``keccak(target ‖ selector)`` of the matched action, hex without 0x; names the counters.
        account: the account, lower-case.
        now_s: our clock, unix seconds.
        chain_s: time of the latest block, unix seconds.
        latest_s: the latest second at which the operation can still be executed (the fill deadline).
        amount: how amounts are written in messages.
        newest: whether the policies are those of the contracts' newest revision (``PolicyTable.newest``).
        whitelist: what is known of intent-execution's list.
        sums: counter -> what it holds before this call, exactly; None if that is not known.
    """

    execution: Execution
    index: int
    action_id: str
    account: str
    now_s: int
    chain_s: int
    latest_s: int
    amount: AmountFormat = plain_amount
    newest: bool = False
    whitelist: Whitelist = NO_WHITELIST
    sums: Mapping[str, int] | None = None

    def used(self, policy: str, counter: str) -> int | None:
        """What a counter holds before this call, or None if that is not known."""
        return None if self.sums is None else self.sums.get(f"{self.action_id}:{policy}:{counter}", 0)

    def change(
        self, policy: str, amount: int, limit: int, *, token: str = "", counter: str = ""
    ) -> CounterChange:
        """The growth of one counter.

        Args:
            policy: the policy type.
            amount: growth, base units (wei, uses).
            limit: the policy's limit, same unit.
            token: token of the counter, or ``""``.
            counter: last part of the counter's key when it is not the token.

        Raises:
            PolicyViolationError: the amount alone is above the limit, whatever was spent before.
        """
        if amount > limit:
            raise PolicyViolationError(
                f"asks for {self.amount(token, amount)}, above the whole limit of {self.amount(token, limit)}"
            )
        return CounterChange(
            counter=f"{self.action_id}:{policy}:{counter or token or '-'}",
            amount=amount,
            limit=limit,
            policy=policy,
            call_index=self.index,
            token=token,
        )


class StrictModel(BaseModel):
    """Frozen, the SDK's camelCase names, nothing unknown, nothing coerced, input never echoed in errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
    )


class PolicyModel(StrictModel):
    """A policy of the SDK, 1.15 or 2.x.

    ``address`` is the production contract that SDK 1.15.0 names, ``v2_address`` the deployment that 2.2.2 names, both
    lower-case. Each goes with its own init data.
    """

    address: ClassVar[str]
    v2_address: ClassVar[str]
    dev_address: ClassVar[str] = ""

    def contract(self, *, dev: bool = False) -> str:
        """The contract's address, lower-case; with ``dev`` the one of ``useDevContracts``."""
        return self.dev_address if dev and self.dev_address else self.address

    def init_data(self) -> bytes:
        """The bytes that the contract is initialised with (SDK 1.15.0)."""
        raise NotImplementedError

    def v2_init_data(self) -> bytes:
        """The bytes that 2.2.2's deployment of the contract is initialised with."""
        return self.init_data()

    def enable_problem(self) -> tuple[str, str] | None:
        """``(field, why)`` if the contract would refuse this configuration when the session is enabled."""
        return None

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """Judge one call as the contract would.

        Returns:
            How its counters would grow; empty if it keeps none.

        Raises:
            PolicyViolationError: denied.
        """
        raise NotImplementedError
