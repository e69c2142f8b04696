"""Good intents execute; every kind of tampering is refused before anything happens on the chain."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.devnet_user import (
    RECIPIENT,
    User,
    address_of,
    key_of,
    transfer_data,
    usdc_session,
)
from worker.devnet import exact_json
from worker.devnet.chain import EMISSARY, USDC, set_config_call
from worker.devnet.devnet import Devnet
from worker.devnet.session_table import TIME_FRAME, USAGE_LIMIT

pytestmark = pytest.mark.services

TEN = 10_000_000
HUNDRED = 100_000_000


@pytest.fixture
def user(devnet: Devnet) -> User:
    """An account with 1000 USDC and a session of 100 USDC that is not enabled yet."""
    made = User(devnet, usdc_session(key_of("session key"), HUNDRED))
    made.register()
    return made


@pytest.fixture
def enabled(user: User) -> User:
    """The same with the session enabled by its owner's intent."""
    user.enable_by_owner()
    return user


def refused(answer: Any, words: str, user: User) -> None:
    """The reply says that the simulation failed, the devnet says why, and no token moved."""
    assert answer.status_code == 201, answer.text
    result = answer.json()["result"]
    assert result["status"] == "FAILED"
    assert words in user.why(result["id"])
    assert user.status(result["id"]).json()["status"] == "FAILED"
    assert user.devnet.usdc_balance(RECIPIENT) == 0


def accepted(answer: Any) -> str:
    """The reply is an accepted intent; returns its id."""
    assert answer.status_code == 201, answer.text
    result = answer.json()["result"]
    assert result["status"] == "PENDING"
    return str(result["id"])


class TestGoodIntents:
    """USE, ENABLE and owner-signed intents verify, execute and move balances."""

    def test_an_enabled_session_transfers(self, enabled: User) -> None:
        final = enabled.wait(accepted(enabled.transfer(TEN)))
        assert final["status"] == "COMPLETED"
        receipt = enabled.devnet.rpc.call("eth_getTransactionReceipt", final["fillTransactionHash"])
        assert receipt["status"] == "0x1"
        assert final["claims"][0]["claimTransactionHash"] == final["fillTransactionHash"]
        assert enabled.devnet.usdc_balance(RECIPIENT) == TEN
        assert enabled.devnet.usdc_balance(enabled.account) == 1_000_000_000 - TEN

    def test_the_first_intent_enables_the_session(self, user: User) -> None:
        assert not user.enabled()
        op = user.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))], pre_claim=True)
        accepted(user.submit(user.sign(op, enable=user.enable_tuple())))
        assert user.wait(op["nonce"])["status"] == "COMPLETED"
        assert user.enabled()
        assert user.nonce() == 1
        assert user.devnet.usdc_balance(RECIPIENT) == TEN
        user.wait(accepted(user.transfer(TEN)))
        assert [execution.enabled for execution in user.devnet.executions()] == [True, False]

    def test_an_owner_enables_by_transaction(self, user: User) -> None:
        user.enable_by_owner()
        assert user.enabled()

    def test_the_statuses_come_in_order(self, enabled: User) -> None:
        op_id = enabled.transfer(TEN).json()["result"]["id"]
        enabled.wait(op_id)
        [execution] = [e for e in enabled.devnet.state()["intents"] if e["id"] == op_id]
        assert execution["history"] == ["PENDING", "PRECONFIRMED", "FILLED", "COMPLETED"]

    def test_a_batch_is_atomic(self, enabled: User) -> None:
        balance = enabled.devnet.usdc_balance(enabled.account)
        enabled.devnet.register_account(
            enabled.account, owners=[address_of(enabled.owner_key)], usdc=15_000_000
        )
        calls = [(USDC, 0, transfer_data(RECIPIENT, TEN))] * 2
        refused(enabled.submit(enabled.sign(enabled.quote(calls))), "exceeds balance", enabled)
        assert balance != enabled.devnet.usdc_balance(enabled.account) == 15_000_000

    def test_a_passed_time_frame_is_accepted_as_on_the_real_chain(self, devnet: Devnet) -> None:
        window = (1_700_000_000).to_bytes(16) + bytes(16)
        user = User(devnet, usdc_session(key_of("session key"), HUNDRED, (TIME_FRAME, window)))
        user.register()
        user.enable_by_owner()
        accepted(user.transfer(TEN))

    @pytest.mark.parametrize("kind", ["safe", "startale", "kernel"])
    def test_other_account_kinds_sign_in_their_own_form(self, devnet: Devnet, kind: str) -> None:
        user = User(devnet, usdc_session(key_of("session key"), HUNDRED), kind=kind)
        user.register()
        calls = [(USDC, 0, transfer_data(RECIPIENT, TEN))]
        user.kind = "nexus"
        as_nexus = user.owner_sign(user.quote(calls, mode=1))
        refused(user.submit(as_nexus), "owners did not sign", user)
        user.kind = kind
        user.wait(accepted(user.submit(user.owner_sign(user.quote(calls, mode=1)))))
        assert devnet.usdc_balance(RECIPIENT) == TEN


