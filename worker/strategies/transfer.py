"""What a fire of a strategy becomes: a trade intent that is the same however often it is built."""

from __future__ import annotations

from worker.intents.amount import format_amount
from worker.intents.model import TradeIntent
from worker.policies.base import Execution
from worker.strategies.errors import StrategyError
from worker.strategies.model import Strategy
from worker.strategies.schedule import latest_slot, valid_until

NATIVE_TOKEN = "0x" + "00" * 20
"""Stands for the chain's own currency in a token table."""

#: ``transfer(address,uint256)`` of ERC-20.
_TRANSFER = bytes.fromhex("a9059cbb")


def intent_of(
    strategy: Strategy, slot_s: int, *, session_id: str, session_account: str, chain_id: int
) -> TradeIntent:
    """The intent of one slot.

    Its idempotency key is ``strategy:<name>:<slot>`` and its payload depends on nothing else, so that two schedulers,
    a redelivered message and an operator's hand make one execution.

    Args:
        strategy: what to do.
        slot_s: a slot of it, unix seconds.
        session_id: the session that ``strategy.session`` names.
        session_account: its account, lower-case address.
        chain_id: its chain.

    Raises:
        StrategyError: not a slot, not its session, another chain, or a transfer to the paying account itself.
    """
    at = f"strategy {strategy.name}"
    if latest_slot(strategy, slot_s) != slot_s:
        raise StrategyError(
            f"{slot_s} is no fire time of {strategy.cron} within its start and end",
            field=at,
            fix="use the latest fire time",
        )
    if strategy.session != session_id:
        raise StrategyError(
            f"{session_id} is not its session {strategy.session}",
            field=at,
            fix="pass the session that it names",
        )
    token = strategy.amount.token
    if token.chain_id != chain_id:
        raise StrategyError(
            f"{token.symbol} is the token of chain {token.chain_id}, the session is for chain {chain_id}",
            field=at,
            fix="use a session of the chain that this worker serves",
        )
    if strategy.to == session_account:
        raise StrategyError(
            "would send the account's money to the account itself", field=at, fix="set another receiver in to"
        )
    return TradeIntent(
        session_id=session_id,
        idempotency_key=f"strategy:{strategy.name}:{slot_s}",
        calls=(_transfer(strategy),),
        sponsored=strategy.sponsored,
        not_after=valid_until(strategy, slot_s),
        source=f"strategy:{strategy.name}",
        note=f"transfer {format_amount(strategy.amount.value, token)} to {strategy.to}",
    )


def _transfer(strategy: Strategy) -> Execution:
    value, token = strategy.amount.value, strategy.amount.token.address
    if token == NATIVE_TOKEN:
        return Execution(strategy.to, value, b"")
    words = bytes(12) + bytes.fromhex(strategy.to[2:]) + value.to_bytes(32, "big")
    return Execution(token, 0, _TRANSFER + words)
