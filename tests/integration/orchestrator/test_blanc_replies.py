"""What each reply of blanc means, what goes out, and that the reply's text is kept as it came."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.support.openapi import load_openapi
from tests.support.raw_http import RawServer, answers, raw_http, reply
from worker.devnet.devnet import Devnet
from worker.orchestrator.blanc import BlancOrchestrator
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

pytest_plugins = ["tests.support.anvil"]

API_KEY = "api-key-for-tests-5e1f"
BODY = '{"intentId":"7","signatures":{}}'

CALLS: dict[str, Callable[[BlancOrchestrator], object]] = {
    "quote": lambda o: o.quote({}),
    "submit": lambda o: o.submit(BODY),
    "status": lambda o: o.status("7"),
}
OF_CODE: dict[str, type[OrchestratorError]] = {
    "VALIDATION_ERROR": RequestRefusedError,
    "SIMULATION_FAILED": SimulationFailedError,
    "INSUFFICIENT_LIQUIDITY": RequestRefusedError,
    "UNPROCESSABLE_CONTENT": RequestRefusedError,
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
#: (status, body, class): where the status decides, because there is no code that we know, or against the code.
BY_STATUS: list[tuple[int, Any, type[OrchestratorError]]] = [
    (400, b"", RequestRefusedError),
    (400, b"<html>", RequestRefusedError),
    (400, {"code": "OF_TOMORROW", "message": "x"}, RequestRefusedError),
    (400, {"code": 7}, RequestRefusedError),
    (400, [1], RequestRefusedError),
    (401, b"", AuthError),
    (403, b"<html>", AuthError),
    (404, b"", NotFoundError),
    (408, b"", UnavailableError),
    (409, {}, ConflictError),
    (429, {"code": "NOT_FOUND"}, RateLimitedError),
    (500, {"code": "NOT_FOUND"}, UnavailableError),
    (502, {"code": "VALIDATION_ERROR"}, UnavailableError),
    (503, {"code": "SIMULATION_FAILED"}, UnavailableError),
    (504, {"code": "TOO_MANY_REQUESTS"}, UnavailableError),
    (302, b"", RequestRefusedError),
]


ROUTE = (
    '{"intentId": "18446744073709551617", "expiresAt":1700000000, "price":1e-7, "cost" : {"input":[]},'
    ' "signData":{"nonce":"115792089237316195423570985008687907853269984665640564039457584007913129639935"}}'
)


@contextmanager
def _talk(
    status: int, body: Any, headers: dict[str, str] | None = None
) -> Generator[tuple[BlancOrchestrator, RawServer]]:
    """A client, and the server that gives it one reply for ever."""
    with raw_http(answers(reply(status, body, headers))) as server:
        orchestrator = BlancOrchestrator(server.url + "/base/", api_key=API_KEY, timeout_ms=5_000)
        yield orchestrator, server
        orchestrator.close()


def _caught(call: str, status: int, body: Any, headers: dict[str, str] | None = None) -> OrchestratorError:
    with _talk(status, body, headers) as (orchestrator, _), pytest.raises(OrchestratorError) as caught:
        CALLS[call](orchestrator)
    assert API_KEY not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("code", "kind"), OF_CODE.items())
def test_the_code_decides_the_class(call: str, code: str, kind: type[OrchestratorError]) -> None:
    error = _caught(call, 400, {"code": code, "message": f"because {API_KEY}", "traceId": "tr"})
    assert type(error) is kind
    assert str(error).startswith(
        ("orchestrator: HTTP 400: ", "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY: HTTP 400: ")
    )
    assert code in str(error)
    assert "because ***" in str(error)
    assert error.trace_id == "tr"


def test_every_code_of_the_published_description_is_known() -> None:
    operation = load_openapi("blanc")["paths"]["/intents"]["post"]
    shapes = operation["responses"]["400"]["content"]["application/json"]["schema"]["oneOf"]
    assert {code for shape in shapes for code in shape["properties"]["code"]["enum"]} == set(OF_CODE)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("status", "body", "kind"), BY_STATUS)
def test_without_a_code_and_for_429_and_5xx_the_status_decides(
    call: str, status: int, body: Any, kind: type[OrchestratorError]
) -> None:
    assert type(_caught(call, status, body)) is kind


def test_why_is_in_the_message() -> None:
    details = {
        "category": "INVALID_SIGNATURE",
        "errorName": "BadSig",
        "retryHint": "RE_PREPARE",
        "retryable": True,
    }
    failed = _caught("submit", 400, {"code": "SIMULATION_FAILED", "message": "m", "details": details})
    assert "SIMULATION_FAILED: m: INVALID_SIGNATURE: BadSig: RE_PREPARE" in str(failed)
    listed = {"code": "VALIDATION_ERROR", "message": "m", "details": [{"message": "account.address"}, 7]}
    assert "VALIDATION_ERROR: m: account.address" in str(_caught("quote", 400, listed))


def test_retry_after_is_read() -> None:
    error = _caught("status", 429, {"code": "TOO_MANY_REQUESTS", "message": "m"}, {"Retry-After": "3"})
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_ms == 3_000


def test_headers_and_paths_of_every_call() -> None:
    lines = {"quote": "POST /base/quotes", "submit": "POST /base/intents", "status": "GET /base/intents/7"}
    for call, line in lines.items():
        with _talk(500, {}) as (orchestrator, server):
            with pytest.raises(UnavailableError):
                CALLS[call](orchestrator)
            sent = server.seen[-1].decode().lower()
        assert sent.startswith(f"{line} HTTP/1.1".lower())
        assert "\r\nx-api-version: 2026-04.blanc\r\n" in sent
        assert f"\r\nx-api-key: {API_KEY}\r\n" in sent


def test_the_first_route_is_kept_byte_for_byte() -> None:
    with _talk(200, f' {{"traceId":"t","routes" :\n[ {ROUTE} , {{"intentId":"8"}}]}}') as (orchestrator, _):
        quote = orchestrator.quote({})
    assert quote.raw == ROUTE
    assert (quote.quote_id, quote.expires_s) == ("18446744073709551617", 1_700_000_000)
    assert quote.intent_op["signData"]["nonce"] == str(2**256 - 1)
    assert quote.version == "2026-04.blanc"
    assert repr(quote) == "Quote(quote_id='18446744073709551617', expires_s=1700000000)"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"routes": {}},
        {"routes": [7]},
        {"routes": [{}]},
        {"routes": [{"intentId": "0x7", "expiresAt": 1, "cost": {}}]},
        {"routes": [{"intentId": "7", "expiresAt": 1.5, "cost": {}}]},
        {"routes": [{"intentId": "7", "expiresAt": 1, "cost": []}]},
        {"routes": [{"intentId": "7", "expiresAt": 1}]},
        b"\xff",
        b'{"routes":[],"routes":[]}',
    ],
)
def test_a_quote_that_is_none_is_not_readable(body: Any) -> None:
    assert type(_caught("quote", 200, body)) is ReplyError


def test_no_route_is_no_route() -> None:
    assert type(_caught("quote", 200, {"routes": []})) is NoRouteError


@pytest.mark.parametrize("body", [{}, {"intentId": "8"}, {"intentId": 7.5}, {"intentId": "../7"}, [], b""])
def test_a_submit_reply_about_another_intent_may_mean_anything(body: Any) -> None:
    assert type(_caught("submit", 201, body)) is ReplyError


def test_an_accepted_submit_is_pending_under_its_own_id() -> None:
    with _talk(201, {"intentId": "7", "later": True}) as (orchestrator, _):
        result = orchestrator.submit(BODY)
    assert (result.intent_id, result.status) == ("7", "PENDING")


def test_the_fills_transaction_is_found_and_unknown_words_survive() -> None:
    items = [{"type": "CLAIM", "txHash": "0x01"}, {"type": "FILL", "status": "COMPLETED", "txHash": "0x02"}]
    body = {"status": "OF_TOMORROW", "operations": [7, {"chain": 1}, {"chain": 8453, "items": items}], "x": 1}
    with _talk(200, body) as (orchestrator, _):
        status = orchestrator.status("7")
    assert (status.status, status.fill_tx_hash, status.raw["x"]) == ("OF_TOMORROW", "0x02", 1)
    with _talk(200, {"status": "PENDING"}) as (orchestrator, _):
        assert orchestrator.status("7").fill_tx_hash == ""
    assert type(_caught("status", 200, {"operations": []})) is ReplyError


class TestDevnet:
    """Against the devnet."""

    def test_our_key_is_let_in_and_another_is_not(self, devnet: Devnet) -> None:
        orchestrator = BlancOrchestrator(devnet.orchestrator_url, api_key=devnet.api_key, timeout_ms=5_000)
        assert orchestrator.check() == "answers with our key (2026-04.blanc)"
        with pytest.raises(NotFoundError):
            orchestrator.status("7")
        with pytest.raises(RequestRefusedError, match="VALIDATION_ERROR"):
            orchestrator.quote({"destinationChainId": 8453})
        with pytest.raises(NotFoundError):
            orchestrator.submit(BODY)
        stranger = BlancOrchestrator(devnet.orchestrator_url, api_key="another-key", timeout_ms=5_000)
        for ask in (stranger.check, *(partial(call, stranger) for call in CALLS.values())):
            with pytest.raises(AuthError):
                ask()
