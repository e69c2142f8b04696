"""Clients of a server that a test scripts."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.need import missing
from worker.orchestrator.alps import AlpsOrchestrator

#: What must never be seen in an error. Not a real key: a labelled constant.
API_KEY = "api-key-for-tests-5e1f"

Client = Callable[..., AlpsOrchestrator]


@pytest.fixture
def client() -> Iterator[Client]:
    """``client(url, timeout_ms=...)``; closed at the end."""
    made: list[AlpsOrchestrator] = []

    def make(url: str, *, timeout_ms: int = 5_000) -> AlpsOrchestrator:
        made.append(AlpsOrchestrator(url, api_key=API_KEY, timeout_ms=timeout_ms))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def everything_shown() -> Callable[[BaseException], str]:
    """Renders an error as completely as anything could."""
    return _everything_shown


def _everything_shown(error: BaseException) -> str:
    """All that a log, a traceback or a collector of errors could show of it, chained errors and their parts included."""
    texts: list[str] = []
    at: BaseException | None = error
    while at is not None:
        texts += [repr(at), str(at), repr(vars(at)), "".join(traceback.format_exception(at))]
        request = getattr(at, "_request", None)
        texts.append(repr(getattr(request, "headers", "")))
        at = at.__cause__ or at.__context__
    return "\n".join(texts)


@pytest.fixture
def tls_url(tmp_path: Path) -> Iterator[str]:
    """An https server on loopback whose certificate nobody vouches for."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl", "install the openssl command")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
    ]
    subprocess.run(
        [openssl, "req", *options, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda request, client_address: None  # the client hangs up: that is the point
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
