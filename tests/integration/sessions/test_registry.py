"""The session registry on a real Redis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from redis.crc import key_slot

from tests.support.sessions import (
    ACCOUNT,
    BASE,
    NOW_S,
    OWNER_KEY,
    SESSION_ADDRESS,
    SESSION_KEY,
    TRANSFER,
    USDC,
    key_of,
    make_session_file,
    session_dict,
)
from worker.devnet.valkey import LocalRedis
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.connection import connect
from worker.ledger.errors import LimitExceededError
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import Allow, CounterChange, Execution
from worker.policies.evaluate import evaluate
from worker.sessions.approval import approve
from worker.sessions.errors import (
    SessionConflictError,
    SessionCorruptError,
    SessionNotFoundError,
    SessionStoreUnavailableError,
)
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute, verify
from worker.sessions.registry import SessionRegistry
from worker.sessions.v2 import SessionV2
from worker.signing.sign import address_of

pytestmark = pytest.mark.services

SECOND = address_of(key_of("second session key"))


def session(*args: Any, **options: Any) -> RegisteredSession:
    return imported(make_session_file(*args, **options))


def imported(text: str) -> RegisteredSession:
    return verify(load_session_file(text), our_keys=[SESSION_ADDRESS, SECOND], chain_id=BASE, now_s=NOW_S)


@pytest.fixture
def client(redis_url: str) -> Generator[redis.Redis]:
    with connect(redis_url, timeout_ms=2_000) as client:
        yield client


@pytest.fixture
def registry(client: redis.Redis) -> SessionRegistry:
    return SessionRegistry(client)


def key(subject: RegisteredSession) -> str:
    return f"sx:{{{subject.session_id[4:]}}}:session"


class TestPutAndGet:
    """What is registered comes back as it was computed at import."""

    @pytest.mark.parametrize("restrict", [True, False])
    def test_a_session_comes_back_whole(self, registry: SessionRegistry, *, restrict: bool) -> None:
        subject = session(restrict=restrict, kind="safe", nonce=4, setup_ops=[("0x" + "fa" * 20, b"\1\2")])
        assert registry.put(subject) is True
        assert registry.get(subject.session_id) == subject

    def test_a_session_without_approval_comes_back_too(self, registry: SessionRegistry) -> None:
        names = {"enableData", "nonce", "sessionDigest", "multiChainSessionDigest"}
        file = {name: value for name, value in session_dict().items() if name not in names}
        subject = imported(json.dumps(file))
        assert subject.enable_nonce is None
        registry.put(subject)
        assert registry.get(subject.session_id) == subject

    def test_the_same_again_changes_nothing(self, registry: SessionRegistry, client: redis.Redis) -> None:
        registry.put(session())
        before = client.hgetall(key(session()))
        assert registry.put(session()) is False
        assert client.hgetall(key(session())) == before

    def test_another_spelling_of_the_same_file_is_the_same(self, registry: SessionRegistry) -> None:
        registry.put(session())
        file = session_dict()
        for name in ("sdk", "permissionId", "sessionDigest", "multiChainSessionDigest", "nonce"):
            file.pop(name)
        file["owners"] = file["owners"]["accounts"]
        assert registry.put(imported(json.dumps(file, indent=7))) is False

    def test_nothing_is_registered_under_an_unknown_id(self, registry: SessionRegistry) -> None:
        for name in ("ses_" + "00" * 8, "ses_", "", "int_" + "00" * 8, "ses_" + "00" * 8 + "\n", "*"):
            with pytest.raises(SessionNotFoundError) as caught:
                registry.get(name)
            assert caught.value.field == "session"
            assert caught.value.fix
            with pytest.raises(SessionNotFoundError):
                registry.set_paused(name, paused=True)

    def test_no_private_key_is_in_redis(self, registry: SessionRegistry, client: redis.Redis) -> None:
        subject = session()
        registry.put(subject)
        dump = json.dumps(client.hgetall(key(subject)))
        for secret in (OWNER_KEY, SESSION_KEY):
            assert secret.hex() not in dump
        assert SESSION_ADDRESS in dump

    def test_a_session_and_its_intents_lie_in_one_slot(
        self, registry: SessionRegistry, redis_url: str
    ) -> None:
        subject = session()
        registry.put(subject)
        ledger = RedisLedger(redis_url)
        intent = TradeIntent(subject.session_id, "k", (Execution("0x" + "11" * 20, 0, b""),))
        ledger.enqueue(intent, now_ms=1, due_ms=1)
        ledger.close()
        record = f"sx:{{{subject.session_id[4:]}}}:intent:{intent.intent_id}"
        assert key_slot(key(subject).encode()) == key_slot(record.encode())
        assert registry.get(subject.session_id) == subject


class TestConflicts:
    """One id, one content."""

    def test_two_unrestricted_sessions_of_one_key_are_refused_with_the_advice(
        self, registry: SessionRegistry
    ) -> None:
        first, second = session(restrict=False), session(restrict=False, limit=200_000_000)
        assert first.permission_id == second.permission_id  # the trap: the chain would merge them
        registry.put(first)
        for renew in (False, True):
            with pytest.raises(SessionConflictError) as caught:
                registry.put(second, renew=renew)
            assert "merge" in caught.value.message
            assert "key of its own" in caught.value.fix
            assert "restrictToActions" in caught.value.fix
        assert registry.get(first.session_id) == first

    def test_a_bare_session_is_unrestricted_too(self, registry: SessionRegistry) -> None:
        registry.put(session(restrict=False))
        with pytest.raises(SessionConflictError, match="merge"):
            registry.put(session(restrict=False, actions=[]))

    def test_a_session_of_2_2_2_merges_with_one_of_1_15(self, registry: SessionRegistry) -> None:
        abi = [
            {
                "type": "function",
                "name": "transfer",
                "stateMutability": "nonpayable",
                "inputs": [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}],
            }
        ]
        permission = {"abi": abi, "address": USDC, "functions": {"transfer": {"maxUses": "3"}}}
        granted = SessionV2.model_validate(
            {"chain": BASE, "owners": [SESSION_ADDRESS], "permissions": [permission]}, by_name=False
        )
        text = approve(granted, account=ACCOUNT, kind="nexus", owner_keys=[OWNER_KEY], nonce=0)
        subject = recompute(load_session_file(text))
        registry.put(session(restrict=False))
        with pytest.raises(SessionConflictError, match="merge") as caught:
            registry.put(subject)
        assert "SDK 1.15 with restrictToActions" in caught.value.fix
        registry.put(session(restrict=True))

    def test_a_session_of_2_2_2_comes_back_as_it_was(self, registry: SessionRegistry) -> None:
        granted = SessionV2.model_validate({"chain": BASE, "owners": [SESSION_ADDRESS]}, by_name=False)
        text = approve(granted, account=ACCOUNT, kind="safe", owner_keys=[OWNER_KEY], nonce=7)
        subject = recompute(load_session_file(text))
        assert registry.put(subject) is True
        assert registry.put(subject) is False
        assert registry.get(subject.session_id) == subject

    def test_another_key_another_account_or_restriction_makes_another_session(
        self, registry: SessionRegistry
    ) -> None:
        subjects = [
            session(restrict=False),
            session(restrict=False, session_key_address=SECOND),
            session(restrict=False, account="0x" + "ab" * 20),
            session(restrict=True),
            session(restrict=True, limit=1),
        ]
        for subject in subjects:
            assert registry.put(subject) is True
        assert {subject.session_id for subject in registry.list()} == {
            subject.session_id for subject in subjects
        }
        assert len(registry.list()) == 5

    def test_another_approval_needs_to_be_wanted(self, registry: SessionRegistry) -> None:
        old, new = session(nonce=0), session(nonce=1)
        assert old.session_id == new.session_id
        registry.put(old)
        with pytest.raises(SessionConflictError) as caught:
            registry.put(new)
        assert "--renew" in caught.value.fix
        assert registry.get(old.session_id).enable_nonce == 0
        assert registry.put(new, renew=True) is True
        assert registry.get(old.session_id) == new
        assert registry.put(new, renew=True) is False

    def test_what_was_spent_and_reserved_outlives_another_import_and_an_edit(
        self, registry: SessionRegistry, redis_url: str
    ) -> None:
        """The chain would count from 0 after it was enabled again; we do not (policies.md 1, S9)."""
        ledger = RedisLedger(redis_url)
        sid = session(restrict=False).session_id

        def take(key: str, amount: int, subject: RegisteredSession, *, spend: bool = False) -> None:
            execution = Execution(USDC, 0, TRANSFER + bytes(32) + amount.to_bytes(32, "big"))
            verdict = evaluate(
                subject.table,
                [execution],
                account=subject.account,
                emissary="0x" + "ee" * 20,
                now_s=NOW_S,
                chain_s=NOW_S,
                latest_s=NOW_S,
            )
            assert isinstance(verdict, Allow), verdict
            intent_id = ledger.enqueue(
                TradeIntent(sid, key, (execution,)), now_ms=1, due_ms=1
            ).record.intent_id
            steps: list[tuple[State, State, tuple[CounterChange, ...]]] = [
                (State.QUEUED, State.AUTHORIZED, verdict.changes)
            ]
            if spend:
                steps += [(State.AUTHORIZED, State.SIGNED, ()), (State.SIGNED, State.COMPLETED, ())]
            for before, after, changes in steps:
                ledger.transition(
                    intent_id,
                    fence=0,
                    from_state=before,
                    to_state=after,
                    who="test",
                    why="",
                    now_ms=1,
                    reserve=changes,
                )

        first = session(restrict=False, limit=100)
        registry.put(first)
        take("spent", 60, first, spend=True)
        take("reserved", 30, first)
        registry.put(first)
        with pytest.raises(LimitExceededError):
            take("imported again", 11, registry.get(sid))
        registry.put(session(restrict=False, limit=100, nonce=1), renew=True)
        with pytest.raises(LimitExceededError) as caught:
            take("approved again", 11, registry.get(sid))
        assert (caught.value.limit, caught.value.spent, caught.value.reserved) == (100, 60, 30)

        # other limits under the same permission id are refused, and would not forget either
        more, less = (session(restrict=False, limit=limit, nonce=2) for limit in (200, 80))
        for edited in (more, less):
            assert edited.session_id == sid
            with pytest.raises(SessionConflictError):
                registry.put(edited, renew=True)
        with pytest.raises(LimitExceededError):
            take("edited", 111, more)
        take("what is left", 110, more)
        with pytest.raises(LimitExceededError):
            take("less than what is spent", 1, less)
        assert [(one.spent, one.reserved) for one in ledger.budgets(sid)] == [(60, 140)]
        ledger.close()

    def test_a_renewed_session_stays_paused(self, registry: SessionRegistry) -> None:
        registry.put(session(nonce=0))
        registry.set_paused(session().session_id, paused=True)
        registry.put(session(nonce=1), renew=True)
        assert registry.get(session().session_id).paused is True

    def test_of_many_at_once_one_wins(self, registry: SessionRegistry) -> None:
        subjects = [session(restrict=False, limit=1 + number) for number in range(12)]

        def put(subject: RegisteredSession) -> bool:
            try:
                return registry.put(subject)
            except SessionConflictError:
                return False

        with ThreadPoolExecutor(12) as pool:
            won = [subject for subject, done in zip(subjects, pool.map(put, subjects), strict=True) if done]
        assert len(won) == 1
        assert registry.list() == tuple(won)


class TestPause:
    """An operator can stop a session and let it go on."""

    def test_paused_and_resumed(self, registry: SessionRegistry) -> None:
        subject = session()
        registry.put(subject)
        assert registry.get(subject.session_id).paused is False
        for _ in range(2):
            registry.set_paused(subject.session_id, paused=True)
            assert registry.get(subject.session_id).paused is True
            assert registry.list()[0].paused is True
        registry.set_paused(subject.session_id, paused=False)
        assert registry.get(subject.session_id) == subject

    def test_importing_it_again_does_not_resume_it(self, registry: SessionRegistry) -> None:
        registry.put(session())
        registry.set_paused(session().session_id, paused=True)
        registry.put(session())
        assert registry.get(session().session_id).paused is True

    def test_pausing_creates_nothing(self, registry: SessionRegistry, client: redis.Redis) -> None:
        with pytest.raises(SessionNotFoundError):
            registry.set_paused(session().session_id, paused=True)
        assert client.exists(key(session())) == 0


class TestList:
    """Every session, and only sessions."""

    def test_empty(self, registry: SessionRegistry) -> None:
        assert registry.list() == ()

    def test_ordered_by_id_and_without_ids_that_only_the_ledger_knows(
        self, registry: SessionRegistry, redis_url: str
    ) -> None:
        subjects = [session(limit=number) for number in (1, 2, 3)]
        for subject in subjects:
            registry.put(subject)
        ledger = RedisLedger(redis_url)
        stray = TradeIntent("ses_" + "00" * 8, "k", (Execution("0x" + "11" * 20, 0, b""),))
        ledger.enqueue(stray, now_ms=1, due_ms=1)
        ledger.close()
        assert registry.list() == tuple(sorted(subjects, key=lambda subject: subject.session_id))

    def test_a_damaged_one_hides_the_others_only_if_nobody_asks_for_it(
        self, registry: SessionRegistry, client: redis.Redis
    ) -> None:
        good, bad = session(limit=1), session(limit=2)
        registry.put(good)
        registry.put(bad)
        client.hset(key(bad), "file", "{}")
        with pytest.raises(SessionCorruptError):
            registry.list()
        found: list[SessionCorruptError] = []
        assert registry.list(on_corrupt=found.append) == (good,)
        assert [bad.session_id in error.message for error in found] == [True]

    def test_another_type_under_a_sessions_name(self, registry: SessionRegistry, client: redis.Redis) -> None:
        good, bad = session(limit=1), session(limit=2)
        registry.put(good)
        registry.put(bad)
        client.delete(key(bad))
        client.set(key(bad), "x")
        found: list[SessionCorruptError] = []
        assert registry.list(on_corrupt=found.append) == (good,)
        assert len(found) == 1
        for attempt in (
            lambda: registry.get(bad.session_id),
            lambda: registry.put(bad),
            lambda: registry.set_paused(bad.session_id, paused=True),
        ):
            with pytest.raises(SessionCorruptError):
                attempt()


class TestDamage:
    """A session that is not what was registered is not given out."""

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("file", None),
            ("file", ""),
            ("file", "{}"),
            ("sha256", None),
            ("sha256", "00"),
            ("fingerprint", None),
            ("fingerprint", "00" * 32),
            ("paused", None),
            ("paused", "maybe"),
        ],
    )
    def test_a_changed_field(
        self, registry: SessionRegistry, client: redis.Redis, field: str, value: str | None
    ) -> None:
        subject = session()
        registry.put(subject)
        if value is None:
            client.hdel(key(subject), field)
        else:
            client.hset(key(subject), field, value)
        with pytest.raises(SessionCorruptError) as caught:
            registry.get(subject.session_id)
        assert subject.session_id in caught.value.message
        assert caught.value.exit_code == 1
        assert key(subject) in caught.value.fix

    def test_a_file_changed_together_with_its_hash(
        self, registry: SessionRegistry, client: redis.Redis
    ) -> None:
        """Whoever can write to Redis cannot raise a limit: the user's signature and the fingerprint still hold."""
        for options in ({}, {"restrict": False}):
            subject = session(**options)
            registry.put(subject)
            text = subject.file.text().replace('"100000000"', '"900000000"')
            assert text != subject.file.text()
            client.hset(
                key(subject), mapping={"file": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            )
            with pytest.raises(SessionCorruptError):
                registry.get(subject.session_id)

    def test_an_unsigned_unrestricted_file_is_held_by_the_fingerprint(
        self, registry: SessionRegistry, client: redis.Redis
    ) -> None:
        # Its id covers no action and nobody signed it here, so only the fingerprint tells.
        names = {"enableData", "nonce", "sessionDigest", "multiChainSessionDigest", "permissionId"}
        file = {name: value for name, value in session_dict(restrict=False).items() if name not in names}
        subject = imported(json.dumps(file))
        registry.put(subject)
        text = subject.file.text().replace('"100000000"', '"900000000"')
        client.hset(key(subject), mapping={"file": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        with pytest.raises(SessionCorruptError, match="another session"):
            registry.get(subject.session_id)

    def test_a_session_moved_to_another_id(self, registry: SessionRegistry, client: redis.Redis) -> None:
        good, other = session(limit=1), session(limit=2)
        registry.put(good)
        client.copy(key(good), key(other))
        with pytest.raises(SessionCorruptError, match="gives the id"):
            registry.get(other.session_id)


class TestFaults:
    """Redis that is gone, slow or closed to us: one named error, and repeating is safe."""

    def check(self, registry: SessionRegistry) -> None:
        for attempt in (
            lambda: registry.put(session()),
            lambda: registry.get(session().session_id),
            registry.list,
            lambda: registry.set_paused(session().session_id, paused=True),
        ):
            with pytest.raises(SessionStoreUnavailableError) as caught:
                attempt()
            assert caught.value.field == "redis"
            assert caught.value.fix
            assert caught.value.exit_code == 1

    def test_down_and_up_again(self, own_redis: LocalRedis) -> None:
        with connect(own_redis.url, timeout_ms=1_000) as client:
            registry = SessionRegistry(client)
            registry.put(session())
            own_redis.kill()
            self.check(registry)
            own_redis.start()
            assert registry.get(session().session_id) == session()  # the append-only file kept it
            assert registry.put(session()) is False

    def test_hanging(self, own_redis: LocalRedis) -> None:
        with connect(own_redis.url, timeout_ms=300) as client:
            registry = SessionRegistry(client)
            own_redis.pause()
            self.check(registry)
            own_redis.resume()

    def test_wrong_password_is_not_shown(self, own_redis: LocalRedis) -> None:
        parts = urlsplit(own_redis.url)
        with connect(f"redis://:wrong-word@{parts.hostname}:{parts.port}/0", timeout_ms=1_000) as client:
            with pytest.raises(SessionStoreUnavailableError) as caught:
                SessionRegistry(client).put(session())
            assert "password" in caught.value.message
            assert "wrong-word" not in str(caught.value)

    def test_read_only_or_full(self, own_redis: LocalRedis) -> None:
        with connect(own_redis.url, timeout_ms=1_000) as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
            registry = SessionRegistry(client)
            with pytest.raises(SessionStoreUnavailableError, match="refuses"):
                registry.put(session())
            client.config_set("maxmemory", "0")
            assert registry.put(session()) is True
            assert registry.get(session().session_id).account == ACCOUNT
