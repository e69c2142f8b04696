"""The services of ``docker-compose.yml`` started by hand: their very commands and environment, without Docker.

Only host names, ports and paths are replaced, since here they share one machine.
"""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hvac
import pytest
import redis

from config.settings import Settings
from tests.support.deployment import PASSWORD, Deployment, credentials, health, running, wait_for
from worker.keys.errors import KeyStoreDeniedError
from worker.keys.secp256k1 import address_of
from worker.keys.vault import VaultKeyStore
from worker.ledger.health import check_redis, require_fit

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


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
        with VaultKeyStore(deployment.vault_addr, "", credentials(deployment, "signer")).get(address) as key:
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
            for name in ("signer", "worker", "operator"):
                assert credentials(deployment, name).secret_id not in text

    def test_each_finds_its_credentials_in_its_working_folder(
        self, deployment: Deployment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = deployment.log("vault")
        with running(deployment.vault(), log, path=deployment.vault_path):
            deployment.run_bootstrap()
        for name in ("signer", "worker", "operator"):
            folder = deployment.volume(f"{name}-credentials")
            assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
            service = deployment.compose.service(name).by_hand(
                {
                    f"/credentials/{name}": str(folder),
                    "/var/lib/session-executor/state": str(deployment.volume("state")),
                    "/etc/session-executor/strategies.toml": str(deployment.folder / "strategies.toml"),
                }
            )
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

    def test_they_share_nothing(self, deployment: Deployment) -> None:
        with running(deployment.vault(), deployment.log("vault"), path=deployment.vault_path):
            deployment.run_bootstrap()
            operator = self.operator(deployment)
            address = operator.create().address
            worker, signer = (
                VaultKeyStore(deployment.vault_addr, "", credentials(deployment, name))
                for name in ("worker", "signer")
            )
            for store in (operator, worker):
                with pytest.raises(KeyStoreDeniedError, match="permission denied"), store.get(address):
                    pass
            for store in (worker, signer):
                with pytest.raises(KeyStoreDeniedError, match="permission denied"):
                    store.create()


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