class TestTamperedSignatures:
    """What was signed by another key, over another message, or in another form is refused."""

    def test_another_key_is_refused(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))])
        refused(enabled.submit(enabled.sign(op, key=key_of("stranger"))), "preClaimSig", enabled)

    @pytest.mark.parametrize(
        "name", ["destinationSignature", "targetExecutionSignature", "preClaimSig", "notarizedClaimSig"]
    )
    def test_each_signature_is_checked_on_its_own(self, enabled: User, name: str) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))])
        signed, forged = enabled.sign(op), enabled.sign(op, key=key_of("stranger"))
        if name in signed:
            signed[name] = forged[name]
        else:
            signed["originSignatures"][0][name] = forged["originSignatures"][0][name]
        refused(enabled.submit(signed), name, enabled)

    def test_the_target_signature_is_over_the_target_nonce(self, enabled: User) -> None:
        signed = enabled.sign(enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))]))
        signed["targetExecutionSignature"] = signed["destinationSignature"]
        refused(enabled.submit(signed), "targetExecutionSignature", enabled)

    def test_a_missing_signature_is_refused(self, enabled: User) -> None:
        signed = enabled.sign(enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))]))
        del signed["targetExecutionSignature"]
        refused(enabled.submit(signed), "targetExecutionSignature", enabled)

    def test_signatures_of_another_quote_are_refused(self, enabled: User) -> None:
        calls = [(USDC, 0, transfer_data(RECIPIENT, TEN))]
        first, second = enabled.quote(calls), enabled.quote(calls)
        names = ("originSignatures", "destinationSignature", "targetExecutionSignature")
        signed = enabled.sign(first)
        refused(enabled.submit({**second, **{name: signed[name] for name in names}}), "preClaimSig", enabled)

    def test_a_stranger_cannot_sign_as_owner(self, user: User) -> None:
        op = user.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))], mode=1)
        refused(user.submit(user.owner_sign(op, key=key_of("stranger"))), "owners did not sign", user)

    def test_a_session_that_is_not_enabled_is_refused(self, user: User) -> None:
        refused(user.transfer(TEN), "not enabled on chain", user)

    def test_a_restricted_session_may_not_sign_erc1271_intents(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))], mode=1)
        signature = enabled.sign(op)["originSignatures"][0]["notarizedClaimSig"]
        signed = {**op, "originSignatures": [signature], "destinationSignature": signature}
        refused(enabled.submit(signed), "may not sign ERC-1271", enabled)


