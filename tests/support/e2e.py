"""Real processes: Celery workers and beat over Redis and the devnet, and the command as an operator runs it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.pipeline import FAST, transfer
from tests.support.sessions import ACCOUNT, OWNER_KEY, make_session_file, usdc_transfer
from worker.devnet.stack import Stack
from worker.execution.dispatch import celery_app, dispatcher
from worker.execution.enqueue import enqueue
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, verify
from worker.signing.sign import address_of

COMMAND = str(Path(sys.executable).with_name("session-executor"))


def run_command(
    environment: Mapping[str, str], directory: Path, *arguments: str, stdin: str = "", timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """The ``session-executor`` command, run from a folder without a ``.env``."""
    return subprocess.run(
        [COMMAND, *arguments],
        env=dict(environment),
        cwd=directory,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class Trader:
    """An operator beside a running stack: a funded account whose owner approves sessions, and the enqueuer's services."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        app = celery_app(stack.settings)
        self.runtime = Runtime(
            stack.settings, dispatch=dispatcher(app), dispatch_urgent=dispatcher(app, urgent=True)
        )
        stack.devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=1_000_000_000)
        stack.devnet.set_delays(**FAST)

    def session_file(self, key_address: str, *, limit: int = 100_000_000, nonce: int = 0) -> str:
        """What the frontend exports after the owner's approval: ``limit`` base units of USDC within a day.

        ``nonce`` counts the account's approvals that were used before.
        """
        until_ms = (int(time.time()) + 86_400) * 1000
        actions = [usdc_transfer(limit, valid_until_ms=until_ms)]
        return make_session_file(OWNER_KEY, key_address, actions=actions, nonce=nonce)

    def import_session(
        self, key_address: str, *, limit: int = 100_000_000, nonce: int = 0
    ) -> RegisteredSession:
        """Approve and register a session of one of our keys."""
        session = verify(
            load_session_file(self.session_file(key_address, limit=limit, nonce=nonce)),
            our_keys=[key_address],
            chain_id=self.runtime.settings.chain_id,
            now_s=int(time.time()),
        )
        self.runtime.sessions.put(session)
        return session

    def submit(self, session: RegisteredSession, key: str, amount: int = 10_000_000, **fields: Any) -> str:
        """Enqueue one transfer; its intent id."""
        intent = TradeIntent(session.session_id, key, (transfer(amount),), **fields)
        return enqueue(self.runtime, intent).record.intent_id

    def records(self, intent_ids: Sequence[str]) -> list[IntentRecord]:
        """The records as they are now."""
        return [self.runtime.ledger.get(intent_id) for intent_id in intent_ids]

    def wait(self, intent_ids: Sequence[str], *, timeout_s: float = 90) -> list[IntentRecord]:
        """Wait until all are final."""
        return self.wait_until(
            lambda: all(record.state in FINAL for record in self.records(intent_ids)),
            intent_ids,
            timeout_s=timeout_s,
        )

    def wait_until(
        self, done: Callable[[], bool], intent_ids: Sequence[str] = (), *, timeout_s: float = 90
    ) -> list[IntentRecord]:
        """Wait for a condition; the records named."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, (
                self.records(intent_ids),
                [child.log()[-3_000:] for child in self.stack.children],
            )
            time.sleep(0.1)
        return self.records(intent_ids)

    def executed(self) -> int:
        """How many intents the chain has executed for the account."""
        return len(self.stack.devnet.executions(ACCOUNT))

    def budget(self, session: RegisteredSession) -> tuple[int, int]:
        """Spent and reserved of the USDC limit, base units."""
        found = [
            budget
            for budget in self.runtime.ledger.budgets(session.session_id)
            if budget.policy == "spending-limits"
        ]
        return (found[0].spent, found[0].reserved) if found else (0, 0)
