"""``session-executor strategies``."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.cli.context import runtime, settings
from worker.cli.output import print_json, print_line, print_table, utc

app = typer.Typer(help="What runs by cron (SESSION_EXECUTOR_STRATEGIES_FILE).", no_args_is_help=True)


@app.command("list")
def list_strategies(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The strategies of the file, with their last and next fire times."""
    from worker.execution.fire import read_strategies
    from worker.execution.runtime import now_ms
    from worker.strategies.schedule import latest_slot, next_slot

    config = settings()
    now_s = now_ms() // 1000
    rows = [
        (strategy, latest_slot(strategy, now_s), next_slot(strategy, now_s) if strategy.enabled else None)
        for strategy in read_strategies(config.strategies_file, config.chain_id)
    ]
    if as_json:
        print_json(
            [
                {
                    "name": strategy.name,
                    "kind": strategy.kind,
                    "session": strategy.session,
                    "cron": str(strategy.cron),
                    "to": strategy.to,
                    "token": strategy.amount.token.address,
                    "amount": str(strategy.amount.value),
                    "enabled": strategy.enabled,
                    "last": last_s,
                    "next": next_s,
                }
                for strategy, last_s, next_s in rows
            ]
        )
        return
    print_table(
        ("name", "cron (UTC)", "what", "session", "last", "next"),
        (
            (
                strategy.name,
                str(strategy.cron),
                f"{strategy.amount} to {strategy.to}",
                strategy.session,
                utc(last_s) if last_s is not None else "-",
                utc(next_s) if next_s is not None else ("-" if strategy.enabled else "disabled"),
            )
            for strategy, last_s, next_s in rows
        ),
        empty="no strategies: set SESSION_EXECUTOR_STRATEGIES_FILE",
    )


@app.command("run")
def run_strategy(
    name: Annotated[str, typer.Argument(help="The strategy's name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fire a strategy's due slot now. A slot fires once, whoever fires it."""
    from worker.execution.fire import fire, read_strategies

    services = runtime()
    config = services.settings
    enqueued = fire(services, read_strategies(config.strategies_file, config.chain_id), name)
    if as_json:
        print_json(
            None
            if enqueued is None
            else {"intent_id": enqueued.record.intent_id, "created": enqueued.created}
        )
    elif enqueued is None:
        print_line("no slot is due")
    else:
        print_line(
            f"{enqueued.record.intent_id}{'' if enqueued.created else ' (this slot was fired before)'}"
        )
