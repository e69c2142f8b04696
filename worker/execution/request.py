"""What people and programs write to ask for an intent: names and texts, read strictly, the same from everywhere.

One reader for Celery messages, Python, and the lines of a file; the options of ``intents submit`` use its parts. A typing
error is an error and never a payment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from worker.errors import InputError
from worker.execution.enqueue import enqueue
from worker.execution.errors import ForgedRequestError, IntentInputError
from worker.execution.runtime import Runtime
from worker.execution.tokens import token_table
from worker.execution.trade_words import FindSession, read_trade, trade_in_words
from worker.intents.amount import Amount, AmountError, TokenTable, parse_amount, parse_human
from worker.intents.model import TradeIntent
from worker.intents.trade import Trade
from worker.intents.transfers import transfer_call
from worker.ledger.port import Enqueued
from worker.policies.base import Execution
from worker.policies.fields import ZERO_ADDRESS, parse_address, parse_bytes, parse_uint
from worker.sealing import Sealer
from worker.sessions.importing import RegisteredSession

_T = TypeVar("_T")

MEMBERS = (
    *("session", "key", "to", "amount", "token", "calls", "trade"),
    *("not_after", "sponsored", "urgent", "note"),
)
"""What a request may hold; ``docs/enqueue.md`` describes each."""

SEAL, SEALED_AS = "seal", "request"
"""The member that holds a request's seal, and the kind of that seal."""

_CALL = re.compile(r"(0x[0-9a-fA-F]{40}):([0-9]{1,78}):(0x(?:[0-9a-fA-F]{2})*)")
_CALL_MEMBERS = ("to", "value", "data")
#: The year 9999: a later time is a typing error, milliseconds perhaps.
_LAST_S = 253_402_300_799
_MAX_DIGITS = 20
_MAX_NOTE = 500
_SHOWN = 60