class TestTamperedEnable:
    """The emissary on the chain checks the owner's approval."""

    def submit(self, user: User, enable: tuple[Any, ...]) -> Any:
        op = user.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))], pre_claim=True)
        return user.submit(user.sign(op, enable=enable))

    def test_a_wrong_nonce_is_a_hash_mismatch(self, user: User) -> None:
        refused(self.submit(user, user.enable_tuple(nonce=1)), "HashMismatch", user)

    def test_another_chain_is_refused(self, user: User) -> None:
        refused(self.submit(user, user.enable_tuple(chain_id=10)), "ChainIdMismatch", user)

    def test_another_owner_is_refused(self, user: User) -> None:
        refused(self.submit(user, user.enable_tuple(key=key_of("stranger"))), "InvalidUserSignature", user)

    def test_an_expired_approval_is_refused(self, user: User) -> None:
        refused(
            self.submit(user, user.enable_tuple(expires=1_700_000_000)), "InvalidEmissaryEnableData", user
        )

    def test_a_raised_limit_is_refused(self, user: User) -> None:
        approved = user.enable_tuple()
        raised = usdc_session(key_of("session key"), HUNDRED * 10)
        user.session = raised
        refused(self.submit(user, (*approved[:3], (0, approved[3][1], raised))), "HashMismatch", user)

    def test_the_same_approval_works_once(self, user: User) -> None:
        approval = user.enable_tuple()
        first = self.submit(user, approval)
        user.wait(accepted(first))
        second = self.submit(user, approval).json()["result"]
        assert second["status"] == "FAILED"
        assert user.why(second["id"]) == "HashMismatch"


class TestPolicies:
    """The devnet enforces the session's policies with counters of its own."""

    def test_the_limit_is_reached_exactly_and_never_passed(self, enabled: User) -> None:
        for _ in range(10):
            enabled.wait(accepted(enabled.transfer(TEN)))
        eleventh = enabled.transfer(1).json()["result"]
        assert eleventh["status"] == "FAILED"
        assert "spending-limits" in enabled.why(eleventh["id"])
        assert enabled.devnet.usdc_balance(RECIPIENT) == HUNDRED

    def test_two_accepted_intents_over_the_limit_execute_once(self, enabled: User) -> None:
        enabled.devnet.set_delays(preconfirm_ms=300, fill_ms=500, complete_ms=600)
        ids = [enabled.transfer(60_000_000).json()["result"]["id"] for _ in range(2)]
        assert sorted(enabled.wait(op_id)["status"] for op_id in ids) == ["COMPLETED", "FAILED"]
        assert enabled.devnet.usdc_balance(RECIPIENT) == 60_000_000

    def test_usage_is_counted_per_call(self, devnet: Devnet) -> None:
        user = User(devnet, usdc_session(key_of("session key"), HUNDRED, (USAGE_LIMIT, (1).to_bytes(16))))
        user.register()
        user.enable_by_owner()
        calls = [(USDC, 0, transfer_data(RECIPIENT, 1))] * 2
        refused(user.submit(user.sign(user.quote(calls))), "usage-limit", user)

    def test_another_contract_is_refused(self, enabled: User) -> None:
        op = enabled.quote([(RECIPIENT, 0, transfer_data(RECIPIENT, 1))])
        refused(enabled.submit(enabled.sign(op)), "NoPoliciesSet", enabled)

    def test_another_function_is_refused(self, enabled: User) -> None:
        data = bytes.fromhex("095ea7b3") + transfer_data(RECIPIENT, 1)[4:]
        refused(enabled.submit(enabled.sign(enabled.quote([(USDC, 0, data)]))), "NoPoliciesSet", enabled)

    def test_a_session_may_not_enable_sessions(self, enabled: User) -> None:
        data = set_config_call(enabled.account, enabled.config, enabled.enable_tuple())
        refused(enabled.submit(enabled.sign(enabled.quote([(EMISSARY, 0, data)]))), "InvalidTarget", enabled)

    def test_native_value_is_refused(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 1, transfer_data(RECIPIENT, 1))])
        refused(enabled.submit(enabled.sign(op)), "spending-limits", enabled)


