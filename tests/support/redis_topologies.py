"""Redis in company: a master with a replica behind Sentinels, and a cluster, all real processes on loopback."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.support.need import missing
from tests.support.redis import start_local
from worker.devnet.valkey import LocalRedis

SERVICE = "books"
SLOTS = 16_384
_PATIENCE_S = 60.0


def free_port() -> int:
    """A loopback port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _whole(client: redis.Redis) -> bool:
    info: Any = client.execute_command("CLUSTER", "INFO")
    return "cluster_state:ok" in str(info)


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Poll until something holds; errors of Redis count as *not yet*."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            if true():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@dataclass
class Watched:
    """A master, its replica, and the URL by which the Sentinel's master is reached."""

    url: str
    master: LocalRedis
    replica: LocalRedis


@contextmanager
def sentinels(directory: Path) -> Generator[Watched]:
    """One Sentinel over a master and a replica. It calls a master dead after half a second."""
    binary = shutil.which("redis-server")
    if binary is None:
        missing("redis-server", "apt-get install redis-server")
    password = secrets.token_hex(16)
    with ExitStack() as stack:
        login = f"masterauth {password}\n"
        master = stack.enter_context(start_local(directory / "master", password=password, extra=login))
        replica = stack.enter_context(
            start_local(
                directory / "replica",
                password=password,
                extra=f"{login}replicaof 127.0.0.1 {master.port}\n",
            )
        )
        port = free_port()
        config = directory / "sentinel.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 1\n"
            f"sentinel auth-pass {SERVICE} {password}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\nsentinel failover-timeout {SERVICE} 3000\n"
        )
        process = subprocess.Popen([binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        with redis.Redis(port=port, decode_responses=True) as asked:
            wait_until(lambda: len(asked.sentinel_slaves(SERVICE)) == 1, "the Sentinel knows the replica")
        with redis.Redis.from_url(replica.url, decode_responses=True) as client:
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up", "the replica follows"
            )
        yield Watched(f"redis+sentinel://:{password}@127.0.0.1:{port}/{SERVICE}", master, replica)


@contextmanager
def cluster(directory: Path) -> Generator[str]:
    """A cluster of two masters with half of the slots each; its URL."""
    password = secrets.token_hex(16)
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                start_local(
                    directory / f"node-{number}",
                    password=password,
                    extra=f"cluster-enabled yes\ncluster-port {free_port()}\ncluster-node-timeout 2000\n",
                )
            )
            for number in range(2)
        ]
        clients = [
            stack.enter_context(redis.Redis.from_url(node.url, decode_responses=True)) for node in nodes
        ]
        for number, client in enumerate(clients):
            first = number * SLOTS // 2
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, first + SLOTS // 2 - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        bus = clients[1].config_get("cluster-port")["cluster-port"]
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port, bus)
        wait_until(
            lambda: all(_whole(client) for client in clients),
            "the cluster is whole",
        )
        yield f"redis+cluster://:{password}@" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
