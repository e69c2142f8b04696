"""The services of ``docker-compose.yml`` started by hand: their very commands and environment, without Docker.

Only host names, ports and paths are replaced, since here they share one machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hvac
import pytest
import redis

from config.settings import Settings
from tests.support.compose import ROOT, Compose, Service
from tests.support.need import missing
from tests.support.vault import free_port, vault_binary
from worker.keys.secp256k1 import address_of
from worker.keys.vault import AppRoleAuth, VaultKeyStore
from worker.ledger.health import check_redis, require_fit

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]

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
        service.health, env=env, cwd=service.working_dir or None, capture_output=True, timeout=20, check=False
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

    @property
    def compose(self) -> Compose:
        return Compose(
            {
                "REDIS_PASSWORD": PASSWORD,
                "SESSION_EXECUTOR_RPC_URL": "http://127.0.0.1:1",
                "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY": "test-api-key",
            }
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


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    if shutil.which("redis-server") is None:
        missing("redis-server", "apt-get install redis-server")
    binary = Path(vault_binary())
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "vault").symlink_to(binary)
    return Deployment(tmp_path, free_port(), free_port(), str(programs))


class TestRedis:
    """Redis keeps what it acknowledged, evicts nothing and lets nobody in without the password."""

    def test_password_aof_and_no_eviction(self, deployment: Deployment) -> None:
        service, log = deployment.redis(), deployment.log("redis")
        with running(service, log):
            wait_for(lambda: health(service) == 0, log, "redis is not healthy")
            found = check_redis(deployment.redis_url)
            require_fit(found)
            assert found.problems == ()
            assert (found.aof, found.appendfsync, found.maxmemory_policy) == (True, "always", "noeviction")
            for url in (
                f"redis://127.0.0.1:{deployment.redis_port}/0",
                f"redis://:wrong@127.0.0.1:{deployment.redis_port}/0",
            ):
                with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
                    client.get("x")

    def test_what_was_acknowledged_survives_sigkill(self, deployment: Deployment) -> None:
        service, log = deployment.redis(), deployment.log("redis")
        with running(service, log) as process:
            wait_for(lambda: health(service) == 0, log, "redis is not healthy")
            with redis.Redis.from_url(deployment.redis_url) as client:
                client.set("booked", "10000000")
            process.kill()
            process.wait()
            assert health(service) != 0
        with running(service, log):
            wait_for(lambda: health(service) == 0, log, "redis is not healthy")
            with redis.Redis.from_url(deployment.redis_url) as client:
                assert client.get("booked") == b"10000000"

    def test_the_password_is_in_no_argument_and_no_log(self, deployment: Deployment) -> None:
        service, log = deployment.redis(), deployment.log("redis")
        with running(service, log) as process:
            wait_for(lambda: health(service) == 0, log, "redis is not healthy")
            # exec replaced the shell: signals reach the server itself
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert b"redis-server" in shown
            assert PASSWORD.encode() not in shown
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        assert PASSWORD not in log.read_text()

    def test_a_health_check_with_another_password_fails(self, deployment: Deployment) -> None:
        service, log = deployment.redis(), deployment.log("redis")
        with running(service, log):
            wait_for(lambda: health(service) == 0, log, "redis is not healthy")
            assert isinstance(service.env, Mapping)
            service.env["REDIS_PASSWORD"] = "another"  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
            assert health(service) != 0


class TestVault:
    """Vault and its one-shot: from an empty volume to a worker that reads its key, and back after a restart."""

    def test_from_empty_volumes_through_a_restart(self, deployment: Deployment) -> None:
        vault, log, path = deployment.vault(), deployment.log("vault"), deployment.vault_path
        with running(vault, log, path=path):
            first = deployment.run_bootstrap()
            assert "Vault initialised" in first
            wait_for(lambda: health(vault, path=path) == 0, log, "vault is not healthy")
            address = self.operator(deployment).create(label="market maker").address
            assert address_of(self.use(deployment, address)) == address
            assert "holds working credentials" in deployment.run_bootstrap()
        with running(vault, log, path=path):
            wait_for(lambda: self.answers(deployment), log, "vault does not answer")
            # sealed: compose shows it as unhealthy, and nothing is signed
            assert health(vault, path=path) == 2
            again = deployment.run_bootstrap()
            assert "Vault unsealed" in again
            assert "initialised" not in again
            wait_for(lambda: health(vault, path=path) == 0, log, "vault is not healthy")
            assert address_of(self.use(deployment, address)) == address
        self.assert_nothing_secret_is_logged(deployment, first + again)

    def operator(self, deployment: Deployment) -> VaultKeyStore:
        return VaultKeyStore(deployment.vault_addr, "", credentials(deployment, "operator"))

    def use(self, deployment: Deployment, address: str) -> bytes:
        with VaultKeyStore(deployment.vault_addr, "", credentials(deployment, "worker")).get(address) as key:
            return key.use()

    def answers(self, deployment: Deployment) -> bool:
        try:
            return bool(hvac.Client(url=deployment.vault_addr, token="").sys.read_seal_status())
        except Exception:  # noqa: BLE001 - not yet
            return False

    def assert_nothing_secret_is_logged(self, deployment: Deployment, output: str) -> None:
        kept: dict[str, Any] = json.loads((deployment.volume("vault-init") / "init.json").read_text())
        audit = (deployment.volume("vault-audit") / "audit.log").read_text()
        assert '"path":"secret/data/session-keys/' in audit
        for text in (output, audit, deployment.log("vault").read_text()):
            for secret in kept.values():
                assert secret not in text
            for name in ("worker", "operator"):
                assert credentials(deployment, name).secret_id not in text

    def test_the_worker_finds_its_credentials_in_its_working_folder(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = deployment.log("vault")
        with running(deployment.vault(), log, path=deployment.vault_path):
            deployment.run_bootstrap()
        for name in ("worker", "operator"):
            folder = deployment.volume(f"{name}-credentials")
            assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
            service = deployment.compose.service(name).by_hand({f"/credentials/{name}": str(folder)})
            assert service.working_dir == str(folder)
            with monkeypatch.context() as patch:
                patch.chdir(service.working_dir)
                for key, value in service.env.items():
                    patch.setenv(key, value)
                settings = Settings()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            assert settings.key_store == "vault"
            assert settings.vault_addr == "http://vault:8200"
            assert settings.vault_role_id == credentials(deployment, name).role_id
            assert settings.vault_secret_id is not None

    def test_the_two_share_nothing(self, deployment: Deployment) -> None:
        with running(deployment.vault(), deployment.log("vault"), path=deployment.vault_path):
            deployment.run_bootstrap()
            operator = self.operator(deployment)
            address = operator.create().address
            with pytest.raises(Exception, match="permission denied"), operator.get(address):
                pass
            worker = VaultKeyStore(deployment.vault_addr, "", credentials(deployment, "worker"))
            with pytest.raises(Exception, match="permission denied"):
                worker.create()


def credentials(deployment: Deployment, name: str) -> AppRoleAuth:
    file = deployment.volume(f"{name}-credentials") / ".env"
    lines = dict(line.split("=", 1) for line in file.read_text().splitlines())
    return AppRoleAuth(lines["SESSION_EXECUTOR_VAULT_ROLE_ID"], lines["SESSION_EXECUTOR_VAULT_SECRET_ID"])


class TestSchedulerHealth:
    """Beat by its own command: healthy while it holds the lock, not before and not long after."""

    def test_beat(self, deployment: Deployment) -> None:
        strategies = deployment.folder / "strategies.toml"
        strategies.write_text("")
        beat = deployment.compose.service("beat").by_hand(
            {
                "redis:6379": f"127.0.0.1:{deployment.redis_port}",
                "/etc/session-executor/strategies.toml": str(strategies),
            }
        )
        with ExitStack() as stack:
            server = deployment.redis()
            stack.enter_context(running(server, deployment.log("redis")))
            wait_for(lambda: health(server) == 0, deployment.log("redis"), "redis is not healthy")
            assert health(beat) == 1
            with running(beat, deployment.log("beat")):
                wait_for(lambda: health(beat) == 0, deployment.log("beat"), "beat is not healthy")
            # it gives the lock back, or its lock runs out
            wait_for(lambda: health(beat) == 1, deployment.log("beat"), "the lock stays")
            assert PASSWORD not in deployment.log("beat").read_text()
