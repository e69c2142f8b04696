"""bench: the whole pipeline, enqueue to COMPLETED, beside ``sendTransaction`` and ``waitForExecution`` of SDK 1.15.0.

Both sides trade with the same enabled session over the same stub, which answers every request at once and has a
processor of its own (``stub.mjs``). Whatever a side is made of (for us: the enqueuer, Redis with an append-only file
synced at every write, and the Celery workers; for the SDK: one node process) shares the other processor. A round of
the SDK runs while our processes are stopped, and in turn. Our keys are in a real Vault, a service like the stub, which
is asked for each signature; the SDK has its key in memory.

CPU is read from the kernel for all processes of a side. Throughput is intents per second of wall-clock time. The last
line's ratio is to the SDK with 16 transactions under way; the table has it for one after the other and for 64, too.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import redis

from benchmarks import report
from benchmarks.keys import vault_server
from benchmarks.memory import complete
from benchmarks.signing import Sdk, question, sdk_process
from config.logging import configure_logging
from tests.support.otlp import collector
from tests.support.redis import start_local
from tests.support.sdk import node_binary
from tests.support.sessions import OWNER_KEY, USDC, make_session_file, usdc_transfer
from tests.support.vault_room import ADDRESS, PREFIX, vault_room
from worker.devnet.devnet import Devnet
from worker.devnet.stack import Stack
from worker.devnet.valkey import LocalRedis
from worker.execution.dispatch import celery_app, dispatcher
from worker.execution.enqueue import enqueue
from worker.execution.prepare import prepare
from worker.execution.runtime import Runtime
from worker.execution.sign import sign
from worker.execution.submit import submit
from worker.execution.tracing import trace_id
from worker.execution.watch import tick
from worker.intents.model import TradeIntent
from worker.intents.states import FINAL, State
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import Execution
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.sessions.model import Action

_HERE = Path(__file__).parent
_RECIPIENT = "0x" + "5e" * 20
_LIMIT = 10**24
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: The side that is measured, and everything else.
_MEASURED, _OTHER = 0, 1
#: How many transactions of the SDK are under way at the same time: each waits half a second for its first status, so one
#: after the other leaves the processor idle, and with the last number it has no idle time left.
_ONE, _PARALLEL, _FULL = 1, 16, 64
#: So few of them one after the other: each takes half a second.
_IN_A_ROW = 16
_WAIT_S = 600
#: A trade's share of what is asked per second, for latency.
RATES = (20, 100, 200)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one side took for ``count`` intents."""

    count: int
    wall_s: float
    cpu_s: float

    @property
    def per_second(self) -> float:
        """Intents per second."""
        return self.count / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """CPU per intent, milliseconds."""
        return self.cpu_s * 1000 / self.count


@dataclass(frozen=True, slots=True)
class Stub:
    """A chain and an orchestrator; as much of a ``Devnet`` as a ``Stack`` looks at."""

    url: str
    chain_id: int = 8453
    api_key: str = "benchmark"

    @property
    def rpc_url(self) -> str:
        """The chain's endpoint."""
        return self.url

    @property
    def orchestrator_url(self) -> str:
        """The orchestrator's."""
        return self.url

    def keep_pending(self, *, pending: bool) -> None:
        """Whether statuses are PENDING instead of COMPLETED."""
        httpx.post(f"{self.url}/pending", json={"pending": pending}).raise_for_status()


@contextmanager
def pinned(core: int) -> Generator[None]:
    """This process, and what it starts meanwhile, on one processor; no difference on a machine with one."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def stub(delay_ms: int = 0) -> Generator[Stub]:
    """A running stub on the other processor."""
    with (
        pinned(_OTHER),
        subprocess.Popen(
            [node_binary(), str(_HERE / "stub.mjs"), str(_HERE / "intent_op.json"), str(delay_ms)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise report.BenchmarkError("the stub does not come up")
            yield Stub(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


@contextmanager
def sdk_side() -> Generator[Sdk]:
    """The SDK's half, on the measured processor."""
    with ExitStack() as running:
        with pinned(_MEASURED):  # what is started here stays there; we do not
            sdk = running.enter_context(sdk_process("pipeline.mjs"))
        yield sdk


