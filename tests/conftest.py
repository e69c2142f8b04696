"""Shared fixtures. A missing service skips a test on a laptop and fails it in CI."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# no deadline: how long an example takes says more about the machine than about the code
settings.register_profile("ours", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ours")

# started in the background by a shell, we would hand a SIGINT that is ignored on to every child
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.support.anvil",
    "tests.support.last_line",
    "tests.support.redis",
    "tests.support.sdk",
    "tests.support.vault",
    "tests.support.deployment",
    "tests.support.vectors",
    "tests.support.summary",
]


@pytest.fixture(autouse=True)
def _own_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test remembers another's ledger, or writes into the home of whoever runs it."""
    monkeypatch.setenv("SESSION_EXECUTOR_STATE_DIR", str(tmp_path / "state"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need Vault go last: on a fresh machine it is being built meanwhile."""
    of_vault = {"vault_server", "sealable_vault", "deployment"}
    late = {
        item.path for item in items if isinstance(item, pytest.Function) and of_vault & set(item.fixturenames)
    }
    items.sort(key=lambda item: item.path in late)
