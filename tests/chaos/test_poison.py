"""Messages that are none of ours, put into the real queues: the worker lives, counts them, and works on."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from config.celery import QUEUES
from tasks.poison import BOX, PoisonBox
from tests.chaos.driver import CLEAN, Chaos

pytestmark = pytest.mark.services


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def message(task: str, args: list[Any], *, body: bytes = b"", **changes: Any) -> bytes:
    """As Celery puts one into Redis."""
    content = body or json.dumps([args, {}, {}]).encode()
    envelope: dict[str, Any] = {
        "body": base64.b64encode(content).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"id": "poison", "task": task, "lang": "py", "retries": 0, "root_id": "poison"},
        "properties": {
            "correlation_id": "poison",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "prepare"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "poison",
        },
    }
    return json.dumps(envelope | changes).encode()


def test_poison_never_stops_a_worker(make_chaos: Callable[..., Chaos], tmp_path: Path) -> None:
    bomb = tmp_path / "exploded"
    poison = {
        "not-json": [b"not json", b"\x80\x04pickle", b"[" * 30_000],
        "no-message": [b"{}", b"[]", b'"text"', message("tasks.prepare", ["x"], headers=None)],
        "unknown-task": [message("tasks.nothing", []), message("celery.ping", [])],
        "wrong-arguments": [message("tasks.prepare", []), message("tasks.tick", ["x"])],
        "not-json-content": [
            message(
                "tasks.prepare",
                [],
                body=pickle.dumps([[Bomb(bomb)], {}, {}]),
                **{"content-type": "application/x-python-serialize", "content-encoding": "binary"},
            )
        ],
        "too-large": [message("tasks.prepare", ["x" * 5_000_000])],
    }
    chaos = make_chaos(workers=1)
    worker = chaos.stack.workers[0]
    with redis.Redis.from_url(chaos.server.url, protocol=2) as client:
        for queue in QUEUES:
            for messages in poison.values():
                client.lpush(f"sx:celery:{queue}", *messages)
        # behind all of it, in every queue
        ids = [chaos.submit() for _ in range(3)]
        assert chaos.settle(ids)
        box = PoisonBox(client)
        expected = {kind: len(messages) * len(QUEUES) for kind, messages in poison.items()}
        assert box.counts() == expected
        assert client.llen(BOX) == sum(expected.values())
        assert max(len(found.row) for found in box.newest(1_000)) < 10_000
        assert {found.entry["queue"] for found in box.newest(1_000)} == set(QUEUES)
        assert all(client.llen(f"sx:celery:{queue}") == 0 for queue in QUEUES)
    assert worker.running()
    assert worker is chaos.stack.workers[-1]
    assert not bomb.exists()
    assert worker.log().count("poison message set aside") == sum(expected.values())
    # well-formed, and about nothing we know: Celery's own business, and no reason to stop either
    with redis.Redis.from_url(chaos.server.url, protocol=2) as client:
        client.lpush("sx:celery:prepare", message("tasks.prepare", ["int_unknown"]))
        client.publish("sx:celery:/0.celeryev/worker.heartbeat", "not json")
    assert chaos.settle([chaos.submit()])
    assert worker.running()
    counts = chaos.counts()
    assert str(counts) == CLEAN, counts.notes
