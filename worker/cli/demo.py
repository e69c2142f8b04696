"""The demo: one approval, then a session key trades within its limits with no further prompt.

Everything is real but the chain's age: an embedded Valkey, encrypted keystore files, anvil, an orchestrator that verifies
what it is sent, Celery workers and beat as processes. The end is checked against the chain.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.devnet.chain import USDC
from worker.devnet.stack import Stack
from worker.errors import ServiceError
from worker.execution.dispatch import celery_app, dispatcher
from worker.execution.enqueue import enqueue
from worker.execution.prepare import read_enable_nonce
from worker.execution.runtime import Runtime
from worker.intents.amount import TokenInfo, format_amount, parse_amount
from worker.intents.model import IntentRecord, TradeIntent
from worker.intents.states import FINAL, State
from worker.policies import SpendingLimits, TimeFrame, TokenLimit
from worker.policies.base import Execution
from worker.sessions.approval import approve
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, verify
from worker.sessions.model import Action, EcdsaOwners, Session
from worker.signing.sign import address_of

TRANSFER = bytes.fromhex("a9059cbb")
TRADES = 12
TOKEN = TokenInfo("USDC", USDC, 6, 8453)
TRADE = parse_amount("10", token=TOKEN)
LIMIT = parse_amount("100", token=TOKEN)
FUNDS = parse_amount("1000", token=TOKEN)
RECIPIENT = "0x" + keccak(text="session-executor demo: recipient")[12:].hex()
OTHER_CONTRACT = "0x" + keccak(text="session-executor demo: another contract")[12:].hex()
#: How long the short-lived session lives: long enough to import it, short enough to wait for its end.
SHORT_LIFE_S = 3
_TIMEOUT_S = 120
_DELAYS = {"preconfirm_ms": 300, "fill_ms": 700, "complete_ms": 1_200}
_STYLES = {State.COMPLETED: "green", State.REJECTED: "yellow"}


class DemoFailedError(ServiceError):
    """The chain and the ledger do not say what the demo promises."""


@dataclass(frozen=True, slots=True)
class Balances:
    """USDC in base units, read from the chain."""

    account: int
    recipient: int


def run_demo(console: Console) -> None:
    """Run the demo and print what happens.

    Raises:
        DemoFailedError: the chain does not agree with the ledger, or the outcome is not the promised one.
        ExecutorError: something does not come up.
    """
    started = time.monotonic()
    with _terminate_as_interrupt(), tempfile.TemporaryDirectory(prefix="session-executor-demo-") as folder:
        strategies = Path(folder) / "strategies.toml"
        strategies.write_text("# the demo enqueues by itself\n", encoding="utf-8")
        with console.status("starting Redis, a local chain with an orchestrator, a worker and beat …"):
            stack = Stack(Path(folder), settings={"strategies_file": str(strategies)})
        with stack:
            _play(console, stack)
    console.print(
        f"[bold green]done[/] in {time.monotonic() - started:.0f} s: the chain agrees with the ledger, "
        "and every process is stopped"
    )


def _play(console: Console, stack: Stack) -> None:
    devnet = stack.devnet
    devnet.set_delays(**_DELAYS)
    runtime = Runtime(stack.settings, dispatch=dispatcher(celery_app(stack.settings)))
    owner_key = secrets.token_bytes(32)
    owner = address_of(owner_key)
    account = "0x" + keccak(text=f"session-executor demo: account of {owner}")[12:].hex()
    devnet.register_account(account, owners=[owner], usdc=FUNDS)
    key = stack.keys.create(label="demo").address
    console.print(f"smart account  {to_checksum_address(account)}, owned by {to_checksum_address(owner)}")
    console.print(
        f"session key    {to_checksum_address(key)}, made here; its private part stays in the keystore"
    )

    session = _grant(runtime, owner_key, account, key, limit=LIMIT, life_s=86_400)
    console.print(
        f"approved once  only USDC.transfer, at most {format_amount(LIMIT, TOKEN)}, for 24 h: {session.session_id}\n"
    )
    before = _balances(stack, account)

    trades = [
        _submit(runtime, session, f"trade {number:2}", _transfer(TRADE)) for number in range(1, TRADES + 1)
    ]
    other = _submit(runtime, session, "other contract", Execution(OTHER_CONTRACT, 0, TRANSFER + bytes(64)))
    _follow(console, runtime, [*trades, other])

    short = _grant(runtime, owner_key, account, key, limit=LIMIT, life_s=SHORT_LIFE_S)
    with console.status(f"a second session was approved for {SHORT_LIFE_S} s; waiting for its end …"):
        time.sleep(max(0.0, short.expires_s + 1 - time.time()))
    late = _submit(runtime, short, "after expiry", _transfer(TRADE))
    _follow(console, runtime, [late])

    records = [runtime.ledger.get(intent_id) for intent_id in (*trades, other, late)]
    after = _balances(stack, account)
    console.print(_table(records))
    spent = sum(budget.spent for budget in runtime.ledger.budgets(session.session_id) if budget.token == USDC)
    console.print(f"spent against the limit: {format_amount(spent, TOKEN)} of {format_amount(LIMIT, TOKEN)}")
    for name, old, new in (
        ("account", before.account, after.account),
        ("recipient", before.recipient, after.recipient),
    ):
        console.print(f"{name:9} on chain: {format_amount(old, TOKEN)} → {format_amount(new, TOKEN)}")
    _check(
        stack,
        runtime,
        session,
        records,
        moved=(before.account - after.account, after.recipient - before.recipient),
    )


def _grant(
    runtime: Runtime, owner_key: bytes, account: str, key: str, *, limit: int, life_s: int
) -> RegisteredSession:
    """The owner's one approval, and its import: what a wallet and ``sessions import`` do."""
    now_s = int(time.time())
    session = Session(
        chain=TOKEN.chain_id,
        owners=EcdsaOwners(accounts=(key,)),
        actions=(
            Action(
                target=USDC,
                selector=TRANSFER,
                policies=(
                    SpendingLimits(limits=(TokenLimit(token=USDC, amount=limit),)),
                    TimeFrame(valid_until=(now_s + life_s) * 1000, valid_after=0),
                ),
            ),
        ),
        restrict_to_actions=True,
    )
    nonce = read_enable_nonce(runtime, account)
    text = approve(session, account=account, kind="nexus", owner_keys=[owner_key], nonce=nonce)
    registered = verify(
        load_session_file(text), our_keys=[key], chain_id=runtime.settings.chain_id, now_s=now_s, nonce=nonce
    )
    runtime.sessions.put(registered)
    return registered


