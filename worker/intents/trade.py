"""What a trade asks for beyond calls on one chain: tokens, other chains, who pays which fees, how it may settle."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

from worker.errors import InputError
from worker.policies.base import Execution
from worker.policies.fields import parse_address, parse_bytes, parse_uint

_T = TypeVar("_T")
_SESSION = re.compile(r"ses_[0-9a-f]{16}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,32}", re.ASCII)
#: The API's own bounds: chains of one intent, calls per chain.
MAX_SOURCES, MAX_SOURCE_CALLS = 5, 10


class TradeInputError(InputError):
    """What is asked for cannot be a trade; ``field`` is the path in the trade's JSON."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token that the trade shall deliver on the target chain.

    Attributes:
        token: lower-case address; the zero address is the native currency.
        amount: at least so many base units; None for as much as the sources give, which only a single request may ask.
    """

    token: str
    amount: int | None


@dataclass(frozen=True, slots=True)
class Spend:
    """The most that a trade may take of one token on one source chain: ``amount`` base units."""

    chain_id: int
    token: str
    amount: int


@dataclass(frozen=True, slots=True)
class SourceCalls:
    """Calls of the account on a source chain, in order, before its tokens are claimed."""

    chain_id: int
    calls: tuple[Execution, ...]


@dataclass(frozen=True, slots=True)
class Sponsorship:
    """Which fees the integrator's project pays."""

    gas: bool
    bridging: bool
    swaps: bool
    protocol_fees: bool = False


