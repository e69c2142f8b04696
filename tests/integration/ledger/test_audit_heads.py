"""Heads of the audit trail in a real Redis: one a second, the last one always, each line in the stream."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from worker.audit import AuditTrail, Head
from worker.devnet.valkey import LocalRedis
from worker.ledger import audit_heads
from worker.ledger.audit_heads import HEADS, RedisHeads
from worker.ledger.connection import connect
from worker.sealing import Sealer, SealKeys

pytestmark = pytest.mark.services
LOG = "ab" * 8


def sealer() -> Sealer:
    return Sealer(lambda: SealKeys("k1", {"k1": b"\x01" * 32}))


def heads(url: str, stream: str = "") -> RedisHeads:
    return RedisHeads(connect(url, timeout_ms=2_000), where="Redis", sealer=sealer(), stream=stream)


def head(number: int) -> Head:
    return Head(LOG, number, f"{number:064x}")


def test_the_first_is_kept_at_once_and_the_last_within_a_second(redis_url: str) -> None:
    kept = heads(redis_url)
    for number in range(1, 6):
        kept.keep(head(number), "")
        if number == 1:
            assert kept.of(LOG) == head(1)
    deadline = time.monotonic() + 30
    while kept.of(LOG) != head(5):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_five_lines_are_two_writes(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_heads, "EVERY_S", 3_600.0)
    kept = heads(redis_url)
    for number in range(1, 6):
        kept.keep(head(number), "")
    assert kept.of(LOG) == head(1)
    kept.flush()
    assert kept.of(LOG) == head(5)
    kept.flush()
    kept.keep(head(6), "")
    assert kept.of(LOG) == head(5)  # the flush began another second


def test_a_newer_head_is_not_overwritten(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_heads, "EVERY_S", 3_600.0)
    one, other = heads(redis_url), heads(redis_url)
    one.keep(head(1), "")
    one.keep(head(2), "")
    other.keep(head(3), "")
    one.flush()
    assert one.of(LOG) == head(3)


def test_with_a_stream_each_line_is_there_at_once(redis_url: str) -> None:
    kept = heads(redis_url, "lines")
    for number in range(1, 4):
        kept.keep(head(number), f"line {number}")
    client: Any = connect(redis_url, timeout_ms=2_000)
    with client:
        assert [fields["line"] for _, fields in client.xrange("lines")] == ["line 1", "line 2", "line 3"]
    assert kept.of(LOG) == head(3)


def test_a_fork_keeps_its_own(redis_url: str) -> None:
    kept = heads(redis_url)
    kept.keep(head(1), "")
    kept.keep(head(2), "")  # waits, in a thread that the child does not have
    child = os.fork()
    if child == 0:
        try:
            kept.keep(head(7), "")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert kept.of(LOG) == head(7)


def test_a_process_that_ends_keeps_its_last(own_redis: LocalRedis, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from typing import Any
from tests.integration.ledger.test_audit_heads import heads
from worker.audit import AuditTrail
trail = AuditTrail(Path({str(tmp_path / "audit.jsonl")!r}), heads({own_redis.url!r}))
for _ in range(4):
    last = trail.write("moved")
print(last.log)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = heads(own_redis.url).of(done.stdout.strip())
    assert found is not None
    assert found.n == 4


def test_redis_away_is_no_reason_to_write_no_line(own_redis: LocalRedis, tmp_path: Path) -> None:
    kept = heads(own_redis.url)
    own_redis.kill()
    trail = AuditTrail(tmp_path / "audit.jsonl", kept)
    assert [trail.write("moved").n for _ in range(3)] == [1, 2, 3]
    kept.flush()
    own_redis.start()
    trail.write("moved")
    kept.flush()
    client: Any = connect(own_redis.url, timeout_ms=2_000)
    with client:
        assert [value.partition(" ")[0] for value in client.hvals(HEADS)] == ["4"]
