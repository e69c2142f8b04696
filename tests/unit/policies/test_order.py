"""The order of an action's policies changes neither the decision, nor its reasons, nor what is counted.

Over random sessions of all eight policies and the operations that go for their edges (``tests/onchain/draws.py``).
"""

from __future__ import annotations

import random
from collections import Counter

from tests.onchain.artifacts import MODELS
from tests.onchain.chain import DRIVER
from tests.onchain.draws import WHITELIST, Draw
from tests.onchain.judge import Judge, Step
from worker.policies.base import Allow, Verdict
from worker.policies.evaluate import PolicyTable, evaluate

SEQUENCES = 120
NOW = 1_800_000_000


def judged(table: PolicyTable, step: Step, sums: dict[str, int] | None) -> Verdict:
    return evaluate(
        table,
        step.executions,
        account=step.account,
        emissary=DRIVER,
        now_s=NOW,
        chain_s=NOW,
        latest_s=NOW,
        whitelist=WHITELIST,
        sums=sums,
    )


class TestOrder:
    """Any deny wins, and all that refuse are named."""

    def test_every_order_gives_the_same_verdict(self) -> None:
        seen: Counter[str] = Counter()
        for number in range(SEQUENCES):
            judge = Judge(NOW, DRIVER, WHITELIST)
            shuffle = random.Random(number).sample
            steps = [taken.step for taken in Draw(number, judge, tuple(MODELS.values())).steps()]
            for step in steps:
                table = judge.table(step.session)
                if step.enabling or not any(len(found) > 1 for found in table.actions.values()):
                    continue
                actions = {key: tuple(shuffle(found, len(found))) for key, found in table.actions.items()}
                for newest in (False, True):
                    for sums in (None, {}):
                        first = judged(PolicyTable(table.actions, newest=newest), step, sums)
                        assert judged(PolicyTable(actions, newest=newest), step, sums) == first
                        seen["allowed" if isinstance(first, Allow) else "denied"] += 1
                        if not isinstance(first, Allow) and "; " in first.reason:
                            seen["several reasons"] += 1
        assert min(seen["allowed"], seen["denied"], seen["several reasons"]) > 50, seen
