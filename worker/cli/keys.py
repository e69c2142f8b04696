"""``session-executor keys``."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from eth_utils.address import to_checksum_address

from worker.cli.changes import change
from worker.cli.context import runtime
from worker.cli.output import ListLimit, ListOffset, note, print_json, print_line, print_table, utc
from worker.errors import InputError, RefusedError, ServiceError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.keys.port import KeyInfo, SecretKey
    from worker.sessions.importing import RegisteredSession

app = typer.Typer(help="Session keys: made here, never shown.", no_args_is_help=True)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AddressArgument = Annotated[str, typer.Argument(help="The key's address.")]


@app.callback()
def _keys() -> None:
    from worker.keys.memory import forbid_core_dumps

    forbid_core_dumps()


#: 64 hex digits, 0x, and white space around them.
_MAX_INPUT = 200


@app.command()
def create(
    label: Annotated[str, typer.Option(help="A name for people, stored beside the key.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make a key in the key store and print its address, which the user's frontend puts into the session."""
    services = runtime()
    with change(services, "key created", label=label) as done:
        made = services.keys.create(label=label)
        done.say(key=made.address, version=made.version)
    _print_address(made, as_json=as_json)


@app.command("import")
def import_key(
    arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    label: Annotated[str, typer.Option(help="A name for people, stored beside the key.")] = "",
    address: Annotated[str, typer.Option(help="The address that the key must have.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Store a key that was made elsewhere, read from standard input: 64 hex digits. Never as an argument.

    Whoever had it may have it still: `keys create` is the better way.
    """
    from worker.keys.secp256k1 import parse_address

    if arguments:
        # not repeated: it may be the key, which the shell's history has now
        raise InputError(
            "is read from standard input and from nowhere else",
            field="key",
            fix="`session-executor keys import < FILE`; a key that was typed as an argument is in the shell's history",
        )
    expected = parse_address(address, field="--address") if address else ""
    services = runtime()
    key = _read_key()
    if isinstance(key, str):
        raise InputError(key, field="standard input", fix="give 64 hex digits, 0x before them or not")
    try:
        if expected and key.address != expected:
            raise InputError(
                f"is the key of {to_checksum_address(key.address)}",
                field="standard input",
                fix=f"give the key of {to_checksum_address(expected)}, or another --address",
            )
        with change(services, "key imported", key=key.address, label=label) as done:
            made = services.keys.adopt(key, label=label)
            done.say(version=made.version)
    finally:
        key.wipe()
    _print_address(made, as_json=as_json)


@app.command("list")
def list_keys(
    label: Annotated[str, typer.Option(help="Only those whose label holds this text.")] = "",
    rotated: Annotated[
        bool | None, typer.Option("--rotated/--current", help="Only those that were rotated, or were not.")
    ] = None,
    limit: ListLimit = 1_000,
    offset: ListOffset = 0,
    as_json: JsonFlag = False,
) -> None:
    """The keys held and the sessions that they sign for, without secrets."""
    services = runtime()
    held = [
        key for key in services.keys.list() if label in key.label and rotated in (None, bool(key.rotated))
    ][offset : offset + limit]
    sessions = _sessions_by_key(services, held)
    if as_json:
        print_json(
            [
                {
                    "address": to_checksum_address(key.address),
                    "label": key.label,
                    "created": key.created or None,
                    "version": key.version or None,
                    "rotated": key.rotated or None,
                    "replaces": to_checksum_address(key.replaces) if key.replaces else None,
                    "sessions": None if sessions is None else sessions.get(key.address, []),
                }
                for key in held
            ]
        )
        return
    print_table(
        ("address", "label", "created", "rotated", "replaces", "sessions"),
        (
            (
                to_checksum_address(key.address),
                key.label,
                utc(key.created) if key.created else "unknown",
                utc(key.rotated) if key.rotated else "",
                to_checksum_address(key.replaces) if key.replaces else "",
                "unknown" if sessions is None else "\n".join(sessions.get(key.address, [])),
            )
            for key in held
        ),
        empty="no keys: make one with `session-executor keys create`",
    )


@app.command()
def rotate(
    address: AddressArgument,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="Switch: every session's successor is registered and can be used."),
    ] = False,
    folder: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where to write the sessions to approve.")
    ] = Path(),
    label: Annotated[str, typer.Option(help="A name for the next key; the old one's if not given.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Prepare the key that takes another's place, and its sessions for the user's approval; later, --finish.

    1. `keys rotate ADDRESS` makes the next key (once) and writes each session of the old one anew, for the next key.
    2. The user approves them, and `sessions import` registers them. Both keys can be used meanwhile.
    3. `keys rotate ADDRESS --finish` stops the old sessions, once nothing of theirs waits to be signed.
    """
    from worker.keys.secp256k1 import parse_address

    services = runtime()
    old = parse_address(address, field="ADDRESS")
    held = {key.address: key for key in services.keys.list()}
    if old not in held:
        raise InputError(
            f"{to_checksum_address(old)} is no key of ours",
            field="ADDRESS",
            fix="see `session-executor keys list`",
        )
    sessions = [session for session in services.sessions.list() if old in session.owners]
    prepared = [key for key in held.values() if key.replaces == old]
    if finish:
        _finish(services, held[old], prepared, sessions, as_json=as_json)
        return
    if prepared:
        key = prepared[0]
    else:
        with change(services, "next key created", replaces=old) as done:
            key = services.keys.create(label=label or held[old].label, replaces=old)
            done.say(key=key.address, version=key.version)
        if not key.replaces:
            note("warning: the store cannot remember what the key is for: --finish will not find it")
    _write_next(key, old, sessions, folder, as_json=as_json)


@app.command()
def destroy(
    address: AddressArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Although sessions lose their key, and intents with them.")
    ] = False,
) -> None:
    """Destroy a key for good. Sessions that it signs for can never be used again; the user should revoke them, too."""
    from worker.keys.secp256k1 import parse_address

    services = runtime()
    key = parse_address(address, field="ADDRESS")
    sessions = [session for session in services.sessions.list() if key in session.owners]
    live = [session for session in sessions if not session.paused]
    for session in sessions:
        note(f"{session.session_id} loses its key{' (it is paused)' if session.paused else ''}")
    waiting = [intent for session in sessions for intent in _waiting(services, session.session_id)]
    if (live or waiting) and not force:
        raise RefusedError(
            f"{len(live)} session(s) in use and {len(waiting)} unsigned intent(s) need this key",
            field="ADDRESS",
            fix="`keys rotate` it, or pause the sessions and cancel the intents; --force destroys it all the same",
        )
    if not yes:
        note(f"{to_checksum_address(key)} will be destroyed: no backup of ours brings it back")
        typer.confirm("Destroy it?", abort=True, err=True)
    with change(
        services, "key destroyed", stops=True, key=key, sessions=[session.session_id for session in sessions]
    ):
        services.keys.destroy(key)
        services.tell_keys_changed()
    print_line(f"{to_checksum_address(key)} is destroyed")


@app.command()
def wrap(
    address: Annotated[list[str] | None, typer.Argument(help="The keys' addresses.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every key.")] = False,
) -> None:
    """Store keys as ciphertext of the Transit key that is set, or of its newest version. May be repeated.

    Needs the credentials of `config/vault/wrapper.hcl`. Older versions are destroyed: they would show the key plainly.
    """
    from worker.keys.vault import VaultKeyStore

    services = runtime()
    store = services.keys
    if not isinstance(store, VaultKeyStore):
        raise InputError(
            "is not vault", field="SESSION_EXECUTOR_KEY_STORE", fix="key files are encrypted already"
        )
    if bool(address) == everything:
        raise InputError("or --all must be given", field="ADDRESS", fix="give one of them")
    for key in [info.address for info in store.list()] if everything else address or []:
        with change(services, "key wrapped", key=key) as made:
            before, after = store.wrap(key)
            made.say(before=before, after=after)
            services.tell_keys_changed()
        print_line(f"{to_checksum_address(key)} {before if before == after else f'{before} -> {after}'}")


# ---------------------------------------------------------------------- parts


def _print_address(key: KeyInfo, *, as_json: bool) -> None:
    if as_json:
        print_json({"address": to_checksum_address(key.address)})
    else:
        print_line(to_checksum_address(key.address))


def _read_key() -> SecretKey | str:
    """The key of standard input, or why it is none; the text is bound to no name that an error's frame would keep."""
    from worker.keys.secp256k1 import secret_from_text

    if sys.stdin is None:
        return "is closed"
    if sys.stdin.isatty():
        return secret_from_text(getpass.getpass("private key (not shown): ").strip())
    try:
        return secret_from_text(sys.stdin.read(_MAX_INPUT + 1).strip())
    except (OSError, ValueError):
        return "cannot be read as text"


def _sessions_by_key(services: Runtime, held: list[KeyInfo]) -> dict[str, list[str]] | None:
    """Ids by the key's address; None when the registry cannot be asked, which is no reason to hide the keys."""
    found: dict[str, list[str]] = {key.address: [] for key in held}
    try:
        for session in services.sessions.list(on_corrupt=lambda error: note(f"warning: {error}")):
            for owner in session.owners:
                found.setdefault(owner, []).append(session.session_id)
    except ServiceError as error:
        note(f"warning: sessions are not known: {error}")
        return None
    return found


def _waiting(services: Runtime, session_id: str) -> list[str]:
    """Intents of a session that are still to be signed."""
    from worker.intents.states import State

    found = services.ledger.list_intents(
        session_id=session_id, states=(State.QUEUED, State.AUTHORIZED), limit=1_000
    )
    return [record.intent_id for record in found]


def _write_next(
    key: KeyInfo, old: str, sessions: list[RegisteredSession], folder: Path, *, as_json: bool
) -> None:
    from worker.sessions.rotation import next_session_id, with_key

    written: list[dict[str, Any]] = []
    for session in sessions:
        path = folder / f"{session.session_id}.next.json"
        try:
            path.write_text(with_key(session, old, key.address).text() + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror or type(error).__name__})",
                field="--out",
                fix="name a folder that you can write to",
            ) from None
        written.append(
            {
                "session_id": session.session_id,
                "next_session_id": next_session_id(session, old, key.address),
                "file": str(path),
            }
        )
    if as_json:
        print_json({"address": to_checksum_address(key.address), "sessions": written})
        return
    print_line(to_checksum_address(key.address))
    for entry in written:
        print_line(f"{entry['session_id']} becomes {entry['next_session_id']}: {entry['file']}")
    note(
        "have the user approve each file (docs/examples/export-session.ts), import it, then: "
        f"session-executor keys rotate {to_checksum_address(old)} --finish"
    )


