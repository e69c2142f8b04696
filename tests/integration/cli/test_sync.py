"""``sessions sync`` as an operator sees it; what is compared is tested with the pipeline."""

from __future__ import annotations

import json

import pytest

from tests.support.cli import Run
from tests.support.policy_getters import SPENDING, PolicyGetters
from worker.devnet.devnet import Devnet

pytestmark = pytest.mark.services


def test_what_cannot_be_compared_is_said(command: Run, session: str) -> None:
    code, out, err = command("sessions", "sync", session[:12], "--json")
    assert code == 0
    (state,) = json.loads(out)
    assert (state["policy"], state["limit"], state["outcome"]) == ("spending-limits", "100000000", "unknown")
    assert (state["chain_used"], state["note"]) == (None, "the session is not enabled on chain")
    assert err.startswith("warning: 1 of 1 counters could not be compared")
    code, out, _ = command("sessions", "sync", session)
    assert code == 0
    assert "100 USDC" in out
    assert "the session is not enabled on chain" in out


def test_drift_ends_with_1(command: Run, session: str, devnet: Devnet) -> None:
    call = json.loads(command("sessions", "enable", session, "--json")[1])["transaction"]
    sender = "0x" + "99" * 20
    devnet.fund(sender, eth=10**18)
    devnet.rpc.call("anvil_impersonateAccount", sender)
    devnet.rpc.call("eth_sendTransaction", {"from": sender, "to": call["to"], "data": call["data"]})
    permission = json.loads(command("sessions", "show", session, "--json")[1])["permission_id"]
    contracts = PolicyGetters(devnet, bytes.fromhex(permission[2:]))
    contracts.answer(SPENDING, "getPolicyData", 100_000_000, 0, 0)
    assert command("sessions", "sync", session)[::2] == (0, "")
    contracts.answer(SPENDING, "getPolicyData", 100_000_000, 1, 2)
    code, out, err = command("sessions", "sync", session)
    assert (code, err) == (1, "")
    assert "chain ahead" in out
    assert "0.000003 USDC" in out

    # the chain's number counts until an operator decides, with a reason
    shown = json.loads(command("sessions", "show", session, "--json")[1])["budgets"]
    assert [(budget["spent"], budget["elsewhere"]) for budget in shown] == [("0", "3")]
    assert "0.000003 USDC elsewhere (see `sessions sync`)" in command("sessions", "show", session)[1]
    for arguments in (("--resolve",), ("--why", "seen")):
        code, out, err = command("sessions", "sync", session, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: --resolve, --why: goes with the other one")
    code, out, err = command("sessions", "sync", session, "--resolve", "--why", "the user's wallet")
    assert code == 0
    assert err.startswith("resolved ")
    assert err.endswith(": 0 was spent, 3 is\n")
    assert "the user's wallet" in out
    shown = json.loads(command("sessions", "show", session, "--json")[1])["budgets"]
    assert [(budget["spent"], budget["elsewhere"]) for budget in shown] == [("3", "0")]


def test_an_unknown_session_is_bad_input(command: Run) -> None:
    code, out, err = command("sessions", "sync", "ses_" + "00" * 8)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