class Ours:
    """Our half: Redis, workers and an enqueuer on the measured processor, over a stub.

    Args:
        stack: workers that run.
        server: its Redis.
    """

    def __init__(self, stack: Stack, server: LocalRedis) -> None:
        self.stack = stack
        self._server = server
        self.session = session_of(ADDRESS)
        app = celery_app(stack.settings)
        self.runtime = Runtime(stack.settings, dispatch=dispatcher(app))
        self.runtime.sessions.put(self.session)
        self._made = 0

    def trade(self) -> str:
        """Enqueue one transfer; its intent id."""
        self._made += 1
        intent = TradeIntent(self.session.session_id, f"benchmark {self._made}", (transfer(),))
        return enqueue(self.runtime, intent).record.intent_id

    def round(self, count: int) -> Cost:
        """Enqueue so many, and wait until all are COMPLETED."""
        before_s, start = self.cpu_s(), time.perf_counter()
        with pinned(_MEASURED):
            own = time.process_time()
            for _ in range(count):
                self.trade()
            own = time.process_time() - own
        with pinned(_OTHER):
            self.wait()
        return Cost(count, time.perf_counter() - start, self.cpu_s() - before_s + own)

    def wait(self) -> None:
        """Until every intent so far is COMPLETED.

        Raises:
            BenchmarkError: one ends otherwise, or it takes too long.
        """
        deadline = time.monotonic() + _WAIT_S
        while True:
            counts = self.runtime.ledger.counts()
            bad = {state: number for state, number in counts.items() if state in FINAL and number}
            done = bad.pop(State.COMPLETED, 0)
            if bad:
                raise report.BenchmarkError(f"intents did not complete: {dict(bad)}")
            if done == self._made:
                return
            if time.monotonic() > deadline:
                raise report.BenchmarkError(f"{self._made - done} intents are not done after {_WAIT_S} s")
            time.sleep(0.05)

    def cpu_s(self) -> float:
        """CPU seconds of the workers with all their children, and of Redis."""
        groups = {worker.pid for worker in self.stack.workers}
        return sum(cpu for pid, group, cpu in all_processes() if group in groups or pid == self._server.pid)

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Nothing of ours runs meanwhile."""
        for number, wanted in ((signal.SIGSTOP, True), (signal.SIGCONT, False)):
            for worker in self.stack.workers:
                os.killpg(worker.pid, number)
            (self._server.pause if wanted else self._server.resume)()
            if wanted:
                yield

    def redis_mb(self) -> float:
        """What Redis holds, MB."""
        with redis.Redis.from_url(self._server.url, protocol=2) as client:
            return float(client.info("memory")["used_memory"]) / 1e6

    def seed(self, numbers: range) -> None:
        """So many more transfers of the session that have ended; quicker than trading, and not timed."""
        with redis.Redis.from_url(self._server.url, protocol=2) as client:
            client.config_set("appendfsync", "no")
            ledger = RedisLedger(self._server.url)
            for number in numbers:
                complete(ledger, self.session.session_id, number)
            client.config_set("appendfsync", "always")
        self._made += len(numbers)


@contextmanager
def ours(
    place: Stub, *, processes: int = 2, workers: int = 1, settings: dict[str, str] | None = None
) -> Generator[Ours]:
    """Our half, started and stopped.

    Args:
        place: chain and orchestrator.
        processes: pool processes of a worker.
        workers: 1, or 0 for nobody who takes messages.
        settings: further settings.
    """
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="session-executor-bench-")))
        with pinned(_OTHER):
            room = running.enter_context(vault_room(running.enter_context(vault_server(folder))))
        room.put_key()
        custody = {
            "KEY_STORE": "vault",
            "VAULT_ADDR": room.server.addr,
            "VAULT_TOKEN": room.token(room.signer),
            "VAULT_MOUNT": room.mount,
            "VAULT_PREFIX": PREFIX,
        }
        with pinned(_MEASURED):  # what is started here stays there; we do not
            server = running.enter_context(start_local(folder / "redis"))
            stack = running.enter_context(
                Stack(
                    folder,
                    redis_url=server.url,
                    devnet=cast("Devnet", place),
                    workers=workers,
                    concurrency=processes,
                    beat=False,
                    # JSON, as docker-compose.yml has it
                    settings={"POLL_INITIAL_MS": "500", "LOG_JSON": "true"} | custody | (settings or {}),
                )
            )
        yield Ours(stack, server)


def main(argv: list[str]) -> int:
    """Run it; 0, or 1 with one line when a real part is missing."""
    parser = report.arguments(
        "the whole pipeline against the SDK's", number=800, rounds=5, warm_up=100, unit="intents"
    )
    parser.add_argument("--brief", action="store_true", help="throughput only")
    parser.add_argument("--history", type=int, default=100_000, help="final records of the history part")
    parser.add_argument("--seconds", type=int, default=15, help="of each latency part")
    options = parser.parse_args(argv)

    def body() -> None:
        report.say(f"{report.machine()}; {options.rounds} rounds of {options.number} intents, in turn")
        ratio = _throughput(options.number, options.rounds, options.warm_up)
        if not options.brief:
            stages(options.number)
            _processes_and_delays(options.number)
            _latency(options.seconds)
            _history(options.number, options.history)
        report.say(f"throughput_ratio_vs_sdk={ratio:.2f}")

    return report.run(body)


def _throughput(number: int, rounds: int, warm_up: int) -> float:
    with stub() as place, sdk_side() as sdk, ours(place) as us:
        asked = question(us.session, {})
        call = transfer()
        asked |= {
            "url": place.url,
            "call": {"to": call.to, "data": "0x" + call.data.hex()},
            "session": asked["session"] | {"actions": _actions()},
        }
        with us.stopped():
            sdk.ask(asked)
            _sdk_round(sdk, warm_up, _FULL)
        us.round(warm_up)
        theirs: dict[int, list[Cost]] = {_ONE: [], _PARALLEL: [], _FULL: []}
        mine: list[Cost] = []
        for _ in range(rounds):
            with us.stopped():
                for parallel, costs in theirs.items():
                    costs.append(_sdk_round(sdk, number if parallel > 1 else _IN_A_ROW, parallel))
            mine.append(us.round(number))
    ratios = {
        parallel: [own.per_second / cost.per_second for own, cost in zip(mine, costs, strict=True)]
        for parallel, costs in theirs.items()
    }
    cpu = [cost.cpu_ms / own.cpu_ms for own, cost in zip(mine, theirs[_FULL], strict=True)]
    words = {_ONE: "one after the other", _PARALLEL: f"{_PARALLEL} at a time", _FULL: f"{_FULL} at a time"}
    report.say()
    report.table(
        ("one processor each", "min", "median", "max"),
        (
            *(
                (
                    f"SDK, {words[parallel]}: per second",
                    *report.spread([cost.per_second for cost in costs], 1),
                )
                for parallel, costs in theirs.items()
            ),
            ("ours: per second", *report.spread([cost.per_second for cost in mine], 1)),
            (
                f"SDK, {words[_FULL]}: CPU ms per intent",
                *report.spread([cost.cpu_ms for cost in theirs[_FULL]], 2),
            ),
            ("ours: CPU ms per intent", *report.spread([cost.cpu_ms for cost in mine], 2)),
            *(
                (f"throughput, ours / SDK {words[parallel]}", *report.spread(found, 2))
                for parallel, found in ratios.items()
            ),
            ("CPU, SDK / ours", *report.spread(cpu, 2)),
        ),
    )
    return statistics.median(ratios[_PARALLEL])


def _sdk_round(sdk: Sdk, count: int, parallel: int) -> Cost:
    answer = sdk.ask({"count": count, "parallel": parallel})
    return Cost(count, answer["wall_us"] / 1e6, answer["cpu_us"] / 1e6)


def stages(number: int) -> None:
    """Where the time goes: each stage of so many intents by itself, in this process, without any message."""
    rows: list[Sequence[str]] = []
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        stub() as place,
        ours(place, workers=0) as us,
        pinned(_MEASURED),
    ):
        configure_logging("INFO", json=True, stream=nowhere)  # a worker's lines cost, too
        runtime = Runtime(us.stack.settings, dispatch=lambda _stage, _intent_id: None)
        steps: dict[str, Callable[[str], object]] = {
            "prepare: judge, quote, explain, reserve": lambda name: prepare(runtime, name),
            "sign: judge again, key from Vault, signatures": lambda name: sign(runtime, name),
            "submit": lambda name: submit(runtime, name),
        }
        us.trade()
        before_s, first = us.cpu_s(), time.process_time()
        ids = [us.trade() for _ in range(number)]
        rows.append(("enqueue, with the message", _ms(time.process_time() - first, number)))
        for name, step in steps.items():
            step(ids[0])  # connections
            first = time.process_time()
            for intent_id in ids[1:]:
                step(intent_id)
            rows.append((name, _ms(time.process_time() - first, number - 1)))
        time.sleep(0.6)  # the first poll is due half a second after the submit
        first, polled = time.process_time(), 0
        while polled < number:
            polled += tick(runtime)
        rows.append(("watch: one status", _ms(time.process_time() - first, polled)))
        rows.append(("Redis, for all of these", _ms(us.cpu_s() - before_s, number)))
    report.say()
    report.table(("where the time goes", "CPU ms per intent"), rows)


def _ms(seconds: float, count: int) -> str:
    return f"{seconds * 1000 / max(1, count):.2f}"


def _processes_and_delays(number: int) -> None:
    rows: list[Sequence[str]] = []
    for delay_ms in (0, 500):
        for processes in (1, 2, 8):
            with stub(delay_ms) as place, ours(place, processes=processes) as us:
                us.round(max(2, processes))
                cost = us.round(max(2, number // (4 if delay_ms else 1)))
            rows.append(
                (
                    f"{processes} processes, orchestrator answers after {delay_ms} ms",
                    f"{cost.per_second:.1f}",
                    f"{cost.cpu_ms:.2f}",
                )
            )
    report.say()
    report.table(("ours", "intents per second", "CPU ms per intent"), rows)


def _latency(seconds: int) -> None:
    """From enqueued to claimed by a worker, as the worker's own traces tell."""
    rows: list[Sequence[str]] = []
    with collector() as traces, stub() as place:
        for rate in RATES:
            with ours(place, settings={"OTLP_ENDPOINT": traces.url}) as us:
                us.round(20)
                traces.spans.clear()
                asked = list(_paced(us, rate, seconds))
                us.wait()
            wanted = {trace_id(intent_id) for intent_id in asked}
            waits = [
                (span.end_ns - span.start_ns) / 1e6
                for span in traces.spans
                if span.name == "wait" and span.attributes["state"] == "QUEUED" and span.trace_id in wanted
            ]
            if len(waits) < len(asked):
                raise report.BenchmarkError(f"{len(asked) - len(waits)} of {len(asked)} traces are missing")
            rows.append(
                (str(rate), *(f"{report.percentile(waits, share):.1f}" for share in (0.5, 0.95, 0.99)))
            )
    report.say()
    report.table(("pickup ms at intents per second", "p50", "p95", "p99"), rows)


