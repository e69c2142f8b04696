"""Each kind of strategy on the devnet: its dry run says what would happen and signs nothing, then it fires and the chain shows it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.cli import PREFIX, Run
from tests.support.market import APPROVE, MARKET, REPAY, SWAP, Market
from tests.support.pipeline import RECIPIENT, Pipeline
from tests.support.sessions import ACCOUNT, TRANSFER, USDC
from worker.devnet.chain import WETH, selector
from worker.devnet.devnet import Devnet
from worker.execution.fire import all_strategies, wake
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.keys.keystore import KeystoreFiles
from worker.policies import SpendingLimits, Sudo, TokenLimit
from worker.sessions.model import Action

_FEED = f'feed = "{MARKET}", base = "WETH", quote = "USDC"'
_POOL = f'pool = "{MARKET}", base = "WETH", quote = "USDC"'
_ROUTER = (
    f'router = {{ address = "{MARKET}", function = "{SWAP}", '
    'args = ["$sell", "$buy", "$amount_in", "$min_out", "$account"] }\n'
)
_PRICE = f"price = {{ {_FEED} }}\n"
_TO = f'to = "{RECIPIENT}"\n'
_TRANSFER = "Transfer(address indexed from, address indexed to, uint256 value)"
#: What the account begins with, base units; WETH costs 3000 USDC.
_USDC, _WETH = 1_000_000_000, 10**18


@dataclass(frozen=True)
class Case:
    """One strategy.

    Attributes:
        body: its table, but for name, session and times.
        says: what the dry run prints.
        usdc: how much more USDC the account has in the end, base units.
        weth: the same of WETH; None: what the router gives for it, at least 99 % of the fair amount.
        fair_weth: the fair amount, if ``weth`` is None.
        before: what the dry run says before ``happens``; ``""``: it would act at once.
        happens: what makes it act.
        arguments: of the dry run.
        fires: how many intents there are in the end.
    """

    body: str
    says: str
    usdc: int
    weth: int | None = 0
    fair_weth: int = 0
    before: str = ""
    happens: Callable[[Market, Devnet], None] = field(default=lambda _market, _devnet: None)
    arguments: tuple[str, ...] = ()
    fires: int = 1


def _at(price: int) -> Callable[[Market, Devnet], None]:
    return lambda market, _: market.set_price(price)


CASES = {
    "recurring-transfer": Case(
        f'kind = "recurring-transfer"\n{_TO}amount = "2.5 USDC"\nmax_executions = 1\n',
        f"would transfer 2.5 USDC to {RECIPIENT}",
        -2_500_000,
    ),
    "subscription": Case(
        f'kind = "subscription"\n{_TO}amount = "9.99 USDC"\nmax_executions = 2\nretry = {{ times = 2, after = "1m" }}\n',
        f"would transfer 9.99 USDC to {RECIPIENT}",
        -19_980_000,
        fires=2,
    ),
    "dca": Case(
        f'kind = "dca"\nsell = "12 USDC"\ntotal = "30 USDC"\n{_PRICE}{_ROUTER}',
        "would swap 12 USDC for at least 0.00396 WETH",
        -30_000_000,
        weth=None,
        fair_weth=10**16,
        fires=3,
    ),
    "twap": Case(
        f'kind = "twap"\ntotal = "15.000001 USDC"\nparts = 2\n{_PRICE}{_ROUTER}',
        "would swap 7.500001 USDC for at least 0.002475",
        -15_000_001,
        weth=None,
        fair_weth=15_000_001 * 10**12 // 3000,
        fires=2,
    ),
    "limit-order": Case(
        f'kind = "limit-order"\nsell = "25 USDC"\n{_PRICE}{_ROUTER}only_if = {{ {_FEED}, below = "2500" }}\n',
        "would swap 25 USDC for at least 0.0099 WETH",
        -25_000_000,
        weth=None,
        fair_weth=10**16,
        before="would do nothing: 3000 is not below 2500",
        happens=_at(2500),
    ),
    "stop-order": Case(
        f'kind = "stop-order"\nsell = "0.01 WETH"\nprice = {{ {_POOL} }}\n{_ROUTER}'
        f'only_if = {{ {_POOL}, below = "2000" }}\n',
        "would swap 0.01 WETH for at least 1",
        19_970_010,
        weth=-(10**16),
        before="would do nothing: ",
        happens=_at(1999),
    ),
    "rebalance": Case(
        f'kind = "rebalance"\nquote = "USDC"\nthreshold = "0.5%"\nmax_executions = 1\n{_ROUTER}'
        f'holdings = [{{ {_FEED}, weight = "74%" }}]\n',
        "would swap 0.01333333",
        39_959_999,
        weth=-13_333_333_333_333_333,
    ),
    "sweep": Case(
        f'kind = "sweep"\n{_TO}above = "995 USDC"\nkeep = "990 USDC"\nmax_executions = 1\n',
        f"would sweep 10 USDC to {RECIPIENT}",
        -10_000_000,
    ),
    "raw": Case(
        f'kind = "raw"\nmax_executions = 1\ncalls = [{{ to = "{USDC}", function = "transfer(address,uint256)", '
        f'args = ["{RECIPIENT}", "4000000"] }}]\n',
        f"would transfer(address,uint256) of {USDC}",
        -4_000_000,
    ),
    "raw-python": Case(
        'kind = "raw"\npython = "tests.support.strategy_calls:pay"\n',
        "would tests.support.strategy_calls:pay at ",
        -5_000_000,
    ),
    "loan-repay": Case(
        f'kind = "raw"\ncalls = [{{ to = "{USDC}", function = "{APPROVE}", args = ["{MARKET}", "20000000"] }}, '
        f'{{ to = "{MARKET}", function = "{REPAY}", args = ["{USDC}", "20000000", "2", "$account"] }}]\n'
        f'only_if = {{ contract = "{MARKET}", function = "getUserAccountData(address)", args = ["$account"], '
        'word = 5, below = "1100000000000000000", hysteresis = "5%" }\n',
        f"would {APPROVE} of {USDC}; {REPAY} of {MARKET}",
        -20_000_000,
        before="would do nothing: 3000000000000000000 is not below 1100000000000000000",
        happens=lambda market, _: market.set_health(10**18),
    ),
    "on-event": Case(
        f'kind = "raw"\ncalls = [{{ to = "{USDC}", function = "transfer(address,uint256)", '
        f'args = ["{RECIPIENT}", "$value"] }}]\non_event = {{ address = "{USDC}", event = "{_TRANSFER}", '
        f'where = ["to == {ACCOUNT}", "value >= 1000000"], confirmations = 0 }}\n',
        f"would transfer(address,uint256) of {USDC}",
        -_USDC,
        happens=lambda _, devnet: devnet.fund(ACCOUNT, usdc=7_000_000),
        arguments=(
            *("--event", "from=0x" + "00" * 20),
            *("--event", f"to={ACCOUNT}", "--event", "value=7000000"),
        ),
    ),
}


def _limit(token: str, amount: int, selector_: bytes) -> Action:
    return Action(
        target=token,
        selector=selector_,
        policies=(SpendingLimits(limits=(TokenLimit(token=token, amount=amount),)),),
    )


@pytest.fixture
def pipeline(
    environment: dict[str, str],
    devnet: Devnet,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Pipeline:
    """A worker whose session may transfer, trade and repay, and the operator's command beside it."""
    del environment
    pipeline = Pipeline(devnet, redis_url, tmp_path / "worker")
    # the operator has the keys of the seals, which lie beside the worker's
    monkeypatch.setenv(PREFIX + "KEYSTORE_DIR", str(tmp_path / "worker" / "keys"))
    approve = selector(APPROVE)
    pipeline.session = pipeline.approve(
        actions=[
            _limit(USDC, 500_000_000, TRANSFER),
            _limit(USDC, 500_000_000, approve),
            _limit(WETH, _WETH, approve),
            Action(target=MARKET, selector=selector(SWAP), policies=(Sudo(),)),
            Action(target=MARKET, selector=selector(REPAY), policies=(Sudo(),)),
        ]
    )
    return pipeline


