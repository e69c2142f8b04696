"""``intents submit`` of trades: every option is in the record, errors name the option, and what is queued is traded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from config.settings import get_settings
from tests.support.cli import PREFIX, Run, write_session
from tests.support.cross_chain import ARBITRUM, BASE, FUNDS, RECIPIENT, USDC_OF, claim_policy
from tests.support.pipeline import FAST, STAGES
from tests.support.sessions import ACCOUNT, OWNER_KEY, TRANSFER
from worker.devnet.devnet import Devnet
from worker.execution.runtime import Runtime
from worker.execution.watch import tick
from worker.intents.states import FINAL, State
from worker.policies import SpendingLimits, TokenLimit
from worker.sessions.model import Action
from worker.signing.sign import address_of

pytestmark = pytest.mark.services

TRANSFER_TWO = f"0xa9059cbb{'00' * 12}{RECIPIENT[2:]}{2:064x}"


@pytest.fixture
def devnet(cross_devnet: Devnet, monkeypatch: pytest.MonkeyPatch) -> Devnet:
    """Two chains, and the settings that name the second one."""
    monkeypatch.setenv(
        PREFIX + "SOURCE_RPC_URLS", json.dumps({str(ARBITRUM): cross_devnet.rpc_urls[ARBITRUM]})
    )
    return cross_devnet


@pytest.fixture
def sessions(command: Run, key: str, devnet: Devnet, tmp_path: Path) -> dict[int, str]:
    """Sessions of one account on both chains, imported by hand: they may claim, so the risk is to be accepted."""
    devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=FUNDS)
    devnet.set_delays(**FAST)
    found: dict[int, str] = {}
    for chain, token in USDC_OF.items():
        limit = SpendingLimits(limits=(TokenLimit(token=token, amount=100_000_000),))
        path = write_session(
            key,
            tmp_path / f"{chain}.json",
            chain=chain,
            restrict=False,
            actions=[Action(target=token, selector=TRANSFER, policies=(limit,))],
            claim_policies=[claim_policy()] if chain == BASE else [],
        )
        code, out, err = command("sessions", "import", str(path), *accepted(command, path))
        assert code == 0, err
        found[chain] = out.split()[0]
    return found


def accepted(command: Run, path: Path) -> list[str]:
    """The options that accept what the session may do beyond a trade."""
    found = json.loads(command("sessions", "explain", "--file", str(path), "--json")[1])
    return [f"--accept-risk={finding['code']}" for finding in found["findings"]]


def trade_of(command: Run, intent_id: str) -> dict[str, Any]:
    shown = json.loads(command("intents", "show", intent_id, "--json")[1])
    return dict(shown["trade"])


def test_what_is_asked_for_in_words_is_traded(command: Run, sessions: dict[int, str], devnet: Devnet) -> None:
    code, out, err = command(
        *("intents", "submit", "--session", sessions[ARBITRUM], "--key", "k"),
        *("--want", "5 USDC", "--pay", "5.01 USDC on 8453", "--from", sessions[BASE]),
        *("--call", f"{USDC_OF[ARBITRUM]}:0:{TRANSFER_TWO}"),
    )
    assert (code, err) == (0, "")
    intent_id = out.strip()
    messages = [("prepare", intent_id)]
    runtime = Runtime(get_settings(), dispatch=lambda stage, name: messages.append((stage, name)))
    deadline = time.monotonic() + 30
    while runtime.ledger.get(intent_id).state not in FINAL:
        assert time.monotonic() < deadline
        while messages:
            stage, name = messages.pop(0)
            STAGES[stage](runtime, name)
        tick(runtime)
        time.sleep(0.05)
    record = runtime.ledger.get(intent_id)
    assert record.state is State.COMPLETED, record.reason
    assert f'"sources": ["{sessions[BASE]}"]' in command("intents", "show", intent_id)[1]
    assert record.intent.note == "get 5 USDC on Arbitrum One for at most 5.01 USDC on Base"
    assert devnet.usdc_balance(ACCOUNT, chain_id=ARBITRUM) == 4_999_998
    assert devnet.usdc_balance(ACCOUNT) == FUNDS - 5_000_000


def test_doctor_looks_at_every_chain(command: Run, devnet: Devnet, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {row["what"]: row for row in json.loads(command("doctor", "--json")[1])}
    for what in ("chain", "emissary", "token decimals", "clock"):
        assert [found[what]["status"], found[f"{what} {ARBITRUM}"]["status"]] == ["ok", "ok"]
    # Base's endpoint in Arbitrum's place
    monkeypatch.setenv(PREFIX + "SOURCE_RPC_URLS", json.dumps({str(ARBITRUM): devnet.rpc_url}))
    found = {row["what"]: row for row in json.loads(command("doctor", "--json")[1])}
    assert (found["chain"]["status"], found[f"chain {ARBITRUM}"]["status"]) == ("ok", "fail")


def test_every_option_is_in_the_record(command: Run, sessions: dict[int, str]) -> None:
    until = int(time.time()) + 3_600
    code, out, err = command(
        *("intents", "submit", "--session", sessions[ARBITRUM][:12], "--key", "k"),
        *("--want", "5 USDC on Arbitrum One", "--pay", "5 USDC on Base", "--pay", "0.1 USDC on 42161"),
        *("--from", sessions[BASE][:12], "--from", sessions[ARBITRUM]),
        *("--recipient", RECIPIENT, "--source-asset", "USDC", "--fee-asset", "USDC"),
        *("--source-call", f"{BASE}:{USDC_OF[BASE]}:0:{TRANSFER_TWO}"),
        *("--sponsor", "gas", "--sponsor", "protocol-fees", "--layer", "ACROSS", "--layer", "ECO"),
        *("--deadline", str(until)),
    )
    assert (code, err) == (0, "")
    assert trade_of(command, out.strip()) == {
        "tokens": [{"token": USDC_OF[ARBITRUM], "amount": "5000000"}],
        "sources": [sessions[BASE], sessions[ARBITRUM]],
        "spend": [
            {"chain": BASE, "token": USDC_OF[BASE], "amount": "5000000"},
            {"chain": ARBITRUM, "token": USDC_OF[ARBITRUM], "amount": "100000"},
        ],
        "recipient": RECIPIENT,
        "sourceAssets": ["USDC"],
        "sourceCalls": {str(BASE): [{"to": USDC_OF[BASE], "value": "0", "data": TRANSFER_TWO}]},
        "feeAsset": "USDC",
        "sponsored": {"gas": True, "bridging": False, "swaps": False, "protocolFees": True},
        "settlementLayers": ["ACROSS", "ECO"],
        "customDeadline": until,
    }
    _, out, _ = command(
        *("intents", "submit", "--session", sessions[ARBITRUM], "--key", "all", "--want", "all USDC"),
        *("--pay", "7 USDC", "--from", sessions[BASE], "--exact-inputs"),
    )
    found = trade_of(command, out.strip())
    assert found["tokens"] == [{"token": USDC_OF[ARBITRUM]}]
    assert (found["spend"][0]["chain"], found["exactInputs"]) == (BASE, True)


def test_a_line_of_json_says_the_same(command: Run, sessions: dict[int, str], tmp_path: Path) -> None:
    lines = tmp_path / "trades.jsonl"
    trade = {"tokens": ["5 USDC"], "sources": [sessions[BASE]], "spend": ["5.01 USDC on 8453"]}
    wrong = trade | {"spend": ["5.01 USDT0 on 8453"]}
    lines.write_text(
        "".join(json.dumps({"key": str(n), "trade": t}) + "\n" for n, t in enumerate((trade, wrong)))
    )
    code, out, err = command("intents", "submit", "--session", sessions[ARBITRUM], "--file", str(lines))
    assert (code, err) == (2, "1 queued, 1 bad\n")
    queued, bad = out.splitlines()
    assert "spend[0]: the token 'USDT0' is not known" in bad
    assert trade_of(command, queued.split()[-1])["spend"][0]["amount"] == "5010000"


TRADE = ("--want", "5 USDC", "--pay", "6 USDC on 8453")


#: Options, the one that the error names, and words of it.
WRONG: list[tuple[tuple[str, ...], str, str]] = [
    (("--want", "5"), "--want", "is no amount with a token"),
    (("--want", "5 USDX", *TRADE[2:]), "--want", "is not known"),
    (("--want", "5 USDC on 8453", *TRADE[2:]), "--want", "the intent's session is for chain 42161"),
    (("--want", "5 USDC", "--want", "6 USDC", *TRADE[2:]), "--want", "names a token twice"),
    (("--want", "all USDC", "--want", "1 ETH", *TRADE[2:]), "--want", "next to others"),
    (("--want", "5 USDC", "--to", RECIPIENT, "--amount", "1 USDC"), "--want", "cannot go with"),
    (("--want", "5 USDC"), "--pay", "is missing"),
    (("--want", "5 USDC", "--pay", "6 USDC on Nowhere"), "--pay", "names the chain 'Nowhere'"),
    (("--want", "5 USDC", "--pay", "6.0000001 USDC on 8453"), "--pay", "decimals"),
    (("--want", "5 USDC", "--pay", "6 USDC on 42161"), "--pay", "which is no source chain"),
    (
        (*TRADE, "--exact-inputs", "--source-asset", "USDC"),
        "--source-asset",
        "cannot go with exactInputs",
    ),
    ((*TRADE, "--source-asset", "US DC"), "--source-asset", "must be a token's symbol"),
    ((*TRADE, "--recipient", "0x1"), "--recipient", ""),
    ((*TRADE, "--recipient", ""), "--recipient", "is empty"),
    (("--call", f"{RECIPIENT}:0:0x", "--recipient", RECIPIENT), "--recipient", "no tokens are asked for"),
    ((*TRADE, "--source-call", "8453:0x1"), "--source-call", "is no call on a chain"),
    ((*TRADE, "--source-call", f"10:{RECIPIENT}:0:0x"), "--source-call", "not part of the trade"),
    ((*TRADE, "--fee-asset", ""), "--fee-asset", "is empty"),
    ((*TRADE, "--sponsor", "everything"), "--sponsor", "is no fee"),
    ((*TRADE, "--sponsor", "gas", "--unsponsored"), "--unsponsored", "contradicts --sponsor"),
    ((*TRADE, "--layer", "A CROSS"), "--layer", "settlement layer"),
    ((*TRADE, "--deadline", "tomorrow"), "--deadline", "no time with a zone"),
    ((*TRADE, "--deadline", "1800000000"), "--deadline", "is not 120 to 86400 s from now"),
    ((*TRADE, "--from", "ses_ffffffff"), "--from", "names no session"),
]


def test_what_cannot_be_asked_names_the_option(command: Run, sessions: dict[int, str]) -> None:
    """One test for all of them: what takes time is importing the sessions."""
    wrong: list[str] = []
    for arguments, option, words in WRONG:
        source = () if "--from" in arguments else ("--from", sessions[BASE])
        code, out, err = command(
            "intents", "submit", "--session", sessions[ARBITRUM], "--key", "k", *source, *arguments
        )
        named = err.startswith(f"error: {option}: ") and words in err and err.count("\n") == 1
        if (code, out) != (2, "") or not named:
            wrong.append(f"{' '.join(arguments)}: {code} {out} {err}")
    assert not wrong
    assert json.loads(command("intents", "list", "--json")[1]) == []