def _finish(
    services: Runtime,
    old: KeyInfo,
    prepared: list[KeyInfo],
    sessions: list[RegisteredSession],
    *,
    as_json: bool,
) -> None:
    """Stop the old key's sessions, if each has a successor that can be used. May be repeated."""
    from worker.sessions.errors import SessionNotFoundError
    from worker.sessions.rotation import next_session_id

    if not prepared:
        raise RefusedError(
            "no key was made to take its place",
            field="ADDRESS",
            fix="run `session-executor keys rotate ADDRESS` without --finish first",
        )
    became: dict[str, str] = {}
    for session in sessions:
        successor_id = next_session_id(session, old.address, prepared[0].address)
        try:
            successor = services.sessions.get(successor_id)
        except SessionNotFoundError:
            problem = f"its successor {successor_id} is not imported yet"
        else:
            problem = _not_ready(services, session, successor)
        if not problem and (waiting := _waiting(services, session.session_id)):
            problem = f"{len(waiting)} of its intents wait to be signed"
        if problem:
            raise RefusedError(
                f"{session.session_id}: {problem}",
                field="ADDRESS",
                fix="nothing was switched: mend that and run this again",
            )
        became[session.session_id] = successor_id
    named = [
        {"strategy": strategy.name, "session_id": strategy.session}
        for strategy in _strategies(services)
        if strategy.session in became
    ]
    with change(
        services, "key rotated", before=old.address, after=prepared[0].address, sessions=dict(became)
    ):
        for session_id in became:
            services.sessions.set_paused(session_id, paused=True)
        services.keys.mark_rotated(old.address)
        services.tell_keys_changed()
    if as_json:
        print_json({"switched": became, "strategies_to_change": named})
        return
    for session_id, successor_id in became.items():
        print_line(f"{session_id} is paused, {successor_id} has its place")
    for entry in named:
        note(
            f"warning: strategy {entry['strategy']} still names {entry['session_id']}: set {became[entry['session_id']]}"
        )
    note(
        "what is left: `sessions revoke` of each old session for the user's wallet, then "
        f"`keys destroy {to_checksum_address(old.address)}`"
    )


def _not_ready(services: Runtime, session: RegisteredSession, successor: RegisteredSession) -> str:
    """What stands against ``successor`` taking the place of ``session``; empty for nothing."""
    from worker.cli.sessions import chain_word
    from worker.policies.guardrails import SESSION_SCOPE

    name = successor.session_id
    if word := chain_word(services, successor)[1]:
        return f"its successor {name} {word}"
    if successor.paused:
        return f"its successor {name} is paused"
    if session.rules.get(SESSION_SCOPE) not in (None, successor.rules.get(SESSION_SCOPE)):
        return f"its successor {name} has not the same guardrails"
    return ""


def _strategies(services: Runtime) -> tuple[Any, ...]:
    from worker.execution.fire import all_strategies

    return all_strategies(services)
