"""Payloads from an intentOp: own constants, the selection rule, and a table of malformed replies."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.signing import ACCOUNT, own_intent_op
from worker.policies import Permit2Claim
from worker.signing.claim_policy import claim_policy_data
from worker.signing.errors import SigningInputError
from worker.signing.intent_op import payloads
from worker.signing.messages import Permit2Message, SingleChainOps, TokenAmount
from worker.signing.structs import GasRefund

PERMIT2 = own_intent_op()
EXECUTOR = own_intent_op("INTENT_EXECUTOR", "NO_FUNDING")
TOKEN = "0x" + "70" * 20


class TestSelection:
    """Which typed data is built, for which chain."""

    def test_permit2_same_chain(self) -> None:
        result = payloads(PERMIT2, ACCOUNT)
        (origin,) = result.origins
        assert (origin.kind, origin.chain_id, origin.element) == ("permit2", 8453, 0)
        assert result.destination is origin
        assert isinstance(origin.message, Permit2Message)
        assert origin.message.permitted == (TokenAmount(TOKEN, 2500000),)
        assert result.target is not None
        assert result.target.kind == "single-chain-ops"
        assert isinstance(result.target.message, SingleChainOps)
        assert result.target.message.nonce == 8
        assert result.target.message.gas_refund == GasRefund("0x" + "00" * 20, 0, 0)

    def test_intent_executor(self) -> None:
        result = payloads(EXECUTOR, ACCOUNT)
        (origin,) = result.origins
        assert isinstance(origin.message, SingleChainOps)
        assert (origin.message.nonce, origin.message.account) == (7, ACCOUNT)
        assert origin.message.gas_refund == GasRefund(TOKEN, 5, 6)
        assert result.target is not None
        assert isinstance(result.target.message, SingleChainOps)
        assert result.target.message.gas_refund == GasRefund(TOKEN, 5, 6)

    def test_digests(self) -> None:
        permit2, executor = payloads(PERMIT2, ACCOUNT), payloads(EXECUTOR, ACCOUNT)
        assert permit2.target is not None
        assert executor.target is not None
        assert (
            permit2.origins[0].digest.hex()
            == "3735db40cb6c7704ad8e589e94636cb3f8b749693f3fc2013b903fb77ec41bf9"
        )
        assert (
            permit2.target.digest.hex() == "81ce095b3a27513fbd3d195ae4541cd7b50bd8dd14885feaa0c2ca70bbe2f6bb"
        )
        assert (
            executor.origins[0].digest.hex()
            == "120efeefc372556dc378201cf4e6eff745af0556b7c8991854644401388cc201"
        )
        assert (
            executor.target.digest.hex() == "373fc179a5adbd12370f7f3d87f162fc70100bebd24a1b9ac8ea8cf51bef9669"
        )

    def test_another_layer_needs_no_target(self) -> None:
        op = own_intent_op("ACROSS")
        del op["targetExecutionNonce"]
        assert payloads(op, ACCOUNT).target is None

    def test_target_can_be_left_out(self) -> None:
        op = own_intent_op()
        del op["targetExecutionNonce"]
        assert payloads(op, ACCOUNT, with_target=False).target is None
        with pytest.raises(SigningInputError, match="targetExecutionNonce: is missing"):
            payloads(op, ACCOUNT)

    def test_executor_chain_is_the_destination(self) -> None:
        op = deepcopy(EXECUTOR)
        op["elements"][0]["mandate"]["destinationChainId"] = 10
        assert payloads(op, ACCOUNT).origins[0].chain_id == 10
        op = deepcopy(PERMIT2)
        op["elements"][0]["mandate"]["destinationChainId"] = 10
        assert payloads(op, ACCOUNT).origins[0].chain_id == 8453

    def test_one_executor_element_decides_for_all(self) -> None:
        op = deepcopy(PERMIT2)
        op["elements"][0]["mandate"]["qualifier"]["settlementContext"]["gasRefund"] = {
            "token": TOKEN,
            "exchangeRate": 1,
            "overhead": 2,
        }
        op["elements"].append(deepcopy(EXECUTOR["elements"][0]))
        assert [item.kind for item in payloads(op, ACCOUNT).origins] == ["single-chain-ops"] * 2

    def test_compact_is_refused_with_advice(self) -> None:
        with pytest.raises(SigningInputError, match=r"Compact.*other settlement layers"):
            payloads(own_intent_op("SAME_CHAIN", "NO_FUNDING"), ACCOUNT)

    def test_high_bits_of_a_token_id_are_dropped(self) -> None:
        op = deepcopy(PERMIT2)
        op["elements"][0]["idsAndAmounts"][0][0] = str((1 << 255) | int(TOKEN, 16))
        assert payloads(op, ACCOUNT).origins == payloads(PERMIT2, ACCOUNT).origins


MANDATE = ("elements", 0, "mandate")
CONTEXT = (*MANDATE, "qualifier", "settlementContext")
CHECKSUMMED = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
WRONG_CHECKSUM = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913".replace("fCD6", "fcD6")
GONE = object()


def changed(base: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    op = deepcopy(base)
    parent: Any = op
    for step in path[:-1]:
        parent = parent[step]
    if value is GONE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return op


def name_of(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


class TestMalformed:
    """Each is a SigningInputError whose field is the path in the intentOp."""

    @pytest.mark.parametrize(
        "path",
        [
            ("nonce",),
            ("expires",),
            ("elements",),
            ("elements", 0, "arbiter"),
            ("elements", 0, "chainId"),
            ("elements", 0, "idsAndAmounts"),
            MANDATE,
            *(
                (*MANDATE, name)
                for name in (
                    "recipient",
                    "tokenOut",
                    "destinationChainId",
                    "fillDeadline",
                    "destinationOps",
                    "preClaimOps",
                    "minGas",
                    "qualifier",
                )
            ),
            (*MANDATE, "destinationOps", "vt"),
            (*MANDATE, "destinationOps", "ops"),
            (*MANDATE, "destinationOps", "ops", 0, "to"),
            (*MANDATE, "preClaimOps", "ops", 0, "value"),
            (*MANDATE, "preClaimOps", "ops", 0, "data"),
            (*MANDATE, "qualifier", "encodedVal"),
            CONTEXT,
            (*CONTEXT, "settlementLayer"),
            (*CONTEXT, "fundingMethod"),
        ],
        ids=name_of,
    )
    @pytest.mark.parametrize(
        "value", [GONE, None, True, 1.5, object()], ids=["gone", "null", "true", "float", "object"]
    )
    def test_permit2_field(self, path: tuple[str | int, ...], value: object) -> None:
        with pytest.raises(SigningInputError) as caught:
            payloads(changed(PERMIT2, path, value), ACCOUNT)
        assert caught.value.field == name_of(path)

    @pytest.mark.parametrize("name", ["token", "exchangeRate", "overhead"])
    def test_gas_refund_field(self, name: str) -> None:
        path = (*CONTEXT, "gasRefund", name)
        for value in (GONE, None, -1, "x", 1.0):
            with pytest.raises(SigningInputError) as caught:
                payloads(changed(EXECUTOR, path, value), ACCOUNT)
            assert caught.value.field == name_of(path)

    def test_executor_without_gas_refund(self) -> None:
        for value in (GONE, None):
            with pytest.raises(SigningInputError, match="gasRefund: is missing"):
                payloads(changed(EXECUTOR, (*CONTEXT, "gasRefund"), value), ACCOUNT)

    @pytest.mark.parametrize(
        "number",
        [
            "",
            " 1",
            "1 ",
            "+1",
            "-1",
            "01",
            "0x1",
            "1e3",
            "1.0",
            "1_0",
            "\u0661",
            "9" * 78,
            "9" * 5000,
            2**256,
            -1,
            Decimal(1),
        ],
    )
    def test_number(self, number: object) -> None:
        for path in (
            ("nonce",),
            ("elements", 0, "chainId"),
            ("elements", 0, "idsAndAmounts", 0, 0),
            ("elements", 0, "idsAndAmounts", 0, 1),
            (*MANDATE, "tokenOut", 0, 1),
            (*MANDATE, "destinationOps", "ops", 0, "value"),
        ):
            with pytest.raises(SigningInputError) as caught:
                payloads(changed(PERMIT2, path, number), ACCOUNT)
            assert caught.value.field == name_of(path)

    def test_min_gas_has_128_bits(self) -> None:
        payloads(changed(PERMIT2, (*MANDATE, "minGas"), 2**128 - 1), ACCOUNT)
        with pytest.raises(SigningInputError, match="uint128"):
            payloads(changed(PERMIT2, (*MANDATE, "minGas"), 2**128), ACCOUNT)

    @pytest.mark.parametrize("pair", [[], ["1"], ["1", "2", "3"], "12", {"0": "1", "1": "2"}, None])
    def test_pair(self, pair: object) -> None:
        with pytest.raises(SigningInputError) as caught:
            payloads(changed(PERMIT2, ("elements", 0, "idsAndAmounts", 0), pair), ACCOUNT)
        assert caught.value.field == "elements[0].idsAndAmounts[0]"

    @pytest.mark.parametrize(
        "address", ["", "0x", TOKEN[:-1], TOKEN + "0", TOKEN[2:], WRONG_CHECKSUM, TOKEN + "\n"]
    )
    def test_address(self, address: str) -> None:
        for path in (
            (*MANDATE, "recipient"),
            ("elements", 0, "arbiter"),
            (*MANDATE, "preClaimOps", "ops", 0, "to"),
        ):
            with pytest.raises(SigningInputError) as caught:
                payloads(changed(PERMIT2, path, address), ACCOUNT)
            assert caught.value.field == name_of(path)

    def test_checksummed_address_is_lower_cased(self) -> None:
        (origin,) = payloads(changed(PERMIT2, (*MANDATE, "recipient"), CHECKSUMMED), ACCOUNT).origins
        assert isinstance(origin.message, Permit2Message)
        assert origin.message.mandate.target.recipient == CHECKSUMMED.lower()

    @pytest.mark.parametrize("data", ["", "00", "0x0", "0xzz", "0X00", "0x00 ", b"\0"])
    def test_bytes(self, data: object) -> None:
        for path in ((*MANDATE, "destinationOps", "ops", 0, "data"), (*MANDATE, "qualifier", "encodedVal")):
            with pytest.raises(SigningInputError) as caught:
                payloads(changed(PERMIT2, path, data), ACCOUNT)
            assert caught.value.field == name_of(path)

    def test_vt_has_32_bytes(self) -> None:
        with pytest.raises(SigningInputError, match="32 bytes, not 31"):
            payloads(changed(PERMIT2, (*MANDATE, "destinationOps", "vt"), "0x" + "00" * 31), ACCOUNT)

    def test_no_elements(self) -> None:
        with pytest.raises(SigningInputError, match="nothing to sign"):
            payloads({**PERMIT2, "elements": []}, ACCOUNT)

    @pytest.mark.parametrize("op", [None, [], "{}", 1])
    def test_no_object(self, op: Any) -> None:
        with pytest.raises(SigningInputError, match="intentOp"):
            payloads(op, ACCOUNT)

    @pytest.mark.parametrize("account", ["", ACCOUNT.upper(), "0x" + "AA" * 20, None, b"\xaa" * 20])
    def test_account(self, account: Any) -> None:
        with pytest.raises(SigningInputError, match="account"):
            payloads(PERMIT2, account)

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_any_json_anywhere(self, data: st.DataObject) -> None:
        """Whatever replaces whatever part: a payload, or a SigningInputError; never another exception."""
        base = data.draw(st.sampled_from([PERMIT2, EXECUTOR]))
        path: list[Any] = []
        node: Any = base
        while True:
            steps = list(node) if isinstance(node, dict) else list(range(len(node)))  # pyright: ignore[reportUnknownArgumentType]
            if not steps:
                return
            path.append(cast("Any", data.draw(st.sampled_from(steps))))  # pyright: ignore[reportUnknownArgumentType]
            node = node[path[-1]]
            if not isinstance(node, dict | list) or data.draw(st.booleans()):
                break
        junk = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("0x"),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
            ),
            max_leaves=4,
        )
        try:
            payloads(changed(base, tuple(path), data.draw(junk)), ACCOUNT)
        except SigningInputError:
            return


class TestClaimPolicyData:
    """What the data shows and what it hashes."""

    message = cast("Permit2Message", payloads(PERMIT2, ACCOUNT).origins[0].message)

    def test_hashed_unless_the_policy_reads_it(self) -> None:
        assert len(claim_policy_data(self.message, Permit2Claim())) == 20 + 32 + 32 + 32 + 32

    @pytest.mark.parametrize(
        ("policy", "permitted", "mandate"),
        [
            ({"tokensIn": [{"chainId": 8453, "token": TOKEN}]}, 1 + 64, 32),
            ({"recipients": [{"chainId": 8453, "recipient": "any"}]}, 32, 20 + 64 + 32 + 16 + 96),
            ({"fillExpiryBounds": [{"chainId": 8453}]}, 32, 20 + 64 + 32 + 16 + 96),
            ({"tokensOut": [{"chainId": 8453, "token": TOKEN}]}, 32, 20 + 64 + 1 + 64 + 16 + 96),
            ({"recipientIsSponsor": True}, 32, 20 + 64 + 32 + 16 + 96),
        ],
    )
    def test_each_field_opens_its_part(self, policy: dict[str, Any], permitted: int, mandate: int) -> None:
        data = claim_policy_data(self.message, Permit2Claim.model_validate(policy))
        assert len(data) == 20 + 32 + 32 + permitted + mandate

    def test_too_many_tokens_for_the_count_byte(self) -> None:
        policy = Permit2Claim.model_validate({"tokensIn": [{"chainId": 8453, "token": TOKEN}]})
        tokens = (TokenAmount(TOKEN, 1),) * 255
        claim_policy_data(replace(self.message, permitted=tokens), policy)
        with pytest.raises(SigningInputError, match="count is one byte"):
            claim_policy_data(replace(self.message, permitted=(*tokens, tokens[0])), policy)
