"""``session-executor ledger``: is the book of record the one that was written, and what to do when it is not."""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import runtime
from worker.cli.output import note, print_json, print_line, utc

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime

app = typer.Typer(help="The book of record in Redis: whether it is whole.", no_args_is_help=True)


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Whether Redis still holds what this machine has seen of the ledger; exit code 1 if it does not."""
    services = runtime()
    found = services.epoch.status()
    if as_json:
        print_json(
            {
                "whole": not found.loss,
                "epoch": found.epoch,
                "known_epoch": found.known,
                "loss": found.loss,
                "noticed_by": found.who,
                "noticed_ms": found.at_ms,
            }
        )
    elif found.loss:
        when = f" (noticed by {found.who} at {utc(found.at_ms / 1000)})" if found.at_ms else ""
        print_line(f"LOST: {found.loss}{when}")
        print_line("nothing is signed until `session-executor ledger confirm`; see the runbook")
    else:
        print_line(
            f"whole, epoch {found.epoch[:8]}" if found.epoch else "new: no worker has traded on it yet"
        )
    if found.loss:
        raise typer.Exit(1)


@app.command()
def confirm(
    why: Annotated[str, typer.Option(help="What you compared and found; it is kept.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Trade on what Redis holds now, after a loss. Compare it with the chain first: what it forgot counts for nothing."""
    services = runtime()
    found = services.epoch.status()
    if found.loss:
        note(f"lost: {found.loss}")
        note(_what_counts_now(services))
        if not yes:
            typer.confirm("Trade on these books?", abort=True, err=True)
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    epoch = services.epoch.confirm(who=who, why=why, now_ms=services.now_ms())
    print_line(f"confirmed, epoch {epoch[:8]}: workers go on")


def _what_counts_now(services: Runtime) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in services.ledger.counts().items() if number)
    spent = [
        f"{session.session_id} {budget.counter}: {budget.spent} spent, {budget.reserved} reserved of {budget.limit}"
        for session in services.sessions.list()
        for budget in services.ledger.budgets(session.session_id)
    ]
    return "\n".join((f"what counts from now on: {counts or 'no intents'}", *(spent or ["nothing is spent"])))
