"""The whole pipeline in one process: real ledger, registry, keystore files, chain and orchestrator; only Celery is absent.

Messages go to a list that ``Pipeline.run`` works off, so that a test decides what happens in which order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from config.settings import Settings
from tests.support.sessions import ACCOUNT, OWNER_KEY, USDC, make_session_file, usdc_transfer
from worker.devnet.devnet import Devnet
from worker.execution.enqueue import enqueue
from worker.execution.prepare import prepare
from worker.execution.runtime import Runtime
from worker.execution.sign import sign
from worker.execution.submit import submit
from worker.execution.watch import tick
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL, State
from worker.keys.keystore import SCRYPT_N_RANDOM_PASSPHRASE, KeystoreFiles
from worker.ledger.redis_ledger import RedisLedger
from worker.policies import Permit2Claim
from worker.policies.base import Execution
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, verify
from worker.sessions.model import Action
from worker.signing.sign import address_of

RECIPIENT = "0x" + "5e" * 20
PASSPHRASE = "a passphrase for tests"
STAGES: dict[str, Callable[[Runtime, str], None]] = {"prepare": prepare, "sign": sign, "submit": submit}
FAST = {"preconfirm_ms": 0, "fill_ms": 0, "complete_ms": 0}


def transfer(amount: int, to: str = RECIPIENT, token: str = USDC) -> Execution:
    """A call of ``transfer(to, amount)``; base units."""
    data = bytes.fromhex("a9059cbb") + bytes(12) + bytes.fromhex(to[2:]) + amount.to_bytes(32)
    return Execution(token, 0, data)


class Pipeline:
    """A funded account, a session key that it approved, and the services of one worker."""

    def __init__(
        self, devnet: Devnet, redis_url: str, directory: Path, *, limit: int = 100_000_000, **settings: Any
    ) -> None:
        self.devnet = devnet
        self.messages: list[tuple[str, str]] = []
        values: dict[str, Any] = {
            "redis_url": SecretStr(redis_url),
            "rpc_url": SecretStr(devnet.rpc_url),
            "chain_id": devnet.chain_id,
            "source_rpc_urls": {
                chain_id: SecretStr(url)
                for chain_id, url in devnet.rpc_urls.items()
                if chain_id != devnet.chain_id
            },
            "orchestrator_url": devnet.orchestrator_url,
            "orchestrator_api_key": SecretStr(devnet.api_key),
            "keystore_dir": directory / "keys",
            "state_dir": directory / "state",
            "keystore_passphrase": SecretStr(PASSPHRASE),
            "http_timeout_ms": 3_000,
            "stuck_after_ms": 1_000,
            "poll_initial_ms": 50,
            "poll_later_ms": 100,
        }
        self.settings = Settings(_env_file=None, **(values | settings))  # pyright: ignore[reportCallIssue]
        self.keys = KeystoreFiles(directory / "keys", lambda: PASSPHRASE, scrypt_n=SCRYPT_N_RANDOM_PASSPHRASE)
        self.key_address = self.keys.create().address
        self.runtime = self.new_runtime()
        devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=1_000_000_000)
        devnet.set_delays(**FAST)
        self.session = self.approve(limit=limit)

    @property
    def ledger(self) -> RedisLedger:
        """The real ledger, for looking."""
        ledger = self.runtime.ledger
        assert isinstance(ledger, RedisLedger)
        return ledger

    def new_runtime(self, **settings: Any) -> Runtime:
        """The services of another worker process over the same Redis."""
        changed = self.settings.model_copy(update=settings)
        return Runtime(changed, dispatch=lambda stage, intent_id: self.messages.append((stage, intent_id)))

    def approve(
        self,
        *,
        limit: int = 100_000_000,
        valid_for_s: int = 86_400,
        actions: Sequence[Action] | None = None,
        restrict: bool = True,
        chain: int | None = None,
        claim_policies: Sequence[Permit2Claim] = (),
    ) -> RegisteredSession:
        """A session that the owner approves for our key, imported."""
        now_s = int(time.time())
        text = make_session_file(
            OWNER_KEY,
            self.key_address,
            actions=actions or [usdc_transfer(limit, valid_until_ms=(now_s + valid_for_s) * 1000)],
            restrict=restrict,
            chain=chain or self.devnet.chain_id,
            claim_policies=claim_policies,
        )
        session = verify(
            load_session_file(text),
            our_keys=[self.key_address],
            chain_id=tuple(self.devnet.rpc_urls),
            now_s=now_s,
        )
        self.runtime.sessions.put(session)
        return session

    def submit(self, key: str, *calls: Execution, **fields: Any) -> str:
        """Enqueue an intent of the session; its id."""
        intent = TradeIntent(
            fields.pop("session_id", self.session.session_id),
            key,
            calls if calls or "trade" in fields else (transfer(10_000_000),),
            **fields,
        )
        return enqueue(self.runtime, intent).record.intent_id

    def step(self) -> tuple[str, str]:
        """Work off the oldest message; what it was."""
        stage, intent_id = self.messages.pop(0)
        STAGES[stage](self.runtime, intent_id)
        return stage, intent_id

    def run(self, *intent_ids: str, timeout_s: float = 30) -> list[IntentRecord]:
        """Work and tick until the intents are final; their records."""
        return self.until(
            lambda: all(self.ledger.get(intent_id).state in FINAL for intent_id in intent_ids),
            *intent_ids,
            timeout_s=timeout_s,
        )

    def until(self, done: Callable[[], bool], *intent_ids: str, timeout_s: float = 30) -> list[IntentRecord]:
        """Work and tick until a condition holds; the records of the intents named."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, [self.ledger.get(intent_id) for intent_id in intent_ids]
            while self.messages:
                self.step()
            tick(self.runtime)
            time.sleep(0.02)
        return [self.ledger.get(intent_id) for intent_id in intent_ids]

    def state(self, intent_id: str) -> State:
        """The state of an intent."""
        return self.ledger.get(intent_id).state

    def executed(self) -> int:
        """How many intents the chain has executed for the account."""
        return len(self.devnet.executions(ACCOUNT))

    def budget(self, session: RegisteredSession | None = None) -> tuple[int, int]:
        """Spent and reserved of the session's USDC limit, base units."""
        budgets = self.ledger.budgets((session or self.session).session_id)
        found = [budget for budget in budgets if budget.policy == "spending-limits"]
        return (found[0].spent, found[0].reserved) if found else (0, 0)
