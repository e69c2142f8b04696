"""The real SDK 1.15.0 trades over two chains against the devnet: enable and use, enabled, and a claim that is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.anvil import ARBITRUM
from tests.support.sdk import devnet_environment, labelled_key, run_node
from worker.devnet.chain import ARBITER
from worker.devnet.devnet import Devnet

pytestmark = pytest.mark.services

RECIPIENT = "0x" + labelled_key("recipient of trades").hex()[-40:]
ONE = 1_000_000


def settled(devnet: Devnet) -> list[dict[str, Any]]:
    """The intents, once the claims that follow a fill have been made."""
    deadline = time.monotonic() + 30
    while True:
        intents = list(devnet.state()["intents"])
        if all(intent["status"] in {"COMPLETED", "FAILED"} for intent in intents):
            return intents
        assert time.monotonic() < deadline, intents
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["nexus", "kernel"])
def test_tokens_of_base_arrive_on_arbitrum_and_the_call_there_is_made(
    cross_devnet: Devnet, kind: str
) -> None:
    """Whose ERC-1271 form wraps the digest (kernel) or not; the two others are packed as nexus is."""
    report = json.loads(
        run_node(
            "cross-chain.ts",
            {
                **devnet_environment(cross_devnet),
                "OWNER_KEY": "0x" + labelled_key("owner").hex(),
                "SESSION_KEY": "0x" + labelled_key("session").hex(),
                "OTHER_SESSION_KEY": "0x" + labelled_key("another session").hex(),
                "RECIPIENT": RECIPIENT,
                "ARBITER": ARBITER,
                "ACCOUNT_KIND": kind,
            },
        )
    )
    account = str(report["account"])

    def balances(arbitrum: int, recipient: int) -> dict[str, str]:
        return {"arbitrum": str(arbitrum * ONE), "recipient": str(recipient * ONE)}

    assert [report[name] for name in ("before", "first", "second")] == [
        balances(0, 0),
        balances(4, 1),
        balances(7, 3),
    ]
    # the devnet holds the claim against the policy, as the SDK did not
    assert report["refusal"] in {"IntentFailedError", "SimulationFailedError"}
    assert report["third"] == report["second"]
    intents = settled(cross_devnet)
    assert [intent["status"] for intent in intents] == ["COMPLETED", "COMPLETED", "FAILED"]
    assert intents[2]["reason"] == (
        "originSignatures[0].notarizedClaimSig: the claim policy denies the claim: arbiters"
    )
    assert cross_devnet.usdc_balance(account) == 990 * ONE
    filled = cross_devnet.executions(account, chain_id=ARBITRUM)
    assert [done.enabled for done in filled] == [True, False]
    assert cross_devnet.claims(account) == [done.intent_id for done in filled]
    assert len(cross_devnet.requests("/intent-operations", "POST")) == 3