def _paced(us: Ours, rate: int, seconds: int) -> Iterator[str]:
    """Enqueue at a steady rate, never catching up in bursts; the intent ids."""
    start = time.perf_counter()
    with pinned(_OTHER):
        for number in range(rate * seconds):
            time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            yield us.trade()


def _history(number: int, records: int) -> None:
    """Whether an intent costs more, the more came before it in its session, and what a final record takes of Redis."""
    rows: list[Sequence[str]] = []
    with stub() as place, ours(place) as us:
        us.round(100)
        rows.append(("0", f"{us.round(number).cpu_ms:.2f}", ""))
        seeded, before_mb = 0, us.redis_mb()
        for wanted in (records // 10, records):
            us.seed(range(seeded, wanted))
            seeded = wanted
            each_b = (us.redis_mb() - before_mb) * 1e6 / max(1, seeded)
            rows.append((str(seeded), f"{us.round(number).cpu_ms:.2f}", f"{each_b:.0f}"))
    report.say()
    report.table(("final records of the session", "CPU ms per intent", "Redis bytes per final record"), rows)


def session_of(key_address: str) -> RegisteredSession:
    """A session of one of our keys that may transfer USDC."""
    file = make_session_file(OWNER_KEY, key_address, actions=[_action()])
    return recompute(load_session_file(file))


def _action() -> Action:
    until_ms = (int(time.time()) // 86_400 + 2) * 86_400_000
    return usdc_transfer(_LIMIT, valid_until_ms=until_ms)


def _actions() -> list[dict[str, Any]]:
    return json.loads(make_session_file(actions=[_action()]))["actions"]


def transfer() -> Execution:
    """What every intent of the benchmark does: 10 USDC to somebody."""
    data = bytes.fromhex("a9059cbb") + bytes(12) + bytes.fromhex(_RECIPIENT[2:]) + (10_000_000).to_bytes(32)
    return Execution(USDC, 0, data)


def all_processes() -> Iterator[tuple[int, int, float]]:
    """(process id, process group, CPU seconds with those of children that were waited for) of every process."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # the name in parentheses may hold anything
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(folder.name), int(fields[2]), sum(map(int, fields[11:15])) / _TICKS_PER_S


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
