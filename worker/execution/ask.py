"""A trade as it is asked for: which session signs on which chain, the calls of each, and the terms.

One object, so that the quote's request, the check of the quote and the signing cannot understand it differently.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.execution.errors import IntentInputError, SessionUnusableError
from worker.execution.route_request import (
    DUMMY_PRE_CLAIM,
    MODE_EMISSARY_EXECUTION_ERC1271,
    MODE_ERC1271,
)
from worker.intents.trade import Trade
from worker.policies.base import Execution
from worker.sessions.importing import RegisteredSession


@dataclass(frozen=True, slots=True)
class Leg:
    """One chain of a trade: its session, and whether the intent enables it there."""

    session: RegisteredSession
    enable: bool

    @property
    def chain_id(self) -> int:
        """The chain."""
        return self.session.chain_id


@dataclass(frozen=True, slots=True)
class Ask:
    """A trade with its sessions.

    Attributes:
        target: the chain where tokens arrive and ``calls`` are made.
        sources: the chains that tokens may be taken from, in the order asked for; at least one, perhaps the target.
        calls: what the account does on the target chain, in order.
        trade: tokens and terms.
        sponsored: whether the project pays every fee, when the trade does not say which.
    """

    target: Leg
    sources: tuple[Leg, ...]
    calls: tuple[Execution, ...]
    trade: Trade
    sponsored: bool

    @property
    def account(self) -> str:
        """The account on every chain, lower-case."""
        return self.target.session.account

    @property
    def recipient(self) -> str:
        """Who receives the tokens, lower-case."""
        return self.trade.recipient or self.account

    @property
    def legs(self) -> tuple[Leg, ...]:
        """Every chain once, the sources first."""
        others = (leg.chain_id for leg in self.sources)
        return self.sources if self.target.chain_id in others else (*self.sources, self.target)

    @property
    def signature_mode(self) -> int:
        """``options.signatureMode``: one chain whose calls are verified decides for all (signing.md 2)."""
        verified = any(leg.session.verify_executions for leg in self.legs)
        return MODE_EMISSARY_EXECUTION_ERC1271 if verified else MODE_ERC1271

    def leg(self, chain_id: int) -> Leg | None:
        """The leg of a chain, if it is part of the trade."""
        return next((leg for leg in self.legs if leg.chain_id == chain_id), None)

    def source(self, chain_id: int) -> Leg | None:
        """The leg of a source chain."""
        return next((leg for leg in self.sources if leg.chain_id == chain_id), None)

    def pre_claim(self, leg: Leg) -> tuple[Execution, ...]:
        """What the account does on a chain before its tokens are claimed: the dummy that enables, the source calls."""
        enables = leg in self.sources and leg.enable and leg.session.verify_executions
        return (*((DUMMY_PRE_CLAIM,) if enables else ()), *self.trade.calls_on(leg.chain_id))


def check_legs(target: RegisteredSession, sources: tuple[RegisteredSession, ...], trade: Trade) -> None:
    """Refuse sessions that cannot trade together, before anybody is asked for a quote.

    Raises:
        IntentInputError: they are of different accounts, two are for one chain, or a chain named in the trade has none.
        SessionUnusableError: tokens would have to be claimed with a session that can sign no claim.
    """
    chains: set[int] = set()
    for session in sources:
        if (session.account, session.account_kind) != (target.account, target.account_kind):
            raise IntentInputError(
                f"{session.session_id} is of account {session.account}, not {target.account}",
                field="trade.sources",
                fix="use sessions of one account",
            )
        if session.chain_id in chains:
            raise IntentInputError(
                f"two sessions are for chain {session.chain_id}",
                field="trade.sources",
                fix="name one for each source chain",
            )
        if session.chain_id == target.chain_id and session.session_id != target.session_id:
            raise IntentInputError(
                f"{session.session_id} is for the target chain {target.chain_id}, which has the intent's own session",
                field="trade.sources",
                fix=f"use {target.session_id} there, too",
            )
        chains.add(session.chain_id)
    for item in trade.spend:
        if item.chain_id not in chains:
            raise IntentInputError(
                f"names chain {item.chain_id}, which is no source chain",
                field="trade.spend",
                fix="add that chain's session to sources",
            )
    for entry in trade.source_calls:
        if entry.chain_id not in chains | {target.chain_id}:
            raise IntentInputError(
                f"names chain {entry.chain_id}, which is not part of the trade",
                field="trade.sourceCalls",
                fix="add that chain's session to sources",
            )
    spending = {item.chain_id for item in trade.spend}
    for session in sources:
        if session.restricted and session.chain_id in spending and chains != {target.chain_id}:
            # sessions.md 4: such a session has no ERC-1271 policy, so Permit2 would refuse what it signs
            raise SessionUnusableError(
                f"{session.session_id} is restricted to its actions, and such a session can sign no Permit2 claim: "
                f"tokens on chain {session.chain_id} cannot be taken with it",
                field="session",
                fix="have the user approve a session without restrictToActions for that chain",
            )
