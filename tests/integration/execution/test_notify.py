"""Notifications: each event at least once to each channel, signed, retried, and never in a trade's way."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from tests.support.http_stub import Answer, Seen, Stub, http_stub
from tests.support.pipeline import Pipeline, transfer
from worker.errors import InputError
from worker.execution.channels import Channel, NotSentError, read_channels
from worker.execution.notify import RETRY_S, Notifier, retry
from worker.execution.runtime import now_ms
from worker.intents.states import State
from worker.ledger.pauses import strategy_switch

SECRET = "whsec_" + base64.b64encode(hashlib.sha256(b"a webhook of the tests").digest()).decode()


class Receiver:
    """A webhook that answers what it is told to, and verifies what it gets."""

    def __init__(self) -> None:
        self.status: Callable[[], int] = lambda: 204
        self.stub = Stub("")
        #: off where the test moves the clock: a signature is good for five minutes
        self.verifies = True

    def answer(self, seen: Seen) -> Answer:
        if self.verifies:
            Webhook(SECRET).verify(seen.body.decode(), seen.headers)
        return Answer(self.status())

    @property
    def got(self) -> list[tuple[str, dict[str, Any]]]:
        return [(seen.headers["webhook-id"], json.loads(seen.body)) for seen in self.stub.seen]

    def kinds(self) -> list[str]:
        return sorted(body["type"] for _, body in self.got)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    with http_stub(made.answer) as stub:
        made.stub = stub
        yield made


def notifier(pipeline: Pipeline, receiver: Receiver, **fields: Any) -> Notifier:
    return Notifier(pipeline.runtime, [Channel("ops", receiver.stub.url + "/hook", SECRET, **fields)])


def test_every_kind_is_told_once_and_signed(pipeline: Pipeline, receiver: Receiver) -> None:
    done = pipeline.submit("done", transfer(85_000_000))
    pipeline.run(done)
    refused = pipeline.submit("refused", transfer(40_000_000))
    pipeline.run(refused)
    pipeline.devnet.add_fault(
        "respond", path="/intents/route", status=400, body={"errors": [{"message": "Insufficient balance"}]}
    )
    failed = pipeline.submit("failed", transfer(1))
    assert pipeline.run(failed)[0].state is State.FAILED
    canceled = pipeline.submit("canceled", transfer(1))
    pipeline.ledger.cancel(canceled, who="me", why="a test", now_ms=now_ms())
    asks = pipeline.submit("asks", transfer(2))
    record = pipeline.ledger.get(asks)
    pipeline.ledger.annotate(
        asks, now_ms=now_ms(), fence=record.fence, attention="NO_ROUTE", reason="there is no way"
    )
    pipeline.runtime.pauses.pause(strategy_switch("dca"), why="a test", who="me", now_ms=5)

    first = notifier(pipeline, receiver)
    assert first.step() == (7, 7)
    assert receiver.kinds() == [
        *("intent.attention", "intent.completed", "intent.failed", "intent.refused"),
        *("limit.nearly_used", "session.expiring", "strategy.paused"),
    ]
    by_kind = {body["type"]: body["data"] for _, body in receiver.got}
    assert by_kind["intent.completed"]["intent_id"] == done
    assert by_kind["intent.refused"]["reason"].startswith("spending-limits: ")
    assert "Insufficient balance" in by_kind["intent.failed"]["reason"]
    assert (by_kind["intent.attention"]["attention"], by_kind["intent.attention"]["intent_id"]) == (
        "NO_ROUTE",
        asks,
    )
    assert by_kind["limit.nearly_used"]["spent"] == "85000000"
    assert by_kind["strategy.paused"] == {"strategy": "dca", "why": "a test", "who": "me", "at_ms": 5}
    # nothing of it is told again, by this process or by another
    assert first.step() == (0, 0)
    assert notifier(pipeline, receiver).step() == (0, 0)
    assert all(notice.state == "arrived" for notice in pipeline.runtime.notices.list())


def test_a_receiver_that_is_down_is_tried_again_and_given_up_at_last(
    pipeline: Pipeline, receiver: Receiver
) -> None:
    pipeline.run(pipeline.submit("done", transfer(1)))
    clock = now_ms()
    pipeline.runtime.now_ms = lambda: clock
    sender = notifier(pipeline, receiver, events=("intent.completed",))
    receiver.status, receiver.verifies = (lambda: 503), False
    assert sender.step() == (1, 0)
    for wait_s in RETRY_S:
        clock += wait_s * 1000 - 1
        assert sender.deliver() == 0
        before = len(receiver.got)
        clock += 1
        assert sender.deliver() == 0
        assert len(receiver.got) == before + 1
    (notice,) = pipeline.runtime.notices.list()
    assert (notice.state, notice.tries, notice.problem) == (
        "given up",
        1 + len(RETRY_S),
        "ops answers 503",
    )
    clock += 10**9
    assert sender.deliver() == 0
    assert len({event_id for event_id, _ in receiver.got}) == 1
    # a person asks for it again
    receiver.status = lambda: 200
    retry(pipeline.runtime, notice.notice_id)
    assert sender.deliver() == 1
    assert pipeline.runtime.notices.get(notice.notice_id).state == "arrived"


def test_what_was_in_hand_when_the_process_died_is_sent_by_the_next(
    pipeline: Pipeline, receiver: Receiver
) -> None:
    pipeline.run(pipeline.submit("done", transfer(1)))
    clock = now_ms()
    pipeline.runtime.now_ms = lambda: clock
    first = notifier(pipeline, receiver, events=("intent.completed",))
    assert first.collect() == 1
    assert len(pipeline.runtime.notices.take(now_ms=clock, limit=10)) == 1  # and then it dies
    second = notifier(pipeline, receiver, events=("intent.completed",))
    assert second.deliver() == 0
    clock += 60_000
    assert second.deliver() == 1


def test_a_receiver_that_is_gone_gets_no_more_and_a_slow_one_holds_up_no_trade(
    pipeline: Pipeline, receiver: Receiver
) -> None:
    receiver.status = lambda: 410
    pipeline.run(pipeline.submit("done", transfer(1)))
    sender = notifier(pipeline, receiver, events=("intent.completed",))
    sender.step()
    assert pipeline.runtime.notices.list()[0].state == "given up"
    # nobody notifies at all: trades go on, and are told later
    assert pipeline.run(pipeline.submit("more", transfer(1)))[0].state is State.COMPLETED
    receiver.status = lambda: 200
    assert sender.step() == (1, 1)


def test_a_changed_body_does_not_verify(receiver: Receiver) -> None:
    channel = Channel("ops", receiver.stub.url, SECRET)
    channel.send("evt_1", '{"a":1}', title="", text="", now_s=now_ms() // 1000)
    (seen,) = receiver.stub.seen
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify('{"a":2}', seen.headers)


def test_private_addresses_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("10.0.0.1", "169.254.169.254", "127.0.0.1", "::1", "fe80::1%eth0"):
        found = [(2, 1, 6, "", (address, 443))]

        def resolve(*_: object, found: object = found, **__: object) -> object:
            return found

        monkeypatch.setattr("socket.getaddrinfo", resolve)
        with pytest.raises(NotSentError, match="not a public one"):
            Channel("ops", "https://hooks.example.com/x", SECRET).send("e", "{}", title="", text="", now_s=1)


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("nonsense", "", "no TOML"),
        ('[[chanels]]\nname = "a"\n', "", "something else"),
        ('[[channels]]\nname = "a"\n', "channels[0].url", "missing"),
        ('[[channels]]\nname = "a"\nurl = "slack://x"\ncolour = "red"\n', "channels[0].colour", "known"),
        ('[[channels]]\nname = "a"\nurl = "http://example.com"\n', "channels[0].url", "plain http"),
        (
            '[[channels]]\nname = "a"\nurl = "https://me:x@example.com"\n',
            "channels[0].url",
            "user or password",
        ),
        ('[[channels]]\nname = "a"\nurl = "https://example.com"\n', "channels[0].secret", "no secret"),
        ('[[channels]]\nname = "a"\nurl = "slack://x"\nsecret = "s"\n', "channels[0].secret", "webhook"),
        ('[[channels]]\nname = "a"\nurl = "slack://x"\nevents = ["x"]\n', "channels[0].events", "known"),
        ('[[channels]]\nname = "a"\nurl = "slack://x"\n' * 2, "channels[1].name", "another"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_place(
    tmp_path: Path, text: str, field: str, words: str
) -> None:
    path = tmp_path / "channels.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InputError) as caught:
        read_channels(path)
    assert caught.value.field == (field or str(path))
    assert words in str(caught.value)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "channels.toml"
    path.write_text(f'[[channels]]\nname = "ops"\nurl = "https://example.com"\nsecret = "{SECRET}"\n')
    path.chmod(0o640)
    with pytest.raises(InputError, match="can be read by others"):
        read_channels(path)
    path.chmod(0o600)
    (channel,) = read_channels(path)
    assert channel.name == "ops"
    assert SECRET not in repr(channel)
