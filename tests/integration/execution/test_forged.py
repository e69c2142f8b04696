"""Somebody else writes to Redis: what they forge, edit or put back is refused, reported, and never signed.

The attacker of these tests may do anything in Redis and has read all of it, and knows neither keys nor this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping
from typing import cast

import pytest
import redis

from tests.support.pipeline import Pipeline, transfer
from worker.audit import kept_beside, lines, verify
from worker.execution.errors import ForgedRequestError
from worker.execution.prepare import prepare
from worker.execution.request import seal_request, unsealed_request
from worker.execution.reseal import unsealed
from worker.execution.sign import sign
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import State
from worker.ledger import keys
from worker.ledger.errors import ForgedRecordError
from worker.ledger.pauses import EVERYTHING
from worker.ledger.redis_ledger import FORGED, RedisLedger
from worker.policies.guardrails import RULES_FIELD
from worker.sealing import ForgedError
from worker.sessions.errors import SessionForgedError

pytestmark = pytest.mark.services
THIEF = "0x" + "bad0" * 10


@pytest.fixture
def attacker(redis_url: str) -> Generator[redis.Redis]:
    """Somebody with all rights in Redis."""
    with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as client:
        yield client


def copied(attacker: redis.Redis, key: str) -> dict[str, str]:
    """All of a hash."""
    return cast("dict[str, str]", attacker.hgetall(key))


def replace(attacker: redis.Redis, key: str, copy: Mapping[str, str]) -> None:
    """Nothing but the copy is left."""
    attacker.delete(key)
    for field, value in copy.items():
        attacker.hset(key, field, value)


def put_back(attacker: redis.Redis, intent_id: str, copy: Mapping[str, str]) -> None:
    """An old copy of a record, due at once."""
    replace(attacker, keys.intent(intent_id), copy)
    attacker.zadd(keys.of_session(keys.digits_of_intent(intent_id), "open"), {intent_id: 0})


def audited(pipeline: Pipeline, intent_id: str) -> list[str]:
    """The events of an intent in the audit trail, which is whole."""
    trail = pipeline.runtime.audit
    head = verify(trail.path, {"beside the file": kept_beside(trail.path)})
    deadline = time.monotonic() + 30
    while pipeline.runtime.audit_heads.of(head.log) != head:  # it is kept within a second
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [entry["event"] for entry in lines(trail.path) if entry.get("intent_id") == intent_id]


def assert_refused(pipeline: Pipeline, record: IntentRecord, why: str) -> None:
    """REJECTED for a person to look at, without a signature."""
    assert (record.state, record.attention, record.body) == (State.REJECTED, FORGED, "")
    assert why in record.reason
    assert record.history[-1].why == record.reason
    assert pipeline.executed() == 0
    events = audited(pipeline, record.intent_id)
    assert events[-1] == "forged"
    assert "signing" not in events


class TestForgedRecords:
    """A record that was not made by an enqueuer is not worked on, however well it is made."""

    def test_a_whole_record(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        forged = TradeIntent(pipeline.session.session_id, "forged", (transfer(1_000_000, THIEF),))
        # the program's own code, without the key of the seals: as good as a forger's work can be
        url = pipeline.settings.redis_url.get_secret_value()
        RedisLedger(url).enqueue(forged, now_ms=1, due_ms=1)
        [record] = pipeline.run(forged.intent_id)
        assert_refused(pipeline, record, "no seal")
        assert attacker.hget(keys.intent(forged.intent_id), "state") == "REJECTED"

    def test_a_seal_of_another_intent(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        real = pipeline.submit("real")
        forged = TradeIntent(pipeline.session.session_id, "forged", (transfer(1_000_000, THIEF),))
        url = pipeline.settings.redis_url.get_secret_value()
        RedisLedger(url).enqueue(forged, now_ms=1, due_ms=1)
        seal = attacker.hget(keys.intent(real), "f:seal")
        assert seal
        attacker.hset(keys.intent(forged.intent_id), "f:seal", seal)
        pipeline.messages.clear()
        prepare(pipeline.runtime, forged.intent_id)
        assert_refused(pipeline, pipeline.ledger.get(forged.intent_id), "does not fit")
        assert pipeline.run(real)[0].state is State.COMPLETED

    @pytest.mark.parametrize("field", ["source", "note", "created_ms"])
    def test_an_edited_field(self, pipeline: Pipeline, attacker: redis.Redis, field: str) -> None:
        intent_id = pipeline.submit("edited")
        attacker.hset(keys.intent(intent_id), field, "1")
        assert_refused(pipeline, pipeline.run(intent_id)[0], "does not fit")

    def test_an_edited_payload(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        """Payload and its hash fit each other again: only the seal tells."""
        intent_id = pipeline.submit("edited")
        forged = TradeIntent(pipeline.session.session_id, "edited", (transfer(10_000_000, THIEF),))
        attacker.hset(
            keys.intent(intent_id),
            mapping={"payload": forged.payload(), "payload_hash": forged.payload_hash()},
        )
        assert_refused(pipeline, pipeline.run(intent_id)[0], "does not fit")

    def test_a_record_that_does_not_parse_leaves_the_work(
        self, pipeline: Pipeline, attacker: redis.Redis
    ) -> None:
        intent_id = pipeline.submit("broken")
        attacker.hset(keys.intent(intent_id), "payload", "{}")
        prepare(pipeline.runtime, intent_id)
        found = copied(attacker, keys.intent(intent_id))
        assert (found["state"], found["attention"]) == ("REJECTED", FORGED)
        assert attacker.zcard(keys.of_session(keys.digits_of_intent(intent_id), "open")) == 0

    def test_one_that_does_not_parse_is_found_by_the_tick_too(
        self, pipeline: Pipeline, attacker: redis.Redis
    ) -> None:
        intent_id = pipeline.submit("broken")
        pipeline.messages.clear()
        attacker.hset(keys.intent(intent_id), "payload", "{}")
        attacker.zadd(keys.of_session(keys.digits_of_intent(intent_id), "open"), {intent_id: 0})
        pipeline.until(lambda: attacker.hget(keys.intent(intent_id), "state") == "REJECTED")

    def test_an_approval_that_no_operator_gave(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        intent_id = pipeline.submit("approved")
        attacker.hset(keys.intent(intent_id), mapping={"f:approved_by": "boss", "f:approved_ms": "5"})
        assert_refused(pipeline, pipeline.run(intent_id)[0], "approved_by")

    def test_a_real_approval_counts(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        intent_id = pipeline.submit("approved")
        attacker.hset(keys.intent(intent_id), "attention", "AWAITING_APPROVAL")
        pipeline.ledger.approve(intent_id, who="boss", why="seen", now_ms=5)
        assert pipeline.run(intent_id)[0].state is State.COMPLETED

    def test_the_next_enqueue_under_its_key_says_so(self, pipeline: Pipeline) -> None:
        planted = TradeIntent(pipeline.session.session_id, "mine", (transfer(10_000_000),))
        RedisLedger(pipeline.settings.redis_url.get_secret_value()).enqueue(planted, now_ms=1, due_ms=1)
        with pytest.raises(ForgedRecordError, match="no seal"):
            pipeline.submit("mine")


class TestForgedSteps:
    """What prepare has stored is held together until it is signed, and what was signed until it is sent."""

    def authorized(self, pipeline: Pipeline) -> str:
        intent_id = pipeline.submit("step")
        assert pipeline.step() == ("prepare", intent_id)
        assert pipeline.state(intent_id) is State.AUTHORIZED
        return intent_id

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("reservation", ""),
            ("quote_expires_s", "99999999999"),
            ("orchestrator_id", "1"),
            ("f:digests", "00"),
            ("f:enable", ""),
            ("f:stage_fields", "quote"),
            ("f:stage_seal", ""),
        ],
    )
    def test_an_edited_authorization(
        self, pipeline: Pipeline, attacker: redis.Redis, field: str, value: str
    ) -> None:
        intent_id = self.authorized(pipeline)
        before = pipeline.budget()
        attacker.hset(keys.intent(intent_id), field, value)
        assert_refused(pipeline, pipeline.run(intent_id)[0], "AUTHORIZED: ")
        # too much stays reserved rather than too little: whose word is the record's?
        assert pipeline.budget() == before == (0, 10_000_000)

    def test_a_queued_intent_that_is_said_to_be_authorized(
        self, pipeline: Pipeline, attacker: redis.Redis
    ) -> None:
        other = self.authorized(pipeline)
        quote = copied(attacker, keys.intent(other))
        intent_id = pipeline.submit("skip")
        stolen = {
            name: quote[name]
            for name in quote
            if name.startswith(("quote", "f:stage", "f:digests", "f:enable", "orchestrator_id"))
        }
        attacker.hset(keys.intent(intent_id), mapping={**stolen, "state": "AUTHORIZED"})
        sign(pipeline.runtime, intent_id)
        assert_refused(pipeline, pipeline.ledger.get(intent_id), "AUTHORIZED: ")

    def test_other_bytes_to_send(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        intent_id = self.authorized(pipeline)
        assert pipeline.step() == ("sign", intent_id)
        attacker.hset(keys.intent(intent_id), "body", "{}")
        assert pipeline.step() == ("submit", intent_id)
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.attention, record.fields["sent"]) == (State.SIGNED, FORGED, "")
        assert pipeline.executed() == 0


class TestReplayedRecords:
    """An old copy has good seals: this machine remembers what it has seen signed or ended."""

    def test_a_queued_copy_of_a_completed_intent(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        intent_id = pipeline.submit("once")
        copy = copied(attacker, keys.intent(intent_id))
        assert pipeline.run(intent_id)[0].state is State.COMPLETED
        put_back(attacker, intent_id, copy)
        [record] = pipeline.run(intent_id)
        assert (record.state, record.attention) == (State.REJECTED, FORGED)
        assert "old copy" in record.reason
        assert pipeline.executed() == 1
        events = audited(pipeline, intent_id)
        assert events.count("signing") == 1
        assert events[-1] == "forged"

    def test_an_authorized_copy_before_anything_was_sent(
        self, pipeline: Pipeline, attacker: redis.Redis
    ) -> None:
        """Nor is it signed a second time: who reads Redis has the first signature."""
        intent_id = pipeline.submit("once")
        pipeline.step()
        copy = copied(attacker, keys.intent(intent_id))
        pipeline.step()
        assert pipeline.state(intent_id) is State.SIGNED
        put_back(attacker, intent_id, copy)
        sign(pipeline.runtime, intent_id)
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.attention, record.body) == (State.REJECTED, FORGED, "")

    def test_a_copy_of_an_intent_that_was_canceled(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        intent_id = pipeline.submit("canceled")
        copy = copied(attacker, keys.intent(intent_id))
        pipeline.ledger.cancel(intent_id, who="me", why="no", now_ms=1)
        put_back(attacker, intent_id, copy)
        assert_refused(pipeline, pipeline.run(intent_id)[0], "old copy")

    def test_another_process_of_the_machine_remembers_too(
        self, pipeline: Pipeline, attacker: redis.Redis
    ) -> None:
        intent_id = pipeline.submit("once")
        copy = copied(attacker, keys.intent(intent_id))
        pipeline.run(intent_id)
        put_back(attacker, intent_id, copy)
        prepare(pipeline.new_runtime(), intent_id)
        assert pipeline.ledger.get(intent_id).attention == FORGED


class TestForgedSessions:
    """A session says what may be signed: an edit, and an old copy of it, stop it."""

    def key(self, pipeline: Pipeline) -> str:
        return keys.of_session(pipeline.session.session_id[4:], "session")

    def assert_stopped(self, pipeline: Pipeline, why: str) -> None:
        with pytest.raises(SessionForgedError, match=why):
            pipeline.runtime.sessions.get(pipeline.session.session_id)

    @pytest.mark.parametrize(
        ("field", "value"), [("paused", "0"), ("rev", "1"), (RULES_FIELD, "{}"), ("seal", "")]
    )
    def test_an_edit(self, pipeline: Pipeline, attacker: redis.Redis, field: str, value: str) -> None:
        pipeline.runtime.sessions.set_paused(pipeline.session.session_id, paused=True)
        attacker.hset(self.key(pipeline), field, value)
        self.assert_stopped(pipeline, "seal")

    def test_between_the_stages(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        """Prepared under one, to be signed under another: not signed, and for a person to look at."""
        intent_id = pipeline.submit("edited")
        pipeline.step()
        attacker.hset(self.key(pipeline), RULES_FIELD, "{}")
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.attention, record.body) == (State.AUTHORIZED, FORGED, "")
        assert "must not be used" in record.reason
        assert audited(pipeline, intent_id) == ["enqueued", "moved", "forged"]

    def test_an_old_copy(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        """Not paused yet when it was copied."""
        pipeline.run(pipeline.submit("first"))  # the machine knows the ledger from now on
        copy = copied(attacker, self.key(pipeline))
        pipeline.runtime.sessions.set_paused(pipeline.session.session_id, paused=True)
        replace(attacker, self.key(pipeline), copy)
        self.assert_stopped(pipeline, "old copy")
        assert pipeline.executed() == 1


class TestForgedSwitches:
    """Kill switches and strategies cannot be taken away or added."""

    @pytest.mark.parametrize("how", ["field", "all"])
    def test_a_pause_that_somebody_took_away(
        self, pipeline: Pipeline, attacker: redis.Redis, how: str
    ) -> None:
        pipeline.run(pipeline.submit("first"))
        pipeline.runtime.pauses.pause(EVERYTHING, why="stop", who="me", now_ms=1)
        intent_id = pipeline.submit("stopped")
        if how == "field":
            attacker.hdel(keys.PAUSES, "all")
        else:
            attacker.delete(keys.PAUSES)
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.attention) == (State.QUEUED, FORGED)
        assert pipeline.executed() == 1

    def test_an_old_copy_of_the_switches(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        pipeline.run(pipeline.submit("first"))
        pauses = pipeline.runtime.pauses
        pauses.pause(EVERYTHING, why="stop", who="me", now_ms=1)
        pauses.resume(EVERYTHING)
        copy = copied(attacker, keys.PAUSES)
        pauses.pause(EVERYTHING, why="stop", who="me", now_ms=1)
        replace(attacker, keys.PAUSES, copy)
        with pytest.raises(ForgedError, match="old copy"):
            pauses.list()

    def test_a_stop_is_possible_all_the_same(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        attacker.hset(keys.PAUSES, "chain:1", "{}")
        pipeline.runtime.pauses.pause(EVERYTHING, why="stop", who="me", now_ms=1)
        with pytest.raises(ForgedError):
            pipeline.runtime.pauses.list()
        assert "all" in attacker.hkeys(keys.PAUSES)

    def test_a_strategy_that_somebody_added(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        entry = {"name": "theirs", "kind": "transfer"}
        attacker.hset(keys.STRATEGIES, "theirs", json.dumps(entry))
        with pytest.raises(ForgedError, match="no seal"):
            pipeline.runtime.strategies.definitions()
        attacker.delete(keys.STRATEGIES)
        pipeline.runtime.strategies.define({"ours": entry})
        assert set(pipeline.runtime.strategies.definitions()) == {"ours"}
        attacker.hset(keys.STRATEGIES, "ours", "{}")
        with pytest.raises(ForgedError, match="does not fit"):
            pipeline.runtime.strategies.definitions()


class TestAudit:
    """Who asked, what was decided, what was signed with which key, and how it ended."""

    def test_an_intent_from_beginning_to_end(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        intent_id = pipeline.submit("told", source="cli", note="rent")
        [record] = pipeline.run(intent_id)
        assert audited(pipeline, intent_id) == ["enqueued", "moved", "signing", "moved", "moved", "moved"]
        found = [entry for entry in lines(pipeline.runtime.audit.path) if entry.get("intent_id") == intent_id]
        asked, authorized, signing, _, _, ended = found
        assert (asked["who"], asked["key"], asked["note"]) == ("cli", "told", "rent")
        assert asked["payload_sha256"] == record.intent.payload_hash()
        assert {item["policy"]: item["amount"] for item in authorized["reserved"]}[
            "spending-limits"
        ] == "10000000"
        assert signing["digests"] == authorized["digests"] == record.fields["digests"]
        assert signing["keys"].startswith(f"{pipeline.key_address}@")
        assert (ended["to_state"], ended["tx_hash"]) == ("COMPLETED", record.tx_hash)
        forged = attacker.hget("sx:audit", asked["log"])  # `audited` has waited for it
        assert forged
        attacker.hset("sx:audit", asked["log"], str(forged).replace("6 ", "5 ", 1))
        with pytest.raises(ForgedError, match="does not fit"):
            pipeline.runtime.audit_heads.of(asked["log"])

    def test_without_its_line_nothing_is_signed(self, pipeline: Pipeline) -> None:
        intent_id = pipeline.submit("untold")
        pipeline.step()
        trail = pipeline.runtime.audit
        trail.path.rename(trail.path.with_name("away"))
        trail.path.mkdir()
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.attention, record.body) == (State.AUTHORIZED, "AUDIT", "")
        trail.path.rmdir()
        trail.path.with_name("away").rename(trail.path)
        assert pipeline.run(intent_id)[0].state is State.COMPLETED

    def test_a_request_without_a_seal(self, pipeline: Pipeline) -> None:
        """What any Celery producer may send: Redis's password is no right to trade."""
        asked = {"session": pipeline.session.session_id, "key": "k", "to": THIEF, "amount": "1 USDC"}
        sealed = seal_request(pipeline.runtime.sealer, asked)
        assert unsealed_request(pipeline.runtime, sealed) == asked
        for forged in (asked, {**sealed, "amount": "2 USDC"}, {**sealed, "seal": 5}):
            with pytest.raises(ForgedRequestError) as caught:
                unsealed_request(pipeline.runtime, forged)
            assert caught.value.field == "seal"
        assert unsealed_request(pipeline.new_runtime(accept_celery_requests=True), asked) == asked


