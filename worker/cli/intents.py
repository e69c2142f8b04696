"""``session-executor intents``."""

from __future__ import annotations

import re
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from eth_utils.address import to_checksum_address

from worker.cli.context import find_session, options, parsed, runtime
from worker.cli.output import note, print_json, print_line, print_table, utc
from worker.errors import InputError
from worker.intents.states import FINAL, State

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime
    from worker.intents.model import IntentRecord
    from worker.policies.base import Execution

app = typer.Typer(help="Trades: queue them, see what became of them, cancel them.", no_args_is_help=True)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IntentArgument = Annotated[str, typer.Argument(help="The intent's id.")]
NATIVE = "0x" + "00" * 20
_TRANSFER = bytes.fromhex("a9059cbb")
_CALL = re.compile(r"(0x[0-9a-fA-F]{40}):([0-9]{1,78}):(0x(?:[0-9a-fA-F]{2})*)")
_POLL_S = 0.2
#: The year 9999: a later time is a typing error, milliseconds perhaps.
_LAST_S = 253_402_300_799
_MAX_DIGITS = 20


@app.command()
def submit(
    session: Annotated[str, typer.Option(help="The session's id, or the first digits of it.")],
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
    as_json: JsonFlag = False,
) -> None:
    """Queue one intent for the workers. Repeat it with the same --key as often as you like: it executes once."""
    from worker.execution.enqueue import enqueue
    from worker.intents.model import TradeIntent

    services = runtime()
    calls, receiver, what = _calls(services.settings.chain_id, to, amount, token, call or [])
    until_s = 0 if not_after is None else _not_after(not_after)
    found = find_session(services, session, field="--session")
    if receiver == found.account:
        raise InputError("is the paying account itself", field="--to", fix="give another receiver")
    # an empty key (an unset variable in a script, say) is refused below: a random one would undo the safety
    chosen = f"cli-{secrets.token_hex(8)}" if key is None else key
    with options(session="--session", calls="--call", not_after="--not-after", idempotency_key="--key"):
        enqueued = enqueue(
            services,
            TradeIntent(
                session_id=found.session_id,
                idempotency_key=chosen,
                calls=calls,
                sponsored=not unsponsored,
                not_after=until_s,
                source="cli",
                note=note_text or what,
                urgent=urgent,
            ),
        )
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


@app.command("list")
def list_intents(
    session: Annotated[str | None, typer.Option(help="Only of this session.")] = None,
    state: Annotated[list[State] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 50,
    offset: Annotated[int, typer.Option(help="How many to skip.", min=0)] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Intents, the newest first."""
    services = runtime()
    found = services.ledger.list_intents(
        session_id="" if session is None else find_session(services, session, field="--session").session_id,
        states=state or (),
        limit=limit,
        offset=offset,
    )
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
    """One intent with its history. Signatures and the quote are never shown."""
    from worker.execution.attention import ATTENTION

    record = runtime().ledger.get(intent)
    if as_json:
        print_json(_details(record))
        return
    for name, value in _summary(record).items():
        if value not in (None, ""):
            print_line(f"{name:20} {value}")
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


@app.command()
def cancel(
    intent: IntentArgument,
    why: Annotated[str, typer.Option(help="For the history.")] = "canceled by an operator",
    as_json: JsonFlag = False,
) -> None:
    """Cancel an intent that is not signed yet."""
    services = runtime()
    record = services.ledger.cancel(intent, who="cli", why=why, now_ms=services.now_ms())
    _print_state(record, as_json=as_json)


@app.command()
def replay(
    intent: IntentArgument,
    why: Annotated[str, typer.Option(help="For the history.")] = "replayed by an operator",
    as_json: JsonFlag = False,
) -> None:
    """Queue a DEAD intent again. Nothing of it was signed, so it starts afresh."""
    from worker.execution.repair import replay as do_replay

    _print_state(do_replay(runtime(), intent, who="cli", why=why), as_json=as_json)


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

    _print_state(do_settle(runtime(), intent, state, who="cli", why=why), as_json=as_json)


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


def _calls(
    chain_id: int, to: str | None, amount: str | None, token: str | None, raw: list[str]
) -> tuple[tuple[Execution, ...], str, str]:
    """The calls that the options ask for, who receives ("" for raw calls), and words for them.

    Raises:
        InputError: names the option.
    """
    from worker.execution.tokens import token_table
    from worker.intents.amount import Amount, parse_amount, parse_human
    from worker.policies.base import Execution
    from worker.policies.fields import parse_address

    if raw:
        if (to, amount, token) != (None, None, None):
            raise InputError(
                "cannot go with --to, --amount and --token", field="--call", fix="give one or the other"
            )
        return tuple(_raw_call(text, index) for index, text in enumerate(raw)), "", ""
    for option, value in (("--to", to), ("--amount", amount)):
        if not value:
            raise InputError("is missing", field=option, fix='give --to and --amount "10 USDC", or --call')
    assert to is not None
    assert amount is not None
    receiver = parsed("--to", parse_address, to)
    tokens = token_table(chain_id)
    if token is None:
        with options(token="--amount"):  # noqa: S106 - a coin, no password
            wanted = parse_human(amount, tokens, field="--amount")
    else:
        with options(token="--token"):  # noqa: S106
            coin = tokens(token)
        if " " in amount.strip():
            raise InputError(
                "names a token, as --token does",
                field="--amount",
                fix="give the number, or leave --token out",
            )
        wanted = Amount(parse_amount(amount, token=coin, field="--amount"), coin)
    if receiver == NATIVE:
        raise InputError("is the zero address", field="--to", fix="give the receiver")
    if receiver == wanted.token.address:
        raise InputError(
            f"is the {wanted.token.symbol} contract itself, where money is lost",
            field="--to",
            fix="give the receiver",
        )
    words = f"transfer {wanted} to {receiver}"
    if wanted.token.address == NATIVE:
        return (Execution(receiver, wanted.value, b""),), receiver, words
    data = _TRANSFER + bytes(12) + bytes.fromhex(receiver[2:]) + wanted.value.to_bytes(32)
    return (Execution(wanted.token.address, 0, data),), receiver, words


def _raw_call(text: str, index: int) -> Execution:
    from worker.policies.base import Execution
    from worker.policies.fields import parse_address

    match = _CALL.fullmatch(text)
    if match is None or int(match[2]) >= 2**256:
        raise InputError(
            f"number {index} is no call",
            field="--call",
            fix="write TO:WEI:DATA, such as 0x…40 digits:0:0xa9059cbb…",
        )
    return Execution(parsed("--call", parse_address, match[1]), int(match[2]), bytes.fromhex(match[3][2:]))


def _not_after(text: str) -> int:
    """Unix seconds. Raises InputError."""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        seconds = int(text)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise InputError(
                f"{text[:60]!r} is no time with a zone",
                field="--not-after",
                fix="write 2026-01-31T12:00:00Z, or unix seconds",
            )
        seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if not 0 < seconds <= _LAST_S:
        raise InputError(
            f"{text[:60]!r} is not between 1970 and the year 9999",
            field="--not-after",
            fix="write 2026-01-31T12:00:00Z, or unix seconds (not milliseconds)",
        )
    return seconds


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
