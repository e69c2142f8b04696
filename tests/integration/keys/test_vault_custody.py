"""Keys that come from elsewhere, hand over to others and are destroyed, in a real Vault under each policy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.vault_room import ADDRESS, OTHER_KEY, PREFIX, TEST_KEY, Room
from worker.keys.errors import (
    KeyDeletedError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStoreDeniedError,
)
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import address_of
from worker.keys.vault import TokenAuth, VaultKeyStore

pytestmark = pytest.mark.services


def by(room: Room, policy: str) -> VaultKeyStore:
    return room.store(TokenAuth(room.token(policy)))


def versions(room: Room, address: str) -> dict[str, Any]:
    found: Any = room.admin.secrets.kv.v2.read_secret_metadata(f"{PREFIX}/{address}", mount_point=room.mount)
    return found["data"]


class TestAdopt:
    """A key from elsewhere is written once, by whoever may create."""

    @pytest.mark.parametrize("who", ["operator", "root"])
    def test_once(self, room: Room, who: str) -> None:
        key, address = (TEST_KEY, ADDRESS) if who == "operator" else (OTHER_KEY, address_of(OTHER_KEY))
        store = by(room, room.operator) if who == "operator" else room.store(TokenAuth(room.server.token))
        made = store.adopt(SecretKey(key, address), label="old wallet")
        assert made in list(store.list())
        assert room.stored(address)["private_key"] == f"0x{key.hex()}"
        with pytest.raises(KeyExistsError, match="is, or was, stored"):
            store.adopt(SecretKey(key, address))
        assert versions(room, address)["current_version"] == 1

    def test_a_signer_may_not(self, room: Room) -> None:
        key = SecretKey(OTHER_KEY[::-1], address_of(OTHER_KEY[::-1]))
        with pytest.raises(KeyStoreDeniedError, match="permission denied"):
            by(room, room.signer).adopt(key)


class TestRotation:
    """What is known of a key says whom it replaces, and since when it is replaced."""

    def test_metadata(self, room: Room) -> None:
        store = by(room, room.operator)
        old = store.create(label="one")
        new = store.create(label="one", replaces=old.address)
        store.mark_rotated(old.address)
        held = {info.address: info for info in store.list()}
        assert held[new.address] == new
        assert held[new.address].replaces == old.address
        assert held[old.address].rotated >= old.created
        assert held[old.address].label == "one"
        assert held[old.address].created == old.created


class TestDestroy:
    """The custodian destroys every version, and the place stays taken."""

    def test_for_good(self, room: Room) -> None:
        operator, custodian = by(room, room.operator), by(room, room.custodian)
        address = operator.create(label="gone").address
        with pytest.raises(KeyStoreDeniedError, match="permission denied"):
            operator.destroy(address)
        with by(room, room.signer).get(address) as held:
            key = held.use()
        room.put({"private_key": f"0x{key.hex()}"}, address)
        custodian.destroy(address)
        known = versions(room, address)
        assert [version["destroyed"] for version in known["versions"].values()] == [True, True]
        assert known["custom_metadata"]["label"] == "gone"
        assert int(known["custom_metadata"]["destroyed"]) > 1_700_000_000
        with pytest.raises(KeyDeletedError), by(room, room.signer).get(address):
            pass
        assert address not in {info.address for info in operator.list()}
        with pytest.raises(KeyDeletedError):
            custodian.destroy(address)
        with pytest.raises(KeyExistsError):
            operator.adopt(SecretKey(key, address))

    def test_what_was_never_there(self, room: Room) -> None:
        with pytest.raises(KeyNotFoundError):
            by(room, room.custodian).destroy("0x" + "77" * 20)
