"""Every way in which an exchange can break: never sent, maybe sent, or an answer."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import pytest

from tests.support.raw_http import Play, RawServer, answers, closed_port, deaf_port, raw_http, reply
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.errors import (
    MaybeSentError,
    NeverSentError,
    OrchestratorError,
    ReplyError,
    RequestRefusedError,
)
from worker.orchestrator.http import MAX_REPLY_BYTES

API_KEY = "api-key-for-tests-5e1f"
ACCEPTED = reply(201, {"result": {"id": "7", "status": "PENDING"}})
#: Short enough to keep the tests quick; nothing depends on how long it takes.
SHORT_MS = 400
Client = Callable[..., AlpsOrchestrator]

CALLS: dict[str, Callable[[AlpsOrchestrator], object]] = {
    "quote": lambda o: o.quote({"destinationChainId": 8453}),
    "submit": lambda o: o.submit('{"signedIntentOp":{}}'),
    "status": lambda o: o.status("7"),
    "check": lambda o: o.check(),
}


def _drip(text: bytes, every_s: float = 0.05) -> list[bytes | float]:
    """One byte at a time; whole after 0.05 s per byte, well within pytest's own limit."""
    return [part for byte in text for part in (bytes([byte]), every_s)]


#: What the peer does after it has (maybe) received the request, so that its fate is unknown.
MAYBE_SENT: dict[str, Play] = {
    "closed with the request unread": Play(read="peek"),
    "reset with the request unread": Play(read="peek", end="reset"),
    "closed after the headers": Play(read="headers"),
    "closed after reading": Play(),
    "reset after reading": Play(end="reset"),
    "silent after reading": Play(end="hold"),
    "silent within the status line": Play(send=[b"HTTP/1."], end="hold"),
    "closed within the status line": Play(send=[b"HTTP/1."]),
    "closed within the headers": Play(send=[b"HTTP/1.1 201 Created\r\nContent-Type: app"]),
    "no HTTP": Play(send=[b"SSH-2.0-OpenSSH_9.2\r\n"]),
    "garbage bytes": Play(send=[bytes(range(256)) * 4]),
    "only an informational reply": Play(send=[b"HTTP/1.1 103 Early Hints\r\n\r\n"]),
    "body cut": Play(send=[ACCEPTED[:-5]]),
    "body cut by a reset": Play(send=[ACCEPTED[:-5]], end="reset"),
    "body never complete": Play(send=[ACCEPTED[:-5]], end="hold"),
    "no body at all": Play(send=[reply(201, b"", length=30)]),
    "two lengths": Play(send=[reply(201, b"{}", {"Content-Length": "7"})]),
    "length is no number": Play(send=[b"HTTP/1.1 201 C\r\nContent-Length: ten\r\n\r\n{}"]),
    "negative length": Play(send=[b"HTTP/1.1 201 C\r\nContent-Length: -1\r\n\r\n{}"]),
    "chunked and cut": Play(send=[reply(201, chunks=[b"{}"])[:-5]]),
    "chunk size is no number": Play(
        send=[b"HTTP/1.1 201 C\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"]
    ),
    "unknown transfer coding": Play(send=[b"HTTP/1.1 201 C\r\nTransfer-Encoding: rot13\r\n\r\n{}"]),
    "claims gzip": Play(send=[reply(201, b"{}", {"Content-Encoding": "gzip"})]),
    "huge headers": Play(send=[b"HTTP/1.1 201 C\r\n" + b"X-Fill: " + b"a" * 300_000]),
    "status line drips": Play(send=_drip(ACCEPTED)),
    "headers drip": Play(send=[ACCEPTED[:20], *_drip(ACCEPTED[20:])]),
    "body drips": Play(send=[ACCEPTED[:-30], *_drip(ACCEPTED[-30:])]),
    "chunk size drips": Play(
        send=[reply(201, chunks=[])[:-5], *_drip(b"000000000000000002\r\n{}\r\n0\r\n\r\n")]
    ),
    "huge body": Play(send=[reply(201, b" " * (MAX_REPLY_BYTES + 1))]),
    "endless body": Play(send=[reply(201, b" ", length=10**15), *[b" " * 1_000_000] * 64]),
    "gzip bomb": Play(
        send=[reply(201, gzip.compress(b" " * (MAX_REPLY_BYTES + 1)), {"Content-Encoding": "gzip"})]
    ),
}


