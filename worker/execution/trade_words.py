"""A trade as people write it: ``5 USDC`` for what shall arrive, ``6 USDC on 8453`` for what may be taken.

The members are those of ``Trade.to_json``; where it has token addresses, chain ids and base units, words may stand
instead. What a word means depends on the chain, so the sessions are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from worker.errors import InputError
from worker.execution.tokens import token_table
from worker.intents.amount import Amount, AmountError, parse_human
from worker.intents.trade import Trade, TradeInputError
from worker.sessions.chains import known_chains
from worker.sessions.errors import SessionError
from worker.sessions.importing import RegisteredSession

FindSession = Callable[[str], RegisteredSession]
"""Finds a session by what was written. Raises InputError and the registry's errors."""

_ON = re.compile(r"(?P<amount>.+?) on (?P<chain>[^ ].*)")
_ALL = re.compile(r"all (?P<token>[^ ]+)")


def read_trade(value: object, target: RegisteredSession, find: FindSession) -> Trade:
    """A trade from parsed JSON whose amounts may be words.

    Args:
        value: the members of ``Trade.to_json``. ``tokens``: ``"5 USDC"`` on the target chain, or ``"all USDC"`` for as
            much as the sources give. ``spend``: ``"6 USDC on 8453"``, or by the chain's name, or without a chain if
            there is one source chain only. ``sources``: sessions as ``find`` knows them. ``sourceCalls`` as they are.
        target: the intent's own session.
        find: finds the sources' sessions.

    Raises:
        TradeInputError: ``field`` is the member's path.
        SessionError: as ``find`` raises them.
    """
    if not isinstance(value, dict):
        return Trade.from_json(value)  # says so
    given = dict(cast("Mapping[str, Any]", value))
    sources = given.get("sources")
    sessions = (target,)
    if isinstance(sources, list) and all(isinstance(name, str) for name in cast("list[Any]", sources)):
        found = tuple(
            _source(find, name, f"sources[{index}]") for index, name in enumerate(cast("list[str]", sources))
        )
        given["sources"] = [session.session_id for session in found]
        sessions = found or sessions
    given["tokens"] = _each(given, "tokens", lambda text, path: _token(text, path, target.chain_id))
    chains = tuple(session.chain_id for session in sessions)
    given["spend"] = _each(given, "spend", lambda text, path: _spend(text, path, chains))
    return Trade.from_json({name: item for name, item in given.items() if item is not None})


def trade_in_words(trade: Trade, target: RegisteredSession) -> str:
    """What a trade is, in few words: for a note."""
    chain = _name(target.chain_id)
    wanted = [
        _shown(item.token, item.amount, target.chain_id) if item.amount is not None else "all that there is"
        for item in trade.tokens
    ]
    taken = [
        f"{_shown(item.token, item.amount, item.chain_id)} on {_name(item.chain_id)}" for item in trade.spend
    ]
    what = f"get {' + '.join(wanted)} on {chain}" if wanted else f"calls on {chain}"
    return what + (f" for at most {' + '.join(taken)}" if taken else "")


def chain_id_of(text: str, path: str) -> int:
    """The id of a chain that is written as its id or its exact name.

    Raises:
        TradeInputError
    """
    chains = known_chains()
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) in chains:
        return int(text)
    for chain in chains.values():
        if chain.name.lower() == text.lower():
            return chain.chain_id
    raise TradeInputError(
        f"names the chain {text[:40]!r}, which is not known", field=path, fix="write its id, such as 8453"
    )


def _source(find: FindSession, name: str, path: str) -> RegisteredSession:
    try:
        return find(name)
    except InputError as error:
        if error.field == "session":
            error.field = path
        raise


def _each(
    given: Mapping[str, Any], name: str, read: Callable[[str, str], dict[str, Any]]
) -> list[Any] | object | None:
    """A member's list with its words read; anything else as it is."""
    listed = given.get(name)
    if not isinstance(listed, list):
        return listed
    return [
        read(item, f"{name}[{index}]") if isinstance(item, str) else item
        for index, item in enumerate(cast("Sequence[Any]", listed))
    ]


def _token(text: str, path: str, target: int) -> dict[str, Any]:
    match = _ON.fullmatch(text)
    if match is not None:
        if chain_id_of(match["chain"], path) != target:
            raise TradeInputError(
                f"is to arrive on {match['chain'][:40]}, and the intent's session is for chain {target}",
                field=path,
                fix="use the session of the chain where it shall arrive",
            )
        text = match["amount"]
    every = _ALL.fullmatch(text)
    if every is not None:
        try:
            return {"token": token_table(target)(every["token"]).address}
        except (AmountError, SessionError) as error:
            raise _renamed(error, path) from None
    amount = _amount(text, path, target)
    return {"token": amount.token.address, "amount": str(amount.value)}


def _spend(text: str, path: str, chains: Sequence[int]) -> dict[str, Any]:
    match = _ON.fullmatch(text)
    if match is None and len(chains) != 1:
        raise TradeInputError(
            f"does not say on which of the chains {', '.join(map(str, chains))}",
            field=path,
            fix=f'write "{text[:40]} on {chains[0]}"',
        )
    chain_id = chains[0] if match is None else chain_id_of(match["chain"], path)
    amount = _amount(text if match is None else match["amount"], path, chain_id)
    return {"chain": chain_id, "token": amount.token.address, "amount": str(amount.value)}


def _amount(text: str, path: str, chain_id: int) -> Amount:
    try:
        return parse_human(text, token_table(chain_id), field=path)
    except (AmountError, SessionError) as error:
        raise _renamed(error, path) from None


def _renamed(error: AmountError | SessionError, path: str) -> TradeInputError:
    return TradeInputError(error.message, field=path, fix=error.fix)


def _shown(token: str, amount: int, chain_id: int) -> str:
    listed = {item.address: item for item in token_table(chain_id).tokens}
    return str(Amount(amount, listed[token])) if token in listed else f"{amount} of {token}"


def _name(chain_id: int) -> str:
    chain = known_chains().get(chain_id)
    return chain.name if chain is not None else f"chain {chain_id}"
