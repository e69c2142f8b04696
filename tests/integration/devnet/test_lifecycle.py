"""A devnet starts quickly, leaves no process behind however it ends, and its errors are one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.anvil import need_anvil
from tests.support.devnet_user import RECIPIENT, User, key_of, transfer_data, usdc_session
from tests.support.processes import ended, lives
from worker.devnet.anvil import Anvil, free_port
from worker.devnet.chain import USDC, Chain
from worker.devnet.devnet import Devnet, start_devnet
from worker.devnet.errors import DevnetError
from worker.devnet.rpc import JsonRpc

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[3]
HUNDRED = 100_000_000
ADDRESS = "0x" + "ab" * 20


pytest_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# starts a devnet, says its pids, and waits
PARENT = """
import sys, time
from worker.devnet.devnet import start_devnet
devnet = start_devnet()
print(devnet.pid, devnet.anvil_pid, devnet.orchestrator_url, devnet.log_path, flush=True)
time.sleep(600)
"""
# the same with a child that inherits the write end of the devnet's stdin, as a forked worker does
FORKING_PARENT = """
import os, sys, time
from worker.devnet.devnet import start_devnet
devnet = start_devnet()
child = os.fork()
if child == 0:
    time.sleep(600)
    os._exit(0)
print(devnet.pid, devnet.anvil_pid, devnet.orchestrator_url, devnet.log_path, child, flush=True)
time.sleep(600)
"""


def start_parent(script: str) -> tuple[subprocess.Popen[bytes], list[str]]:
    """Run a parent; returns it and the words it prints."""
    need_anvil()
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    with parent.stdout:
        return parent, parent.stdout.readline().decode().split()


@pytest_linux
class TestEnd:
    """No process is left."""

    def test_stop_ends_both_processes_and_removes_the_log(self) -> None:
        need_anvil()
        devnet = start_devnet()
        assert devnet.running
        devnet.stop()
        devnet.stop()
        assert ended(devnet.pid, devnet.anvil_pid)
        assert not devnet.log_path.exists()

    def test_a_killed_orchestrator_takes_the_chain_with_it(self) -> None:
        need_anvil()
        devnet = start_devnet()
        devnet.kill()
        assert ended(devnet.pid, devnet.anvil_pid)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_the_parents_end_ends_the_devnet(self, number: signal.Signals) -> None:
        parent, words = start_parent(PARENT)
        pids = [int(word) for word in words[:2]]
        assert all(lives(pid) for pid in pids)
        os.kill(parent.pid, number)
        parent.wait()
        assert ended(*pids)
        Path(words[3]).unlink(missing_ok=True)

    def test_a_forked_sibling_does_not_keep_the_devnet_alive(self) -> None:
        parent, words = start_parent(FORKING_PARENT)
        child = int(words[4])
        try:
            parent.kill()
            parent.wait()
            assert ended(int(words[0]), int(words[1]))
            assert lives(child)
        finally:
            os.kill(child, signal.SIGKILL)
            Path(words[3]).unlink(missing_ok=True)


class TestStart:
    """What a start gives, and why it can fail."""

    def test_the_chain_is_base_with_its_contracts(self, devnet: Devnet) -> None:
        assert devnet.chain_id == devnet.rpc.quantity("eth_chainId") == 8453
        chain = Chain(devnet.rpc)
        assert chain.read(USDC, bytes.fromhex("313ce567")) == (6).to_bytes(32)

    def test_an_idle_connection_outlives_its_clients_patience(self, devnet: Devnet) -> None:
        """A client of httpx gives one up after 5 s; closed by the server at that moment, a request would be lost."""
        host = urlsplit(devnet.orchestrator_url).netloc
        with closing(HTTPConnection(host, timeout=30)) as connection:
            for wait_s in (6, 0):
                connection.request("GET", "/devnet/faults", headers={"x-api-key": devnet.api_key})
                connection.getresponse().read()
                time.sleep(wait_s)

    def test_two_devnets_live_side_by_side(self, devnet: Devnet) -> None:
        with start_devnet() as other:
            other.fund(ADDRESS, usdc=5)
            assert other.usdc_balance(ADDRESS) == 5
            assert devnet.usdc_balance(ADDRESS) == 0
            assert other.api_key != devnet.api_key

    def test_an_idle_chain_keeps_its_clock(self, devnet: Devnet) -> None:
        before = devnet.rpc.quantity("eth_blockNumber")
        deadline = time.monotonic() + 20
        while devnet.rpc.quantity("eth_blockNumber") < before + 2:
            assert time.monotonic() < deadline, "no empty blocks are mined"
            time.sleep(0.1)
        block = devnet.rpc.call("eth_getBlockByNumber", "latest", False)
        # Base's blocks are 2 s apart; clients refuse to work when a clock is a minute off
        assert abs(int(block["timestamp"], 16) - time.time()) < 30

    def test_a_taken_port_is_named(self, devnet: Devnet) -> None:
        port = int(devnet.orchestrator_url.rpartition(":")[2])
        with pytest.raises(DevnetError, match=f"port: port {port} cannot be used"):
            start_devnet(port=port)

    def test_a_fork_url_that_does_not_answer_is_named(self) -> None:
        need_anvil()
        with pytest.raises(DevnetError, match="fork_url"):
            start_devnet(fork_url=f"http://127.0.0.1:{free_port()}")

    def test_it_listens_on_loopback_only(self, devnet: Devnet) -> None:
        assert devnet.rpc_url.startswith("http://127.0.0.1:")
        assert devnet.orchestrator_url.startswith("http://127.0.0.1:")

    def test_its_representation_holds_no_key(self, devnet: Devnet) -> None:
        assert devnet.api_key not in repr(devnet)


class TestReset:
    """The first state comes back."""

    def test_chain_accounts_intents_and_delays_are_as_at_first(self, devnet: Devnet) -> None:
        user = User(devnet, usdc_session(key_of("session key"), HUNDRED))
        user.register()
        user.enable_by_owner()
        devnet.set_delays(complete_ms=5_000)
        devnet.add_fault("stall", times=0)
        devnet.reset()
        assert devnet.state() == {"accounts": [], "intents": [], "counters": []}
        assert devnet.faults() == []
        assert devnet.requests() == []
        assert devnet.executions() == []
        assert devnet.usdc_balance(user.account) == 0
        assert not user.enabled()
        user.register()
        user.enable_by_owner()
        assert user.wait(user.transfer(1).json()["result"]["id"])["status"] == "COMPLETED"


class TestFork:
    """On a fork the token that is there stays, and everything works the same."""

    def test_a_forked_chain_keeps_its_state_and_trades(self, devnet: Devnet) -> None:
        # the other anvil plays the real chain: it has a token with a holder
        devnet.fund(ADDRESS, usdc=7, eth=9)
        with start_devnet(fork_url=devnet.rpc_url) as fork:
            assert fork.chain_id == 8453
            assert (fork.usdc_balance(ADDRESS), fork.eth_balance(ADDRESS)) == (7, 9)
            user = User(fork, usdc_session(key_of("session key"), HUNDRED))
            user.register(usdc=HUNDRED)
            assert fork.usdc_balance(user.account) == HUNDRED
            user.enable_by_owner()
            answer = user.transfer(10_000_000)
            assert user.wait(answer.json()["result"]["id"])["status"] == "COMPLETED"
            assert fork.usdc_balance(RECIPIENT) == 10_000_000
            assert fork.executed(USDC, transfer_data(RECIPIENT, 10_000_000)) == 1
            fork.reset()
            assert fork.usdc_balance(ADDRESS) == 7
        assert devnet.usdc_balance(RECIPIENT) == 0

    def test_a_fork_of_another_chain_is_refused(self) -> None:
        need_anvil()
        with Anvil(chain_id=10) as other, JsonRpc(other.rpc_url) as rpc:
            assert rpc.quantity("eth_chainId") == 10
            with pytest.raises(DevnetError, match="the forked chain has id 10, not 8453"):
                start_devnet(fork_url=other.rpc_url)
