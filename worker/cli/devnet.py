"""``session-executor devnet``."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.errors import InputError


def no_extra(error: ImportError) -> InputError:
    """What to say when the optional parts are not installed."""
    return InputError(
        f"the local chain's parts are not installed ({error.name or 'unknown module'} is missing)",
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
) -> None:
    """Run a local chain with an orchestrator until interrupted; prints the settings that point a worker at it."""
    try:
        from worker.devnet.devnet import run_forever
    except ImportError as error:
        raise no_extra(error) from None
    raise typer.Exit(run_forever(port, rpc_port, fork_url))
