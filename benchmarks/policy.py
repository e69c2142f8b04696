"""bench-policy: what evaluating one intent and reserving its budgets costs our process, on a real Redis.

One intent is judged against every policy and guardrail of its session, and moved from QUEUED to AUTHORIZED with its reservations and
its quote in one step, as ``worker/execution/prepare.py`` does. Round trips are counted in a pass of their own, by
counting what redis-py writes to its socket.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from benchmarks import report
from tests.support.redis import start_local
from tests.support.sessions import NOW_S, USDC, make_session_file, usdc_transfer
from worker.execution.guardrails import Part, approval_needed, charges, require_within
from worker.execution.prepare import part_of
from worker.execution.tokens import amount_format, token_table
from worker.intents.guardrails import read_guardrails
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.redis_ledger import RedisLedger
from worker.policies import UsageLimit
from worker.policies.base import Allow, Execution
from worker.policies.evaluate import evaluate
from worker.policies.guardrails import SESSION_SCOPE, ScopeRules
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.sessions.model import Action
from worker.signing.contracts import SMART_SESSION_EMISSARY

_QUOTE = (Path(__file__).parent / "intent_op.json").read_text()
_NOW_MS = NOW_S * 1000
_LIMIT = 10**24


class Worker:
    """One session's intents, queued and claimed, to be evaluated and reserved one after the other.

    Args:
        url: an empty Redis database.
    """

    def __init__(self, url: str) -> None:
        self.ledger = RedisLedger(url)
        rules = _rules()
        self.session = replace(_session(), rules={rules.scope: rules})
        # where the script that reserves holds them against those of the judgement
        name = f"sx:{{{self.session.session_id.removeprefix('ses_')}}}:session"
        redis.Redis.from_url(url).hset(name, rules.field_name, rules.text)
        self.calls = (_transfer(10_000_000),)
        self._amount = amount_format(self.session.chain_id)
        self._made = 0

    def claimed(self, count: int) -> list[tuple[str, int]]:
        """(intent id, fence) of ``count`` new intents."""
        made: list[tuple[str, int]] = []
        for _ in range(count):
            self._made += 1
            intent = TradeIntent(self.session.session_id, f"benchmark {self._made}", self.calls)
            record = self.ledger.enqueue(intent, now_ms=_NOW_MS, due_ms=_NOW_MS).record
            taken = self.ledger.claim(
                record.intent_id, states=(State.QUEUED,), lease_ms=60_000, now_ms=_NOW_MS, who="benchmark"
            )
            if taken is None:
                raise report.BenchmarkError("a new intent could not be claimed")
            made.append((taken.intent_id, taken.fence))
        return made

    def evaluate(self) -> Allow:
        """Judge the intent's calls."""
        verdict = evaluate(
            self.session.table,
            self.calls,
            account=self.session.account,
            emissary=SMART_SESSION_EMISSARY,
            now_s=NOW_S,
            chain_s=NOW_S,
            latest_s=NOW_S + 120,
            amount=self._amount,
        )
        if not isinstance(verdict, Allow):
            raise report.BenchmarkError(f"the intent is denied: {verdict.reason}")
        return verdict

    def part(self) -> Part:
        """Judge the intent's calls by the guardrails; what they count."""
        part = part_of(self.session, TradeIntent(self.session.session_id, "benchmark", self.calls))
        require_within(part)
        if approval_needed(part):
            raise report.BenchmarkError("the intent waits for an approval")
        return part

    def reserve(self, intent_id: str, fence: int, verdict: Allow) -> None:
        """Reserve its budgets, with all that is stored in the same step."""
        self.ledger.transition(
            intent_id,
            fence=fence,
            from_state=State.QUEUED,
            to_state=State.AUTHORIZED,
            who="benchmark",
            why="every policy passed, the quote is what was asked for, budgets reserved",
            now_ms=_NOW_MS,
            due_ms=_NOW_MS + 60_000,
            reserve=verdict.changes,
            charges=charges((self.part(),)),
            fields={
                "attention": "",
                "quote": _QUOTE,
                "quote_expires_s": str(NOW_S + 120),
                "orchestrator_id": "1",
                "enable": "",
                "digests": "00" * 32,
            },
        )


