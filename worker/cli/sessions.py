"""``session-executor sessions``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from eth_utils.address import to_checksum_address

from worker.cli.context import find_session, runtime
from worker.cli.output import note, print_json, print_line, print_table, utc
from worker.errors import InputError, ServiceError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.ledger.port import Budget
    from worker.sessions.importing import RegisteredSession

app = typer.Typer(
    help="What users have granted: import their session files, see limits.", no_args_is_help=True
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SessionArgument = Annotated[str, typer.Argument(help="The session's id, or the first digits of it.")]
#: A session file with every policy and a hundred chains is some 50 kB.
_MAX_FILE = 1_000_000
_UNRESTRICTED = (
    "this session is not restricted: its key may sign any message for the account, token permits included, "
    "whatever its actions say; ask for restrictToActions"
)


@app.command("import")
def import_session(
    file: Annotated[
        str, typer.Argument(help="The file that the frontend exported, or - for standard input.")
    ],
    renew: Annotated[
        bool, typer.Option("--renew", help="Let it replace the approval of the same session.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Check a session file in every part and register it. The user's approval, our key and the chain must fit."""
    from worker.execution.runtime import key_store
    from worker.sessions.file import load_session_file
    from worker.sessions.importing import verify

    text = _read(file)
    services = runtime()
    parsed = load_session_file(text)
    session = verify(
        parsed,
        our_keys=[key.address for key in key_store(services.settings).list()],
        chain_id=services.settings.chain_id,
        now_s=int(time.time()),
    )
    warning = _chain_warning(services, session)
    created = services.sessions.put(session, renew=renew)
    if not session.restricted:
        note(f"warning: {_UNRESTRICTED}")
    if not session.expires_s:
        note("warning: this session never ends; ask for a time-frame policy")
    if warning:
        note(f"warning: {warning}")
    if as_json:
        print_json({"session_id": session.session_id, "created": created})
    else:
        print_line(f"{session.session_id}{'' if created else ' (was registered before)'}")


@app.command("list")
def list_sessions(as_json: JsonFlag = False) -> None:
    """The registered sessions."""
    services = runtime()
    found = services.sessions.list(on_corrupt=lambda error: note(f"warning: {error}"))
    if as_json:
        print_json([_summary(session) for session in found])
        return
    print_table(
        ("session", "account", "kind", "chain", "restricted", "ends", "paused"),
        (
            (
                session.session_id,
                to_checksum_address(session.account),
                session.account_kind,
                str(session.chain_id),
                "yes" if session.restricted else "NO",
                utc(session.expires_s) if session.expires_s else "never",
                "yes" if session.paused else "",
            )
            for session in found
        ),
        empty="no sessions: register one with `session-executor sessions import FILE`",
    )


@app.command("show")
def show_session(session: SessionArgument, as_json: JsonFlag = False) -> None:
    """A session's actions and policies, and what of its limits is spent and reserved."""
    services = runtime()
    found = find_session(services, session)
    budgets = services.ledger.budgets(found.session_id)
    try:
        enabled: bool | None = _chain_state(services, found)
        why = ""
    except ServiceError as error:
        enabled, why = None, str(error)
    actions: list[dict[str, Any]] = json.loads(found.file.text())["actions"]
    if as_json:
        print_json(
            {
                **_summary(found),
                "enabled_on_chain": enabled,
                "actions": actions,
                "budgets": [_budget(budget) for budget in budgets],
            }
        )
        return
    for name, value in {
        "session": found.session_id,
        "account": f"{to_checksum_address(found.account)} ({found.account_kind})",
        "keys": ", ".join(to_checksum_address(owner) for owner in found.owners),
        "permission": "0x" + found.permission_id.hex(),
        "ends": utc(found.expires_s) if found.expires_s else "never",
        "restricted": "yes" if found.restricted else f"NO: {_UNRESTRICTED}",
        "on chain": {True: "enabled", False: "not enabled; the first intent carries the approval", None: why}[
            enabled
        ],
        "paused": "yes" if found.paused else "no",
    }.items():
        print_line(f"{name:11} {value}")
    print_table(
        ("target", "function", "policies"),
        (
            (
                str(action.get("target", "any other")),
                str(action.get("selector", "any other")),
                "\n".join(json.dumps(policy) for policy in action.get("policies", [{"type": "sudo"}]))
                or "none",
            )
            for action in actions
        ),
        empty="no actions: the key may do anything",
    )
    print_table(
        ("limit of", "allowed", "spent", "reserved"),
        (_budget_row(services, budget) for budget in budgets),
        empty="nothing is spent or reserved yet",
    )


