"""A session that the real SDK made is imported by the command and traded by real workers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.e2e import run_command
from tests.support.pipeline import RECIPIENT
from tests.support.sdk import run_tutorial
from worker.devnet.stack import Stack

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]


def test_the_tutorials_session_is_traded_by_our_worker(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()

    def command(*arguments: str, code: int = 0) -> str:
        reply = run_command(stack.environment, stack.directory, *arguments)
        assert reply.returncode == code, reply.stdout + reply.stderr
        return reply.stdout.strip()

    key = command("keys", "create")
    # the user's side: account, approval, an enable by transaction, a trade and waitForExecution, all by the SDK
    tutorial = run_tutorial(stack.devnet, worker_address=key.lower(), recipient=RECIPIENT, limit_usdc="25")
    file = stack.directory / "session.json"
    file.write_text(tutorial.file)
    session = command("sessions", "import", str(file))
    paid, got = stack.devnet.usdc_balance(tutorial.account), stack.devnet.usdc_balance(RECIPIENT)
    executed = len(stack.devnet.executions(tutorial.account))
    trade = ("intents", "submit", "--session", session, "--to", RECIPIENT, "--amount", "10 USDC", "--wait")
    for number in range(2):
        assert command(*trade, "--key", f"trade {number}").endswith("COMPLETED")
    assert "25.00 USDC allowed, 20.00 spent or reserved, this call takes" in command(
        *trade, "--key", "over", code=1
    )
    assert paid - stack.devnet.usdc_balance(tutorial.account) == 20_000_000
    assert stack.devnet.usdc_balance(RECIPIENT) - got == 20_000_000
    assert len(stack.devnet.executions(tutorial.account)) - executed == 2
