"""``session-executor intents``."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from eth_utils.address import to_checksum_address

from worker.cli import trade_options
from worker.cli.changes import change, operator
from worker.cli.context import find_session, options, runtime
from worker.cli.output import note, print_json, print_line, print_table, utc
from worker.errors import ExecutorError, InputError, ServiceError
from worker.intents.states import FINAL, State

if TYPE_CHECKING:
    from worker.cli.intent_file import Result
    from worker.execution.runtime import Runtime
    from worker.intents.model import IntentRecord

app = typer.Typer(help="Trades: queue them, see what became of them, cancel them.", no_args_is_help=True)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IntentArgument = Annotated[str, typer.Argument(help="The intent's id.")]
#: What a request's members are called here.
_OPTIONS = {
    **{
        name: f"--{name.replace('_', '-')}"
        for name in ("session", "to", "amount", "token", "not_after", "key")
    },
    "calls": "--call",
    "trade": "--want",
    "idempotency_key": "--key",
}
_BATCH = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
_POLL_S = 0.2
#: More intents than anybody lets wait.
_ALL = 1_000_000


@app.command()
def submit(
    session: Annotated[
        str | None, typer.Option(help="The session's id, or the first digits of it; with --file the default.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Who receives: an address.")] = None,
    amount: Annotated[str | None, typer.Option(help='How much of which token, exact: "10 USDC".')] = None,
    token: Annotated[
        str | None, typer.Option(help="The token's symbol or address, if --amount is only a number.")
    ] = None,
    call: Annotated[
        list[str] | None,
        typer.Option(help="A raw call TO:WEI:DATA instead of a transfer; may be repeated, order counts."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: the same key is the same intent, for ever.")
    ] = None,
    not_after: Annotated[
        str | None, typer.Option(help="Not to be signed after this: 2026-01-31T12:00:00Z, or unix seconds.")
    ] = None,
    unsponsored: Annotated[
        bool, typer.Option("--unsponsored", help="The account pays the fees, not the project.")
    ] = False,
    urgent: Annotated[
        bool, typer.Option("--urgent", help="Before everything that waits: for a stop-loss, say.")
    ] = False,
    note_text: Annotated[str, typer.Option("--note", help="Words for people.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for the end; exit code 1 if it is not COMPLETED.")
    ] = False,
    want: trade_options.Want = None,
    pay: trade_options.Pay = None,
    source: trade_options.From = None,
    exact_inputs: trade_options.ExactInputs = False,
    recipient: trade_options.Recipient = None,
    source_asset: trade_options.SourceAsset = None,
    source_call: trade_options.SourceCall = None,
    fee_asset: trade_options.FeeAsset = None,
    sponsor: trade_options.Sponsor = None,
    layer: trade_options.Layer = None,
    deadline: trade_options.Deadline = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="A .csv or .jsonl file of intents, one a line: docs/enqueue.md."),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option(help="With --file: part of the keys of lines without one; by default its name."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --file: check every line, queue nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Queue one intent for the workers, or each line of a file. The same key executes once, however often it is repeated."""
    from worker.execution.enqueue import enqueue
    from worker.execution.request import read_request

    terms = {
        name: value
        for name, value in (
            ("session", session),
            ("not_after", not_after),
            ("sponsored", False if unsponsored else None),
            ("urgent", urgent or None),
        )
        if value is not None
    }
    trade = trade_options.trade_words(
        want=want,
        pay=pay,
        sources=source,
        exact_inputs=exact_inputs,
        recipient=recipient,
        source_assets=source_asset,
        source_calls=source_call,
        fee_asset=fee_asset,
        sponsor=sponsor,
        layers=layer,
        deadline=deadline,
    )
    if sponsor and unsponsored:
        raise InputError("contradicts --sponsor", field="--unsponsored", fix="give one or the other")
    single = {
        "--want": trade, "--to": to, "--amount": amount, "--token": token, "--call": call, "--key": key, "--note": note_text, "--wait": wait
    }  # fmt: skip
    if file is not None:
        for option, given in single.items():
            if given:
                raise InputError("cannot go with --file", field=option, fix="write it in the file")
        _submit_file(file, terms, batch=batch, only_check=check, as_json=as_json)
        return
    if batch is not None or check:
        raise InputError("goes with --file", field="--check" if check else "--batch", fix="give a file")
    if session is None:
        raise InputError("is missing", field="--session", fix="give the session's id")
    services = runtime()
    # an empty key (an unset variable in a script, say) is refused below: a random one would undo the safety
    chosen = f"cli-{secrets.token_hex(8)}" if key is None else key
    request = {**terms, "key": chosen, "to": to, "amount": amount, "token": token, "note": note_text}
    with options(**_OPTIONS), trade_options.trade_named():
        intent = read_request(
            services,
            {**request, "calls": call or None, "trade": trade},
            source="cli",
            find=lambda name: find_session(services, name),
        )
        enqueued = enqueue(services, intent)
    record = enqueued.record
    if not as_json:
        print_line(record.intent_id)
    elif wait:
        note(f"waiting for {record.intent_id}")
    if not enqueued.created:
        note(f"this key was used before for the same intent, which is {record.state}: already there")
    elif key is None:
        note(f"idempotency key {chosen}: give it again with --key to repeat this safely")
    if wait:
        sys.stdout.flush()
        record = _wait(services, record)
    if as_json:
        print_json({**_summary(record), "created": enqueued.created})
    elif wait:
        print_line(f"{record.state}{': ' + record.reason if record.reason else ''}")
    if wait and record.state is not State.COMPLETED:
        raise typer.Exit(1)


