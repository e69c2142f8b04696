"""Session keys as ciphertext of Vault's Transit engine, in a real Vault under each policy."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import hvac.exceptions
import pytest

from config.vault import bootstrap
from tests.support.leaks import assert_no_leak
from tests.support.vault_room import ADDRESS, OTHER_KEY, PREFIX, TEST_KEY, Room
from worker.keys.errors import (
    KeyFormatError,
    KeyMismatchError,
    KeyStoreDeniedError,
    KeyStoreSetupError,
)
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import address_of
from worker.keys.transit import Transit
from worker.keys.vault import TokenAuth, VaultKeyStore

pytestmark = pytest.mark.services
OTHER = address_of(OTHER_KEY)


@pytest.fixture
def transit(room: Room) -> Transit:
    """A Transit key of the test's own, as the bootstrap makes it, and policies that name it."""
    made = Transit(f"keys-{room.mount[-8:]}", "team/transit")
    options = bootstrap.Options(
        room.server.addr, mount=room.mount, transit_mount=made.mount, transit_key=made.key
    )
    done = bootstrap.bootstrap(options, room.server.token)
    assert any(line.startswith("session keys are encrypted by") for line in done)
    for kind in ("signer", "operator", "custodian", "worker", "wrapper"):
        room.admin.sys.create_or_update_policy(
            policy_of(room, kind),
            bootstrap.policy(kind, room.mount, PREFIX, transit_mount=made.mount, transit_key=made.key),
        )
    return made


def policy_of(room: Room, kind: str) -> str:
    return f"{room.mount.replace('/', '-')}-{kind}"


def by(room: Room, kind: str, transit: Transit | None) -> VaultKeyStore:
    return room.store(TokenAuth(room.token(policy_of(room, kind))), transit=transit)


def versions(room: Room, address: str) -> dict[int, bool]:
    """Version → whether it is destroyed."""
    found: Any = room.admin.secrets.kv.v2.read_secret_metadata(f"{PREFIX}/{address}", mount_point=room.mount)
    return {int(number): item["destroyed"] for number, item in found["data"]["versions"].items()}


class TestUse:
    """Created encrypted, decrypted for each use by the signer alone."""

    def test_from_create_to_destroy(self, room: Room, transit: Transit) -> None:
        operator, signer = by(room, "operator", transit), by(room, "signer", transit)
        made = operator.create(label="wrapped")
        stored = room.stored(made.address)
        assert set(stored) == {"ciphertext", "address"}
        assert stored["ciphertext"].startswith("vault:v1:")
        with signer.get(made.address) as key:
            assert (address_of(key.use()), key.version) == (made.address, "1")
        assert made in list(operator.list())
        imported = operator.adopt(SecretKey(TEST_KEY, ADDRESS))
        assert TEST_KEY.hex() not in str(room.stored(imported.address))
        with signer.get(ADDRESS) as key:
            assert key.use() == TEST_KEY
        with pytest.raises(KeyStoreDeniedError):
            operator.get(ADDRESS).__enter__()
        by(room, "custodian", transit).destroy(ADDRESS)
        assert versions(room, ADDRESS) == {1: True}
        assert f"encrypted by {transit.mount}/keys/{transit.key}" in signer.check()
        assert "may create" in operator.check()

    def test_the_worker_and_the_operator_cannot_decrypt(self, room: Room, transit: Transit) -> None:
        by(room, "operator", transit).adopt(SecretKey(TEST_KEY, ADDRESS))
        ciphertext = room.stored(ADDRESS)["ciphertext"]
        for kind in ("worker", "operator", "custodian"):
            client = room.server.admin()
            client.token = room.token(policy_of(room, kind))
            with pytest.raises(hvac.exceptions.Forbidden):
                client.secrets.transit.decrypt_data(
                    transit.key, ciphertext, context="AA==", mount_point=transit.mount
                )

    def test_who_reads_the_keys_and_may_not_decrypt_is_told_so(self, room: Room, transit: Transit) -> None:
        by(room, "operator", transit).adopt(SecretKey(TEST_KEY, ADDRESS))
        # the signer's policy of another Transit key
        name = policy_of(room, "narrow")
        room.admin.sys.create_or_update_policy(name, bootstrap.policy("signer", room.mount, PREFIX))
        store = room.store(TokenAuth(room.token(name)), transit=transit)
        with pytest.raises(KeyStoreDeniedError, match=f"denied at {transit.path('decrypt')}"):
            store.get(ADDRESS).__enter__()
        with pytest.raises(KeyStoreDeniedError, match="may read keys and not decrypt them"):
            store.check()

    def test_what_fails_shows_no_key(self, room: Room, transit: Transit) -> None:
        by(room, "operator", transit).adopt(SecretKey(TEST_KEY, ADDRESS))
        with pytest.raises(KeyStoreDeniedError, match="encrypt") as caught:
            by(room, "signer", transit).adopt(SecretKey(OTHER_KEY, OTHER))
        assert_no_leak(caught.value, OTHER_KEY)
        room.put({"ciphertext": room.stored(ADDRESS)["ciphertext"]}, OTHER)
        with pytest.raises(KeyMismatchError) as moved:
            by(room, "signer", transit).get(OTHER).__enter__()
        assert_no_leak(moved.value, TEST_KEY)

    def test_a_ciphertext_of_another_address_is_refused(self, room: Room, transit: Transit) -> None:
        operator = by(room, "operator", transit)
        operator.adopt(SecretKey(TEST_KEY, ADDRESS))
        room.put({"ciphertext": room.stored(ADDRESS)["ciphertext"]}, OTHER)
        with pytest.raises(KeyMismatchError, match="not made for this address"):
            by(room, "signer", transit).get(OTHER).__enter__()

    def test_what_cannot_be_decrypted(self, room: Room, transit: Transit) -> None:
        signer = by(room, "signer", transit)
        room.put({"ciphertext": "vault:v1:bm90aGluZw=="})
        with pytest.raises(KeyFormatError, match="cannot be decrypted"):
            signer.get(ADDRESS).__enter__()
        room.put({"ciphertext": "vault:v1:"})
        with pytest.raises(KeyFormatError, match="is none of Transit's"):
            signer.get(ADDRESS).__enter__()
        nobody = room.store(TokenAuth(room.server.token), transit=Transit("nobody", transit.mount))
        room.put({"ciphertext": "vault:v1:bm90aGluZw=="})
        with pytest.raises(KeyStoreSetupError, match="no Transit key 'nobody'"):
            nobody.get(ADDRESS).__enter__()
        nowhere = room.store(TokenAuth(room.server.token), transit=Transit("nobody", "nowhere"))
        with pytest.raises(KeyStoreSetupError, match="no Transit engine"):
            nowhere.get(ADDRESS).__enter__()


