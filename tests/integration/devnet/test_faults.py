"""Every kind of misbehaviour that can be ordered, as a client sees it, and what the chain says afterwards."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.support.devnet_user import RECIPIENT, User, key_of, transfer_data, usdc_session
from worker.devnet.chain import USDC, Call
from worker.devnet.devnet import Devnet
from worker.devnet.errors import DevnetError
from worker.devnet.lies import LIES, STRANGER

pytestmark = pytest.mark.services

TEN = 10_000_000
HUNDRED = 100_000_000
TRANSFER = transfer_data(RECIPIENT, TEN)
SUBMIT = "/intent-operations"
STATUS = "/intent-operation/"
ROUTE = "/intents/route"


@pytest.fixture
def user(devnet: Devnet) -> User:
    """An account with 1000 USDC and an enabled session of 100 USDC."""
    made = User(devnet, usdc_session(key_of("session key"), HUNDRED))
    made.register()
    made.enable_by_owner()
    return made


def signed_transfer(user: User) -> dict[str, Any]:
    """One signed transfer of 10 USDC."""
    return user.sign(user.quote([(USDC, 0, TRANSFER)]))


class TestConnection:
    """Requests and replies get lost on the way."""

    def test_drop_before_loses_the_request(self, user: User) -> None:
        user.devnet.add_fault("drop_before", method="POST", path=SUBMIT)
        signed = signed_transfer(user)
        with pytest.raises(httpx.TransportError):
            user.submit(signed)
        assert user.status(signed["nonce"]).status_code == 404
        assert user.submit(signed).json()["result"]["status"] == "PENDING"

    @pytest.mark.parametrize("action", ["drop_after_accept", "cut_reply"])
    def test_a_lost_reply_leaves_an_accepted_intent(self, user: User, action: str) -> None:
        user.devnet.add_fault(action, method="POST", path=SUBMIT)
        signed = signed_transfer(user)
        with pytest.raises(httpx.TransportError):
            user.submit(signed)
        assert user.wait(signed["nonce"])["status"] == "COMPLETED"
        assert user.submit(signed).status_code == 404
        assert user.devnet.executed(USDC, TRANSFER) == 1

    def test_a_delayed_request_is_accepted_after_its_client_has_gone(self, user: User) -> None:
        user.devnet.add_fault("delay_ms", method="POST", path=SUBMIT, delay_ms=1_500)
        signed = signed_transfer(user)
        user.http.timeout = httpx.Timeout(0.2)
        with pytest.raises(httpx.ReadTimeout):
            user.submit(signed)
        user.http.timeout = httpx.Timeout(20)
        assert user.status(signed["nonce"]).status_code == 404
        assert user.wait(signed["nonce"])["status"] == "COMPLETED"

    def test_a_delayed_reply_is_of_an_accepted_request(self, user: User) -> None:
        user.devnet.add_fault("delay_reply_ms", method="POST", path=SUBMIT, delay_ms=2_000)
        signed = signed_transfer(user)
        user.http.timeout = httpx.Timeout(0.5)
        with pytest.raises(httpx.ReadTimeout):
            user.submit(signed)
        user.http.timeout = httpx.Timeout(20)
        assert user.wait(signed["nonce"])["status"] == "COMPLETED"


class TestReplies:
    """The service answers something else."""

    def test_respond_without_processing(self, user: User) -> None:
        body = {"errors": [{"message": "slow down"}], "traceId": "t"}
        user.devnet.add_fault("respond", path=SUBMIT, status=429, headers={"Retry-After": "7"}, body=body)
        signed = signed_transfer(user)
        answer = user.submit(signed)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()) == (429, "7", body)
        assert user.status(signed["nonce"]).status_code == 404
        assert user.submit(signed).json()["result"]["status"] == "PENDING"

    def test_respond_after_processing(self, user: User) -> None:
        user.devnet.add_fault("respond", path=SUBMIT, status=504, body="<html>", process=True)
        signed = signed_transfer(user)
        answer = user.submit(signed)
        assert (answer.status_code, answer.text) == (504, "<html>")
        assert user.wait(signed["nonce"])["status"] == "COMPLETED"

    def test_a_fault_hits_the_nth_request_and_so_often(self, user: User) -> None:
        user.devnet.add_fault("respond", path=STATUS, status=503, nth=2, times=2)
        codes = [user.status("1").status_code for _ in range(5)]
        assert codes == [404, 503, 503, 404, 404]
        [fault] = user.devnet.faults()
        assert fault["hits"] == 2

    def test_clearing_ends_a_standing_fault(self, user: User) -> None:
        user.devnet.add_fault("respond", path=STATUS, status=500, times=0)
        assert [user.status("1").status_code for _ in range(3)] == [500] * 3
        user.devnet.clear_faults()
        assert user.status("1").status_code == 404

    def test_every_request_is_logged_without_the_key(self, user: User) -> None:
        user.submit(signed_transfer(user))
        [entry] = user.devnet.requests(SUBMIT)[-1:]
        assert entry["method"] == "POST"
        assert entry["response"]["result"]["status"] == "PENDING"
        assert entry["headers"]["x-api-key"] == "<hidden>"
        assert user.devnet.api_key not in str(user.devnet.requests())

    @pytest.mark.parametrize(
        ("order", "words"),
        [
            ({"action": "explode"}, "action"),
            ({"action": "alter_quote", "lies": ["white"]}, "lies"),
            ({"action": "override_status"}, "word"),
            ({"action": "respond", "status": 99}, "status"),
            ({"action": "delay_ms", "delay": 5}, "delay"),
        ],
    )
    def test_an_order_that_makes_no_sense_is_refused(self, devnet: Devnet, order: Any, words: str) -> None:
        action = order.pop("action")
        with pytest.raises(DevnetError, match=words):
            devnet.add_fault(action, **order)
        assert devnet.faults() == []


class TestFates:
    """Accepted intents that come to nothing, and statuses that are wrong."""

    @pytest.mark.parametrize(
        ("action", "final"), [("fail_execution", "FAILED"), ("expire_execution", "EXPIRED")]
    )
    def test_an_accepted_intent_ends_badly(self, user: User, action: str, final: str) -> None:
        user.devnet.add_fault(action, path=SUBMIT)
        signed = signed_transfer(user)
        assert user.submit(signed).json()["result"]["status"] == "PENDING"
        assert user.wait(signed["nonce"])["status"] == final
        assert user.devnet.executed(USDC, TRANSFER) == 0
        # its counters are free again: all of the limit can be spent
        whole = transfer_data(RECIPIENT, HUNDRED)
        second = user.sign(user.quote([(USDC, 0, whole)]))
        user.submit(second)
        assert user.wait(second["nonce"])["status"] == "COMPLETED"

    def test_a_stalled_intent_stays_pending_beside_one_that_moves(self, user: User) -> None:
        user.devnet.add_fault("stall", path=SUBMIT)
        stalled, other = signed_transfer(user), signed_transfer(user)
        user.submit(stalled)
        user.submit(other)
        assert user.wait(other["nonce"])["status"] == "COMPLETED"
        assert user.status(stalled["nonce"]).json()["status"] == "PENDING"
        assert user.devnet.executed(USDC, TRANSFER) == 1

    def test_a_hidden_intent_is_not_found_for_a_while(self, user: User) -> None:
        user.devnet.add_fault("hide", path=SUBMIT, delay_ms=1_500)
        signed = signed_transfer(user)
        assert user.submit(signed).json()["result"]["status"] == "PENDING"
        assert user.status(signed["nonce"]).status_code == 404
        assert user.wait(signed["nonce"])["status"] == "COMPLETED"

    @pytest.mark.parametrize("word", ["PENDING", "FAILED", "SOMETHING_NEW", ""])
    def test_an_overridden_status_hides_what_happened(self, user: User, word: str) -> None:
        signed = signed_transfer(user)
        user.submit(signed)
        user.wait(signed["nonce"])
        user.devnet.add_fault("override_status", path=STATUS, word=word)
        assert user.status(signed["nonce"]).json()["status"] == word
        assert user.status(signed["nonce"]).json()["status"] == "COMPLETED"
        assert user.devnet.executed(USDC, TRANSFER) == 1

    def test_a_failed_simulation_is_a_result(self, user: User) -> None:
        user.devnet.add_fault("fail_simulation", path=SUBMIT)
        signed = signed_transfer(user)
        answer = user.submit(signed)
        assert (answer.status_code, answer.json()["result"]) == (
            201,
            {"id": signed["nonce"], "status": "FAILED"},
        )
        assert user.submit(signed).status_code == 404
        assert user.devnet.executed(USDC, TRANSFER) == 0

    def test_a_failed_simulation_can_be_an_error(self, user: User) -> None:
        user.devnet.add_fault("simulation_error", path=SUBMIT)
        op = user.quote([(USDC, 0, TRANSFER)])
        answer = user.submit(user.sign(op, key=key_of("stranger")))
        assert answer.status_code == 400
        error = answer.json()["errors"][0]
        assert error["message"] == "Bundle simulation failed"
        assert error["context"]["error"]["simulations"][0]["category"] == "INVALID_SIGNATURE"
        # an error leaves the quote open
        assert user.submit(user.sign(op)).json()["result"]["status"] == "PENDING"

    def test_lost_quotes_and_a_lost_intent_are_404(self, user: User) -> None:
        signed = signed_transfer(user)
        user.devnet.forget_quotes()
        assert user.submit(signed).status_code == 404
        assert user.status(signed["nonce"]).status_code == 404


class TestLyingQuotes:
    """Each lie is sealed by the server; signed blindly, it is executed as signed or refused by the chain's rules."""

    @pytest.mark.parametrize("lie", sorted(LIES))
    def test_each_lie_changes_the_answer_and_keeps_the_seal(self, user: User, lie: str) -> None:
        calls = [(USDC, 0, TRANSFER), (USDC, 0, transfer_data(RECIPIENT, 1))]
        honest = user.http.post(ROUTE, json=user.request(calls)).json()
        user.devnet.add_fault("alter_quote", path=ROUTE, lies=[lie])
        answer = user.http.post(ROUTE, json=user.request(calls))
        assert self.comparable(answer.json(), lie) != self.comparable(honest, lie)
        op = user.exact(answer)["intentOp"]
        # 422 would mean that the seal is broken; an expired quote is gone
        assert user.submit(user.sign(op)).status_code == (404 if lie == "expired" else 201)

    def comparable(self, reply: dict[str, Any], lie: str) -> dict[str, Any]:
        """The reply without what differs between two honest ones."""
        op = reply["intentOp"]
        for name in ("nonce", "targetExecutionNonce", "serverSignature"):
            del op[name]
        if lie not in ("expired", "late_expiry"):
            del op["expires"]
            for element in op["elements"]:
                del element["mandate"]["fillDeadline"]
        else:
            # two honest quotes may be some seconds apart
            left_s = int(op["expires"]) - int(time.time())
            op["expires"] = "past" if left_s < 0 else "soon" if left_s <= 120 else "late"
            op["elements"][0]["mandate"]["fillDeadline"] = ""
        return reply

    def lie(self, user: User, *lies: str) -> str:
        """Submit a blindly signed quote that lies; returns the intent's id."""
        user.devnet.add_fault("alter_quote", path=ROUTE, lies=list(lies))
        signed = signed_transfer(user)
        user.submit(signed)
        return str(signed["nonce"])

    @pytest.mark.parametrize(
        ("lie", "stolen"),
        [("extra_op", 1_000_000), ("extra_pre_claim_op", 1_000_000), ("changed_recipient", TEN)],
    )
    def test_who_signs_blindly_is_robbed(self, user: User, lie: str, stolen: int) -> None:
        assert user.wait(self.lie(user, lie))["status"] == "COMPLETED"
        assert user.devnet.usdc_balance(STRANGER) == stolen

    def test_a_changed_amount_is_executed_as_signed(self, user: User) -> None:
        user.wait(self.lie(user, "changed_amount"))
        assert user.devnet.usdc_balance(RECIPIENT) == TEN + 1
        [*_, execution] = user.devnet.executions(user.account)
        assert execution.calls == (Call(USDC, 0, transfer_data(RECIPIENT, TEN + 1)),)

    @pytest.mark.parametrize(
        ("lie", "words"),
        [
            ("other_sponsor", "no account"),
            ("other_layer", "no arbiter of the devnet"),
            ("second_element", "exactly one element"),
            ("changed_target", "NoPoliciesSet"),
            ("added_value", "spending-limits"),
        ],
    )
    def test_what_the_chain_would_not_do_is_refused(self, user: User, lie: str, words: str) -> None:
        assert words in user.why(self.lie(user, lie))
        assert user.devnet.usdc_balance(RECIPIENT) == 0

    def test_a_message_for_another_chain_is_refused(self, user: User) -> None:
        user.devnet.add_fault("alter_quote", path=ROUTE, lies=["other_chain"])
        op = user.quote([(USDC, 0, TRANSFER)])
        result = user.submit(user.sign(op, chain_id=10)).json()["result"]
        assert result["status"] == "FAILED"
        assert "preClaimSig" in user.why(result["id"])

    def test_an_expired_quote_cannot_be_submitted(self, user: User) -> None:
        user.devnet.add_fault("alter_quote", path=ROUTE, lies=["expired"])
        assert user.submit(signed_transfer(user)).status_code == 404

    def test_any_field_can_be_altered(self, user: User) -> None:
        values = {"/intentOp/elements/0/mandate/qualifier/settlementContext/gasRefund/overhead": "7"}
        user.devnet.add_fault("alter_quote", path=ROUTE, values=values)
        op = user.quote([(USDC, 0, TRANSFER)])
        context = op["elements"][0]["mandate"]["qualifier"]["settlementContext"]
        assert context["gasRefund"]["overhead"] == "7"
        # the gas refund is part of what is signed: a signature over the honest one does not hold
        result = user.submit(user.sign(op, refund_overhead=0)).json()["result"]
        assert result["status"] == "FAILED"

    def test_a_pointer_that_leads_nowhere_is_a_400(self, user: User) -> None:
        user.devnet.add_fault("alter_quote", path=ROUTE, values={"/intentOp/no/where": 1})
        answer = user.http.post(ROUTE, json=user.request([(USDC, 0, TRANSFER)]))
        assert answer.status_code == 400
        assert "leads nowhere" in answer.text

    @pytest.mark.parametrize("value", [None, "x", -1, {}])
    def test_an_op_altered_into_nonsense_is_no_500(self, user: User, value: Any) -> None:
        values = {"/intentOp/elements/0/mandate/destinationOps": value}
        user.devnet.add_fault("alter_quote", path=ROUTE, values=values)
        op = user.exact(user.http.post(ROUTE, json=user.request([(USDC, 0, TRANSFER)])))["intentOp"]
        signed = {
            **op,
            "originSignatures": [{"preClaimSig": "0x", "notarizedClaimSig": "0x"}],
            "destinationSignature": "0x",
        }
        assert user.submit(signed).json()["result"]["status"] == "FAILED"
