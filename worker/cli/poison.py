"""``session-executor poison``: what was taken out of the queues because it could not be worked on."""

from __future__ import annotations

from typing import Annotated

import typer

from config.settings import broker_of
from worker.cli.context import settings
from worker.cli.output import print_json, print_table, utc


def poison(
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1_000)] = 50,
    kind: Annotated[str | None, typer.Option(help="Only of this kind, such as refused-request.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Messages that were set aside, the newest first: requests that cannot be intents, and what is none of ours."""
    from tasks.poison import PoisonBox
    from worker.ledger import connection

    found = settings()
    url = broker_of(found)
    box = PoisonBox(connection.connect(url, timeout_ms=found.redis_timeout_ms))
    with connection.named_errors(connection.safe_url(url), writes=False):
        entries = [entry for entry in box.newest(1_000) if kind in (None, entry["kind"])][:limit]
    if as_json:
        print_json(entries)
        return
    print_table(
        ("when", "kind", "queue", "why", "beginning"),
        (
            (
                utc(entry["at_ms"] / 1000),
                entry["kind"],
                entry["queue"],
                entry.get("why", ""),
                entry["beginning"][:200],
            )
            for entry in entries
        ),
        empty="nothing was set aside",
    )
