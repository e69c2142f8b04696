"""A small HTTP server of a few pages, for what machines ask: scrapes and probes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from worker.errors import InputError

#: Requests that are answered or wait at the same time; a further one is refused at once, so that a storm takes no more
#: threads than this.
MOST_REQUESTS = 32
#: Seconds that a client may be silent.
_SILENCE_S = 10


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: HTTP status, content type, body."""

    status: int
    content_type: str
    body: bytes


class PageServer(ThreadingHTTPServer):
    """Serves each path's page, made anew for each request; anything else is a 404.

    Args:
        pages: path → its page.
        host: address to listen at, IPv6 without brackets.
        port: 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, pages: Mapping[str, Callable[[], Page]], host: str, port: int) -> None:
        self.pages = pages
        self._room = threading.BoundedSemaphore(MOST_REQUESTS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """As the original, while there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the original."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a traceback."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENCE_S
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride] - it is made by that one only

    def do_GET(self) -> None:
        """Answer with a page."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """The same without its body."""
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            self.send_error(404)
            return
        page = make()
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(page.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """They are not worth a line each."""


def listen(pages: Mapping[str, Callable[[], Page]], host: str, port: int, *, field: str) -> PageServer:
    """A server that is bound and not yet running.

    Raises:
        InputError: it cannot listen there; names the option ``field``.
    """
    try:
        return PageServer(pages, host, port)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({type(error).__name__})",
            field=field,
            fix="give a free port and an address of this machine",
        ) from None
