"""Calls from configuration: a function's signature, arguments as TOML has them, and names such as ``$account``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from eth_abi.abi import encode
from eth_abi.exceptions import EncodingError, ParseError
from eth_abi.grammar import ABIType, BasicType, TupleType, parse
from eth_utils.crypto import keccak

from worker.policies.base import Execution
from worker.strategies.errors import StrategyError
from worker.strategies.fields import Fields, as_address, as_text, kind_of, short

_SIGNATURE = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,127}(\(.*\))", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,77})|0x[0-9a-fA-F]{1,64}")
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
#: What stands for a placeholder while a configuration is checked; every type takes the one of its kind.
_SAMPLES = {"address": "0x" + "11" * 20, "uint": 1, "int": 1, "bool": True, "string": "x"}


@dataclass(frozen=True)
class Template:
    """A function's call whose arguments may hold placeholders.

    Attributes:
        function: its signature, such as ``repay(address,uint256)``.
        args: TOML values: text, numbers, lists; ``"$name"`` takes a value at fire time.
        at: its place, for errors.
    """

    function: str
    args: tuple[Any, ...]
    at: str

    def data(self, values: Mapping[str, Any]) -> bytes:
        """The calldata. Raises StrategyError: a placeholder is not among ``values``, or a value does not fit."""
        types = types_of(self.function, self.at)
        if len(types) != len(self.args):
            raise StrategyError(
                f"has {len(self.args)} values for the {len(types)} of {self.function}",
                field=f"{self.at}.args",
                fix="give one for each parameter",
            )
        given = [
            _value(argument, kind, values, f"{self.at}.args[{index}]")
            for index, (argument, kind) in enumerate(zip(self.args, types, strict=True))
        ]
        try:
            return keccak(text=self.function)[:4] + encode([kind.to_type_str() for kind in types], given)
        except (EncodingError, ValueError, OverflowError) as error:
            raise StrategyError(
                f"do not fit {self.function}: {short(str(error))}",
                field=f"{self.at}.args",
                fix="compare them with the contract's ABI",
            ) from None

    def check(self, names: frozenset[str]) -> None:
        """Encode once with samples, so that a wrong argument is found when the file is read. Raises StrategyError."""
        self.data(_Samples(names))


class _Samples(dict[str, Any]):
    """Knows the names only; ``_value`` takes a sample of the wanted type."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(dict.fromkeys(names))


def read_template(fields: Fields, names: frozenset[str]) -> Template:
    """``function`` and ``args`` of a table, checked; ``names`` are the placeholders that there will be."""
    function = fields.read("function", as_text)
    args = fields.maybe("args", _as_list, ())
    template = Template(function, args, fields.at)
    template.check(names)
    return template


def types_of(function: str, at: str) -> list[ABIType]:
    """The parameter types of a signature without names and spaces. Raises StrategyError."""
    match = _SIGNATURE.fullmatch(function)
    try:
        kind = parse(match[1]) if match else None
    except ParseError:
        kind = None
    if not isinstance(kind, TupleType) or kind.is_array:
        raise StrategyError(
            f"{short(function)!r} is no function signature",
            field=f"{at}.function",
            fix='write its types only, without spaces: "transfer(address,uint256)"',
        )
    return list(kind.components)


def read_call(fields: Fields, names: frozenset[str]) -> tuple[str, int, Template | bytes]:
    """A call of a raw strategy: ``to``, ``value`` in wei as text, and ``function`` with ``args``, or ``data``."""
    to = fields.read("to", as_address)
    value = fields.maybe("value", as_integer, 0)
    if not 0 <= value < 2**256:
        raise StrategyError("is no amount of wei", field=fields.place("value"), fix='write e.g. "0"')
    body = read_template(fields, names) if fields.has("function") else fields.maybe("data", as_bytes, b"")
    fields.finish()
    return to, value, body


def call_of(call: tuple[str, int, Template | bytes], values: Mapping[str, Any]) -> Execution:
    """The call at fire time. Raises StrategyError."""
    to, value, body = call
    return Execution(to, value, body if isinstance(body, bytes) else body.data(values))


def as_integer(value: Any, at: str) -> int:
    """A whole number, as text (decimal or 0x) or as a TOML number."""
    if type(value) is int:
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value, 16 if value.startswith("0x") else 10)
    raise StrategyError(f"{short(str(value))!r} is no whole number", field=at, fix='write e.g. "1000000"')


def as_bytes(value: Any, at: str) -> bytes:
    """Bytes, as 0x hex."""
    text = as_text(value, at)
    if not _HEX.fullmatch(text):
        raise StrategyError(
            f"{short(text)!r} is no hex data", field=at, fix="write 0x and two digits for each byte"
        )
    return bytes.fromhex(text[2:])


def _as_list(value: Any, at: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise StrategyError(f"is {kind_of(value)}, not a list", field=at, fix="write [ … ]")
    return tuple(cast("list[Any]", value))


def _value(argument: Any, kind: ABIType, values: Mapping[str, Any], at: str) -> Any:
    if isinstance(argument, str) and argument.startswith("$"):
        name = argument[1:]
        if name not in values:
            raise StrategyError(
                f"{short(argument)} is no name here",
                field=at,
                fix=f"use {', '.join('$' + known for known in sorted(values))}"
                if values
                else "write the value",
            )
        return _sample(kind) if isinstance(values, _Samples) else values[name]
    if kind.is_array:
        items = _as_list(argument, at)
        return [_value(item, kind.item_type, values, f"{at}[{index}]") for index, item in enumerate(items)]
    if isinstance(kind, TupleType):
        items = _as_list(argument, at)
        if len(items) != len(kind.components):
            raise StrategyError(
                f"has {len(items)} values, not {len(kind.components)}",
                field=at,
                fix="give one for each member",
            )
        return [
            _value(item, part, values, f"{at}[{index}]")
            for index, (item, part) in enumerate(zip(items, kind.components, strict=True))
        ]
    assert isinstance(kind, BasicType)
    return _basic(argument, kind.base, at)


def _basic(argument: Any, base: str, at: str) -> Any:
    if base == "address":
        return as_address(argument, at)
    if base in ("uint", "int"):
        return as_integer(argument, at)
    if base == "bool":
        if not isinstance(argument, bool):
            raise StrategyError(
                f"is {kind_of(argument)}, not true or false", field=at, fix="write it unquoted"
            )
        return argument
    if base == "bytes":
        return as_bytes(argument, at)
    return as_text(argument, at)


def _sample(kind: ABIType) -> Any:
    """A value of the type, or the error that a placeholder cannot stand there."""
    if isinstance(kind, BasicType) and not kind.is_array:
        if kind.base == "bytes":
            return bytes(int(kind.sub) if kind.sub else 1)
        if kind.base in _SAMPLES:
            return _SAMPLES[kind.base]
    raise StrategyError(
        f"a name cannot stand for {kind.to_type_str()}", field="args", fix="write the list with its values"
    )
