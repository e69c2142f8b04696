"""``session-executor pause``, ``resume`` and ``paused``: kill switches. ``sessions pause`` stops a single session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.changes import change, operator
from worker.cli.context import runtime
from worker.cli.output import note, print_json, print_line, print_table, utc
from worker.errors import ExecutorError, InputError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.ledger.pauses import Switch

Account = Annotated[
    str, typer.Option("--account", metavar="ADDRESS", help="All sessions of a smart account.")
]
Chain = Annotated[str, typer.Option("--chain", metavar="ID", help="All sessions on a chain.")]
Strategy = Annotated[str, typer.Option("--strategy", metavar="NAME", help="All intents of a strategy.")]
Everything = Annotated[bool, typer.Option("--all", help="Everything.")]


def add_to(app: typer.Typer) -> None:
    """Put this module's commands into the program."""
    app.command("pause")(pause)
    app.command("resume")(resume)
    app.command("paused")(paused)


def pause(
    why: Annotated[str, typer.Option("--why", help="For whoever comes next; shown with every refusal.")],
    account: Account = "",
    chain: Chain = "",
    strategy: Strategy = "",
    everything: Everything = False,
) -> None:
    """Stop an account, a chain, a strategy or everything: what is not signed yet is refused, queued intents included.

    What is signed already may be executed and is followed to its end.
    """
    switch = _switch(account, chain, strategy, everything)
    services = runtime()
    with change(services, "paused", stops=True, switch=str(switch), why=why):
        services.pauses.pause(switch, why=why, who=operator(), now_ms=services.now_ms())
    print_line(f"{switch} is paused")
    _warn_if_unknown(services, switch)


def resume(
    account: Account = "", chain: Chain = "", strategy: Strategy = "", everything: Everything = False
) -> None:
    """Take one pause back. Others stay: `--all` resumes what `pause --all` stopped, nothing else."""
    switch = _switch(account, chain, strategy, everything)
    services = runtime()
    with change(services, "resumed", switch=str(switch)) as made:
        was = next((pause for pause in services.pauses.list() if pause.switch == switch), None)
        resumed = services.pauses.resume(switch)
        made.say(before=f"paused by {was.who}: {was.why}" if was else "not paused", after="not paused")
    if resumed:
        print_line(f"{switch} goes on")
    else:
        print_line(f"{switch} was not paused")
    left = services.pauses.list()
    if left:
        note(f"still paused: {', '.join(str(pause.switch) for pause in left)}")


def paused(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """What is paused, single sessions aside (see `sessions list`)."""
    found = runtime().pauses.list()
    times = [utc(pause.at_ms // 1000) for pause in found]
    if as_json:
        print_json(
            [
                {
                    "kind": pause.switch.kind,
                    "name": pause.switch.name,
                    "why": pause.why,
                    "who": pause.who,
                    "at": at,
                }
                for pause, at in zip(found, times, strict=True)
            ]
        )
        return
    print_table(
        ("paused", "since", "by", "why"),
        ((str(pause.switch), at, pause.who, pause.why) for pause, at in zip(found, times, strict=True)),
        empty="nothing is paused",
    )


def _switch(account: str, chain: str, strategy: str, everything: bool) -> Switch:
    from worker.ledger.pauses import EVERYTHING, account_switch, chain_switch, strategy_switch

    given = [
        name
        for name, value in (("--account", account), ("--chain", chain), ("--strategy", strategy))
        if value
    ]
    given += ["--all"] if everything else []
    if len(given) != 1:
        raise InputError(
            "one of --account, --chain, --strategy and --all must be given"
            if not given
            else "are too much at once",
            field=", ".join(given),
            fix="give just one",
        )
    if account:
        return account_switch(account)
    if chain:
        return chain_switch(chain)
    return strategy_switch(strategy) if strategy else EVERYTHING


def _warn_if_unknown(services: Runtime, switch: Switch) -> None:
    """A slip of the pen must not look like a stop."""
    from worker.execution.fire import all_strategies

    try:
        known = {
            "all": lambda: [""],
            "account": lambda: [
                session.account
                for session in services.sessions.list(on_corrupt=lambda error: note(str(error)))
            ],
            "chain": lambda: [str(services.settings.chain_id)],
            "strategy": lambda: [strategy.name for strategy in all_strategies(services)],
        }[switch.kind]()
    except ExecutorError:
        return  # it is paused; what else there is cannot be told now
    if switch.name not in known:
        note(f"warning: nothing here belongs to {switch}; is it written as you mean it?")