@dataclass(frozen=True, slots=True)
class Trade:
    """The part of an intent that only some have; an intent without it is calls on its session's chain.

    The intent's own session is the target chain's.

    Attributes:
        tokens: what shall arrive, in order.
        sources: the source chains' sessions, in order, at most 5; the intent's own may be among them. Empty for the
            target chain alone.
        spend: what may be taken at most, per chain and token. A route that takes anything else is refused.
        exact_inputs: ask the orchestrator for exactly ``spend`` as inputs, too, instead of only holding it to it.
        recipient: who receives the tokens, lower-case; ``""`` for the account itself.
        source_assets: symbols or addresses that the orchestrator may choose inputs from; empty for any.
        source_calls: per chain.
        fee_asset: symbol or address of the token that fees are taken in; ``""`` leaves it to the orchestrator.
        sponsorship: which fees the project pays, in place of the intent's all-or-nothing ``sponsored``.
        settlement_layers: the layers that may be used; empty for any.
        deadline_s: unix second by which it must be executed, 0 for the orchestrator's default; 120 to 86 400 s ahead.
    """

    tokens: tuple[TokenRequest, ...] = ()
    sources: tuple[str, ...] = ()
    spend: tuple[Spend, ...] = ()
    exact_inputs: bool = False
    recipient: str = ""
    source_assets: tuple[str, ...] = ()
    source_calls: tuple[SourceCalls, ...] = ()
    fee_asset: str = ""
    sponsorship: Sponsorship | None = None
    settlement_layers: tuple[str, ...] = ()
    deadline_s: int = 0

    def calls_on(self, chain_id: int) -> tuple[Execution, ...]:
        """The source calls of a chain."""
        return tuple(
            call for entry in self.source_calls if entry.chain_id == chain_id for call in entry.calls
        )

    def to_json(self) -> dict[str, Any]:
        """The trade as JSON holds it; amounts are decimal strings in base units, members at their default are left out.

        ``from_json`` is the inverse.
        """
        value: dict[str, Any] = {}
        if self.tokens:
            value["tokens"] = [
                {"token": item.token} | ({} if item.amount is None else {"amount": str(item.amount)})
                for item in self.tokens
            ]
        if self.sources:
            value["sources"] = list(self.sources)
        if self.spend:
            value["spend"] = [
                {"chain": item.chain_id, "token": item.token, "amount": str(item.amount)}
                for item in self.spend
            ]
        if self.exact_inputs:
            value["exactInputs"] = True
        if self.recipient:
            value["recipient"] = self.recipient
        if self.source_assets:
            value["sourceAssets"] = list(self.source_assets)
        if self.source_calls:
            value["sourceCalls"] = {
                str(entry.chain_id): [
                    {"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()}
                    for call in entry.calls
                ]
                for entry in self.source_calls
            }
        if self.fee_asset:
            value["feeAsset"] = self.fee_asset
        if self.sponsorship is not None:
            value["sponsored"] = {
                "gas": self.sponsorship.gas,
                "bridging": self.sponsorship.bridging,
                "swaps": self.sponsorship.swaps,
                "protocolFees": self.sponsorship.protocol_fees,
            }
        if self.settlement_layers:
            value["settlementLayers"] = list(self.settlement_layers)
        if self.deadline_s:
            value["customDeadline"] = self.deadline_s
        return value

    @classmethod
    def from_json(cls, value: object) -> Trade:
        """A trade from parsed JSON; see ``to_json`` for the members.

        Raises:
            TradeInputError: names the member that cannot be used.
        """
        given = _object(value, "trade", _MEMBERS)
        trade = cls(
            tokens=tuple(
                _token_request(item, f"tokens[{index}]")
                for index, item in enumerate(_list(given.get("tokens", []), "tokens"))
            ),
            sources=tuple(
                _text(item, f"sources[{index}]", _SESSION, "a session id, ses_ and 16 hex digits")
                for index, item in enumerate(_list(given.get("sources", []), "sources"))
            ),
            spend=tuple(
                _spend(item, f"spend[{index}]")
                for index, item in enumerate(_list(given.get("spend", []), "spend"))
            ),
            exact_inputs=_bool(given.get("exactInputs", False), "exactInputs"),
            recipient=_field("recipient", parse_address, given["recipient"])
            if given.get("recipient")
            else "",
            source_assets=tuple(
                _asset(item, f"sourceAssets[{index}]")
                for index, item in enumerate(_list(given.get("sourceAssets", []), "sourceAssets"))
            ),
            source_calls=_source_calls(given.get("sourceCalls", {})),
            fee_asset=_asset(given["feeAsset"], "feeAsset") if given.get("feeAsset") else "",
            sponsorship=_sponsorship(given["sponsored"]) if "sponsored" in given else None,
            settlement_layers=tuple(
                _text(item, f"settlementLayers[{index}]", _WORD, "the name of a settlement layer")
                for index, item in enumerate(_list(given.get("settlementLayers", []), "settlementLayers"))
            ),
            deadline_s=_field(
                "customDeadline", lambda found: parse_uint(found, 53), given.get("customDeadline", 0)
            ),
        )
        trade.check()
        return trade

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            TradeInputError: names the member.
        """
        if len(self.tokens) > 1 and any(item.amount is None for item in self.tokens):
            _refuse("tokens", "asks for as much as possible of one token next to others", "give every amount")
        if len({item.token for item in self.tokens}) != len(self.tokens):
            _refuse("tokens", "names a token twice", "add the amounts up")
        if any(item.amount == 0 for item in self.tokens):
            _refuse("tokens", "asks for nothing of a token", "ask for more than zero, or leave it out")
        if len(self.sources) > MAX_SOURCES:
            _refuse("sources", f"names {len(self.sources)} chains; the API takes {MAX_SOURCES}", "use fewer")
        if len(set(self.sources)) != len(self.sources):
            _refuse("sources", "names a session twice", "name each source chain's session once")
        if len({(item.chain_id, item.token) for item in self.spend}) != len(self.spend):
            _refuse("spend", "names a token of a chain twice", "add the amounts up")
        if self.exact_inputs and not self.spend:
            _refuse("exactInputs", "is set, and spend names no inputs", "list them in spend")
        if self.exact_inputs and self.source_assets:
            _refuse("sourceAssets", "cannot go with exactInputs", "give one or the other")
        if self.tokens and not self.spend:
            _refuse(
                "spend",
                "is missing: without it a route could take any amount of any token",
                'say what may be taken at most, such as [{"chain": 8453, "token": "0x…", "amount": "1000000"}]',
            )
        for entry in self.source_calls:
            if len(entry.calls) > MAX_SOURCE_CALLS:
                _refuse(
                    f"sourceCalls.{entry.chain_id}",
                    f"holds {len(entry.calls)} calls; the API takes {MAX_SOURCE_CALLS}",
                    "split the trade",
                )
        if self.recipient and not self.tokens:
            _refuse("recipient", "is given, and no tokens are asked for", "leave it out, or add tokens")


_MEMBERS = frozenset(
    {
        "tokens",
        "sources",
        "spend",
        "exactInputs",
        "recipient",
        "sourceAssets",
        "sourceCalls",
        "feeAsset",
        "sponsored",
        "settlementLayers",
        "customDeadline",
    }
)


def _token_request(value: object, path: str) -> TokenRequest:
    given = _object(value, path, frozenset({"token", "amount"}))
    amount = given.get("amount")
    return TokenRequest(
        _field(f"{path}.token", parse_address, given.get("token")),
        None if amount is None else _amount(amount, f"{path}.amount"),
    )


def _spend(value: object, path: str) -> Spend:
    given = _object(value, path, frozenset({"chain", "token", "amount"}))
    return Spend(
        _chain(given.get("chain"), f"{path}.chain"),
        _field(f"{path}.token", parse_address, given.get("token")),
        _amount(given.get("amount"), f"{path}.amount"),
    )


def _source_calls(value: object) -> tuple[SourceCalls, ...]:
    entries: list[SourceCalls] = []
    for name, calls in _object(value, "sourceCalls").items():
        path = f"sourceCalls.{name}"
        listed = tuple(_call(item, f"{path}[{index}]") for index, item in enumerate(_list(calls, path)))
        entries.append(SourceCalls(_chain(name, path), listed))
    # as JSON objects are written, so that the payload does not depend on how it was typed
    return tuple(sorted(entries, key=lambda entry: entry.chain_id))


def _call(value: object, path: str) -> Execution:
    given = _object(value, path, frozenset({"to", "value", "data"}))
    return Execution(
        _field(f"{path}.to", parse_address, given.get("to")),
        _field(f"{path}.value", lambda found: parse_uint(found, 256), given.get("value", "0")),
        _field(f"{path}.data", parse_bytes, given.get("data", "0x")),
    )


def _sponsorship(value: object) -> Sponsorship:
    given = _object(value, "sponsored", frozenset({"gas", "bridging", "swaps", "protocolFees"}))
    for name in ("gas", "bridging", "swaps"):
        if name not in given:
            _refuse(f"sponsored.{name}", "is missing", "say true or false for gas, bridging and swaps")
    gas, bridging, swaps = (_bool(given[name], f"sponsored.{name}") for name in ("gas", "bridging", "swaps"))
    return Sponsorship(
        gas, bridging, swaps, _bool(given.get("protocolFees", False), "sponsored.protocolFees")
    )


def _asset(value: object, path: str) -> str:
    """A symbol as it is, an address in lower case."""
    if isinstance(value, str) and value[:2] in {"0x", "0X"}:
        return _field(path, parse_address, value)
    return _text(value, path, _WORD, "a token's symbol or address")


def _chain(value: object, path: str) -> int:
    chain = _field(path, lambda found: parse_uint(found, 53), value)
    if not chain:
        _refuse(path, "is no chain id", "give a chain id such as 8453")
    return chain


def _amount(value: object, path: str) -> int:
    if not isinstance(value, str):
        _refuse(
            path, "must be base units in quotes", 'write "1000000": a number may have lost digits already'
        )
    return _field(path, lambda found: parse_uint(found, 256), value)


def _text(value: object, path: str, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        _refuse(path, f"must be {what}")
    return value


def _bool(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        _refuse(path, "must be true or false")
    return value


def _list(value: object, path: str) -> Sequence[object]:
    if not isinstance(value, list):
        _refuse(path, "must be a list")
    return cast("list[object]", value)


def _object(value: object, path: str, members: frozenset[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        _refuse(path, "must be an object")
    found = cast("dict[str, Any]", value)
    for name in found:
        if members is not None and name not in members:
            _refuse(
                name if path == "trade" else f"{path}.{name}",
                "is not known",
                f"use {', '.join(sorted(members))}",
            )
    return found


def _field(path: str, parse: Callable[[Any], _T], value: object) -> _T:
    try:
        return parse(value)
    except ValueError as error:
        _refuse(path, str(error))


def _refuse(path: str, why: str, fix: str = "") -> NoReturn:
    raise TradeInputError(why, field=path, fix=fix)