@pytest.fixture
def market(pipeline: Pipeline) -> Market:
    """With 1000 USDC and 1 WETH in the account."""
    return Market(pipeline.devnet, price=3000, weth=_WETH)


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Whoever takes a session key fails, until the patch is undone."""

    def taken(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a key was taken")

    with monkeypatch.context() as patch:
        patch.setattr(KeystoreFiles, "get", taken)
        yield patch


def fired(pipeline: Pipeline, number: int) -> list[IntentRecord]:
    """Wake up, as beat does, and work until the strategy has made so many intents and all have ended; the oldest first."""
    deadline = time.monotonic() + 60
    while True:
        wake(pipeline.runtime, all_strategies(pipeline.runtime))
        ids = [record.intent_id for record in pipeline.ledger.list_intents()]
        records = pipeline.run(*ids)
        if len(records) >= number:
            return list(reversed(records))
        assert time.monotonic() < deadline, pipeline.runtime.strategies.read("s")
        time.sleep(0.1)


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_it_would_do_and_then_does_it(
    name: str,
    *,
    pipeline: Pipeline,
    market: Market,
    command: Run,
    no_keys: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    case, devnet = CASES[name], pipeline.devnet
    # an event is looked for and needs no time
    times = "" if case.arguments else 'every = "2s"\n'
    text = f'[[strategies]]\nname = "s"\nsession = "{pipeline.session.session_id}"\n{times}max_lateness_s = 600\n'
    file = tmp_path / "strategies.toml"
    file.write_text(text + case.body)
    added = command("strategies", "add", str(file))
    assert added[0] == 0, added
    dry_run = ("strategies", "dry-run", "s", *case.arguments)
    if case.before:
        code, out, _ = command(*dry_run)
        assert (code, out.startswith(case.before)) == (0, True), out
    if case.arguments:
        wake(pipeline.runtime, all_strategies(pipeline.runtime))  # logs count from here on
        assert "does not count" in command("strategies", "dry-run", "s", *case.arguments[:-1], "value=1")[1]
    case.happens(market, devnet)

    code, out, err = command(*dry_run)
    assert (code, err) == (0, ""), out
    assert out.startswith(case.says), out
    assert "is what was asked for, and enables the session" in out
    calls = json.loads(command(*dry_run, "--json")[1])["calls"]
    # nothing is signed, stored or sent
    assert pipeline.ledger.list_intents() == []
    assert [budget.used for budget in pipeline.ledger.budgets(pipeline.session.session_id)] == []
    assert devnet.requests("/intent-operations", "POST") == []
    assert pipeline.executed() == 0
    no_keys.undo()

    records = fired(pipeline, case.fires)
    assert [record.state for record in records] == [State.COMPLETED] * case.fires, records[-1].reason
    executions = devnet.executions(ACCOUNT)
    assert len(executions) == case.fires
    # what the dry run said is what the chain shows, behind the orchestrator's own first call
    assert [
        {"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()}
        for call in executions[0].calls[-len(calls) :]
    ] == calls
    assert market.holds(USDC) - _USDC == case.usdc
    gained = market.holds(WETH) - _WETH
    if case.weth is None:
        assert case.fair_weth * 99 // 100 <= gained <= case.fair_weth
    else:
        assert gained == case.weth
    # and no more of it comes
    assert wake(pipeline.runtime, all_strategies(pipeline.runtime)) == 0
    assert len(pipeline.ledger.list_intents()) == case.fires
