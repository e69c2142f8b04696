"""The devnet over HTTP: the alps and the blanc API, and ``/devnet/*`` to control it. Loopback only."""

from __future__ import annotations

import hmac
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from worker.devnet import blanc, exact_json
from worker.devnet.anvil import Anvil
from worker.devnet.api_error import ApiError
from worker.devnet.chain import Chain
from worker.devnet.errors import DevnetError
from worker.devnet.faults import ALTERATION, ORDERS, Control, FaultMiddleware
from worker.devnet.orchestrator import Delays, DevOrchestrator
from worker.devnet.rpc import JsonRpc

log = logging.getLogger(__name__)

ALPS = "2026-01.alps"
BLANC = "2026-04.blanc"
BOTH = ""
# Requests in flight when the devnet ends get this long; nothing here takes longer but a delay on order.
GRACE_S = 1
# How soon a devnet notices that its parent was killed, when nothing closed its stdin.
PARENT_CHECK_S = 0.5


def make_app(orchestrator: DevOrchestrator, control: Control, api_key: str) -> FaultMiddleware:
    """The ASGI app."""

    def answer(
        work: Callable[[Request, Any], Any],
        *,
        status: int = 200,
        key: bool = True,
        api: bool = True,
        text: bool = False,
        version: str = ALPS,
    ) -> Callable[[Request], Any]:
        """An endpoint: checks headers, parses the body (or not: ``text``), runs ``work`` in a thread, renders errors."""
        versions = (ALPS, BLANC) if version == BOTH else (version,)

        async def endpoint(request: Request) -> Response:
            trace = uuid.uuid4().hex
            headers = {"x-trace-id": trace}
            # where both versions have the path, the client says which it speaks
            speaks_blanc = version == BLANC or _speaks_blanc(request)
            envelope = blanc.error_body if api and speaks_blanc else _alps_body
            try:
                if api:
                    _check_headers(request, api_key if key else None, versions)
                body = await _text(request) if text else await _body(request)
                result = await run_in_threadpool(work, request, body)
            except ApiError as error:
                return JSONResponse(envelope(error, trace), error.status, headers=headers)
            except DevnetError as error:
                return JSONResponse(envelope(ApiError(503, str(error)), trace), 503, headers=headers)
            except Exception:  # a server answers 500 and lives on
                log.exception("%s %s", request.method, request.url.path)
                failed = ApiError(500, "Internal Server Error")
                return JSONResponse(envelope(failed, trace), 500, headers=headers)
            return Response(
                exact_json.dumps(result).encode(errors="surrogatepass"),
                status,
                headers=headers,
                media_type="application/json",
            )

        return endpoint

    def reset(_request: Request, _body: Any) -> dict[str, Any]:
        orchestrator.reset()
        control.reset()
        return {}

    def clear_faults(_request: Request, _body: Any) -> dict[str, Any]:
        control.clear()
        return {}

    def forget_quotes(_request: Request, _body: Any) -> dict[str, Any]:
        orchestrator.forget_quotes()
        return {}

    def chains(request: Request, _body: Any) -> dict[str, Any]:
        found = orchestrator.chains()
        return blanc.chains_answer(found) if _speaks_blanc(request) else found

    def portfolio(request: Request, _body: Any) -> dict[str, Any]:
        # alps lists with commas, blanc repeats the name; both may be left out
        wanted = [part for value in request.query_params.getlist("chainIds") for part in value.split(",")]
        tokens = [part for value in request.query_params.getlist("tokens") for part in value.split(",")]
        spoken = _speaks_blanc(request)
        if spoken:
            wanted = [str(blanc.chain_number(part, "chainIds")) for part in wanted]
            tokens = [part.removeprefix("eip155:") for part in tokens]
        found = orchestrator.portfolio(request.path_params["address"], chains=wanted, tokens=tokens)
        return blanc.portfolio_answer(found) if spoken else found

    routes = [
        Route(
            "/intents/route",
            answer(lambda r, b: orchestrator.quote(b, r.scope.get(ALTERATION))),
            methods=["POST"],
        ),
        Route(
            "/intent-operations",
            answer(lambda r, b: orchestrator.submit(b, r.scope.get(ORDERS)), status=201, text=True),
            methods=["POST"],
        ),
        Route("/intent-operation/{id}", answer(lambda r, _: orchestrator.status(r.path_params["id"]))),
        Route(
            "/quotes",
            answer(lambda r, b: orchestrator.blanc_quote(b, r.scope.get(ALTERATION)), version=BLANC),
            methods=["POST"],
        ),
        Route(
            "/intents",
            answer(
                lambda r, b: orchestrator.blanc_submit(b, r.scope.get(ORDERS)),
                status=201,
                text=True,
                version=BLANC,
            ),
            methods=["POST"],
        ),
        Route(
            "/intents/splits",
            answer(lambda _, b: orchestrator.blanc_split(b), version=BLANC),
            methods=["POST"],
        ),
        Route(
            "/intents/{id}",
            answer(lambda r, _: orchestrator.blanc_status(r.path_params["id"]), version=BLANC),
        ),
        Route("/chains", answer(chains, key=False, version=BOTH)),
        Route("/accounts/{address}/portfolio", answer(portfolio, version=BOTH)),
        Route("/intents/split", answer(lambda _, b: orchestrator.split(b)), methods=["POST"]),
        Route(
            "/devnet/accounts",
            answer(lambda _, b: orchestrator.register_account(b), status=201, api=False),
            methods=["POST"],
        ),
        Route("/devnet/fund", answer(lambda _, b: orchestrator.fund(b), api=False), methods=["POST"]),
        Route(
            "/devnet/faults",
            answer(lambda _, b: {"added": control.add(b)}, status=201, api=False),
            methods=["POST"],
        ),
        Route("/devnet/faults", answer(lambda _r, _b: {"faults": control.faults()}, api=False)),
        Route("/devnet/faults", answer(clear_faults, api=False), methods=["DELETE"]),
        Route("/devnet/requests", answer(lambda _r, _b: {"requests": control.requests()}, api=False)),
        Route("/devnet/state", answer(lambda _r, _b: orchestrator.state(), api=False)),
        Route("/devnet/delays", answer(lambda _, b: orchestrator.set_delays(b), api=False), methods=["POST"]),
        Route("/devnet/forget-quotes", answer(forget_quotes, api=False), methods=["POST"]),
        Route("/devnet/reset", answer(reset, api=False), methods=["POST"]),
    ]
    missing = answer(_not_found, api=False)
    return FaultMiddleware(Starlette(routes=routes, exception_handlers={404: _as_handler(missing)}), control)


