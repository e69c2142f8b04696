"""``session-executor notifications``."""

from __future__ import annotations

import secrets
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import runtime
from worker.cli.output import note, print_json, print_line, print_table, utc
from worker.errors import InputError, ServiceError

if TYPE_CHECKING:
    from worker.execution.notify import Notifier
    from worker.execution.runtime import Runtime

app = typer.Typer(help="Tell people and programs what happened: docs/notifications.md.", no_args_is_help=True)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_EVERY_S = 1.0


@app.command("run")
def run_notifier(
    once: Annotated[bool, typer.Option("--once", help="One round, then end.")] = False,
    idle: Annotated[
        bool,
        typer.Option("--idle", help="Without a channel wait until interrupted; for supervisors."),
    ] = False,
) -> None:
    """Send notifications until interrupted. A process of its own; several may run, each message is sent by one."""
    from worker.execution.notify import Notifier

    services = runtime()
    if idle and services.settings.notifications_file is None:
        # a supervisor would take an end for a crash, and some end all other processes with it
        stop = _stopped()  # before anybody reads that it runs
        note("nobody is told anything: SESSION_EXECUTOR_NOTIFICATIONS_FILE names no channel")
        stop.wait()
        return
    notifier = _notifier(services)
    if once:
        new, arrived = notifier.step()
        print_line(f"{new} new, {arrived} arrived")
        return
    stop = _stopped()
    assert isinstance(notifier, Notifier)
    note(f"telling {', '.join(notifier.channels)}")
    while not stop.is_set():
        try:
            notifier.step()
        except ServiceError as error:
            note(f"not told yet: {error}")
        stop.wait(_EVERY_S)


def _stopped() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


@app.command("list")
def list_notices(
    state: Annotated[
        str | None, typer.Option(help="Only those that are waiting, arrived or given-up.")
    ] = None,
    channel: Annotated[str | None, typer.Option(help="Only of this channel.")] = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 50,
    offset: Annotated[int, typer.Option(help="How many to skip.", min=0)] = 0,
    as_json: JsonFlag = False,
) -> None:
    """What was told, and what was not, the newest first."""
    from worker.ledger.notices import KEPT

    wanted = None if state is None else state.replace("-", " ")
    if wanted not in (None, "waiting", "arrived", "given up"):
        raise InputError(f"{state!r} is no state", field="--state", fix="use waiting, arrived or given-up")
    found = [
        item
        for item in runtime().notices.list(limit=KEPT)
        if wanted in (None, item.state) and channel in (None, item.channel)
    ][offset : offset + limit]
    if as_json:
        print_json([asdict(item) for item in found])
        return
    print_table(
        ("notification", "what", "state", "tries", "created", "problem"),
        (
            (
                item.notice_id,
                item.title,
                item.state,
                str(item.tries),
                utc(item.created_ms / 1000),
                item.problem,
            )
            for item in found
        ),
        empty="nothing was to be told",
    )


@app.command("retry")
def retry_notice(
    notification: Annotated[str, typer.Argument(help="Its id, as `notifications list` shows it.")],
) -> None:
    """Send one again, also one that has arrived or was given up."""
    from worker.execution.notify import retry

    print_line(f"{retry(runtime(), notification).notice_id} waiting")


@app.command("test")
def test_channels() -> None:
    """Send a test to every channel, now and once. Exit code 1 if one is not reached."""
    services = runtime()
    failed = False
    for channel in _notifier(services).channels.values():
        try:
            channel.send(
                f"evt_test_{secrets.token_hex(8)}",
                '{"type":"test","data":{}}',
                title="session-executor",
                text="This is a test.",
                now_s=services.now_s,
            )
        except ServiceError as error:
            failed = True
            print_line(f"{channel.name} failed: {error.message}")
        else:
            print_line(f"{channel.name} reached")
    if failed:
        raise typer.Exit(1)


def _notifier(services: Runtime) -> Notifier:
    from worker.execution.channels import read_channels
    from worker.execution.notify import Notifier

    channels = read_channels(services.settings.notifications_file)
    if not channels:
        raise InputError(
            "names no channel",
            field="SESSION_EXECUTOR_NOTIFICATIONS_FILE",
            fix="set it to a file as in docs/notifications.md",
        )
    return Notifier(services, channels)