def main(argv: list[str]) -> int:
    """Run it; 0, or 1 with one line when there is no redis-server."""
    parser = report.arguments(
        "CPU and round trips of evaluating and reserving", number=300, rounds=7, warm_up=100, unit="intents"
    )
    options = parser.parse_args(argv)
    return report.run(lambda: _measure(options.number, options.rounds, options.warm_up))


def _measure(number: int, rounds: int, warm_up: int) -> None:
    report.say(f"{report.machine()}; {rounds} rounds of {number} intents each")
    with (
        tempfile.TemporaryDirectory(prefix="session-executor-bench-") as folder,
        start_local(Path(folder)) as local,
    ):
        worker = Worker(local.url)
        for intent_id, fence in worker.claimed(warm_up):
            worker.reserve(intent_id, fence, worker.evaluate())
        round_trips = _round_trips(worker)
        rounds_ms = [_round_ms(worker, number) for _ in range(rounds)]
        reserved = sum(budget.reserved for budget in worker.ledger.budgets(worker.session.session_id))
        worker.ledger.close()
    expected = (rounds * number + warm_up + 1) * (10_000_000 + 1)  # base units of USDC, and uses
    if reserved != expected:
        raise report.BenchmarkError(f"{reserved} is reserved instead of {expected}")
    whole = [both for _, both in rounds_ms]
    report.say()
    report.table(
        ("CPU ms of our process per intent", "min", "median", "max"),
        (
            ("evaluate", *report.spread([evaluate for evaluate, _ in rounds_ms])),
            ("evaluate + reserve", *report.spread(whole)),
        ),
    )
    cost = report.spread(whole)[1]
    report.say(f"evaluate_reserve_cpu_ms={cost} round_trips={round_trips}")


def _round_trips(worker: Worker) -> int:
    """How often one intent makes redis-py write to its socket; it waits for the answer each time."""
    [(intent_id, fence)] = worker.claimed(1)
    with _counted_writes() as writes:
        worker.reserve(intent_id, fence, worker.evaluate())
        return len(writes)


@contextmanager
def _counted_writes() -> Generator[list[object]]:
    """All that is sent to Redis in the block, by any connection of this process; a pipeline counts once."""
    send = redis.Connection.send_packed_command
    writes: list[object] = []

    def counting(self: redis.Connection, command: Any, *args: Any, **kwargs: Any) -> None:
        writes.append(command)
        send(self, command, *args, **kwargs)

    redis.Connection.send_packed_command = counting
    try:
        yield writes
    finally:
        redis.Connection.send_packed_command = send


def _round_ms(worker: Worker, number: int) -> tuple[float, float]:
    """CPU ms per intent of evaluating alone, and of evaluating and reserving."""
    claimed = worker.claimed(number)
    start = time.process_time_ns()
    for _ in claimed:
        worker.evaluate()
    between = time.process_time_ns()
    for intent_id, fence in claimed:
        worker.reserve(intent_id, fence, worker.evaluate())
    end = time.process_time_ns()
    return (between - start) / 1e6 / number, (end - between) / 1e6 / number


def _session() -> RegisteredSession:
    """Only ``USDC.transfer``, with a spending limit, a time frame and a number of uses; and guardrails of most kinds."""
    transfer = usdc_transfer(_LIMIT, valid_until_ms=(NOW_S + 86_400) * 1000)
    action = Action(
        target=transfer.target,
        selector=transfer.selector,
        policies=(*(transfer.policies or ()), UsageLimit(limit=_LIMIT)),
    )
    return recompute(load_session_file(make_session_file(actions=[action])))


def _rules() -> ScopeRules:
    most = f"{_LIMIT // 10**6} USDC"
    guardrails = read_guardrails(
        {
            "per_trade": "10 USDC",
            "per_hour": most,
            "per_day": most,
            "per_week": most,
            "approval_above": "10 USDC",
            "recipients": ["0x" + "5e" * 20],
            "spenders": [],
            "max_in_flight": 10_000,
        },
        token_table(8453),
    )
    return ScopeRules(SESSION_SCOPE, guardrails.text(), guardrails)


def _transfer(amount: int) -> Execution:
    """``USDC.transfer`` of ``amount`` base units."""
    return Execution(
        USDC, 0, bytes.fromhex("a9059cbb") + bytes(12) + b"\x5e" * 20 + amount.to_bytes(32, "big")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
