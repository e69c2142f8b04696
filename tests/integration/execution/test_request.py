"""``worker.enqueue`` from Python: typed, checked, and safe to repeat."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import worker
from tests.support.pipeline import RECIPIENT, Pipeline, transfer
from tests.support.sessions import USDC
from worker.errors import InputError, ServiceError
from worker.intents.states import State
from worker.intents.trade import TokenRequest, Trade


def test_it_is_queued_once_and_executes(pipeline: Pipeline) -> None:
    asked: dict[str, Any] = {
        "session": pipeline.session.session_id,
        "key": "invoice-42",
        "to": RECIPIENT,
        "amount": "10 USDC",
        "not_after": datetime.now(UTC) + timedelta(hours=1),
        "settings": pipeline.settings,
    }
    first, second = worker.enqueue(**asked), worker.enqueue(**asked)
    assert (first.created, second.created) == (True, False)
    record = first.record
    assert record.intent_id == second.record.intent_id
    assert record.intent.calls == (transfer(10_000_000),)
    assert (record.intent.source, record.intent.note) == ("api", f"transfer 10 USDC to {RECIPIENT}")
    pipeline.messages.append(("prepare", record.intent_id))  # the broker's message, which nobody takes here
    assert pipeline.run(record.intent_id)[0].state is State.COMPLETED


def test_calls_and_trades(pipeline: Pipeline) -> None:
    common: dict[str, Any] = {"session": pipeline.session.session_id, "settings": pipeline.settings}
    call = transfer(1)
    written = {"to": call.to, "data": "0x" + call.data.hex()}
    for number, given in enumerate(((call,), [written])):
        found = worker.enqueue(key=f"call {number}", calls=given, urgent=True, **common)
        assert found.record.intent.calls == (call,)
        assert found.record.intent.urgent
    trade = Trade(tokens=(TokenRequest(USDC, 2**255),))
    with pytest.raises(InputError):  # the session has no claim to sign it with
        worker.enqueue(key="trade", trade=trade, **common)
    with pytest.raises(InputError) as caught:
        worker.enqueue(key="trade", trade={"tokns": []}, **common)
    assert "tokns" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"session": "ses_0123"}, "session"),
        ({"session": "ses_0000000000000000"}, "session"),
        ({"key": ""}, "key"),
        ({"to": "0x12"}, "to"),
        ({"amount": 10}, "amount"),
        ({"amount": "10"}, "amount"),
        ({"token": "USDX", "amount": "10"}, "token"),
        ({"calls": []}, "calls"),
        ({"to": None, "amount": None, "calls": []}, "calls"),
        ({"to": None, "amount": None, "calls": ["nothing"]}, "calls"),
        ({"not_after": datetime(2100, 1, 1)}, "not_after"),  # noqa: DTZ001 - without a zone, on purpose
        ({"not_after": 1.5}, "not_after"),
        ({"sponsored": "no"}, "sponsored"),
        ({"note": 7}, "note"),
    ],
)
def test_what_cannot_be_an_intent_names_the_argument(
    pipeline: Pipeline, changes: dict[str, Any], field: str
) -> None:
    asked: dict[str, Any] = {
        "session": pipeline.session.session_id,
        "key": "k",
        "to": RECIPIENT,
        "amount": "10 USDC",
        "settings": pipeline.settings,
    }
    with pytest.raises(InputError) as caught:
        worker.enqueue(**(asked | changes))
    assert caught.value.field == field
    assert pipeline.ledger.list_intents() == []


def test_without_redis_it_says_so(pipeline: Pipeline) -> None:
    nowhere = type(pipeline.settings.redis_url)("redis://127.0.0.1:1/0")
    settings = pipeline.settings.model_copy(update={"redis_url": nowhere})
    with pytest.raises(ServiceError):
        worker.enqueue(
            session=pipeline.session.session_id, key="k", to=RECIPIENT, amount="1 USDC", settings=settings
        )
