"""``session-executor health``: for supervisors and orchestrators of containers, as exit codes or over HTTP.

*Live*: a heartbeat sent through the workers comes back, so their messages are dealt with. *Ready*: what a worker needs
answers, so what it takes can be done. A worker that is not live wants a restart, one that is not ready wants its services.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.settings import broker_of
from worker.cli.context import settings
from worker.cli.doctor import chain_answers, ledger, no_dispatch, redis
from worker.cli.looks import Finding, Group, Look, Seen, look_at, ok
from worker.cli.output import note, print_json, print_line
from worker.cli.pages import Page, listen
from worker.errors import InputError

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.execution.runtime import Runtime

app = typer.Typer(
    help="Does it work? Exit code 0 when well, 1 when not, 2 for wrong options: docs/operations.md.",
    invoke_without_command=True,
)

#: A worker whose slots all wait for slow replies answers when one is free; one such reply may take this long.
TIMEOUT_S = 10.0
#: How long an answer over HTTP is given again: probes of several askers cost one look, and none is old.
KEEP_S = 1.0
_MARKS = {"ok": "ok", "warn": "warning", "fail": "FAILED"}

WorkerOption = Annotated[
    str, typer.Option("--worker", help="Only this worker, NAME@HOST as in its --hostname (%h: this host).")
]
BeatOption = Annotated[
    bool,
    typer.Option("--beat", help="Only beat: whether a scheduler holds the lock, so that strategies fire."),
]
QueuesOption = Annotated[
    str, typer.Option("--queues", help="Only what a worker of these queues needs, comma-separated.")
]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", help="Seconds; what has not answered by then is not well.", min=0.1, max=300),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def health(
    context: typer.Context,
    http: Annotated[
        str, typer.Option("--http", help="[HOST:]PORT: serve /live and /ready (200 or 503); on loopback.")
    ] = "",
    worker: WorkerOption = "",
    beat: BeatOption = False,
    queues: QueuesOption = "",
    timeout_s: TimeoutOption = TIMEOUT_S,
) -> None:
    """Does it work? Exit code 0 when well, 1 when not, 2 for wrong options: docs/operations.md."""
    if context.invoked_subcommand is not None:
        if http or worker or beat or queues:
            raise InputError(
                f"give it after `{context.invoked_subcommand}`, or no command with --http",
                field="--http" if http else "--worker" if worker else "--beat" if beat else "--queues",
            )
        return
    if not http:
        raise InputError(
            "what is to be looked at?", field="health", fix="use `live`, `ready` or `--http PORT`"
        )
    _serve(http, worker=worker, beat=beat, queues=queues, timeout_s=timeout_s)


@app.command("live")
def live_command(
    worker: WorkerOption = "",
    beat: BeatOption = False,
    timeout_s: TimeoutOption = TIMEOUT_S,
    as_json: JsonFlag = False,
) -> None:
    """Whether workers deal with their messages: a heartbeat goes through each and comes back. One line per part."""
    _end(Live(settings(), worker=worker, beat=beat, timeout_s=timeout_s)(), as_json=as_json)


@app.command("ready")
def ready_command(
    queues: QueuesOption = "", timeout_s: TimeoutOption = TIMEOUT_S, as_json: JsonFlag = False
) -> None:
    """Whether Redis, the ledger, the keys, the orchestrator and the chains answer. One line per part."""
    _end(Ready(settings(), queues=queues, timeout_s=timeout_s)(), as_json=as_json)


class Live:
    """Whether workers, or beat, deal with what they are there for.

    Args:
        config: the settings.
        worker: one worker's name, ``%h`` for this host; without it all that have registered, and whether each queue
            is served by one of them.
        beat: beat's lock instead.
        timeout_s: how long a heartbeat may take.

    Raises:
        InputError: the two exclude each other, or it is no worker's name.
    """

    def __init__(self, config: Settings, *, worker: str, beat: bool, timeout_s: float) -> None:
        from celery.utils.nodenames import host_format

        from tasks.heartbeat import Fleet
        from worker.execution.dispatch import celery_app

        if worker and beat:
            raise InputError("excludes --beat", field="--worker", fix="ask for one of them")
        self._node = str(host_format(worker)) if worker else ""
        if self._node.count("@") != (1 if worker else 0):
            raise InputError(
                f"{worker[:60]!r} is no worker's name",
                field="--worker",
                fix="give NAME@HOST, as in --hostname",
            )
        self._beat, self._timeout_s, self._config = beat, timeout_s, config
        self._fleet, self._app = Fleet(config), celery_app(config)

    def __call__(self) -> list[Finding]:
        """Look now."""
        if self._beat:
            return [look_at("beat", lambda: self._problem("beat", "start it", "a scheduler holds the lock"))]
        found: list[Finding] = []
        asked = look_at("redis", lambda: self._ask(found))
        return found if asked.status == "ok" else [asked]

    def _ask(self, found: list[Finding]) -> Seen:
        from config.celery import QUEUES
        from tasks.heartbeat import uncovered

        there = self._fleet.workers()
        if self._node:
            there = {self._node: there[self._node]} if self._node in there else {}
        answers = self._fleet.ask(self._app, there, timeout_s=self._timeout_s)
        for node, queues in there.items():
            serves = f"serves {', '.join(queues)}"
            if node in answers:
                found.append(Finding(node, "ok", f"answered in {answers[node] * 1000:.0f} ms, {serves}"))
            else:
                found.append(
                    Finding(
                        node,
                        "fail",
                        f"no heartbeat came back within {self._timeout_s:g} s; {serves}",
                        "see its log; a worker whose slots are all busy answers later, one that hangs wants a restart",
                    )
                )
        if self._node:
            if not there:
                found.append(
                    Finding(
                        self._node,
                        "fail",
                        "no worker of this name has registered",
                        "start it, or compare the name with its --hostname",
                    )
                )
            return ok("answers")
        missing = uncovered({node: there[node] for node in answers}, QUEUES)
        found.append(
            Finding(
                "queues",
                "fail",
                f"no worker takes messages from {', '.join(missing)}",
                "start one that serves them (Procfile)",
            )
            if missing
            else Finding("queues", "ok", "each is served")
        )
        found.append(look_at("ticks", lambda: self._problem("worker", "add workers", "they are taken")))
        return ok("answers")

    def _problem(self, role: Any, fix: str, well: str) -> Seen:
        from config.health import problem

        told = problem(role, self._config)
        return ("fail", told, fix) if told else ok(well)


class Ready:
    """Whether what a worker needs answers. One of it may be used again and again: it keeps its connections and logins.

    Args:
        config: the settings.
        queues: comma-separated; only what a worker of these needs. A worker that signs needs the keys, any other one
            the orchestrator; both need the rest.
        timeout_s: how long all of it may take.

    Raises:
        InputError: there is no such queue.
    """

    def __init__(self, config: Settings, *, queues: str, timeout_s: float) -> None:
        from config.celery import QUEUES, SIGN_QUEUES
        from worker.execution.runtime import Runtime

        served = [name.strip() for name in queues.split(",")] if queues else list(QUEUES)
        for name in served:
            if name not in QUEUES:
                raise InputError(
                    f"{name[:60]!r} is no queue", field="--queues", fix=f"use some of {', '.join(QUEUES)}"
                )
        self._signs = not set(served).isdisjoint(SIGN_QUEUES)
        self._talks = not set(served) <= set(SIGN_QUEUES)
        self._timeout_s = timeout_s
        self._services = Runtime(config, dispatch=no_dispatch)
        for module in ("worker.chain.reader", "worker.keys.keystore", "worker.keys.vault"):
            import_module(module)  # before the clock runs: they take a second

    def __call__(self) -> list[Finding]:
        """Look now, at all of it at the same time."""
        services, ends = self._services, time.monotonic() + self._timeout_s
        groups = [Group(self._redis()), Group([("keys", lambda: ok(_keys(services, signs=self._signs)))])]
        if self._talks:
            groups.append(Group([("orchestrator", lambda: ok(services.orchestrator.check()))]))
        groups += [Group([_chain(services, chain_id)]) for chain_id in services.chain_ids]
        return [finding for group in groups for finding in group.findings(ends, self._timeout_s)]

    def _redis(self) -> list[Look]:
        config = self._services.settings
        url, broker = config.redis_url.get_secret_value(), broker_of(config)
        looks: list[Look] = [
            ("redis", lambda: redis(config, url)),
            ("ledger", lambda: ledger(self._services)),
        ]
        if broker != url:
            looks.append(("broker", lambda: redis(config, broker)))
        return looks


def _chain(services: Runtime, chain_id: int) -> Look:
    return f"chain {chain_id}", lambda: ok(chain_answers(services.chain_of(chain_id)))


def _keys(services: Runtime, *, signs: bool) -> str:
    """The key store, for who signs; and the keys of the seals, which every worker needs."""
    from worker.keys.vault import VaultKeyStore

    keys = services.keys if signs or services.settings.record_keys_file is None else None
    if services.settings.vault_wrapped_secret_id is not None and isinstance(keys, VaultKeyStore):
        # it can be unwrapped once, and that is the worker's to do
        return f"{keys.reachable()}; not logged in, since the secret id is wrapped"
    told = services.keys.check() if signs else ""
    services.seal_keys()
    return f"{told}; records can be sealed" if told else "records can be sealed"


class Kept:
    """Makes an answer at most once in ``KEEP_S`` seconds, or in as long as it took; whoever asks meanwhile gets the last.

    One look at a time: a storm of probes is no load on what is looked at.
    """

    def __init__(self, look: Callable[[], list[Finding]]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._page = Page(503, "", b"")
        self._good_until = 0.0

    def __call__(self) -> Page:
        """The page of the last look, or of a new one."""
        with self._lock:
            begin = time.monotonic()
            if begin >= self._good_until:
                found = self._look()
                body = json.dumps(_as_json(found), ensure_ascii=False).encode() + b"\n"
                self._page = Page(200 if is_well(found) else 503, "application/json", body)
                end = time.monotonic()
                self._good_until = end + max(KEEP_S, end - begin)
            return self._page


def is_well(found: list[Finding]) -> bool:
    """Whether no part has failed."""
    return all(finding.status != "fail" for finding in found)


def _as_json(found: list[Finding]) -> dict[str, Any]:
    return {"ok": is_well(found), "parts": [asdict(finding) for finding in found]}


def _end(found: list[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(found))
    else:
        for part in found:
            fix = f" (fix: {_one_line(part.fix)})" if part.fix else ""
            print_line(f"{_MARKS[part.status]:8}{part.what}: {_one_line(part.detail)}{fix}")
    if not is_well(found):
        raise typer.Exit(1)


def _one_line(text: str) -> str:
    return "; ".join(text.split("\n"))


def _serve(where: str, *, worker: str, beat: bool, queues: str, timeout_s: float) -> None:
    config = settings()
    host, _, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InputError(f"{where[:60]!r} is no [HOST:]PORT", field="--http", fix="e.g. 8080 or 0.0.0.0:8080")
    pages = {
        "/live": Kept(Live(config, worker=worker, beat=beat, timeout_s=timeout_s)),
        "/ready": Kept(Ready(config, queues=queues, timeout_s=timeout_s)),
    }
    with listen(pages, host, int(port), field="--http") as server:
        # not from the handler itself: it runs in the thread that it would wait for
        stop = threading.Thread(target=server.shutdown, daemon=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.start() if stop.ident is None else None)
        at = f"[{host}]" if ":" in host else host
        note(f"serving http://{at}:{server.server_port}/live and /ready")
        server.serve_forever(poll_interval=0.2)