class TestMaybeSent:
    """The request was on its way: its fate is unknown, and it is not sent again by the client."""

    @pytest.mark.parametrize("name", MAYBE_SENT)
    def test_submit(self, client: Client, name: str) -> None:
        # a second request would be accepted: a client that tries again by itself would succeed
        with raw_http(lambda number: Play(send=[ACCEPTED]) if number else MAYBE_SENT[name]) as server:
            with pytest.raises(MaybeSentError):
                client(server.url, timeout_ms=SHORT_MS).submit("{}")
            assert server.connections == 1

    @pytest.mark.parametrize("call", CALLS)
    def test_every_call(self, client: Client, call: str) -> None:
        with raw_http(Play()) as server:
            with pytest.raises(MaybeSentError) as caught:
                CALLS[call](client(server.url))
            assert len(server.seen) == 1
        assert caught.value.field == "orchestrator"
        assert caught.value.fix

    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_a_peer_that_hangs_up_at_once(self, client: Client, end: Literal["close", "reset"]) -> None:
        # whether a byte was on its way is a race; both answers are true, and a submit must not follow by itself
        with raw_http(
            lambda number: Play(send=[ACCEPTED]) if number else Play(read="nothing", end=end)
        ) as server:
            with pytest.raises((MaybeSentError, NeverSentError)):
                client(server.url).submit("{}")
            assert server.connections == 1

    def test_a_peer_that_stops_reading(self, client: Client) -> None:
        with raw_http(Play(read="headers", end="hold")) as server, pytest.raises(MaybeSentError):
            client(server.url, timeout_ms=SHORT_MS).submit("x" * 30_000_000)


@contextmanager
def _nobody_listens() -> Any:
    yield f"http://127.0.0.1:{closed_port()}"


@contextmanager
def _never_connects() -> Any:
    with deaf_port() as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _no_such_host() -> Any:
    yield "https://a-name-that-is-never-registered.invalid"


@contextmanager
def _no_tls() -> Any:
    with raw_http(Play(read="nothing", send=[b"HTTP/1.1 400 Bad Request\r\n\r\n"])) as server:
        yield server.url.replace("http:", "https:")


@contextmanager
def _tls_hangs() -> Any:
    with raw_http(Play(read="nothing", end="hold")) as server:
        yield server.url.replace("http:", "https:")


NEVER_SENT: dict[str, Callable[[], Any]] = {
    "nobody listens": _nobody_listens,
    "never connects": _never_connects,
    "no such host": _no_such_host,
    "no TLS": _no_tls,
    "TLS hangs": _tls_hangs,
}


class TestNeverSent:
    """Nothing left this machine."""

    @pytest.fixture(autouse=True)
    def _no_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("no_proxy", "*")

    @pytest.mark.parametrize("name", NEVER_SENT)
    def test_submit(self, client: Client, name: str) -> None:
        with NEVER_SENT[name]() as url, pytest.raises(NeverSentError) as caught:
            client(url, timeout_ms=SHORT_MS).submit("{}")
        assert "SESSION_EXECUTOR_ORCHESTRATOR_URL" in caught.value.fix

    @pytest.mark.parametrize("call", CALLS)
    def test_every_call(self, client: Client, call: str) -> None:
        with pytest.raises(NeverSentError):
            CALLS[call](client(f"http://127.0.0.1:{closed_port()}"))

    def test_an_untrusted_certificate(self, client: Client, tls_url: str) -> None:
        with pytest.raises(NeverSentError):
            client(tls_url).submit("{}")


