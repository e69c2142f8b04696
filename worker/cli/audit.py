"""``session-executor audit``: the audit trail of this machine."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.context import runtime
from worker.cli.output import note, print_json, print_line, print_table, utc

if TYPE_CHECKING:
    from worker.audit import Head
    from worker.execution.runtime import Runtime

app = typer.Typer(
    help="The audit trail: who asked for what, what was decided, what was signed.", no_args_is_help=True
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
#: Facts that have a column of their own, or say nothing to people.
_SHOWN = ("log", "n", "at_ms", "event", "intent_id", "prev", "hash")


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Argument(help="A file of another machine, or one that was put away.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask Redis for the head.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find any line that was edited, put in, taken out or cut off; exit code 1 if there is one."""
    from worker.audit import kept_beside
    from worker.audit import verify as verify_file

    services = runtime()
    path = (file or services.audit.path).expanduser()
    heads = {"beside the file": kept_beside(path)}
    if not offline:
        heads["in Redis"] = _head_in_redis(services, path)
    head = verify_file(path, heads)
    if as_json:
        print_json({"whole": True, "log": head.log, "lines": head.n, "hash": head.hash, "file": str(path)})
    else:
        print_line(f"whole: {head.n} lines, head {head.hash[:16]}")


@app.command()
def show(
    intent: Annotated[str, typer.Option(help="Only lines of this intent.")] = "",
    event: Annotated[
        str,
        typer.Option(help="Only lines of this event, such as forged; change: what operators have changed."),
    ] = "",
    session: Annotated[str, typer.Option(help="Only lines of this session.")] = "",
    who: Annotated[str, typer.Option(help="Only what they asked for: user@host, or user.")] = "",
    what: Annotated[str, typer.Option(help="Only changes of this kind, such as 'session paused'.")] = "",
    limit: Annotated[int, typer.Option(help="How many, the newest.", min=1)] = 50,
    offset: Annotated[int, typer.Option(help="How many of the newest to skip.", min=0)] = 0,
    as_json: JsonFlag = False,
) -> None:
    """The newest lines, oldest first."""
    from worker.audit import lines

    found: deque[dict[str, Any]] = deque(maxlen=limit + offset)
    wanted = {"intent_id": intent, "event": event, "session_id": session, "what": what}
    for entry in lines(runtime().audit.path):
        if all(not text or entry.get(name) == text for name, text in wanted.items()) and (
            not who or who in _askers(entry)
        ):
            found.append(entry)
    shown = list(found)[: max(0, len(found) - offset)]
    if as_json:
        print_json(shown)
        return
    print_table(
        ("line", "time", "event", "intent", "what"),
        (
            (
                str(entry["n"]),
                utc(entry["at_ms"] / 1000),
                str(entry["event"]),
                str(entry.get("intent_id", "-")),
                ", ".join(
                    f"{name}={value}" for name, value in entry.items() if name not in _SHOWN and value != ""
                ),
            )
            for entry in shown
        ),
        empty="nothing yet",
    )


def _askers(entry: dict[str, Any]) -> set[str]:
    """Who a line is of, by every name that one may look for."""
    names = {str(entry.get("who", "")), str(entry.get("by", ""))}
    return names | {name.partition("@")[0] for name in names}


def _head_in_redis(services: Runtime, path: Path) -> Head | None:
    from worker.audit import lines
    from worker.ledger.errors import LedgerUnavailableError

    first = next(lines(path), None)
    try:
        return None if first is None else services.audit_heads.of(str(first["log"]))
    except LedgerUnavailableError as error:
        note(f"warning: compared with the head beside the file alone: {error}")
        return None
