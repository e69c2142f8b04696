"""The ``2026-04.blanc`` wire version, which SDK v2 speaks (protocol: orchestrator.md 6 to 8)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast
from urllib.parse import quote as url_quote

from worker.orchestrator import exact_json
from worker.orchestrator.catalog import Portfolio, Splits, blanc_filter, blanc_portfolio
from worker.orchestrator.client import Client, usable_id
from worker.orchestrator.errors import (
    AuthError,
    ConflictError,
    NoRouteError,
    NotFoundError,
    OrchestratorError,
    RateLimitedError,
    RequestRefusedError,
    SimulationFailedError,
    UnavailableError,
)
from worker.orchestrator.http import Reply
from worker.orchestrator.port import ApiVersion, IntentStatus, Quote, SubmitResult

API_VERSION: ApiVersion = "2026-04.blanc"

#: ``code`` of the error envelope -> class. 429 and 5xx are decided by the status before this is looked at.
_CODES: dict[str, type[OrchestratorError]] = {
    "VALIDATION_ERROR": RequestRefusedError,
    "UNPROCESSABLE_CONTENT": RequestRefusedError,
    "INSUFFICIENT_LIQUIDITY": RequestRefusedError,
    "SIMULATION_FAILED": SimulationFailedError,
    "UNAUTHORIZED": AuthError,
    "FORBIDDEN": AuthError,
    "KEY_SCOPE_DENIED": AuthError,
    "NOT_FOUND": NotFoundError,
    "CONFLICT": ConflictError,
    "WITHDRAWAL_IN_PROGRESS": ConflictError,
    "TOO_MANY_REQUESTS": RateLimitedError,
    "SETTLEMENT_QUOTE_ERROR": UnavailableError,
    "SETTLEMENT_EXECUTION_ERROR": UnavailableError,
    "RELAYER_MARKET_UNAVAILABLE": UnavailableError,
    "EXTERNAL_SERVICE_TIMEOUT": UnavailableError,
    "INTERNAL_ERROR": UnavailableError,
}
#: Without a code that we know the status decides (v2 would take any such reply for INTERNAL_ERROR).
_STATUSES: dict[int, type[OrchestratorError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    409: ConflictError,
}


class BlancOrchestrator(Client):
    """An orchestrator that speaks blanc. See ``Client`` for what it is made with."""

    VERSION = API_VERSION

    def quote(self, request: Mapping[str, Any]) -> Quote:
        """POST /quotes; the first route, which is the best. Raises OrchestratorError subclasses."""
        body = json.dumps(request, separators=(",", ":"), allow_nan=False)
        reply = self.exchange("POST", "/quotes", body)
        text, value = self.object(reply, expect=200)
        routes = value.get("routes")
        if not isinstance(routes, list):
            raise self.unreadable(reply, "routes must be a list")
        if not routes:
            raise NoRouteError("the quote has no route", trace_id=self.line(reply.trace_id))
        route, raw = (
            cast("list[Any]", routes)[0],
            exact_json.first_item_text(exact_json.member_text(text, "routes")),
        )
        if not isinstance(route, dict):
            raise self.unreadable(reply, "routes[0] must be an object")
        fields = cast("dict[str, Any]", route)
        try:
            cost = fields["cost"]
            if not isinstance(cost, dict):
                raise self.unreadable(reply, "routes[0].cost must be an object")
            return Quote(
                quote_id=self.integer_text(reply, fields["intentId"], "routes[0].intentId"),
                expires_s=int(self.integer_text(reply, fields["expiresAt"], "routes[0].expiresAt")),
                raw=raw,
                intent_op=fields,
                cost=cast("dict[str, Any]", cost),
                version=API_VERSION,
            )
        except KeyError as error:
            raise self.unreadable(reply, f"routes[0] has no {error.args[0]}") from None

    def submit(self, body: str, *, intent_digest: str = "") -> SubmitResult:
        """POST /intents, the body byte for byte. A failed simulation is an error in this version.

        Raises:
            NeverSentError, RateLimitedError: certainly not accepted; the same bytes may be sent again.
            MaybeSentError, UnavailableError, ReplyError: may have been accepted; ReplyError also when the reply
                names another intent.
            Other OrchestratorError: refused.
        """
        reply = self.exchange("POST", "/intents", body, intent_digest=intent_digest)
        _, value = self.object(reply, expect=201)
        intent_id = usable_id(value.get("intentId"))
        if not intent_id or intent_id != _sent_id(body):
            raise self.unreadable(reply, "the submit reply does not name the intent that was sent")
        return SubmitResult(intent_id=intent_id, status="PENDING")

    def status(self, intent_id: str) -> IntentStatus:
        """GET /intents/{id}. Raises OrchestratorError subclasses."""
        reply = self.exchange("GET", f"/intents/{url_quote(intent_id, safe='')}")
        _, value = self.object(reply, expect=200)
        if value.get("status") is None:
            raise self.unreadable(reply, "the status reply has no status")
        return IntentStatus(
            status=self.line(str(value["status"])), fill_tx_hash=_fill_tx_hash(value), raw=value
        )

    def portfolio(
        self, account: str, *, chains: Sequence[int] = (), tokens: Sequence[tuple[int, str]] = ()
    ) -> Portfolio:
        """GET /accounts/{account}/portfolio. Raises OrchestratorError subclasses."""
        path = f"/accounts/{url_quote(account, safe='')}/portfolio{blanc_filter(chains, tokens)}"
        return self.read(self.exchange("GET", path), blanc_portfolio)

    def splits(self, chain_id: int, tokens: Mapping[str, int], *, layers: Sequence[str] = ()) -> Splits:
        """POST /intents/splits.

        Raises:
            InsufficientLiquidityError: not all of it can be filled.
            OrchestratorError
        """
        body: dict[str, Any] = {
            "chainId": f"eip155:{chain_id}",
            "tokens": {token: str(amount) for token, amount in tokens.items()},
        }
        if layers:
            body["settlementLayers"] = list(layers)
        return self.splits_at("/intents/splits", body)

    def has_envelope(self, reply: Reply) -> bool:
        """Whether an error reply carries a code."""
        return bool(_envelope(reply).get("code"))

    def raise_for(self, reply: Reply) -> NoReturn:
        """Turn an error reply into its class: 429 and 5xx by status, then by code, then by status."""
        body = _envelope(reply)
        code, message, trace = (_text(body.get(name)) for name in ("code", "message", "traceId"))
        trace = self.line(trace or reply.trace_id)
        text = self.line(": ".join(part for part in (code, message, *_details(body)) if part))
        words = f"HTTP {reply.status}" + (f": {text}" if text else "")
        self.raise_by_status(reply, words, trace)
        kind = _CODES.get(code) or _STATUSES.get(reply.status, RequestRefusedError)
        if kind is RateLimitedError:
            raise RateLimitedError(words, retry_after_ms=reply.retry_after_ms, trace_id=trace)
        if kind is UnavailableError:
            raise UnavailableError(
                words, status=reply.status, retry_after_ms=reply.retry_after_ms, trace_id=trace
            )
        if kind is AuthError:
            raise AuthError(words, field=self.auth_field, fix=self.auth_fix, trace_id=trace)
        if kind is SimulationFailedError:
            raise SimulationFailedError(
                words, fix="see the trace id; a policy revert repeats", trace_id=trace
            )
        raise kind(words, trace_id=trace)


def _sent_id(body: str) -> str:
    try:
        value = exact_json.loads(body)
    except ValueError:
        return ""
    return _text(cast("dict[str, Any]", value).get("intentId")) if isinstance(value, dict) else ""


def _fill_tx_hash(value: Mapping[str, Any]) -> str:
    """The transaction of the FILL among ``operations[].items[]``; ``""`` while there is none."""
    for operation in _objects(value.get("operations")):
        for item in _objects(operation.get("items")):
            if item.get("type") == "FILL" and _text(item.get("txHash")):
                return _text(item["txHash"])
    return ""


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [cast("dict[str, Any]", item) for item in cast("list[Any]", value) if isinstance(item, dict)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _envelope(reply: Reply) -> dict[str, Any]:
    """``{code, message, traceId?, details?}``, or empty when the reply is no such object."""
    try:
        value = exact_json.loads(reply.body.decode("utf-8"))
    except ValueError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _details(body: Mapping[str, Any]) -> list[str]:
    """The words of ``details`` that say why: messages of a list, category and hint of a failed simulation."""
    details = body.get("details")
    if isinstance(details, dict):
        fields = cast("dict[str, Any]", details)
        return [_text(fields.get(name)) for name in ("category", "errorName", "retryHint")]
    return [_text(entry.get("message")) for entry in _objects(details)]
