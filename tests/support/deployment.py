"""The deployment of ``docker-compose.yml`` on this machine: folders and ports instead of volumes and host names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.compose import ROOT, Compose, Service
from tests.support.need import missing
from tests.support.vault import free_port, vault_binary
from worker.keys.vault import AppRoleAuth

PASSWORD = "testpassword0123"


@contextmanager
def running(service: Service, log: Path, *, path: str = "") -> Generator[subprocess.Popen[bytes]]:
    """The service's process until the block ends. ``path`` goes before PATH."""
    env = service.full_env()
    if path:
        env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"
    with log.open("ab") as output:
        process = subprocess.Popen(
            service.command,
            env=env,
            cwd=service.working_dir or None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def health(service: Service, *, path: str = "") -> int:
    """Exit code of the service's own health check."""
    env = service.full_env()
    if path:
        env["PATH"] = f"{path}{os.pathsep}{env['PATH']}"
    return subprocess.run(
        service.health, env=env, cwd=service.working_dir or None, capture_output=True, timeout=60, check=False
    ).returncode


def wait_for(probe: Callable[[], bool], log: Path, what: str) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if probe():
            return
        time.sleep(0.1)
    pytest.fail(f"{what}: {log.read_text(errors='replace')[-3000:]}")


@dataclass
class Deployment:
    """Folders and ports in place of the volumes and host names of the file."""

    folder: Path
    redis_port: int
    vault_port: int
    vault_path: str
    variables: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def compose(self) -> Compose:
        return Compose(
            {
                "REDIS_PASSWORD": PASSWORD,
                "SESSION_EXECUTOR_RPC_URL": "http://127.0.0.1:1",
                "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY": "test-api-key",
            }
            | self.variables
        )

    @property
    def redis_url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.redis_port}/0"

    @property
    def vault_addr(self) -> str:
        return f"http://127.0.0.1:{self.vault_port}"

    def volume(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def log(self, name: str) -> Path:
        log = self.folder / f"{name}.log"
        log.touch()
        return log

    def redis(self) -> Service:
        return self.compose.service("redis").by_hand(
            {
                "/usr/local/etc/redis/redis.conf": str(ROOT / "config" / "redis" / "redis.conf"),
                "--dir /data": f"--dir {self.volume('redis-data')}",
                "--port 6379": f"--port {self.redis_port}",
                "--bind 0.0.0.0": "--bind 127.0.0.1",
                "-p 6379": f"-p {self.redis_port}",
            }
        )

    def vault(self) -> Service:
        config = self.folder / "vault.hcl"
        text = (ROOT / "config" / "vault" / "vault.hcl").read_text()
        for old, new in {
            "/vault/file": str(self.volume("vault-data")),
            "0.0.0.0:8200": f"127.0.0.1:{self.vault_port}",
            "127.0.0.1:8201": f"127.0.0.1:{self.vault_port + 1}",
            "http://vault:8200": self.vault_addr,
        }.items():
            assert old in text
            text = text.replace(old, new)
        config.write_text(text)
        return self.compose.service("vault").by_hand(
            {"/etc/vault/vault.hcl": str(config), "http://127.0.0.1:8200": self.vault_addr}
        )

    def bootstrap(self) -> Service:
        return self.compose.service("vault-bootstrap").by_hand(
            {
                "http://vault:8200": self.vault_addr,
                "/credentials/vault": str(self.volume("vault-init")),
                "/credentials/signer": str(self.volume("signer-credentials")),
                "/credentials/worker": str(self.volume("worker-credentials")),
                "/credentials/operator": str(self.volume("operator-credentials")),
                "/vault/logs": str(self.volume("vault-audit")),
            }
        )

    def run_bootstrap(self) -> str:
        service = self.bootstrap()
        done = subprocess.run(
            service.command, env=service.full_env(), capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.log("vault").read_text()[-2000:]
        return done.stdout


def credentials(deployment: Deployment, name: str) -> AppRoleAuth:
    file = deployment.volume(f"{name}-credentials") / ".env"
    lines = dict(line.split("=", 1) for line in file.read_text().splitlines())
    return AppRoleAuth(lines["SESSION_EXECUTOR_VAULT_ROLE_ID"], lines["SESSION_EXECUTOR_VAULT_SECRET_ID"])


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    """A deployment of which nothing runs yet."""
    if shutil.which("redis-server") is None:
        missing("redis-server", "apt-get install redis-server")
    binary = Path(vault_binary())
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "vault").symlink_to(binary)
    return Deployment(tmp_path, free_port(), free_port(), str(programs))
