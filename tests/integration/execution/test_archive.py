"""What has ended leaves Redis for a file, and its key is its key for ever."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.pipeline import Pipeline, transfer
from worker.execution.enqueue import enqueue
from worker.execution.retention import archive_old
from worker.execution.runtime import now_ms
from worker.intents.states import State
from worker.ledger.archive import Archive, ArchiveError
from worker.ledger.archived import ArchivedRecords
from worker.ledger.errors import IdempotencyConflictError, IntentArchivedError, LedgerUnavailableError

DAY_MS = 86_400_000


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> Pipeline:
    """With an archive; one intent of each kind is there."""
    return make_pipeline(archive_dir=tmp_path / "archive")


@pytest.fixture
def client(redis_url: str) -> Generator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as found:
        yield found


def in_days(pipeline: Pipeline, days: int) -> None:
    pipeline.runtime.now_ms = lambda: now_ms() + days * DAY_MS


def completed(pipeline: Pipeline, key: str) -> str:
    intent_id = pipeline.submit(key, transfer(1_000_000))
    assert pipeline.run(intent_id)[0].state is State.COMPLETED
    return intent_id


def files(pipeline: Pipeline) -> list[Path]:
    assert pipeline.settings.archive_dir is not None
    return Archive(pipeline.settings.archive_dir).paths()


class TestArchiving:
    """Only what has ended long ago, and only once it is safe in a file."""

    def test_what_ended_long_ago_is_in_the_file_and_not_in_redis(
        self, pipeline: Pipeline, client: redis.Redis
    ) -> None:
        done = completed(pipeline, "done")
        before = pipeline.ledger.get(done)
        rejected = pipeline.submit("rejected", transfer(10**12))
        assert pipeline.run(rejected)[0].state is State.REJECTED
        open_one = pipeline.submit("open")
        pipeline.messages.clear()
        assert archive_old(pipeline.runtime) == 0  # nothing is old
        in_days(pipeline, 91)
        assert archive_old(pipeline.runtime) == 2
        assert archive_old(pipeline.runtime) == 0
        assert [record.intent_id for record in pipeline.ledger.list_intents()] == [open_one]
        left = {name for name in client.scan_iter("sx:*") if done in name or rejected in name}
        assert not left
        (path,) = files(pipeline)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        kept = {item.raw.intent_id: item.record() for item in Archive.read(path)}
        assert kept.keys() == {done, rejected}
        assert kept[done].history == before.history
        assert (kept[done].intent, kept[done].quote) == (before.intent, before.quote)
        assert before.body
        assert before.body not in gzip.decompress(path.read_bytes()).decode()
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert all("body" not in line["values"] for line in lines)
        # the sums do not change
        assert pipeline.budget() == (1_000_000, 0)
        counts = pipeline.ledger.counts()
        assert {state: number for state, number in counts.items() if number} == {State.QUEUED: 1}

    def test_what_needs_a_person_stays(self, make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
        pipeline = make_pipeline(archive_dir=tmp_path / "archive", max_attempts=1)
        pipeline.devnet.add_fault("respond", path="/intents/route", status=401)
        dead = pipeline.submit("dead")
        assert pipeline.run(dead)[0].state is State.DEAD
        in_days(pipeline, 4_000)
        assert archive_old(pipeline.runtime) == 0
        assert pipeline.state(dead) is State.DEAD

    def test_without_a_folder_nothing_is_taken_out(self, make_pipeline: Callable[..., Pipeline]) -> None:
        pipeline = make_pipeline()
        done = completed(pipeline, "done")
        in_days(pipeline, 4_000)
        assert archive_old(pipeline.runtime) == 0
        assert pipeline.state(done) is State.COMPLETED

    def test_two_at_once_archive_each_record_once(self, pipeline: Pipeline) -> None:
        completed(pipeline, "done")
        in_days(pipeline, 91)
        other = pipeline.new_runtime()
        assert other.archived.begin(who="other", hold_ms=60_000)
        assert archive_old(pipeline.runtime) == 0
        other.archived.end(who="other")
        assert archive_old(pipeline.runtime) == 1


class TestInterrupted:
    """Whatever breaks, no record is in neither place."""

    def test_a_folder_that_cannot_be_written_leaves_everything_in_redis(
        self, make_pipeline: Callable[..., Pipeline], tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        pipeline = make_pipeline(archive_dir=tmp_path / "file" / "archive")
        done = completed(pipeline, "done")
        in_days(pipeline, 91)
        with pytest.raises(ArchiveError, match="ARCHIVE_DIR: cannot be written"):
            archive_old(pipeline.runtime)
        assert pipeline.state(done) is State.COMPLETED

    def test_killed_between_the_file_and_redis_it_is_done_again(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        done = [completed(pipeline, f"done {number}") for number in range(2)]
        in_days(pipeline, 91)
        real = ArchivedRecords.trim
        trimmed: list[str] = []

        def trim(records: ArchivedRecords, raw: Any, **how: Any) -> bool:
            if trimmed:
                raise LedgerUnavailableError("gone")
            trimmed.append(raw.intent_id)
            return real(records, raw, **how)

        monkeypatch.setattr(ArchivedRecords, "trim", trim)
        with pytest.raises(LedgerUnavailableError):
            archive_old(pipeline.runtime)
        monkeypatch.undo()
        (left,) = set(done) - set(trimmed)
        assert pipeline.state(left) is State.COMPLETED
        assert archive_old(pipeline.runtime) == 1
        assert len(files(pipeline)) == 2
        for intent_id in done:
            with pytest.raises(IntentArchivedError) as caught:
                pipeline.ledger.get(intent_id)
            assert pipeline.settings.archive_dir is not None
            found = Archive(pipeline.settings.archive_dir).find(intent_id, caught.value.tombstone.archived_ms)
            assert found is not None
            assert found.record().state is State.COMPLETED

    def test_a_record_that_is_touched_after_it_was_read_stays(self, pipeline: Pipeline) -> None:
        done = completed(pipeline, "done")
        in_days(pipeline, 91)
        (raw,) = pipeline.runtime.archived.ended_before(pipeline.runtime.now_ms(), limit=10)
        record = pipeline.ledger.get(done)
        pipeline.ledger.annotate(done, now_ms=now_ms() + 5, fence=record.fence, note_of_ours="looked at")
        assert not pipeline.runtime.archived.trim(raw, archived_ms=1)
        assert pipeline.state(done) is State.COMPLETED


class TestIdempotency:
    """The same key is the same intent, for ever."""

    def test_the_same_key_is_not_executed_again(self, pipeline: Pipeline) -> None:
        done = completed(pipeline, "salary of May")
        intent = pipeline.ledger.get(done).intent
        in_days(pipeline, 91)
        assert archive_old(pipeline.runtime) == 1
        again = enqueue(pipeline.runtime, intent)
        assert not again.created
        assert (again.record.intent_id, again.record.state) == (done, State.COMPLETED)
        assert pipeline.messages == []
        with pytest.raises(IdempotencyConflictError):
            pipeline.submit("salary of May", transfer(2_000_000))
        assert pipeline.ledger.list_intents() == []
        assert pipeline.executed() == 1

    def test_after_a_loss_of_redis_the_archive_brings_the_keys_back(
        self, pipeline: Pipeline, client: redis.Redis
    ) -> None:
        done = completed(pipeline, "salary of May")
        intent = pipeline.ledger.get(done).intent
        in_days(pipeline, 91)
        archive_old(pipeline.runtime)
        session = pipeline.runtime.sessions.get(intent.session_id)
        client.flushdb()
        pipeline.runtime.sessions.put(session)
        (found,) = Archive.read(files(pipeline)[0])
        tombstone = found.raw.tombstone(found.archived_ms)
        assert pipeline.runtime.archived.remember(done, tombstone)
        assert not pipeline.runtime.archived.remember(done, tombstone)
        assert not enqueue(pipeline.runtime, intent).created


class TestSeals:
    """A line says what a record was when it left Redis; whoever edits the file is found out."""

    def test_an_edit_and_a_line_without_a_seal(self, pipeline: Pipeline) -> None:
        completed(pipeline, "salary of May")
        in_days(pipeline, 91)
        archive_old(pipeline.runtime)
        [path] = files(pipeline)
        sealer = pipeline.runtime.sealer
        [found] = Archive.read(path)
        assert found.problem(sealer) == ""
        good = json.loads(gzip.decompress(path.read_bytes()))
        for change in (
            {"archived_ms": good["archived_ms"] + 1},
            {"values": {**good["values"], "note": "edited"}},
            {"values": {name: text for name, text in good["values"].items() if name != "note"}},
            {"history": good["history"][:-1]},
            {"seal": ""},
        ):
            path.write_bytes(gzip.compress(json.dumps({**good, **change}).encode()))
            [found] = Archive.read(path)
            assert found.problem(sealer), change
        del good["seal"]
        path.write_bytes(gzip.compress(json.dumps(good).encode()))
        [found] = Archive.read(path)
        assert found.problem(sealer) == "it has no seal"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "intents-20260101T000000Z-1.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"intent_id": 1}\n'))
    with pytest.raises(ArchiveError, match=path.name):
        list(Archive.read(path))
    path.write_bytes(b"no gzip")
    with pytest.raises(ArchiveError, match=path.name):
        list(Archive.read(path))
