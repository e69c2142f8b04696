"""``health live`` with real workers: whoever deals with no messages is found, whatever its process table says."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.celery import QUEUES, SIGN_QUEUES, heartbeat_queue
from tasks.heartbeat import Fleet
from tests.support.e2e import run_command
from worker.devnet.stack import Child, Stack
from worker.execution.dispatch import celery_app
from worker.ledger.connection import connect

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
HOST = socket.gethostname()


def live(stack: Stack, *arguments: str, timeout_s: str = "60") -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and what is said of each part."""
    done = run_command(
        stack.environment, stack.directory, "health", "live", "--json", "--timeout", timeout_s, *arguments
    )
    assert done.stderr == ""
    return done.returncode, {part["what"]: part for part in json.loads(done.stdout)["parts"]}


def registered(stack: Stack, *names: str) -> None:
    """Wait until these workers, and no others, are registered."""
    deadline = time.monotonic() + 60
    client = connect(stack.settings.redis_url.get_secret_value(), timeout_ms=2_000)
    while client.smembers("sx:workers") != {f"{name}@{HOST}" for name in names}:
        assert time.monotonic() < deadline, [child.log()[-2_000:] for child in stack.workers]
        time.sleep(0.1)


def children(worker: Child) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()]


def test_who_deals_with_no_messages_is_not_live(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(workers=1)
    first = stack.workers[0]
    signer = stack.start_worker(queues=SIGN_QUEUES)
    signer.wait_for("ready.")
    registered(stack, "worker-1", "worker-2")

    code, found = live(stack)
    assert code == 0, found
    assert set(found) == {f"worker-1@{HOST}", f"worker-2@{HOST}", "queues", "ticks"}
    assert found[f"worker-1@{HOST}"]["detail"].endswith(f"serves {', '.join(sorted(QUEUES))}")
    assert found[f"worker-2@{HOST}"]["detail"].endswith(f"serves {', '.join(sorted(SIGN_QUEUES))}")

    # frozen: the process is there, its connections are, and nothing is done
    os.kill(first.pid, signal.SIGSTOP)
    code, found = live(stack, timeout_s="2")
    assert code == 1
    assert found[f"worker-1@{HOST}"]["status"] == "fail"
    assert found[f"worker-1@{HOST}"]["detail"].startswith("no heartbeat came back within 2 s")
    assert found["queues"]["detail"].startswith("no worker takes messages from urgent, ")
    assert live(stack, "--worker", "worker-1@%h", timeout_s="1")[0] == 1
    assert live(stack, "--worker", "worker-2@%h")[0] == 0  # the signer, by itself, is well
    os.kill(first.pid, signal.SIGCONT)
    assert live(stack, "--worker", "worker-1@%h")[0] == 0

    # its pool hangs: the main process reads messages and nobody carries them out
    stopped = children(signer)
    assert len(stopped) == 2
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert live(stack, "--worker", "worker-2@%h", timeout_s="2")[0] == 1
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert live(stack, "--worker", "worker-2@%h")[0] == 0

    # who stops takes itself from the register
    signer.terminate()
    registered(stack, "worker-1")
    code, found = live(stack, "--worker", "worker-2@%h")
    assert code == 1
    assert found[f"worker-2@{HOST}"]["detail"] == "no worker of this name has registered"
    assert live(stack)[0] == 0  # the first one signs, too


def test_probes_of_a_frozen_worker_leave_nothing_behind(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(workers=1)
    registered(stack, "worker-1")
    client = connect(stack.settings.redis_url.get_secret_value(), timeout_ms=2_000)
    own = f"sx:celery:{heartbeat_queue(f'worker-1@{HOST}')}"
    os.kill(stack.workers[0].pid, signal.SIGSTOP)
    fleet, app = Fleet(stack.settings), celery_app(stack.settings)
    for _ in range(30):
        assert fleet.ask(app, [f"worker-1@{HOST}"], timeout_s=0.05) == {}
    assert 1 <= client.llen(own) <= 10
    assert 0 < client.ttl(own) <= 120
    os.kill(stack.workers[0].pid, signal.SIGCONT)
    assert live(stack)[0] == 0
    assert client.llen(own) == 0
    assert not [
        name for name in client.scan_iter("*_kombu.binding*") if HOST in str(client.sort(name, by="none"))
    ]
    assert all(0 < client.ttl(name) <= 60 for name in client.scan_iter("sx:heartbeat:*"))
