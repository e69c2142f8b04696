"""The Celery app. A task is thin: it loads nothing but an id and calls one function of ``worker/execution``.

Start a worker with ``celery -A tasks.app worker`` and the scheduler with ``celery -A tasks.app beat``; see ``Procfile``.
A worker that serves no queue of signing (``--queues``) asks for no session key and needs no right to read one.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache, partial, wraps
from importlib import import_module
from typing import Any, NoReturn, cast

import structlog
from celery import bootsteps, current_task
from celery.app.backends import by_url
from celery.backends.base import Backend
from celery.exceptions import Ignore, Reject
from celery.schedules import schedule
from celery.signals import (
    beat_init,
    celeryd_after_setup,
    setup_logging,
    worker_init,
    worker_process_shutdown,
    worker_ready,
)
from kombu.entity import Exchange, Queue

from config.celery import SIGN_QUEUES, URGENT, WAKE_S, heartbeat_queue, queue_of
from config.logging import configure_logging
from config.settings import SettingsError, broker_of, get_settings
from tasks.heartbeat import REGISTER_EVERY_S, Fleet
from tasks.poison import REFUSED_REQUEST, PoisonBox, Signatures, guard_broker, signatures
from tasks.pool import end_in_time, guard_pool
from tasks.relay import Relay
from worker.errors import ExecutorError, InputError
from worker.execution.dispatch import celery_app, dispatcher
from worker.execution.fire import Watcher, read_strategies
from worker.execution.fire import wake as do_wake
from worker.execution.prepare import prepare as do_prepare
from worker.execution.request import submit_request, unsealed_request
from worker.execution.retention import archive_old
from worker.execution.runtime import Dispatch, Runtime
from worker.execution.sign import sign as do_sign
from worker.execution.submit import submit as do_submit
from worker.execution.watch import tick as do_tick
from worker.keys.errors import KeyStoreError
from worker.keys.memory import forbid_core_dumps
from worker.ledger.connection import connect
from worker.ledger.errors import IntentNotFoundError, LedgerUnavailableError
from worker.ledger.health import check_redis, require_fit, require_safe_url
from worker.sealing import ForgedError
from worker.sessions.errors import SessionForgedError, SessionStoreUnavailableError

log = structlog.get_logger(__name__)

#: How long a producer can ask for the result of ``tasks.enqueue``, seconds; the intent itself stays.
RESULT_S = 3_600
#: How long a request waits before it is tried again when a service is away, seconds.
_AGAIN_S = 1.0
#: How old what one stage has read of the chain may be for the next: about what an answer of an endpoint takes.
HAND_OVER_S = 1.0
#: How often a worker looks for records that have ended long ago; an hour's worth of trades is a small file.
ARCHIVE_EVERY_S = 600.0


def _exit(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(code)


try:
    settings = get_settings()
    app = celery_app(settings)
except SettingsError as problem:
    _exit(str(problem), 2)

app.set_default()


@cache
def runtime() -> Runtime:
    """This process's services; nothing in it connects before its first use, so a fork inherits no socket."""
    return Runtime(settings, dispatch=dispatch, dispatch_urgent=dispatch_urgent, hand_over_s=HAND_OVER_S)


def _serves(queues: Iterable[str]) -> bool:
    """Whether this worker takes messages from one of ``queues``; its children know it too."""
    return not set(queues).isdisjoint(app.amqp.queues.consume_from)


relay: Relay = Relay(
    {
        "prepare": lambda intent_id: do_prepare(runtime(), intent_id),
        "sign": lambda intent_id: do_sign(runtime(), intent_id),
        "submit": lambda intent_id: do_submit(runtime(), intent_id),
    },
    serves=lambda stage, urgent: _serves([queue_of(stage, urgent=urgent)]),
)
dispatch: Dispatch = relay.dispatch(dispatcher(app), urgent=False)
dispatch_urgent: Dispatch = relay.dispatch(dispatcher(app, urgent=True), urgent=True)


def _quietly(task: Callable[..., Any]) -> Callable[..., None]:
    """Our own errors become one log line: the record already says what happens next, and a traceback helps nobody."""

    @wraps(task)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            task(*args, **kwargs)
        except ExecutorError as error:
            log.warning("task not done", task=task.__name__, args=args, error=str(error))
            if isinstance(error, IntentNotFoundError):
                told = ", ".join(str(argument)[:100] for argument in args)
                runtime().audit.tell_once("message refused", task=task.__name__, args=told, why=error.message)
            elif isinstance(error, ForgedError | SessionForgedError):
                runtime().audit.tell_once("forged", task=task.__name__, why=error.message)

    return run


@app.task(name="tasks.prepare")
@_quietly
def prepare(intent_id: str) -> None:
    """QUEUED → AUTHORIZED, and on from there as far as this worker may."""
    relay.run("prepare", intent_id)


