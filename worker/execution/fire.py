"""A strategy's slots become intents, each once: however often and by whom the workers are woken up.

Beat only wakes. What is due is found from the clock and the strategy's cursor in Redis (``worker/strategies/schedule.py``);
one evaluator at a time has a strategy. It writes a slot down as pending, enqueues its intent under a key that is made
of the slot, and moves the cursor. Whoever dies in between leaves a slot that the next one finds, and an intent that
cannot be there twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from worker.chain.errors import ChainError
from worker.errors import ExecutorError, InputError
from worker.execution.enqueue import enqueue
from worker.execution.runtime import Runtime
from worker.execution.strategy_guardrails import store_changed, store_guardrails
from worker.execution.tokens import token_table
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL, State
from worker.intents.transfers import needed_by
from worker.ledger.errors import (
    FenceLostError,
    IdempotencyConflictError,
    IllegalTransitionError,
    IntentNotFoundError,
    StrategyGoneError,
)
from worker.ledger.pauses import strategy_switch
from worker.ledger.port import Enqueued
from worker.ledger.strategies import Missed, StrategyState
from worker.policies.fields import ZERO_ADDRESS
from worker.strategies.build import decide, intent_of, key_of
from worker.strategies.errors import StrategyError
from worker.strategies.events import MAX_BLOCKS, Log
from worker.strategies.load import load_entries, load_strategies
from worker.strategies.model import ScheduledStrategy
from worker.strategies.port import Act, Decision, Moment, Wait
from worker.strategies.schedule import DEFAULT_LATENESS_S, due, due_slot, latest_slot, next_slot, valid_until

log = structlog.get_logger(__name__)

FIELD = "SESSION_EXECUTOR_STRATEGIES_FILE"
#: A strategy's evaluation is a few reads and one enqueue per slot; a task is killed before this.
LEASE_MS = 45_000
#: How often a contract's logs are asked for.
EVENT_POLL_MS = 2_000
#: Ends that a lack of money may have, and how orchestrators, nodes and tokens word it.
_FAILED = frozenset({State.FAILED, State.REJECTED, State.EXPIRED, State.DEAD})
_WANT = re.compile(
    r"insufficient[ _](?:\w+[ _])?(?:balance|funds|liquidity)|exceeds balance|SPONSOR_LIMIT_EXCEEDED",
    re.IGNORECASE,
)
#: Where a strategy that was never seen begins: the slot of this very second counts, none before it.
_FIRST_SIGHT_S = 1


def read_strategies(path: Path | None, chain_id: int) -> tuple[ScheduledStrategy, ...]:
    """The strategies of the settings' file; none if no file is set.

    Raises:
        StrategyError: the file cannot be used.
    """
    return () if path is None else load_strategies(path, tokens=token_table(chain_id))


def all_strategies(runtime: Runtime) -> tuple[ScheduledStrategy, ...]:
    """Those of the file, and those that were added at run time; the file's come first and win.

    Raises:
        StrategyError, LedgerUnavailableError, LedgerInconsistentError
    """
    settings = runtime.settings
    of_file = read_strategies(settings.strategies_file, settings.chain_id)
    added = _added(runtime, skip={strategy.name for strategy in of_file})
    return (*of_file, *added)


class Watcher:
    """The strategies of one worker process: the file is read again when it changes.

    A file that cannot be used any more changes nothing: the strategies that were read before go on, and each wake-up
    says so in the log.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._stamp: tuple[int, int] | None = None
        self._of_file: tuple[ScheduledStrategy, ...] = ()

    def strategies(self) -> tuple[ScheduledStrategy, ...]:
        """All strategies as they are now. Raises LedgerUnavailableError, LedgerInconsistentError."""
        settings = self._runtime.settings
        path = settings.strategies_file
        if path is not None:
            try:
                status = path.stat()
                stamp = (status.st_mtime_ns, status.st_size)
                if stamp != self._stamp:
                    self._of_file = read_strategies(path, settings.chain_id)
                    self._stamp = stamp
            except (StrategyError, OSError) as error:
                log.error("strategies file not used: those read before go on", error=str(error))  # noqa: TRY400
        return (
            *self._of_file,
            *_added(self._runtime, skip={strategy.name for strategy in self._of_file}),
        )


