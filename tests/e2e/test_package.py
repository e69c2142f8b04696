"""``pip install .`` gives the command and every file that it reads."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Files that are read at run time and are no Python modules.
DATA = (
    "config/redis/redis.conf",
    "config/vault/operator.hcl",
    "config/vault/signer.hcl",
    "config/strategies.example.toml",
    "worker/devnet/contracts/DevUsdc.sol",
    "worker/devnet/npm/package-lock.json",
    "worker/ledger/lua/transition.lua",
    "worker/sessions/chains.json",
    "worker/sessions/proxies.json",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(ROOT),
        ],
        check=True,
        timeout=120,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_what_is_read_at_run_time(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert [name for name in DATA if name not in names] == []
    assert any(name.startswith("worker/devnet/contracts/artifacts/") for name in names)
    lua = {f"worker/ledger/lua/{path.name}" for path in (ROOT / "worker/ledger/lua").glob("*.lua")}
    assert lua <= names
    assert [name for name in names if name.startswith(("tests/", ".env"))] == []


def test_the_installed_package_runs_without_the_tree(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(target),
            str(wheel),
        ],
        check=True,
        timeout=120,
    )
    command = target / "bin" / "session-executor"
    # -P and the folder: the tree must not be importable, or the test would prove nothing
    probe = "import worker.cli.main, sys; print(worker.__file__); worker.cli.main.run(['version'])"
    reply = subprocess.run(
        [sys.executable, "-P", "-c", probe],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert reply.returncode == 0, reply.stderr
    where, version = reply.stdout.split()
    assert where.startswith(str(target))
    assert version == "0.1.0"
    assert command.is_file()
