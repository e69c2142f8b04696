"""``session-executor devnet``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from worker.errors import InputError

_SERVER = ("starlette", "uvicorn")


def require_extra(*modules: str) -> None:
    """Make sure that the optional parts are installed; the devnet's own process needs them, not this one.

    Args:
        modules: what is needed besides the server.

    Raises:
        InputError: one is missing.
    """
    for module in (*_SERVER, *modules):
        if find_spec(module) is None:
            raise InputError(
                f"the local chain's parts are not installed ({module} is missing)",
                field="devnet",
                fix="pip install 'session-executor[devnet]'",
            )


def devnet(
    port: Annotated[
        int, typer.Option(help="Port of the orchestrator; 0 for a free one.", min=0, max=65535)
    ] = 0,
    rpc_port: Annotated[int, typer.Option(help="Port of the chain; 0 for a free one.", min=0, max=65535)] = 0,
    fork_url: Annotated[
        str | None, typer.Option(help="Fork the chain behind this JSON-RPC endpoint.")
    ] = None,
    also: Annotated[
        list[int] | None,
        typer.Option(help="Id of a further chain for trades over several, such as 42161; may be repeated."),
    ] = None,
) -> None:
    """Run a local chain with an orchestrator until interrupted; prints the settings that point a worker at it."""
    require_extra()
    from worker.devnet.devnet import run_forever

    raise typer.Exit(run_forever(port, rpc_port, fork_url, also or ()))
