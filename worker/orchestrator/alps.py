"""The ``2026-01.alps`` wire version, which SDK 1.15 speaks (protocol: orchestrator.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast
from urllib.parse import quote as url_quote

from worker.orchestrator import exact_json
from worker.orchestrator.catalog import Portfolio, Splits, alps_filter, alps_portfolio
from worker.orchestrator.client import Client, usable_id
from worker.orchestrator.errors import (
    AuthError,
    ConflictError,
    NoRouteError,
    NotFoundError,
    RequestRefusedError,
    SimulationFailedError,
)
from worker.orchestrator.http import Reply
from worker.orchestrator.port import ApiVersion, IntentStatus, Quote, SubmitResult

API_VERSION: ApiVersion = "2026-01.alps"

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


class AlpsOrchestrator(Client):
    """An orchestrator that speaks alps. See ``Client`` for what it is made with."""

    VERSION = API_VERSION

    def quote(self, request: Mapping[str, Any]) -> Quote:
        """POST /intents/route. Raises OrchestratorError subclasses."""
        body = json.dumps(request, separators=(",", ":"), allow_nan=False)
        reply = self.exchange("POST", "/intents/route", body)
        text, value = self.object(reply, expect=200)
        try:
            intent_op = value["intentOp"]
            cost = value.get("intentCost", {})
            if not isinstance(intent_op, dict) or not isinstance(cost, dict):
                raise self.unreadable(reply, "intentOp and intentCost must be objects")
            op = cast("dict[str, Any]", intent_op)
            return Quote(
                quote_id=self.integer_text(reply, op["nonce"], "intentOp.nonce"),
                expires_s=int(self.integer_text(reply, op["expires"], "intentOp.expires")),
                raw=exact_json.member_text(text, "intentOp"),
                intent_op=op,
                cost=cast("dict[str, Any]", cost),
            )
        except KeyError as error:
            raise self.unreadable(reply, f"the route has no {error.args[0]}") from None

    def submit(self, body: str, *, intent_digest: str = "") -> SubmitResult:
        """POST /intent-operations, the body byte for byte. The id is ``""`` when the reply has none that can be used.

        Raises:
            NeverSentError, RateLimitedError: certainly not accepted; the same bytes may be sent again.
            MaybeSentError, UnavailableError, ReplyError: may have been accepted.
            Other OrchestratorError: refused.
        """
        reply = self.exchange("POST", "/intent-operations", body, intent_digest=intent_digest)
        _, value = self.object(reply, expect=201)
        result = value.get("result")
        if not isinstance(result, dict):
            raise self.unreadable(reply, "the submit reply has no result")
        fields = cast("dict[str, Any]", result)
        status = fields.get("status")
        if not isinstance(status, str):
            raise self.unreadable(reply, "the submit reply has no status")
        return SubmitResult(intent_id=usable_id(fields.get("id")), status=status)

    def status(self, intent_id: str) -> IntentStatus:
        """GET /intent-operation/{id}; the id may be the quote's nonce. Raises OrchestratorError subclasses."""
        reply = self.exchange("GET", f"/intent-operation/{url_quote(intent_id, safe='')}")
        _, value = self.object(reply, expect=200)
        if value.get("status") is None:
            raise self.unreadable(reply, "the status reply has no status")
        fill = value.get("fillTransactionHash")
        return IntentStatus(
            status=self.line(str(value["status"])),
            fill_tx_hash=fill if isinstance(fill, str) else "",
            raw=value,
        )

    def portfolio(
        self, account: str, *, chains: Sequence[int] = (), tokens: Sequence[tuple[int, str]] = ()
    ) -> Portfolio:
        """GET /accounts/{account}/portfolio. Raises OrchestratorError subclasses."""
        path = f"/accounts/{url_quote(account, safe='')}/portfolio{alps_filter(chains, tokens)}"
        return self.read(self.exchange("GET", path), alps_portfolio)

    def splits(self, chain_id: int, tokens: Mapping[str, int], *, layers: Sequence[str] = ()) -> Splits:
        """POST /intents/split.

        Raises:
            InsufficientLiquidityError: not all of it can be filled.
            OrchestratorError
        """
        body: dict[str, Any] = {
            "chainId": chain_id,
            "tokens": {token: str(amount) for token, amount in tokens.items()},
        }
        if layers:
            body["settlementLayers"] = list(layers)
        return self.splits_at("/intents/split", body)

    def has_envelope(self, reply: Reply) -> bool:
        """Whether an error reply carries a message where alps has it."""
        return bool(_messages(reply)[0])

    def raise_for(self, reply: Reply) -> NoReturn:
        """Turn an error reply into its class: 429 and 5xx by status, then by the first message, then by status.

        A 5xx is never taken for a refusal, whatever it says: it may come from a gateway after the request was
        acted on.
        """
        messages, trace = _messages(reply)
        trace = self.line(trace)
        first = messages[0] if messages else ""
        text = self.line("; ".join(messages))
        words = f"HTTP {reply.status}" + (f": {text}" if text else "")
        self.raise_by_status(reply, words, trace)
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
                field=self.auth_field,
                fix=f"{self.auth_fix}; for an emissary message install the module on the account",
                trace_id=trace,
            )
        if reply.status == 404:
            raise NotFoundError(words, trace_id=trace)
        if reply.status == 409:
            raise ConflictError(words, trace_id=trace)
        raise RequestRefusedError(words, trace_id=trace)


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