def _added(runtime: Runtime, *, skip: set[str]) -> list[ScheduledStrategy]:
    """What was added at run time; one that cannot be used any more (a token gone from the table) is logged."""
    found: list[ScheduledStrategy] = []
    for name, entry in runtime.strategies.definitions().items():
        if name in skip:
            log.warning("strategy of the file goes before the one added", strategy=name)
            continue
        try:
            found += load_entries([entry], tokens=token_table(runtime.settings.chain_id))
        except StrategyError as error:
            log.error("added strategy not used", strategy=name, error=str(error))  # noqa: TRY400
    return found


@dataclass(frozen=True, slots=True)
class Fired:
    """What an operator's hand has done: the slot's intent, or why there is none."""

    enqueued: Enqueued | None
    why: str = ""


def wake(runtime: Runtime, strategies: Sequence[ScheduledStrategy]) -> int:
    """Deal with every slot that has come; how many intents were made. One strategy's trouble stops no other."""
    made = 0
    paused = {str(pause.switch): pause.why for pause in runtime.pauses.list()}
    for strategy in strategies:
        why = paused.get("everything") or paused.get(f"strategy {strategy.name}") or ""
        try:
            store_changed(runtime, (strategy,))
            made += _Evaluation(runtime, strategy, f"paused: {why}" if why else "").run()
        except FenceLostError as error:
            log.info("evaluation given up", strategy=strategy.name, error=str(error))
        except ExecutorError as error:
            log.warning("strategy not evaluated", strategy=strategy.name, error=str(error))
        except Exception as error:  # a plug-in's bug, or ours: the others go on
            log.exception("strategy not evaluated", strategy=strategy.name, error=type(error).__name__)
    return made


def fire(runtime: Runtime, strategies: Sequence[ScheduledStrategy], name: str) -> Fired:
    """Fire a strategy's due slot by hand, also one that the scheduler has passed over and that is still valid.

    Raises:
        InputError: no such strategy, its session is not imported, or it has made all its executions.
        ExecutorError: what the decision or the enqueue raises.
    """
    strategy = find(strategies, name)
    if strategy.event is not None:
        raise InputError("is triggered by an event", field=name, fix="wait for one")
    slot_s = due_slot(strategy, runtime.now_s)
    if slot_s is None:
        log.info("no slot is due", strategy=name, latest_s=latest_slot(strategy, runtime.now_s))
        return Fired(None, "no slot is due")
    return _Evaluation(runtime, strategy, "").by_hand(slot_s)


def find(strategies: Sequence[ScheduledStrategy], name: str) -> ScheduledStrategy:
    """The strategy of this name. Raises InputError that names the known ones."""
    found = next((item for item in strategies if item.name == name), None)
    if found is None:
        names = ", ".join(item.name for item in strategies)
        raise InputError(
            f"has no strategy {name!r}", field=FIELD, fix=f"known: {names}" if names else "set it"
        )
    return found


def moment_of(
    runtime: Runtime,
    strategy: ScheduledStrategy,
    state: StrategyState | None,
    *,
    slot_s: int,
    until_s: int,
    event: dict[str, Any] | None = None,
) -> Moment:
    """What a decision is made of. Raises SessionNotFoundError, InputError, SessionStoreUnavailableError."""
    session = runtime.sessions.get(strategy.session)
    if session.chain_id != runtime.settings.chain_id:
        raise StrategyError(
            f"its session is for chain {session.chain_id}, this program serves chain {runtime.settings.chain_id}",
            field=f"strategy {strategy.name}",
            fix="use a session of the chain that this worker serves",
        )
    return Moment(
        slot_s=slot_s,
        number=(state.fired if state else 0) + 1,
        account=session.account,
        chain_id=session.chain_id,
        until_s=until_s,
        reads=runtime.chain,
        memory=state.memory if state else {},
        event=event or {},
    )


