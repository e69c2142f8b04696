"""Reading one table of the strategies file: strict, and every error names the place and the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from typing import Any, TypeVar, cast

from eth_utils.address import is_checksum_address

from worker.intents.amount import (
    Amount,
    AmountError,
    TokenInfo,
    TokenResolver,
    parse_amount,
    parse_human,
)
from worker.strategies.errors import StrategyError

_T = TypeVar("_T")

NATIVE_TOKEN = "0x" + "00" * 20
"""Stands for the chain's own currency in a token table."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,39})(?:\.([0-9]{1,40}))?")
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Fields:
    """One table. Each reader marks its field as known; ``finish`` refuses what nobody has read.

    Args:
        entry: the table as TOML gives it.
        at: its place, such as ``strategies[0]``.
        tokens: finds a token of the worker's chain by symbol or address.
    """

    def __init__(self, entry: Mapping[str, Any], at: str, tokens: TokenResolver) -> None:
        self._entry = entry
        self._known: list[str] = []
        self.at = at
        self.tokens = tokens
        #: Names of the arguments that an event will bring, for those who use them.
        self.event_names: frozenset[str] = frozenset()

    def place(self, name: str) -> str:
        """The path of a field, for errors."""
        return f"{self.at}.{name}"

    def has(self, name: str) -> bool:
        """Whether the field is there; makes it a known one."""
        self._know(name)
        return name in self._entry

    def raw(self, name: str) -> Any:
        """The value as TOML gives it. Raises StrategyError if it is missing."""
        if not self.has(name):
            # a slip of the pen is better named than what it left out
            self._refuse_unknown(only_close_to=name)
            raise StrategyError("is missing", field=self.place(name), fix=f"add {name} = …")
        return self._entry[name]

    def read(self, name: str, parse: Callable[[Any, str], _T]) -> _T:
        """A required field."""
        return parse(self.raw(name), self.place(name))

    def maybe(self, name: str, parse: Callable[[Any, str], _T], default: _T) -> _T:
        """A field that may be absent."""
        return self.read(name, parse) if self.has(name) else default

    def table(self, name: str) -> Fields:
        """A table in this one. Raises StrategyError."""
        value = self.raw(name)
        if not isinstance(value, dict):
            raise StrategyError(
                f"is {kind_of(value)}, not a table", field=self.place(name), fix="write { … }"
            )
        return Fields(cast("dict[str, Any]", value), self.place(name), self.tokens)

    def tables(self, name: str) -> list[Fields]:
        """A list of tables, at least one. Raises StrategyError."""
        value = self.raw(name)
        if not isinstance(value, list) or not value:
            raise StrategyError("is no list of tables", field=self.place(name), fix="write [{ … }, { … }]")
        found: list[Fields] = []
        for index, item in enumerate(cast("list[Any]", value)):
            at = f"{self.place(name)}[{index}]"
            if not isinstance(item, dict):
                raise StrategyError(f"is {kind_of(item)}, not a table", field=at, fix="write { … }")
            found.append(Fields(cast("dict[str, Any]", item), at, self.tokens))
        return found

    def amount(self, name: str = "amount", *, token: str = "") -> Amount:
        """``"10 USDC"``, or with ``token`` naming another field: ``"10"`` and that field, or both, agreeing."""
        written, here = self.raw(name), self.place(name)
        if not token or not self.has(token):
            return self._placed(name, lambda: parse_human(written, self.tokens, field=here))
        found = self.token(token)
        if not isinstance(written, str) or " " not in written:
            return Amount(self._placed(name, lambda: parse_amount(written, token=found, field=here)), found)
        amount = self._placed(name, lambda: parse_human(written, self.tokens, field=here))
        if amount.token != found:
            raise StrategyError(
                f"is in {amount.token.symbol}, and {token} is {found.symbol}",
                field=here,
                fix="name one token",
            )
        return amount

    def token(self, name: str) -> TokenInfo:
        """A token by symbol or address."""
        text = self.read(name, as_text)
        return self._placed(name, lambda: self.tokens(text))

    def receiver(self, name: str, token: TokenInfo) -> str:
        """An address that money may be sent to."""
        address = self.read(name, as_address)
        if address == NATIVE_TOKEN:
            raise StrategyError("is the zero address", field=self.place(name), fix="set the receiver")
        if address == token.address:
            raise StrategyError(
                f"is the {token.symbol} contract itself, where money is lost",
                field=self.place(name),
                fix="set the receiver",
            )
        return address

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from ``low`` to ``high``."""
        if default is not None and not self.has(name):
            return default
        value = self.raw(name)
        if type(value) is not int or not low <= value <= high:
            raise StrategyError(
                f"must be a whole number from {low} to {high}", field=self.place(name), fix=f"e.g. {low}"
            )
        return value

    def finish(self) -> None:
        """Refuse fields that nobody has read. Raises StrategyError."""
        self._refuse_unknown()

    def _know(self, name: str) -> None:
        if name not in self._known:
            self._known.append(name)

    def _refuse_unknown(self, only_close_to: str = "") -> None:
        for name in self._entry:
            if name in self._known:
                continue
            close = difflib.get_close_matches(name, [only_close_to] if only_close_to else self._known, n=1)
            if close or not only_close_to:
                raise unknown_field(name, f"{self.at}.", tuple(self._known))

    def _placed(self, name: str, read: Callable[[], _T]) -> _T:
        """``read()``, its AmountError as a StrategyError here: a resolver does not know where it is asked from."""
        try:
            return read()
        except AmountError as error:
            raise StrategyError(error.message, field=self.place(name), fix=error.fix) from None


# --- values; each raises StrategyError at the place it is given


def as_text(value: Any, at: str) -> str:
    """Text."""
    if not isinstance(value, str):
        raise StrategyError(f"is {kind_of(value)}, not text", field=at, fix="put it in quotes")
    return value


def as_address(value: Any, at: str) -> str:
    """An address: lower-case 0x hex; one in mixed case must have its EIP-55 checksum."""
    text = as_text(value, at)
    if not _ADDRESS.fullmatch(text):
        raise StrategyError(f"{short(text)!r} is no address", field=at, fix="use 0x and 40 hex digits")
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and not is_checksum_address(text):
        raise StrategyError(
            f"{text} has a wrong EIP-55 checksum", field=at, fix="copy it again, or write it in lower case"
        )
    return text.lower()


def as_boolean(value: Any, at: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise StrategyError(
            f"is {kind_of(value)}, not true or false", field=at, fix="write true or false, unquoted"
        )
    return value


def as_number(value: Any, at: str) -> Fraction:
    """A positive decimal number written as text, exact."""
    match = _NUMBER.fullmatch(as_text(value, at))
    number = Fraction(match[0]) if match else Fraction(0)
    if number <= 0:
        raise StrategyError(
            f"{short(str(value))!r} is no positive number",
            field=at,
            fix='write plain digits in quotes, e.g. "2500.5"',
        )
    return number


def as_percent(value: Any, at: str) -> Fraction:
    """``"1.5%"``: a share from 0 to 1."""
    text = as_text(value, at)
    match = _NUMBER.fullmatch(text.removesuffix("%")) if text.endswith("%") else None
    if match is None or Fraction(match[0]) > 100:
        raise StrategyError(
            f"{short(text)!r} is no percentage", field=at, fix='write e.g. "1.5%", at most 100%'
        )
    return Fraction(match[0]) / 100


def as_duration(value: Any, at: str) -> int:
    """Seconds, from text such as ``"90s"``, ``"5m"``, ``"12h"`` or ``"7d"``."""
    match = _DURATION.fullmatch(as_text(value, at))
    if match is None:
        raise StrategyError(
            f"{short(str(value))!r} is no duration",
            field=at,
            fix='write a whole number and s, m, h or d: "5m"',
        )
    return int(match[1]) * _UNITS[match[2]]


def as_instant(value: Any, at: str) -> int:
    """Unix seconds of a TOML date with time in UTC."""
    fix = "write it in UTC with a Z and without quotes, e.g. 2026-01-31T00:00:00Z"
    if not isinstance(value, datetime):
        raise StrategyError(f"is {kind_of(value)}, not a date with a time", field=at, fix=fix)
    if value.utcoffset() is None:
        raise StrategyError("has no time zone", field=at, fix=fix)
    if value.utcoffset() != timedelta(0):
        raise StrategyError("is not in UTC", field=at, fix=fix)
    if value.microsecond:
        raise StrategyError("has fractions of a second", field=at, fix=fix)
    return int(value.timestamp())


def one_of(*choices: str) -> Callable[[Any, str], str]:
    """A parser for one of these words."""

    def parse(value: Any, at: str) -> str:
        text = as_text(value, at)
        if text not in choices:
            raise StrategyError(f"{short(text)!r} is not known", field=at, fix=f"use {', '.join(choices)}")
        return text

    return parse


def kind_of(value: Any) -> str:
    """What people call a TOML value's type."""
    names: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "a table",
        datetime: "a date",
        date: "a date",
        time: "a time",
        str: "text",
    }
    return names[type(value)]


def unknown_field(name: str, prefix: str, known: tuple[str, ...]) -> StrategyError:
    """The error for a field that nobody knows, with the one that was probably meant."""
    close = difflib.get_close_matches(name, known, n=1)
    return StrategyError(
        "is not known",
        field=f"{prefix}{short(name)}",
        fix=f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}",
    )


def short(text: str) -> str:
    """One printable line of at most 80 characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= 80 else f"{line[:77]}..."
