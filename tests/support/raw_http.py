"""A loopback server that misbehaves byte by byte: what a broken network or a strange gateway can do to a request."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

#: Of a connection that sends nothing for this long, no more is expected.
_IDLE_S = 20.0


@dataclass(frozen=True, slots=True)
class Play:
    """What to do with one connection.

    Attributes:
        read: how much of the request to read first; ``peek`` waits for its first byte and leaves it unread.
        send: bytes to send; a number is a pause in seconds.
        end: ``close`` (FIN), ``reset`` (RST), ``hold`` (say nothing until the server ends), or ``again`` (play the
            next one on this connection).
    """

    read: Literal["nothing", "peek", "headers", "all"] = "all"
    send: Sequence[bytes | float] = ()
    end: Literal["close", "reset", "hold", "again"] = "close"


@dataclass(slots=True)
class RawServer:
    """The running server.

    Attributes:
        port: where.
        seen: what was received, one entry per request that was read.
        connections: how many were accepted.
        closed: how many of them the server has closed.
    """

    port: int
    seen: list[bytes] = field(default_factory=list[bytes])
    connections: int = 0
    closed: int = 0

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``."""
        return f"http://127.0.0.1:{self.port}"

    def bodies(self) -> list[bytes]:
        """The body of each request."""
        return [request.partition(b"\r\n\r\n")[2] for request in self.seen]


def reply(
    status: int = 200,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    *,
    length: int | None = None,
    chunks: Sequence[bytes] | None = None,
) -> bytes:
    """The bytes of a response.

    Args:
        status: HTTP status.
        body: bytes as they are; text in UTF-8; anything else as JSON.
        headers: more headers.
        length: a Content-Length other than the true one.
        chunks: send these chunked instead of ``body``.
    """
    content = (
        body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    )
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if chunks is None:
        lines.append(f"Content-Length: {len(content) if length is None else length}")
    else:
        lines.append("Transfer-Encoding: chunked")
        content = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def answers(*responses: bytes) -> Callable[[int], Play]:
    """Plays these responses, one per request, the last one for ever; connections are kept."""
    return lambda number: Play(send=[responses[min(number, len(responses) - 1)]], end="again")


@contextmanager
def raw_http(
    play: Play | Callable[[int], Play], *, host: str = "127.0.0.1", port: int = 0
) -> Generator[RawServer]:
    """Serve until the block ends.

    Args:
        play: what to do with each request; or a function of its number, from 0.
        host: loopback address to listen on.
        port: 0 for a free one.
    """

    def choose(number: int) -> Play:
        return play(number) if callable(play) else play

    listener = socket.create_server((host, port))
    server = RawServer(listener.getsockname()[1])
    stop = threading.Event()
    lock = threading.Lock()
    numbers = iter(range(1_000_000))
    threads: list[threading.Thread] = []
    opened: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        connection.settimeout(_IDLE_S)
        with contextlib.suppress(OSError), connection:
            play_on(connection)
        with lock:
            server.closed += 1

    def play_on(connection: socket.socket) -> None:
        while True:
            with lock:
                chosen = choose(next(numbers))
            if chosen.read == "peek":
                connection.recv(1, socket.MSG_PEEK)
            elif chosen.read != "nothing":
                request = _read_request(connection, whole=chosen.read == "all")
                if not request:
                    return
                server.seen.append(request)
            for part in chosen.send:
                if isinstance(part, int | float):
                    stop.wait(part)
                else:
                    connection.sendall(part)
                if stop.is_set():
                    return
            if chosen.end == "again":
                # a play is for a request: wait for one before the next play is chosen
                if not connection.recv(1, socket.MSG_PEEK):
                    return
                continue
            if chosen.end == "hold":
                stop.wait()
            if chosen.end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            server.connections += 1
            opened.append(connection)
            thread = threading.Thread(target=serve, args=(connection,), daemon=True)
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        stop.set()
        # wakes accept(), which closing alone does not
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def closed_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def deaf_port(host: str = "127.0.0.1", port: int = 0) -> Generator[int]:
    """A port that never completes a connection: its queue is full, so the kernel drops what comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        bound = int(listener.getsockname()[1])
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((host, bound))
        yield bound


def _read_request(connection: socket.socket, *, whole: bool) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    while whole and length and len(body) < int(length[1]):
        more = connection.recv(65536)
        if not more:
            break
        body += more
    return head + b"\r\n\r\n" + body
