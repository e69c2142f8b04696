"""Logs as a trigger: which contract, which event, under which condition on its arguments, how deep in the chain."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError, ParseError
from eth_abi.grammar import BasicType, parse
from eth_utils.crypto import keccak

from worker.strategies.encode import as_bytes, as_integer
from worker.strategies.errors import StrategyError
from worker.strategies.fields import Fields, as_address, as_text, short

_EVENT = re.compile(r"([A-Za-z_$][A-Za-z0-9_$]{0,127})\((.*)\)", re.ASCII)
_PARAMETER = re.compile(r"(\S+)(?: (indexed))? ([A-Za-z_][A-Za-z0-9_]{0,63})", re.ASCII)
_TEST = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63}) (==|!=|<=|>=|<|>) (\S+)")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
DEFAULT_CONFIRMATIONS = 5
MAX_BLOCKS = 2_000
"""Blocks asked for in one request; most endpoints allow that many."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an event, a value type or text."""

    name: str
    kind: str
    indexed: bool


@dataclass(frozen=True, slots=True)
class Log:
    """A log as the node gives it: ``number`` and ``index`` place it, ``topics`` and ``data`` are bytes."""

    block: int
    tx_hash: str
    index: int
    address: str
    topics: tuple[bytes, ...]
    data: bytes

    @property
    def key(self) -> str:
        """What names it for ever: the transaction, and its place among the block's logs."""
        return f"{self.tx_hash}:{self.index}"


@dataclass(frozen=True)
class OnEvent:
    """Which logs count.

    Attributes:
        address: the contract that emits it.
        event: as written, ``Transfer(address indexed from, address indexed to, uint256 value)``.
        parameters: of the event, in order.
        topic: the first topic.
        tests: ``(parameter, comparison, value)``; all must hold.
        confirmations: how many blocks must follow the log's.
        from_block: where to begin; None: with the first block after the strategy was added.
    """

    address: str
    event: str
    parameters: tuple[Parameter, ...]
    topic: bytes
    tests: tuple[tuple[str, str, Any], ...]
    confirmations: int
    from_block: int | None

    def __str__(self) -> str:
        return f"on {self.event.partition('(')[0]} of {self.address}"

    def matches(self, log: Log) -> dict[str, Any] | None:
        """The decoded arguments of a log that counts, else None: another event, or a test fails."""
        indexed = [parameter for parameter in self.parameters if parameter.indexed]
        plain = [parameter for parameter in self.parameters if not parameter.indexed]
        if log.address != self.address or len(log.topics) != len(indexed) + 1 or log.topics[0] != self.topic:
            return None
        try:
            values = {
                parameter.name: decode([parameter.kind], topic)[0]
                for parameter, topic in zip(indexed, log.topics[1:], strict=True)
            }
            decoded = decode([parameter.kind for parameter in plain], log.data)
        except DecodingError:
            return None  # the contract's event has the same name and other members
        values |= {parameter.name: value for parameter, value in zip(plain, decoded, strict=True)}
        arguments: Mapping[str, Any] = {
            name: value.lower() if isinstance(value, str) and value.startswith("0x") else value
            for name, value in values.items()
        }
        return dict(arguments) if self._holds(arguments) else None

    def imagined(self, given: Sequence[str]) -> dict[str, Any] | None:
        """The arguments of a log that a person imagines, one ``name=value`` each; None if it would not count.

        Raises:
            StrategyError: one is missing, or is no such argument.
        """
        kinds = {parameter.name: parameter.kind for parameter in self.parameters}
        arguments: dict[str, Any] = {}
        for text in given:
            name, equals, value = text.partition("=")
            if not equals or name not in kinds or name in arguments:
                raise StrategyError(
                    f"{short(text)!r} is no argument of {self.event}",
                    field="event",
                    fix="write each parameter once, as value=1000000",
                )
            arguments[name] = _value(kinds[name], value, name)
        missing = [name for name in kinds if name not in arguments]
        if missing:
            raise StrategyError(
                f"lacks {', '.join(missing)} of {self.event}",
                field="event",
                fix="give each parameter, as value=1000000",
            )
        return arguments if self._holds(arguments) else None

    def _holds(self, arguments: Mapping[str, Any]) -> bool:
        return all(_COMPARE[how](arguments[name], wanted) for name, how, wanted in self.tests)


def read_event(fields: Fields) -> OnEvent:
    """The table ``on_event``. Raises StrategyError."""
    text = fields.read("event", as_text)
    name, parameters = _parameters(text, fields.place("event"))
    signature = f"{name}({','.join(parameter.kind for parameter in parameters)})"
    found = OnEvent(
        fields.read("address", as_address),
        text,
        parameters,
        keccak(text=signature),
        _tests(fields, parameters),
        fields.whole("confirmations", 0, 10_000, default=DEFAULT_CONFIRMATIONS),
        fields.whole("from_block", 0, 2**53) if fields.has("from_block") else None,
    )
    fields.finish()
    return found


def _parameters(text: str, at: str) -> tuple[str, tuple[Parameter, ...]]:
    fix = 'write "Transfer(address indexed from, address indexed to, uint256 value)"'
    match = _EVENT.fullmatch(text)
    if match is None:
        raise StrategyError(f"{short(text)!r} is no event", field=at, fix=fix)
    found: list[Parameter] = []
    for part in filter(None, match[2].split(", ")):
        named = _PARAMETER.fullmatch(part)
        try:
            kind = parse(named[1]) if named else None
        except ParseError:
            kind = None
        if named is None or not isinstance(kind, BasicType) or kind.is_array:
            raise StrategyError(f"{short(part)!r} is no parameter of an event", field=at, fix=fix)
        if named[2] and kind.to_type_str() in ("string", "bytes"):
            raise StrategyError(
                f"{named[3]} is indexed, so its log holds a hash only",
                field=at,
                fix="leave it to another event",
            )
        if named[3] in (parameter.name for parameter in found):
            raise StrategyError(f"names {named[3]} twice", field=at, fix=fix)
        found.append(Parameter(named[3], kind.to_type_str(), bool(named[2])))
    return match[1], tuple(found)


def _tests(fields: Fields, parameters: tuple[Parameter, ...]) -> tuple[tuple[str, str, Any], ...]:
    written = fields.raw("where") if fields.has("where") else []
    at = fields.place("where")
    if not isinstance(written, list):
        raise StrategyError("is no list", field=at, fix='write ["value >= 1000000"]')
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    found: list[tuple[str, str, Any]] = []
    for index, item in enumerate(written):
        here = f"{at}[{index}]"
        match = _TEST.fullmatch(as_text(item, here))
        if match is None or match[1] not in kinds:
            raise StrategyError(
                f"{short(str(item))!r} is no test of {', '.join(kinds) or 'nothing'}",
                field=here,
                fix='write a parameter, a comparison and a value: "value >= 1000000"',
            )
        name, how, value = match.groups()
        kind = kinds[name]
        if not kind.startswith(("uint", "int")) and how not in ("==", "!="):
            raise StrategyError(f"{kind} has no order", field=here, fix="use == or !=")
        found.append((name, how, _value(kind, value, here)))
    return tuple(found)


def _value(kind: str, text: str, at: str) -> Any:
    """An argument as a person writes it. Raises StrategyError."""
    if kind.startswith(("uint", "int")):
        return as_integer(text, at)
    if kind == "address":
        return as_address(text, at)
    if kind == "bool":
        return text == "true"
    return as_bytes(text, at) if kind.startswith("bytes") else text
