"""What ``sessions enable`` prints, sent to the emissary stand-in of the devnet."""

from __future__ import annotations

import time

import pytest

from tests.support.sessions import ACCOUNT, BASE, NOW_S, OWNER_KEY, SESSION_ADDRESS, key_of, make_session_file
from worker.devnet.chain import RELAYER
from worker.devnet.devnet import Devnet
from worker.devnet.errors import RpcError
from worker.sessions.emissary import (
    decode_is_permission_enabled,
    decode_nonce,
    get_nonce_call,
    is_permission_enabled_call,
)
from worker.sessions.enabling import enable_call
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, verify
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind

pytestmark = pytest.mark.services

KINDS: list[AccountKind] = ["nexus", "safe", "kernel", "startale"]


def approved(kind: AccountKind, nonce: int, limit: int = 100_000_000) -> RegisteredSession:
    text = make_session_file(kind=kind, nonce=nonce, limit=limit)
    return verify(load_session_file(text), our_keys=[SESSION_ADDRESS], chain_id=BASE, now_s=NOW_S)


def read(devnet: Devnet, data: bytes) -> bytes:
    reply = devnet.rpc.call("eth_call", {"to": SMART_SESSION_EMISSARY, "data": "0x" + data.hex()}, "latest")
    return bytes.fromhex(reply[2:])


def nonce_of(devnet: Devnet) -> int:
    return decode_nonce(read(devnet, get_nonce_call(ACCOUNT)))


def enabled(devnet: Devnet, session: RegisteredSession) -> bool:
    return decode_is_permission_enabled(
        read(devnet, is_permission_enabled_call(session.account, session.permission_id))
    )


def send(devnet: Devnet, session: RegisteredSession) -> None:
    """Send the enabling transaction from somebody who is not the account, so that the approval is checked."""
    to, data = enable_call(session)
    transaction = {"from": RELAYER, "to": to, "data": "0x" + data.hex()}
    devnet.rpc.call("eth_call", transaction, "latest")  # raises with the reason if it reverts
    tx_hash = devnet.rpc.call("eth_sendTransaction", transaction)
    deadline = time.monotonic() + 60  # anvil mines at once, but not before it answers
    while (receipt := devnet.rpc.call("eth_getTransactionReceipt", tx_hash)) is None:
        assert time.monotonic() < deadline, "the transaction was not mined"
        time.sleep(0.01)
    assert receipt["status"] == "0x1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_transaction_enables_the_session_once(devnet: Devnet, kind: AccountKind) -> None:
    devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], kind=kind)
    session = approved(kind, nonce_of(devnet))
    assert not enabled(devnet, session)
    send(devnet, session)
    assert enabled(devnet, session)
    assert nonce_of(devnet) == (session.enable_nonce or 0) + 1
    with pytest.raises(RpcError):
        send(devnet, session)


def test_an_approval_for_another_nonce_is_dead(devnet: Devnet) -> None:
    devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], kind="nexus")
    first, second = approved("nexus", 0), approved("nexus", 0, limit=1)
    send(devnet, first)
    with pytest.raises(RpcError):
        send(devnet, second)
    send(devnet, approved("nexus", 1, limit=1))
    assert enabled(devnet, second)


def test_the_chain_refuses_what_import_would_have_refused(devnet: Devnet) -> None:
    """The account belongs to someone else than the file says: only the chain can know."""
    devnet.register_account(ACCOUNT, owners=[address_of(key_of("true owner"))], kind="nexus")
    session = approved("nexus", 0)
    with pytest.raises(RpcError):
        send(devnet, session)
    assert not enabled(devnet, session)
