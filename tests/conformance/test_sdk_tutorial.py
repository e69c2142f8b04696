"""The real SDK 1.15.0 as a user of the devnet, and as the frontend that exports sessions for us."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.pipeline import Pipeline, transfer
from tests.support.sdk import (
    NodeError,
    Tutorial,
    devnet_environment,
    labelled_key,
    run_node,
    run_tutorial,
    type_check,
)
from worker.devnet.chain import EMISSARY
from worker.devnet.devnet import Devnet
from worker.intents.states import State
from worker.sessions.emissary import (
    decode_is_permission_enabled,
    decode_nonce,
    get_nonce_call,
    is_permission_enabled_call,
)
from worker.sessions.errors import SessionError
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, verify
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.sign import address_of

pytestmark = pytest.mark.services

BASE = 8453
RECIPIENT = "0x" + labelled_key("recipient").hex()[-40:]
WORKER_ADDRESS = address_of(labelled_key("worker"))
EXISTING_ACCOUNT = "0x" + labelled_key("existing account").hex()[-40:]
TEN = 10_000_000


def read(devnet: Devnet, data: bytes) -> bytes:
    """What the emissary answers."""
    answer = devnet.rpc.call("eth_call", {"to": EMISSARY, "data": "0x" + data.hex()}, "latest")
    return bytes.fromhex(str(answer)[2:])


def registered(text: str, *, keys: tuple[str, ...] = (WORKER_ADDRESS,)) -> RegisteredSession:
    """The file as ``sessions import`` takes it."""
    return verify(load_session_file(text), our_keys=keys, chain_id=BASE, now_s=int(time.time()))


@pytest.fixture(scope="module")
def tutorial(module_devnet: Devnet) -> Tutorial:
    """One run of the tutorial, looked at by several tests."""
    return run_tutorial(module_devnet, worker_address=WORKER_ADDRESS, recipient=RECIPIENT)


@pytest.fixture(scope="module")
def module_devnet(shared_devnet: Devnet) -> Devnet:
    """The run's devnet, in its first state when this module starts."""
    shared_devnet.reset()
    return shared_devnet


class TestTutorial:
    """Session details, enable signature, enable by transaction, execute, waitForExecution."""

    def test_the_enable_transaction_enables_the_session(
        self, tutorial: Tutorial, module_devnet: Devnet
    ) -> None:
        assert (tutorial.report["enabledBefore"], tutorial.report["enabledAfter"]) == (False, True)
        receipt = module_devnet.rpc.call("eth_getTransactionReceipt", tutorial.report["enableTx"])
        assert receipt["status"] == "0x1"
        assert decode_nonce(read(module_devnet, get_nonce_call(tutorial.account))) == 1

    def test_the_trade_moves_balances_on_the_chain(self, tutorial: Tutorial, module_devnet: Devnet) -> None:
        assert tutorial.report["before"] == {"account": str(100 * TEN), "recipient": "0"}
        assert tutorial.report["after"] == {"account": str(99 * TEN), "recipient": str(TEN)}
        assert module_devnet.usdc_balance(tutorial.account) == 99 * TEN
        assert module_devnet.usdc_balance(RECIPIENT) == TEN
        receipt = module_devnet.rpc.call("eth_getTransactionReceipt", tutorial.report["tradeTx"])
        assert receipt["status"] == "0x1"

    def test_the_devnet_saw_the_requests_of_the_sdk(self, tutorial: Tutorial, module_devnet: Devnet) -> None:
        submits = module_devnet.requests("/intent-operations", "POST")
        # enable, trade, and the trade above the limit
        assert len(submits) == len(module_devnet.requests("/intents/route", "POST")) == 3
        assert module_devnet.requests("/intent-operation/", "GET")

    def test_a_trade_above_the_limit_is_refused(self, tutorial: Tutorial) -> None:
        assert tutorial.report.get("refusal") in {"IntentFailedError", "SimulationFailedError"}

    def test_the_exported_session_can_be_registered(self, tutorial: Tutorial, module_devnet: Devnet) -> None:
        session = registered(tutorial.file)
        assert session.account == tutorial.account
        assert session.owners == (WORKER_ADDRESS,)
        assert session.restricted
        assert session.enable_data is not None
        # the approval was given after the first session was enabled, so it is still good
        assert session.enable_nonce == decode_nonce(read(module_devnet, get_nonce_call(session.account))) == 1
        enabled = read(module_devnet, is_permission_enabled_call(session.account, session.permission_id))
        assert not decode_is_permission_enabled(enabled)

    def test_a_changed_limit_is_not_what_the_user_approved(self, tutorial: Tutorial) -> None:
        assert tutorial.file.count('"100000000"') == 1
        with pytest.raises(SessionError, match="approved"):
            registered(tutorial.file.replace('"100000000"', '"100000001"'))

    def test_the_session_ends_when_the_frontend_said(self, tutorial: Tutorial) -> None:
        end = registered(tutorial.file).expires_s
        assert end * 1000 == json.loads(tutorial.file)["actions"][0]["policies"][1]["validUntil"]
        with pytest.raises(SessionError, match="expired"):
            verify(load_session_file(tutorial.file), our_keys=[WORKER_ADDRESS], chain_id=BASE, now_s=end)

    def test_a_session_for_another_key_is_refused(self, tutorial: Tutorial) -> None:
        with pytest.raises(SessionError, match="not the address of a key of ours"):
            registered(tutorial.file, keys=(RECIPIENT,))