@app.task(name="tasks.sign")
@_quietly
def sign(intent_id: str) -> None:
    """AUTHORIZED → SIGNED. In a worker without a queue of signing, which holds no keys, the message is handed on."""
    if _serves(SIGN_QUEUES):
        relay.run("sign", intent_id)
        return
    task: Any = current_task
    came_by = (task.request.delivery_info or {}).get("routing_key", "")
    queue = queue_of("sign", urgent=came_by == URGENT)
    log.warning("handed on: this worker signs nothing", intent_id=intent_id, came_by=came_by, queue=queue)
    app.send_task("tasks.sign", args=[intent_id], queue=queue)


@app.task(name="tasks.submit")
@_quietly
def submit(intent_id: str) -> None:
    """SIGNED → SUBMITTED."""
    relay.run("submit", intent_id)


def _results() -> Backend:
    """Where ``tasks.enqueue`` leaves its results. No other task has any, and nobody subscribes to one to send a message."""
    kind, url = by_url(app.conf.broker_url)
    return kind(app=app, url=url, expires=RESULT_S)


@app.task(name="tasks.enqueue", bind=True, ignore_result=False, backend=_results())
def enqueue(self: Any, **request: Any) -> str:
    """A request of any Celery producer (``docs/enqueue.md``) becomes a QUEUED intent; its result is the intent's id.

    What cannot be one, or has no seal, is set aside with the reason, which is the failed result, too. While Redis or the
    keys of the seals are not there the message goes back into its queue.
    """
    try:
        asked = unsealed_request(runtime(), request)
        return submit_request(runtime(), asked, source="api").record.intent_id
    except (LedgerUnavailableError, SessionStoreUnavailableError, KeyStoreError) as error:
        log.warning("request goes back into its queue", error=str(error))
        time.sleep(_AGAIN_S)
        raise Reject(str(error), requeue=True) from None
    except ExecutorError as error:
        why = str(error)
    except Exception as error:  # ours: kept like a bad one, since nobody would send it again
        log.exception("request not read", error=type(error).__name__)
        why = f"internal error: {type(error).__name__}"
    _poison_box().put(
        REFUSED_REQUEST, self.request.delivery_info["routing_key"], json.dumps(request).encode(), why=why
    )
    self.backend.mark_as_failure(self.request.id, InputError(why), request=self.request)
    raise Ignore


@app.task(name="tasks.tick")
@_quietly
def tick() -> None:
    """Look at every intent whose time has come."""
    do_tick(runtime())


@app.task(name="tasks.archive")
@_quietly
def archive() -> None:
    """Take what ended long ago out of Redis, into an archive file."""
    archive_old(runtime())


@app.task(name="tasks.heartbeat")
@_quietly
def heartbeat(token: str) -> None:
    """Show whoever sent it that this worker deals with its messages (``tasks/heartbeat.py``)."""
    task: Any = current_task
    _fleet().answer(token, task.request.hostname)


@cache
def _fleet() -> Fleet:
    return Fleet(settings)


@cache
def _watcher() -> Watcher:
    return Watcher(runtime())


@app.task(name="tasks.wake_strategies")
@_quietly
def wake_strategies() -> None:
    """Deal with every strategy's slots that have come, each once."""
    do_wake(runtime(), _watcher().strategies())


@cache
def _our_tasks() -> Signatures:
    return signatures({name: task.run for name, task in app.tasks.items() if name.startswith("tasks.")})


@cache
def _poison_box() -> PoisonBox:
    client = connect(broker_of(settings), timeout_ms=settings.redis_timeout_ms)
    return PoisonBox(client, runtime().audit)


guard_broker(_our_tasks, _poison_box)
guard_pool()
end_in_time()