class _Evaluation:
    """One look at one strategy."""

    def __init__(self, runtime: Runtime, strategy: ScheduledStrategy, paused: str) -> None:
        self.runtime = runtime
        self.strategy = strategy
        self.paused = paused
        self.book = runtime.strategies
        self.made = 0
        self.state = StrategyState(0, 0)

    # --- woken up

    def run(self) -> int:
        """Deal with what is due; how many intents were made."""
        before = self.book.read(self.strategy.name)
        if before is not None and not self._anything_due(before):
            return 0
        if not self._claim():
            return 0
        try:
            self._resume()
            if not self.state.finished:
                self._judge()
                if self.strategy.event is None:
                    self._slots()
                else:
                    self._logs()
                self._retry()
        finally:
            self._release()
        return self.made

    def _anything_due(self, state: StrategyState) -> bool:
        """Without a claim, which writes: most wake-ups find nothing."""
        if state.pending:
            return True
        if state.finished:
            return False
        if self.strategy.event is not None:
            return self.strategy.enabled and self.runtime.now_ms() >= state.next_ms
        latest_s = latest_slot(self.strategy, self.runtime.now_s)
        return (latest_s is not None and latest_s > state.cursor_s) or bool(self._retry_due(state))

    def _slots(self) -> None:
        strategy, now_s = self.strategy, self.runtime.now_s
        if not strategy.enabled:
            # what passes meanwhile is nobody's loss: it was switched off in the file
            self._commit(cursor_s=max(self.state.cursor_s, now_s))
            return
        missed: list[Missed] = []
        cursor_s = self.state.cursor_s
        for slot in due(strategy, cursor_s, now_s, paused=self.paused):
            if slot.missed:
                why = f"{slot.missed}; {self.state.problem}" if self.state.problem else slot.missed
                missed.append(Missed(slot.slot_s, why, self.runtime.now_ms()))
                cursor_s = slot.slot_s
                continue
            if self._used_up():
                break
            until_s = valid_until(strategy, slot.slot_s)
            # what was missed before this slot is stored with it or before it, never after
            self._commit_missed(missed, cursor_s)
            missed = []
            if not self._one(str(slot.slot_s), slot.slot_s, until_s, None, cursor_s=slot.slot_s):
                return
            cursor_s = slot.slot_s
        self._commit_missed(missed, cursor_s)

    def _commit_missed(self, missed: Sequence[Missed], cursor_s: int) -> None:
        if missed:
            log.warning("slots missed", strategy=self.strategy.name, count=len(missed), why=missed[-1].why)
            self._commit(missed=missed, cursor_s=cursor_s, problem="")

    def _one(self, slot: str, slot_s: int, until_s: int, event: dict[str, Any] | None, **done: Any) -> bool:
        """Decide one slot and do it; False when it cannot be decided now. ``done``: what to store with it."""
        try:
            moment = moment_of(
                self.runtime, self.strategy, self.state, slot_s=slot_s, until_s=until_s, event=event
            )
            decision = decide(self.strategy, moment)
            if isinstance(decision, Wait):
                self._wait(decision, **done)
            else:
                self._act(
                    slot, slot_s, intent_of(self.strategy, slot, decision, until_s=until_s), decision, done
                )
        except FenceLostError:
            raise
        except ExecutorError as error:
            self._problem(str(error))
            return False
        except Exception as error:
            self._problem(f"{type(error).__name__} in {self.strategy.kind}")
            raise
        return True

    def _problem(self, words: str) -> None:
        if words != self.state.problem:
            log.warning("not decided yet", strategy=self.strategy.name, error=words)
            self._commit(problem=words)

    def _wait(self, decision: Wait, **done: Any) -> None:
        if decision.why != self.state.said:
            log.info("nothing to do", strategy=self.strategy.name, why=decision.why)
        self._commit(
            memory=decision.memory, said=decision.why, problem="", finished=int(decision.finished), **done
        )

    def _act(
        self, slot: str, slot_s: int, intent: TradeIntent, decision: Act, done: dict[str, Any]
    ) -> Enqueued:
        store_guardrails(self.runtime, self.strategy)
        self._commit(pending=slot, pending_memory=decision.memory)
        try:
            enqueued = enqueue(self.runtime, intent)
        except IdempotencyConflictError:
            # another evaluator had decided this slot on what the chain said then: its word stands
            enqueued = Enqueued(self.runtime.ledger.get(intent.intent_id), created=False)
        self.runtime.ledger.claim_slot(self.strategy.name, slot_s, intent_id=intent.intent_id)
        try:
            self._fired(slot_s, enqueued.record.intent_id, decision.memory, done)
        except StrategyGoneError:
            self._cancel(intent.intent_id, "its strategy was removed")
            raise
        self.made += enqueued.created
        log.info(
            "slot fired" if enqueued.created else "slot was fired before",
            strategy=self.strategy.name,
            slot=slot,
            intent_id=intent.intent_id,
        )
        return enqueued

    def _fired(
        self, slot_s: int, intent_id: str, memory: Any, done: dict[str, Any], *, first: bool = True
    ) -> None:
        fired = self.state.fired + (1 if first else 0)
        most = self.strategy.max_executions
        self._commit(
            pending="",
            pending_memory={},
            memory=memory,
            fired=fired,
            finished=int(most is not None and fired >= most),
            problem="",
            said="",
            last_slot_s=slot_s,
            last_intent=intent_id,
            tries=0,
            settled=0,
            **done,
        )

    def _resume(self) -> None:
        """Somebody died between the intent and the cursor: if the intent is there, its slot is done."""
        slot = self.state.pending
        if not slot:
            return
        intent_id = TradeIntent(self.strategy.session, key_of(self.strategy, slot), ()).intent_id
        try:
            self.runtime.ledger.get(intent_id)
        except IntentNotFoundError:
            self._commit(pending="", pending_memory={})
            return
        memory = self.state.pending_memory
        if slot.startswith("log:"):
            self._fired(
                self.state.last_slot_s, intent_id, memory, {"seen": " ".join((*self.state.seen, slot))}
            )
        else:
            cursor_s = max(int(slot), self.state.cursor_s)
            self._fired(int(slot), intent_id, memory, {"cursor_s": cursor_s})

    def _used_up(self) -> bool:
        most = self.strategy.max_executions
        return most is not None and self.state.fired >= most

    # --- want of money

    def _judge(self) -> None:
        """Before anything new: how the last fire ended. A doomed order is not given again and again until all is gone."""
        strategy, intent_id = self.strategy, self.state.last_intent
        if not strategy.pause_after or not intent_id or intent_id == self.state.judged or self.paused:
            return
        record = self.runtime.ledger.get(intent_id)
        if record.state not in FINAL:
            return
        try:
            broke = self.state.broke + 1 if self._for_want_of_money(record) else 0
        except ChainError as error:
            log.info("last fire not judged yet", strategy=strategy.name, error=str(error))
            return
        if broke < strategy.pause_after:
            self._commit(judged=intent_id, broke=broke)
            return
        why = f"paused itself: {broke} fires in a row failed for want of money; the last one: {record.reason}"
        switch = strategy_switch(strategy.name)
        # a person may have paused it at this moment: that person's words stay
        if all(pause.switch != switch for pause in self.runtime.pauses.list()):
            who = f"strategy {strategy.name}"
            self.runtime.pauses.pause(switch, why=why, who=who, now_ms=self.runtime.now_ms())
            self.runtime.audit.tell(
                "change", who=who, what="paused", switch=str(switch), why=why, outcome="done"
            )
        log.error("strategy has paused itself", strategy=strategy.name, why=why)
        # resumed by a person, it counts from the beginning
        self._commit(judged=intent_id, broke=0)
        self.paused = f"paused: {why}"

    def _for_want_of_money(self, record: IntentRecord) -> bool:
        """Whether it ended because somebody - the account, the sponsor, the market - has too little.

        A reply often says only that the simulation failed, so the account is looked at as well.
        """
        if record.state not in _FAILED:
            return False
        if _WANT.search(record.reason):
            return True
        chain, account = self.runtime.chain, self.runtime.sessions.get(record.intent.session_id).account
        return record.state is State.FAILED and any(
            (chain.native_balance(account) if token == ZERO_ADDRESS else chain.erc20_balance(token, account))
            < amount
            for token, amount in needed_by(record.intent.calls).items()
        )

    # --- retries

    def _retry_due(self, state: StrategyState) -> int:
        """The number of the retry that is due, 0 for none."""
        retry, strategy = self.strategy.retry, self.strategy
        if (
            retry is None
            or not state.last_intent
            or state.settled
            or state.tries >= retry.times
            or self.paused
        ):
            return 0
        record = self.runtime.ledger.get(state.last_intent)
        if record.state not in FINAL:
            return 0
        following_s = next_slot(strategy, state.last_slot_s)
        over = following_s is not None and self.runtime.now_s >= following_s
        if record.state in (State.COMPLETED, State.CANCELED) or over or _may_still_execute(record):
            return -1
        waited_ms = self.runtime.now_ms() - record.updated_ms
        return state.tries + 1 if waited_ms >= retry.after_s * 1000 else 0

    def _retry(self) -> None:
        """A new intent for a slot whose last one has failed for good: nothing of that one can execute any more."""
        number = self._retry_due(self.state)
        if number < 0:
            self._commit(settled=1)
        if number <= 0:
            return
        retry = self.strategy.retry
        assert retry is not None
        slot_s, now_s = self.state.last_slot_s, self.runtime.now_s
        following_s = next_slot(self.strategy, slot_s)
        until_s = now_s + (self.strategy.max_lateness_s or DEFAULT_LATENESS_S)
        if following_s is not None:
            until_s = min(until_s, following_s)
        last = self.runtime.ledger.get(self.state.last_intent).intent
        again = TradeIntent(
            session_id=last.session_id,
            idempotency_key=key_of(self.strategy, str(slot_s), retry=number),
            calls=last.calls,
            sponsored=last.sponsored,
            not_after=until_s,
            source=last.source,
            note=f"{last.note} (retry {number} of {retry.times})",
            swaps=last.swaps,
        )
        store_guardrails(self.runtime, self.strategy)
        try:
            enqueued = enqueue(self.runtime, again)
        except IdempotencyConflictError:
            # enqueued by one who died before storing it, with its own until_s
            enqueued = Enqueued(self.runtime.ledger.get(again.intent_id), created=False)
        self._commit(tries=number, last_intent=again.intent_id)
        self.made += enqueued.created
        log.info("slot tried again", strategy=self.strategy.name, slot_s=slot_s, retry=number)

    # --- events

    def _logs(self) -> None:
        """Deal with the logs of the next stretch of blocks that are deep enough."""
        event, state = self.strategy.event, self.state
        assert event is not None
        if not self.strategy.enabled:
            return
        chain = self.runtime.chain
        head = chain.block_number()
        next_ms = self.runtime.now_ms() + EVENT_POLL_MS
        if state.block is None:
            first = head if event.from_block is None else min(event.from_block - 1, head)
            self._commit(block=first)
            state = self.state
        assert state.block is not None
        until = min(head - event.confirmations, state.block + MAX_BLOCKS)
        if until <= state.block:
            self._commit(next_ms=next_ms)
            return
        logs = [Log(**item) for item in chain.logs(event.address, event.topic, state.block + 1, until)]
        for item in logs:
            arguments = event.matches(item)
            key = f"log:{item.key}"
            if arguments is None or key in self.state.seen:
                continue
            if self._used_up():
                break
            if not self._log(item, key, arguments, chain.block_time(item.block)):
                self._commit(next_ms=next_ms)
                return
        # more blocks may wait: an outage of days is caught up with in strides
        self._commit(block=until, seen="", next_ms=0 if until < head - event.confirmations else next_ms)

    def _log(self, item: Log, key: str, arguments: dict[str, Any], time_s: int) -> bool:
        seen = " ".join((*self.state.seen, key))
        lateness_s = self.strategy.max_lateness_s or DEFAULT_LATENESS_S
        late_s = self.runtime.now_s - time_s
        why = self.paused or ("" if late_s <= lateness_s else f"{late_s} s late, allowed are {lateness_s} s")
        if (self.strategy.start_s or 0) > time_s or (self.strategy.end_s or time_s + 1) <= time_s:
            self._commit(seen=seen)
            return True
        if why:
            words = f"log {item.key}: {why}" + (f"; {self.state.problem}" if self.state.problem else "")
            self._commit(missed=[Missed(time_s, words, self.runtime.now_ms())], seen=seen, problem="")
            return True
        return self._one(key, time_s, time_s + lateness_s, arguments, seen=seen)

    # --- by hand

    def by_hand(self, slot_s: int) -> Fired:
        """Fire one slot, whatever the cursor says."""
        slot = str(slot_s)
        if not self._claim():
            raise InputError(
                "is being evaluated by a worker", field=self.strategy.name, fix="try again in a moment"
            )
        try:
            self._resume()
            intent_id = TradeIntent(self.strategy.session, key_of(self.strategy, slot), ()).intent_id
            try:
                return Fired(Enqueued(self.runtime.ledger.get(intent_id), created=False))
            except IntentNotFoundError:
                pass
            if self.state.finished or self._used_up():
                raise InputError(
                    f"has made its {self.state.fired} executions",
                    field=self.strategy.name,
                    fix="raise max_executions, or use another name",
                )
            until_s = valid_until(self.strategy, slot_s)
            moment = moment_of(self.runtime, self.strategy, self.state, slot_s=slot_s, until_s=until_s)
            decision: Decision = decide(self.strategy, moment)
            done: dict[str, Any] = {"cursor_s": max(slot_s, self.state.cursor_s)}
            if isinstance(decision, Wait):
                self._wait(decision)
                return Fired(None, decision.why)
            intent = intent_of(self.strategy, slot, decision, until_s=until_s)
            return Fired(self._act(slot, slot_s, intent, decision, done))
        finally:
            self._release()

    # --- the lease

    def _claim(self) -> bool:
        claimed = self.book.claim(
            self.strategy.name,
            now_ms=self.runtime.now_ms(),
            lease_ms=LEASE_MS,
            first_cursor_s=self.runtime.now_s - _FIRST_SIGHT_S,
        )
        if claimed is None:
            return False
        self.state = claimed
        return True

    def _commit(self, *, missed: Sequence[Missed] = (), **fields: Any) -> None:
        name = self.strategy.name
        self.book.commit(name, fence=self.state.fence, missed=missed, **fields)
        state = self.book.read(name)
        if state is None:
            raise StrategyGoneError("was removed meanwhile", field=f"strategy {name}", fix="nothing to do")
        self.state = state

    def _release(self) -> None:
        _quiet(lambda: self.book.commit(self.strategy.name, fence=self.state.fence, lease_ms=0))

    def _cancel(self, intent_id: str, why: str) -> None:
        try:
            self.runtime.ledger.cancel(intent_id, who=self.runtime.who, why=why, now_ms=self.runtime.now_ms())
        except IllegalTransitionError as error:
            log.warning("not canceled", intent_id=intent_id, error=str(error))


