"""The Celery app of ``tasks.app`` with places to die at, and with guards taken away on demand.

Nothing of this is in the product: functions of the pipeline are wrapped by name. The driver arms a place for one intent
with a file ``<intent id>.<point>.<n>`` in the folder ``CHAOS_DIR``, whose text says what shall happen there:

- ``child``       SIGKILL of this pool process,
- ``tree``        SIGKILL of the worker with all of its pool,
- ``tell``        the driver is told and does its worst; this process goes on when it is done,
- ``tell child``  the same, and then SIGKILL of this pool process,
- ``raise``       an error that nobody expects,
- ``abort``       SIGABRT, after which the kernel would write a core file.

An armed place is used up by whoever comes first: the file is renamed, and a rename succeeds once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from tasks.app import app
from tests.chaos.mutations import MUTATIONS
from worker.execution import watch
from worker.execution.attempt import Attempt
from worker.intents.states import State
from worker.keys.keystore import KeystoreFiles
from worker.keys.vault import VaultKeyStore
from worker.ledger.redis_ledger import RedisLedger
from worker.orchestrator.alps import AlpsOrchestrator

__all__ = ["app"]

#: Longer than the driver needs to restart Redis, shorter than a task's hard limit.
_GO_TIMEOUT_S = 20.0
#: The driver has the devnet hold every submit for longer than this.
_POST_UNDER_WAY_S = 0.2

_folder = Path(os.environ["CHAOS_DIR"])
_current = threading.local()


def _hit(point: str, intent_id: str) -> None:
    """Do what is armed for this intent at this point, if anything is."""
    for armed in sorted(_folder.glob(f"{intent_id}.{point}.*")):
        if armed.suffix in {".fired", ".reached", ".go"}:
            continue
        what = armed.read_text() if armed.exists() else ""
        fired = armed.with_name(armed.name + ".fired")
        try:
            armed.rename(fired)
        except FileNotFoundError:
            continue  # another process was first
        if what.startswith("tell"):
            _tell(armed)
        if what == "tree":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        if what.endswith("child"):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "abort":
            os.abort()
        if what == "raise":
            raise RuntimeError(point)
        return


def _tell(armed: Path) -> None:
    armed.with_name(armed.name + ".reached").touch()
    go = armed.with_name(armed.name + ".go")
    deadline = time.monotonic() + _GO_TIMEOUT_S
    while not go.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def _of_this_thread() -> str:
    return getattr(_current, "intent_id", "")


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace ``owner.name`` by ``wrapper(real, ...)``."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(real, *args, **kwargs)

    setattr(owner, name, wrapped)


def _claim(real: Callable[..., Any], ledger: RedisLedger, intent_id: str, **how: Any) -> Any:
    if State.QUEUED in how["states"]:
        _hit("before_claim", intent_id)
    return real(ledger, intent_id, **how)


def _attempt(real: Callable[..., Any], attempt: Attempt, runtime: Any, record: Any) -> None:
    _current.intent_id = record.intent_id
    real(attempt, runtime, record)


def _quote(real: Callable[..., Any], *args: Any) -> Any:
    quote = real(*args)
    _hit("after_quote", _of_this_thread())
    return quote


def _transition(real: Callable[..., Any], ledger: RedisLedger, intent_id: str, **how: Any) -> None:
    if how["to_state"] is State.COMPLETED:
        _hit("settling", intent_id)
    real(ledger, intent_id, **how)
    after = {
        State.AUTHORIZED: "after_reserve",
        State.SIGNED: "after_signed_stored",
        State.COMPLETED: "settled",
    }
    if how["to_state"] in after:
        _hit(after[how["to_state"]], intent_id)


@contextlib.contextmanager
def _key(real: Callable[..., Any], *args: Any) -> Generator[Any]:
    with real(*args) as held:
        _hit("after_key_fetch", _of_this_thread())
        yield held


def _submit(real: Callable[..., Any], orchestrator: AlpsOrchestrator, body: str, **how: Any) -> Any:
    intent_id = _of_this_thread()

    def strike() -> None:
        time.sleep(_POST_UNDER_WAY_S)
        _hit("during_post", intent_id)

    threading.Thread(target=strike, daemon=True).start()
    result = real(orchestrator, body, **how)
    _hit("after_accept", intent_id)
    return result


def _poll(real: Callable[..., Any], runtime: Any, record: Any) -> None:
    _current.intent_id = record.intent_id
    real(runtime, record)


def _status(real: Callable[..., Any], *args: Any) -> Any:
    _hit("polling", _of_this_thread())
    return real(*args)


_wrap(RedisLedger, "claim", _claim)
_wrap(RedisLedger, "transition", _transition)
_wrap(Attempt, "__init__", _attempt)
_wrap(AlpsOrchestrator, "quote", _quote)
_wrap(AlpsOrchestrator, "submit", _submit)
_wrap(AlpsOrchestrator, "status", _status)
_wrap(KeystoreFiles, "get", _key)
_wrap(VaultKeyStore, "get", _key)
_wrap(watch, "poll", _poll)
for mutation in filter(None, os.environ.get("CHAOS_MUTATION", "").split(",")):
    MUTATIONS[mutation]()
