"""The ``2026-01.alps`` wire version, which SDK 1.15 speaks (protocol: orchestrator.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, cast
from urllib.parse import quote as url_quote

from worker.errors import InputError
from worker.orchestrator import exact_json
from worker.orchestrator.errors import (
    AuthError,
    ConflictError,
    NoRouteError,
    NotFoundError,
    RateLimitedError,
    ReplyError,
    RequestRefusedError,
    SimulationFailedError,
    UnavailableError,
)
from worker.orchestrator.http import HttpClient, Reply, check_url
from worker.orchestrator.port import IntentStatus, Quote, SubmitResult

API_VERSION = "2026-01.alps"

#: Below 500 the first message of the error envelope decides the class; these are the texts that it is looked for.
_NO_ROUTE = (
    "No Path Found",
    "No valid settlement plan found",
    "No valid transfers sent for settlement quotes",
    "Could not retrieve a valid quote",
    "No aggregators available for swap",
)
_AUTH = ("Authentication is required", "Invalid API key", "Insufficient permissions", "Emissary is not")
_NOT_FOUND = ("Order bundle not found", "No such intent with nonce")
#: Statuses below 500 by which a server or a gateway gives up on a request without judging it.
_GAVE_UP = (408, 425)
#: Printable ASCII without blanks: what an HTTP header carries unchanged.
_HEADER_WORD = re.compile(r"[!-~]*")
_MAX_TEXT = 300
_MAX_ID = 200


class AlpsOrchestrator:
    """An orchestrator that speaks alps.

    Args:
        base_url: https, or http on loopback.
        api_key: sent as ``x-api-key``.
        timeout_ms: bound on one exchange.

    Raises:
        InputError: the URL or the key cannot be used; shows neither.
    """

    def __init__(self, base_url: str, *, api_key: str, timeout_ms: int) -> None:
        if not _HEADER_WORD.fullmatch(api_key):
            raise InputError(
                "holds a blank, a line end or a character beyond ASCII",
                field="SESSION_EXECUTOR_ORCHESTRATOR_API_KEY",
                fix="copy the key again, without what surrounds it",
            )
        self._api_key = api_key
        self._http = HttpClient(
            check_url(base_url, field="SESSION_EXECUTOR_ORCHESTRATOR_URL"),
            headers={
                "content-type": "application/json",
                "x-api-key": api_key,
                # SDK 1.15 leaves this out on submit and lives on the default; we always say it
                "x-api-version": API_VERSION,
            },
            timeout_ms=timeout_ms,
        )

    def quote(self, request: Mapping[str, Any]) -> Quote:
        """POST /intents/route. Raises OrchestratorError subclasses."""
        body = json.dumps(request, separators=(",", ":"), allow_nan=False)
        reply = self._http.request("POST", "/intents/route", body)
        text, value = self._object(reply, expect=200)
        try:
            intent_op = value["intentOp"]
            cost = value.get("intentCost", {})
            if not isinstance(intent_op, dict) or not isinstance(cost, dict):
                raise self._unreadable(reply, "intentOp and intentCost must be objects")
            op = cast("dict[str, Any]", intent_op)
            return Quote(
                quote_id=self._integer_text(reply, op["nonce"], "intentOp.nonce"),
                expires_s=int(self._integer_text(reply, op["expires"], "intentOp.expires")),
                raw=exact_json.member_text(text, "intentOp"),
                intent_op=op,
                cost=cast("dict[str, Any]", cost),
            )
        except KeyError as error:
            raise self._unreadable(reply, f"the route has no {error.args[0]}") from None

    def submit(self, body: str) -> SubmitResult:
        """POST /intent-operations, the body byte for byte. The id is ``""`` when the reply has none that can be used.

        Raises:
            NeverSentError, RateLimitedError: certainly not accepted; the same bytes may be sent again.
            MaybeSentError, UnavailableError, ReplyError: may have been accepted.
            Other OrchestratorError: refused.
        """
        reply = self._http.request("POST", "/intent-operations", body)
        _, value = self._object(reply, expect=201)
        result = value.get("result")
        if not isinstance(result, dict):
            raise self._unreadable(reply, "the submit reply has no result")
        fields = cast("dict[str, Any]", result)
        status = fields.get("status")
        if not isinstance(status, str):
            raise self._unreadable(reply, "the submit reply has no status")
        return SubmitResult(intent_id=_usable_id(fields.get("id")), status=status)

    def status(self, intent_id: str) -> IntentStatus:
        """GET /intent-operation/{id}; the id may be the quote's nonce. Raises OrchestratorError subclasses."""
        reply = self._http.request("GET", f"/intent-operation/{url_quote(intent_id, safe='')}")
        _, value = self._object(reply, expect=200)
        if value.get("status") is None:
            raise self._unreadable(reply, "the status reply has no status")
        fill = value.get("fillTransactionHash")
        return IntentStatus(
            status=self._line(str(value["status"])),
            fill_tx_hash=fill if isinstance(fill, str) else "",
            raw=value,
        )

    def check(self) -> str:
        """Ask for an account's portfolio with our key, since GET /chains needs none.

        An orchestrator that refuses the question itself (400, 404, 422 with its own error envelope) has let our key in.

        Raises:
            OrchestratorError: not reachable, does not accept the key, or is no orchestrator.
        """
        reply = self._http.request("GET", "/accounts/0x0000000000000000000000000000000000000000/portfolio")
        if reply.status not in (400, 404, 422):
            self._object(reply, expect=200)
        elif not _messages(reply)[0]:
            raise self._unreadable(reply, f"HTTP {reply.status} without the API's error envelope")
        return f"answers with our key ({API_VERSION})"

    def close(self) -> None:
        """Close the connection pool."""
        self._http.close()

    def _object(self, reply: Reply, *, expect: Literal[200, 201]) -> tuple[str, dict[str, Any]]:
        """The reply's text and the JSON object in it, or the error that the reply stands for."""
        if reply.status >= 300:
            self._raise_for(reply)
        text, value, why = "", None, ""
        try:
            text = reply.body.decode("utf-8")
            value = exact_json.loads(text)
        except UnicodeDecodeError:
            why = "the reply is not UTF-8"
        except ValueError as error:
            why = f"not JSON as we need it: {error}"
        if why:  # raised out here so that it carries no context: the decoder's errors hold the document
            raise self._unreadable(reply, why)
        if not isinstance(value, dict):
            raise self._unreadable(reply, "the reply is no object")
        if reply.status != expect:
            raise self._unreadable(reply, f"HTTP {reply.status} where {expect} was expected")
        return text, cast("dict[str, Any]", value)

    def _unreadable(self, reply: Reply, why: str) -> ReplyError:
        return ReplyError(
            self._line(why),
            fix="check that SESSION_EXECUTOR_ORCHESTRATOR_URL is an orchestrator that speaks this version",
            trace_id=self._line(reply.trace_id),
        )

    def _integer_text(self, reply: Reply, value: Any, field: str) -> str:
        # ids and deadlines come as a string or as a number; both are kept as decimal text
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,77}", value, re.ASCII):
            return value
        raise self._unreadable(reply, f"{field} is no decimal integer")

    def _line(self, text: str) -> str:
        """Text of the service's as we may show it: one printable line, shortened, without our key."""
        if self._api_key:
            text = text.replace(self._api_key, "***")
        line = "".join(letter if letter.isprintable() else " " for letter in text)
        return " ".join(line.split())[:_MAX_TEXT]

    def _raise_for(self, reply: Reply) -> NoReturn:
        """Turn an error reply into its class: 429 and 5xx by status, then by the first message, then by status.

        A 5xx is never taken for a refusal, whatever it says: it may come from a gateway after the request was
        acted on.
        """
        messages, trace = _messages(reply)
        trace = self._line(trace)
        first = messages[0] if messages else ""
        text = self._line("; ".join(messages))
        words = f"HTTP {reply.status}" + (f": {text}" if text else "")
        if reply.status == 429:
            raise RateLimitedError(words, retry_after_ms=reply.retry_after_ms, trace_id=trace)
        if reply.status >= 500 or reply.status in _GAVE_UP:
            raise UnavailableError(
                words, status=reply.status, retry_after_ms=reply.retry_after_ms, trace_id=trace
            )
        if reply.status < 400:
            raise RequestRefusedError(
                f"HTTP {reply.status}: a redirect is not followed, the API key must not travel",
                field="SESSION_EXECUTOR_ORCHESTRATOR_URL",
                fix="set the final URL",
                trace_id=trace,
            )
        if any(known in first for known in _NO_ROUTE):
            raise NoRouteError(words, trace_id=trace)
        if "Bundle simulation failed" in first:
            raise SimulationFailedError(
                words, fix="see the trace id; a policy revert repeats", trace_id=trace
            )
        if any(known in first for known in _NOT_FOUND):
            raise NotFoundError(words, trace_id=trace)
        if reply.status in (401, 403) or any(known in first for known in _AUTH):
            raise AuthError(
                words,
                field="SESSION_EXECUTOR_ORCHESTRATOR_API_KEY",
                fix="set a key that may do this; for an emissary message install the module on the account",
                trace_id=trace,
            )
        if reply.status == 404:
            raise NotFoundError(words, trace_id=trace)
        if reply.status == 409:
            raise ConflictError(words, trace_id=trace)
        raise RequestRefusedError(words, trace_id=trace)


def _usable_id(value: Any) -> str:
    # it becomes part of a path: what is no plain id is left out, and the quote's nonce serves instead
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and re.fullmatch(rf"[0-9A-Za-z_-]{{1,{_MAX_ID}}}", text):
        return text
    return ""


def _messages(reply: Reply) -> tuple[list[str], str]:
    """The messages of an error reply (top-level one first), and its trace id: none when it is no error envelope."""
    try:
        value = exact_json.loads(reply.body.decode("utf-8"))
    except ValueError:
        return [], reply.trace_id
    if not isinstance(value, dict):
        return [], reply.trace_id
    body = cast("dict[str, Any]", value)
    found: list[str] = []
    if isinstance(body.get("message"), str):
        found.append(body["message"])
    errors = body.get("errors")
    if isinstance(errors, list):
        found.extend(
            entry["message"]
            for entry in cast("list[Any]", errors)
            if isinstance(entry, dict) and isinstance(entry.get("message"), str)
        )
    # the split endpoint names its refusals in this field
    if isinstance(body.get("error"), str):
        found.append(body["error"])
    trace = body.get("traceId")
    return found, trace if isinstance(trace, str) else reply.trace_id
