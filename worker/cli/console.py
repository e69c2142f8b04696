"""``session-executor status|watch|why|export|report``: what it is doing, and why."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli.context import find_session, runtime
from worker.cli.output import bar, note, print_json, print_line, print_table, time_left, utc
from worker.errors import InputError
from worker.intents.states import FINAL, State
from worker.intents.transfers import moved_by

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.intents.model import IntentRecord
    from worker.ledger.port import Budget

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SessionOption = Annotated[str | None, typer.Option("--session", help="Only of this session.")]

_PAGE = 500
_DAY_MS = 86_400_000


class Format(StrEnum):
    """How ``export`` writes."""

    CSV = "csv"
    JSONL = "jsonl"


def add_to(app: typer.Typer) -> None:
    """The commands, at the top level."""
    app.command()(status)
    app.command()(watch)
    app.command()(why)
    app.command()(export)
    app.command()(report)
    app.command()(metrics)


def metrics(
    port: Annotated[
        int, typer.Option(help="Serve them; without it they are printed once.", min=0, max=65_535)
    ] = 0,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
) -> None:
    """What Prometheus scrapes: counters and times of all workers of this machine, and the state of the ledger.

    The workers and this command need the same folder in PROMETHEUS_MULTIPROC_DIR; without it only the ledger is shown.
    """
    from worker.cli.metrics import exposition, folder, serve

    services, where = runtime(), folder()
    page = exposition(services, where)  # what is wrong with the folder is said now, not at the first scrape
    if not port:
        sys.stdout.write(page.decode())
        return
    with serve(lambda: exposition(services, where), host, port) as server:
        note(f"serving http://{host}:{server.server_port}/metrics")
        server.serve_forever()


def status(as_json: JsonFlag = False) -> None:
    """One screen: queues, intents by state, what needs attention, limits, kill switches, next fires.

    Exit code 1 when somebody should look: attention, poison, or ticks that nobody takes.
    """
    from worker.cli.survey import survey

    found = survey(runtime())
    if as_json:
        print_json(found)
    else:
        _print_survey(found)
    if found["attention"] or found["poison"] or found["workers"]:
        raise typer.Exit(1)


def watch(
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=3_600)] = 2,
    times: Annotated[int, typer.Option(help="How many looks; 0 is until interrupted.", min=0)] = 0,
) -> None:
    """The status again and again."""
    from worker.cli.survey import survey

    services = runtime()
    looked = 0
    while True:
        found = survey(services)
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[2J\x1b[H")
        print_line(utc(found["at_ms"] / 1000))
        _print_survey(found)
        sys.stdout.flush()
        looked += 1
        if looked == times:
            return
        time.sleep(every)


def why(
    intent: Annotated[str, typer.Argument(help="The intent's id.")],
    as_json: JsonFlag = False,
) -> None:
    """Why an intent is where it is: the last word, who said it, what it means, and the limits as they stand."""
    from worker.cli.survey import budget_json, limits
    from worker.execution.attention import ATTENTION

    services = runtime()
    record = services.ledger.get(intent)
    advice = ATTENTION.get(record.attention)
    last = record.history[-1] if record.history else None
    touched = {change.counter for change in record.reservation}
    budgets = [
        budget
        for budget in limits(services, record.intent.session_id)
        # a refused intent has reserved nothing: then every limit of its session is of interest
        if not touched or budget.counter in touched
    ]
    if as_json:
        print_json(
            {
                "intent_id": record.intent_id,
                "state": str(record.state),
                "reason": record.reason or (last.why if last else ""),
                "since_ms": last.at_ms if last else record.created_ms,
                "who": last.who if last else "",
                "attention": record.attention,
                "meaning": advice.meaning if advice else "",
                "resolve": advice.resolve if advice else "",
                "budgets": [budget_json(budget) for budget in budgets],
            }
        )
        return
    since = utc((last.at_ms if last else record.created_ms) / 1000)
    print_line(f"{record.intent_id} is {record.state} since {since}")
    print_line(f"because   {record.reason or (last.why if last else 'nobody has looked at it yet')}")
    if record.orchestrator_status:
        print_line(f"elsewhere the orchestrator's last word is {record.orchestrator_status}")
    if advice is not None:
        print_line(f"{record.attention}: {advice.meaning}")
        print_line(f"what to do: {advice.resolve}")
    write = _writer(services)
    print_table(
        ("limit", "allowed", "spent", "reserved", "used"),
        (_budget_row(budget, write) for budget in budgets),
        empty="no limit of its session is touched yet",
    )


def export(
    session: SessionOption = None,
    state: Annotated[list[State] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option(help="Created on or after this UTC day: 2026-01-31.")] = None,
    until: Annotated[str | None, typer.Option(help="Created before this UTC day: 2026-02-01.")] = None,
    form: Annotated[Format, typer.Option("--format", help="csv or jsonl.")] = Format.CSV,
) -> None:
    """Every intent, the newest first, one line each: what was asked, what became of it, what it moved, the fill."""
    services = runtime()
    from_ms, to_ms = _day_ms("--since", since), _day_ms("--until", until)
    writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
    if form is Format.CSV:
        writer.writeheader()
    written = 0
    for record in _records(services, _session_id(services, session), state or ()):
        if (to_ms and record.created_ms >= to_ms) or (from_ms and record.created_ms < from_ms):
            continue
        row = _row(record)
        if form is Format.CSV:
            writer.writerow({name: _cell(value) for name, value in row.items()})
        else:
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        written += 1
    note(f"{written} intents")


def report(
    day: Annotated[
        str | None, typer.Option(help="The UTC day, 2026-01-31; without it the present one.")
    ] = None,
    session: SessionOption = None,
    as_json: JsonFlag = False,
) -> None:
    """One day: how many intents of each session ended how, why the refused were refused, and what was moved."""
    services = runtime()
    start_ms = _day_ms("--day", day) or services.now_ms() // _DAY_MS * _DAY_MS
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    moved: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    for record in _records(services, _session_id(services, session), ()):
        if not start_ms <= record.created_ms < start_ms + _DAY_MS:
            continue
        session_id = record.intent.session_id
        ends[session_id][str(record.state)] += 1
        if record.state in {State.REJECTED, State.FAILED, State.DEAD}:
            reasons[f"{record.state}: {record.reason.partition(':')[0]}"] += 1
        if record.state is State.COMPLETED:
            for token, amount in moved_by(record.intent.calls):
                moved[session_id][token] += amount
    title = datetime.fromtimestamp(start_ms / 1000, UTC).date().isoformat()
    if as_json:
        print_json(
            {
                "day": title,
                "sessions": {
                    session_id: {
                        "states": dict(sorted(states.items())),
                        "moved": {token: str(amount) for token, amount in sorted(moved[session_id].items())},
                    }
                    for session_id, states in sorted(ends.items())
                },
                "reasons": dict(reasons.most_common()),
            }
        )
        return
    write = _writer(services)
    print_line(f"{title} UTC")
    print_table(
        ("session", "intents", "moved"),
        (
            (
                session_id,
                "\n".join(f"{number} {name}" for name, number in sorted(states.items())),
                "\n".join(write(token, amount) for token, amount in sorted(moved[session_id].items())),
            )
            for session_id, states in sorted(ends.items())
        ),
        empty="no intents",
    )
    print_table(
        ("times", "why"),
        ((str(number), reason) for reason, number in reasons.most_common()),
        empty="nothing was refused and nothing failed",
    )


def _print_survey(found: dict[str, Any]) -> None:
    print_line(f"workers    {found['workers'] or 'take their ticks'}")
    print_line("queues     " + ", ".join(f"{name} {length}" for name, length in found["queues"].items()))
    print_line("intents    " + (", ".join(f"{n} {state}" for state, n in found["intents"].items()) or "none"))
    print_line(f"in flight  {found['in_flight']}")
    attention = ", ".join(f"{n} {code}" for code, n in found["attention"].items())
    print_line(f"attention  {attention or 'none'}" + (" (see `intents list`, `why ID`)" if attention else ""))
    if found["poison"]:
        print_line(f"poison     {found['poison']} messages set aside (see `poison list`)")
    for pause in found["pauses"]:
        print_line(f"paused     {pause}")
    from worker.execution.tokens import amount_format

    write = amount_format(found["chain_id"])
    now_s = found["at_ms"] / 1000
    print_table(
        ("session", "limit", "used", "allowed", "time left"),
        (
            (
                session["session_id"] + (" (paused)" if session["paused"] else ""),
                f"{budget['policy']} {budget['token']}".strip(),
                bar(int(budget["spent"]) + int(budget["reserved"]), int(budget["limit"])),
                write(budget["token"], int(budget["limit"])) if budget["token"] else budget["limit"],
                time_left(session["ends_s"], now_s),
            )
            for session in found["sessions"]
            for budget in session["budgets"]
        ),
        empty="no limit is touched yet",
    )
    print_table(
        ("strategy", "next fire"),
        ((fire["strategy"], utc(fire["at_s"])) for fire in found["next_fires"]),
        empty="no strategy is due to fire",
    )


def _budget_row(budget: Budget, write: Any) -> tuple[str, ...]:
    def written(amount: int) -> str:
        return write(budget.token, amount) if budget.token else str(amount)

    return (
        f"{budget.policy} {budget.token}".strip(),
        *(written(amount) for amount in (budget.limit, budget.spent, budget.reserved)),
        bar(budget.used, budget.limit),
    )


def _writer(services: Runtime) -> Any:
    from worker.execution.tokens import amount_format

    return amount_format(services.settings.chain_id)


def _session_id(services: Runtime, session: str | None) -> str:
    return "" if session is None else find_session(services, session, field="--session").session_id


def _records(services: Runtime, session_id: str, states: Any) -> Iterator[IntentRecord]:
    """Every record once, the newest first, page by page; what is enqueued meanwhile may be missing, nothing comes twice."""
    offset, seen = 0, set[str]()
    while True:
        page = services.ledger.list_intents(session_id=session_id, states=states, limit=_PAGE, offset=offset)
        for record in page:
            if record.intent_id not in seen:
                seen.add(record.intent_id)
                yield record
        if len(page) < _PAGE:
            return
        offset += _PAGE


_COLUMNS = (
    *("intent_id", "session_id", "key", "source", "created", "ended", "state", "reason"),
    *("orchestrator_id", "tx_hash", "sponsored", "calls", "moved", "note"),
)


def _row(record: IntentRecord) -> dict[str, Any]:
    return {
        "intent_id": record.intent_id,
        "session_id": record.intent.session_id,
        "key": record.intent.idempotency_key,
        "source": record.intent.source,
        "created": _iso(record.created_ms),
        "ended": _iso(record.updated_ms) if record.state in FINAL else "",
        "state": str(record.state),
        "reason": record.reason,
        "orchestrator_id": record.orchestrator_id,
        "tx_hash": record.tx_hash,
        "sponsored": record.intent.sponsored,
        "calls": [
            {"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()}
            for call in record.intent.calls
        ],
        "moved": [
            {"token": token, "amount": str(amount)}
            for token, amount in moved_by(record.intent.calls)
            if record.state is State.COMPLETED
        ],
        "note": record.intent.note,
    }


def _cell(value: Any) -> str:
    """A cell; text that a spreadsheet would run as a formula is made text."""
    if isinstance(value, list | bool):
        return json.dumps(value, separators=(",", ":"))
    text = str(value)
    return "'" + text if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _day_ms(field: str, text: str | None) -> int:
    """The start of a UTC day, unix ms; 0 for none. Raises InputError."""
    if text is None:
        return 0
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text[:60]!r} is no day", field=field, fix="write 2026-01-31") from None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