def _quiet(step: Callable[[], None]) -> None:
    """The lease that cannot be given back ends by itself."""
    try:
        step()
    except ExecutorError as error:
        log.info("lease not given back", error=str(error))


def remove(runtime: Runtime, name: str, *, who: str) -> tuple[bool, int]:
    """Remove a strategy that was added at run time, or what is kept of one that has left the file.

    Its intents that are not signed are canceled, messages in queues included: they find nothing to do.

    Returns:
        Whether there was anything, and how many intents were canceled.

    Raises:
        LedgerUnavailableError, LedgerInputError
    """
    there = runtime.strategies.remove(name)
    return there, cancel_open(runtime, name, who=who, why="its strategy was removed")


def cancel_open(runtime: Runtime, name: str, *, who: str, why: str) -> int:
    """Cancel a strategy's intents that are not signed yet; how many. Raises LedgerUnavailableError."""
    canceled = 0
    waiting = runtime.ledger.list_intents(states=(State.QUEUED, State.AUTHORIZED), limit=100_000)
    for record in waiting:
        if record.intent.source != f"strategy:{name}":
            continue
        try:
            runtime.ledger.cancel(record.intent_id, who=who, why=why, now_ms=runtime.now_ms())
            canceled += 1
        except IllegalTransitionError:
            continue  # signed meanwhile: it is followed to its end
    return canceled


def _may_still_execute(record: IntentRecord) -> bool:
    """Whether an expired intent was seen outside and nobody has said that it is over: what is signed has no deadline."""
    unsaid = record.state is State.EXPIRED and record.orchestrator_status != "EXPIRED"
    return unsaid and bool(record.fields.get("sent"))
