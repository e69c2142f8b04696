"""``session-executor sessions guardrails``: what a session is held to beside its policies."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.changes import change
from worker.cli.context import find_session, runtime
from worker.cli.output import note, print_json, print_line, print_table
from worker.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.ledger.port import Usage
    from worker.policies.guardrails import Guardrails, ScopeRules
    from worker.policies.policy import AmountFormat
    from worker.sessions.importing import RegisteredSession


def add_to(app: typer.Typer) -> None:
    """Put this module's command among those of ``sessions``."""
    app.command("guardrails")(guardrails)


def guardrails(
    session: Annotated[str, typer.Argument(help="The session's id, or the first digits of it.")],
    file: Annotated[
        str,
        typer.Option(
            "--file", metavar="FILE", help="Replace all of them by this TOML file; - is standard input."
        ),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help='Set one, such as per_day="500 USDC"; repeatable.'),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="NAME", help="Take one away; repeatable.")
    ] = None,
    loosen: Annotated[
        bool, typer.Option("--loosen", help="Needed for a change that lets more through than before.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or change a session's guardrails: limits of our own, beside what the user approved. They hold at once.

    Those of strategies stand in the strategies file; they are shown here, too. No guardrail can allow what a policy denies.
    """
    services = runtime()
    found = find_session(services, session)
    if file or settings or unset:
        found = _change(found, file, settings or [], unset or [], loosen=loosen)
    usage = services.ledger.usage(found.session_id, now_ms=services.now_ms())
    if as_json:
        print_json(guardrails_json(found, usage))
        return
    print_guardrails(found, usage)


def read_file_of(file: str, chain_id: int) -> Guardrails:
    """The guardrails of a TOML file: the table ``[guardrails]``, or the names at the top.

    Raises:
        InputError: names what is wrong.
    """
    from worker.cli.sessions import read_file
    from worker.execution.tokens import token_table
    from worker.intents.guardrails import read_guardrails

    try:
        document = tomllib.loads(read_file(file).decode())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"is not TOML ({str(error)[:80] or type(error).__name__})",
            field="--file",
            fix='write lines such as per_day = "500 USDC"',
        ) from None
    if document.keys() == {"guardrails"} and isinstance(document["guardrails"], dict):
        return read_guardrails(document["guardrails"], token_table(chain_id))
    return read_guardrails(document, token_table(chain_id), at="")


def _change(
    session: RegisteredSession, file: str, settings: list[str], unset: list[str], *, loosen: bool
) -> RegisteredSession:
    from worker.execution.tokens import token_table
    from worker.intents.guardrails import NAMES, kept_name, read_settings
    from worker.policies.guardrails import SESSION_SCOPE, Guardrails, ScopeRules, loosened

    if file and (settings or unset):
        raise InputError("replaces all of them", field="--file", fix="give it alone")
    services = runtime()
    old = session.rules.get(SESSION_SCOPE, ScopeRules(SESSION_SCOPE))
    if file:
        new = read_file_of(file, session.chain_id)
    else:
        changes: dict[str, Any] = read_settings(settings, token_table(session.chain_id))
        for name in unset:
            if name not in NAMES:
                raise InputError(
                    f"{name[:40]!r} is no guardrail", field="--unset", fix=f"known: {', '.join(NAMES)}"
                )
            if kept_name(name) in changes:
                raise InputError(f"{name} is set, too", field="--unset", fix="give one or the other")
            changes[kept_name(name)] = Guardrails.model_fields[kept_name(name)].default
        new = Guardrails.of_text(old.guardrails.model_copy(update=changes).text())
    more = loosened(old.guardrails, new)
    if more and not loosen:
        raise InputError(
            f"would let more through than before: {', '.join(more)}",
            field="guardrails",
            fix="add --loosen if that is meant",
        )
    with change(
        services,
        "guardrails changed",
        session_id=session.session_id,
        scope=old.scope,
        before=old.text,
        after=new.text(),
        loosened=list(more),
    ):
        services.sessions.set_guardrails(session.session_id, new, replaces=old)
    if more:
        note(f"warning: loosened: {', '.join(more)}")
    return services.sessions.get(session.session_id)


def _amounts(session: RegisteredSession) -> AmountFormat:
    from worker.execution.tokens import amount_format

    return amount_format(session.chain_id)


def _listed(session: RegisteredSession) -> list[tuple[ScopeRules, Mapping[str, str]]]:
    from worker.intents.guardrails import written

    write = _amounts(session)
    return [
        (rules, written(rules.guardrails, write)) for _, rules in sorted(session.rules.items()) if rules.text
    ]


def guardrails_json(session: RegisteredSession, usage: Sequence[Usage]) -> dict[str, Any]:
    """The guardrails by scope, and what was counted, for ``--json``. Amounts are base units in quotes."""
    return {
        "session_id": session.session_id,
        "guardrails": {rules.scope: dict(words) for rules, words in _listed(session)},
        "usage": [
            {
                "scope": item.scope,
                "token": item.token,
                **{name: str(getattr(item, name)) for name in ("held", "hour", "day", "week")},
            }
            for item in usage
        ],
    }


def print_guardrails(session: RegisteredSession, usage: Sequence[Usage]) -> None:
    """Two tables: what is set, and what was counted."""
    print_table(
        ("set for", "guardrail", "value"),
        (
            (rules.scope.replace(":", " "), name, text)
            for rules, words in _listed(session)
            for name, text in words.items()
        ),
        empty="no guardrails: set some with --set, or --file",
    )
    counted = [item for item in usage if item.held or item.hour or item.day or item.week]
    if not counted:
        print_line("nothing was counted within a week")
        return
    write = _amounts(session)
    print_table(
        ("counted for", "in flight", "last hour", "last day", "last week"),
        (
            (
                item.scope.replace(":", " "),
                *(write(item.token, amount) for amount in (item.held, item.hour, item.day, item.week)),
            )
            for item in counted
        ),
        empty="",
    )