class TestAddresses:
    """A name's addresses are tried in turn within the one deadline."""

    @pytest.fixture
    def two_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = socket.getaddrinfo

        def lookup(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
            if host == "localhost":
                return [real(ip, port, *args, **kwargs)[0] for ip in ("127.0.0.2", "127.0.0.1")]
            return real(host, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", lookup)

    def test_the_second_after_a_refusal(self, client: Client, two_addresses: None) -> None:
        with raw_http(answers(ACCEPTED)) as server:
            assert client(f"http://localhost:{server.port}").submit("{}").intent_id == "7"

    def test_the_second_after_a_silent_one(self, client: Client, two_addresses: None) -> None:
        with ExitStack() as stack:
            server: RawServer = stack.enter_context(raw_http(answers(ACCEPTED)))
            stack.enter_context(deaf_port("127.0.0.2", server.port))
            assert client(f"http://localhost:{server.port}", timeout_ms=2_000).submit("{}").intent_id == "7"

    def test_none_answers(self, client: Client, two_addresses: None) -> None:
        with pytest.raises(NeverSentError):
            client(f"http://localhost:{closed_port()}").submit("{}")


class TestConnections:
    """Connections are kept, and a dead one is noticed before it is written to."""

    def test_kept(self, client: Client) -> None:
        with raw_http(Play(send=[ACCEPTED], end="again")) as server:
            orchestrator = client(server.url)
            for _ in range(3):
                orchestrator.submit("{}")
            assert (server.connections, len(server.seen)) == (1, 3)

    def test_closed_while_idle(self, client: Client) -> None:
        with raw_http(Play(send=[ACCEPTED])) as server:
            orchestrator = client(server.url)
            for number in range(3):
                orchestrator.submit("{}")
                while server.closed <= number:
                    time.sleep(0.005)
            assert (server.connections, len(server.seen)) == (3, 3)

    def test_usable_after_every_kind_of_trouble(self, client: Client) -> None:
        troubles = list(MAYBE_SENT.values())
        with raw_http(
            lambda number: troubles[number] if number < len(troubles) else Play(send=[ACCEPTED])
        ) as server:
            orchestrator = client(server.url, timeout_ms=200)
            for _ in troubles:
                with pytest.raises(MaybeSentError):
                    orchestrator.submit("{}")
            assert orchestrator.submit("{}").intent_id == "7"


class TestSlowButWhole:
    """An answer in pieces, in time, is an answer."""

    @pytest.mark.parametrize(
        "send",
        [
            _drip(ACCEPTED, 0.001),
            [reply(201, chunks=[b'{"result":', b'{"id":"7",', b'"status":"PENDING"}}'])],
            [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", ACCEPTED],
            [b'HTTP/1.0 201 Created\r\n\r\n{"result":{"id":"7","status":"PENDING"}}'],
            [
                reply(
                    201,
                    gzip.compress(b'{"result":{"id":"7","status":"PENDING"}}'),
                    {"Content-Encoding": "gzip"},
                )
            ],
        ],
        ids=["dripped", "chunked", "after informational ones", "HTTP/1.0 to the end", "gzip"],
    )
    def test_submit(self, client: Client, send: list[bytes | float]) -> None:
        with raw_http(Play(send=send)) as server:
            result = client(server.url).submit("{}")
        assert (result.intent_id, result.status) == ("7", "PENDING")


class TestRedirect:
    """A redirect is never followed: the key and a signed body must not travel."""

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
    @pytest.mark.parametrize("call", CALLS)
    def test_refused(self, client: Client, status: int, call: str) -> None:
        with raw_http(answers(ACCEPTED)) as elsewhere:
            redirect = reply(status, {}, {"Location": f"{elsewhere.url}/x"})
            with raw_http(answers(redirect)) as server, pytest.raises(RequestRefusedError) as caught:
                CALLS[call](client(server.url))
            assert elsewhere.connections == 0
        assert caught.value.field == "SESSION_EXECUTOR_ORCHESTRATOR_URL"


class TestProxy:
    """Loopback is reached directly; elsewhere the proxy sees a tunnel, and never the key."""

    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)

    def test_not_for_this_machine(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
        with raw_http(answers(ACCEPTED)) as server:
            assert client(server.url).submit("{}").intent_id == "7"

    @pytest.mark.parametrize("status", [403, 407, 502])
    def test_one_that_opens_no_tunnel(
        self, client: Client, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        with raw_http(answers(reply(status, {}))) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            monkeypatch.setenv("https_proxy", proxy.url)
            with pytest.raises(NeverSentError):
                client("https://orchestrator.example").submit('{"secret":1}')
            assert len(proxy.seen) == 1
            assert proxy.seen[0].startswith(b"CONNECT orchestrator.example:443 ")
            assert API_KEY.encode() not in proxy.seen[0]
            assert b"secret" not in proxy.seen[0]

    def test_one_that_is_down(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
        with pytest.raises(NeverSentError):
            client("https://orchestrator.example").submit("{}")


UNREADABLE: dict[str, bytes] = {
    "empty": reply(201, b""),
    "HTML": reply(201, b"<html>welcome to the hotel wifi</html>"),
    "list": reply(201, []),
    "null": reply(201, None),
    "not UTF-8": reply(201, b'{"result":{"id":"7","status":"PENDING","x":"\xff"}}'),
    "UTF-16": reply(201, '{"result":{"id":"7","status":"PENDING"}}'.encode("utf-16")),
    "byte order mark": reply(201, b'\xef\xbb\xbf{"result":{"id":"7","status":"PENDING"}}'),
    "key twice": reply(201, b'{"result":{"id":"7","status":"PENDING","id":"8"}}'),
    "NaN": reply(201, b'{"result":{"id":"7","status":"PENDING"},"x":NaN}'),
    "too deep": reply(201, b"[" * 200_000),
    "silly exponent": reply(201, b'{"result":{"id":"7","status":"PENDING"},"x":1E99999999999999999999}'),
    "silly integer": reply(201, b'{"result":{"id":"7","status":"PENDING"},"x":' + b"9" * 10_000 + b"}"),
    "no result": reply(201, {}),
    "result is a list": reply(201, {"result": []}),
    "no status": reply(201, {"result": {"id": "7"}}),
    "status is a number": reply(201, {"result": {"id": "7", "status": 1}}),
    "200": reply(200, {"result": {"id": "7", "status": "PENDING"}}),
    "202": reply(202, {"result": {"id": "7", "status": "PENDING"}}),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "226": reply(226, {"errors": [{"message": "No Path Found"}]}),
}


class TestUnreadable:
    """An answer with a 2xx that we can't read is no refusal: the submit may have been accepted."""

    @pytest.mark.parametrize("name", UNREADABLE)
    def test_submit(self, client: Client, name: str) -> None:
        with raw_http(answers(UNREADABLE[name])) as server, pytest.raises(ReplyError) as caught:
            client(server.url).submit("{}")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600

    @pytest.mark.parametrize("call", CALLS)
    def test_every_call(self, client: Client, call: str) -> None:
        with raw_http(answers(reply(200, b"<html>"), reply(201, b"<html>"))) as server:
            for _ in range(2):
                with pytest.raises(OrchestratorError) as caught:
                    CALLS[call](client(server.url))
                assert type(caught.value) is ReplyError
