"""Guardrails as people write them: a table of a TOML file, or ``NAME=VALUE`` on a command line.

=====================  ===========================================================================
``per_trade``          an amount with its token, or a list of them: ``"100 USDC"``; likewise
                       ``per_hour``, ``per_day``, ``per_week``, ``approval_above`` and ``max_fee``
``recipients``         addresses; ``[]`` is nobody; likewise ``spenders``
``cooldown``           ``"90s"``, ``"5m"``, ``"12h"`` or ``"7d"``; likewise ``max_lateness``,
                       ``min_session_left`` and ``min_quote_left``
``max_in_flight``      a whole number
``max_slippage``       ``"0.5%"``
``min_rates``          ``"1 WETH = 2400 USDC"``: so much must be received for so much, or a list of them
``max_gas_refund``     ``{ token = "USDC", exchange_rate = "…", overhead = "…" }``, or a list of them
=====================  ===========================================================================
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, cast

from worker.errors import InputError
from worker.intents.amount import AmountError, TokenResolver, parse_human
from worker.policies.fields import parse_address, parse_uint
from worker.policies.guardrails import (
    BPS,
    MAX_SECONDS,
    GasRefundCap,
    Guardrails,
    MinRate,
    TokenAmount,
)
from worker.policies.policy import AmountFormat

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PERCENT = re.compile(r"((?:0|[1-9][0-9]?)(?:\.[0-9]{1,10})?)%")
_MAX_IN_FLIGHT = 10_000
#: More entries than anybody means in one list.
_MAX_ENTRIES = 1_000
_ADDRESSES = ("recipients", "spenders")
#: As people write it -> as it is kept.
_SECONDS = {
    "cooldown": "cooldown_s",
    "max_lateness": "max_lateness_s",
    "min_session_left": "min_session_left_s",
    "min_quote_left": "min_quote_left_s",
}
NAMES = (
    *Guardrails.AMOUNTS,
    *_ADDRESSES,
    *_SECONDS,
    "max_in_flight",
    "max_gas_refund",
    "min_rates",
    "max_slippage",
)
"""Every guardrail, as people write it."""


class GuardrailInputError(InputError):
    """What is written is no guardrail; ``field`` is its place."""


def kept_name(name: str) -> str:
    """The attribute of ``Guardrails`` that a name stands for."""
    return "max_slippage_bps" if name == "max_slippage" else _SECONDS.get(name, name)


def read_guardrails(entry: Mapping[str, Any], tokens: TokenResolver, *, at: str = "guardrails") -> Guardrails:
    """A table of guardrails.

    Args:
        entry: as TOML gives it.
        tokens: finds a token of the session's chain by symbol or address.
        at: the table's place, for errors.

    Raises:
        GuardrailInputError: names the place and the fix.
    """
    found: dict[str, Any] = {}
    for name, value in entry.items():
        where = f"{at}.{name}" if at else name
        if name in Guardrails.AMOUNTS:
            found[name] = tuple(_amount(item, where, tokens) for item in _each(value, where))
        elif name in _ADDRESSES:
            found[name] = tuple(_address(item, where) for item in _each(value, where, empty=True))
        elif name in _SECONDS:
            found[_SECONDS[name]] = _duration(value, where)
        elif name == "max_in_flight":
            found[name] = _whole(value, where)
        elif name == "max_slippage":
            found["max_slippage_bps"] = _bps(value, where)
        elif name == "min_rates":
            found[name] = tuple(_rate(item, where, tokens) for item in _each(value, where))
        elif name == "max_gas_refund":
            found[name] = tuple(_refund(item, where, tokens) for item in _each(value, where))
        else:
            raise GuardrailInputError("is not known", field=where[:80], fix=f"known: {', '.join(NAMES)}")
    for name in (*Guardrails.AMOUNTS, "max_gas_refund", "min_rates"):
        items = found.get(name, ())
        if len({(item.sell, item.buy) if isinstance(item, MinRate) else item.token for item in items}) != len(
            items
        ):
            raise GuardrailInputError(
                "names a token twice", field=f"{at}.{name}" if at else name, fix="name each once"
            )
    return Guardrails(**found)


def read_settings(settings: list[str], tokens: TokenResolver, *, at: str = "--set") -> dict[str, Any]:
    """``NAME=VALUE`` texts as changes of ``Guardrails``: attribute -> value.

    A value is a TOML list, table, text or number; anything else (``5m``, ``100 USDC, 1 WETH``) is text, and commas in it
    separate entries.

    Raises:
        GuardrailInputError: names what is wrong.
    """
    changes: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise GuardrailInputError(
                f"{text[:60]!r} is no NAME=VALUE", field=at, fix='write e.g. --set per_trade="100 USDC"'
            )
        attribute = kept_name(name)
        if attribute in changes:
            raise GuardrailInputError(f"gives {name} twice", field=at, fix="give each once")
        read = read_guardrails({name: _toml(value.strip())}, tokens, at=at)
        changes[attribute] = getattr(read, attribute)
    return changes


def written(guardrails: Guardrails, amount: AmountFormat) -> dict[str, str]:
    """Guardrails in words, by the names that people write; only those that are set.

    Args:
        guardrails: what is set.
        amount: how amounts are written.
    """
    found: dict[str, str] = {}
    for name in Guardrails.AMOUNTS:
        items: tuple[TokenAmount, ...] = getattr(guardrails, name)
        if items:
            found[name] = ", ".join(amount(item.token, item.amount) for item in items)
    for name in _ADDRESSES:
        listed: tuple[str, ...] | None = getattr(guardrails, name)
        if listed is not None:
            found[name] = ", ".join(listed) or "nobody"
    for name, attribute in _SECONDS.items():
        seconds = getattr(guardrails, attribute)
        if seconds is not None:
            found[name] = f"{seconds}s"
    if guardrails.max_in_flight is not None:
        found["max_in_flight"] = str(guardrails.max_in_flight)
    if guardrails.max_gas_refund:
        found["max_gas_refund"] = ", ".join(
            f"{cap.token} at {cap.exchange_rate}, overhead {cap.overhead}"
            for cap in guardrails.max_gas_refund
        )
    if guardrails.min_rates:
        found["min_rates"] = ", ".join(
            f"{amount(rate.sell, rate.sell_amount)} = {amount(rate.buy, rate.buy_amount)}"
            for rate in guardrails.min_rates
        )
    if guardrails.max_slippage_bps is not None:
        found["max_slippage"] = (
            f"{guardrails.max_slippage_bps // 100}.{guardrails.max_slippage_bps % 100:02}%"
        )
    return found


def _toml(text: str) -> Any:
    """What looks like a list, a table, a quoted text or a number is TOML, all else text: ``0x…`` would be a number."""
    if text[:1] in tuple("[{\"'") or text.isdigit():
        try:
            read = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):
            read = {}
        if read.keys() == {"value"}:
            return read["value"]
    return [part.strip() for part in text.split(",")]


def _each(value: Any, at: str, *, empty: bool = False) -> list[Any]:
    """The entries of a list; what is no list is one entry."""
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not items and not empty:
        raise GuardrailInputError("is empty", field=at, fix="leave it out to set none")
    if len(items) > _MAX_ENTRIES:
        raise GuardrailInputError(f"has more than {_MAX_ENTRIES} entries", field=at, fix="use fewer")
    return items


def _one(value: Any) -> Any:
    """Text from a command line is a list of one entry."""
    return (
        cast("list[Any]", value)[0]
        if isinstance(value, list) and len(cast("list[Any]", value)) == 1
        else value
    )


def _placed(at: str, read: Callable[[], Any]) -> Any:
    """``read()``, its error at this place."""
    try:
        return read()
    except AmountError as error:
        raise GuardrailInputError(error.message, field=at, fix=error.fix) from None
    except ValueError as error:
        message, _, fix = str(error).partition(": ")
        raise GuardrailInputError(message, field=at, fix=fix) from None


def _amount(value: Any, at: str, tokens: TokenResolver) -> TokenAmount:
    read = _placed(at, lambda: parse_human(value, tokens, field=at, allow_zero=True))
    return TokenAmount(token=read.token.address, amount=read.value)


def _address(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise GuardrailInputError("is no address", field=at, fix='write "0x…" and 40 hex digits, in quotes')
    return _placed(at, lambda: parse_address(value))


def _duration(value: Any, at: str) -> int:
    text = _one(value)
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= MAX_SECONDS:
        raise GuardrailInputError(
            f"{str(text)[:60]!r} is no duration of at most {MAX_SECONDS // 86_400} days",
            field=at,
            fix='write a whole number and s, m, h or d, in quotes: "5m"',
        )
    return seconds


def _whole(value: Any, at: str) -> int:
    number = _one(value)
    if type(number) is not int or not 1 <= number <= _MAX_IN_FLIGHT:
        raise GuardrailInputError(
            f"must be a whole number from 1 to {_MAX_IN_FLIGHT}", field=at, fix="e.g. 3"
        )
    return number


def _bps(value: Any, at: str) -> int:
    text = _one(value)
    match = _PERCENT.fullmatch(text) if isinstance(text, str) else None
    share = Fraction(match[1]) * (BPS // 100) if match else Fraction(-1)
    if share < 0 or share.denominator != 1:
        raise GuardrailInputError(
            f"{str(text)[:60]!r} is no percentage below 100% in steps of 0.01%",
            field=at,
            fix='write e.g. "0.5%", in quotes',
        )
    return int(share)


def _rate(value: Any, at: str, tokens: TokenResolver) -> MinRate:
    sell, equals, buy = value.partition(" = ") if isinstance(value, str) else ("", "", "")
    if not equals:
        raise GuardrailInputError(
            "is no reference price", field=at, fix='write e.g. "1 WETH = 2400 USDC", in quotes'
        )
    sold, bought = (
        _placed(at, lambda text=text: parse_human(text, tokens, field=at)) for text in (sell, buy)
    )
    if sold.token == bought.token:
        raise GuardrailInputError("names one token on both sides", field=at, fix="name two tokens")
    return MinRate(
        sell=sold.token.address, sell_amount=sold.value, buy=bought.token.address, buy_amount=bought.value
    )


def _refund(value: Any, at: str, tokens: TokenResolver) -> GasRefundCap:
    fix = 'write { token = "USDC", exchange_rate = "…", overhead = "…" }, whole numbers in quotes'
    if not isinstance(value, dict) or cast("dict[str, Any]", value).keys() != {
        "token",
        "exchange_rate",
        "overhead",
    }:
        raise GuardrailInputError("is no gas refund", field=at, fix=fix)
    entry = cast("dict[str, Any]", value)
    for name, text in entry.items():
        if not isinstance(text, str):
            raise GuardrailInputError("is not text", field=f"{at}.{name}", fix=fix)
    return GasRefundCap(
        token=_placed(at, lambda: tokens(entry["token"])).address,
        exchange_rate=_placed(f"{at}.exchange_rate", lambda: parse_uint(entry["exchange_rate"], 256)),
        overhead=_placed(f"{at}.overhead", lambda: parse_uint(entry["overhead"], 256)),
    )
