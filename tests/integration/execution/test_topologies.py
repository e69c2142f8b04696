"""The books on a Redis behind Sentinels, and on a Redis Cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from tests.support.pipeline import Pipeline, transfer
from tests.support.redis import start_local
from tests.support.redis_topologies import SLOTS, Watched, cluster, sentinels, wait_until
from tests.support.sessions import usdc_transfer
from worker.devnet.devnet import Devnet
from worker.execution.retention import archive_old
from worker.execution.runtime import now_ms
from worker.intents.states import State
from worker.ledger.errors import LedgerUnavailableError
from worker.ledger.health import check_redis
from worker.ledger.redis_ledger import RedisLedger

pytestmark = pytest.mark.services


@pytest.fixture
def watched(tmp_path: Path) -> Generator[Watched]:
    with sentinels(tmp_path / "redis") as found:
        yield found


@pytest.fixture
def cluster_url(tmp_path: Path) -> Generator[str]:
    with cluster(tmp_path / "redis") as url:
        yield url


def answers(call: Callable[[], object]) -> bool:
    """Whether a call does not end in an unreachable ledger."""
    try:
        call()
    except LedgerUnavailableError:
        return False
    return True


class TestSentinel:
    """``redis+sentinel://``: whoever is the master holds the books."""

    def test_after_a_failover_the_same_ledger_goes_on(
        self, watched: Watched, devnet: Devnet, tmp_path: Path
    ) -> None:
        pipeline = Pipeline(devnet, watched.url, tmp_path)
        done = pipeline.submit("before", transfer(1_000_000))
        assert pipeline.run(done)[0].state is State.COMPLETED
        assert check_redis(watched.url).aof
        waiting = pipeline.submit("during", transfer(2_000_000))
        with redis.Redis.from_url(watched.master.url) as client:
            assert client.wait(1, 10_000) == 1  # the replica has it
        watched.master.kill()
        wait_until(lambda: answers(lambda: pipeline.ledger.get(waiting)), "another master is found")
        wait_until(
            lambda: answers(lambda: pipeline.submit("after", transfer(3_000_000))), "it can be written"
        )
        assert pipeline.ledger.get(done).state is State.COMPLETED
        records = pipeline.run(*(record.intent_id for record in pipeline.ledger.list_intents()))
        assert [record.state for record in records] == [State.COMPLETED] * 3
        assert pipeline.executed() == 3
        assert pipeline.budget() == (6_000_000, 0)

    def test_an_unknown_name_is_a_redis_that_cannot_be_reached(self, watched: Watched) -> None:
        ledger = RedisLedger(watched.url.replace("/books", "/no-such-name"))
        with pytest.raises(LedgerUnavailableError, match="cannot be reached") as caught:
            ledger.counts()
        assert "no-such-name" in str(caught.value)


def test_a_master_that_became_a_replica_is_left_by_its_connections(tmp_path: Path, devnet: Devnet) -> None:
    """Behind a name that follows the master: READONLY is *not done*, and the next command asks the name again."""
    with start_local(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as admin:
        pipeline = Pipeline(devnet, server.url, tmp_path)
        pipeline.submit("before")
        connections = {client["id"] for client in admin.client_list()}
        admin.execute_command("REPLICAOF", "127.0.0.1", "9")
        with pytest.raises(LedgerUnavailableError, match="read only replica") as caught:
            pipeline.submit("meanwhile")
        assert not caught.value.maybe_done
        admin.execute_command("REPLICAOF", "NO", "ONE")
        pipeline.submit("after")
        assert {client["id"] for client in admin.client_list()} - connections
        assert len(pipeline.ledger.list_intents()) == 2


class TestCluster:
    """``redis+cluster://``: everything of one session lies in one slot."""

    def test_sessions_in_different_slots_trade(
        self, cluster_url: str, devnet: Devnet, tmp_path: Path
    ) -> None:
        pipeline = Pipeline(devnet, cluster_url, tmp_path, archive_dir=tmp_path / "archive")
        until_ms = now_ms() + 86_400_000
        sessions = [pipeline.session]
        while len({_node(session.session_id) for session in sessions}) < 2:  # until each node holds one
            limit = 50_000_001 + len(sessions)
            sessions.append(pipeline.approve(actions=[usdc_transfer(limit, valid_until_ms=until_ms)]))
        ids: list[str] = []
        for session in sessions[
            1:
        ]:  # one approval of the account's counts at a time: these reserve, and let go
            ids.append(pipeline.submit("a", transfer(1_000_000), session_id=session.session_id))
            pipeline.step()
            assert pipeline.state(ids[-1]) is State.AUTHORIZED
            assert pipeline.budget(session) == (0, 1_000_000)
            pipeline.ledger.cancel(ids[-1], who="test", why="enough", now_ms=now_ms())
            assert pipeline.budget(session) == (0, 0)
            pipeline.messages.clear()
        ids.append(pipeline.submit("a", transfer(1_000_000)))
        record = pipeline.run(ids[-1], timeout_s=60)[0]
        assert (record.state, record.history[-1].to_state) == (State.COMPLETED, "COMPLETED")
        assert (pipeline.executed(), pipeline.budget()) == (1, (1_000_000, 0))
        assert {record.intent_id for record in pipeline.ledger.list_intents(limit=100)} == set(ids)
        assert pipeline.ledger.counts()[State.CANCELED] == len(ids) - 1
        assert pipeline.runtime.epoch.status().loss == ""
        health = check_redis(cluster_url)
        assert (health.aof, health.appendfsync) == (True, "always")
        pipeline.runtime.now_ms = lambda: now_ms() + 91 * 86_400_000
        assert archive_old(pipeline.runtime) == len(ids)

    def test_no_node_at_all_is_a_redis_that_cannot_be_reached(self) -> None:
        with pytest.raises(LedgerUnavailableError, match=r"redis\+cluster://127.0.0.1:9 cannot be reached"):
            RedisLedger("redis+cluster://:not-shown@127.0.0.1:9").counts()


def _node(session_id: str) -> int:
    """Which of the two nodes has the session's slot."""
    return key_slot(f"{{{session_id.removeprefix('ses_')}}}".encode()) * 2 // SLOTS
