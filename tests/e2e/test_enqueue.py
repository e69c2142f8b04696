"""A Celery producer that knows nothing of this program, against a real worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from tests.support.e2e import Trader, run_command
from tests.support.pipeline import RECIPIENT
from worker.devnet.stack import Stack
from worker.execution.request import seal_request
from worker.intents.states import State

pytestmark = pytest.mark.services


def test_any_producer_enqueues_by_task_name(make_stack: Callable[..., Stack], redis_url: str) -> None:
    stack = make_stack(concurrency=1)
    trader = Trader(stack)
    session = trader.import_session(stack.keys.create().address)
    app = Celery("theirs", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": "sx:celery:"}

    def send(**request: Any) -> AsyncResult:
        sealed = seal_request(trader.runtime.sealer, request)
        return app.send_task("tasks.enqueue", kwargs=sealed, queue="prepare")

    def ask(key: str, **changes: Any) -> AsyncResult:
        given: dict[str, Any] = {
            "session": session.session_id,
            "key": key,
            "to": RECIPIENT,
            "amount": "1 USDC",
        }
        return send(**(given | changes))

    good = [ask("a"), ask("a"), ask("b", urgent=True, not_after=4_102_444_800)]
    bad = {
        "amount": ask("c", amount=1),
        "amout": ask("d", amout="1 USDC"),
        "key": ask("a", amount="2 USDC"),
        "session": ask("e", session="ses_0000000000000000"),
        "seal": app.send_task(
            "tasks.enqueue",
            kwargs={"session": session.session_id, "key": "g", "to": RECIPIENT, "amount": "1 USDC"},
            queue="prepare",
        ),
        "calls": ask("f", to=None, amount=None, calls={"to": RECIPIENT}),
    }
    first, again, urgent = (str(result.get(timeout=60)) for result in good)
    assert first == again != urgent
    for field, result in bad.items():
        assert result.get(timeout=60, propagate=False) is not None
        assert result.state == "FAILURE"
        assert str(result.result).startswith(f"{field}: ")
    # none of them has hurt the worker
    assert [record.state for record in trader.wait([first, urgent])] == [State.COMPLETED] * 2
    assert len(trader.runtime.ledger.list_intents()) == 2
    shown = run_command(stack.environment, stack.directory, "poison", "--kind", "refused-request", "--json")
    assert shown.returncode == 0, shown.stderr
    entries = json.loads(shown.stdout)
    assert sorted(entry["why"].partition(":")[0] for entry in entries) == sorted(bad)
    assert {entry["queue"] for entry in entries} == {"prepare"}
    assert "'key': 'a'" not in stack.workers[0].log()
