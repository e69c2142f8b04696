"""The demo, as a newcomer runs it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.anvil import need_anvil
from tests.support.e2e import COMMAND

pytestmark = pytest.mark.services
MARK = "DEMO_TEST_MARK"


def _marked(mark: str) -> list[str]:
    """Command lines of the processes that inherited the mark."""
    found: list[str] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def _gone(mark: str) -> list[str]:
    """What is still running a moment later: a process in its last breath is no process left behind."""
    deadline = time.monotonic() + 30
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_the_demo_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    need_anvil()
    mark = secrets.token_hex(8)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, MARK: mark, "TMPDIR": str(temporary), "COLUMNS": "200"}
    reply = subprocess.run(
        [COMMAND, "demo"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert reply.returncode == 0, reply.stdout + reply.stderr
    assert reply.stdout.count("COMPLETED") >= 10
    assert "100 USDC of 100 USDC" in reply.stdout
    assert "900 USDC" in reply.stdout
    assert "the chain agrees with the ledger" in reply.stdout
    assert _gone(mark) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_stopped_stops_its_children(tmp_path: Path, number: signal.Signals) -> None:
    need_anvil()
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [COMMAND, "demo"],
        env={**os.environ, MARK: mark},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "approved once" in line:
                break
        process.send_signal(number)
        assert process.wait(60) != 0
    assert _gone(mark) == []
