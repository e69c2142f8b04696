"""What was set aside is listed, shown, dropped with a line in the audit trail, and replayed only where that is safe."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tasks.poison import BOX, REFUSED_REQUEST, PoisonBox
from tests.support.cli import Run
from tests.support.pipeline import RECIPIENT
from worker.cli.context import runtime
from worker.execution.request import seal_request

Put = Callable[..., str]


@pytest.fixture
def box(redis_url: str) -> PoisonBox:
    return PoisonBox(redis.Redis.from_url(redis_url, protocol=2))


@pytest.fixture
def put(box: PoisonBox) -> Put:
    """Set a request aside as a worker would; its id."""

    def place(request: dict[str, Any], why: str = "session: is not known") -> str:
        box.put(REFUSED_REQUEST, "prepare", json.dumps(request).encode(), why=why)
        return box.newest(1)[0].poison_id

    return place


def transfer(session: str, key: str) -> dict[str, Any]:
    return {"session": session, "key": key, "to": RECIPIENT, "amount": "1 USDC"}


def sealed(request: dict[str, Any]) -> dict[str, Any]:
    return seal_request(runtime().sealer, request)


def audited(what: str) -> list[dict[str, Any]]:
    """Lines of the audit trail about one kind of change."""
    trail = runtime().audit.path.read_text().splitlines()
    return [line for line in map(json.loads, trail) if line.get("what") == what]


def test_every_kind_is_listed_by_page_and_kind(command: Run, box: PoisonBox) -> None:
    for number in range(3):
        box.put("not-json", "sign", f"text {number}".encode())
    box.put("too-large", "watch", b"x" * 100_000)
    rows = json.loads(command("poison", "list", "--json")[1])
    assert [row["kind"] for row in rows] == ["too-large", "not-json", "not-json", "not-json"]
    assert (rows[0]["size"], len(rows[0]["beginning"])) == (100_000, 4_096)
    assert len({row["id"] for row in rows}) == 4
    page = command("poison", "list", "--kind", "not-json", "--limit", "1", "--offset", "1", "--json")[1]
    assert [row["beginning"] for row in json.loads(page)] == ["text 1"]
    # without a command, as it always was
    assert json.loads(command("poison", "--kind", "too-large", "--json")[1]) == rows[:1]
    assert "text 2" in command("poison")[1]
    code, _, err = command("poison", "--json", "show", "1")
    assert (code, err) == (
        2,
        "error: --json: stands before the command (write it after list, show, drop or replay)\n",
    )


def test_show_and_drop_by_id_or_number(command: Run, box: PoisonBox) -> None:
    for number in range(3):
        box.put("not-json", "sign", f"text {number}".encode())
    oldest = box.newest()[2].poison_id
    assert json.loads(command("poison", "show", oldest, "--json")[1])["beginning"] == "text 0"
    assert "text 2" in command("poison", "show", "1")[1]
    assert command("status")[0] == 1
    assert json.loads(command("status", "--json")[1])["poison"] == 3
    code, out, err = command("poison", "drop", oldest, "1", "--why", "our monitoring")
    assert (code, err) == (0, "2 dropped\n")
    assert oldest in out
    assert [found.entry["beginning"] for found in box.newest()] == ["text 1"]
    lines = audited("poison dropped")
    assert [line["beginning"] for line in lines] == ["text 0", "text 2"]
    assert {line["why"] for line in lines} == {"our monitoring"}
    assert all("@" in line["who"] for line in lines)
    code, _, err = command("poison", "show", oldest)
    assert code == 2
    assert "is not among them (see `session-executor poison list`)" in err
    assert command("poison", "drop")[0] == 2
    assert command("poison", "drop", "1", "--all")[0] == 2
    assert command("poison", "drop", "1", "--kind", "not-json")[0] == 2
    box.put("too-large", "watch", b"x")
    assert command("poison", "drop", "--all", "--kind", "not-json")[2] == "1 dropped\n"
    assert command("poison", "drop", "--all")[2] == "1 dropped\n"
    assert command("poison", "list")[1] == "nothing was set aside\n"
    # somebody has looked: status is well again, and the counts of what there ever was stay
    found = json.loads(command("status", "--json")[1])
    assert (found["poison"], found["poison_ever"]) == (0, {"not-json": 3, "too-large": 1})
    assert command("status")[0] == 0


def test_a_sealed_request_is_replayed_once_nothing_stands_against_it(
    command: Run, session: str, box: PoisonBox, put: Put
) -> None:
    request = sealed(transfer(session, "a"))
    refused = put(request)
    again = put(request)
    code, out, _ = command("poison", "replay", refused)
    assert code == 0
    intent = out.split()[0]
    assert json.loads(command("intents", "show", intent, "--json")[1])["key"] == "a"
    # the same key is the same intent, whoever asks again
    found = json.loads(command("poison", "replay", again, "--json")[1])
    assert found == {"intent_id": intent, "state": "QUEUED", "created": False}
    assert box.waiting() == 0
    assert [line["intent_id"] for line in audited("poison replayed")] == [intent] * 2
    assert len(json.loads(command("intents", "list", "--json")[1])) == 1


@pytest.mark.parametrize("change", ["none", "altered", "of-another"])
def test_a_request_without_our_seal_is_not_replayed(
    command: Run, session: str, box: PoisonBox, put: Put, change: str
) -> None:
    request = transfer(session, "a")
    if change == "altered":
        request = {**sealed(request), "amount": "2 USDC"}
    elif change == "of-another":
        request = {**request, "seal": sealed(transfer(session, "b"))["seal"]}
    refused = put(request)
    code, _, err = command("poison", "replay", refused)
    assert code != 0
    assert err.startswith("error: seal: ")
    assert json.loads(command("intents", "list", "--json")[1]) == []
    assert box.waiting() == 1


def test_what_still_cannot_be_an_intent_stays_and_says_why(
    command: Run, session: str, box: PoisonBox, put: Put
) -> None:
    refused = put(sealed(transfer("ses_0000000000000000", "a")))
    code, _, err = command("poison", "replay", refused)
    assert code == 2
    assert err.startswith("error: session: ")
    assert box.waiting() == 1


def test_nothing_else_is_put_back_into_a_queue(command: Run, session: str, box: PoisonBox, put: Put) -> None:
    stage = json.dumps({"headers": {"task": "tasks.sign"}, "body": "W10="}).encode()
    box.put("wrong-arguments", "sign", stage)
    code, _, err = command("poison", "replay", "1")
    assert code == 2
    assert "is no request for an intent, and only those can be replayed (drop it: " in err
    assert json.loads(command("poison", "show", "1", "--json")[1])["replay"].startswith("is no request")
    put(sealed({**transfer(session, "a"), "note": "x" * 20_000}))
    code, _, err = command("poison", "replay", "1")
    assert code == 2
    assert "was too long to be kept whole" in err
    assert box.waiting() == 2


def test_what_others_have_written_there_breaks_nothing(command: Run, box: PoisonBox, redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url, protocol=2)
    client.lpush(
        BOX, b"\xff\x00", b"[]", b'{"at_ms": "yesterday", "kind": 7}', b'{"beginning": "\\u001b[2J"}'
    )
    code, out, _ = command("poison", "list")
    assert code == 0
    assert "\x1b" not in out
    for number in range(1, 5):
        assert command("poison", "show", str(number))[0] == 0
    assert command("poison", "drop", "--all")[2] == "4 dropped\n"