def seal_request(sealer: Sealer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A request for ``tasks.enqueue`` with its seal, by which a worker knows that its sender may enqueue.

    Raises:
        KeyStoreError: the keys of the seals cannot be had.
    """
    return {**request, SEAL: sealer.seal(SEALED_AS, sealed_text(request))}


def sealed_text(request: Mapping[str, Any]) -> str:
    """What a request's seal covers: its JSON with sorted names and no blanks, the seal left out."""
    asked = {name: value for name, value in request.items() if name != SEAL}
    return json.dumps(asked, sort_keys=True, separators=(",", ":"))


def unsealed_request(runtime: Runtime, request: Mapping[str, Any]) -> dict[str, Any]:
    """The request without its seal, if its sender may enqueue.

    Raises:
        ForgedRequestError: it has no seal of ours.
        KeyStoreError: the keys of the seals cannot be had.
    """
    seal = request.get(SEAL, "")
    asked = {name: value for name, value in request.items() if name != SEAL}
    if runtime.settings.accept_celery_requests:
        return asked
    problem = runtime.sealer.problem(seal if isinstance(seal, str) else "?", SEALED_AS, sealed_text(asked))
    if problem:
        raise ForgedRequestError(
            f"{problem}: who can write to Redis must not be able to trade",
            field=SEAL,
            fix="seal it as docs/enqueue.md shows, or set SESSION_EXECUTOR_ACCEPT_CELERY_REQUESTS=true",
        )
    return asked


def submit_request(runtime: Runtime, request: Mapping[str, Any], *, source: str) -> Enqueued:
    """Read a request and enqueue its intent; may be repeated, see ``enqueue``.

    Args:
        runtime: the services.
        request: by the names in ``MEMBERS``; values as JSON has them.
        source: who asks, for the record: ``api``, ``cli``.

    Raises:
        InputError: ``field`` is a member's name.
        SessionStoreUnavailableError, SessionCorruptError, LedgerUnavailableError
    """
    intent = read_request(runtime, request, source=source)
    with key_named():
        return enqueue(runtime, intent)


@contextmanager
def key_named() -> Generator[None]:
    """Let errors of ``enqueue`` name the key as a request does."""
    try:
        yield
    except InputError as error:
        if error.field == "idempotency_key":
            error.field = "key"
        raise


def read_request(
    runtime: Runtime, request: Mapping[str, Any], *, source: str, find: FindSession | None = None
) -> TradeIntent:
    """The intent that a request asks for.

    Args:
        runtime: finds the session.
        request: by the names in ``MEMBERS``; values as JSON has them.
        source: who asks, for the record: ``api``, ``cli``.
        find: finds the session in place of the registry, which wants its whole id.

    Raises:
        InputError: ``field`` is a member's name.
        SessionStoreUnavailableError, SessionCorruptError
    """
    for name in request:
        if name not in MEMBERS:
            raise IntentInputError(
                "is no member of a request",
                field=ascii(name)[1:-1][:_SHOWN],
                fix=f"known: {', '.join(MEMBERS)}",
            )
    # an empty key (an unset variable in a program, say) is refused: a random one would undo the safety
    key = _text(request, "key", needed=True)
    session = (find or runtime.sessions.get)(_text(request, "session", needed=True))
    calls, trade, what = _what(request, session, find or runtime.sessions.get)
    until = request.get("not_after")
    return TradeIntent(
        session_id=session.session_id,
        idempotency_key=key,
        calls=calls,
        sponsored=_flag(request, "sponsored", default=True),
        not_after=0 if until is None else parse_instant(until, field="not_after"),
        source=source,
        note=_text(request, "note")[:_MAX_NOTE] or what,
        urgent=_flag(request, "urgent", default=False),
        trade=trade,
    )


def transfer_calls(
    tokens: TokenTable, account: str, *, to: object, amount: object, token: object = None
) -> tuple[tuple[Execution, ...], str]:
    """The calls of a plain transfer, and words for it.

    Args:
        tokens: of the session's chain.
        account: who pays, lower-case address.
        to: who receives, an address.
        amount: ``"10 USDC"``, or with ``token`` the number alone; always text.
        token: symbol or address, if ``amount`` does not name it.

    Raises:
        InputError: ``field`` is ``to``, ``amount`` or ``token``.
    """
    for name, value in (("to", to), ("amount", amount)):
        if not value:
            raise IntentInputError("is missing", field=name, fix='give to and amount "10 USDC", or calls')
    receiver = _parsed("to", parse_address, to)
    wanted = _amount(tokens, amount, token)
    if receiver == ZERO_ADDRESS:
        raise IntentInputError("is the zero address", field="to", fix="give the receiver")
    if receiver == wanted.token.address:
        raise IntentInputError(
            f"is the {wanted.token.symbol} contract itself, where money is lost",
            field="to",
            fix="give the receiver",
        )
    if receiver == account:
        raise IntentInputError("is the paying account itself", field="to", fix="give another receiver")
    return (transfer_call(wanted.token, receiver, wanted.value),), f"transfer {wanted} to {receiver}"


def parse_call(text: str, index: int = 0, *, field: str = "calls") -> Execution:
    """``TO:WEI:DATA``. Raises InputError."""
    match = _CALL.fullmatch(text)
    if match is None or int(match[2]) >= 2**256:
        raise IntentInputError(
            f"number {index} is no call",
            field=field,
            fix="write TO:WEI:DATA, such as 0x…40 digits:0:0xa9059cbb…",
        )
    return Execution(_parsed(field, parse_address, match[1]), int(match[2]), bytes.fromhex(match[3][2:]))


def parse_instant(value: object, *, field: str) -> int:
    """Unix seconds, of a number or text: ``2026-01-31T12:00:00Z``, or unix seconds. Raises InputError."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        seconds = int(text)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise IntentInputError(
                f"{str(value)[:_SHOWN]!r} is no time with a zone",
                field=field,
                fix="write 2026-01-31T12:00:00Z, or unix seconds",
            )
        seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if not 0 < seconds <= _LAST_S:
        raise IntentInputError(
            f"{text[:_SHOWN]!r} is not between 1970 and the year 9999",
            field=field,
            fix="write 2026-01-31T12:00:00Z, or unix seconds (not milliseconds)",
        )
    return seconds


def _what(
    request: Mapping[str, Any], session: RegisteredSession, find: FindSession
) -> tuple[tuple[Execution, ...], Trade | None, str]:
    """Calls, trade and words of what is asked for: a transfer, calls, or a trade with or without calls."""
    transfer = [name for name in ("to", "amount", "token") if request.get(name) is not None]
    others = [name for name in ("calls", "trade") if request.get(name) is not None]
    if transfer and others:
        raise IntentInputError(
            "cannot go with to, amount and token", field=others[0], fix="give one or the other"
        )
    if not others:
        calls, what = transfer_calls(
            token_table(session.chain_id),
            session.account,
            to=request.get("to"),
            amount=request.get("amount"),
            token=request.get("token"),
        )
        return calls, None, what
    if request.get("trade") is None:
        return _calls(request.get("calls", ())), None, ""
    trade = read_trade(request["trade"], session, find)
    return _calls(request.get("calls") or ()), trade, trade_in_words(trade, session)


def _calls(value: object) -> tuple[Execution, ...]:
    if not isinstance(value, list | tuple):
        raise IntentInputError(
            "is no list", field="calls", fix='write [{"to": "0x…", "value": "0", "data": "0x…"}]'
        )
    return tuple(_call(item, index) for index, item in enumerate(cast("Sequence[object]", value)))


def _call(item: object, index: int) -> Execution:
    at = f"calls[{index}]"
    if isinstance(item, Execution):
        return item
    if isinstance(item, str):
        return parse_call(item, index)
    if not isinstance(item, Mapping):
        raise IntentInputError("is no call", field=at, fix='write {"to": "0x…", "value": "0", "data": "0x…"}')
    given = cast("Mapping[str, object]", item)
    for name in given:
        if name not in _CALL_MEMBERS:
            raise IntentInputError(
                "is no member of a call",
                field=f"{at}.{ascii(name)[1:-1][:_SHOWN]}",
                fix="known: to, value, data",
            )
    return Execution(
        _parsed(f"{at}.to", parse_address, given.get("to")),
        _parsed(f"{at}.value", lambda found: parse_uint(found, 256), given.get("value", "0")),
        _parsed(f"{at}.data", parse_bytes, given.get("data", "0x")),
    )


def _amount(tokens: TokenTable, amount: object, token: object) -> Amount:
    if token is None:
        try:
            return parse_human(amount, tokens, field="amount")
        except AmountError as error:
            error.field = "amount"
            raise
    if not isinstance(token, str):
        raise IntentInputError("is no text", field="token", fix="give a symbol or an address")
    coin = tokens(token)
    if isinstance(amount, str) and " " in amount.strip():
        raise IntentInputError(
            "names a token, as token does", field="amount", fix="give the number, or leave token out"
        )
    return Amount(parse_amount(amount, token=coin, field="amount"), coin)


def _text(request: Mapping[str, Any], name: str, *, needed: bool = False) -> str:
    value = request.get(name)
    if value is None and needed:
        raise IntentInputError("is missing", field=name, fix="give it")
    if value is not None and not isinstance(value, str):
        raise IntentInputError("is no text", field=name, fix="write it in quotes")
    return value or ""


def _flag(request: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = request.get(name)
    if value is not None and not isinstance(value, bool):
        raise IntentInputError("is neither true nor false", field=name, fix="write true or false")
    return default if value is None else value


def _parsed(field: str, parse: Callable[[Any], _T], value: object) -> _T:
    try:
        return parse(value)
    except ValueError as error:
        # the parsers say after a colon what to do
        message, _, fix = str(error).partition(": ")
        shown = f"{value[:_SHOWN]!r} " if isinstance(value, str) else ""
        raise IntentInputError(shown + message, field=field, fix=fix or "see docs/enqueue.md") from None
