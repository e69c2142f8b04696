"""``session-executor keys``."""

from __future__ import annotations

from typing import Annotated

import typer
from eth_utils.address import to_checksum_address

from worker.cli.context import settings
from worker.cli.output import print_json, print_line, print_table, utc

app = typer.Typer(help="Session keys: made here, never shown.", no_args_is_help=True)


@app.command()
def create(
    label: Annotated[str, typer.Option(help="A name for people, stored beside the key.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a key in the key store and print its address, which the user's frontend puts into the session."""
    from worker.execution.runtime import key_store

    key = key_store(settings()).create(label=label)
    if as_json:
        print_json({"address": to_checksum_address(key.address)})
    else:
        print_line(to_checksum_address(key.address))


@app.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """The keys held, without secrets."""
    from worker.execution.runtime import key_store

    held = list(key_store(settings()).list())
    if as_json:
        print_json(
            [
                {
                    "address": to_checksum_address(key.address),
                    "label": key.label,
                    "created": key.created or None,
                }
                for key in held
            ]
        )
        return
    print_table(
        ("address", "label", "created"),
        (
            (to_checksum_address(key.address), key.label, utc(key.created) if key.created else "unknown")
            for key in held
        ),
        empty="no keys: make one with `session-executor keys create`",
    )
