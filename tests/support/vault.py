"""A real Vault for the tests: one that runs, or one that is started on a free loopback port.

In this order: ``TEST_VAULT_ADDR`` and ``TEST_VAULT_TOKEN`` (a container, say), ``vault`` on PATH, the binary that
``tests/support/build_vault.sh`` left in the cache folder, or a build by that script now.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests

from tests.support.need import missing

VERSION = "1.21.0"
_BUILD = Path(__file__).with_name("build_vault.sh")
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class VaultServer:
    """An unsealed Vault and a token that may do everything in it."""

    addr: str
    token: str = field(repr=False)

    def admin(self, *, namespace: str | None = None) -> hvac.Client:
        """A client with the powerful token."""
        return hvac.Client(url=self.addr, token=self.token, namespace=namespace)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cache_dir() -> Path:
    """Where binaries that are slow to make are kept, outside the tree."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "session-executor" / "bin"


def vault_binary() -> str:
    """Path of a ``vault`` binary; built once if there is none (minutes), skipped or failed if it cannot be had."""
    if on_path := shutil.which("vault"):
        return on_path
    cached = cache_dir() / f"vault-{VERSION}"
    if not os.access(cached, os.X_OK):
        if shutil.which("go") is None:
            missing(
                "vault",
                f"put vault {VERSION} on PATH, set TEST_VAULT_ADDR and TEST_VAULT_TOKEN, or install go",
            )
        build = subprocess.run(["bash", str(_BUILD)], capture_output=True, text=True, check=False)
        if build.returncode != 0:
            missing("vault", f"tests/support/build_vault.sh failed: {build.stderr[-500:]}")
    return str(cached)


@contextmanager
def run_vault(arguments: list[str], env: dict[str, str], log: Path, addr: str) -> Generator[int]:
    """Run ``vault`` until the block ends; yields its process id once it answers (sealed or not)."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [vault_binary(), *arguments],
            env=_clean_env() | env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(process, addr, log)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def dev_vault(folder: Path) -> Generator[VaultServer]:
    """An in-memory, unsealed Vault of its own, with KV v2 at ``secret``."""
    port, token = free_port(), f"test-root-{secrets.token_hex(8)}"
    addr = f"http://127.0.0.1:{port}"
    # the token goes in by the environment: arguments can be seen by other users
    env = {
        "VAULT_DEV_ROOT_TOKEN_ID": token,
        "VAULT_DEV_LISTEN_ADDRESS": f"127.0.0.1:{port}",
        "HOME": str(folder),  # dev mode writes ~/.vault-token
    }
    arguments = ["server", "-dev", "-dev-no-store-token"]
    with run_vault(arguments, env, folder / "vault.log", addr):
        server = VaultServer(addr, token)
        _wait_for_kv(server)
        yield server


@dataclass(slots=True)
class SealableVault:
    """A Vault in server mode, initialised with one unseal key, that tests seal, stop and start again."""

    folder: Path
    server: VaultServer
    unseal_key: str = field(repr=False)
    _running: ExitStack
    pid: int

    def seal(self) -> None:
        self.server.admin().sys.seal()

    def unseal(self) -> None:
        self.server.admin().sys.submit_unseal_key(self.unseal_key)
        for _ in range(100):
            health: Any = self.server.admin().sys.read_health_status(method="GET")
            if isinstance(health, dict):
                return
            time.sleep(0.1)
        pytest.fail("vault did not become active after the unseal")

    def stop(self) -> None:
        """End the process; its data stays."""
        self._running.close()

    def kill(self) -> None:
        """End it without a chance to say goodbye; its data stays as it is."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def start(self) -> None:
        """Start it again on the same port, sealed."""
        self.pid = self._running.enter_context(running_server(self.folder, self.server.addr))


def running_server(folder: Path, addr: str) -> AbstractContextManager[int]:
    """A Vault in server mode with file storage in ``folder``, as it is: not initialised, or sealed."""
    config = folder / "vault.hcl"
    config.write_text(
        f'storage "file" {{ path = "{folder / "data"}" }}\n'
        f'listener "tcp" {{\n  address = "{addr.removeprefix("http://")}"\n  tls_disable = true\n}}\n'
        f'disable_mlock = true\napi_addr = "{addr}"\n'
    )
    return run_vault(["server", f"-config={config}"], {"HOME": str(folder)}, folder / "vault.log", addr)


@contextmanager
def server_vault(folder: Path) -> Generator[SealableVault]:
    """A Vault in server mode with file storage, initialised and unsealed."""
    addr = f"http://127.0.0.1:{free_port()}"
    with ExitStack() as running:
        pid = running.enter_context(running_server(folder, addr))
        made: Any = hvac.Client(url=addr, token="").sys.initialize(secret_shares=1, secret_threshold=1)
        vault = SealableVault(folder, VaultServer(addr, made["root_token"]), made["keys"][0], running, pid)
        vault.unseal()
        vault.server.admin().sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        _wait_for_kv(vault.server)
        yield vault


@pytest.fixture(scope="session")
def vault_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultServer]:
    """A Vault that the whole run shares: use mounts and prefixes of your own in it."""
    addr, token = os.environ.get("TEST_VAULT_ADDR"), os.environ.get("TEST_VAULT_TOKEN")
    if addr and token:
        yield VaultServer(addr, token)
        return
    with dev_vault(tmp_path_factory.mktemp("vault")) as server:
        yield server


@pytest.fixture
def sealable_vault(tmp_path: Path) -> Iterator[SealableVault]:
    """A Vault of this test alone, that it may seal and unseal."""
    with server_vault(tmp_path) as vault:
        yield vault


def _clean_env() -> dict[str, str]:
    """The environment without what would steer Vault or send loopback requests to a proxy."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VAULT_") and not name.lower().endswith("_proxy")
    }


def _wait_until_it_answers(process: subprocess.Popen[bytes], addr: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            requests.get(f"{addr}/v1/sys/seal-status", timeout=1)
        except requests.exceptions.SSLError:
            return  # it answers, though not to somebody without CA and certificate
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"vault did not start: {log.read_text(errors='replace')[-2000:]}")


def _wait_for_kv(server: VaultServer) -> None:
    """KV v2 answers 400 for a moment after it was mounted ("upgrading from non-versioned to versioned data")."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        answer = requests.get(
            f"{server.addr}/v1/secret/config", headers={"X-Vault-Token": server.token}, timeout=2
        )
        if answer.status_code == 200:
            return
        time.sleep(0.1)
    pytest.fail("the KV v2 mount did not become ready")
