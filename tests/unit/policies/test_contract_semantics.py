"""The evaluator against the results of the compiled policy contracts (``policy_semantics.json``).

The recorded contracts are the newest revision, so the table is too; the sums are known exactly.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from pydantic import TypeAdapter

from tests.support.last_line import SayLast
from tests.support.vectors import load_vectors
from worker.policies import Policy
from worker.policies.base import Allow, Execution
from worker.policies.evaluate import ActionPolicies, action_id, build_table, evaluate
from worker.policies.policy import PolicyModel

_POLICY: TypeAdapter[PolicyModel] = TypeAdapter(Policy)
_EMISSARY = "0xad568b3f825a8d5ffc06dd3253526b64d810ae89"
_SUPPORTED = {"sudo", "usage-limit", "value-limit", "spending-limits", "universal-action", "arg-policy"}


class _Chain:
    """Replays a scenario with counters as the ledger keeps them: kept only if the whole operation passes."""

    def __init__(self, scenario: dict[str, Any], account: str) -> None:
        self.policy = _POLICY.validate_python(scenario["policy"])
        self.account = account.lower()
        self.spent: dict[str, int] = defaultdict(int)

    def allows(self, step: dict[str, Any]) -> bool:
        execution = Execution(step["target"].lower(), int(step["value"]), bytes.fromhex(step["data"][2:]))
        # the recorded call goes straight to the policy: put it on whatever action the call matches
        selector = execution.data[:4] if len(execution.data) >= 4 else b"\xff" * 4
        table = build_table([ActionPolicies(execution.to, selector, (self.policy,))], newest=True)
        action = action_id(execution.to, selector)
        verdict = evaluate(
            table,
            [execution],
            account=self.account,
            emissary=_EMISSARY,
            now_s=1_750_000_000,
            chain_s=1_750_000_000,
            latest_s=1_750_000_000,
            sums={f"{action}:{key}": value for key, value in self.spent.items()},
        )
        if not isinstance(verdict, Allow):
            return False
        grown = dict(self.spent)
        for change in verdict.changes:
            # one policy instance holds one counter per token or rule whatever the recorded target was
            key = change.counter.split(":", 1)[1]
            grown[key] = grown.get(key, 0) + change.amount
            if grown[key] > change.limit:
                return False
        self.spent.update(grown)
        return True


class TestRecordedScenarios:
    """Same allow and deny, step after step, as the contracts on a local chain."""

    def test_each_supported_scenario_gives_the_recorded_results(self) -> None:
        recorded = load_vectors("policy_semantics")
        seen: Counter[str] = Counter()
        for scenario in recorded["vectors"]:
            if scenario["policy"]["type"] not in _SUPPORTED:
                continue
            chain = _Chain(scenario, recorded["account"])
            for number, step in enumerate(scenario["steps"]):
                seen[scenario["policy"]["type"]] += 1
                ours, theirs = chain.allows(step), step["expected"]["allowed"]
                assert ours is theirs, (scenario["name"], number)
        assert seen == {
            "universal-action": 47,
            "spending-limits": 36,
            "value-limit": 8,
            "usage-limit": 4,
            "sudo": 1,
            "arg-policy": 27,
        }

    def test_what_the_contracts_refuse_to_enable_is_refused_here(self) -> None:
        checked = 0
        for scenario in load_vectors("policy_semantics")["vectors"]:
            kind = scenario["policy"]["type"]
            if kind not in _SUPPORTED | {"time-frame"} or scenario["name"] == "time-frame short initData":
                continue  # the short init data is a hand-made one that no model produces
            problem = _POLICY.validate_python(scenario["policy"]).enable_problem()
            if scenario["initialize"] != "ok":
                assert problem is not None, scenario["name"]
                checked += 1
            elif all(not step["expected"]["allowed"] for step in scenario["steps"]) and "revert" in str(
                [step["expected"] for step in scenario["steps"]]
            ):
                continue  # enabled, but unusable: judged by its own tests
            else:
                assert problem is None, scenario["name"]
        assert checked == 5

    def test_the_window_that_a_time_frame_reports_is_the_window_we_hold(self) -> None:
        checked = 0
        for scenario in load_vectors("policy_semantics")["vectors"]:
            if scenario["policy"]["type"] != "time-frame" or "uint48" not in scenario["name"]:
                continue
            policy = _POLICY.validate_python(scenario["policy"])
            for step in scenario["steps"]:
                checked += 1
                if "returns" not in step["expected"]:
                    assert policy.enable_problem() is not None, scenario["name"]
                    continue
                reported = int(step["expected"]["returns"])
                start, end = reported >> 208, reported >> 160 & (2**48 - 1)
                for moment in (start - 1, start, end - 1, end, 1_750_000_000):
                    inside = start <= moment and (end == 0 or moment < end)
                    verdict = evaluate(
                        build_table([ActionPolicies("0x" + "11" * 20, b"\xff" * 4, (policy,))]),
                        [Execution("0x" + "11" * 20, 0, b"")],
                        account=scenario.get("account", "0x" + "aa" * 20),
                        emissary=_EMISSARY,
                        now_s=moment,
                        chain_s=moment,
                        latest_s=moment,
                    )
                    assert isinstance(verdict, Allow) is inside, (scenario["name"], moment)
        assert checked == 7

    def test_no_scenario_is_left_out(self, say_last: SayLast) -> None:
        kinds = Counter(
            scenario["policy"]["type"] for scenario in load_vectors("policy_semantics")["vectors"]
        )
        assert set(kinds) == _SUPPORTED | {"time-frame"}
        assert kinds.total() == 56
        steps = sum(len(scenario["steps"]) for scenario in load_vectors("policy_semantics")["vectors"])
        say_last(f"policy_semantics: scenarios={kinds.total()} steps={steps} kinds={len(kinds)}")
