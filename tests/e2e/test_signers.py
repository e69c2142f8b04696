"""Workers that sign nothing need no keys: they work up to the signature, and say who is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from config.celery import QUEUES, SIGN_QUEUES, URGENT, URGENT_SIGN
from tests.support.e2e import Trader, run_command
from worker.devnet.stack import PREFIX, Stack
from worker.execution.dispatch import celery_app
from worker.intents.states import State
from worker.keys.record_keys import FILE_NAME
from worker.ledger.connection import connect

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]
NO_KEYS = {
    f"{PREFIX}KEY_STORE": "vault",
    f"{PREFIX}VAULT_ADDR": "http://127.0.0.1:1",
    f"{PREFIX}KEYSTORE_DIR": "/nonexistent",
    f"{PREFIX}KEYSTORE_PASSPHRASE_FILE": "/nonexistent",
}


def test_a_worker_without_credentials_works_up_to_the_signature(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(workers=0, settings={"stuck_after_ms": "1000"})
    trader = Trader(stack)
    session = trader.import_session(stack.keys.create().address)
    # what seals records is no session key, and is all that it has
    seals = {f"{PREFIX}RECORD_KEYS_FILE": str(stack.settings.keystore_dir / FILE_NAME)}
    worker = stack.start_worker(
        queues=[name for name in QUEUES if name not in SIGN_QUEUES], environment=NO_KEYS | seals
    )
    worker.wait_for("ready.")
    worker.wait_for("this worker signs nothing and holds no session keys")
    assert _live(stack)["queues"] == "no worker takes messages from urgent-sign, sign"

    ids = [trader.submit(session, "stop-loss", urgent=True)]
    trader.wait_until(lambda: trader.records(ids)[0].attention == "NO_SIGNER", ids)
    (record,) = trader.records(ids)
    assert record.state is State.AUTHORIZED
    assert "no worker has taken it to sign it" in record.reason
    client = connect(stack.settings.redis_url.get_secret_value(), timeout_ms=1000)
    assert client.llen(f"sx:celery:{URGENT_SIGN}")

    # a message of signing in a queue of this worker, as an older version sent it
    celery_app(stack.settings).send_task("tasks.sign", args=ids, queue=URGENT)
    worker.wait_for("handed on: this worker signs nothing")
    assert trader.records(ids)[0].state is State.AUTHORIZED

    signer = stack.start_worker(queues=SIGN_QUEUES)
    signer.wait_for("this worker signs")
    (record,) = trader.wait(ids)
    assert record.state is State.COMPLETED
    assert record.attention == ""
    assert _live(stack)["queues"] == "each is served"
    # the one that has no keys never asked for any
    assert "Vault" not in worker.log()


def _live(stack: Stack) -> dict[str, str]:
    """What ``health live`` says of each part."""
    done = run_command(stack.environment, stack.directory, "health", "live", "--json", "--timeout", "60")
    return {part["what"]: part["detail"] for part in json.loads(done.stdout)["parts"]}


def test_workers_leave_no_core_and_tell_nobody_their_configuration(make_stack: Callable[..., Stack]) -> None:
    password = "a-password-of-redis"
    stack = make_stack(workers=1)
    worker = stack.workers[0]
    pids = [worker.pid, *(int(child) for child in _children(worker.pid))]
    assert len(pids) >= 2
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 +bytes", limits, re.MULTILINE)
    asked = _celery(stack.environment, stack.directory, "inspect", "conf", "--timeout", "2")
    assert "No nodes replied" in asked.stdout + asked.stderr
    told = _celery(
        stack.environment | {f"{PREFIX}REDIS_URL": f"redis://:{password}@127.0.0.1:1/0"},
        stack.directory,
        "report",
    )
    assert told.returncode == 0, told.stderr
    assert "redbeat_redis_url" in told.stdout
    assert password not in told.stdout + told.stderr


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _celery(
    environment: Mapping[str, str], directory: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks.app", *arguments],
        env=dict(environment),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
