"""``session-executor orchestrator``: what the service says, for people and as it came."""

from __future__ import annotations

import json

import pytest

from tests.support.cli import PREFIX, Run
from tests.support.sessions import ACCOUNT, USDC
from worker.devnet.devnet import Devnet

pytestmark = pytest.mark.services

BLANC = "2026-04.blanc"


@pytest.mark.parametrize("version", ["2026-01.alps", BLANC])
def test_the_account_of_a_session_and_its_balances(
    command: Run, session: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv(PREFIX + "ORCHESTRATOR_VERSION", version)
    code, out, err = command("orchestrator", "portfolio", session, "--chain", "8453")
    assert (code, err) == (0, "")
    [row] = [line for line in out.splitlines() if "USDC" in line]
    assert "8453" in row
    assert " 1000 " in row
    code, out, _ = command("orchestrator", "portfolio", ACCOUNT, "--token", f"8453:{USDC}", "--json")
    assert code == 0
    assert len(json.loads(out)["portfolio"]) == 1
    assert ("devnetNote" in out) == (version == BLANC)


def test_the_chains_and_which_of_them_we_serve(command: Run, devnet: Devnet) -> None:
    code, out, err = command("orchestrator", "chains")
    assert (code, err) == (0, "")
    [row] = [line for line in out.splitlines() if "Base" in line]
    assert "yes" in row
    assert "USDC" in row
    assert set(json.loads(command("orchestrator", "chains", "--json")[1])) == {str(devnet.chain_id)}


def test_an_amount_in_parts(command: Run) -> None:
    assert command("orchestrator", "splits", "400001 USDC") == (0, "400000 USDC\n1 USDC\n", "")
    code, out, err = command("orchestrator", "splits", "2000001 USDC", "--layer", "ACROSS")
    assert (code, out) == (1, "")
    assert "could not: 1 USDC" in err
    assert "error: tokens: HTTP 422: nobody can fill" in err


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("portfolio", "0x1"), "ACCOUNT"),
        (("portfolio", "ses_00000000"), "ACCOUNT"),
        (("portfolio", ACCOUNT, "--token", USDC), "--token"),
        (("splits", "1"), "AMOUNT"),
        (("splits", "1 NOPE"), "AMOUNT"),
        (("splits", "1 USDC", "2 USDC"), "AMOUNT"),
        (("splits", "1 USDC", "--chain", "999999"), "--chain"),
    ],
)
def test_what_cannot_be_asked_names_the_option(command: Run, arguments: tuple[str, ...], field: str) -> None:
    code, out, err = command("orchestrator", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {field}:")
    assert err.count("\n") == 1
