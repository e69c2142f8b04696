"""What an operator reads when a limit refuses an intent."""

from __future__ import annotations

import pytest

from tests.support.sessions import USDC, make_session_file
from worker.execution.prepare import over_limit
from worker.ledger.errors import LimitExceededError
from worker.policies.base import CounterChange
from worker.sessions.file import load_session_file
from worker.sessions.importing import recompute

SESSION = recompute(load_session_file(make_session_file()))
OTHER = "0x" + "42" * 20


@pytest.mark.parametrize(
    ("policy", "token", "counter", "numbers", "words"),
    [
        (
            "spending-limits",
            USDC,
            f"aa:spending-limits:{USDC}",
            (100_000_000, 90_000_000, 5_000_000, 10_000_000),
            "100.00 USDC allowed, 95.00 spent or reserved, this call takes 10.00 (call 0)",
        ),
        (
            "spending-limits",
            USDC,
            f"aa:spending-limits:{USDC}",
            (1, 0, 1, 1_234_567_890_123),
            "0.000001 USDC allowed, 0.000001 spent or reserved, this call takes 1234567.890123 (call 0)",
        ),
        (
            "spending-limits",
            OTHER,
            f"aa:spending-limits:{OTHER}",
            (2**256 - 1, 2**255, 0, 2**255),
            f"{2**256 - 1} base units of {OTHER} allowed, {2**255} spent or reserved, this call takes {2**255} (call 0)",
        ),
        (
            "usage-limit",
            "",
            "aa:usage-limit:-",
            (3, 2, 1, 1),
            "3 uses allowed, 3 spent or reserved, this call takes 1 (call 0)",
        ),
        (
            "value-limit",
            "",
            "aa:value-limit:-",
            (10**18, 0, 1, 10**18),
            f"{10**18} wei allowed, 1 spent or reserved, this call takes {10**18} (call 0)",
        ),
        (
            "arg-policy",
            "",
            "aa:arg-policy:rule12",
            (50, 40, 0, 11),
            "50 allowed by rule 12, 40 spent or reserved, this call takes 11 (call 0)",
        ),
    ],
)
def test_the_words(
    policy: str, token: str, counter: str, numbers: tuple[int, int, int, int], words: str
) -> None:
    limit, spent, reserved, amount = numbers
    change = CounterChange(counter, amount, limit, policy, 0, token)
    assert over_limit(LimitExceededError(change, spent=spent, reserved=reserved), SESSION) == words
