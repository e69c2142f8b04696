"""``session-executor ledger``: is the book of record the one that was written, and what to do when it is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.changes import change, operator
from worker.cli.context import runtime, settings
from worker.cli.output import note, print_json, print_line, utc
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.keys.record_keys import RecordKeyFile

app = typer.Typer(
    help="The book of record in Redis: whether it is whole, and written by this program.",
    no_args_is_help=True,
)
keys_app = typer.Typer(help="The keys of the seals on records, in a file.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
#: Of how many items a line of the audit trail repeats why they had no good seal.
_TOLD = 50
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    with change(
        services, "ledger confirmed", why=why, lost=found.loss, before=found.known or found.epoch
    ) as made:
        epoch = services.epoch.confirm(who=operator(), why=why, now_ms=services.now_ms())
        made.say(after=epoch)
    print_line(f"confirmed, epoch {epoch[:8]}: workers go on")


@app.command()
def seal(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what has a good seal, so that it has one of the newest key.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Take what Redis holds without a seal of ours for ours: after an update from a version without seals, or a change of keys.

    What is listed was written by an older version, under keys that are gone, or by somebody else: look at each of it.
    """
    from worker.execution.reseal import unsealed

    services = runtime()
    found = unsealed(services, everything=everything)
    for item in found:
        note(f"{item.name}: {item.what} ({item.why})")
    if found and not yes:
        typer.confirm(f"Is all of it yours? Seal {len(found)}", abort=True, err=True)
    sealed: list[str] = []
    if found:
        with change(services, "sealed", before={item.name: item.why for item in found[:_TOLD]}) as made:
            sealed = [item.name for item in found if item.seal()]
            made.say(number=len(sealed), after=", ".join(sealed))
    if as_json:
        print_json({"sealed": sealed})
    else:
        print_line(f"sealed {len(sealed)}" if found else "everything is sealed")


@keys_app.command("list")
def list_record_keys(as_json: JsonFlag = False) -> None:
    """The ids of the keys; never the keys."""
    known = runtime().seal_keys()
    if as_json:
        print_json({"current": known.current, "ids": sorted(known.keys)})
        return
    for name in sorted(known.keys):
        print_line(f"{name}{' (seals)' if name == known.current else ''}")


@keys_app.command("rotate")
def rotate_record_key() -> None:
    """Add a key that seals from now on; what the others have sealed still counts. Copy the file to every machine."""
    file = _key_file()
    with change(runtime(), "record key added") as made:
        name = file.rotate()
        made.say(after=name)
    print_line(name)


@keys_app.command("forget")
def forget_record_key(key_id: Annotated[str, typer.Argument(help="See `ledger keys list`.")]) -> None:
    """Take an old key out. What it has sealed is refused from then on: `ledger seal --all` first."""
    file = _key_file()
    with change(runtime(), "record key forgotten", before=key_id):
        file.forget(key_id)
    print_line(f"forgot {key_id}")


def _key_file() -> RecordKeyFile:
    from worker.execution.runtime import record_key_file

    found = settings()
    if found.key_store == "vault":
        raise InputError(
            "are in Vault",
            field="the keys of the seals",
            fix="use `python -m config.vault.bootstrap` with --rotate-record-key or --drop-old-record-keys",
        )
    return record_key_file(found)


@app.command()
def archive(
    older_than_days: Annotated[
        int | None, typer.Option(min=1, help="Instead of SESSION_EXECUTOR_ARCHIVE_AFTER_DAYS.")
    ] = None,
) -> None:
    """Take intents that ended long ago out of Redis, into files; workers do so by themselves if the folder is set."""
    from worker.execution.retention import archive_old

    services = runtime()
    if services.settings.archive_dir is None:
        raise InputError(
            "is not set", field="SESSION_EXECUTOR_ARCHIVE_DIR", fix="name a folder that is backed up"
        )
    total = 0
    while number := archive_old(services, after_days=older_than_days):
        total += number
    print_line(f"{total} archived in {services.settings.archive_dir}")


@app.command()
def restore_archive(
    paths: Annotated[list[Path], typer.Argument(help="Archive folders or files.")],
    unsealed: Annotated[
        bool,
        typer.Option(
            "--unsealed", help="Also what has no seal of ours: of an older version, or of a key that is gone."
        ),
    ] = False,
) -> None:
    """After a loss of the ledger: let Redis know again that the keys of archived intents were used.

    All of it is checked first. What somebody else has written would keep keys from being used.
    """
    from worker.ledger.archive import Archive, files_of

    services = runtime()
    put = seen = 0
    with change(services, "archive restored", files=", ".join(map(str, paths))) as made:
        files = files_of(paths)
        if not unsealed:
            for path in files:
                _require_sealed(services, path)
        made.say(unsealed=unsealed)
        for path in files:
            for found in Archive.read(path):
                seen += 1
                put += services.archived.remember(found.raw.intent_id, found.raw.tombstone(found.archived_ms))
        made.say(read=seen, remembered=put)
    print_line(f"{seen} archived intents read, {put} of them were not known to the ledger")


def _require_sealed(services: Runtime, path: Path) -> None:
    from worker.ledger.archive import Archive
    from worker.sealing import ForgedError

    for found in Archive.read(path):
        if problem := found.problem(services.sealer):
            raise ForgedError(
                f"{found.raw.intent_id}: {problem}",
                field=str(path),
                fix="find out who wrote it, or restore the file from its backup; --unsealed takes it as it is",
            )


def _what_counts_now(services: Runtime) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in services.ledger.counts().items() if number)
    spent = [
        f"{session.session_id} {budget.counter}: {budget.spent} spent, {budget.reserved} reserved of {budget.limit}"
        for session in services.sessions.list(on_corrupt=lambda error: note(str(error)))
        for budget in services.ledger.budgets(session.session_id)
    ]
    return "\n".join((f"what counts from now on: {counts or 'no intents'}", *(spent or ["nothing is spent"])))
