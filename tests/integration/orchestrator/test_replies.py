"""What each reply means, and what goes out: classes, exact bytes, the key unseen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.json_text import json_number, json_object, json_string
from tests.support.raw_http import Play, RawServer, answers, closed_port, raw_http, reply
from worker.errors import ExecutorError
from worker.orchestrator import exact_json
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.errors import (
    AuthError,
    ConflictError,
    MaybeSentError,
    NeverSentError,
    NoRouteError,
    NotFoundError,
    OrchestratorError,
    RateLimitedError,
    ReplyError,
    RequestRefusedError,
    SimulationFailedError,
    UnavailableError,
)

API_KEY = "api-key-for-tests-5e1f"
Client = Callable[..., AlpsOrchestrator]
Shown = Callable[[BaseException], str]

CALLS: dict[str, Callable[[AlpsOrchestrator], object]] = {
    "quote": lambda o: o.quote({}),
    "submit": lambda o: o.submit("{}"),
    "status": lambda o: o.status("7"),
}


def _error(*messages: str) -> dict[str, Any]:
    return {"errors": [{"message": message} for message in messages], "traceId": "tr"}


#: (status, body, class): the table of errors, and what only a gateway or a later version would say.
CLASSES: list[tuple[int, Any, type[OrchestratorError]]] = [
    (400, _error("Insufficient balance"), RequestRefusedError),
    (400, _error("Unsupported chain id"), RequestRefusedError),
    (400, _error("Unsupported token ABC for chain 5"), RequestRefusedError),
    (400, _error("Only one max-out transfer is allowed"), RequestRefusedError),
    (400, _error("No Path Found"), NoRouteError),
    (400, _error("No valid settlement plan found for the given transfers"), NoRouteError),
    (400, _error("No valid transfers sent for settlement quotes"), NoRouteError),
    (400, _error("Could not retrieve a valid quote from any aggregator"), NoRouteError),
    (400, _error("No aggregators available for swap"), NoRouteError),
    (400, _error("No Path Found", "Insufficient balance"), NoRouteError),
    (400, _error("Insufficient balance", "No Path Found"), RequestRefusedError),
    (400, {"message": "Insufficient balance", **_error("No Path Found")}, RequestRefusedError),
    (400, _error("x" * 1000 + " No Path Found"), NoRouteError),
    (400, _error("Bundle simulation failed"), SimulationFailedError),
    (400, _error("Order bundle not found"), NotFoundError),
    (400, _error("Authentication is required"), AuthError),
    (400, _error(), RequestRefusedError),
    (400, b"", RequestRefusedError),
    (400, b"<html>", RequestRefusedError),
    (400, b"\xff", RequestRefusedError),
    (400, {"errors": "no list"}, RequestRefusedError),
    (400, {"errors": [None, {"message": 7}, {"message": "No Path Found"}]}, NoRouteError),
    (401, _error("Invalid API key"), AuthError),
    (401, b"", AuthError),
    (402, {}, RequestRefusedError),
    (403, _error("Emissary is not enabled"), AuthError),
    (403, b"<html>blocked</html>", AuthError),
    (404, _error("No such intent with nonce 5"), NotFoundError),
    (404, b"", NotFoundError),
    (405, {}, RequestRefusedError),
    (408, {}, UnavailableError),
    (409, {}, ConflictError),
    (413, b"", RequestRefusedError),
    (422, _error("Invalid bundle signature"), RequestRefusedError),
    (422, {"error": "INSUFFICIENT_LIQUIDITY", "availableIntents": []}, RequestRefusedError),
    (425, {}, UnavailableError),
    (429, _error("No Path Found"), RateLimitedError),
    (500, {}, UnavailableError),
    (500, _error("No aggregators available for swap"), UnavailableError),
    (500, _error("Bundle simulation failed"), UnavailableError),
    (500, _error("Invalid API key"), UnavailableError),
    (502, b"<html>Bad Gateway</html>", UnavailableError),
    (503, _error("No Path Found"), UnavailableError),
    (504, _error("Order bundle not found"), UnavailableError),
    (520, b"", UnavailableError),
    (599, b"", UnavailableError),
]

#: SDK 1.15.0's class -> ours. ``None``: by status.
FROM_SDK: dict[str, type[OrchestratorError] | None] = {
    "AuthenticationRequiredError": AuthError,
    "BadRequestError": RequestRefusedError,
    "BodyParserError": RequestRefusedError,
    "ConflictError": ConflictError,
    "ForbiddenError": AuthError,
    "InsufficientBalanceError": RequestRefusedError,
    "InternalServerError": UnavailableError,
    "IntentNotFoundError": NotFoundError,
    "InvalidApiKeyError": AuthError,
    "InvalidIntentSignatureError": RequestRefusedError,
    "NoPathFoundError": NoRouteError,
    "OnlyOneTargetTokenAmountCanBeUnsetError": RequestRefusedError,
    "OrchestratorError": None,
    "RateLimitedError": RateLimitedError,
    "ResourceNotFoundError": NotFoundError,
    "ServiceUnavailableError": UnavailableError,
    "SimulationFailedError": SimulationFailedError,
    "TokenNotSupportedError": RequestRefusedError,
    "TypeError": SimulationFailedError,  # the SDK stumbles over a simulation failure without context
    "UnauthorizedError": AuthError,
    "UnsupportedChainError": RequestRefusedError,
    "UnsupportedChainIdError": RequestRefusedError,
    "UnsupportedTokenError": RequestRefusedError,
}
BY_STATUS: dict[int, type[OrchestratorError]] = {
    400: RequestRefusedError,
    401: AuthError,
    404: NotFoundError,
    422: RequestRefusedError,
    500: UnavailableError,
    502: UnavailableError,
    504: UnavailableError,
}


def _caught(call: str, orchestrator: AlpsOrchestrator) -> OrchestratorError:
    with pytest.raises(OrchestratorError) as caught:
        CALLS[call](orchestrator)
    return caught.value


class TestClasses:
    """One class for each meaning, the same for each call."""

    def test_the_table(self, client: Client) -> None:
        replies = [reply(status, body) for status, body, _ in CLASSES]
        for call in CALLS:
            with raw_http(answers(*replies)) as server:
                orchestrator = client(server.url)
                for status, body, expected in CLASSES:
                    error = _caught(call, orchestrator)
                    assert type(error) is expected, (call, status, body)
                    assert f"HTTP {status}" in error.message
                    assert len(str(error)) < 500
                    assert str(error).isprintable()

    def test_what_the_sdk_recorded(self, client: Client, vectors: Callable[[str], Any]) -> None:
        cases: list[dict[str, Any]] = vectors("errors_alps")["vectors"]
        assert len(cases) == 48
        replies = [reply(c["status"], c.get("body", c.get("rawBody")), c.get("headers")) for c in cases]
        for call in CALLS:
            with raw_http(answers(*replies)) as server:
                orchestrator = client(server.url)
                for case in cases:
                    error = _caught(call, orchestrator)
                    expected = FROM_SDK[case["expected"]["class"]] or BY_STATUS[case["status"]]
                    assert type(error) is expected, case["name"]
                    assert error.trace_id == case.get("body", {}).get("traceId", "")
                    if isinstance(error, RateLimitedError):
                        assert error.retry_after_ms == (5_000 if "headers" in case else None)

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(
        ("header", "wait_ms"),
        [
            ("3", 3_000),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("-5", 0),
            ("abc", 0),
            ("999999", 3_600_000),
            ("Fri, 01 Jan 99999 00:00:00 GMT", 0),
        ],
    )
    def test_retry_after(self, client: Client, status: int, header: str, wait_ms: int) -> None:
        with raw_http(answers(reply(status, {}, {"Retry-After": header}))) as server:
            error = _caught("submit", client(server.url))
        assert isinstance(error, RateLimitedError | UnavailableError)
        assert error.retry_after_ms == wait_ms

    @given(
        st.integers(200, 599),
        st.one_of(
            st.binary(max_size=60),
            json_object().map(str.encode),
            st.sampled_from(
                [message for _, body, _ in CLASSES for message in [json.dumps(str(body)).encode()]]
            ),
        ),
    )
    @settings(max_examples=40, deadline=None)
    def test_any_reply_is_a_result_or_one_of_our_errors(self, status: int, body: bytes) -> None:
        with raw_http(answers(reply(status, body))) as server:
            orchestrator = AlpsOrchestrator(server.url, api_key=API_KEY, timeout_ms=5_000)
            for call in CALLS:
                error = _caught(call, orchestrator)
                if status >= 500 or status < 300:
                    # never a refusal: a submit may have been accepted (204, 304 and the like have no body)
                    assert isinstance(error, UnavailableError | ReplyError | MaybeSentError)
            orchestrator.close()


class TestRequests:
    """What goes out on each call."""

    def _sent(self, server: RawServer) -> tuple[str, dict[str, str], str]:
        head, _, body = server.seen[-1].decode().partition("\r\n\r\n")
        first, *rest = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in rest)
        return first, {name.lower(): value for name, value in headers.items()}, body

    def test_headers_of_every_call(self, client: Client) -> None:
        with raw_http(answers(reply(500, {}))) as server:
            orchestrator = client(server.url + "/base/")
            for call, line in (
                ("quote", "POST /base/intents/route HTTP/1.1"),
                ("submit", "POST /base/intent-operations HTTP/1.1"),
                ("status", "GET /base/intent-operation/7 HTTP/1.1"),
            ):
                _caught(call, orchestrator)
                first, headers, _ = self._sent(server)
                assert first == line
                assert headers["x-api-key"] == API_KEY
                assert headers["x-api-version"] == "2026-01.alps"
                assert headers["content-type"] == "application/json"

    def test_an_id_cannot_leave_its_place_in_the_path(self, client: Client) -> None:
        with raw_http(answers(reply(200, {"status": "PENDING"}))) as server:
            client(server.url).status("../chains?x=1#y")
            assert self._sent(server)[0] == "GET /intent-operation/..%2Fchains%3Fx%3D1%23y HTTP/1.1"

    def test_the_quote_request_is_exact(self, client: Client) -> None:
        request = {"tokenRequests": [{"amount": str(2**256 - 1)}], "destinationChainId": 8453, "ü": "\u2028"}
        with raw_http(answers(reply(500, {}))) as server:
            with pytest.raises(UnavailableError):
                client(server.url).quote(request)
            assert exact_json.loads(self._sent(server)[2]) == request

    def test_a_number_that_json_has_not_is_not_sent(self, client: Client) -> None:
        with raw_http(answers(reply(500, {}))) as server:
            with pytest.raises(ValueError, match="not JSON compliant"):
                client(server.url).quote({"x": float("nan")})
            assert server.connections == 0


class TestQuote:
    """A route is kept as it came."""

    @given(
        json_object(
            depth=3,
            required={
                "nonce": '"7"',
                "expires": "1700000000",
                "minGas": "1E+2",
                "1.0": "1.0",
                "n": "9007199254740993",
            },
        ),
        json_string(),
        json_number(),
    )
    @settings(max_examples=60, deadline=None)
    def test_its_text_goes_back_byte_for_byte(self, intent_op: str, text: str, number: str) -> None:
        route = f' {{"traceId":{text},"intentCost" :{{"fee":{number}}},\n"intentOp": {intent_op} }}'
        accepted = reply(201, {"result": {"id": "7", "status": "PENDING"}})
        with raw_http(answers(reply(200, route), accepted)) as server:
            orchestrator = AlpsOrchestrator(server.url, api_key=API_KEY, timeout_ms=5_000)
            quote = orchestrator.quote({})
            signed = exact_json.with_members(quote.raw, {"destinationSignature": "0x01"})
            orchestrator.submit(f'{{"signedIntentOp":{signed}}}')
            orchestrator.close()
            sent = server.bodies()[1].decode()
        assert quote.raw == intent_op
        assert quote.intent_op == exact_json.loads(intent_op)
        # what the orchestrator's HMAC covers: the text of the op without our signature
        inner = exact_json.member_text(sent, "signedIntentOp")
        assert inner.startswith(intent_op[:-1].rstrip())
        assert inner.removesuffix(',"destinationSignature":"0x01"}') == intent_op[:-1].rstrip()

    @pytest.mark.parametrize(
        ("nonce", "expires", "quote_id", "expires_s"),
        [
            ('"7"', "1700000000", "7", 1_700_000_000),
            ("7", '"1700000000"', "7", 1_700_000_000),
            (str(2**256 - 1), "0", str(2**256 - 1), 0),
            (f'"{2**256 - 1}"', '"0"', str(2**256 - 1), 0),
        ],
    )
    def test_ids_are_strings_or_numbers(
        self, client: Client, nonce: str, expires: str, quote_id: str, expires_s: int
    ) -> None:
        route = f'{{"intentOp":{{"nonce":{nonce},"expires":{expires}}}}}'
        with raw_http(answers(reply(200, route))) as server:
            quote = client(server.url).quote({})
        assert (quote.quote_id, quote.expires_s) == (quote_id, expires_s)

    @pytest.mark.parametrize(
        ("body", "names"),
        [
            ("{}", "intentOp"),
            ('{"intentOp":null}', "intentOp"),
            ('{"intentOp":[]}', "intentOp"),
            ('{"intentOp":{}}', "nonce"),
            ('{"intentOp":{"nonce":"7"}}', "expires"),
            ('{"intentOp":{"nonce":"7","expires":1},"intentCost":null}', "intentCost"),
            ('{"intentOp":{"nonce":"7","expires":1},"intentCost":[]}', "intentCost"),
            *(
                (f'{{"intentOp":{{"nonce":{bad},"expires":1}}}}', "nonce")
                for bad in ('""', "-1", "1.0", "1E+2", "true", "null", '"0x7"', '"07"', '" 7"', '"٣"', "{}")
            ),
            *(
                (f'{{"intentOp":{{"nonce":1,"expires":{bad}}}}}', "expires")
                for bad in ("1.7e9", "-1", "false", '"soon"', '"2026-01-01T00:00:00Z"')
            ),
        ],
    )
    def test_what_cannot_be_signed_is_unreadable(self, client: Client, body: str, names: str) -> None:
        with raw_http(answers(reply(200, body))) as server, pytest.raises(ReplyError, match=names):
            client(server.url).quote({})


class TestSubmit:
    """The stored bytes go out as they are."""

    def test_body_byte_for_byte(self, client: Client) -> None:
        body = '{ "signedIntentOp":{"n":1E+2 ,"s":"\\u00e9é\\/𝄞"}\t}\n'
        accepted = reply(201, {"result": {"id": "7", "status": "PENDING"}})
        with raw_http(answers(accepted)) as server:
            orchestrator = client(server.url)
            orchestrator.submit(body)
            orchestrator.submit(body)
            assert server.bodies() == [body.encode(), body.encode()]

    @pytest.mark.parametrize(
        ("identity", "kept"),
        [
            ('"7"', "7"),
            ("7", "7"),
            (str(2**256 - 1), str(2**256 - 1)),
            ('"b0_-Z"', "b0_-Z"),
            ("null", ""),
            ('""', ""),
            ('"../chains"', ""),
            ("7.0", ""),
            ("-7", "-7"),
            ("true", ""),
            ("{}", ""),
            (f'"{"7" * 500}"', ""),
        ],
    )
    def test_an_id_that_cannot_be_asked_for_is_left_out(
        self, client: Client, identity: str, kept: str
    ) -> None:
        answer = f'{{"result":{{"id":{identity},"status":"FAILED"}}}}'
        with raw_http(answers(reply(201, answer))) as server:
            result = client(server.url).submit("{}")
        assert (result.intent_id, result.status) == (kept, "FAILED")


class TestStatus:
    """The word as it came."""

    @pytest.mark.parametrize(
        ("body", "status", "tx_hash"),
        [
            ({"status": "COMPLETED", "fillTransactionHash": "0xab"}, "COMPLETED", "0xab"),
            ({"status": "PENDING"}, "PENDING", ""),
            ({"status": "PENDING", "fillTransactionHash": None}, "PENDING", ""),
            ({"status": "SOMETHING_NEW", "more": [1]}, "SOMETHING_NEW", ""),
            ({"status": 7, "fillTransactionHash": {}}, "7", ""),
            ({"status": "A\n\x1b[31mB" + "x" * 1000}, "A [31mB" + "x" * 293, ""),
        ],
    )
    def test_word(self, client: Client, body: Mapping[str, Any], status: str, tx_hash: str) -> None:
        with raw_http(answers(reply(200, body))) as server:
            found = client(server.url).status("7")
        assert (found.status, found.fill_tx_hash, found.raw) == (status, tx_hash, body)

    @pytest.mark.parametrize("body", [{}, {"status": None}, {"errors": []}])
    def test_without_a_word_it_is_unreadable(self, client: Client, body: Mapping[str, Any]) -> None:
        with raw_http(answers(reply(200, body))) as server, pytest.raises(ReplyError, match="no status"):
            client(server.url).status("7")


class TestCheck:
    """``doctor``'s question: only an orchestrator that lets our key in passes."""

    @pytest.mark.parametrize(
        ("status", "body"),
        [(200, {"portfolio": []}), (400, _error("bad address")), (404, _error("x")), (422, {"message": "x"})],
    )
    def test_passes(self, client: Client, status: int, body: Any) -> None:
        with raw_http(answers(reply(status, body))) as server:
            assert "2026-01.alps" in client(server.url).check()

    @pytest.mark.parametrize(
        ("status", "body", "expected", "field"),
        [
            (401, _error("Invalid API key"), AuthError, "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY"),
            (403, b"", AuthError, "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY"),
            (404, b"<html>nginx</html>", ReplyError, "orchestrator"),
            (404, {}, ReplyError, "orchestrator"),
            (200, b"<html>", ReplyError, "orchestrator"),
            (204, b"", ReplyError, "orchestrator"),
            (429, {}, RateLimitedError, "orchestrator"),
            (503, {}, UnavailableError, "orchestrator"),
        ],
    )
    def test_fails(
        self, client: Client, status: int, body: Any, expected: type[OrchestratorError], field: str
    ) -> None:
        answer = reply(status, body) if status != 204 else b"HTTP/1.1 204 None\r\n\r\n"
        with raw_http(answers(answer)) as server, pytest.raises(expected) as caught:
            client(server.url).check()
        assert caught.value.field == field


