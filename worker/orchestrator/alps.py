"""The ``2026-01.alps`` wire version, which SDK 1.15 speaks (protocol: orchestrator.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, cast
from urllib.parse import quote as url_quote

from worker.orchestrator import exact_json
from worker.orchestrator.errors import (
    AuthError,
    ConflictError,
    NoRouteError,
    NotFoundError,
    OrchestratorError,
    RateLimitedError,
    ReplyError,
    RequestRefusedError,
    SimulationFailedError,
    UnavailableError,
)
from worker.orchestrator.http import HttpClient, Reply, check_url
from worker.orchestrator.port import IntentStatus, Quote, SubmitResult

API_VERSION = "2026-01.alps"

#: Texts of the error envelope that decide the class, in the order in which they are looked for.
_NO_ROUTE = (
    "No Path Found",
    "No valid settlement plan found",
    "No valid transfers sent for settlement quotes",
    "Could not retrieve a valid quote",
    "No aggregators available for swap",
)
_AUTH = ("Authentication is required", "Invalid API key", "Insufficient permissions", "Emissary is not")
_NOT_FOUND = ("Order bundle not found", "No such intent with nonce")


class AlpsOrchestrator:
    """An orchestrator that speaks alps.

    Args:
        base_url: https, or http on loopback.
        api_key: sent as ``x-api-key``.
        timeout_ms: bound on one exchange.
    """

    def __init__(self, base_url: str, *, api_key: str, timeout_ms: int) -> None:
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
        body = json.dumps(request, separators=(",", ":"))
        reply = self._http.request("POST", "/intents/route", body)
        value = self._object(reply, expect=200)
        try:
            raw = exact_json.member_text(reply.text, "intentOp")
            intent_op = value["intentOp"]
            cost = value.get("intentCost", {})
            if not isinstance(intent_op, dict) or not isinstance(cost, dict):
                raise ReplyError("intentOp and intentCost must be objects")
            op = cast("dict[str, Any]", intent_op)
            return Quote(
                quote_id=_integer_text(op["nonce"], "intentOp.nonce"),
                expires_s=int(_integer_text(op["expires"], "intentOp.expires")),
                raw=raw,
                intent_op=op,
                cost=cast("dict[str, Any]", cost),
            )
        except KeyError as error:
            raise ReplyError(f"the route has no {error.args[0]}", trace_id=reply.trace_id) from None

    def submit(self, body: str) -> SubmitResult:
        """POST /intent-operations, the body byte for byte.

        Raises:
            NeverSentError, RateLimitedError: certainly not accepted; the same bytes may be sent again.
            MaybeSentError, UnavailableError, ReplyError: may have been accepted.
            Other OrchestratorError: refused.
        """
        reply = self._http.request("POST", "/intent-operations", body)
        value = self._object(reply, expect=201)
        result = value.get("result")
        if not isinstance(result, dict):
            raise ReplyError("the submit reply has no result", trace_id=reply.trace_id)
        fields = cast("dict[str, Any]", result)
        identity = fields.get("id")
        return SubmitResult(
            intent_id="" if identity is None else str(identity), status=str(fields.get("status", ""))
        )

    def status(self, intent_id: str) -> IntentStatus:
        """GET /intent-operation/{id}; the id may be the quote's nonce. Raises OrchestratorError subclasses."""
        reply = self._http.request("GET", f"/intent-operation/{url_quote(intent_id, safe='')}")
        value = self._object(reply, expect=200)
        fill = value.get("fillTransactionHash")
        return IntentStatus(
            status=str(value.get("status")), fill_tx_hash=fill if isinstance(fill, str) else "", raw=value
        )

    def check(self) -> str:
        """Ask for an account's portfolio with our key, since GET /chains needs none."""
        try:
            reply = self._http.request(
                "GET", "/accounts/0x0000000000000000000000000000000000000000/portfolio"
            )
            if reply.status in (401, 403) or reply.status >= 500:
                self._object(reply, expect=200)
        except OrchestratorError as error:
            error.field = "orchestrator"
            raise
        return f"answers with our key ({API_VERSION})"

    def close(self) -> None:
        """Close the connection pool."""
        self._http.close()

    def _object(self, reply: Reply, *, expect: Literal[200, 201]) -> dict[str, Any]:
        if reply.status not in (200, 201):
            _raise_for(reply)
        try:
            value = exact_json.loads(reply.text)
        except ValueError as error:
            raise ReplyError(f"not JSON as we need it: {error}", trace_id=reply.trace_id) from None
        if not isinstance(value, dict):
            raise ReplyError("the reply is no object", trace_id=reply.trace_id)
        if reply.status != expect:
            raise ReplyError(f"HTTP {reply.status} where {expect} was expected", trace_id=reply.trace_id)
        return cast("dict[str, Any]", value)


def _integer_text(value: Any, field: str) -> str:
    # ids and deadlines come as a string or as a number; both are kept as decimal text
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,77}", value, re.ASCII):
        return value
    raise ReplyError(f"{field} is no decimal integer")


def _messages(reply: Reply) -> tuple[list[str], str]:
    try:
        value = exact_json.loads(reply.text)
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
    trace = body.get("traceId")
    return found, trace if isinstance(trace, str) else reply.trace_id


def _raise_for(reply: Reply) -> NoReturn:
    """Turn an error reply into its class: 429 and 5xx by status first, then by text, then by status."""
    messages, trace = _messages(reply)
    text = " ".join("; ".join(messages).split())[:300]
    words = f"HTTP {reply.status}" + (f": {text}" if text else "")
    if reply.status == 429:
        raise RateLimitedError(words, retry_after_ms=reply.retry_after_ms, trace_id=trace)
    if 300 <= reply.status < 400:
        raise RequestRefusedError(
            f"HTTP {reply.status}: a redirect is not followed, the API key must not travel",
            field="SESSION_EXECUTOR_ORCHESTRATOR_URL",
            fix="set the final URL",
            trace_id=trace,
        )
    if any(known in text for known in _NO_ROUTE):
        raise NoRouteError(words, trace_id=trace)
    if reply.status >= 500:
        raise UnavailableError(
            words, status=reply.status, retry_after_ms=reply.retry_after_ms, trace_id=trace
        )
    if "Bundle simulation failed" in text:
        raise SimulationFailedError(words, fix="see the trace id; a policy revert repeats", trace_id=trace)
    if any(known in text for known in _NOT_FOUND):
        raise NotFoundError(words, trace_id=trace)
    if reply.status in (401, 403) or any(known in text for known in _AUTH):
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