def _submit_file(
    path: Path, terms: Mapping[str, Any], *, batch: str | None, only_check: bool, as_json: bool
) -> None:
    """Each line with its result, and the sums. Exit code 2 if a line is bad; the good ones are queued nevertheless."""
    from rich.console import Console
    from rich.progress import Progress

    from worker.cli.intent_file import failed_at, read_file, submit_lines

    lines = read_file(path)
    name = path.stem if batch is None else batch
    if not _BATCH.fullmatch(name):
        raise InputError(
            f"{name[:60]!r} is no name of a batch", field="--batch", fix="give 1 to 100 of A-Z a-z 0-9 . _ -"
        )
    results: list[Result] = []
    failure: ExecutorError | None = None
    # the bar is for a person who waits; it goes to standard error and vanishes
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("checking" if only_check else "queueing", total=len(lines))
        try:
            for result in submit_lines(runtime(), lines, batch=name, defaults=terms, only_check=only_check):
                results.append(result)
                progress.advance(bar)
        except ServiceError as error:
            failure = failed_at(error, len(results), len(lines))
    sums = Counter(result.outcome for result in results)
    if as_json:
        print_json({"lines": [asdict(result) for result in results], "sums": dict(sums)})
    else:
        for result in results:
            words = f"{result.field}: {result.reason}" if result.outcome == "bad" else result.intent_id
            print_line(f"line {result.line} {result.outcome}: {words}")
    note(
        ", ".join(
            f"{sums[outcome]} {words}"
            for outcome, words in (
                ("created", "queued"),
                ("there", "there before"),
                ("good", "good"),
                ("bad", "bad"),
            )
            if sums[outcome] or outcome == "bad"
        )
    )
    if failure is not None:
        raise failure
    if sums["bad"]:
        raise typer.Exit(2)


