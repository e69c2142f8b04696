"""The init data of every policy, against the vectors recorded from SDK 1.15.0."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.support.vectors import load_vectors
from worker.policies import Permit2Claim, Policy
from worker.policies.policy import PolicyModel

_POLICY: TypeAdapter[PolicyModel] = TypeAdapter(Policy)


class TestPolicyVectors:
    """``policy`` and ``initData`` equal what the SDK makes of the same object."""

    def test_all_25_recorded_policies_are_reproduced(self) -> None:
        vectors = load_vectors("policies")["vectors"]
        checked = 0
        for vector in vectors:
            if "error" in vector:
                with pytest.raises(ValidationError, match=vector["error"]):
                    _POLICY.validate_python(vector["policy"])
            else:
                policy = _POLICY.validate_python(vector["policy"])
                dev = vector.get("useDevContracts", False)
                assert policy.contract(dev=dev) == vector["expected"]["policy"].lower(), vector["name"]
                assert "0x" + policy.init_data().hex() == vector["expected"]["initData"], vector["name"]
            checked += 1
        assert checked == 25

    def test_all_10_recorded_claim_policies_are_reproduced(self) -> None:
        vectors = load_vectors("claim_policies")["vectors"]
        for vector in vectors:
            policy = Permit2Claim.model_validate(vector["claimPolicy"])
            assert policy.contract() == vector["expected"]["policy"].lower(), vector["name"]
            assert "0x" + policy.init_data().hex() == vector["expected"]["initData"], vector["name"]
        assert len(vectors) == 10

    def test_a_policy_survives_its_json(self) -> None:
        vectors = [v for v in load_vectors("policies")["vectors"] if "error" not in v]
        for vector in vectors:
            policy = _POLICY.validate_python(vector["policy"])
            text = policy.model_dump_json(by_alias=True, exclude_none=True)
            again = _POLICY.validate_json(text)
            assert again == policy, vector["name"]
            assert again.init_data() == policy.init_data(), vector["name"]

    def test_a_claim_policy_survives_its_json(self) -> None:
        for vector in load_vectors("claim_policies")["vectors"]:
            policy = Permit2Claim.model_validate(vector["claimPolicy"])
            text = policy.model_dump_json(by_alias=True, exclude_none=True)
            assert Permit2Claim.model_validate_json(text) == policy, vector["name"]


_TOKEN = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"


class TestStrictInput:
    """Nothing is coerced: what is not exactly an integer, an address or a known policy is refused."""

    @pytest.mark.parametrize(
        "limit",
        [
            1.0,
            True,
            None,
            "-1",
            "-0",
            -1,
            "+1",
            "01",
            "1e18",
            "1_000",
            " 1",
            "1\n",
            "1.0",
            "",
            "0x10",
            "NaN",
            "\u0661",
            [],
            {},
            str(2**256),
            "9" * 5000,
        ],
    )
    def test_a_limit_that_is_no_exact_integer_is_refused(self, limit: Any) -> None:
        with pytest.raises(ValidationError):
            _POLICY.validate_python({"type": "value-limit", "limit": limit})

    @pytest.mark.parametrize("limit", ["0", "9007199254740993", str(2**256 - 1), 5])
    def test_an_exact_integer_keeps_all_its_digits(self, limit: Any) -> None:
        policy = _POLICY.validate_python({"type": "value-limit", "limit": limit})
        assert policy.init_data() == int(limit).to_bytes(32, "big")

    def test_a_usage_limit_beyond_128_bits_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="does not fit 128 bits"):
            _POLICY.validate_python({"type": "usage-limit", "limit": str(2**128)})

    @pytest.mark.parametrize(
        ("token", "message"),
        [
            ("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914", "checksum"),
            (_TOKEN[:-1], "40 hex digits"),
            (_TOKEN[2:], "40 hex digits"),
            (_TOKEN + "\n", "40 hex digits"),
            (7, "in quotes"),
        ],
    )
    def test_a_malformed_address_is_refused(self, token: Any, message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            _POLICY.validate_python({"type": "spending-limits", "limits": [{"token": token, "amount": "1"}]})

    @pytest.mark.parametrize(
        "token", [_TOKEN, "0x" + _TOKEN[2:].upper(), "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"]
    )
    def test_three_spellings_of_an_address_are_one(self, token: str) -> None:
        policy = _POLICY.validate_python(
            {"type": "spending-limits", "limits": [{"token": token, "amount": "1"}]}
        )
        assert policy.model_dump(mode="json")["limits"][0]["token"] == _TOKEN

    @pytest.mark.parametrize(
        "policy",
        [
            {"type": "gas-limit"},
            {"type": "permit2-claim"},
            {},
            {"type": "sudo", "limit": "1"},
            {"type": "usage-limit"},
            {"type": "time-frame", "validUntil": 1_893_456_000_000},
            {"type": "time-frame", "validUntil": "2030-01-01", "validAfter": 0},
            {"type": "time-frame", "validUntil": 1.5, "validAfter": 0},
            {"type": "time-frame", "validUntil": True, "validAfter": 0},
            {"type": "time-frame", "validUntil": -1, "validAfter": 0},
            {"type": "time-frame", "validUntil": 1_893_456_000_000_000_000, "validAfter": 0},
            {"type": "time-frame", "validUntil": None, "validAfter": 0},
        ],
    )
    def test_unknown_missing_extra_and_mistyped_fields_are_refused(self, policy: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            _POLICY.validate_python(policy)

    def test_a_very_deep_expression_is_refused_before_anything_recurses(self) -> None:
        node: dict[str, Any] = {
            "type": "rule",
            "rule": {"condition": "equal", "calldataOffset": "0", "referenceValue": "0"},
        }
        for _ in range(5000):
            node = {"type": "not", "child": node}
        with pytest.raises(ValidationError, match="nested deeper"):
            _POLICY.validate_python({"type": "arg-policy", "expression": node})
