"""Commands run in this process against the devnet and a real Redis."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from config.settings import get_settings
from tests.support.cli import PREFIX, Run, write_session
from tests.support.pipeline import PASSPHRASE
from tests.support.sessions import ACCOUNT, OWNER_KEY
from worker.cli.main import run
from worker.devnet.devnet import Devnet
from worker.signing.sign import address_of


@pytest.fixture
def environment(
    devnet: Devnet, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Settings of a machine where everything is up; the folder has no ``.env``."""
    own = {
        PREFIX + "REDIS_URL": redis_url,
        PREFIX + "RPC_URL": devnet.rpc_url,
        PREFIX + "ORCHESTRATOR_URL": devnet.orchestrator_url,
        PREFIX + "ORCHESTRATOR_API_KEY": devnet.api_key,
        PREFIX + "KEYSTORE_DIR": str(tmp_path / "keys"),
        PREFIX + "KEYSTORE_PASSPHRASE": PASSPHRASE,
        PREFIX + "LOG_LEVEL": "INFO",  # set, so that what --debug sets is taken back
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield own
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    get_settings.cache_clear()


@pytest.fixture
def command(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command line in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        get_settings.cache_clear()
        capsys.readouterr()
        code = run(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        for secret in (PASSPHRASE, environment[PREFIX + "ORCHESTRATOR_API_KEY"]):
            assert secret not in captured.out + captured.err
        return code, captured.out, captured.err

    return invoke


@pytest.fixture
def key(command: Run) -> str:
    """The address of a key that we hold."""
    code, out, _ = command("keys", "create", "--label", "tests")
    assert code == 0
    return out.strip()


@pytest.fixture
def session(command: Run, key: str, devnet: Devnet, tmp_path: Path) -> str:
    """The id of an imported session."""
    devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=1_000_000_000)
    code, out, err = command("sessions", "import", str(write_session(key, tmp_path / "session.json")))
    assert (code, err) == (0, "")
    return out.strip()