@app.command("enable")
def enable_session(session: SessionArgument, as_json: JsonFlag = False) -> None:
    """Print the transaction that enables a session now; anyone may send it. Without it the first intent enables it."""
    from worker.sessions.enabling import enable_call

    services = runtime()
    found = find_session(services, session)
    if _chain_state(services, found):
        if as_json:
            print_json({"enabled": True})
        else:
            print_line("the session is enabled already")
        return
    to, data = enable_call(found)
    call = {
        "chain_id": found.chain_id,
        "to": to_checksum_address(to),
        "value": "0",
        "data": "0x" + data.hex(),
    }
    if as_json:
        print_json({"enabled": False, "transaction": call})
        return
    for name, value in call.items():
        print_line(f"{name:9} {value}")


@app.command()
def pause(session: SessionArgument) -> None:
    """Stop a session: what is not signed yet is refused."""
    _set_paused(session, paused=True)


@app.command()
def resume(session: SessionArgument) -> None:
    """Let a session go on."""
    _set_paused(session, paused=False)


def _set_paused(name: str, *, paused: bool) -> None:
    services = runtime()
    found = find_session(services, name)
    services.sessions.set_paused(found.session_id, paused=paused)
    print_line(f"{found.session_id} {'is paused' if paused else 'goes on'}")


def _read(file: str) -> bytes:
    try:
        if file == "-":
            content = sys.stdin.buffer.read(_MAX_FILE + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror or type(error).__name__})",
            field="FILE",
            fix="check the path and its permissions",
        ) from None
    if len(content) > _MAX_FILE:
        raise InputError(f"is larger than {_MAX_FILE} bytes", field="FILE", fix="give a session file")
    return content


def _chain_state(services: Runtime, session: RegisteredSession) -> bool:
    from worker.execution.prepare import read_chain

    return read_chain(services, session).enabled


def _chain_warning(services: Runtime, session: RegisteredSession) -> str:
    """What the chain says against using the session now; a chain that cannot be asked is a warning, a wrong one an error.

    Raises:
        WrongChainError: the endpoint serves another chain.
    """
    from worker.chain.errors import WrongChainError
    from worker.execution.errors import SessionUnusableError
    from worker.execution.prepare import must_enable, read_chain

    try:
        must_enable(session, read_chain(services, session))
    except WrongChainError:
        raise
    except SessionUnusableError as error:
        return f"it cannot be used yet: {error}"
    except ServiceError as error:
        return f"not compared with the chain: {error}"
    return ""


def _summary(session: RegisteredSession) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "account": to_checksum_address(session.account),
        "account_kind": session.account_kind,
        "chain_id": session.chain_id,
        "keys": [to_checksum_address(owner) for owner in session.owners],
        "permission_id": "0x" + session.permission_id.hex(),
        "restricted": session.restricted,
        "expires": session.expires_s or None,
        "paused": session.paused,
    }


def _budget(budget: Budget) -> dict[str, str]:
    return {
        "counter": budget.counter,
        "policy": budget.policy,
        "token": budget.token,
        "limit": str(budget.limit),
        "spent": str(budget.spent),
        "reserved": str(budget.reserved),
    }


def _budget_row(services: Runtime, budget: Budget) -> tuple[str, str, str, str]:
    from worker.execution.tokens import amount_format

    def write(amount: int) -> str:
        return (
            amount_format(services.settings.chain_id)(budget.token, amount) if budget.token else str(amount)
        )

    return budget.policy, write(budget.limit), write(budget.spent), write(budget.reserved)
