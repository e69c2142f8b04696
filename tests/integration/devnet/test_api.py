"""The alps API: who may call it, what it refuses, and what its quotes look like."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import httpx
import pytest

from tests.support.devnet_user import RECIPIENT, User, flz, key_of, transfer_data, usdc_session
from tests.support.vectors import load_vectors
from worker.devnet.chain import EMISSARY, USDC
from worker.devnet.devnet import Devnet, start_devnet
from worker.devnet.errors import DevnetError

pytestmark = pytest.mark.services

TEN = 10_000_000
HUNDRED = 100_000_000
CALLS = [(USDC, 0, transfer_data(RECIPIENT, TEN))]


@pytest.fixture
def user(devnet: Devnet) -> User:
    """An account with 1000 USDC and a session of 100 USDC that is not enabled yet."""
    made = User(devnet, usdc_session(key_of("session key"), HUNDRED))
    made.register()
    return made


def error_of(answer: httpx.Response) -> str:
    """The first message of the alps envelope."""
    body = answer.json()
    assert body["traceId"] == answer.headers["x-trace-id"]
    return str(body["errors"][0]["message"])


class TestHeaders:
    """Key and version."""

    def get(
        self, devnet: Devnet, headers: dict[str, str], path: str = "/intent-operation/1"
    ) -> httpx.Response:
        return httpx.get(devnet.orchestrator_url + path, headers=headers, trust_env=False)

    def test_a_key_is_needed(self, devnet: Devnet) -> None:
        answer = self.get(devnet, {})
        assert (answer.status_code, error_of(answer)) == (401, "Authentication is required")

    def test_the_key_is_checked(self, devnet: Devnet) -> None:
        answer = self.get(devnet, {"x-api-key": devnet.api_key + "x"})
        assert (answer.status_code, error_of(answer)) == (401, "Invalid API key")

    def test_the_version_may_be_absent_but_not_another(self, devnet: Devnet) -> None:
        assert self.get(devnet, {"x-api-key": devnet.api_key}).status_code == 404
        headers = {"x-api-key": devnet.api_key, "x-api-version": "2026-04.blanc"}
        assert self.get(devnet, headers).status_code == 400

    def test_chains_need_no_key(self, devnet: Devnet) -> None:
        answer = self.get(devnet, {}, "/chains")
        tokens = answer.json()["8453"]["supportedTokens"]
        assert {token["symbol"] for token in tokens} == {"ETH", "USDC", "WETH"}

    def test_an_unknown_path_is_a_404_in_the_envelope(self, devnet: Devnet) -> None:
        answer = self.get(devnet, {"x-api-key": devnet.api_key}, "/nowhere")
        assert (answer.status_code, error_of(answer)) == (404, "Not Found")

    def test_the_portfolio_is_read_from_the_chain(self, user: User) -> None:
        rows = user.http.get(f"/accounts/{user.account}/portfolio").json()["portfolio"]
        assert {row["tokenName"]: row["balance"]["unlocked"] for row in rows} == {
            "USDC": "1000000000",
            "ETH": str(10**18),
        }


def shape(value: Any) -> Any:
    """The structure of a JSON value: keys, and the types at the leaves."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return type(value).__name__