class TestSealAndReplay:
    """A quote goes back unchanged, once, in time."""

    def alterations(self) -> list[tuple[str, Any]]:
        return [("expires", "1"), ("devnetExtra", 1), ("nonce", "5"), ("signedMetadata", {})]

    def test_a_changed_op_breaks_the_seal(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))])
        changed = copy.deepcopy(op)
        changed["elements"][0]["mandate"]["destinationOps"]["ops"][0]["data"] = (
            "0x" + transfer_data(RECIPIENT, TEN + 1).hex()
        )
        for altered in (changed, *({**op, name: value} for name, value in self.alterations())):
            answer = enabled.submit(enabled.sign(altered))
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["message"] == "Invalid bundle signature"
        assert enabled.devnet.usdc_balance(RECIPIENT) == 0

    def test_a_dropped_unknown_field_breaks_the_seal(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))])
        del op["elements"][0]["mandate"]["qualifier"]["settlementContext"]["devnetNote"]
        assert enabled.submit(enabled.sign(op)).status_code == 422

    def test_reordered_keys_break_the_seal(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))])
        assert enabled.submit(enabled.sign(dict(reversed(list(op.items()))))).status_code == 422

    def test_rewritten_numbers_break_the_seal(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))])
        # what a client does that reads JSON numbers as floats: 1e-7 becomes 1e-07
        text = json.dumps({"signedIntentOp": enabled.sign(json.loads(exact_json.dumps(op)))})
        assert enabled.submit_text(text).status_code == 422
        # and white space is nobody's business
        loose = exact_json.dumps({"signedIntentOp": enabled.sign(op)}).replace(",", " , ")
        accepted(enabled.submit_text(loose))

    def test_a_quote_is_submitted_once(self, enabled: User) -> None:
        signed = enabled.sign(enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))]))
        accepted(enabled.submit(signed))
        enabled.wait(signed["nonce"])
        again = enabled.submit(signed)
        assert again.status_code == 404
        assert again.json()["errors"][0]["message"] == "Order bundle not found"
        assert enabled.devnet.usdc_balance(RECIPIENT) == TEN

    def test_a_quote_that_is_submitted_at_the_same_time_executes_once(self, enabled: User) -> None:
        signed = enabled.sign(enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))]))
        with ThreadPoolExecutor(4) as pool:
            codes = sorted(answer.status_code for answer in pool.map(enabled.submit, [signed] * 4))
        assert codes == [201, 404, 404, 404]
        enabled.wait(signed["nonce"])
        assert enabled.devnet.executed(USDC, transfer_data(RECIPIENT, TEN)) == 1
        [execution] = [e for e in enabled.devnet.executions() if e.intent_id == signed["nonce"]]
        assert execution.account == enabled.account
        assert execution.calls == ((USDC, 0, transfer_data(RECIPIENT, TEN)),)

    def test_a_refused_intent_uses_its_quote_up(self, enabled: User) -> None:
        op = enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))])
        refused(enabled.submit(enabled.sign(op, key=key_of("stranger"))), "preClaimSig", enabled)
        assert enabled.submit(enabled.sign(op)).status_code == 404

    def test_a_quote_expires(self, enabled: User) -> None:
        enabled.devnet.set_delays(quote_life_s=0)
        assert enabled.transfer(TEN).status_code == 404

    def test_a_lost_quote_store_is_a_404(self, enabled: User) -> None:
        signed = enabled.sign(enabled.quote([(USDC, 0, transfer_data(RECIPIENT, TEN))]))
        enabled.devnet.forget_quotes()
        assert enabled.submit(signed).status_code == 404

    def test_an_intent_that_is_not_filled_in_time_expires(self, enabled: User) -> None:
        enabled.devnet.set_delays(quote_life_s=4, preconfirm_ms=100, fill_ms=6_500, complete_ms=7_000)
        op_id = enabled.transfer(TEN).json()["result"]["id"]
        assert enabled.wait(op_id)["status"] == "EXPIRED"
        assert enabled.devnet.usdc_balance(RECIPIENT) == 0

    def test_the_executor_refuses_a_used_nonce_on_chain(self, enabled: User) -> None:
        from worker.devnet.chain import INTENT_EXECUTOR, Call, Chain, execute_call, revert_reason
        from worker.devnet.errors import RpcError

        op_id = enabled.transfer(TEN).json()["result"]["id"]
        enabled.wait(op_id)
        data = execute_call(enabled.account, int(op_id), b"", [Call(USDC, 0, transfer_data(RECIPIENT, TEN))])
        with pytest.raises(RpcError) as caught:
            Chain(enabled.devnet.rpc).read(INTENT_EXECUTOR, data)
        assert revert_reason(caught.value) == "NonceUsed"
