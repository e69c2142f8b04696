"""The strategies file: TOML, read strictly, so that a typing error is an error and never a payment."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from eth_utils.address import is_checksum_address

from worker.intents.amount import Amount, AmountError, TokenResolver, parse_amount, parse_human
from worker.strategies.cron import Cron, parse_cron
from worker.strategies.errors import StrategyError
from worker.strategies.model import KINDS, Kind, Strategy
from worker.strategies.schedule import next_slot
from worker.strategies.transfer import NATIVE_TOKEN

_T = TypeVar("_T")

#: A file of thousands of strategies is smaller.
_MAX_BYTES = 1 << 20
MAX_NOT_AFTER_S = 31 * 86_400
"""The longest that a payment may be late: a month."""

#: A name is part of an idempotency key, of Redis keys and of log lines.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SESSION_ID = re.compile(r"ses_[0-9a-f]{16}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
REQUIRED = ("name", "kind", "session", "cron", "to", "amount")
OPTIONAL = ("token", "enabled", "sponsored", "not_after_s", "start", "end")


def load_strategies(source: str | Path, *, tokens: TokenResolver) -> tuple[Strategy, ...]:
    """Read the strategies of a file, in its order.

    Args:
        source: a path, or TOML text.
        tokens: finds a token of the worker's chain by symbol or address.

    Raises:
        StrategyError: names the place, e.g. ``strategies[0].cron``, and the fix. Nothing is used of a file with one.
    """
    text = _read(source) if isinstance(source, Path) else source
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise StrategyError(
            f"not TOML: {_short(why)}", field="strategies file", fix="compare it with strategies.example.toml"
        ) from None
    for name in document:
        if name != "strategies":
            raise _unknown(name, "", ("strategies",))
    entries = document.get("strategies", [])
    if not isinstance(entries, list):
        raise StrategyError(
            "is no list of tables", field="strategies", fix="write [[strategies]], twice bracketed"
        )
    loaded: list[Strategy] = []
    seen: dict[str, int] = {}
    for index, entry in enumerate(cast("list[Any]", entries)):
        at = f"strategies[{index}]"
        if not isinstance(entry, dict):
            raise StrategyError("is no table", field=at, fix="write [[strategies]], twice bracketed")
        strategy = _strategy(cast("dict[str, Any]", entry), at, tokens)
        if strategy.name in seen:
            raise StrategyError(
                f"{strategy.name} is the name of strategies[{seen[strategy.name]}] too",
                field=f"{at}.name",
                fix="give each strategy its own name: a fire counts once per name and time",
            )
        seen[strategy.name] = index
        loaded.append(strategy)
    return tuple(loaded)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise StrategyError(f"is larger than {_MAX_BYTES} bytes", field=str(path), fix="split it")
        return content.decode("utf-8")
    except OSError as error:
        raise StrategyError(
            f"cannot be read ({error.strerror or type(error).__name__})",
            field=str(path),
            fix="check the path and its permissions",
        ) from None
    except UnicodeDecodeError:
        raise StrategyError("is not UTF-8", field=str(path), fix="save it as UTF-8") from None


def _strategy(entry: Mapping[str, Any], at: str, tokens: TokenResolver) -> Strategy:
    for name in entry:
        if name not in REQUIRED + OPTIONAL:
            raise _unknown(name, f"{at}.", REQUIRED + OPTIONAL)
    for name in REQUIRED:
        if name not in entry:
            raise StrategyError("is missing", field=f"{at}.{name}", fix=f"add {name} = …")
    amount = _amount(entry, at, tokens)

    def read(name: str, parse: Callable[[Any, str], _T]) -> _T:
        return parse(entry[name], f"{at}.{name}")

    def maybe(name: str, parse: Callable[[Any, str], _T], default: _T) -> _T:
        return parse(entry[name], f"{at}.{name}") if name in entry else default

    strategy = Strategy(
        name=read("name", _name),
        kind=read("kind", _kind),
        session=read("session", _session),
        cron=read("cron", _cron),
        to=read("to", _address),
        amount=amount,
        enabled=maybe("enabled", _boolean, True),
        sponsored=maybe("sponsored", _boolean, True),
        not_after_s=maybe("not_after_s", _seconds, None),
        start_s=maybe("start", _instant, None),
        end_s=maybe("end", _instant, None),
    )
    _check_receiver(strategy, at)
    _check_dates(strategy, at)
    return strategy


def _amount(entry: Mapping[str, Any], at: str, tokens: TokenResolver) -> Amount:
    """``amount = "10 USDC"``, or ``amount = "10"`` with ``token = "USDC"``, or both, agreeing."""
    written, here = entry["amount"], f"{at}.amount"
    if "token" not in entry:
        return _placed(here, lambda: parse_human(written, tokens, field=here))
    name = _text(entry["token"], f"{at}.token")
    token = _placed(f"{at}.token", lambda: tokens(name))
    if not isinstance(written, str) or " " not in written:
        return Amount(_placed(here, lambda: parse_amount(written, token=token, field=here)), token)
    amount = _placed(here, lambda: parse_human(written, tokens, field=here))
    if amount.token != token:
        raise StrategyError(
            f"is in {amount.token.symbol}, and token is {token.symbol}", field=here, fix="name one token"
        )
    return amount


def _placed(at: str, read: Callable[[], _T]) -> _T:
    """``read()``, its AmountError as a StrategyError at ``at``: a resolver does not know where it is asked from."""
    try:
        return read()
    except AmountError as error:
        raise StrategyError(error.message, field=at, fix=error.fix) from None


def _check_receiver(strategy: Strategy, at: str) -> None:
    if strategy.to == NATIVE_TOKEN:
        raise StrategyError("is the zero address", field=f"{at}.to", fix="set the receiver")
    if strategy.to == strategy.amount.token.address:
        raise StrategyError(
            f"is the {strategy.amount.token.symbol} contract itself, where money is lost",
            field=f"{at}.to",
            fix="set the receiver",
        )


def _check_dates(strategy: Strategy, at: str) -> None:
    start_s, end_s = strategy.start_s, strategy.end_s
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise StrategyError("is not after start", field=f"{at}.end", fix="set a later end, or leave it out")
    if end_s is not None and next_slot(strategy, -1) is None:
        raise StrategyError(
            f"comes before the first fire time of {strategy.cron}", field=f"{at}.end", fix="set a later end"
        )


# --- fields; each raises StrategyError at the place it is given


def _name(value: Any, at: str) -> str:
    text = _text(value, at)
    if not _NAME.fullmatch(text):
        raise StrategyError(
            f"{_short(text)!r} is no name",
            field=at,
            fix="use a-z, 0-9, - and _, at most 64, a letter or digit first",
        )
    return text


def _kind(value: Any, at: str) -> Kind:
    text = _text(value, at)
    for kind in KINDS:
        if text == kind:
            return kind
    raise StrategyError(f"{_short(text)!r} is no kind of strategy", field=at, fix=f"use {', '.join(KINDS)}")


def _session(value: Any, at: str) -> str:
    text = _text(value, at)
    if not _SESSION_ID.fullmatch(text):
        raise StrategyError(
            f"{_short(text)!r} is no session",
            field=at,
            fix="use its id, ses_ and 16 hex digits: see `session-executor sessions list`",
        )
    return text


def _cron(value: Any, at: str) -> Cron:
    try:
        return parse_cron(_text(value, at))
    except ValueError as error:
        message, _, fix = str(error).partition("\n")
        raise StrategyError(message, field=at, fix=fix) from None


def _address(value: Any, at: str) -> str:
    text = _text(value, at)
    if not _ADDRESS.fullmatch(text):
        raise StrategyError(f"{_short(text)!r} is no address", field=at, fix="use 0x and 40 hex digits")
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and not is_checksum_address(text):
        raise StrategyError(
            f"{text} has a wrong EIP-55 checksum", field=at, fix="copy it again, or write it in lower case"
        )
    return text.lower()


def _boolean(value: Any, at: str) -> bool:
    if not isinstance(value, bool):
        raise StrategyError(
            f"is {_type(value)}, not true or false", field=at, fix="write true or false, unquoted"
        )
    return value


def _seconds(value: Any, at: str) -> int | None:
    if type(value) is not int or not 1 <= value <= MAX_NOT_AFTER_S:
        raise StrategyError(
            f"must be a whole number of seconds from 1 to {MAX_NOT_AFTER_S}", field=at, fix="e.g. 900"
        )
    return value


def _instant(value: Any, at: str) -> int | None:
    fix = "write it in UTC with a Z and without quotes, e.g. 2026-01-31T00:00:00Z"
    if not isinstance(value, datetime):
        raise StrategyError(f"is {_type(value)}, not a date with a time", field=at, fix=fix)
    if value.utcoffset() is None:
        raise StrategyError("has no time zone", field=at, fix=fix)
    if value.utcoffset() != timedelta(0):
        raise StrategyError("is not in UTC", field=at, fix=fix)
    if value.microsecond:
        raise StrategyError("has fractions of a second", field=at, fix=fix)
    return int(value.timestamp())


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise StrategyError(f"is {_type(value)}, not text", field=at, fix="put it in quotes")
    return value


def _type(value: Any) -> str:
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


def _unknown(name: str, prefix: str, known: tuple[str, ...]) -> StrategyError:
    close = difflib.get_close_matches(name, known, n=1)
    return StrategyError(
        "is not known",
        field=f"{prefix}{_short(name)}",
        fix=f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}",
    )


def _short(text: str) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= 80 else f"{line[:77]}..."