class TestQuotes:
    """What a route request is answered with."""

    @pytest.mark.parametrize("name", ["flow_a_enabled_same_chain", "flow_b_enable_and_use"])
    def test_a_quote_has_the_recorded_shape(self, user: User, name: str) -> None:
        flow = load_vectors(name)
        wanted = flow["expected"]["http"][0]["response"]["body"]
        answer = user.http.post("/intents/route", json=user.request(CALLS, pre_claim="flow_b" in name)).json()
        # beyond the recorded fields the devnet sends unknown ones, and lists that depend on the request
        assert answer.pop("devnetNote")
        context = answer["intentOp"]["elements"][0]["mandate"]["qualifier"]["settlementContext"]
        assert context.pop("devnetNote")
        for reply in (answer, wanted):
            for key in ("tokenPrices", "gasPrices"):
                reply["intentOp"]["signedMetadata"][key] = {}
            reply["intentOp"]["signedMetadata"]["account"]["setupOps"] = []
        assert shape(answer) == shape(wanted)
        assert answer["intentOp"]["elements"][0]["arbiter"] == wanted["intentOp"]["elements"][0]["arbiter"]

    def test_a_recorded_request_is_understood(self, devnet: Devnet) -> None:
        body = load_vectors("flow_b_enable_and_use")["expected"]["http"][0]["request"]["bodyText"]
        body = body.replace("84532", "8453")
        user = User(devnet, usdc_session(key_of("session key"), HUNDRED))
        user.account = load_vectors("flow_b_enable_and_use")["account"]["address"]
        user.register()
        answer = user.http.post("/intents/route", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        op = answer.json()["intentOp"]
        assert len(op["signedMetadata"]["account"]["setupOps"]) == 1
        assert len(op["elements"][0]["mandate"]["preClaimOps"]["ops"]) == 1

    def test_tokens_for_another_recipient_become_transfers(self, user: User) -> None:
        more: dict[str, Any] = {
            "tokenRequests": [{"tokenAddress": USDC, "amount": str(TEN)}],
            "recipient": {"address": RECIPIENT, "accountType": "EOA", "setupOps": []},
        }
        op = user.quote([], mode=1, **more)
        [added] = op["elements"][0]["mandate"]["destinationOps"]["ops"]
        assert added["data"] == "0x" + transfer_data(RECIPIENT, TEN).hex()
        user.submit(user.owner_sign(op))
        assert user.wait(op["nonce"])["status"] == "COMPLETED"
        assert user.devnet.usdc_balance(RECIPIENT) == TEN

    def test_a_custom_deadline_is_kept(self, user: User) -> None:
        when = int(time.time()) + 3_000
        options = {"topupCompact": False, "signatureMode": 1, "customDeadline": when}
        assert user.quote(CALLS, mode=1, options=options)["expires"] == str(when)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"destinationChainId": 10}, "Unsupported chain 10"),
            ({"destinationChainId": "8453"}, "destinationChainId"),
            ({"accountAccessList": {"chainIds": [1, 8453]}}, "Unsupported chain 1"),
            ({"destinationExecutions": [{"to": USDC, "value": 0, "data": "0x"}]}, "[0].value"),
            ({"destinationExecutions": [{"to": USDC, "value": "0", "data": "0x1"}]}, "[0].data"),
            ({"destinationExecutions": [{"to": "USDC", "value": "0", "data": "0x"}]}, "[0].to"),
            (
                {"destinationExecutions": [{"to": "0x" + "aA" * 20, "value": "0", "data": "0x"}]},
                "wrong checksum",
            ),
            ({"destinationExecutions": []}, "No valid transfers sent for settlement quotes"),
            ({"tokenRequests": [{"tokenAddress": "0x" + "11" * 20, "amount": "1"}]}, "Unsupported token"),
            ({"tokenRequests": [{"tokenAddress": USDC, "amount": "1000000001"}]}, "Insufficient balance"),
            ({"tokenRequests": [{"tokenAddress": USDC}, {"tokenAddress": USDC}]}, "Only one target token"),
            ({"options": {"signatureMode": 3}}, "options.signatureMode"),
            ({"options": {"signatureMode": 1, "settlementLayers": ["ACROSS"]}}, "No Path Found"),
            ({"options": {"signatureMode": 1, "customDeadline": 5}}, "options.customDeadline"),
            ({"preClaimExecutions": {"10": []}}, "Unsupported chain 10"),
        ],
    )
    def test_a_bad_request_names_its_field(self, user: User, change: dict[str, Any], words: str) -> None:
        answer = user.http.post("/intents/route", json=user.request(CALLS, mode=1) | change)
        assert answer.status_code == 400
        assert words in error_of(answer)

    def test_a_strangers_account_is_refused(self, user: User) -> None:
        request = user.request(CALLS, mode=1)
        request["account"]["address"] = RECIPIENT
        answer = user.http.post("/intents/route", json=request)
        assert (answer.status_code, "not registered" in error_of(answer)) == (400, True)

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"x"'])
    @pytest.mark.parametrize("path", ["/intents/route", "/intent-operations"])
    def test_garbage_is_a_400(self, user: User, body: bytes, path: str) -> None:
        assert user.http.post(path, content=body).status_code == 400


class TestMockSignatures:
    """A session's route request carries a placeholder of the real signature's shape."""

    def route(self, user: User, mocks: Any) -> str:
        request = user.request(CALLS)
        request["account"] |= {"mockSignatures": mocks}
        answer = user.http.post("/intents/route", json=request)
        assert answer.status_code == 400
        return error_of(answer)

    def test_it_is_required(self, user: User) -> None:
        assert "is required" in self.route(user, {})
        assert "is required" in self.route(user, {"10": user.mock()})

    def test_its_shape_is_checked(self, user: User) -> None:
        emissary = EMISSARY
        assert "must be 0x hex" in self.route(user, {"8453": "mock"})
        assert "emissary" in self.route(user, {"8453": "0x" + "00" * 200})
        assert "is not the emissary form that is wanted" in self.route(user, {"8453": emissary + "00" * 98})
        assert "does not decode" in self.route(user, {"8453": emissary + "01" + flz(b"\1" * 64).hex()})

    def test_the_cross_chain_fallback_counts(self, user: User) -> None:
        request = user.request(CALLS)
        request["account"] |= {"mockSignatures": {"0": user.mock()}}
        assert user.http.post("/intents/route", json=request).status_code == 200


