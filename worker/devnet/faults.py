"""Misbehaviour on order, and the log of every request. One ASGI middleware around the API."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.devnet.api_error import ApiError, as_list, as_number, as_object, invalid
from worker.devnet.lies import LIES
from worker.devnet.orchestrator import SubmitOrders
from worker.devnet.quotes import Alteration

log = logging.getLogger(__name__)

CONTROL_PREFIX = "/devnet/"
# keys of the ASGI scope, read by the server's endpoints
ALTERATION = "devnet.alteration"
ORDERS = "devnet.orders"
# loopback delivers within microseconds
CUT_FLUSH_S = 0.05
ACTIONS = (
    "drop_before",
    "drop_after_accept",
    "cut_reply",
    "delay_ms",
    "delay_reply_ms",
    "respond",
    "alter_quote",
    "override_status",
    "fail_simulation",
    "simulation_error",
    "fail_execution",
    "expire_execution",
    "stall",
    "hide",
    "late",
)
_FATES = {"fail_execution": "fail", "expire_execution": "expire", "stall": "stall"}
# The requests of a long test run; a bound keeps a forgotten devnet from growing for ever.
MAX_LOGGED_REQUESTS = 5_000
_SECRET_HEADERS = ("x-api-key", "authorization", "x-intent-extension")


@dataclass(slots=True)
class Fault:
    """One order to misbehave.

    Attributes:
        action: what happens.

            Any request: ``drop_before`` closes the connection without looking at the request;
            ``drop_after_accept`` handles it and closes the connection instead of replying; ``cut_reply`` sends half of
            the reply and closes the connection; ``delay_ms`` waits before handling, ``delay_reply_ms`` after handling;
            ``respond`` replies ``status``, ``body``, ``headers`` (after handling the request if ``process``, else
            without looking at it).

            A quote: ``alter_quote`` tells the ``lies`` of ``worker.devnet.lies`` and writes ``values`` (JSON pointer
            -> value) before the server seals it.

            A submit: ``fail_simulation`` lets the simulation fail; ``simulation_error`` says a failed simulation as
            a 400 instead of a result; ``fail_execution``, ``expire_execution`` and ``stall`` accept the intent and
            never execute it: it becomes FAILED, EXPIRED, or stays PENDING; ``hide`` accepts it and answers 404 to
            status requests for ``delay_ms``; ``late`` does so, too, and executes it only then, past its deadline.

            A status request: ``override_status`` says ``word`` instead of the status, whatever really happened.
        method: HTTP method, empty for any.
        path: prefix of the path.
        nth: only the nth matching request (1-based) counts as the first hit; 0 means the next one.
        times: how many requests are hit; 0 means all.
    """

    action: str
    method: str = ""
    path: str = "/"
    nth: int = 0
    times: int = 1
    delay_ms: int = 0
    status: int = 500
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    process: bool = False
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    lies: tuple[str, ...] = ()
    word: str = ""
    seen: int = 0
    hits: int = 0

    def hit(self, method: str, path: str) -> bool:
        """Whether this request is hit; counts it."""
        if (self.method and self.method != method) or not path.startswith(self.path):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times and self.hits >= self.times):
            return False
        self.hits += 1
        return True


def read_fault(body: object) -> Fault:
    """A fault of a ``POST /devnet/faults`` body: ``{match: {method?, path?, nth?}, times?, action, ...}``.

    Raises:
        ApiError: naming the field.
    """
    request = as_object(body, "body")
    match = as_object(request.get("match", {}), "match")
    action = request.get("action")
    if action not in ACTIONS:
        raise invalid("action", f"must be one of {', '.join(ACTIONS)}")
    known = {"match", "times", "action", "delay_ms", "status", "body", "headers", "process", "values"}
    known |= {"lies", "word"}
    if unknown := set(request) - known | (set(match) - {"method", "path", "nth"}):
        raise invalid(min(unknown), "is not known")
    status = as_number(request.get("status", 500), "status")
    if not 200 <= status <= 599:
        raise invalid("status", "must be between 200 and 599")
    headers = as_object(request.get("headers", {}), "headers")
    lies = tuple(str(name) for name in as_list(request.get("lies", []), "lies"))
    if wrong := set(lies) - set(LIES):
        raise invalid("lies", f"{min(wrong)} is none of {', '.join(LIES)}")
    if action == "override_status" and not isinstance(request.get("word"), str):
        raise invalid("word", "must be the status word to say")
    return Fault(
        action=str(action),
        method=str(match.get("method", "")).upper(),
        path=str(match.get("path", "/")),
        nth=as_number(match.get("nth", 0), "match.nth"),
        times=as_number(request.get("times", 1), "times"),
        delay_ms=as_number(request.get("delay_ms", 0), "delay_ms"),
        status=status,
        body=request.get("body"),
        headers={str(name): str(value) for name, value in headers.items()},
        process=request.get("process", False) is True,
        values=as_object(request.get("values", {}), "values"),
        lies=lies,
        word=str(request.get("word", "")),
    )


class Control:
    """The faults in force and the request log. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._requests: deque[dict[str, Any]] = deque(maxlen=MAX_LOGGED_REQUESTS)
        self._count = 0

    def add(self, body: object) -> int:
        """Add the fault, or the list of faults, of a request body; returns how many."""
        faults = [read_fault(item) for item in (as_list(body, "body") if isinstance(body, list) else [body])]
        with self._lock:
            self._faults.extend(faults)
        return len(faults)

    def clear(self) -> None:
        """Behave from now on."""
        with self._lock:
            self._faults.clear()

    def reset(self) -> None:
        """No faults, no log."""
        with self._lock:
            self._faults.clear()
            self._requests.clear()
            self._count = 0

    def take(self, method: str, path: str) -> list[Fault]:
        """The faults that hit this request, in the order they were added."""
        with self._lock:
            return [fault for fault in self._faults if fault.hit(method, path)]

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force and how often each was hit."""
        with self._lock:
            return [
                {
                    "action": f.action,
                    "method": f.method,
                    "path": f.path,
                    "nth": f.nth,
                    "times": f.times,
                    "hits": f.hits,
                }
                for f in self._faults
            ]

    def log(self, entry: dict[str, Any]) -> None:
        """Append one request."""
        with self._lock:
            self._count += 1
            self._requests.append({"n": self._count, **entry})

    def requests(self) -> list[dict[str, Any]]:
        """Every logged request, oldest first."""
        with self._lock:
            return list(self._requests)


class FaultMiddleware:
    """Applies the faults and writes the log. The control API itself is neither logged nor disturbed."""

    def __init__(self, app: ASGIApp, control: Control) -> None:
        self._app = app
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PREFIX):
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        faults = self._control.take(scope["method"], scope["path"])
        entry: dict[str, Any] = {
            "timeMs": int(time.time() * 1000),
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "headers": _headers(scope),
            "body": _parsed(body),
            "faults": [fault.action for fault in faults],
            "status": None,
            "response": None,
        }
        try:
            await self._handle((scope, receive, send), body, faults, entry)
        finally:
            self._control.log(entry)

    async def _handle(
        self, asgi: tuple[Scope, Receive, Send], body: bytes, faults: list[Fault], entry: dict[str, Any]
    ) -> None:
        scope, receive, send = asgi
        reply = next((fault for fault in faults if fault.action == "respond"), None)
        actions = {fault.action for fault in faults}
        await asyncio.sleep(_sum_of(faults, "delay_ms") / 1000)
        if "drop_before" in actions:
            await _drop(receive)
            return
        start: Message = {}
        content = bytearray()
        if reply is None or reply.process or "drop_after_accept" in actions:
            inner = {**scope, ALTERATION: _alteration(faults), ORDERS: _orders(faults)}

            async def capture(message: Message) -> None:
                if message["type"] == "http.response.start":
                    start.update(message)
                elif message["type"] == "http.response.body":
                    content.extend(message.get("body", b""))

            await self._app(inner, _replay(body, receive), capture)
            content = _overridden(content, start, faults)
            entry["status"], entry["response"] = start.get("status"), _parsed(bytes(content))
        await asyncio.sleep(_sum_of(faults, "delay_reply_ms") / 1000)
        if "drop_after_accept" in actions:
            await _drop(receive)
            return
        if reply is not None:
            content = bytearray(_encoded(reply.body))
            headers = {"content-type": "application/json", **{k.lower(): v for k, v in reply.headers.items()}}
            start = {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
            entry["status"], entry["response"] = reply.status, reply.body
        headers_out = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
        await send({**start, "headers": [*headers_out, (b"content-length", str(len(content)).encode())]})
        if "cut_reply" in actions:
            half = bytes(content[: len(content) // 2])
            await send({"type": "http.response.body", "body": half, "more_body": True})
            # let the half leave before the connection goes
            await asyncio.sleep(CUT_FLUSH_S)
            await _drop(receive)
            return
        await send({"type": "http.response.body", "body": bytes(content)})


def _sum_of(faults: list[Fault], action: str) -> int:
    return sum(fault.delay_ms for fault in faults if fault.action == action)


def _alteration(faults: list[Fault]) -> Alteration | None:
    altering = [fault for fault in faults if fault.action == "alter_quote"]
    if not altering:
        return None
    return Alteration(
        lies=tuple(name for fault in altering for name in fault.lies),
        values={key: value for fault in altering for key, value in fault.values.items()},
    )


def _orders(faults: list[Fault]) -> SubmitOrders:
    actions = {fault.action for fault in faults}
    return SubmitOrders(
        fate=next((_FATES[fault.action] for fault in faults if fault.action in _FATES), ""),
        hide_ms=_sum_of(faults, "hide"),
        late_ms=_sum_of(faults, "late"),
        fail_simulation="fail_simulation" in actions,
        simulation_error="simulation_error" in actions,
    )


def _overridden(content: bytearray, start: Message, faults: list[Fault]) -> bytearray:
    """The reply, with another status word if a fault wants one."""
    word = next((fault.word for fault in faults if fault.action == "override_status"), None)
    if word is None or start.get("status") != HTTPStatus.OK:
        return content
    return bytearray(json.dumps({**json.loads(content), "status": word}).encode())


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body.extend(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _drop(receive: Receive) -> None:
    """Reset the connection without a reply.

    ASGI has no way to say so, so uvicorn's transport is taken from the request cycle that ``receive`` is bound to.
    """
    cycle = getattr(receive, "__self__", None)
    transport = getattr(cycle, "transport", None)
    if transport is None:
        raise ApiError(500, "the server's connection cannot be dropped")
    transport.abort()
    # uvicorn learns of the lost connection in the next turns of the loop, and then sends nothing
    for _ in range(100):
        if getattr(cycle, "disconnected", True):
            return
        await asyncio.sleep(0)


def _headers(scope: Scope) -> dict[str, str]:
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return {name: "<hidden>" if name in _SECRET_HEADERS else value for name, value in found.items()}


def _parsed(body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _encoded(body: Mapping[str, Any] | str | None) -> bytes:
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()
