"""What an owner sends, on the devnet: executed once as asked, and not signed when the quote is something else."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.support.pipeline import FAST, transfer
from tests.support.sessions import USDC, key_of
from worker.devnet.devnet import Devnet
from worker.devnet.lies import LIES
from worker.execution.errors import IntentInputError, StaleQuoteError, UnexplainedQuoteError
from worker.execution.owner import OwnedAccount, send_as_owner, wait_for_execution
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.errors import OrchestratorError, SimulationFailedError
from worker.sessions.accounts import derive_account, install_calls, uninstall_calls
from worker.sessions.model import EcdsaOwners
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind

pytestmark = pytest.mark.services

ROUTE, SUBMIT, STATUS = "/intents/route", "/intent-operations", "/intent-operation/"
KEYS = (key_of("tutorial owner"), key_of("tutorial co-owner"))
RECIPIENT = address_of(key_of("who an owner pays"))


@pytest.fixture
def orchestrator(devnet: Devnet) -> Generator[AlpsOrchestrator]:
    client = AlpsOrchestrator(devnet.orchestrator_url, api_key=devnet.api_key, timeout_ms=5_000)
    devnet.set_delays(**FAST)
    yield client
    client.close()


def two_of_two(devnet: Devnet, kind: AccountKind = "nexus") -> OwnedAccount:
    """An account that both keys own, with 10 USDC, at the address that the SDK gives it."""
    owners = EcdsaOwners(accounts=tuple(address_of(key) for key in KEYS), threshold=2)
    account = derive_account(owners, kind)
    devnet.register_account(account.address, owners=owners.accounts, kind=kind, threshold=2, usdc=10_000_000)
    return OwnedAccount.of(account, devnet.chain_id)


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
def test_two_owners_move_tokens_and_modules(
    devnet: Devnet, orchestrator: AlpsOrchestrator, kind: AccountKind
) -> None:
    owned = two_of_two(devnet, kind)
    calls = (
        transfer(3_000_000, RECIPIENT),
        *install_calls(kind, owned.account),
        *uninstall_calls(kind, owned.account),
    )
    intent_id = send_as_owner(orchestrator, owned, KEYS, calls)
    status = wait_for_execution(orchestrator, intent_id, timeout_s=20)
    [execution] = devnet.executions(owned.account)
    assert [(call.to, call.data) for call in execution.calls] == [(call.to, call.data) for call in calls]
    assert status.fill_tx_hash == execution.tx_hash
    assert devnet.usdc_balance(owned.account) == 7_000_000


def test_one_owner_of_two_moves_nothing(devnet: Devnet, orchestrator: AlpsOrchestrator) -> None:
    owned = two_of_two(devnet)

    def send() -> None:
        wait_for_execution(
            orchestrator,
            send_as_owner(orchestrator, owned, KEYS[:1], [transfer(1, RECIPIENT)]),
            timeout_s=20,
        )

    with pytest.raises(OrchestratorError):
        send()
    assert devnet.executions(owned.account) == []


@pytest.mark.parametrize("lie", [name for name in LIES if name != "expired"])
def test_a_lying_quote_is_not_signed(devnet: Devnet, orchestrator: AlpsOrchestrator, lie: str) -> None:
    owned = two_of_two(devnet)
    sent = len(devnet.requests(SUBMIT))
    devnet.add_fault("alter_quote", path=ROUTE, lies=[lie])
    with pytest.raises(UnexplainedQuoteError) as error:
        send_as_owner(orchestrator, owned, KEYS, [transfer(1, RECIPIENT), transfer(2, RECIPIENT)])
    assert error.value.field.startswith(("intentOp", "intentCost"))
    assert len(devnet.requests(SUBMIT)) == sent


def test_a_quote_for_a_session_is_not_signed_by_an_owner(
    devnet: Devnet, orchestrator: AlpsOrchestrator
) -> None:
    owned = two_of_two(devnet)
    pointer = "/intentOp/elements/0/mandate/destinationOps/vt"
    devnet.add_fault("alter_quote", path=ROUTE, values={pointer: "0x0205" + "00" * 30})
    with pytest.raises(UnexplainedQuoteError) as error:
        send_as_owner(orchestrator, owned, KEYS, [transfer(1, RECIPIENT)])
    assert error.value.field.endswith("destinationOps.vt")


def test_a_quote_that_has_run_out_is_not_signed(devnet: Devnet, orchestrator: AlpsOrchestrator) -> None:
    owned = two_of_two(devnet)
    devnet.add_fault("alter_quote", path=ROUTE, lies=["expired"])
    with pytest.raises(StaleQuoteError):
        send_as_owner(orchestrator, owned, KEYS, [transfer(1, RECIPIENT)])


def test_without_calls_nothing_is_asked_for(devnet: Devnet, orchestrator: AlpsOrchestrator) -> None:
    asked = len(devnet.requests(ROUTE))
    with pytest.raises(IntentInputError) as error:
        send_as_owner(orchestrator, OwnedAccount(USDC, "nexus", 8453), KEYS, [])
    assert error.value.field == "calls"
    assert len(devnet.requests(ROUTE)) == asked


def test_a_lost_reply_is_found_by_the_quotes_nonce(devnet: Devnet, orchestrator: AlpsOrchestrator) -> None:
    owned = two_of_two(devnet)
    devnet.add_fault("drop_after_accept", method="POST", path=SUBMIT)
    intent_id = send_as_owner(orchestrator, owned, KEYS, [transfer(1, RECIPIENT)])
    assert wait_for_execution(orchestrator, intent_id, timeout_s=20).fill_tx_hash
    assert len(devnet.executions(owned.account)) == 1


def test_a_failed_simulation_is_said(devnet: Devnet, orchestrator: AlpsOrchestrator) -> None:
    owned = two_of_two(devnet)
    devnet.add_fault("fail_simulation", path=SUBMIT)
    with pytest.raises(SimulationFailedError):
        send_as_owner(orchestrator, owned, KEYS, [transfer(1, RECIPIENT)])
    assert devnet.executions(owned.account) == []


@pytest.mark.parametrize("word", ["FAILED", "EXPIRED"])
def test_waiting_ends_with_the_bad_word(devnet: Devnet, orchestrator: AlpsOrchestrator, word: str) -> None:
    intent_id = send_as_owner(orchestrator, two_of_two(devnet), KEYS, [transfer(1, RECIPIENT)])
    devnet.add_fault("override_status", path=STATUS, word=word, times=0)
    with pytest.raises(OrchestratorError, match=word):
        wait_for_execution(orchestrator, intent_id, timeout_s=20)


@pytest.mark.timeout(100)  # rather than sit out the SDK's 210 s
def test_waiting_outlives_trouble_and_gives_up_in_time(
    devnet: Devnet, orchestrator: AlpsOrchestrator
) -> None:
    intent_id = send_as_owner(orchestrator, two_of_two(devnet), KEYS, [transfer(1, RECIPIENT)])
    devnet.add_fault("respond", path=STATUS, status=503)
    devnet.add_fault("respond", path=STATUS, status=404)
    assert wait_for_execution(orchestrator, intent_id, timeout_s=20).status in {"FILLED", "COMPLETED"}
    devnet.add_fault("override_status", path=STATUS, word="PENDING", times=0)
    with pytest.raises(OrchestratorError, match="last: PENDING"):
        wait_for_execution(orchestrator, intent_id, timeout_s=0.3)
