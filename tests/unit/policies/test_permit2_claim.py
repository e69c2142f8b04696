"""Claim policies: the only guard of a Permit2 message, so what is not known to be allowed is denied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.vectors import load_vectors
from worker.policies import Claim, Permit2Claim, evaluate_claim
from worker.policies.base import Allow, Deny

_ACCOUNT = "0x" + "aa" * 20
_OTHER = "0x" + "bb" * 20
_TOKEN = "0x" + "01" * 20
_OUT = "0x" + "02" * 20
_ARBITER = "0x" + "03" * 20

_CLAIM = Claim(
    account=_ACCOUNT,
    chain_id=8453,
    spender=_ARBITER,
    deadline=1_000,
    tokens_in=(_TOKEN,),
    target_chain=10,
    recipient=_ACCOUNT,
    fill_expiry=900,
    tokens_out=(_OUT,),
)
_FULL: dict[str, Any] = {
    "type": "permit2-claim",
    "arbiters": [_ARBITER],
    "expiryBounds": {"min": "500", "max": "1000"},
    "tokensIn": [{"chainId": "8453", "token": _TOKEN}],
    "recipients": [{"chainId": "10", "recipient": _ACCOUNT}],
    "fillExpiryBounds": [{"chainId": "10", "min": "900", "max": "900"}],
    "tokensOut": [{"chainId": "10", "token": _OUT}],
    "recipientIsSponsor": True,
}


def _judge(policy: dict[str, Any], claim: Claim = _CLAIM) -> Allow | Deny:
    return evaluate_claim((Permit2Claim.model_validate(policy),), claim)


class TestEachField:
    """Every field alone denies what it does not list."""

    def test_a_message_within_every_field_is_allowed_and_counts_nothing(self) -> None:
        assert _judge(_FULL) == Allow()

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"spender": _OTHER}, "arbiters"),
            ({"deadline": 499}, "expiryBounds"),
            ({"deadline": 1001}, "expiryBounds"),
            ({"tokens_in": (_TOKEN, _OTHER)}, "tokensIn"),
            ({"chain_id": 1}, "tokensIn"),
            ({"recipient": _OTHER}, "recipients"),
            ({"target_chain": 1}, "recipients"),
            ({"fill_expiry": 899}, "fillExpiryBounds"),
            ({"fill_expiry": 901}, "fillExpiryBounds"),
            ({"tokens_out": (_OUT, _TOKEN)}, "tokensOut"),
        ],
    )
    def test_one_changed_field_is_denied_by_its_name(self, change: dict[str, Any], field: str) -> None:
        verdict = _judge(_FULL, replace(_CLAIM, **change))
        assert isinstance(verdict, Deny)
        assert verdict.reason.startswith(f"{field}: ")

    def test_the_bounds_are_inclusive(self) -> None:
        assert _judge(_FULL, replace(_CLAIM, deadline=500)) == Allow()
        assert _judge(_FULL, replace(_CLAIM, deadline=1000)) == Allow()

    @pytest.mark.parametrize("field", ["recipients", "fillExpiryBounds", "tokensOut"])
    def test_a_target_chain_without_an_entry_is_denied(self, field: str) -> None:
        verdict = _judge({"type": "permit2-claim", field: _FULL[field]}, replace(_CLAIM, target_chain=42161))
        assert isinstance(verdict, Deny)
        assert verdict.reason.startswith(field)

    def test_any_recipient_may_receive_only_on_the_chain_it_is_listed_for(self) -> None:
        policy = {"type": "permit2-claim", "recipients": [{"chainId": "10", "recipient": "any"}]}
        assert _judge(policy, replace(_CLAIM, recipient=_OTHER)) == Allow()
        assert isinstance(_judge(policy, replace(_CLAIM, target_chain=1)), Deny)

    def test_of_two_recipients_of_one_chain_the_contract_keeps_one_so_neither_passes(self) -> None:
        listed = [{"chainId": "10", "recipient": who} for who in (_ACCOUNT, _OTHER)]
        policy = {"type": "permit2-claim", "recipients": listed}
        assert isinstance(_judge(policy), Deny)
        assert isinstance(_judge(policy, replace(_CLAIM, recipient=_OTHER)), Deny)

    def test_recipient_is_sponsor_alone_denies_everybody_else(self) -> None:
        policy = {"type": "permit2-claim", "recipientIsSponsor": True}
        assert _judge(policy) == Allow()
        verdict = _judge(policy, replace(_CLAIM, recipient=_OTHER))
        assert isinstance(verdict, Deny)
        assert "recipientIsSponsor" in verdict.reason

    def test_bounds_are_compared_as_stored_in_128_bits(self) -> None:
        policy = {"type": "permit2-claim", "expiryBounds": {}}
        assert _judge(policy, replace(_CLAIM, deadline=2**128 - 1)) == Allow()
        assert isinstance(_judge(policy, replace(_CLAIM, deadline=2**128)), Deny)
        # a minimum beyond 128 bits is cut by the SDK's encoding: the contract would read 1
        cut = {"type": "permit2-claim", "expiryBounds": {"min": str(2**128 + 1)}}
        assert isinstance(_judge(cut, replace(_CLAIM, deadline=0)), Deny)
        assert _judge(cut, replace(_CLAIM, deadline=1)) == Allow()


class TestTheWhole:
    """Several policies, none, and what cannot be judged."""

    def test_every_policy_must_hold(self) -> None:
        loose = Permit2Claim.model_validate({"type": "permit2-claim"})
        strict = Permit2Claim.model_validate({"type": "permit2-claim", "arbiters": [_OTHER]})
        assert evaluate_claim((loose,), _CLAIM) == Allow()
        assert isinstance(evaluate_claim((loose, strict), _CLAIM), Deny)
        assert isinstance(evaluate_claim((strict, loose), _CLAIM), Deny)

    @pytest.mark.parametrize(
        "change",
        [
            {"deadline": True},
            {"deadline": -1},
            {"fill_expiry": 2**256},
            {"recipient": "0x" + "AA" * 20},
            {"tokens_in": ("",)},
            {"spender": None},
        ],
    )
    def test_a_malformed_message_is_denied_even_without_policies(self, change: dict[str, Any]) -> None:
        assert isinstance(evaluate_claim((), replace(_CLAIM, **change)), Deny)

    def test_an_exception_in_a_policy_is_a_deny(self) -> None:
        class Broken(Permit2Claim):
            def check_claim(self, claim: Claim) -> None:
                raise ZeroDivisionError(claim.account)

        verdict = evaluate_claim((Broken(),), _CLAIM)
        assert verdict == Deny(-1, "permit2-claim", "the policy could not be evaluated (ZeroDivisionError)")

    def test_every_recorded_policy_judges_the_recorded_message(self) -> None:
        """Each policy of the vectors either allows the message it was recorded with or names the field."""
        recorded = load_vectors("claim_policies")
        message = recorded["message"]
        target = message["mandate"]["target"]
        claim = Claim(
            account=_ACCOUNT,
            chain_id=8453,
            spender=message["spender"].lower(),
            deadline=int(message["deadline"]),
            tokens_in=tuple(item["token"].lower() for item in message["permitted"]),
            target_chain=int(target["targetChain"]),
            recipient=target["recipient"].lower(),
            fill_expiry=int(target["fillExpiry"]),
            tokens_out=tuple(item["token"].lower() for item in target["tokenOut"]),
        )
        judged = 0
        for vector in recorded["vectors"]:
            verdict = _judge(vector["claimPolicy"], claim)
            assert "could not be evaluated" not in getattr(verdict, "reason", ""), vector["name"]
            judged += 1
        assert judged == len(recorded["vectors"]) > 0