class TestWrap:
    """A plain key is refused, and brought under the Transit key; a ciphertext to its newest version."""

    def test_plain_to_ciphertext_to_the_next_version(self, room: Room, transit: Transit) -> None:
        plain, signer = by(room, "operator", None), by(room, "signer", transit)
        address = plain.create(label="old").address
        with by(room, "signer", None).get(address) as held:
            key = held.use()
        with pytest.raises(KeyFormatError, match="is stored plainly"):
            signer.get(address).__enter__()
        with pytest.raises(KeyStoreDeniedError):
            by(room, "operator", transit).wrap(address)
        with pytest.raises(KeyStoreDeniedError, match="encrypt") as caught:
            signer.wrap(address)
        assert_no_leak(caught.value, key)
        wrapper = by(room, "wrapper", transit)
        assert wrapper.wrap(address) == ("plain", "vault:v1")
        assert versions(room, address) == {1: True, 2: False}
        with signer.get(address) as held:
            assert (held.use(), held.version) == (key, "2")
        with pytest.raises(KeyFormatError, match="no Transit key is set"):
            by(room, "signer", None).get(address).__enter__()
        [info] = plain.list()
        assert info.label == "old"

        assert wrapper.wrap(address) == ("vault:v1", "vault:v1")
        assert versions(room, address) == {1: True, 2: False}
        admin = room.admin.secrets.transit
        admin.rotate_key(transit.key, mount_point=transit.mount)
        with signer.get(address) as held:
            assert held.use() == key
        old = room.stored(address)
        assert wrapper.wrap(address) == ("vault:v1", "vault:v2")
        assert versions(room, address) == {1: True, 2: True, 3: False}
        admin.update_key_configuration(transit.key, min_decryption_version=2, mount_point=transit.mount)
        with signer.get(address) as held:
            assert held.use() == key
        room.put(old, address)
        with pytest.raises(KeyFormatError, match="does not decrypt any more"):
            signer.get(address).__enter__()

    def test_a_plain_version_that_a_crash_has_left_is_destroyed_by_the_next_run(
        self, room: Room, transit: Transit
    ) -> None:
        by(room, "operator", None).adopt(SecretKey(TEST_KEY, ADDRESS))
        by(room, "operator", transit).adopt(SecretKey(OTHER_KEY, OTHER))
        encrypted = room.admin.secrets.transit.encrypt_data(
            transit.key,
            _base64(TEST_KEY),
            context=_base64(bytes.fromhex(ADDRESS[2:])),
            mount_point=transit.mount,
        )
        room.put({"ciphertext": encrypted["data"]["ciphertext"], "address": ADDRESS})
        assert versions(room, ADDRESS) == {1: False, 2: False}
        assert by(room, "wrapper", transit).wrap(ADDRESS) == ("vault:v1", "vault:v1")
        assert versions(room, ADDRESS) == {1: True, 2: False}

    def test_nothing_is_written_of_what_is_no_key_of_its_address(self, room: Room, transit: Transit) -> None:
        room.put_key(OTHER_KEY, ADDRESS)
        with pytest.raises(KeyMismatchError):
            by(room, "wrapper", transit).wrap(ADDRESS)
        with pytest.raises(KeyStoreSetupError, match="is not set"):
            by(room, "wrapper", None).wrap(ADDRESS)
        assert versions(room, ADDRESS) == {1: False}


class TestBootstrap:
    """The Transit key is made once, and one that was made otherwise is refused."""

    def test_twice_and_a_key_that_can_be_exported(self, room: Room, transit: Transit) -> None:
        options = bootstrap.Options(
            room.server.addr, mount=room.mount, transit_mount=transit.mount, transit_key=transit.key
        )
        again = bootstrap.bootstrap(options, room.server.token)
        assert not any(line.endswith(" made") for line in again)
        found = room.admin.secrets.transit.read_key(transit.key, mount_point=transit.mount)["data"]
        assert (found["derived"], found["exportable"], found["deletion_allowed"]) == (True, False, False)
        room.admin.secrets.transit.create_key(
            "open", derived=True, exportable=True, mount_point=transit.mount
        )
        with pytest.raises(bootstrap.BootstrapError, match="can be exported"):
            bootstrap.bootstrap(
                bootstrap.Options(
                    room.server.addr, mount=room.mount, transit_mount=transit.mount, transit_key="open"
                ),
                room.server.token,
            )


def _base64(value: bytes) -> str:
    return b64encode(value).decode()
