"""Redis down, hung, killed, full, locked: one clear error in time, and nothing acknowledged is lost."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from tests.support.redis import start_local
from worker.devnet.valkey import LocalRedis
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.errors import LedgerUnavailableError
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import CounterChange, Execution

pytestmark = pytest.mark.services

SESSION = "ses_" + "e5" * 8
INTENT = TradeIntent(SESSION, "k", (Execution("0x" + "11" * 20, 0, b""),))
CHANGE = CounterChange("aa:spending-limits:0x1", 2**64 + 1, 2**65, "spending-limits", 0, "0x1")
#: A method takes one connect (1 s) and one command (2 s) at most, where it gets its turn on the processor.
BOUND_S = 30

CALLS: dict[str, Callable[[RedisLedger], object]] = {
    "enqueue": lambda ledger: ledger.enqueue(INTENT, now_ms=1, due_ms=1),
    "get": lambda ledger: ledger.get(INTENT.intent_id),
    "list_intents": lambda ledger: ledger.list_intents(),
    "claim": lambda ledger: ledger.claim(
        INTENT.intent_id, states=[State.QUEUED], lease_ms=1, now_ms=1, who="w"
    ),
    "release_claim": lambda ledger: ledger.release_claim(INTENT.intent_id, fence=0, due_ms=1, now_ms=1),
    "annotate": lambda ledger: ledger.annotate(INTENT.intent_id, fence=0, now_ms=1),
    "transition": lambda ledger: ledger.transition(
        INTENT.intent_id,
        fence=0,
        from_state=State.QUEUED,
        to_state=State.AUTHORIZED,
        who="w",
        why="",
        now_ms=1,
        reserve=[CHANGE],
    ),
    "cancel": lambda ledger: ledger.cancel(INTENT.intent_id, who="o", why="", now_ms=1),
    "take_due": lambda ledger: ledger.take_due(now_ms=1, push_back_ms=1, limit=1),
    "budgets": lambda ledger: ledger.budgets(SESSION),
    "claim_slot": lambda ledger: ledger.claim_slot("dca", 60),
    "counts": lambda ledger: ledger.counts(),
}


def fails(call: Callable[[], object], words: str) -> LedgerUnavailableError:
    start = time.monotonic()
    with pytest.raises(LedgerUnavailableError, match=words) as caught:
        call()
    assert time.monotonic() - start < BOUND_S
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == 1
    assert caught.value.fix
    return caught.value


def password_of(url: str) -> str:
    return urlsplit(url).password or ""


class TestDown:
    """Nobody listens."""

    @pytest.mark.parametrize("name", CALLS)
    def test_every_call_says_so_at_once_without_the_password(self, name: str) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound, not listening: refused
            port = unused.getsockname()[1]
            ledger = RedisLedger(f"redis://:{'not-a-real-password'}@127.0.0.1:{port}/0")
            error = fails(lambda: CALLS[name](ledger), f"redis://127.0.0.1:{port}/0 cannot be reached")
        assert not error.maybe_done
        assert "not-a-real-password" not in f"{error}{error!r}"
        assert "SESSION_EXECUTOR_REDIS_URL" in error.fix


class TestHung:
    """It takes the connection and answers nothing."""

    @pytest.mark.parametrize("name", ["enqueue", "get", "transition", "take_due"])
    def test_a_first_call_ends_in_time(self, own_redis: LocalRedis, name: str) -> None:
        ledger = RedisLedger(own_redis.url)
        own_redis.pause()
        error = fails(lambda: CALLS[name](ledger), "did not answer in time")
        assert not error.maybe_done

    def test_a_lost_reply_to_a_write_is_named_and_enqueue_can_be_repeated(
        self, own_redis: LocalRedis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = RedisLedger(own_redis.url, timeout_ms=300)
        real = redis.Redis.evalsha

        def pause_then_send(client: redis.Redis, *args: Any) -> object:
            # The connection stands; the script waits in the server's buffers and is carried out when it goes on.
            own_redis.pause()
            return real(client, *args)

        with monkeypatch.context() as patched:
            patched.setattr(redis.Redis, "evalsha", pause_then_send)
            error = fails(lambda: CALLS["enqueue"](ledger), "whether it was carried out is not known")
        assert error.maybe_done
        own_redis.resume()
        ledger.enqueue(INTENT, now_ms=2, due_ms=2)
        assert ledger.counts()[State.QUEUED] == 1


class TestKilled:
    """SIGKILL of Redis."""

    def test_everything_acknowledged_is_there_after_a_restart(self, own_redis: LocalRedis) -> None:
        ledger = RedisLedger(own_redis.url)
        for name in ("enqueue", "transition", "claim_slot"):
            CALLS[name](ledger)
        before = (ledger.get(INTENT.intent_id), ledger.budgets(SESSION), ledger.counts())
        own_redis.kill()
        fails(ledger.counts, "cannot be reached")
        own_redis.start()
        # The same ledger, with its old connections, goes on.
        assert (ledger.get(INTENT.intent_id), ledger.budgets(SESSION), ledger.counts()) == before
        assert not ledger.claim_slot("dca", 60)
        assert [r.intent_id for r in ledger.take_due(now_ms=1, push_back_ms=1, limit=9)] == [INTENT.intent_id]
        ledger.transition(
            INTENT.intent_id,
            fence=0,
            from_state=State.AUTHORIZED,
            to_state=State.FAILED,
            who="w",
            why="",
            now_ms=3,
        )
        assert ledger.budgets(SESSION)[0].reserved == 0

    def test_a_restart_between_two_calls_is_not_noticed(self, own_redis: LocalRedis) -> None:
        ledger = RedisLedger(own_redis.url)
        CALLS["enqueue"](ledger)
        own_redis.stop()
        own_redis.start()
        CALLS["transition"](ledger)
        assert ledger.get(INTENT.intent_id).state is State.AUTHORIZED


class TestRefused:
    """It answers, but not with what was asked."""

    def test_a_wrong_password_is_named_but_not_shown(self, own_redis: LocalRedis) -> None:
        right = password_of(own_redis.url)
        ledger = RedisLedger(own_redis.url.replace(right, "not-the-right-one"))
        error = fails(lambda: CALLS["enqueue"](ledger), "refuses our password")
        assert "not-the-right-one" not in str(error)

    def test_no_password_is_named(self, own_redis: LocalRedis) -> None:
        ledger = RedisLedger(own_redis.url.replace(f":{password_of(own_redis.url)}@", ""))
        fails(lambda: CALLS["enqueue"](ledger), "refuses our password")

    def test_full_memory_refuses_and_leaves_nothing_half_done(self, own_redis: LocalRedis) -> None:
        ledger = RedisLedger(own_redis.url)
        CALLS["enqueue"](ledger)
        with redis.Redis.from_url(own_redis.url) as client:
            client.config_set("maxmemory", "1mb")
            error = fails(lambda: CALLS["transition"](ledger), "refuses: ")
            assert not error.maybe_done
            client.config_set("maxmemory", "0")
        assert ledger.get(INTENT.intent_id).state is State.QUEUED
        assert ledger.budgets(SESSION) == []
        CALLS["transition"](ledger)


@pytest.fixture
def one_node_cluster(tmp_path: Path) -> Generator[LocalRedis]:
    with socket.socket() as probe:
        # Its bus port is the port + 10000 by default, which may be no port at all.
        probe.bind(("127.0.0.1", 0))
        bus = probe.getsockname()[1]
    extra = f"cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-port {bus}\n"
    with start_local(tmp_path / "cluster", extra=extra) as node:
        with redis.Redis.from_url(node.url, protocol=2) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            end = time.monotonic() + 60
            while "cluster_state:ok" not in str(client.execute_command("CLUSTER", "INFO")):
                assert time.monotonic() < end
                time.sleep(0.05)
        yield node


class TestCluster:
    """A node in cluster mode refuses a script whose keys lie in two slots."""

    def test_every_call_keeps_to_one_slot(self, one_node_cluster: LocalRedis) -> None:
        ledger = RedisLedger(one_node_cluster.url)
        for name in ("enqueue", "annotate", "release_claim", "transition", "claim", "take_due"):
            CALLS[name](ledger)
        for name in ("list_intents", "budgets", "counts", "claim_slot", "cancel"):
            CALLS[name](ledger)
        assert ledger.get(INTENT.intent_id).state is State.CANCELED

    def test_the_server_does_refuse_two_slots(self, one_node_cluster: LocalRedis) -> None:
        with (
            redis.Redis.from_url(one_node_cluster.url, protocol=2) as client,
            pytest.raises(redis.RedisError, match="slot"),
        ):
            client.eval("return 1", 2, "sx:{a}:x", "sx:{b}:x")