class TestKeyUnseen:
    """The API key is in no error: not in its text, its chain, or what it holds."""

    def test_however_it_breaks(self, client: Client, everything_shown: Shown) -> None:
        plays = [
            Play(),
            Play(end="reset"),
            Play(send=[b"nonsense"]),
            Play(send=[reply(500, {"message": f"bad {API_KEY}"})], end="again"),
            Play(send=[reply(401, _error(f"Invalid API key: {API_KEY}"))], end="again"),
            Play(send=[reply(400, {"traceId": API_KEY, "errors": []}, {"x-trace-id": API_KEY})], end="again"),
            Play(
                send=[reply(307, {}, {"Location": f"http://127.0.0.1/{API_KEY}", "x-trace-id": API_KEY})],
                end="again",
            ),
            Play(send=[reply(201, API_KEY, {"x-trace-id": API_KEY})], end="again"),
            Play(send=[reply(200, f'{{"{API_KEY}":1}}')], end="again"),
            Play(send=[reply(201, b"\xff" + API_KEY.encode())], end="again"),
        ]
        for call in CALLS:
            with raw_http(lambda number: plays[number]) as server:
                orchestrator = client(server.url)
                for _ in plays:
                    assert API_KEY not in everything_shown(_caught(call, orchestrator))
        for port in (closed_port(),):
            error = _caught("submit", client(f"http://127.0.0.1:{port}"))
            assert type(error) is NeverSentError
            assert API_KEY not in everything_shown(error)

    def test_nor_in_what_is_printed_of_the_client(self, client: Client) -> None:
        assert API_KEY not in repr(client("https://orchestrator.example"))

    def test_this_test_can_see_a_key(self, everything_shown: Shown) -> None:
        def fail() -> None:
            try:
                {}[API_KEY]
            except KeyError:
                raise ExecutorError("clean") from None

        with pytest.raises(ExecutorError) as caught:
            fail()
        assert API_KEY in everything_shown(caught.value)


class TestQuoteHidesItsParts:
    """A quote's repr shows the id and the expiry only."""

    def test_repr(self, client: Client) -> None:
        route = {
            "intentOp": {"nonce": "7", "expires": 9, "serverSignature": "0xfeed"},
            "intentCost": {"fee": 1},
        }
        with raw_http(answers(reply(200, route))) as server:
            assert repr(client(server.url).quote({})) == "Quote(quote_id='7', expires_s=9)"
