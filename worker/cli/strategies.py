"""``session-executor strategies``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.changes import change, operator
from worker.cli.context import find_session, options, runtime
from worker.cli.output import ListLimit, ListOffset, note, print_json, print_line, print_table, utc
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.strategies.model import ScheduledStrategy

app = typer.Typer(
    help="What runs by itself: strategies of SESSION_EXECUTOR_STRATEGIES_FILE and those added at run time.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help="The strategy's name.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_strategies(
    session: Annotated[
        str | None, typer.Option(help="Only of this session: its id, or the first digits of it.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as dca.")] = None,
    limit: ListLimit = 1_000,
    offset: ListOffset = 0,
    as_json: JsonFlag = False,
) -> None:
    """All strategies, with their last and next fire times."""
    from worker.execution.fire import all_strategies
    from worker.strategies.schedule import latest_slot, next_slot

    services = runtime()
    now_s = services.now_s
    added = services.strategies.definitions()
    of_session = None if session is None else find_session(services, session, field="--session").session_id
    wanted = [
        strategy
        for strategy in all_strategies(services)
        if of_session in (None, strategy.session) and kind in (None, strategy.kind)
    ][offset : offset + limit]
    rows = [
        (
            strategy,
            services.strategies.read(strategy.name),
            latest_slot(strategy, now_s),
            next_slot(strategy, now_s) if strategy.enabled else None,
        )
        for strategy in wanted
    ]
    paused = {
        pause.switch.name: pause.why for pause in services.pauses.list() if pause.switch.kind == "strategy"
    }
    if as_json:
        print_json(
            [
                {
                    "name": strategy.name,
                    "kind": strategy.kind,
                    "session": strategy.session,
                    "trigger": _trigger(strategy),
                    "what": strategy.strategy.describe(),
                    "enabled": strategy.enabled,
                    "paused": paused.get(strategy.name),
                    "origin": "added" if strategy.name in added else "file",
                    "catch_up": strategy.catch_up,
                    "last": last_s,
                    "next": next_s,
                    "fired": state.fired if state else 0,
                    "max_executions": strategy.max_executions,
                    "finished": bool(state and state.finished),
                    "problem": state.problem if state else "",
                    "said": state.said if state else "",
                }
                for strategy, state, last_s, next_s in rows
            ]
        )
        return
    print_table(
        ("name", "trigger", "what", "session", "last", "next", "fired", "state"),
        (
            (
                strategy.name,
                _trigger(strategy),
                strategy.strategy.describe(),
                strategy.session,
                utc(last_s) if last_s is not None else "-",
                utc(next_s) if next_s is not None else "-",
                f"{state.fired if state else 0}{f'/{strategy.max_executions}' if strategy.max_executions else ''}",
                "disabled"
                if not strategy.enabled
                else f"paused: {paused[strategy.name]}"
                if strategy.name in paused
                else "finished"
                if state and state.finished
                else (state.problem or state.said or "running")
                if state
                else "not seen yet",
            )
            for strategy, state, last_s, next_s in rows
        ),
        empty="no strategies: set SESSION_EXECUTOR_STRATEGIES_FILE, or `session-executor strategies add`",
    )


@app.command("next")
def next_fires(
    name: Name,
    count: Annotated[int, typer.Option("--count", "-n", help="How many.", min=1, max=1000)] = 5,
    as_json: JsonFlag = False,
) -> None:
    """The next fire times of a strategy, in UTC and on its own clock, with their jitter."""
    from worker.strategies.schedule import fires_at, next_slot

    services = runtime()
    strategy = _find(services, name)
    found: list[tuple[int, int]] = []
    slot_s = next_slot(strategy, services.now_s) if strategy.enabled else None
    while slot_s is not None and len(found) < count:
        found.append((slot_s, fires_at(strategy, slot_s)))
        slot_s = next_slot(strategy, slot_s)
    if as_json:
        print_json([{"slot": slot, "fires": fires, "local": _local(strategy, slot)} for slot, fires in found])
        return
    print_table(
        ("slot (UTC)", "its own clock", "fires (UTC)"),
        ((utc(slot), _local(strategy, slot), utc(fires)) for slot, fires in found),
        empty="never again" if strategy.event is None else "whenever its event comes",
    )


@app.command("missed")
def missed_slots(
    name: Name,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_080)] = 50,
    offset: Annotated[int, typer.Option(help="How many to skip.", min=0)] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Slots that were not fired, the newest first, each with its reason."""
    rows = runtime().strategies.missed(name, limit=limit, offset=offset)
    if as_json:
        print_json([{"slot": row.slot_s, "why": row.why, "found_ms": row.at_ms} for row in rows])
        return
    print_table(
        ("slot", "found", "why"),
        ((utc(row.slot_s), utc(row.at_ms / 1000), row.why) for row in rows),
        empty="nothing was missed",
    )


