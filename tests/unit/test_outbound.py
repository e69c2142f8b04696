"""Where each client may connect to: by the URL's words, and by each address that a name turns out to have."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.http_stub import Answer, Stub, http_stub
from worker.chain.reader import ChainReader
from worker.errors import ExecutorError, InputError
from worker.execution.channels import Channel
from worker.execution.tracing import Tracing
from worker.guarded_session import GuardedSession
from worker.keys.vault import TokenAuth, VaultKeyStore
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.blanc import BlancOrchestrator
from worker.outbound import RefusedAddressError, Rules, http_hosts, watch_connections, why_forbidden

NAME = "node.example"
FORBIDDEN = (
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16"),
    *("224.0.0.1", "255.255.255.255", "::", "fe80::1", "fe80::a9fe:a9fe%eth0", "fec0::1", "ff02::1"),
    *("fd00:ec2::254", "fd20:ce::254", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "::169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::7f00:1"),
)
ALLOWED = (
    "10.0.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "127.0.0.1",
    "::1",
    "8.8.8.8",
    "fd00::1",
    "64:ff9b::808:808",
)


@pytest.mark.parametrize("text", FORBIDDEN)
def test_forbidden_addresses(text: str) -> None:
    assert why_forbidden(ipaddress.ip_address(text.partition("%")[0]))


@pytest.mark.parametrize("text", ALLOWED)
def test_other_addresses(text: str) -> None:
    assert why_forbidden(ipaddress.ip_address(text)) == ""


@pytest.mark.parametrize(
    "host",
    [
        *("2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "0xa9.0xfe.0xa9.0xfe", "127.1"),
        *(
            "127.0.0.01",
            "1.2.3.4.5",
            "256.1.1.1",
            "127.0.0.1.",
            "localhost.",
            "example.com.",
            "a..b",
            "a" * 64,
        ),
        *("[fe80::1%25eth0]", "[fe80::1%eth0]", "ex%61mple.com", "ex*mple.com", "169.254.169.254"),
        *("0.0.0.0", "[::]", "[::ffff:169.254.169.254]", "[::ffff:127.0.0.1]", "[fd00:ec2::254]"),
        *("user@example.com", "user:hunter2@example.com", "@example.com", "example.com\\@evil.example"),
        *("127.0.0.1\\.evil.example", "\u0661\u0662\u0667.0.0.1", "\uff11\uff12\uff17.0.0.1"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_spellings_that_programs_read_differently_are_refused(scheme: str, host: str) -> None:
    with pytest.raises(InputError) as caught:
        Rules("SOME_URL", http_hosts(host)).check_url(f"{scheme}://{host}/path")
    assert caught.value.field == "SOME_URL"
    assert caught.value.fix
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hosts", "accepted"),
    [
        ("https://node.example/v2/key?token=1", "", True),
        ("http://node.example", "", False),
        ("http://node.example:8545", "vault, Node.Example,", True),
        ("http://NODE.example", "node.example", True),
        ("http://other.example", "node.example", False),
        ("http://sub.node.example", "node.example", False),
        ("http://10.0.0.1:8545", "10.0.0.1", True),
        ("http://[fd00::1]:8545", "[fd00::1]", True),
        ("http://localhost:8545", "", True),
        ("http://127.0.0.1:8545", "", True),
        ("http://169.254.169.254", "169.254.169.254", False),
    ],
)
def test_plain_http_goes_to_this_machine_and_to_hosts_that_are_named(
    url: str, hosts: str, accepted: bool
) -> None:
    rules = Rules("SOME_URL", http_hosts(hosts))
    if accepted:
        assert rules.check_url(url, query=True) == url
        return
    with pytest.raises(InputError) as caught:
        rules.check_url(url, query=True)
    assert caught.value.field == "SOME_URL"


# --- by the address that is connected to

_real = socket.getaddrinfo


class Resolver:
    """Answers for ``NAME`` with one list after another, the last one for ever; literals are what they are."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (NAME, "localhost"):
            return _real(host, port, *args, **kwargs)
        self.asked += 1
        addresses = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in addresses
        ]


def _resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> Resolver:
    resolver = Resolver(*answers)
    monkeypatch.setattr("socket.getaddrinfo", resolver)
    return resolver


HOSTS = frozenset({NAME})


def _rpc(url: str) -> None:
    ChainReader(url, chain_id=8453, timeout_ms=2_000, http_hosts=HOSTS).require_chain()


def _alps(url: str) -> None:
    AlpsOrchestrator(url, api_key="k", timeout_ms=2_000, http_hosts=HOSTS).check()