class TestSubmit:
    """What a submit must look like before it is looked into."""

    @pytest.mark.parametrize("origins", [None, [], ["0x", "0x"], "0x"])
    def test_the_number_of_origin_signatures_is_checked(self, user: User, origins: Any) -> None:
        op = user.quote(CALLS, mode=1)
        answer = user.submit({**user.owner_sign(op), "originSignatures": origins})
        assert answer.status_code == 400
        assert "originSignatures" in error_of(answer)
        # a malformed request does not use the quote up
        assert user.submit(user.owner_sign(op)).status_code == 201

    def test_a_dry_run_executes_nothing_and_keeps_the_quote(self, user: User) -> None:
        signed = user.owner_sign(user.quote(CALLS, mode=1))
        answer = user.submit({**signed, "options": {"dryRun": True}})
        assert answer.json()["result"] == {"id": signed["nonce"], "status": "PENDING"}
        assert user.status(signed["nonce"]).status_code == 404
        assert user.submit(signed).status_code == 201

    def test_a_broken_enable_stream_is_refused(self, user: User) -> None:
        op = user.quote(CALLS, pre_claim=True)
        signed = user.sign(op, enable=user.enable_tuple())
        signed["destinationSignature"] = signed["destinationSignature"][:-40]
        result = user.submit(signed).json()["result"]
        assert result["status"] == "FAILED"
        assert "destinationSignature: the FastLZ stream is cut short" in user.why(result["id"])

    def test_all_signatures_must_use_one_mode(self, user: User) -> None:
        op = user.quote(CALLS, pre_claim=True)
        signed = user.sign(op, enable=user.enable_tuple())
        signed["destinationSignature"] = user.sign(op)["destinationSignature"]
        result = user.submit(signed).json()["result"]
        assert "do not agree" in user.why(result["id"])

    def test_the_pre_claim_op_is_counted_as_an_operation_of_its_own(self, user: User) -> None:
        op = user.quote(CALLS, pre_claim=True)
        user.submit(user.sign(op, enable=user.enable_tuple()))
        assert user.wait(op["nonce"])["status"] == "COMPLETED"
        [execution] = user.devnet.executions(user.account)
        assert [call.data[:4].hex() for call in execution.calls] == ["69123456", "a9059cbb"]
        counters = user.devnet.state()["counters"]
        assert [row["used"] for row in counters] == [{f"{USDC}:spent": str(TEN)}, {"": "0"}]

    @pytest.mark.parametrize("kind", ["nexus", "safe", "startale", "kernel"])
    def test_a_session_of_every_kind_of_account_trades(self, devnet: Devnet, kind: str) -> None:
        user = User(devnet, usdc_session(key_of("session key"), HUNDRED), kind=kind)
        user.register()
        op = user.quote(CALLS, pre_claim=True)
        user.submit(user.sign(op, enable=user.enable_tuple()))
        assert user.wait(op["nonce"])["status"] == "COMPLETED"
        second = user.quote(CALLS)
        user.submit(user.sign(second))
        assert user.wait(second["nonce"])["status"] == "COMPLETED"
        assert devnet.usdc_balance(RECIPIENT) == 2 * TEN


class TestControl:
    """The control API refuses nonsense, and says so."""

    def test_bad_accounts_are_refused(self, devnet: Devnet) -> None:
        changes: list[tuple[dict[str, Any], str]] = [
            ({"owners": []}, "owners"),
            ({"owners": [RECIPIENT, RECIPIENT]}, "owners"),
            ({"kind": "eoa"}, "kind"),
            ({"threshold": 2}, "threshold"),
            ({"usdc": -1}, "usdc"),
        ]
        for change, words in changes:
            arguments: dict[str, Any] = {"owners": [USDC], **change}
            with pytest.raises(DevnetError, match=words):
                devnet.register_account(RECIPIENT, **arguments)

    def test_delays_are_ordered_and_known(self, devnet: Devnet) -> None:
        with pytest.raises(DevnetError, match="preconfirm_ms <= fill_ms"):
            devnet.set_delays(fill_ms=10_000)
        with pytest.raises(DevnetError, match="speed"):
            devnet.set_delays(speed=1)

    def test_funding_sets_the_balance(self, devnet: Devnet) -> None:
        devnet.fund(RECIPIENT, usdc=TEN, eth=3)
        devnet.fund(RECIPIENT, usdc=4)
        assert (devnet.usdc_balance(RECIPIENT), devnet.eth_balance(RECIPIENT)) == (4, 3)

    def test_a_crashed_devnet_says_so(self, devnet: Devnet) -> None:
        with start_devnet() as other:
            os.kill(other.pid, signal.SIGKILL)
            with pytest.raises(DevnetError, match="does not answer"):
                other.state()