@app.command("list")
def list_intents(
    session: Annotated[str | None, typer.Option(help="Only of this session.")] = None,
    state: Annotated[list[State] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    awaiting: Annotated[
        bool, typer.Option("--awaiting", help="Only those that wait for `intents approve`.")
    ] = False,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 50,
    offset: Annotated[int, typer.Option(help="How many to skip.", min=0)] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Intents, the newest first."""
    from worker.ledger.redis_ledger import AWAITING_APPROVAL

    services = runtime()
    if awaiting and state:
        raise InputError("cannot go with --state", field="--awaiting", fix="give one or the other")
    found = services.ledger.list_intents(
        session_id="" if session is None else find_session(services, session, field="--session").session_id,
        states=(State.QUEUED,) if awaiting else state or (),
        limit=_ALL if awaiting else limit,
        offset=0 if awaiting else offset,
    )
    if awaiting:
        waiting = [record for record in found if record.attention == AWAITING_APPROVAL]
        found = waiting[offset : offset + limit]
    if as_json:
        print_json([_summary(record) for record in found])
        return
    print_table(
        ("intent", "state", "what", "created", "transaction", "reason"),
        (
            (
                record.intent_id,
                f"{record.state} !{record.attention}" if record.attention else str(record.state),
                record.intent.note,
                utc(record.created_ms / 1000),
                record.tx_hash,
                record.reason,
            )
            for record in found
        ),
        empty="no intents",
    )


@app.command("show")
def show_intent(intent: IntentArgument, as_json: JsonFlag = False) -> None:
    """One intent with its history, from the archive if it has left Redis. Signatures and the quote are never shown."""
    from worker.execution.attention import ATTENTION

    record, archived_ms = _found(runtime(), intent)
    if as_json:
        print_json(_details(record) | ({"archived_ms": archived_ms} if archived_ms else {}))
        return
    if archived_ms:
        print_line(f"{'archived':20} {utc(archived_ms / 1000)}")
    for name, value in _summary(record).items():
        if value not in (None, ""):
            print_line(f"{name:20} {value}")
    if record.intent.trade is not None:
        print_line(f"{'trade':20} {json.dumps(record.intent.trade.to_json())}")
    if record.fields.get("approved_by"):
        at = utc(int(record.fields["approved_ms"]) / 1000)
        print_line(f"{'approved':20} by {record.fields['approved_by']} at {at}")
    advice = ATTENTION.get(record.attention)
    if advice is not None:
        print_line(f"{'what it means':20} {advice.meaning}")
        print_line(f"{'what to do':20} {advice.resolve}")
    print_table(
        ("call", "to", "wei", "data"),
        (
            (str(index), to_checksum_address(call.to), str(call.value), "0x" + call.data.hex())
            for index, call in enumerate(record.intent.calls)
        ),
        empty="no calls",
    )
    print_table(
        ("when", "who", "state", "why"),
        ((utc(entry.at_ms / 1000), entry.who, entry.to_state, entry.why) for entry in record.history),
        empty="no history",
    )


def _found(services: Runtime, intent_id: str) -> tuple[IntentRecord, int]:
    """The record, and when it was archived (unix ms; 0: it was not).

    Raises:
        IntentArchivedError: the archive is not on this machine.
        IntentNotFoundError, LedgerUnavailableError, ArchiveError
    """
    from worker.ledger.archive import Archive
    from worker.ledger.errors import IntentArchivedError

    try:
        return services.ledger.get(intent_id), 0
    except IntentArchivedError as error:
        folder = services.settings.archive_dir
        found = folder and Archive(folder).find(intent_id, error.tombstone.archived_ms)
        if not found:
            error.fix = "set SESSION_EXECUTOR_ARCHIVE_DIR to the folder that holds its archive file"
            raise
        if problem := found.problem(services.sealer):
            note(f"warning: its line in the archive is not known to be ours: {problem}")
        return found.record(), found.archived_ms


@app.command()
def cancel(
    intent: IntentArgument,
    why: Annotated[str, typer.Option(help="For the history.")] = "canceled by an operator",
    as_json: JsonFlag = False,
) -> None:
    """Cancel an intent that is not signed yet."""
    services = runtime()
    with change(services, "intent canceled", stops=True, intent_id=intent, why=why) as made:
        made.say(**_before(services, intent))
        record = services.ledger.cancel(intent, who=operator(), why=why, now_ms=services.now_ms())
        made.say(after=str(record.state))
    _print_state(record, as_json=as_json)


@app.command()
def approve(
    intent: IntentArgument,
    why: Annotated[str, typer.Option(help="For the history.")] = "approved by an operator",
    as_json: JsonFlag = False,
) -> None:
    """Confirm an intent that takes more than a guardrail's `approval_above`; who and when is kept in its history."""
    from worker.execution.approval import approve as do_approve

    services, who = runtime(), operator()
    with change(services, "intent approved", intent_id=intent, why=why) as made:
        made.say(**_before(services, intent))
        record = do_approve(services, intent, who=who, why=why)
        made.say(after="approved")
    if as_json:
        print_json({**_summary(record), "approved_by": who})
    else:
        print_line(f"{record.intent_id} approved by {who}: it goes on")


@app.command()
def replay(
    intent: IntentArgument,
    why: Annotated[str, typer.Option(help="For the history.")] = "replayed by an operator",
    as_json: JsonFlag = False,
) -> None:
    """Queue a DEAD intent again. Nothing of it was signed, so it starts afresh."""
    from worker.execution.repair import replay as do_replay

    services = runtime()
    with change(services, "intent replayed", intent_id=intent, why=why) as made:
        made.say(**_before(services, intent))
        record = do_replay(services, intent, who=operator(), why=why)
        made.say(after=str(record.state))
    _print_state(record, as_json=as_json)


@app.command()
def drop(
    intent: IntentArgument,
    why: Annotated[str, typer.Option(help="For the history.")] = "dropped by an operator",
    as_json: JsonFlag = False,
) -> None:
    """Let go of a DEAD intent for good: it ends as CANCELED and needs no attention any more."""
    from worker.execution.repair import drop as do_drop

    services = runtime()
    with change(services, "intent dropped", stops=True, intent_id=intent, why=why) as made:
        made.say(**_before(services, intent))
        record = do_drop(services, intent, who=operator(), why=why)
        made.say(after=str(record.state))
    _print_state(record, as_json=as_json)


@app.command()
def settle(
    intent: IntentArgument,
    state: Annotated[State, typer.Option("--as", help="COMPLETED, FAILED or EXPIRED.")],
    why: Annotated[
        str, typer.Option(help="For the history: what you saw on the chain, e.g. the transaction.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """End a signed intent whose fate you have looked up on the chain. COMPLETED books it as spent."""
    from worker.execution.repair import settle as do_settle

    services = runtime()
    with change(services, "intent settled", intent_id=intent, why=why, wanted=str(state)) as made:
        made.say(**_before(services, intent))
        record = do_settle(services, intent, state, who=operator(), why=why)
        made.say(after=str(record.state))
    _print_state(record, as_json=as_json)


def _before(services: Runtime, intent_id: str) -> dict[str, str]:
    """What a change finds, for the audit trail; nothing of a record that cannot be read, which the change itself tells."""
    try:
        record = services.ledger.get(intent_id)
    except ExecutorError:
        return {}
    attention = f" ({record.attention})" if record.attention else ""
    return {"session_id": record.intent.session_id, "before": f"{record.state}{attention}"}


def _print_state(record: IntentRecord, *, as_json: bool) -> None:
    if as_json:
        print_json(_summary(record))
    else:
        print_line(f"{record.intent_id} {record.state}")


def _wait(services: Runtime, record: IntentRecord) -> IntentRecord:
    """The record once it is final; says when a person should look meanwhile."""
    told = ""
    while record.state not in FINAL:
        if record.attention and record.attention != told:
            note(f"{record.state}, needs attention: {record.attention} ({record.reason})")
            told = record.attention
        time.sleep(_POLL_S)
        record = services.ledger.get(record.intent_id)
    return record


def _summary(record: IntentRecord) -> dict[str, Any]:
    return {
        "intent_id": record.intent_id,
        "session_id": record.intent.session_id,
        "key": record.intent.idempotency_key,
        "state": str(record.state),
        "attention": record.attention,
        "reason": record.reason,
        "orchestrator_id": record.orchestrator_id,
        "orchestrator_status": record.orchestrator_status,
        "tx_hash": record.tx_hash,
        "note": record.intent.note,
        "source": record.intent.source,
        "attempts": record.attempts,
        "created_ms": record.created_ms,
        "updated_ms": record.updated_ms,
    }


def _details(record: IntentRecord) -> dict[str, Any]:
    return {
        **_summary(record),
        "sponsored": record.intent.sponsored,
        "not_after": record.intent.not_after or None,
        "trade": None if record.intent.trade is None else record.intent.trade.to_json(),
        "approved_by": record.fields.get("approved_by"),
        "approved_ms": int(record.fields["approved_ms"]) if record.fields.get("approved_ms") else None,
        "calls": [
            {"to": to_checksum_address(call.to), "value": str(call.value), "data": "0x" + call.data.hex()}
            for call in record.intent.calls
        ],
        "reservation": [
            {
                "counter": change.counter,
                "policy": change.policy,
                "token": change.token,
                "amount": str(change.amount),
            }
            for change in record.reservation
        ],
        "history": [
            {
                "at_ms": entry.at_ms,
                "who": entry.who,
                "from": entry.from_state,
                "to": entry.to_state,
                "why": entry.why,
            }
            for entry in record.history
        ],
    }
