"""The strategies file: TOML, read strictly, so that a typing error is an error and never a payment."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast
from zoneinfo import available_timezones

from worker.intents.amount import TokenResolver
from worker.intents.guardrails import GuardrailInputError, read_guardrails
from worker.policies.guardrails import Guardrails
from worker.strategies import trades, transfer
from worker.strategies.conditions import Condition, read_condition
from worker.strategies.cron import Cron, parse_cron
from worker.strategies.errors import StrategyError
from worker.strategies.events import OnEvent, read_event
from worker.strategies.fields import (
    Fields,
    as_boolean,
    as_duration,
    as_instant,
    as_text,
    kind_of,
    one_of,
    short,
    unknown_field,
)
from worker.strategies.model import CatchUp, Retry, ScheduledStrategy
from worker.strategies.port import ENTRY_POINTS, Strategy
from worker.strategies.raw import raw
from worker.strategies.schedule import next_slot
from worker.strategies.timing import FixedTimes, Interval, Schedule, ZonedCron

#: A file of thousands of strategies is smaller.
_MAX_BYTES = 1 << 20
MAX_LATENESS_S = 31 * 86_400
"""The longest that a payment may be late: a month."""
MAX_JITTER_S = 3_600
MIN_EVERY_S = 2
"""Beat wakes the workers every second; a shorter interval would be a promise that nobody can keep."""

#: A name is part of an idempotency key, of Redis keys and of log lines.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SESSION_ID = re.compile(r"ses_[0-9a-f]{16}")

Factory = Callable[[Fields], Strategy]

#: The kinds that come with this program. The parts of a TWAP and of an order are bounded by themselves.
BUILT_IN: dict[str, Factory] = {
    "recurring-transfer": transfer.recurring_transfer,
    "subscription": transfer.recurring_transfer,
    "sweep": transfer.sweep,
    "dca": trades.dca,
    "twap": trades.twap,
    "limit-order": trades.order,
    "stop-order": trades.order,
    "rebalance": trades.rebalance,
    "raw": raw,
}
#: An order is given once unless somebody writes otherwise.
_ONCE = ("limit-order", "stop-order")
_SUBSCRIPTION_RETRY = Retry(3, 3_600)


def load_strategies(source: str | Path, *, tokens: TokenResolver) -> tuple[ScheduledStrategy, ...]:
    """Read the strategies of a file, in its order.

    Args:
        source: a path, or TOML text.
        tokens: finds a token of the worker's chain by symbol or address.

    Raises:
        StrategyError: names the place, e.g. ``strategies[0].cron``, and the fix. Nothing is used of a file with one.
    """
    return load_entries(read_entries(source), tokens=tokens)


def load_entries(
    entries: Sequence[Mapping[str, Any]], *, tokens: TokenResolver
) -> tuple[ScheduledStrategy, ...]:
    """Strategies of tables that were read before. Raises StrategyError."""
    loaded: list[ScheduledStrategy] = []
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        at = f"strategies[{index}]"
        strategy = _strategy(Fields(entry, at, tokens))
        if strategy.name in seen:
            raise StrategyError(
                f"{strategy.name} is the name of strategies[{seen[strategy.name]}] too",
                field=f"{at}.name",
                fix="give each strategy its own name: a fire counts once per name and time",
            )
        seen[strategy.name] = index
        loaded.append(strategy)
    return tuple(loaded)


def read_entries(source: str | Path) -> list[dict[str, Any]]:
    """The tables ``[[strategies]]`` of a file, not looked into yet. Raises StrategyError."""
    text = _read(source) if isinstance(source, Path) else source
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise StrategyError(
            f"not TOML: {short(why)}", field="strategies file", fix="compare it with strategies.example.toml"
        ) from None
    for name in document:
        if name != "strategies":
            raise unknown_field(name, "", ("strategies",))
    entries = document.get("strategies", [])
    if not isinstance(entries, list):
        raise StrategyError(
            "is no list of tables", field="strategies", fix="write [[strategies]], twice bracketed"
        )
    for index, entry in enumerate(cast("list[Any]", entries)):
        if not isinstance(entry, dict):
            raise StrategyError(
                "is no table", field=f"strategies[{index}]", fix="write [[strategies]], twice bracketed"
            )
    return cast("list[dict[str, Any]]", entries)


@cache
def kinds() -> dict[str, Factory]:
    """Every kind that there is: the built-in ones and those of installed packages.

    Raises:
        StrategyError: a package's entry point cannot be loaded, or takes a built-in's name.
    """
    found = dict(BUILT_IN)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in found:
            raise StrategyError(
                f"is the name of two kinds of strategy, one of them {point.value}",
                field=f"kind {point.name}",
                fix="rename the package's entry point",
            )
        try:
            found[point.name] = cast("Factory", point.load())
        except Exception as error:  # noqa: BLE001 - whatever a package does when it is loaded
            raise StrategyError(
                f"cannot be loaded from {point.value} ({type(error).__name__})",
                field=f"kind {point.name}",
                fix="mend or remove the package",
            ) from None
    return found


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


def _strategy(fields: Fields) -> ScheduledStrategy:
    name = fields.read("name", _name)
    kind = fields.read("kind", _kind)
    session = fields.read("session", _session)
    start_s = fields.maybe("start", as_instant, None)
    end_s = fields.maybe("end", as_instant, None)
    when, event = _trigger(fields, start_s or 0)
    if event is not None:
        fields.event_names = frozenset(parameter.name for parameter in event.parameters)
    strategy = ScheduledStrategy(
        name=name,
        kind=kind,
        session=session,
        strategy=kinds()[kind](fields),
        when=when,
        event=event,
        only_if=_only_if(fields, kind),
        enabled=fields.maybe("enabled", as_boolean, True),
        sponsored=fields.maybe("sponsored", as_boolean, True),
        max_lateness_s=_lateness(fields),
        start_s=start_s,
        end_s=end_s,
        max_executions=_executions(fields, kind),
        catch_up=cast("CatchUp", fields.maybe("catch_up", one_of("none", "one", "all"), "one")),
        jitter_s=_jitter(fields),
        retry=_retry(fields, kind),
        pause_after=fields.whole("pause_after", 0, 1_000, default=3),
        guardrails=_guardrails(fields),
    )
    fields.finish()
    _check(strategy, fields)
    return strategy


def _trigger(fields: Fields, start_s: int) -> tuple[Schedule | None, OnEvent | None]:
    triggers = [name for name in ("cron", "every", "at", "on_event") if fields.has(name)]
    if len(triggers) > 1:
        raise StrategyError(
            f"cannot go with {triggers[0]}", field=fields.place(triggers[1]), fix="write one trigger"
        )
    if triggers != ["cron"] and fields.has("timezone"):
        raise StrategyError("belongs to cron", field=fields.place("timezone"), fix="leave it out")
    match triggers:
        case ["every"]:
            every_s = fields.read("every", as_duration)
            if every_s < MIN_EVERY_S:
                raise StrategyError(
                    f"is shorter than {MIN_EVERY_S} s", field=fields.place("every"), fix="use a longer one"
                )
            return Interval(every_s, start_s), None
        case ["at"]:
            return FixedTimes(fields.read("at", _instants)), None
        case ["on_event"]:
            return None, read_event(fields.table("on_event"))
        case _:
            cron = fields.read("cron", _cron)
            zone = fields.maybe("timezone", _zone, "UTC")
            return (cron if zone == "UTC" else ZonedCron(cron, zone)), None


def _only_if(fields: Fields, kind: str) -> Condition | None:
    side = "below" if kind == "stop-order" else ""
    if fields.has("only_if"):
        return read_condition(fields.table("only_if"), side=side)
    if kind in _ONCE:
        raise StrategyError(
            "is missing: an order waits for a price",
            field=fields.place("only_if"),
            fix='add only_if = { feed = "0x…", base = …, quote = …, below = "2500" }',
        )
    return None


def _lateness(fields: Fields) -> int | None:
    """``max_lateness_s``, or by its older name ``not_after_s``."""
    names = [name for name in ("max_lateness_s", "not_after_s") if fields.has(name)]
    if len(names) > 1:
        raise StrategyError(
            "is the older name of max_lateness_s", field=fields.place("not_after_s"), fix="write one of them"
        )
    return fields.read(names[0], _seconds) if names else None


def _executions(fields: Fields, kind: str) -> int | None:
    if fields.has("max_executions"):
        return fields.whole("max_executions", 1, 10**9)
    return 1 if kind in _ONCE else None


def _jitter(fields: Fields) -> int:
    jitter_s = fields.maybe("jitter", as_duration, 0)
    if jitter_s > MAX_JITTER_S:
        raise StrategyError(
            f"is longer than {MAX_JITTER_S} s", field=fields.place("jitter"), fix="use a shorter one"
        )
    return jitter_s


def _retry(fields: Fields, kind: str) -> Retry | None:
    if not fields.has("retry"):
        return _SUBSCRIPTION_RETRY if kind == "subscription" else None
    table = fields.table("retry")
    found = Retry(table.whole("times", 0, 100), table.maybe("after", as_duration, 3_600))
    table.finish()
    return found if found.times else None


def _guardrails(fields: Fields) -> Guardrails:
    if not fields.has("guardrails"):
        return Guardrails()
    entry = fields.raw("guardrails")
    if not isinstance(entry, dict):
        raise StrategyError(
            f"is {kind_of(entry)}, not a table",
            field=fields.place("guardrails"),
            fix="write [strategies.guardrails]",
        )
    try:
        return read_guardrails(cast("dict[str, Any]", entry), fields.tokens, at=fields.place("guardrails"))
    except GuardrailInputError as error:
        raise StrategyError(error.message, field=error.field, fix=error.fix) from None


def _check(strategy: ScheduledStrategy, fields: Fields) -> None:
    start_s, end_s = strategy.start_s, strategy.end_s
    if start_s is not None and end_s is not None and end_s <= start_s:
        raise StrategyError(
            "is not after start", field=fields.place("end"), fix="set a later end, or leave it out"
        )
    if strategy.when is not None and next_slot(strategy, -1) is None:
        raise StrategyError(
            f"comes before the first fire time of {strategy.when}"
            if end_s is not None
            else f"comes after the last fire time of {strategy.when}",
            field=fields.place("start" if end_s is None else "end"),
            fix="set another start or end",
        )
    if strategy.catch_up == "all" and strategy.max_lateness_s is None:
        raise StrategyError(
            "makes up for old slots, and nothing says how old they may be",
            field=fields.place("catch_up"),
            fix="add max_lateness_s",
        )
    if strategy.event is not None and strategy.jitter_s:
        raise StrategyError("belongs to a time", field=fields.place("jitter"), fix="leave it out")


# --- fields; each raises StrategyError at the place it is given


def _name(value: Any, at: str) -> str:
    text = as_text(value, at)
    if not _NAME.fullmatch(text):
        raise StrategyError(
            f"{short(text)!r} is no name",
            field=at,
            fix="use a-z, 0-9, - and _, at most 64, a letter or digit first",
        )
    return text


def _kind(value: Any, at: str) -> str:
    text = as_text(value, at)
    if text not in kinds():
        raise StrategyError(
            f"{short(text)!r} is no kind of strategy", field=at, fix=f"use {', '.join(kinds())}"
        )
    return text


def _session(value: Any, at: str) -> str:
    text = as_text(value, at)
    if not _SESSION_ID.fullmatch(text):
        raise StrategyError(
            f"{short(text)!r} is no session",
            field=at,
            fix="use its id, ses_ and 16 hex digits: see `session-executor sessions list`",
        )
    return text


def _cron(value: Any, at: str) -> Cron:
    try:
        return parse_cron(as_text(value, at))
    except ValueError as error:
        message, _, fix = str(error).partition("\n")
        raise StrategyError(message, field=at, fix=fix) from None


def _zone(value: Any, at: str) -> str:
    text = as_text(value, at)
    if text not in _zones():
        raise StrategyError(
            f"{short(text)!r} is no time zone", field=at, fix="use a name such as Europe/Berlin"
        )
    return text


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _instants(value: Any, at: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise StrategyError(
            f"is {kind_of(value)}, not a list of dates", field=at, fix="write [2026-01-31T00:00:00Z]"
        )
    items = cast("list[Any]", value)
    return tuple(sorted({as_instant(item, f"{at}[{index}]") for index, item in enumerate(items)}))


def _seconds(value: Any, at: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_LATENESS_S:
        raise StrategyError(
            f"must be a whole number of seconds from 1 to {MAX_LATENESS_S}", field=at, fix="e.g. 900"
        )
    return value