@pytest.fixture(scope="module")
def exported(module_devnet: Devnet) -> list[dict[str, Any]]:
    """The files of ``export.ts``."""
    output = run_node(
        "export.ts",
        {
            **devnet_environment(module_devnet),
            "OWNER_KEY": "0x" + labelled_key("owner of exports").hex(),
            "SECOND_OWNER_KEY": "0x" + labelled_key("second owner of exports").hex(),
            "WORKER_ADDRESS": WORKER_ADDRESS,
            "EXISTING_ACCOUNT": EXISTING_ACCOUNT,
            "VALID_UNTIL_MS": str((int(time.time()) + 3600) * 1000),
        },
    )
    return list(json.loads(output))


class TestExport:
    """The example of ``docs/examples`` exports sessions of every account kind that we import."""

    def test_every_kind_is_importable(self, exported: list[dict[str, Any]]) -> None:
        assert {entry["kind"] for entry in exported} == set(ACCOUNT_KINDS)
        for entry in exported:
            session = registered(entry["file"])
            assert session.account_kind == entry["kind"], entry["label"]
            assert session.restricted == entry["label"].endswith("restricted"), entry["label"]
            assert bool(session.setup_ops) != entry["label"].startswith("existing"), entry["label"]
            assert session.enable_nonce == 0, entry["label"]

    def test_accounts_with_two_owners_need_both(self, exported: list[dict[str, Any]]) -> None:
        [entry] = [entry for entry in exported if entry["label"] == "safe, two owners, restricted"]
        file = json.loads(entry["file"])
        file["enableData"]["userSignature"] = file["enableData"]["userSignature"][:-130]
        with pytest.raises(SessionError, match="1 signatures, but the account needs 2"):
            registered(json.dumps(file))


class TestScripts:
    """The scripts themselves."""

    def test_the_types_are_the_sdks(self) -> None:
        assert type_check() == ""

    def test_a_failing_script_is_an_error(self) -> None:
        with pytest.raises(NodeError, match="API_KEY is not set"):
            run_node("tutorial.ts", {})


class TestOurWorker:
    """A session that the SDK exported is traded by our pipeline. Last in the file: it puts the devnet back."""

    def test_it_trades_within_the_limit_that_the_user_approved(
        self, devnet: Devnet, redis_url: str, tmp_path: Path
    ) -> None:
        pipeline = Pipeline(devnet, redis_url, tmp_path)
        done = run_tutorial(devnet, worker_address=pipeline.key_address, recipient=RECIPIENT, limit_usdc="30")
        session = registered(done.file, keys=(pipeline.key_address,))
        pipeline.runtime.sessions.put(session)
        names = [
            pipeline.submit(f"trade {number}", transfer(TEN, to=RECIPIENT), session_id=session.session_id)
            for number in range(4)
        ]
        records = pipeline.run(*names)
        states = [record.state for record in records]
        assert sorted(states) == [State.COMPLETED] * 3 + [State.REJECTED], [r.reason for r in records]
        # 10 by the SDK, 30 by us
        assert devnet.usdc_balance(RECIPIENT) == 4 * TEN
        assert devnet.usdc_balance(done.account) == 96 * TEN
        assert pipeline.budget(session) == (3 * TEN, 0)
        assert decode_is_permission_enabled(
            read(devnet, is_permission_enabled_call(session.account, session.permission_id))
        )
