"""Permit2 claims as the devnet reads them, against what the SDK was recorded to sign and to pack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from worker.devnet.claims import PERMIT2_CLAIM, Permit2Claim, check_policies, read_claim
from worker.devnet.verify import InvalidSignatureError, check_validator, erc1271_hash, recover, unpack_claim

STRANGER = "0x" + "51" * 20


def unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def claim_of(message: dict[str, Any], chain_id: int = 8453) -> Permit2Claim:
    """The recorded message of the claim policies."""
    mandate, target = message["mandate"], message["mandate"]["target"]

    def tokens(listed: list[dict[str, str]]) -> tuple[tuple[str, int], ...]:
        return tuple((item["token"].lower(), int(item["amount"])) for item in listed)

    def ops(value: dict[str, Any]) -> tuple[bytes, tuple[tuple[str, int, bytes], ...]]:
        return unhex(value["vt"]), tuple(
            (op["to"].lower(), int(op["value"]), unhex(op["data"])) for op in value["ops"]
        )

    return Permit2Claim(
        chain_id=chain_id,
        permitted=tokens(message["permitted"]),
        spender=message["spender"].lower(),
        nonce=int(message["nonce"]),
        deadline=int(message["deadline"]),
        recipient=target["recipient"].lower(),
        token_out=tokens(target["tokenOut"]),
        target_chain=int(target["targetChain"]),
        fill_expiry=int(target["fillExpiry"]),
        min_gas=int(mandate["minGas"]),
        origin_ops=ops(mandate["originOps"]),
        dest_ops=ops(mandate["destOps"]),
        q=unhex(mandate["q"]),
    )


class TestMessages:
    """An element is the message that the SDK signs for it."""

    @pytest.mark.parametrize("name", ["across-permit2-two-elements", "same-chain-permit2"])
    def test_the_digests_are_the_recorded_ones(self, vectors: Any, name: str) -> None:
        [vector] = [item for item in vectors("typed_data")["vectors"] if item["name"] == name]
        op = vector["intentOp"]
        found = [
            read_claim(element, int(op["nonce"]), int(op["expires"])).digest() for element in op["elements"]
        ]
        assert found == [unhex(origin["digest"]) for origin in vector["expected"]["origin"]]

    def test_the_claims_of_a_recorded_trade_are_signed_by_the_session(self, vectors: Any) -> None:
        flow = vectors("flow_c_cross_chain_permit2")
        op = flow["expected"]["http"][1]["request"]["body"]["signedIntentOp"]
        key, account = flow["keys"]["session"]["address"].lower(), op["sponsor"].lower()
        for element, origin in zip(op["elements"], op["originSignatures"], strict=True):
            claim = read_claim(element, int(op["nonce"]), int(op["expires"]))
            _, signatures, data = unpack_claim(unhex(origin["notarizedClaimSig"]), "nexus")
            assert recover(erc1271_hash(claim.digest(), account, "nexus"), signatures) == key
            assert data
            with pytest.raises(InvalidSignatureError, match="no contract at session validator"):
                check_validator(STRANGER, b"", claim.digest(), signatures)


class TestPolicies:
    """Init data is read as the SDK writes it, and each field denies what it is there for."""

    def test_the_data_of_every_recorded_policy_is_what_it_reads(self, vectors: Any) -> None:
        file = vectors("claim_policies")
        claim = claim_of(file["message"])
        for item in file["vectors"]:
            policies = [(PERMIT2_CLAIM, unhex(item["expected"]["initData"]))]
            data = unhex(item["expected"]["calldata"])
            # the message is one for all policies; this one's fill would have to be done in 1970
            allowed = replace(claim, fill_expiry=2) if item["name"] == "fill-expiry" else claim
            if allowed == claim:
                check_policies(policies, claim, claim.recipient, data)
            with pytest.raises(InvalidSignatureError, match="is not that of the message"):
                check_policies(policies, allowed, claim.recipient, data + b"\0")

    @pytest.mark.parametrize(
        ("field", "changes"),
        [
            ("arbiters", {"spender": STRANGER}),
            ("expiryBounds", {"deadline": 2**64}),
            ("tokensIn", {"permitted": ((STRANGER, 1),)}),
            ("tokensIn", {"chain_id": 10}),
            ("recipients", {"recipient": STRANGER}),
            ("fillExpiryBounds", {"fill_expiry": 4}),
            ("tokensOut", {"token_out": ((STRANGER, 1),)}),
            ("recipientIsSponsor", {}),
        ],
    )
    def test_one_field_denies_what_it_does_not_list(
        self, vectors: Any, field: str, changes: dict[str, Any]
    ) -> None:
        file = vectors("claim_policies")
        [item] = [item for item in file["vectors"] if item["name"] == "everything"]
        claim = claim_of(file["message"])
        policies = [(PERMIT2_CLAIM, unhex(item["expected"]["initData"]))]
        check_policies(policies, claim, claim.recipient, unhex(item["expected"]["calldata"]))
        account = claim.recipient if changes else STRANGER
        with pytest.raises(InvalidSignatureError, match=f"denies the claim: {field}$"):
            check_policies(policies, replace(claim, **changes), account, b"")

    def test_without_a_policy_there_is_no_data(self, vectors: Any) -> None:
        claim = claim_of(vectors("claim_policies")["message"])
        check_policies([], claim, claim.recipient, b"")
        with pytest.raises(InvalidSignatureError, match="is not that of the message"):
            check_policies([], claim, claim.recipient, b"\0")
        with pytest.raises(InvalidSignatureError, match="no contract at claim policy"):
            check_policies([(STRANGER, b"")], claim, claim.recipient, b"")
        with pytest.raises(InvalidSignatureError, match="does not decode"):
            check_policies([(PERMIT2_CLAIM, bytes.fromhex("00000001"))], claim, claim.recipient, b"")