class Ticker(bootsteps.StartStopStep):
    """Sends the ``tick`` message from the worker's main process, and registers the worker.

    Not beat's work: what was sent to an orchestrator must be followed whether or not a beat runs. Several workers may
    tick; due records are handed out once.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._timers: list[Any] = []

    def start(self, parent: Any) -> None:
        """Register; start ticking if this worker serves the ``watch`` queue."""
        node = str(parent.hostname)
        queues = [name for name in app.amqp.queues.consume_from if name != heartbeat_queue(node)]
        self._register(node, queues)
        self._timers.append(parent.timer.call_repeatedly(REGISTER_EVERY_S, self._register, (node, queues)))
        if _serves(["watch"]):
            self._timers.append(parent.timer.call_repeatedly(settings.tick_ms / 1000, self._tick))
            if settings.archive_dir is not None:
                self._timers.append(parent.timer.call_repeatedly(ARCHIVE_EVERY_S, self._archive))

    def stop(self, parent: Any) -> None:
        """Stop ticking, and take no more part; called on shutdown and before every reconnect."""
        while self._timers:
            self._timers.pop().cancel()
        try:
            _fleet().leave(str(parent.hostname))
        except ExecutorError as error:
            log.info("not taken from the register: its entry ends by itself", reason=str(error))

    @staticmethod
    def _register(node: str, queues: list[str]) -> None:
        try:
            _fleet().register(node, queues)
        except ExecutorError as error:
            log.warning("worker not registered", reason=str(error), consequence="health live does not see it")

    def _tick(self) -> None:
        # nobody needs an old tick, the next one is on its way; but where tasks take seconds each must come to its turn
        self._send("tasks.tick", "watch", expires_s=max(5.0, settings.tick_ms / 100))

    def _archive(self) -> None:
        self._send("tasks.archive", "watch", expires_s=ARCHIVE_EVERY_S)

    @staticmethod
    def _send(task: str, queue: str, *, expires_s: float) -> None:
        try:
            app.send_task(task, queue=queue, expires=expires_s)
        except Exception as error:  # noqa: BLE001 - the timer must survive whatever Redis does
            log.warning("message not sent", task=task, error=type(error).__name__)


cast("dict[str, set[Any]]", app.steps)["consumer"].add(Ticker)


@celeryd_after_setup.connect
def _serve_heartbeats(sender: str, **_: Any) -> None:
    """A queue of its own for each worker, whatever ``--queues`` says; messages reach it by its name."""
    queue = app.amqp.queues.select_add(Queue(heartbeat_queue(sender)))
    # without an exchange nothing of it stays in Redis: hosts of containers have a new name each time
    queue.exchange = Exchange("")


@setup_logging.connect
def _logging(**_: Any) -> None:
    configure_logging(settings.log_level, json=settings.log_json)


@worker_init.connect
def _no_core_dumps(**_: Any) -> None:
    """Before the pool forks: children inherit it."""
    if not forbid_core_dumps():
        log.warning("this process can be dumped", consequence="whoever may read its memory can read keys")


@worker_init.connect
def _require_redis(**_: Any) -> None:
    """Refuse to work on a Redis that may lose the books, or without a memory of our own."""
    _checked(runtime().marks.check)
    _checked(lambda: runtime().tracing)
    for url in {settings.redis_url.get_secret_value(), broker_of(settings)}:
        _checked(partial(_require_fit, url))


def _require_fit(url: str) -> None:
    require_safe_url(url, allow_insecure=settings.allow_insecure_redis)
    require_fit(check_redis(url, timeout_ms=settings.redis_timeout_ms))


def _beat_schedule() -> dict[str, Any]:
    """Beat only wakes: which slots have come is found by whoever takes the message (``worker/execution/fire.py``)."""
    return {
        "strategies": {
            "task": "tasks.wake_strategies",
            "schedule": schedule(WAKE_S),
            # nobody needs an old one: the next one finds the same slots
            "options": {"queue": "prepare", "expires": 10 * WAKE_S},
        }
    }


app.conf.beat_schedule = _beat_schedule()


@worker_init.connect
def _preload(**_: Any) -> None:
    """Load once, before the pool forks, what the runtime would otherwise load in every child at its first intent."""
    for module in (
        "worker.chain.reader",
        "worker.keys.keystore",
        "worker.keys.record_keys",
        "worker.keys.vault",
        "worker.execution.trade",
    ):
        import_module(module)
    # what is loaded stays: the garbage collector of no child looks through it again, or takes a copy of its pages
    gc.collect()
    gc.freeze()


@worker_ready.connect
def _tell(**_: Any) -> None:
    """Say which of the two kinds of worker this is: the difference shows only when something has to be signed."""
    if _serves(SIGN_QUEUES):
        log.info("this worker signs", key_store=settings.key_store)
    else:
        log.info(
            "this worker signs nothing and holds no session keys",
            needs=f"another worker, with --queues {','.join(SIGN_QUEUES)} and access to the keys",
        )
    # the keys of the seals on records are in Vault, too: every worker has a token
    if settings.key_store == "vault" and (settings.record_keys_file is None or _serves(SIGN_QUEUES)):
        threading.Thread(target=_keep_token, name="keep-token", daemon=True).start()


@worker_process_shutdown.connect
def _send_last(**_: Any) -> None:
    """Spans, and the head of the audit trail: the pool's processes end without Python's own exit."""
    runtime().tracing.close()
    runtime().audit_heads.flush()


def _keep_token() -> None:
    """Keep a token alive that no child has used yet; in a thread, since a Vault that is down takes its time to say so."""
    from worker.keys.vault import VaultKeyStore  # noqa: PLC0415 - a worker with keystore files does without hvac

    try:
        keys = runtime().keys
        if isinstance(keys, VaultKeyStore):
            keys.keep_alive()
    except ExecutorError as error:
        log.warning(
            "keys cannot be had", reason=str(error), consequence="nothing is signed until that is mended"
        )


@worker_init.connect
def _unwrap(**_: Any) -> None:
    """A wrapped secret id can be unwrapped once: before the pool forks, so that every child inherits it."""
    if settings.key_store != "vault" or settings.vault_wrapped_secret_id is None:
        return
    from worker.keys.vault import VaultKeyStore  # noqa: PLC0415 - a worker with keystore files does without hvac

    def unwrap() -> None:
        keys = runtime().keys
        if isinstance(keys, VaultKeyStore):
            keys.unwrap()

    _checked(unwrap)


@beat_init.connect
def _require_strategies(**_: Any) -> None:
    """A worker can go on without strategies; who starts beat wants them, and hears at once that the file is wrong."""
    _checked(lambda: read_strategies(settings.strategies_file, settings.chain_id))


def _checked(step: Callable[[], object]) -> None:
    try:
        step()
    except ExecutorError as error:
        _exit(str(error), error.exit_code)