@app.command("run")
def run_strategy(name: Name, as_json: JsonFlag = False) -> None:
    """Fire a strategy's due slot now. A slot fires once, whoever fires it."""
    from worker.execution.fire import all_strategies, fire

    services = runtime()
    fired = fire(services, all_strategies(services), name)
    enqueued = fired.enqueued
    if as_json:
        print_json(
            None
            if enqueued is None
            else {"intent_id": enqueued.record.intent_id, "created": enqueued.created}
        )
    elif enqueued is None:
        print_line(fired.why)
    else:
        print_line(
            f"{enqueued.record.intent_id}{'' if enqueued.created else ' (this slot was fired before)'}"
        )


@app.command("dry-run")
def dry_run_strategy(
    name: Name,
    event: Annotated[
        list[str] | None,
        typer.Option("--event", help="For one that acts on an event: an argument of it, as value=1000000."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What a strategy would do now: its decision, policies, quote and budgets. Nothing is signed or stored.

    Exit code 1 if it would be refused.
    """
    from worker.execution.dry_run import dry_run
    from worker.execution.fire import moment_of
    from worker.strategies.build import decide, intent_of
    from worker.strategies.port import Wait
    from worker.strategies.schedule import DEFAULT_LATENESS_S

    services = runtime()
    strategy = _find(services, name)
    if event and strategy.event is None:
        raise InputError("goes with a strategy that acts on an event", field="--event", fix="leave it out")
    with options(event="--event"):
        arguments = None if strategy.event is None else strategy.event.imagined(event or ())
    until_s = services.now_s + (strategy.max_lateness_s or DEFAULT_LATENESS_S)
    moment = moment_of(
        services,
        strategy,
        services.strategies.read(name),
        slot_s=services.now_s,
        until_s=until_s,
        event=arguments,
    )
    if strategy.event is not None and arguments is None:
        decision = Wait("a log with these arguments does not count")
    else:
        decision = decide(strategy, moment)
    if isinstance(decision, Wait):
        if as_json:
            print_json({"acts": False, "why": decision.why})
        else:
            print_line(f"would do nothing: {decision.why}")
        return
    intent = intent_of(strategy, f"dry-run:{services.now_s}", decision, until_s=until_s)
    found = dry_run(services, intent, strategy=strategy)
    if as_json:
        print_json(
            {
                "acts": True,
                "what": decision.note,
                "calls": [
                    {"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()}
                    for call in decision.calls
                ],
                "enable": found.enable,
                "budgets": list(found.budgets),
                "over": list(found.over),
                "approval": found.approval,
            }
        )
    else:
        print_line(f"would {decision.note}")
        print_line(
            f"quote {found.quote_id} is what was asked for{', and enables the session' if found.enable else ''}"
        )
        for line in found.budgets:
            print_line(f"{'over the limit: ' if line in found.over else ''}{line}")
        if found.approval:
            print_line(f"would wait for `intents approve`: {found.approval}")
    if found.over:
        raise typer.Exit(1)


@app.command("check")
def check_file(file: Annotated[str, typer.Argument(help="A TOML file, or - for standard input.")]) -> None:
    """Check a strategies file as a whole, sessions included; nothing is changed."""
    names = [strategy.name for strategy in _checked(runtime(), _text(file))[0]]
    print_line(f"{len(names)} good: {', '.join(names)}" if names else "no strategies")


@app.command("add")
def add_strategies(
    file: Annotated[str, typer.Argument(help="A TOML file of [[strategies]], or - for standard input.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace those that were added before; their cursors stay.")
    ] = False,
) -> None:
    """Add strategies while everything runs. All of the file is checked first; all of it applies, or nothing."""
    from worker.execution.fire import read_strategies
    from worker.ledger.pauses import strategy_switch

    services = runtime()
    strategies, entries = _checked(services, _text(file))
    config = services.settings
    of_file = {item.name for item in read_strategies(config.strategies_file, config.chain_id)}
    added = services.strategies.definitions()
    for strategy in strategies:
        if strategy.name in of_file:
            raise InputError("is in the strategies file", field=strategy.name, fix="change it there")
        if strategy.name in added and not replace:
            raise InputError("was added before", field=strategy.name, fix="use another name, or --replace")
    with ExitStack() as each:
        for name, entry in entries.items():
            # a line for each: a file of hundreds would make one that is too long
            each.enter_context(
                change(
                    services,
                    "strategy replaced" if name in added else "strategy added",
                    strategy=name,
                    before=_table(added.get(name)),
                    after=_table(entry),
                )
            )
        services.strategies.define(entries)
    for strategy in strategies:
        if strategy.name not in added:
            # what stopped a removed strategy of this name does not stop the new one
            with change(
                services, "resumed", switch=f"strategy {strategy.name}", why="it was added anew"
            ) as made:
                made.say(
                    before="paused"
                    if services.pauses.resume(strategy_switch(strategy.name))
                    else "not paused"
                )
        print_line(strategy.name)


@app.command("remove")
def remove_strategy(name: Name) -> None:
    """Remove a strategy that was added, or what is kept of one that has left the file. What is not signed is canceled."""
    from worker.execution.fire import read_strategies, remove

    services = runtime()
    config = services.settings
    if name in {item.name for item in read_strategies(config.strategies_file, config.chain_id)}:
        raise InputError("is in the strategies file", field=name, fix="take it out there first")
    before = _table(services.strategies.definitions().get(name))
    with change(services, "strategy removed", stops=True, strategy=name, before=before) as made:
        there, canceled = remove(services, name, who=operator())
        made.say(there=there, canceled=canceled)
    if not there and not canceled:
        raise InputError(f"no strategy {name!r} was added", field="name", fix="see `strategies list`")
    print_line(f"removed {name}, {canceled} intents canceled")


@app.command("pause")
def pause_strategy(name: Name, why: Annotated[str, typer.Option(help="For whoever comes next.")]) -> None:
    """Stop a strategy: its slots are listed as missed, and what is queued and not signed yet is canceled."""
    from worker.execution.fire import cancel_open
    from worker.ledger.pauses import strategy_switch

    services = runtime()
    _find(services, name)
    who = operator()
    with change(services, "paused", stops=True, switch=f"strategy {name}", why=why) as made:
        services.pauses.pause(strategy_switch(name), why=why, who=who, now_ms=services.now_ms())
        canceled = cancel_open(services, name, who=who, why=f"its strategy was paused: {why}")
        made.say(canceled=canceled)
    print_line(f"paused {name}, {canceled} intents canceled")


@app.command("resume")
def resume_strategy(name: Name) -> None:
    """Let a paused strategy go on with its next slot; those that passed meanwhile stay missed."""
    from worker.ledger.pauses import strategy_switch

    services = runtime()
    with change(services, "resumed", switch=f"strategy {name}") as made:
        resumed = services.pauses.resume(strategy_switch(name))
        made.say(before="paused" if resumed else "not paused", after="not paused")
    if resumed:
        print_line(f"resumed {name}")
    else:
        note(f"{name} was not paused")


def _table(entry: Mapping[str, Any] | None) -> str:
    """A strategy's table for the audit trail; "" for none."""
    return "" if entry is None else json.dumps(entry, default=str)


def _find(services: Runtime, name: str) -> ScheduledStrategy:
    from worker.execution.fire import all_strategies, find

    return find(all_strategies(services), name)


def _checked(services: Runtime, text: str) -> tuple[tuple[ScheduledStrategy, ...], dict[str, dict[str, Any]]]:
    """The strategies of a text and their tables by name. Raises InputError; nothing is used of a text with an error."""
    from worker.execution.tokens import token_table
    from worker.strategies.load import load_entries, read_entries

    entries = read_entries(text)
    strategies = load_entries(entries, tokens=token_table(services.settings.chain_id))
    for strategy in strategies:
        session = services.sessions.get(strategy.session)
        if session.chain_id != services.settings.chain_id:
            raise InputError(
                f"its session is for chain {session.chain_id}",
                field=strategy.name,
                fix=f"use one of chain {services.settings.chain_id}",
            )
    return strategies, {strategy.name: entry for strategy, entry in zip(strategies, entries, strict=True)}


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", field=file, fix="check the path") from None
    except UnicodeDecodeError:
        raise InputError("is not UTF-8", field=file, fix="save it as UTF-8") from None


def _trigger(strategy: ScheduledStrategy) -> str:
    trigger = str(strategy.when if strategy.event is None else strategy.event)
    return f"{trigger}, if {strategy.only_if}" if strategy.only_if else trigger


def _local(strategy: ScheduledStrategy, slot_s: int) -> str:
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    from worker.strategies.timing import ZonedCron

    zone = ZoneInfo(strategy.when.zone) if isinstance(strategy.when, ZonedCron) else UTC
    return datetime.fromtimestamp(slot_s, zone).strftime("%a %Y-%m-%d %H:%M:%S %Z")
