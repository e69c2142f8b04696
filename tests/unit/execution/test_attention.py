"""The codes that ask for a person: each is explained, and the runbook says the same."""

from __future__ import annotations

import re
from pathlib import Path

from worker.execution.attempt import QUARANTINED
from worker.execution.attention import ATTENTION
from worker.execution.retry import PLANS, UNEXPECTED, attention_of_wait
from worker.intents.states import FINAL, TRANSITIONS
from worker.ledger.redis_ledger import AWAITING_APPROVAL

ROOT = Path(__file__).parents[3]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def _codes() -> set[str]:
    """Every code that the pipeline can set: the tables', and the literals in its source."""
    found = {plan.attention for _, plan in PLANS} | {
        UNEXPECTED.attention,
        QUARANTINED,
        AWAITING_APPROVAL,
        attention_of_wait(10**6),
    }
    for path in (ROOT / "worker" / "execution").glob("*.py"):
        found |= set(re.findall(r"""attention["']?[=:] ?"([A-Z_]+)""", path.read_text()))
        found |= set(re.findall(r"""attention, reason = "([A-Z_]+)""", path.read_text()))
    return found - {""}


def test_every_code_is_explained_and_no_other() -> None:
    assert _codes() == set(ATTENTION)


def test_the_runbook_has_the_table() -> None:
    for code, advice in ATTENTION.items():
        assert f"| `{code}` | {advice.meaning} | {advice.resolve} |" in RUNBOOK


def test_the_runbook_has_the_state_diagram_of_the_table() -> None:
    lines = [
        f"    {state} --> {following}" for state in TRANSITIONS for following in sorted(TRANSITIONS[state])
    ] + [f"    {state} --> [*]" for state in sorted(FINAL)]
    for line in lines:
        assert line + "\n" in RUNBOOK
    assert len(re.findall(r"^    [A-Z]+ --> ", RUNBOOK, re.MULTILINE)) == len(lines)