class TestSealing:
    """What an older version wrote is taken over by a person; nothing else makes it good."""

    def test_everything_of_an_older_version(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        url = pipeline.settings.redis_url.get_secret_value()
        intent = TradeIntent(pipeline.session.session_id, "old", (transfer(10_000_000),))
        RedisLedger(url).enqueue(intent, now_ms=pipeline.runtime.now_ms(), due_ms=1)
        session_key = keys.of_session(pipeline.session.session_id[4:], "session")
        attacker.hdel(session_key, "seal", "rev")
        attacker.hset(keys.PAUSES, "chain:1", json.dumps({"why": "old", "who": "me", "at_ms": "5"}))
        found = unsealed(pipeline.runtime)
        assert [item.name for item in found] == [pipeline.session.session_id, "pauses", intent.intent_id]
        assert all(item.seal() for item in found)
        assert unsealed(pipeline.runtime) == []
        assert [str(pause.switch) for pause in pipeline.runtime.pauses.list()] == ["chain 1"]
        assert pipeline.run(intent.intent_id)[0].state is State.COMPLETED

    @pytest.mark.parametrize("stage", [1, 2])
    def test_an_intent_on_its_way(self, pipeline: Pipeline, attacker: redis.Redis, stage: int) -> None:
        intent_id = pipeline.submit("old")
        for _ in range(stage):
            pipeline.step()
        attacker.hdel(keys.intent(intent_id), "f:seal", "f:stage_seal", "f:stage_fields")
        [item] = unsealed(pipeline.runtime)
        assert item.name == intent_id
        assert item.seal()
        assert pipeline.run(intent_id)[0].state is State.COMPLETED

    def test_an_old_copy_is_not_offered(self, pipeline: Pipeline, attacker: redis.Redis) -> None:
        intent_id = pipeline.submit("once")
        copy = copied(attacker, keys.intent(intent_id))
        pipeline.run(intent_id)
        put_back(attacker, intent_id, copy)
        assert unsealed(pipeline.runtime) == []
