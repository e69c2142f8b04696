"""``session-executor sessions explain``: what a session key may do, told before and after it is imported."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import find_session, runtime, settings
from worker.cli.output import print_json, print_line, print_table
from worker.cli.sessions import JsonFlag, read_file
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.sessions.importing import RegisteredSession


def add_to(app: typer.Typer) -> None:
    """Put this module's commands among those of ``sessions``."""
    app.command("explain")(explain_session)


def explain_session(
    session: Annotated[str, typer.Argument(help="The session's id, or the first digits of it.")] = "",
    file: Annotated[
        str, typer.Option("--file", help="A session file that is not imported yet, or - for standard input.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """What a session's key may do, in plain words, and what of it is more than a trade needs."""
    from worker.execution.tokens import amount_format
    from worker.sessions import privilege

    if bool(session) == bool(file):
        raise InputError("either SESSION or --file must be given", field="SESSION", fix="give one of them")
    found, now_s = _of_file(file) if file else _of_registry(session)
    risks = privilege.findings(found, now_s=now_s)
    summary = privilege.summary(found, amount=amount_format(found.chain_id))
    score = privilege.score(risks)
    if as_json:
        print_json(
            {
                "session_id": found.session_id,
                "score": score,
                "summary": list(summary),
                "findings": [asdict(risk) for risk in risks],
            }
        )
        return
    print_line(f"{found.session_id}, least privilege {score} of 100")
    for line in summary:
        print_line(f"- {line}")
    print_table(
        ("finding", "severity", "what"),
        ((risk.code, risk.severity, risk.words) for risk in risks),
        empty="nothing found that a trade would not need",
    )


def _of_registry(name: str) -> tuple[RegisteredSession, int]:
    services = runtime()
    return find_session(services, name), services.now_s


def _of_file(file: str) -> tuple[RegisteredSession, int]:
    """A session file needs no service to be read, nor a key of ours."""
    import time

    from worker.sessions.file import load_session_file
    from worker.sessions.importing import recompute

    settings()
    return recompute(load_session_file(read_file(file))), int(time.time())
