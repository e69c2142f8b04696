"""``session-executor notifications`` as an operator runs it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import PREFIX, Run, submit
from tests.support.e2e import COMMAND
from tests.support.http_stub import Answer, http_stub

SECRET = "whsec_" + base64.b64encode(hashlib.sha256(b"a webhook of the tests").digest()).decode()


def test_test_run_list_and_retry(
    command: Run, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command("notifications", "run", "--once")
    assert code == 2
    assert "NOTIFICATIONS_FILE: names no channel" in err
    status = 200
    with http_stub(lambda _: Answer(status)) as stub:
        path = tmp_path / "channels.toml"
        path.write_text(
            f'[[channels]]\nname = "ops"\nurl = "{stub.url}"\nsecret = "{SECRET}"\nevents = ["session.expiring"]\n'
        )
        path.chmod(0o600)
        monkeypatch.setenv(PREFIX + "NOTIFICATIONS_FILE", str(path))
        assert command("notifications", "test")[:2] == (0, "ops reached\n")
        submit(command, session)  # the session ends within a day, and is known to the ledger now
        assert command("notifications", "run", "--once")[:2] == (0, "1 new, 1 arrived\n")
        assert command("notifications", "run", "--once")[:2] == (0, "0 new, 0 arrived\n")
        (notice,) = json.loads(command("notifications", "list", "--json")[1])
        assert (notice["event"], notice["state"], notice["tries"]) == ("session.expiring", "arrived", 1)
        assert json.loads(command("notifications", "list", "--state", "given-up", "--json")[1]) == []
        assert command("notifications", "list", "--state", "lost")[0] == 2
        assert command("notifications", "retry", notice["notice_id"])[1] == f"{notice['notice_id']} waiting\n"
        assert command("notifications", "run", "--once")[1] == "0 new, 1 arrived\n"
        assert command("notifications", "retry", "evt_0:ops")[0] == 2
        status = 500
        assert command("notifications", "test")[:2] == (1, "ops failed: ops answers 500\n")
    shown = "".join(command("notifications", *arguments)[1] for arguments in (("list",), ("list", "--json")))
    assert SECRET not in shown


def test_under_a_supervisor_it_waits_for_a_channel_and_ends_when_told(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [COMMAND, "notifications", "run", "--idle"],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "nobody is told anything" in process.stderr.readline()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