def serve(
    *,
    port: int,
    rpc_port: int,
    fork_url: str | None,
    also: Sequence[int] = (),
    api_key: str,
    delays: Delays,
    on_ready: Callable[[dict[str, Any]], None],
    stop_on_stdin_eof: bool,
) -> None:
    """Run chain and orchestrator until SIGTERM or SIGINT (or, on demand, until stdin ends).

    Call it from the main thread: it handles signals, and anvil ends with the thread.

    Args:
        port: port of the orchestrator, 0 for a free one.
        rpc_port: port of the chain, 0 for a free one.
        fork_url: fork this chain.
        also: ids of further chains, each with an anvil of its own.
        api_key: what clients must send as ``x-api-key``.
        delays: the first delays.
        on_ready: called once with ``rpc_url``, ``orchestrator_url``, ``anvil_pid``, ``first_block``, and ``also``: for
            each further chain ``chain_id``, ``rpc_url``, ``anvil_pid`` and ``first_block``.
        stop_on_stdin_eof: end when the other side of stdin goes away, which happens however the parent ends.

    Raises:
        DevnetError: a port is taken, or anvil does not start.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn takes the signals over while it serves and raises them again when it is done
        signal.signal(number, _exit)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(port))
        anvils = [stack.enter_context(Anvil(port=rpc_port, fork_url=fork_url))]
        anvils += [stack.enter_context(Anvil(chain_id=chain_id)) for chain_id in also]
        chains = [
            Chain(stack.enter_context(JsonRpc(anvil.rpc_url)), forked=fork_url is not None)
            for anvil in anvils
        ]
        for chain in chains:
            chain.install()
        orchestrator = DevOrchestrator(chains, delays)
        app = make_app(orchestrator, Control(), api_key)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            http="h11",
            timeout_graceful_shutdown=GRACE_S,
            # as usual servers and balancers; clients give idle connections up earlier, and never write to a dead one
            timeout_keep_alive=60,
        )
        server = uvicorn.Server(config)
        if stop_on_stdin_eof:
            threading.Thread(target=_watch_parent, args=(server,), daemon=True).start()
        facts = [
            {
                "chain_id": chain.chain_id,
                "rpc_url": anvil.rpc_url,
                "anvil_pid": anvil.pid,
                "first_block": chain.first_block,
            }
            for anvil, chain in zip(anvils, chains, strict=True)
        ]
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        on_ready({**facts[0], "orchestrator_url": url, "also": facts[1:]})
        try:
            server.run(sockets=[listener])
        finally:
            orchestrator.stop()


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise DevnetError(
            f"port {port} cannot be used: {error.strerror}", field="port", fix="choose another port, or 0"
        ) from None
    return listener


def _exit(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _watch_parent(server: uvicorn.Server) -> None:
    """End the server when stdin ends, or when the parent is gone and a child of its keeps stdin open."""
    parent = os.getppid()
    descriptor = sys.stdin.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while os.getppid() == parent:
            if selector.select(PARENT_CHECK_S) and not os.read(descriptor, 4096):
                break
    server.should_exit = True


def _alps_body(error: ApiError, trace: str) -> dict[str, Any]:
    return error.body(trace)


def _speaks_blanc(request: Request) -> bool:
    return request.headers.get("x-api-version") == BLANC


def _check_headers(request: Request, api_key: str | None, versions: tuple[str, ...]) -> None:
    version = request.headers.get("x-api-version", ALPS)
    if version not in versions:
        raise ApiError(400, f"Unsupported API version {version}", {"supported": list(versions)})
    if api_key is None:
        return
    given = request.headers.get("x-api-key")
    if not given:
        raise ApiError(401, "Authentication is required")
    if not hmac.compare_digest(given.encode(), api_key.encode()):
        raise ApiError(401, "Invalid API key")


async def _text(request: Request) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        raise ApiError(400, "entity.parse.failed") from None


async def _body(request: Request) -> Any:
    text = await _text(request)
    if request.method in ("GET", "DELETE") or not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise ApiError(400, "entity.parse.failed") from None


def _not_found(_request: Request, _body: Any) -> Any:
    raise ApiError(404, "Not Found")


def _as_handler(endpoint: Callable[[Request], Any]) -> Callable[[Request, Exception], Any]:
    async def handler(request: Request, _error: Exception) -> Response:
        return await endpoint(request)

    return handler
