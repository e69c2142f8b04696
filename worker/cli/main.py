"""``session-executor``: exit code 0 done, 1 a service or a refusal, 2 bad input, 130 interrupted."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import click
import typer

from config.settings import SettingsError
from worker.cli import devnet, doctor, intents, keys, sessions, strategies
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
app.add_typer(sessions.app, name="sessions")
app.add_typer(intents.app, name="intents")
app.add_typer(strategies.app, name="strategies")
app.command("doctor")(doctor.doctor)
app.command("devnet")(devnet.devnet)


@app.command()
def demo() -> None:
    """Watch a session key trade within its limits on a local chain. Needs nothing but Node.js for anvil."""
    try:
        from worker.cli.demo import run_demo
    except ImportError as error:
        raise devnet.no_extra(error) from None
    run_demo(out)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print_line(installed("session-executor"))


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for an internal error.")] = False,
) -> None:
    if debug:
        os.environ["SESSION_EXECUTOR_LOG_LEVEL"] = "DEBUG"


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. No error of ours ever shows a traceback."""
    try:
        result = app(list(arguments), prog_name="session-executor", standalone_mode=False)
    except ExecutorError as error:
        note(f"error: {error}")
        return error.exit_code
    except SettingsError as error:
        note(f"error: {error}")
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        note("interrupted")
        return 130
    except BrokenPipeError:
        # whoever read us has gone; nothing may be written any more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        note(f"error: internal error: {type(error).__name__} (run with --debug and report it)")
        if os.environ.get("SESSION_EXECUTOR_LOG_LEVEL", "").upper() == "DEBUG":
            logging.getLogger(__name__).debug("internal error", exc_info=True)
        return 1
    return result if isinstance(result, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
