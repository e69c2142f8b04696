"""Strikes a running stack at armed places, keeps it supervised, and holds ledger, budgets and chain against each other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, Self

import redis

from tests.chaos.forked import ForkedChild
from tests.support.pipeline import FAST, RECIPIENT, transfer
from tests.support.sessions import ACCOUNT, OWNER_KEY, make_session_file, usdc_transfer
from worker.devnet.devnet import Devnet
from worker.devnet.stack import Stack
from worker.devnet.valkey import LocalRedis
from worker.errors import ServiceError
from worker.execution.dispatch import celery_app, dispatcher
from worker.execution.enqueue import enqueue
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL, State
from worker.sessions.file import load_session_file
from worker.sessions.importing import verify
from worker.signing.sign import address_of

#: Issue 6: every intent is final, or has attention, this long after the recovery.
RECOVERY_S = 60.0
LIMIT = 400_000_000
CLEAN = "doubles=0 lost=0 overspent=0 leaked_budget=0 unresolved=0"
#: What a strategy of beat's pays, so that beat has something to do meanwhile.
STRATEGY_RECIPIENT = "0x" + "57" * 20
_STRATEGY = """
[[strategies]]
name = "every-minute"
kind = "recurring-transfer"
session = "{session}"
cron = "* * * * *"
max_lateness_s = 900
to = "{to}"
amount = "0.5 USDC"
"""

#: Short times, so that a round does not take hours. The lease is shorter than a task may take on purpose: only the
#: fence keeps a slow attempt from writing.
SETTINGS = {
    "claim_lease_ms": "4000",
    "stuck_after_ms": "1000",
    "http_timeout_ms": "2000",
    "redis_timeout_ms": "1000",
    "poll_initial_ms": "100",
    "poll_later_ms": "300",
    "max_attempts": "60",
    # the driver kills whole workers, ten in a row: an intent that happens to be there each time has not deserved it
    "max_worker_deaths": "60",
}
#: Every submit is held this long, so that something can happen while it is under way.
_HOLD_POST_MS = 500
_API = "/intent"
#: How often the driver looks at how many faults were met.
_LOOK_S = 0.5
#: How much of the log of a process that ended by itself is kept: a traceback.
_LAST_LINES = 60
#: How often a place is aimed at before it counts as out of reach.
_TRIES = 4


def retry_after_forms(now_s: float) -> dict[str, str]:
    """Each form of ``Retry-After`` that was seen in the wild, by a name."""
    return {
        "429_seconds": "3",
        "429_date": formatdate(now_s + 3, usegmt=True),
        "429_past": formatdate(now_s - 60, usegmt=True),
        "429_negative": "-5",
        "429_words": "abc",
        "429_year_99999": "Fri, 31 Dec 99999 23:59:59 GMT",
        "429_days": "999999",
    }


FAULTS = (
    "tree",
    "child",
    "redis_restarted",
    "connections_killed",
    "reply_lost",
    "502_page",
    "503_storm",
    *retry_after_forms(0),
)


@dataclass
class Counts:
    """What a round may have broken; all zero when nothing is.

    Attributes:
        doubles: executions on the chain beyond one per intent.
        lost: intents that say COMPLETED and are not on the chain, or ended otherwise though nothing was wrong with them.
        overspent: times at which spent + reserved was over the limit, or spent was not what the chain moved.
        leaked_budget: 1 if what is reserved is not what is in flight.
        unresolved: intents neither final nor with attention a minute after the recovery.
        notes: words about each.
    """

    doubles: int = 0
    lost: int = 0
    overspent: int = 0
    leaked_budget: int = 0
    unresolved: int = 0
    notes: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"doubles={self.doubles} lost={self.lost} overspent={self.overspent} "
            f"leaked_budget={self.leaked_budget} unresolved={self.unresolved}"
        )

    def at_least(self, other: Counts) -> None:
        """Keep the larger of each number: what was broken for a while counts, too."""
        self.doubles = max(self.doubles, other.doubles)
        self.lost = max(self.lost, other.lost)
        self.overspent = max(self.overspent, other.overspent)
        self.leaked_budget = max(self.leaked_budget, other.leaked_budget)
        self.unresolved = max(self.unresolved, other.unresolved)

    def add(self, other: Counts) -> None:
        """Sum up."""
        self.doubles += other.doubles
        self.lost += other.lost
        self.overspent += other.overspent
        self.leaked_budget += other.leaked_budget
        self.unresolved += other.unresolved
        self.notes += other.notes


class Chaos:
    """A stack whose processes die on demand; a context manager.

    Args:
        directory: an empty private folder.
        server: the Redis of this stack, which is killed and started again.
        devnet: its chain and orchestrator; reset first.
        workers: worker processes; a dead one is replaced, as a supervisor does.
        concurrency: pool processes of each.
        beat: whether to run beat with a strategy.
        limit: base units of USDC that the session may spend.
        mutation: guards to take away, see ``tests/chaos/mutations.py``.
        settings: changes of ``SETTINGS``.
        delays: changes of the devnet's delays.
        storm_s: how long a 503 storm lasts.
    """

    def __init__(
        self,
        directory: Path,
        server: LocalRedis,
        devnet: Devnet,
        *,
        workers: int = 2,
        concurrency: int = 4,
        beat: bool = False,
        limit: int = LIMIT,
        mutation: str = "",
        settings: Mapping[str, str] | None = None,
        delays: Mapping[str, int] | None = None,
        storm_s: float = 30.0,
    ) -> None:
        self.server = server
        self.devnet = devnet
        self.limit = limit
        self.sampled_over_limit = 0
        self.said: list[str] = []
        self.last_blow = time.monotonic()
        self._looked_s = 0.0
        self._hits = 0
        self._storm_s = storm_s
        self._storm_ends = 0.0
        self._stormed = False
        self._amount = 1_000_000
        self._expected_otherwise: set[str] = set()
        self._folder = directory / "armed"
        self._folder.mkdir()
        devnet.reset()
        devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=1_000_000_000)
        devnet.set_delays(**(FAST | dict(delays or {})))
        self._moved_before = devnet.usdc_balance(ACCOUNT)
        strategies = directory / "strategies.toml"
        strategies.write_text("")
        run = directory / "stack"
        run.mkdir(mode=0o700)
        own = {"strategies_file": str(strategies)} if beat else {}
        self.stack = Stack(
            run,
            redis_url=server.url,
            devnet=devnet,
            workers=0,
            concurrency=concurrency,
            beat=False,
            settings=SETTINGS | own | dict(settings or {}),
            app="tests.chaos.app",
            environment={"CHAOS_DIR": str(self._folder), "CHAOS_MUTATION": mutation},
            child=ForkedChild,
        )
        try:
            self.runtime = Runtime(self.stack.settings, dispatch=dispatcher(celery_app(self.stack.settings)))
            self.session_id = self._import_session()
            if beat:
                strategies.write_text(_STRATEGY.format(session=self.session_id, to=STRATEGY_RECIPIENT))
            self._alive = [self.stack.start_worker() for _ in range(workers)]
            if beat:
                self._alive.append(self.stack.start_beat())
            for child in self._alive:
                child.wait_for("ready." if child.name != "beat" else "Acquired lock")
            # the first intent of a session carries the approval and the others wait for it: not what is tested here
            self.settle([self.submit()])
            self.hold_posts()
        except BaseException:
            self.stack.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.stop()

    def _import_session(self) -> str:
        key = self.stack.keys.create().address
        until_ms = (int(time.time()) + 86_400) * 1000
        session = verify(
            load_session_file(
                make_session_file(
                    OWNER_KEY, key, actions=[usdc_transfer(self.limit, valid_until_ms=until_ms)]
                )
            ),
            our_keys=[key],
            chain_id=self.devnet.chain_id,
            now_s=int(time.time()),
        )
        self.runtime.sessions.put(session)
        return session.session_id

    # --- what is asked for

    def submit(self, *armed: tuple[str, str], ends_otherwise: bool = False, amount: int = 0) -> str:
        """Enqueue a transfer of an amount that no other has; its intent id.

        Args:
            armed: places and what happens there, see ``tests/chaos/app.py``.
            ends_otherwise: it is right for it not to be COMPLETED in the end.
            amount: base units, instead of some 1 USDC.
        """
        self._amount += 1
        intent = TradeIntent(
            self.session_id, f"chaos {self._amount}", (transfer(amount or self._amount, RECIPIENT),)
        )
        for number, (point, what) in enumerate(armed):
            self.arm(intent.intent_id, point, what, number)
        if ends_otherwise:
            self._expected_otherwise.add(intent.intent_id)
        enqueue(self.runtime, intent)
        return intent.intent_id

    def arm(self, intent_id: str, point: str, what: str, number: int = 0) -> None:
        """Let something happen when the intent comes to the point."""
        path = self._folder / f"{intent_id}.{point}.{number}"
        hidden = path.with_name("." + path.name)
        hidden.write_text(what)
        hidden.rename(path)

    def fired(self, intent_id: str = "") -> int:
        """How many armed places were used up."""
        return len(list(self._folder.glob(f"{intent_id}*.fired")))

    def reached(self) -> list[Path]:
        """Places at which a process waits for ``go``."""
        waiting = self._folder.glob("*.reached")
        return sorted(path.with_suffix("") for path in waiting if not path.with_suffix(".go").exists())

    def go(self, place: Path) -> None:
        """Let the process at a place go on."""
        place.with_name(place.name + ".go").touch()
        self.last_blow = time.monotonic()

    def hold_posts(self) -> None:
        """No faults, but every submit takes a while."""
        self.devnet.clear_faults()
        self.devnet.add_fault(
            "delay_ms", method="POST", path="/intent-operations", times=0, delay_ms=_HOLD_POST_MS
        )

    # --- faults

    def strike(self, fault: str, place: Path) -> None:
        """Let a fault happen while a process waits at a place, and let it go on."""
        if fault == "redis_restarted":
            self.server.kill()
            self.go(place)
            time.sleep(0.3)
            self.server.start()
        elif fault == "connections_killed":
            with redis.Redis.from_url(self.server.url, protocol=2) as client:
                for kind in ("normal", "pubsub"):
                    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            self.go(place)
        else:
            self._misbehave(fault)
            self.go(place)

    def _misbehave(self, fault: str) -> None:
        respond = self.devnet.add_fault
        if fault == "reply_lost":
            respond("drop_after_accept", path=_API, times=3)
        elif fault == "502_page":
            page = "<html><body><h1>502 Bad Gateway</h1></body></html>"
            html = {"content-type": "text/html"}
            respond("respond", path=_API, times=2, status=502, body=page, headers=html)
            respond("respond", path=_API, times=2, status=502, body=page, headers=html, process=True)
        elif fault == "503_storm":
            if not self._stormed:
                self._stormed = True
                self._storm_ends = time.monotonic() + self._storm_s
                respond("respond", path=_API, times=0, status=503, body="")
        else:
            header = retry_after_forms(time.time())[fault]
            respond("respond", path=_API, times=2, status=429, body="", headers={"Retry-After": header})

    # --- going on

    def pump(self, on_reached: Callable[[Path], None] | None = None) -> None:
        """One turn: places reached, storms over, dead processes replaced, limits looked at."""
        for place in self.reached():
            if on_reached is not None:
                on_reached(place)
        self._see_faults()
        if self._storm_ends and time.monotonic() > self._storm_ends:
            self._storm_ends = 0.0
            self.hold_posts()
            self.last_blow = time.monotonic()
        for number, child in enumerate(self._alive):
            if child.running():
                continue
            if child.exit_code == -9:
                self.last_blow = time.monotonic()
            else:
                last = "\n".join(child.log().splitlines()[-_LAST_LINES:])
                self.said.append(f"{child.name} ended by itself with {child.exit_code}: {last}")
                time.sleep(1)  # as supervisors do
            replace = self.stack.start_beat if child.name == "beat" else self.stack.start_worker
            self._alive[number] = replace()
        with contextlib.suppress(ServiceError):
            spent, reserved = self.budget()
            self.sampled_over_limit += spent + reserved > self.limit

    def _see_faults(self) -> None:
        """What a service answers with is a blow when it is answered: some of what was ordered waits for the next request."""
        if time.monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = time.monotonic()
        hits = sum(
            fault["hits"]
            for fault in self.devnet.faults()
            if fault["action"] in {"respond", "drop_after_accept"} and fault["times"]
        )
        if hits > self._hits:
            self.last_blow = time.monotonic()
        self._hits = hits

    def settle(
        self,
        intent_ids: Iterable[str],
        on_reached: Callable[[Path], None] | None = None,
        *,
        done: Callable[[IntentRecord], bool] = lambda record: record.state in FINAL,
        timeout_s: float = RECOVERY_S,
        anew: bool = True,
    ) -> bool:
        """Go on until the intents are done, at most so long after the last blow; whether they are.

        Args:
            intent_ids: which.
            on_reached: called with each place at which a process waits.
            done: what counts as done.
            timeout_s: how long after the last blow.
            anew: whether this call counts as a blow, so that the time runs from now.
        """
        open_ids = list(intent_ids)
        if anew:
            self.last_blow = time.monotonic()
        while open_ids:
            self.pump(on_reached)
            with contextlib.suppress(ServiceError):
                open_ids = [item for item in open_ids if not done(self.runtime.ledger.get(item))]
            if time.monotonic() - self.last_blow > timeout_s:
                return False
            time.sleep(0.05)
        return True

    def records(self) -> list[IntentRecord]:
        """Every record of the session."""
        return list(self.runtime.ledger.list_intents(session_id=self.session_id, limit=100_000))

    def budget(self) -> tuple[int, int]:
        """Spent and reserved of the USDC limit, base units."""
        for budget in self.runtime.ledger.budgets(self.session_id):
            if budget.policy == "spending-limits":
                return budget.spent, budget.reserved
        return 0, 0

    def batch(self, fault: str, points: Iterable[str]) -> None:
        """One intent for each point, with the fault there; returns once all have ended or a minute has passed."""
        what = {"tree": "tree", "child": "child"}.get(fault)
        if what is None:
            # connections and Redis are taken from under a living process; the others lose their process, too
            what = "tell" if fault in {"redis_restarted", "connections_killed"} else "tell child"
        self._stormed = False
        left = list(points)
        for _ in range(_TRIES):
            ids = {point: self.submit((point, what)) for point in left}
            self.settle(
                ids.values(),
                lambda place: self.strike(fault, place),
                done=lambda record: record.state in FINAL or record.attention == "RATE_LIMITED",
            )
            while self._storm_ends:  # everything may be over before the storm is
                self.pump()
                time.sleep(0.1)
            self.hold_posts()
            # one intent's fault can lead another around its place: found by its id, it is never seen accepted
            left = [point for point, intent_id in ids.items() if not self.fired(intent_id)]
            for point in left:
                for armed in self._folder.glob(f"{ids[point]}.{point}.*"):
                    armed.unlink()
            if not left:
                return
        self.said.append(f"{fault}: not reached: {', '.join(left)}")

    # --- the reckoning

    def counts(self, *, patience_s: float = RECOVERY_S) -> Counts:
        """Hold ledger, budgets and chain against each other, in a moment in which nothing moves.

        Args:
            patience_s: how long after the last blow what is open may take to end or to ask for attention; what came
                later, as an intent of beat's may, has that long from then.
        """
        waiting = [record for record in self.records() if not _resolved(record)]
        newest_ms = max((record.created_ms for record in waiting), default=0)
        self.last_blow = max(self.last_blow, time.monotonic() - max(0.0, time.time() - newest_ms / 1000))
        self.settle(
            [record.intent_id for record in waiting], done=_resolved, timeout_s=patience_s, anew=False
        )
        for _ in range(100):
            before = self._picture()
            found = self._count(patience_s)
            if str(found).startswith(CLEAN) or self._picture() == before:
                return found
            self.pump()
            time.sleep(0.1)
        raise AssertionError("the ledger does not come to rest")

    def _picture(self) -> tuple[Any, ...]:
        return (self.budget(), tuple((record.intent_id, record.state) for record in self.records()))

    def _count(self, patience_s: float) -> Counts:
        counts = Counts(overspent=self.sampled_over_limit)
        if self.sampled_over_limit:
            counts.notes.append(f"{self.sampled_over_limit} times over the limit")
        on_chain: dict[bytes, int] = {}
        for execution in self.devnet.executions(ACCOUNT):
            for call in execution.calls:
                on_chain[call.data] = on_chain.get(call.data, 0) + 1
        by_data: dict[bytes, list[IntentRecord]] = {}
        for record in self.records():
            by_data.setdefault(record.intent.calls[0].data, []).append(record)
        spent_by_records = moved = in_flight = 0
        for data, records in by_data.items():
            amount = int.from_bytes(data[36:68])
            times = on_chain.get(data, 0)
            completed = sum(record.state is State.COMPLETED for record in records)
            moved += amount * times
            spent_by_records += amount * completed
            in_flight += amount * sum(bool(r.reservation) for r in records if r.state not in FINAL)
            counts.doubles += max(0, times - len(records))
            counts.lost += max(0, completed - times)
            for record in records:
                words = (
                    f"{record.intent_id} {record.state} {record.attention} {record.reason} executed={times}"
                )
                if not _resolved(record):
                    if time.time() - record.created_ms / 1000 < patience_s:
                        continue  # came after the wait for all that was there
                    counts.unresolved += 1
                    counts.notes.append(f"unresolved: {words}")
                elif record.state in FINAL - {State.COMPLETED} and (
                    times or record.intent_id not in self._expected_otherwise
                ):
                    counts.lost += 1
                    counts.notes.append(f"lost: {words}")
                elif times > len(records) or completed > times:
                    counts.notes.append(f"wrong: {words}")
        spent, reserved = self.budget()
        if spent != spent_by_records or spent > self.limit:
            counts.overspent += 1
            counts.notes.append(f"spent {spent}, by the records {spent_by_records}, limit {self.limit}")
        if self._moved_before - self.devnet.usdc_balance(ACCOUNT) != moved:
            counts.doubles += 1
            counts.notes.append("the account's balance is not what the executions moved")
        if reserved != in_flight:
            counts.leaked_budget += 1
            counts.notes.append(f"reserved {reserved}, in flight {in_flight}")
        return counts


def _resolved(record: IntentRecord) -> bool:
    return record.state in FINAL or bool(record.attention)