def _blanc(url: str) -> None:
    BlancOrchestrator(url, api_key="k", timeout_ms=2_000, http_hosts=HOSTS).check()


def _vault(url: str) -> None:
    with VaultKeyStore(url, "", TokenAuth("t"), timeout_s=2.0, http_hosts=HOSTS).get("0x" + "11" * 20):
        pass


def _otlp(url: str) -> None:
    tracing = Tracing(url, HOSTS)
    provider = tracing._tracer()  # pyright: ignore[reportPrivateUsage]
    assert provider is not None
    exporter: Any = tracing._sender  # pyright: ignore[reportPrivateUsage]
    session: GuardedSession = exporter.span_exporter._client._transport._session
    try:
        session.post(url, data=b"", timeout=2)
    finally:
        tracing.close()


CLIENTS: dict[str, Callable[[str], None]] = {
    "rpc": _rpc,
    "alps": _alps,
    "blanc": _blanc,
    "vault": _vault,
    "otlp": _otlp,
}


@contextmanager
def _server() -> Generator[tuple[Stub, str]]:
    """A server that knows nothing, and its URL by name."""
    with http_stub(lambda _: Answer(404, {"errors": []})) as stub:
        yield stub, f"http://{NAME}:{urlsplit(stub.url).port}"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:127.0.0.1"])
def test_a_name_that_leads_to_a_forbidden_address_is_not_connected_to(
    client: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _server() as (stub, url):
        # even as one of several
        _resolving(monkeypatch, ["127.0.0.1", address])
        with pytest.raises((ExecutorError, requests.RequestException), match=f"{NAME} has the address"):
            CLIENTS[client](url)
        assert stub.seen == []


@pytest.mark.parametrize("client", CLIENTS)
def test_what_was_looked_at_is_what_is_connected_to(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with _server() as (stub, url):
        # a name that changes between two looks
        resolver = _resolving(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
        try:
            CLIENTS[client](url)
        except (ExecutorError, requests.RequestException) as error:
            assert "has the address" not in str(error)  # noqa: PT017
        assert len(stub.seen) >= 1
        assert resolver.asked == 1
        assert stub.seen[0].headers["host"].startswith(NAME)


@pytest.mark.parametrize("client", CLIENTS)
def test_localhost_is_this_machine_or_nothing(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _resolving(monkeypatch, ["10.255.255.1"])
    with pytest.raises((ExecutorError, requests.RequestException), match="is not this machine"):
        CLIENTS[client]("http://localhost:9")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_redirect_is_followed_by_nobody(client: str) -> None:
    with http_stub(lambda _: Answer(200, {})) as elsewhere:
        redirect = Answer(307, {}, {"Location": f"{elsewhere.url}/v1/traces"})
        with http_stub(lambda _: redirect) as stub:
            with suppress(ExecutorError):
                CLIENTS[client](stub.url)
            assert stub.seen
        assert elsewhere.seen == []


def test_a_proxy_gets_the_rules_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://{NAME}:3128")
    _resolving(monkeypatch, ["169.254.169.254"])
    for client in ("rpc", "alps", "otlp"):
        with pytest.raises((ExecutorError, requests.RequestException), match=f"{NAME} has the address"):
            CLIENTS[client]("https://other.example")


def test_what_opens_its_connections_itself_is_watched() -> None:
    """Apprise's services; and with them whatever else runs in the process that notifies."""
    watch_connections()
    watch_connections()
    for target in (("169.254.169.254", 80), ("0.0.0.0", 1)):
        with socket.socket() as one:
            one.settimeout(0.2)
            with pytest.raises(RefusedAddressError):
                one.connect(target)
    with pytest.raises(requests.ConnectionError, match="link-local"):
        requests.get("http://169.254.169.254/latest/meta-data", timeout=1)
    with http_stub(lambda _: Answer()) as stub:
        assert requests.get(stub.url, timeout=2).status_code == 200


def test_apprise_follows_no_redirect_and_asks_no_metadata_service() -> None:
    with http_stub(lambda _: Answer(200, {})) as elsewhere:
        with http_stub(lambda _: Answer(307, {}, {"Location": elsewhere.url})) as stub:
            channel = Channel("people", stub.url.replace("http://", "json://"))
            with pytest.raises(ExecutorError, match="was not reached"):
                channel.send("e", "{}", title="t", text="x", now_s=1)
            assert stub.seen
        assert elsewhere.seen == []
    with pytest.raises(ExecutorError, match="was not reached"):
        Channel("people", "json://169.254.169.254").send("e", "{}", title="t", text="x", now_s=1)
