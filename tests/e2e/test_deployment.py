"""The services of ``docker-compose.yml`` by hand, all of them, trading on the devnet with keys in a real Vault.

No container runs here: the very commands and environment of the file do, with other addresses.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack

import pytest
import redis

from tests.support.deployment import PASSWORD, Deployment, credentials, health, running, wait_for
from tests.support.leaks import spellings
from tests.support.pipeline import FAST, RECIPIENT
from tests.support.sessions import ACCOUNT, OWNER_KEY, make_session_file, usdc_transfer
from worker.devnet.devnet import Devnet
from worker.keys.vault import VaultKeyStore
from worker.signing.sign import address_of

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]


def test_redis_vault_worker_and_beat_of_the_compose_file_trade(
    deployment: Deployment, devnet: Devnet
) -> None:
    devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=1_000_000_000)
    devnet.set_delays(**FAST)
    strategies = deployment.folder / "strategies.toml"
    strategies.write_text("")
    deployment.variables |= {
        "SESSION_EXECUTOR_RPC_URL": devnet.rpc_url,
        "SESSION_EXECUTOR_ORCHESTRATOR_URL": devnet.orchestrator_url,
        "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY": devnet.api_key,
        "SESSION_EXECUTOR_LOG_LEVEL": "DEBUG",
    }
    shared = {
        "redis:6379": f"127.0.0.1:{deployment.redis_port}",
        "/etc/session-executor/strategies.toml": str(strategies),
    }
    signs = {
        "http://vault:8200": deployment.vault_addr,
        "/var/lib/session-executor/state": str(deployment.volume("state")),
    }

    def by_hand(name: str, *, keys: bool) -> dict[str, str]:
        folder = {f"/credentials/{name}": str(deployment.volume(f"{name}-credentials"))}
        return shared | (signs | folder if keys else {})

    worker = deployment.compose.service("worker").by_hand(by_hand("worker", keys=True))
    signer = deployment.compose.service("signer").by_hand(by_hand("signer", keys=True))
    beat = deployment.compose.service("beat").by_hand(by_hand("beat", keys=False))
    operator = deployment.compose.service("operator").by_hand(by_hand("operator", keys=True))

    def operate(*arguments: str, code: int = 0, stdin: str = "") -> str:
        reply = subprocess.run(
            [operator.command[0], *arguments],
            env=operator.full_env(),
            cwd=operator.working_dir,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert reply.returncode == code, reply.stdout + reply.stderr
        outputs.append(reply.stdout + reply.stderr)
        return reply.stdout.strip()

    outputs: list[str] = []
    path = deployment.vault_path
    with ExitStack() as stack:
        stack.enter_context(running(deployment.vault(), deployment.log("vault"), path=path))
        deployment.run_bootstrap()
        server = deployment.redis()
        stack.enter_context(running(server, deployment.log("redis")))
        wait_for(lambda: health(server) == 0, deployment.log("redis"), "redis is not healthy")
        stack.enter_context(running(worker, deployment.log("worker")))
        stack.enter_context(running(signer, deployment.log("signer")))
        stack.enter_context(running(beat, deployment.log("beat")))
        wait_for(lambda: health(worker) == 0, deployment.log("worker"), "the worker is not healthy")
        wait_for(lambda: health(signer) == 0, deployment.log("signer"), "the signer is not healthy")
        wait_for(lambda: health(beat) == 0, deployment.log("beat"), "beat is not healthy")

        key = operate("keys", "create", "--label", "market maker")
        until_ms = (int(time.time()) + 86_400) * 1000
        file = make_session_file(
            OWNER_KEY, key.lower(), actions=[usdc_transfer(30_000_000, valid_until_ms=until_ms)]
        )
        session = operate("sessions", "import", "-", stdin=file)
        trade = (
            "intents",
            "submit",
            "--session",
            session,
            "--to",
            RECIPIENT,
            "--amount",
            "10 USDC",
            "--wait",
        )
        for number in range(3):
            assert operate(*trade, "--key", f"trade {number}").endswith("COMPLETED")
        refused = operate(*trade, "--key", "one too many", code=1)
        assert (
            "REJECTED: spending-limits: 30.00 USDC allowed, 30.00 spent or reserved, this call takes 10.00"
            in refused
        )
        assert json.loads(operate("doctor", "--json"))
        assert len(devnet.executions(ACCOUNT)) == 3

        store = VaultKeyStore(deployment.vault_addr, "", credentials(deployment, "signer"))
        with store.get(key.lower()) as held:
            secret = held.use()
        with redis.Redis.from_url(deployment.redis_url) as client:
            client.save()
    places = {
        **{
            name: deployment.log(name).read_bytes() for name in ("worker", "signer", "beat", "redis", "vault")
        },
        "operator": "".join(outputs).encode(),
        "audit": (deployment.volume("vault-audit") / "audit.log").read_bytes(),
        **{
            file.name: file.read_bytes()
            for file in deployment.volume("redis-data").rglob("*")
            if file.is_file()
        },
    }
    assert "this worker signs nothing and holds no session keys" in deployment.log("worker").read_text()
    roles = [credentials(deployment, name) for name in ("worker", "signer", "operator")]
    for place, content in places.items():
        for spelling in (*spellings(secret), *(role.secret_id for role in roles)):
            assert spelling.encode() not in content, f"a secret is in: {place}"
        if place != "redis":
            assert PASSWORD.encode() not in content, f"the Redis password is in: {place}"