def _submit(runtime: Runtime, session: RegisteredSession, note: str, call: Execution) -> str:
    intent = TradeIntent(session.session_id, f"demo {note}", (call,), source="demo", note=note)
    return enqueue(runtime, intent).record.intent_id


def _transfer(amount: int) -> Execution:
    return Execution(USDC, 0, TRANSFER + bytes(12) + bytes.fromhex(RECIPIENT[2:]) + amount.to_bytes(32))


def _balances(stack: Stack, account: str) -> Balances:
    return Balances(stack.devnet.usdc_balance(account), stack.devnet.usdc_balance(RECIPIENT))


def _follow(console: Console, runtime: Runtime, intent_ids: Sequence[str]) -> None:
    """Show the intents until all of them are final; without a terminal, one line for each that ends."""
    deadline = time.monotonic() + _TIMEOUT_S
    told: set[str] = set()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            records = [runtime.ledger.get(intent_id) for intent_id in intent_ids]
            if console.is_terminal:
                live.update(_table(records), refresh=True)
            for record in records:
                if record.state in FINAL and record.intent_id not in told and not console.is_terminal:
                    console.print(f"{record.intent.note:15} {record.state}")
                    told.add(record.intent_id)
            if all(record.state in FINAL for record in records):
                return
            if time.monotonic() > deadline:
                raise DemoFailedError(f"not every intent ended within {_TIMEOUT_S} s", field="demo")
            time.sleep(0.2)


def _table(records: Sequence[IntentRecord]) -> Table:
    table = Table("intent", "what", "state", "transaction", "reason")
    for record in records:
        style = _STYLES.get(record.state, "red" if record.state in FINAL else "cyan")
        state = record.orchestrator_status if record.state is State.SUBMITTED else str(record.state)
        table.add_row(
            record.intent_id[-8:],
            record.intent.note,
            f"[{style}]{state or record.state}[/]",
            record.tx_hash[:18] + "…" if record.tx_hash else "",
            record.reason if record.state in FINAL else "",
        )
    return table


def _check(
    stack: Stack,
    runtime: Runtime,
    session: RegisteredSession,
    records: Sequence[IntentRecord],
    *,
    moved: tuple[int, int],
) -> None:
    """Hold the ledger against the chain, and both against what was promised.

    ``moved``: what left the account and what the recipient got, base units, read from the chain.
    """
    *trades, other, late = records
    completed = [record for record in trades if record.state is State.COMPLETED]
    refused = [record for record in (*trades, other, late) if record.state is State.REJECTED]
    executions = stack.devnet.executions(session.account)
    by_policy = [record for record in refused if record.reason.startswith("spending-limits: ")]
    spent = [
        (budget.spent, budget.reserved)
        for budget in runtime.ledger.budgets(session.session_id)
        if budget.token == USDC
    ]
    traded = len(completed) * TRADE
    facts: Mapping[str, bool] = {
        "ten trades are completed": len(completed) == LIMIT // TRADE,
        "two are refused by the spending limit": len(by_policy) == TRADES - LIMIT // TRADE,
        "the call to another contract is refused": other.state is State.REJECTED
        and "no action for" in other.reason,
        "the call after expiry is refused": late.state is State.REJECTED
        and late.reason.startswith("time-frame: "),
        "what is refused was never signed": not any(record.body for record in refused),
        "the chain has exactly the completed ones": sorted(record.tx_hash for record in completed)
        == sorted(execution.tx_hash for execution in executions),
        "the account paid what was traded": moved[0] == traded,
        "the recipient got it": moved[1] == traded,
        "the ledger counts the same": spent == [(traded, 0)],
        "worker and beat are running": all(child.running() for child in stack.children),
    }
    for fact, holds in facts.items():
        if not holds:
            raise DemoFailedError(
                f"it does not hold that {fact}", field="demo", fix="report this with the output above"
            )


@contextmanager
def _terminate_as_interrupt() -> Generator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that no child is left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
