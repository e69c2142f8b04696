"""``session-executor sessions explain`` and ``sync``: what a session key may do, and what the chain has counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.changes import change, operator
from worker.cli.context import find_session, runtime, settings
from worker.cli.output import note, print_json, print_line, print_table, utc
from worker.cli.sessions import JsonFlag, read_file
from worker.errors import InputError

if TYPE_CHECKING:
    from worker.execution.sync import CounterState
    from worker.sessions.importing import RegisteredSession


def add_to(app: typer.Typer) -> None:
    """Put this module's commands among those of ``sessions``."""
    app.command("explain")(explain_session)
    app.command("sync")(sync_session)


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
    accepted = {risk.code: risk for risk in found.accepted}
    if as_json:
        print_json(
            {
                "session_id": found.session_id,
                "score": score,
                "summary": list(summary),
                "findings": [
                    asdict(risk)
                    | {
                        "accepted": {"who": accepted[risk.code].who, "at_ms": accepted[risk.code].at_ms}
                        if risk.code in accepted
                        else None
                    }
                    for risk in risks
                ],
            }
        )
        return
    print_line(f"{found.session_id}, least privilege {score} of 100")
    for line in summary:
        print_line(f"- {line}")
    print_table(
        ("finding", "severity", "what", "accepted"),
        (
            (
                risk.code,
                risk.severity,
                risk.words,
                f"by {accepted[risk.code].who} at {utc(accepted[risk.code].at_ms / 1000)}"
                if risk.code in accepted
                else "",
            )
            for risk in risks
        ),
        empty="nothing found that a trade would not need",
    )


def sync_session(
    session: Annotated[str, typer.Argument(help="The session's id, or the first digits of it.")],
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Make the chain's numbers what is spent; needs --why.")
    ] = False,
    why: Annotated[str, typer.Option("--why", help="With --resolve: what was found out. It is kept.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Hold the chain's counters against the ledger's and show where they differ; exit code 1 on drift.

    Until it is resolved, the larger of the two counts: what the chain has counted beyond the ledger is held as used
    elsewhere.
    """
    from worker.execution.sync import DRIFT, Outcome, sync
    from worker.execution.sync import resolve as do_resolve
    from worker.execution.tokens import amount_format

    if resolve != bool(why.strip()):
        raise InputError(
            "goes with the other one", field="--resolve, --why", fix="say with --why what was found out"
        )
    services = runtime()
    found = find_session(services, session)
    if resolve:
        with change(services, "counters resolved", session_id=found.session_id, why=why) as made:
            resolved = do_resolve(services, found, who=operator(), why=why)
            made.say(
                before={line.counter: str(line.spent_before) for line in resolved},
                after={line.counter: str(line.spent_after) for line in resolved},
            )
        for line in resolved:
            note(f"resolved {line.counter}: {line.spent_before} was spent, {line.spent_after} is")
    states = sync(services, found)
    if as_json:
        print_json(
            [
                {
                    "target": state.target,
                    "selector": "0x" + state.selector.hex(),
                    "policy": state.policy,
                    "token": state.token,
                    "limit": _text(state.limit),
                    "spent": str(state.spent),
                    "reserved": str(state.reserved),
                    "elsewhere": str(state.elsewhere),
                    "chain_limit": _text(state.chain_limit),
                    "chain_used": _text(state.chain_used),
                    "outcome": state.outcome.value,
                    "note": state.note,
                }
                for state in states
            ]
        )
    else:
        write = amount_format(found.chain_id)

        def amount(state: CounterState, value: int | None) -> str:
            if value is None:
                return "?"
            return write(state.token, value) if state.token else str(value)

        print_table(
            (
                "action",
                "policy",
                "limit",
                "chain's limit",
                "on chain",
                "spent",
                "elsewhere",
                "reserved",
                "outcome",
                "what it means",
            ),
            (
                (
                    f"{state.target} 0x{state.selector.hex()}",
                    state.policy,
                    amount(state, state.limit),
                    amount(state, state.chain_limit),
                    amount(state, state.chain_used),
                    amount(state, state.spent),
                    amount(state, state.elsewhere),
                    amount(state, state.reserved),
                    state.outcome.value,
                    state.note,
                )
                for state in states
            ),
            empty="the session has no counters",
        )
        for line in services.ledger.resolutions(found.session_id):
            print_line(
                f"resolved at {utc(line.at_ms / 1000)} by {line.who}: {line.counter} from {line.spent_before} to "
                f"{line.spent_after}: {line.why}"
            )
    unknown = sum(state.outcome is Outcome.UNKNOWN for state in states)
    if unknown:
        note(
            f"warning: {unknown} of {len(states)} counters could not be compared; the ledger alone is used for them"
        )
    if any(state.outcome in DRIFT for state in states):
        raise typer.Exit(1)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


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
