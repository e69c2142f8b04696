"""The embedded Redis: starts on a free loopback port, keeps its data, leaves nothing."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.need import missing
from tests.support.processes import lives
from worker.devnet.valkey import LocalRedis, LocalRedisError, find_server
from worker.ledger.health import check_redis
from worker.ledger.redis_ledger import RedisLedger

pytestmark = pytest.mark.services


@pytest.fixture
def binary() -> Path:
    try:
        return find_server()
    except LocalRedisError as error:
        missing("an embedded Valkey", error.fix)


class TestLocalRedis:
    """One process of our own, fit for the ledger."""

    def test_it_is_what_the_ledger_needs(self, binary: Path) -> None:
        with LocalRedis(binary=binary) as server:
            assert check_redis(server.url).problems == ()
            assert RedisLedger(server.url).claim_slot("demo", 60)

    def test_a_temporary_one_leaves_no_process_and_no_file(self, binary: Path, tmp_path: Path) -> None:
        with LocalRedis(binary=binary) as server:
            pid = server.pid
            folder = Path(f"/proc/{pid}/cwd").readlink() if Path("/proc").is_dir() else tmp_path / "none"
            assert lives(pid)
        assert not lives(pid)
        assert not folder.exists()

    def test_it_ends_when_the_block_fails(self, binary: Path) -> None:
        pids: list[int] = []

        def fail_inside() -> None:
            with LocalRedis(binary=binary) as server:
                pids.append(server.pid)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_inside()
        assert [lives(pid) for pid in pids] == [False]

    def test_data_of_a_given_folder_survive_and_the_password_does_not_stay_there(
        self, binary: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "a folder"
        with LocalRedis(folder, binary=binary) as server, redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
            mode = stat.S_IMODE((folder / "local-redis.conf").stat().st_mode)
            assert mode == 0o600
        assert [path.name for path in folder.iterdir()] == ["appendonlydir"]
        with LocalRedis(folder, binary=binary) as server, redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"yes"

    def test_only_who_knows_the_password_gets_in(self, binary: Path) -> None:
        with LocalRedis(binary=binary) as server:
            password = urlsplit(server.url).password or ""
            assert len(password) == 32
            assert password not in repr(server)
            never = Retry(NoBackoff(), 0)
            with (
                redis.Redis(port=server.port, retry=never) as client,
                pytest.raises(redis.AuthenticationError),
            ):
                client.ping()
            command = Path(f"/proc/{server.pid}/cmdline")
            if command.exists():
                assert password.encode() not in command.read_bytes()

    def test_it_listens_on_loopback_only(self, binary: Path) -> None:
        with LocalRedis(binary=binary) as server, redis.Redis.from_url(server.url) as client:
            assert client.config_get("bind") == {"bind": "127.0.0.1"}

    def test_two_run_side_by_side(self, binary: Path) -> None:
        with LocalRedis(binary=binary) as one, LocalRedis(binary=binary) as two:
            assert one.port != two.port
            assert one.pid != two.pid

    def test_a_crash_and_a_start_keep_port_and_data(self, binary: Path) -> None:
        with LocalRedis(binary=binary) as server, redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
            port, pid = server.port, server.pid
            server.kill()
            assert not lives(pid)
            server.start()
            assert (server.port, client.get("kept")) == (port, b"yes")

    def test_a_broken_configuration_is_named_and_leaves_nothing(self, binary: Path, tmp_path: Path) -> None:
        server = LocalRedis(tmp_path / "data", binary=binary, extra="no-such-directive yes\n")
        with pytest.raises(LocalRedisError, match="does not start"):
            server.start()
        assert list((tmp_path / "data").iterdir()) == []
        with pytest.raises(LocalRedisError, match="does not run"):
            _ = server.pid

    def test_a_taken_port_is_not_mistaken_for_ours(self, binary: Path, tmp_path: Path) -> None:
        server = LocalRedis(tmp_path / "data", binary=binary)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            server.port = taken.getsockname()[1]
            with pytest.raises(LocalRedisError, match="does not start"):
                server.start()
