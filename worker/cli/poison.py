"""``session-executor poison``: what was taken out of the queues because it could not be worked on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from config.settings import broker_of
from worker.cli.changes import change
from worker.cli.context import runtime, settings
from worker.cli.output import note, print_json, print_line, print_table, utc
from worker.errors import InputError

if TYPE_CHECKING:
    from tasks.poison import Poison, PoisonBox
    from worker.execution.runtime import Runtime

app = typer.Typer(
    help="Messages that were set aside: requests that cannot be intents, and what is none of ours.",
    invoke_without_command=True,
)

Limit = Annotated[int, typer.Option(help="How many.", min=1, max=1_000)]
Offset = Annotated[int, typer.Option(help="How many to skip.", min=0)]
Kind = Annotated[str | None, typer.Option(help="Only of this kind, such as refused-request.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Which = Annotated[str, typer.Argument(help="Its id, or its number in `poison list` (1 is the newest).")]

#: All that are ever kept.
_ALL = 1_000
#: How much of a message a row of the list shows.
_SHOWN = 200


@app.callback()
def poison(
    context: typer.Context,
    limit: Limit = 50,
    kind: Kind = None,
    as_json: JsonFlag = False,
) -> None:
    """Messages that were set aside: requests that cannot be intents, and what is none of ours."""
    if context.invoked_subcommand is not None:
        if as_json or kind is not None:
            raise InputError(
                "stands before the command",
                field="--json" if as_json else "--kind",
                fix="write it after list, show, drop or replay",
            )
    else:
        list_poison(kind=kind, limit=limit, offset=0, as_json=as_json)


@app.command("list")
def list_poison(kind: Kind = None, limit: Limit = 50, offset: Offset = 0, as_json: JsonFlag = False) -> None:
    """What was set aside, the newest first."""
    with _box() as box:
        entries = [entry for entry in box.newest(_ALL) if kind in (None, entry.kind)]
    entries = entries[offset : offset + limit]
    if as_json:
        print_json([entry.entry for entry in entries])
        return
    print_table(
        ("n", "id", "when", "kind", "queue", "why", "beginning"),
        (
            (
                str(entry.number),
                entry.poison_id,
                utc(entry.entry["at_ms"] / 1000),
                entry.kind,
                str(entry.entry["queue"]),
                str(entry.entry["why"]),
                str(entry.entry["beginning"])[:_SHOWN],
            )
            for entry in entries
        ),
        empty="nothing was set aside",
    )


@app.command()
def show(which: Which, as_json: JsonFlag = False) -> None:
    """One of them, with all that was kept of it, and whether it can be replayed."""
    with _box() as box:
        entry = _find(box, which)
    problem = _not_replayed(entry)
    if as_json:
        print_json({**entry.entry, "replay": problem or "yes"})
        return
    for name, value in entry.entry.items():
        if name != "beginning":
            print_line(f"{name:10} {utc(value / 1000) if name == 'at_ms' else value}")
    print_line(f"{'replay':10} {problem or 'yes: `session-executor poison replay ' + entry.poison_id + '`'}")
    print_line(f"{'message':10} {entry.entry['beginning']}")


@app.command()
def drop(
    which: Annotated[list[str] | None, typer.Argument(help="Ids, or numbers in `poison list`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, or all of --kind.")] = False,
    kind: Kind = None,
    why: Annotated[str, typer.Option(help="For the audit trail.")] = "dropped by an operator",
    as_json: JsonFlag = False,
) -> None:
    """Throw away what was looked at. The counts of what there ever was stay."""
    if bool(which) == every:
        raise InputError("names nothing to drop", field="WHICH", fix="give ids or numbers, or --all")
    if kind is not None and not every:
        raise InputError("goes with --all", field="--kind", fix="give --all, too, or leave it out")
    with _box() as box:
        if which:
            # all are found before the first is dropped: that would change the numbers
            entries = [_find(box, name) for name in which]
        else:
            entries = [entry for entry in box.newest(_ALL) if kind in (None, entry.kind)]
        services = runtime()
        dropped = [entry for entry in entries if _drop(services, box, entry, why)]
    if as_json:
        print_json([entry.entry for entry in dropped])
        return
    for entry in dropped:
        print_line(f"{entry.poison_id or entry.number} dropped")
    note(f"{len(dropped)} dropped")


@app.command()
def replay(which: Which, as_json: JsonFlag = False) -> None:
    """Ask again for the intent that a refused request asked for; its key makes it one intent, however often it is asked.

    Only requests to `tasks.enqueue` whose seal is ours, and only if nothing stands against them any more. Whatever else
    lies here is never put back into a queue: what it was about is in the ledger, which sends its own messages again.
    """
    from worker.execution.request import submit_request, unsealed_request

    with _box() as box:
        entry = _find(box, which)
        problem = _not_replayed(entry)
        if problem:
            raise InputError(
                problem, field=entry.poison_id or which, fix="drop it: `session-executor poison drop`"
            )
        services = runtime()
        with change(services, "poison replayed", stops=False, **_facts(entry)) as made:
            asked = unsealed_request(services, entry.request() or {})
            enqueued = submit_request(services, asked, source="api")
            record = enqueued.record
            made.say(intent_id=record.intent_id)
            box.drop(entry)
    if as_json:
        print_json({"intent_id": record.intent_id, "state": str(record.state), "created": enqueued.created})
        return
    print_line(f"{record.intent_id} {record.state}")
    if not enqueued.created:
        note("its key was used before for the same intent: already there")


def _not_replayed(entry: Poison) -> str:
    """Why a message cannot be replayed, whoever sent it; ``""`` if its seal decides."""
    from tasks.poison import REFUSED_REQUEST

    if entry.kind != REFUSED_REQUEST:
        return "is no request for an intent, and only those can be replayed"
    if entry.request() is None:
        return "was too long to be kept whole: let its sender ask again"
    return ""


def _find(box: PoisonBox, which: str) -> Poison:
    entries = box.newest(_ALL)
    if which.isascii() and which.isdigit():
        found = [entry for entry in entries if str(entry.number) == which]
    else:
        found = [entry for entry in entries if entry.poison_id == which]
    if not found:
        raise InputError(
            f"{which[:60]!r} is not among them", field="WHICH", fix="see `session-executor poison list`"
        )
    return found[0]


def _drop(services: Runtime, box: PoisonBox, entry: Poison, why: str) -> bool:
    with change(services, "poison dropped", stops=False, **_facts(entry), why=why) as made:
        dropped = box.drop(entry)
        made.say(after="gone" if dropped else "was gone already")
    return dropped


def _facts(entry: Poison) -> dict[str, str]:
    """What a line of the audit trail says of a message."""
    return {
        "poison_id": entry.poison_id,
        "kind": entry.kind,
        "queue": str(entry.entry["queue"]),
        "beginning": str(entry.entry["beginning"])[:_SHOWN],
    }


@contextmanager
def _box() -> Generator[PoisonBox]:
    """Where they lie. Raises LedgerUnavailableError."""
    from tasks.poison import PoisonBox
    from worker.ledger import connection

    found = settings()
    url = broker_of(found)
    with connection.named_errors(connection.safe_url(url), writes=True):
        yield PoisonBox(connection.connect(url, timeout_ms=found.redis_timeout_ms))
