"""Our constants, refusals and checks against the installed SDK 1.15.0; random draws are in ``test_draws.py``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.differences import lowered
from tests.support.sdk import SdkError, SdkOracle
from tests.support.sdk_draws import (
    FALLBACK_TARGET,
    Draw,
    DrawnSession,
    KeySet,
)
from tests.support.whole_draw import our_session, unhex
from worker.sessions.chains import known_chains
from worker.sessions.encoding import session_data
from worker.sessions.errors import SessionError
from worker.signing.enable import verify_owner_enable_signature
from worker.signing.errors import SigningInputError
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.structs import AccountKind

pytestmark = pytest.mark.services

USDC = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
TRANSFER = "0xa9059cbb"
BASE = 8453


def test_the_oracle_is_the_sdk_we_follow(sdk: SdkOracle) -> None:
    assert sdk("version") == {"sdk": "1.15.0"}


def test_our_chains_are_those_of_the_sdk(sdk: SdkOracle) -> None:
    ours = {
        chain.chain_id: (
            chain.wrapped,
            chain.testnet,
            [(token.symbol, token.address, token.decimals) for token in chain.tokens],
        )
        for chain in known_chains().values()
    }
    theirs = {
        chain["id"]: (
            lowered(chain.get("wrapped")),
            chain["testnet"],
            [(token["symbol"], token["address"].lower(), token["decimals"]) for token in chain["tokens"]],
        )
        for chain in sdk("chains")
    }
    assert ours == theirs


class TestRefusals:
    """What the SDK refuses to encode, we refuse in its words."""

    @pytest.mark.parametrize(
        "scope",
        [
            {"actions": []},
            {"actions": [{"policies": [{"type": "sudo"}]}]},
            {"actions": [{"target": FALLBACK_TARGET, "selector": "0x00000001"}]},
            {"actions": [{"target": USDC, "selector": TRANSFER}, {"target": USDC, "selector": TRANSFER}]},
            {
                "actions": [{"target": USDC, "selector": TRANSFER}],
                "claimPolicies": [{"type": "permit2-claim", "recipientIsSponsor": True}],
            },
        ],
        ids=["no actions", "fallback", "sentinel", "duplicate", "claim policies"],
    )
    def test_restricted_sessions_are_refused_in_the_same_words(
        self, sdk: SdkOracle, scope: dict[str, Any]
    ) -> None:
        drawn = DrawnSession(BASE, KeySet((bytes([7] * 32),), None), {**scope, "restrictToActions": True})
        with pytest.raises(SdkError) as theirs:
            sdk("session", session=drawn.for_sdk())
        with pytest.raises(SessionError) as ours:
            session_data(our_session(drawn))
        assert ours.value.message == theirs.value.message


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
class TestApproval:
    """The owners' signature as the SDK makes it."""

    def test_a_changed_bit_is_not_the_owners_signature(self, sdk: SdkOracle, kind: AccountKind) -> None:
        draw = Draw.named(f"forgery of a {kind}")
        owners = draw.keys(1)
        theirs = sdk(
            "enable",
            account={"kind": kind, "owners": owners.for_sdk()},
            sessions=[draw.session().for_sdk()],
            nonces=["0"],
            index=0,
        )
        account, digest, signature = (
            theirs["address"].lower(),
            unhex(theirs["digest"]),
            unhex(theirs["userSignature"]),
        )
        accounts = owners.for_us()["accounts"]
        assert verify_owner_enable_signature(kind, account, digest, signature, accounts)
        for position in range(len(signature)):
            forged = bytearray(signature)
            forged[position] ^= 1
            with pytest.raises(SigningInputError):
                verify_owner_enable_signature(kind, account, digest, bytes(forged), accounts)
