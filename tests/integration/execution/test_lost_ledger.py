"""A Redis that has forgotten the books is noticed, and nobody trades on zeroed counters until a person confirms."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.pipeline import Pipeline, transfer
from tests.support.redis import start_local
from worker.devnet.devnet import Devnet
from worker.devnet.valkey import LocalRedis
from worker.execution.sign import sign
from worker.execution.watch import LOOK_EVERY_MS, tick
from worker.intents.states import State
from worker.ledger import keys
from worker.ledger.errors import LedgerInputError, LedgerLostError
from worker.ledger.redis_ledger import RedisLedger

pytestmark = pytest.mark.services


def flush(pipeline: Pipeline, *, restore_session: bool = True) -> None:
    """FLUSHALL; then the session is imported again, as somebody in a hurry would do it."""
    with redis.Redis.from_url(pipeline.settings.redis_url.get_secret_value(), protocol=2) as client:
        client.flushall()
    if restore_session:
        pipeline.runtime.sessions.put(pipeline.session)


def look(pipeline: Pipeline) -> None:
    pipeline.runtime.epoch.look(who="test", now_ms=1)


def held(pipeline: Pipeline, intent_id: str, state: State = State.QUEUED) -> None:
    """However often it is tried, the intent stays where it is, says why, and nothing leaves us."""
    before = len(pipeline.devnet.requests("/intents/route", "POST"))
    executed = pipeline.executed()
    for stage in ("prepare", "sign"):
        pipeline.messages.append((stage, intent_id))
        pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.attention, record.attempts <= 1) == (state, "LEDGER_LOST", True)
    assert "ledger confirm" in record.reason
    assert len(pipeline.devnet.requests("/intents/route", "POST")) == before
    assert pipeline.executed() == executed


def test_after_flushall_nothing_is_signed_until_a_person_confirms(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.submit("a", transfer(40_000_000)))
    assert pipeline.budget() == (40_000_000, 0)
    flush(pipeline)
    again = pipeline.submit("a", transfer(40_000_000))
    held(pipeline, again)
    status = pipeline.runtime.epoch.status()
    assert "Redis holds no ledger any more" in status.loss
    assert status.who == pipeline.runtime.who
    pipeline.runtime.epoch.confirm(who="ops", why="the chain says 40 are spent", now_ms=2)
    assert pipeline.runtime.epoch.status().loss == ""
    # the person has said that these books count; what this machine has seen executed is not executed again all the same
    [first, other] = pipeline.run(again, pipeline.submit("b", transfer(40_000_000)))
    assert (first.state, other.state) == (State.REJECTED, State.COMPLETED)
    assert "seen it signed" in first.reason
    with pytest.raises(LedgerInputError, match="nothing to confirm"):
        pipeline.runtime.epoch.confirm(who="ops", why="again", now_ms=3)


def test_a_machine_without_a_memory_is_stopped_by_one_that_has_it(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.run(pipeline.submit("a"))
    other = pipeline.new_runtime(state_dir=tmp_path / "other")
    other.epoch.require_whole(pipeline.session.session_id, who="other", now_ms=1)
    assert other.marks.epoch() == pipeline.runtime.marks.epoch()
    flush(pipeline)
    fresh = pipeline.new_runtime(state_dir=tmp_path / "fresh")
    with pytest.raises(LedgerLostError):
        look(pipeline)
    for runtime in (fresh, other):
        with pytest.raises(LedgerLostError):
            runtime.epoch.require_whole(pipeline.session.session_id, who="x", now_ms=1)
    fresh.epoch.confirm(who="ops", why="compared", now_ms=2)
    # every machine follows, whichever confirmed, the one that never heard of the loss included
    for runtime in (pipeline.runtime, other, fresh):
        runtime.epoch.require_whole(pipeline.session.session_id, who="x", now_ms=3)
    assert pipeline.runtime.marks.epoch() == other.marks.epoch() == fresh.marks.epoch()


def test_the_loss_is_noticed_while_nobody_trades(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.run(pipeline.submit("a"))
    flush(pipeline)
    now_ms = pipeline.runtime.now_ms() + LOOK_EVERY_MS
    monkeypatch.setattr(pipeline.runtime, "now_ms", lambda: now_ms)
    tick(pipeline.runtime)
    with redis.Redis.from_url(
        pipeline.settings.redis_url.get_secret_value(), protocol=2, decode_responses=True
    ) as client:
        assert "no ledger any more" in str(client.hgetall(keys.LEDGER)["lost"])


def test_a_notice_that_cannot_be_read_stops_everything(pipeline: Pipeline) -> None:
    look(pipeline)
    with redis.Redis.from_url(pipeline.settings.redis_url.get_secret_value(), protocol=2) as client:
        client.hset(keys.LEDGER, "lost", "[")
    with pytest.raises(LedgerLostError, match="cannot be read"):
        look(pipeline)


class TestOldSnapshot:
    """Redis comes back with its files of an earlier moment."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "redis"

    @pytest.fixture
    def server(self, folder: Path) -> LocalRedis:
        return start_local(folder)

    @staticmethod
    def restore(server: LocalRedis, folder: Path, copy: Path) -> None:
        server.kill()
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        server.start()

    @pytest.mark.parametrize("stage", ["reserved", "signed", "settled"])
    def test_it_is_noticed_whatever_was_forgotten(
        self, devnet: Devnet, server: LocalRedis, folder: Path, tmp_path: Path, stage: str
    ) -> None:
        with server:
            pipeline = Pipeline(devnet, server.url, tmp_path)
            pipeline.run(pipeline.submit("first"))
            second = pipeline.submit("second")
            if stage != "reserved":
                assert pipeline.step() == ("prepare", second)
            if stage == "settled":
                pipeline.step()
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            before = pipeline.state(second)
            if stage == "settled":
                pipeline.run(second)
            else:
                pipeline.step()
            self.restore(server, folder, copy)
            assert pipeline.state(second) is before
            pipeline.messages.clear()
            if before in {State.QUEUED, State.AUTHORIZED}:
                held(pipeline, second, before)
            else:
                with pytest.raises(LedgerLostError, match="this machine has seen change"):
                    look(pipeline)
            third = pipeline.submit("third")
            held(pipeline, third)
            pipeline.messages.clear()
            # what others write does not hide it
            for number in range(5):
                pipeline.submit(f"more {number}")
            with pytest.raises(LedgerLostError):
                look(pipeline)

    def test_the_script_itself_refuses(
        self, devnet: Devnet, server: LocalRedis, folder: Path, tmp_path: Path
    ) -> None:
        """Between the look and the change of state there is no gap."""
        with server:
            pipeline = Pipeline(devnet, server.url, tmp_path)
            intent_id = pipeline.submit("a")
            assert pipeline.step() == ("prepare", intent_id)
            copy = tmp_path / "copy"
            shutil.copytree(folder, copy)
            claimed = pipeline.ledger.claim(
                intent_id, states=(State.AUTHORIZED,), lease_ms=1, now_ms=1, who="x"
            )
            assert claimed is not None
            pipeline.ledger.release_claim(intent_id, fence=claimed.fence, due_ms=2, now_ms=2)
            sign(pipeline.runtime, intent_id)
            assert pipeline.state(intent_id) is State.SIGNED
            self.restore(server, folder, copy)
            change: dict[str, Any] = {"who": "x", "why": "y", "now_ms": 5, "from_state": State.AUTHORIZED}
            with pytest.raises(LedgerLostError):
                pipeline.ledger.transition(intent_id, fence=1, to_state=State.QUEUED, **change)
            record = pipeline.ledger.get(intent_id)
            assert (record.state, len(record.history)) == (State.AUTHORIZED, 2)
            # a ledger that knows nothing better would go on
            RedisLedger(server.url).transition(intent_id, fence=1, to_state=State.QUEUED, **change)


def test_a_state_folder_that_cannot_be_written_signs_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    intent_id = pipeline.submit("a")
    (tmp_path / "file").touch()
    pipeline.runtime = pipeline.new_runtime(state_dir=tmp_path / "file")
    with pytest.raises(Exception, match="SESSION_EXECUTOR_STATE_DIR"):
        pipeline.step()
    assert pipeline.state(intent_id) is State.QUEUED
