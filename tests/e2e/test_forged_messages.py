"""Somebody with Redis and nothing else sends a worker messages: none of them has anything signed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from config.celery import queue_of
from tests.support.e2e import Trader
from tests.support.pipeline import RECIPIENT
from tests.support.sessions import USDC
from worker.audit import kept_beside, lines, verify
from worker.devnet.stack import Stack
from worker.execution.request import seal_request
from worker.intents.states import State
from worker.ledger.redis_ledger import AWAITING_APPROVAL
from worker.policies.guardrails import SESSION_SCOPE, Guardrails, ScopeRules, TokenAmount

pytestmark = pytest.mark.services


def test_no_message_signs_what_was_not_asked_for(make_stack: Callable[..., Stack], redis_url: str) -> None:
    stack = make_stack(concurrency=1)
    trader = Trader(stack)
    session = trader.import_session(stack.keys.create().address)
    held_to = Guardrails(approval_above=(TokenAmount(token=USDC, amount=15_000_000),))
    trader.runtime.sessions.set_guardrails(session.session_id, held_to, replaces=ScopeRules(SESSION_SCOPE))
    ended = trader.submit(session, "ended")
    waiting = trader.submit(session, "waiting", 20_000_000)
    trader.wait([ended])
    trader.wait_until(lambda: trader.records([waiting])[0].attention == AWAITING_APPROVAL, [waiting])
    attacker = Celery("attacker", broker=redis_url, backend=redis_url, set_as_current=False)
    attacker.conf.broker_transport_options = {"global_keyprefix": "sx:celery:"}
    unknown = ended[:-1] + ("0" if ended[-1] != "0" else "1")
    for stage in ("prepare", "sign", "submit"):
        queue = queue_of(stage, urgent=False)
        for arguments in (
            [unknown],
            ["nobody"],
            [ended],
            [waiting],
            [ended, waiting],
            [waiting, "force"],
            [],
        ):
            attacker.send_task(f"tasks.{stage}", args=arguments, queue=queue)
        attacker.send_task(
            f"tasks.{stage}", kwargs={"intent_id": waiting, "approved_by": "boss"}, queue=queue
        )
    asked: dict[str, Any] = {
        "session": session.session_id,
        "key": "forged",
        "to": RECIPIENT,
        "amount": "1 USDC",
    }
    sealed = seal_request(trader.runtime.sealer, asked)
    forged = [
        attacker.send_task("tasks.enqueue", kwargs=request, queue="prepare")
        for request in (
            asked,
            {**sealed, "key": "other"},
            {**sealed, "amount": "9 USDC"},
            {**asked, "seal": "00"},
        )
    ]
    for result in forged:
        assert result.get(timeout=60, propagate=False) is not None
        assert (result.state, str(result.result).partition(":")[0]) == ("FAILURE", "seal")

    # what was sent before this one has been read when it is through
    after = trader.submit(session, "after")
    trader.wait([after])
    trail = trader.runtime.audit.path
    trader.wait_until(lambda: _refused(trail)["task"] >= 6 and _refused(trail)["wrong-arguments"] >= 12)
    assert _refused(trail) == {"task": 6, "wrong-arguments": 12, "refused-request": 4}
    verify(trail, {"beside the file": kept_beside(trail)})
    signed = [entry["intent_id"] for entry in lines(trail) if entry["event"] == "signing"]
    assert signed == [ended, after]
    assert trader.executed() == 2
    [record] = trader.records([waiting])
    assert (record.state, record.attention, record.body) == (State.QUEUED, AWAITING_APPROVAL, "")
    assert len(trader.runtime.ledger.list_intents()) == 3


def _refused(trail: Any) -> Counter[str]:
    """Lines about messages that were refused: for naming no intent (``task``), or of a kind of poison."""
    found = [entry for entry in lines(trail) if entry["event"] == "message refused"]
    return Counter(str(entry.get("kind", "task")) for entry in found)
