"""``VaultKeyStore`` against a real Vault: good days, and each bad one with its own error."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from eth_utils.crypto import keccak

from tests.support.leaks import assert_no_leak
from tests.support.vault import SealableVault, free_port, running_server
from tests.support.vault_room import ADDRESS, OTHER_KEY, PREFIX, TEST_KEY, Room, vault_room
from worker.keys.errors import (
    KeyDeletedError,
    KeyFormatError,
    KeyLabelError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreRateLimitedError,
    KeyStoreSetupError,
    KeyStoreTokenExpiredError,
    KeyStoreUnavailableError,
)
from worker.keys.port import KeyStore
from worker.keys.secp256k1 import address_of
from worker.keys.vault import AppRoleAuth, TokenAuth, VaultKeyStore

pytestmark = pytest.mark.services


def use(store: KeyStore, address: str = ADDRESS) -> bytes:
    with store.get(address) as key:
        return key.use()


def refused(store: KeyStore, error: type[KeyStoreError], words: str, *secrets: str | bytes) -> KeyStoreError:
    """The error of a read: exactly ``error``, with field and fix, and no secret in any rendering of it."""
    with pytest.raises(error, match=words) as caught:
        use(store)
    assert type(caught.value) is error
    assert caught.value.field
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert_no_leak(caught.value, TEST_KEY, OTHER_KEY, *secrets)
    return caught.value


class TestGoodDays:
    """The worker reads a key for one signing; the operator creates keys and reads none."""

    def test_the_signers_token_reads_a_key_that_is_wiped_afterwards(self, room: Room) -> None:
        room.put_key()
        with room.store().get(ADDRESS) as key:
            assert key.use() == TEST_KEY
            assert key.address == ADDRESS
        with pytest.raises(ValueError, match="wiped"):
            key.use()

    def test_an_approle_reads_it_too(self, room: Room) -> None:
        room.put_key()
        assert use(room.store(room.role(room.signer))) == TEST_KEY

    def test_what_the_operator_creates_the_worker_uses(self, room: Room) -> None:
        before = int(time.time())
        info = room.store(room.role(room.operator)).create(label="market maker")
        assert (info.version, info.label) == ("1", "market maker")
        assert info.created >= before
        assert address_of(use(room.store(), info.address)) == info.address
        assert set(room.stored(info.address)) == {"private_key", "address"}

    def test_the_operator_lists_keys_with_label_and_time(self, room: Room) -> None:
        operator = room.store(TokenAuth(room.token(room.operator)))
        assert list(operator.list()) == []
        made = {operator.create(label=label) for label in ("one", "two", "")}
        room.put_key()
        listed = list(operator.list())
        assert made < set(listed)
        (by_hand,) = set(listed) - made
        assert (by_hand.address, by_hand.label) == (ADDRESS, "")
        assert by_hand.created > 1_700_000_000
        assert [info.address for info in listed] == sorted(info.address for info in listed)

    def test_a_deleted_key_is_not_listed(self, room: Room) -> None:
        operator = room.store(TokenAuth(room.token(room.operator)))
        kept, gone = operator.create(), operator.create()
        room.admin.secrets.kv.v2.delete_latest_version_of_secret(
            f"{PREFIX}/{gone.address}", mount_point=room.mount
        )
        assert list(operator.list()) == [kept]

    def test_the_key_is_read_anew_each_time(self, room: Room) -> None:
        room.put_key()
        store = room.store()
        assert use(store) == TEST_KEY
        room.admin.secrets.kv.v2.delete_latest_version_of_secret(
            f"{PREFIX}/{ADDRESS}", mount_point=room.mount
        )
        refused(store, KeyDeletedError, "deleted or destroyed")

    def test_check_says_where_and_what_may_be_done(self, room: Room) -> None:
        signer = room.store(room.role(room.signer, token_ttl="1h")).check()
        assert f"{room.mount}/data/{PREFIX}/ (KV v2)" in signer
        assert signer.endswith("may read")
        assert room.server.addr in signer
        operator = room.store(TokenAuth(room.token(room.operator))).check()
        assert operator.endswith("may create")

    def test_threads_share_one_store(self, room: Room) -> None:
        room.put_key()
        store = room.store(room.role(room.signer))
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(use, [store] * 32)) == {TEST_KEY}

    def test_a_forked_child_makes_its_own_connection(self, room: Room) -> None:
        room.put_key()
        store = room.store(room.role(room.signer))
        use(store)
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        # the parent's lock is held while it forks, as a busy thread's would be: the child must not wait for it
        connection = store._connect()  # pyright: ignore[reportPrivateUsage]
        with connection.lock:
            child = context.Process(target=lambda: theirs.send(address_of(use(store))))
            child.start()
            child.join(20)
        assert child.exitcode == 0
        assert ours.poll(0)
        assert ours.recv() == ADDRESS
        assert use(store) == TEST_KEY


class TestStoredContent:
    """What is stored and is not the key of that address is refused without being shown."""

    @pytest.mark.parametrize(
        ("secret", "words"),
        [
            ({"private_key": TEST_KEY.hex()[:-1]}, "63 characters"),
            ({"private_key": f"{TEST_KEY.hex()}\n"}, "white space"),
            ({"private_key": "0x" + "0" * 64}, "no secp256k1"),
            ({"private_key": 17}, "has 2 characters|holds a"),
            ({"private_key": None}, "NoneType"),
            ({"private_key": [TEST_KEY.hex()]}, "list"),
            ({"key": TEST_KEY.hex()}, "no field private_key"),
            ({}, "no field private_key"),
        ],
    )
    def test_what_is_no_key(self, room: Room, secret: dict[str, Any], words: str) -> None:
        room.put(secret)
        error = refused(room.store(), KeyFormatError, words)
        assert error.field == f"vault:{room.mount}/data/{PREFIX}/{ADDRESS}"

    def test_the_key_of_another_address(self, room: Room) -> None:
        room.put_key(OTHER_KEY)
        error = refused(room.store(), KeyMismatchError, "belongs to")
        assert address_of(OTHER_KEY) in error.message

    def test_a_deleted_version_is_not_replaced_by_an_older_one(self, room: Room) -> None:
        room.put_key()
        room.put_key()
        room.admin.secrets.kv.v2.delete_latest_version_of_secret(
            f"{PREFIX}/{ADDRESS}", mount_point=room.mount
        )
        refused(room.store(), KeyDeletedError, "older versions are not used")

    def test_a_destroyed_version(self, room: Room) -> None:
        room.put_key()
        room.admin.secrets.kv.v2.destroy_secret_versions(
            f"{PREFIX}/{ADDRESS}", versions=[1], mount_point=room.mount
        )
        refused(room.store(), KeyDeletedError, "destroyed")

    def test_a_key_that_was_never_there(self, room: Room) -> None:
        refused(room.store(), KeyNotFoundError, "nothing is stored")


class TestWrongSettings:
    """Mount, prefix and credentials that do not fit are told apart as far as Vault lets us know."""

    def test_another_prefix_for_a_token_that_may_read_it(self, room: Room) -> None:
        room.put_key()
        refused(room.store(TokenAuth(room.server.token), prefix="elsewhere"), KeyNotFoundError, "nothing")

    def test_another_prefix_for_the_signer(self, room: Room) -> None:
        room.put_key()
        error = refused(room.store(prefix="elsewhere"), KeyStoreDeniedError, "permission denied")
        assert f"{room.mount}/data/elsewhere/{ADDRESS}" in error.message

    def test_a_mount_that_is_not_there(self, room: Room) -> None:
        refused(
            room.store(TokenAuth(room.server.token), mount="nowhere"),
            KeyStoreSetupError,
            "there is no mount 'nowhere'",
            room.server.token,
        )
        refused(room.store(mount="nowhere"), KeyStoreDeniedError, "permission denied at nowhere/")

    def test_a_mount_of_version_1(self, room: Room) -> None:
        mount = f"{room.mount}-v1"
        room.admin.sys.enable_secrets_engine("kv", path=mount, options={"version": "1"})
        try:
            store = room.store(TokenAuth(room.server.token), mount=mount)
            error = refused(store, KeyStoreSetupError, "not KV version 2")
            assert error.field == "vault_mount"
            with pytest.raises(KeyStoreSetupError, match="not KV version 2"):
                store.check()
        finally:
            room.admin.sys.disable_secrets_engine(mount)

    def test_a_mount_with_part_of_the_prefix_in_it(self, room: Room) -> None:
        store = room.store(TokenAuth(room.server.token), mount=f"{room.mount}/{PREFIX}", prefix="keys")
        refused(store, KeyStoreSetupError, f"lies inside the mount '{room.mount}'")

    @pytest.mark.parametrize(
        ("settings", "field"),
        [
            ({"prefix": "data/session-keys"}, "vault_prefix"),
            ({"mount": "secret/metadata"}, "vault_mount"),
            ({"prefix": "../other"}, "vault_prefix"),
            ({"mount": ""}, "vault_mount"),
            ({"prefix": "a b"}, "vault_prefix"),
        ],
    )
    def test_paths_that_cannot_work_are_refused_at_once(self, settings: dict[str, str], field: str) -> None:
        with pytest.raises(KeyStoreSetupError) as caught:
            VaultKeyStore("http://127.0.0.1:1", "", TokenAuth("t"), **settings)  # type: ignore[arg-type]
        assert caught.value.field == field

    def test_a_wrong_secret_id(self, room: Room) -> None:
        right = room.role(room.signer)
        wrong = replace(right, secret_id="00000000-0000-0000-0000-000000000000")
        error = refused(room.store(wrong), KeyStoreDeniedError, "AppRole login", wrong.secret_id)
        assert error.field == "vault_role_id"

    def test_a_secret_id_that_was_used_up(self, room: Room) -> None:
        auth = room.role(room.signer, secret_id_num_uses=1)
        room.put_key()
        assert use(room.store(auth)) == TEST_KEY
        refused(room.store(auth), KeyStoreDeniedError, "AppRole login", auth.secret_id)

    def test_a_wrong_role_id(self, room: Room) -> None:
        wrong = replace(room.role(room.signer), role_id="nobody")
        refused(room.store(wrong), KeyStoreDeniedError, "AppRole login", wrong.secret_id)

    def test_an_auth_mount_that_is_not_there(self, room: Room) -> None:
        wrong = replace(room.role(room.signer), mount="other-approle")
        refused(room.store(wrong), KeyStoreDeniedError, "AppRole login", wrong.secret_id)

    def test_a_token_that_nobody_handed_out(self, room: Room) -> None:
        token = f"hvs.{keccak(b'session-executor test token').hex()}"
        refused(room.store(TokenAuth(token)), KeyStoreTokenExpiredError, "expired or revoked", token)

    def test_a_token_without_the_policy(self, room: Room) -> None:
        room.put_key()
        token = room.token(f"{room.signer}-that-is-not-there")
        error = refused(room.store(TokenAuth(token)), KeyStoreDeniedError, "permission denied", token)
        assert "config/vault" in error.fix
        with pytest.raises(KeyStoreDeniedError, match="neither read nor create"):
            room.store(TokenAuth(token)).check()

    def test_check_makes_do_with_a_policy_that_reads_and_nothing_else(self, room: Room) -> None:
        policy = f"{room.signer}-bare"
        room.admin.sys.create_or_update_policy(
            policy, f'path "{room.mount}/data/{PREFIX}/*" {{ capabilities = ["read"] }}'
        )
        said = room.store(TokenAuth(room.token(policy))).check()
        assert "of unknown life" in said
        assert said.endswith("may read")

    def test_the_operator_may_not_read(self, room: Room) -> None:
        room.put_key()
        refused(room.store(room.role(room.operator)), KeyStoreDeniedError, "permission denied")

    def test_the_signer_may_not_create_or_list(self, room: Room) -> None:
        store = room.store()
        with pytest.raises(KeyStoreDeniedError):
            store.create()
        with pytest.raises(KeyStoreDeniedError):
            list(store.list())

    def test_a_denied_creation_shows_no_key(self, room: Room) -> None:
        made: list[bytes] = []
        from worker.keys import vault as module

        real = module.generate

        def remember() -> Any:
            key = real()
            made.append(key.use())
            return key

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "generate", remember)
            with pytest.raises(KeyStoreDeniedError) as caught:
                room.store().create()
        assert_no_leak(caught.value, made[0])

    def test_a_label_that_cannot_be_kept_makes_no_key(self, room: Room) -> None:
        operator = room.store(room.role(room.operator))
        with pytest.raises(KeyLabelError):
            operator.create(label="x" * 513)
        assert list(operator.list()) == []

    def test_without_metadata_rights_the_key_is_kept_and_a_warning_logged(self, room: Room) -> None:
        policy = f"{room.signer}-bare"
        room.admin.sys.create_or_update_policy(
            policy, f'path "{room.mount}/data/{PREFIX}/*" {{ capabilities = ["create"] }}'
        )
        with structlog.testing.capture_logs() as logs:
            info = room.store(TokenAuth(room.token(policy))).create(label="lost")
        assert [line["event"] for line in logs] == ["key_metadata_not_written"]
        assert info.label == ""
        assert address_of(use(room.store(), info.address)) == info.address


class TestTokenLife:
    """Tokens run out, are revoked and are renewed; an AppRole carries on by itself."""

    def test_a_revoked_token_is_named_as_such(self, room: Room) -> None:
        room.put_key()
        token = room.token(room.signer)
        store = room.store(TokenAuth(token))
        use(store)
        room.admin.auth.token.revoke(token)
        refused(store, KeyStoreTokenExpiredError, "expired or revoked", token)

    def test_an_approle_whose_token_was_revoked_logs_in_again(self, room: Room) -> None:
        room.put_key()
        store = room.store(room.role(room.signer))
        use(store)
        first = _current_token(store)
        room.admin.auth.token.revoke(first)
        assert use(store) == TEST_KEY
        assert _current_token(store) != first

    def test_an_approle_outlives_many_tokens(self, room: Room) -> None:
        room.put_key()
        store = room.store(room.role(room.signer, token_ttl="2s", token_max_ttl="3s"))
        end = time.monotonic() + 6
        tokens: set[str] = set()
        while time.monotonic() < end:
            assert use(store) == TEST_KEY
            tokens.add(_current_token(store))
            time.sleep(0.4)
        assert len(tokens) >= 2

    def test_a_renewable_token_is_renewed_before_it_runs_out(self, room: Room) -> None:
        room.put_key()
        store = room.store(TokenAuth(room.token(room.signer, period="4s")))
        for _ in range(8):
            assert use(store) == TEST_KEY
            time.sleep(1.2)

    def test_a_token_that_ends_is_warned_about_and_then_named(self, room: Room) -> None:
        room.put_key()
        token = room.token(room.signer, ttl="6s", renewable=False)
        store = room.store(TokenAuth(token))
        with structlog.testing.capture_logs() as logs:
            assert use(store) == TEST_KEY
        (warning,) = [line for line in logs if line["event"] == "vault_token_ends_soon"]
        assert 0 <= warning["seconds_left"] <= 6
        assert token not in json.dumps(warning)
        time.sleep(6.2)
        refused(store, KeyStoreTokenExpiredError, "expired or revoked", token)

    def test_a_shared_token_that_another_process_renewed_is_alive(self, room: Room) -> None:
        room.put_key()
        token = room.token(room.signer, ttl="2s", explicit_max_ttl="60s")
        idle, busy = room.store(TokenAuth(token)), room.store(TokenAuth(token))
        use(idle)
        room.admin.auth.token.renew(token, increment="50s")
        time.sleep(2.2)
        assert use(busy) == TEST_KEY
        assert use(idle) == TEST_KEY


class TestOutages:
    """A Vault that is sealed, down or busy is told apart, and used again without a restart of ours."""

    def test_sealed_and_unsealed(self, sealable_vault: SealableVault) -> None:
        with vault_room(sealable_vault.server) as room:
            room.put_key()
            store = room.store()
            assert use(store) == TEST_KEY
            sealable_vault.seal()
            error = refused(store, KeyStoreUnavailableError, "Vault is sealed")
            assert "unseal" in error.fix
            with pytest.raises(KeyStoreUnavailableError, match="sealed"):
                store.check()
            with pytest.raises(KeyStoreUnavailableError, match="sealed"):
                store.create()
            sealable_vault.unseal()
            assert use(store) == TEST_KEY

    @pytest.mark.timeout(60)
    def test_down_and_up_again(self, sealable_vault: SealableVault) -> None:
        with vault_room(sealable_vault.server) as room:
            room.put_key()
            token = TokenAuth(room.token(room.signer))
            role = room.role(room.signer)
            stores = [room.store(token), room.store(role)]
            for store in stores:
                assert use(store) == TEST_KEY
            sealable_vault.stop()
            refused(stores[0], KeyStoreUnavailableError, "cannot be reached", token.token)
            refused(stores[1], KeyStoreUnavailableError, "cannot be reached", role.secret_id)
            fresh = room.store(token)
            refused(fresh, KeyStoreUnavailableError, "cannot be reached", token.token)
            refused(room.store(role), KeyStoreUnavailableError, "cannot be reached", role.secret_id)
            sealable_vault.start()
            refused(fresh, KeyStoreUnavailableError, "sealed", token.token)
            sealable_vault.unseal()
            for store in [*stores, fresh]:
                assert use(store) == TEST_KEY

    def test_a_vault_that_was_never_initialised(self, tmp_path: Path) -> None:
        addr = f"http://127.0.0.1:{free_port()}"
        store = VaultKeyStore(addr, "", TokenAuth("t"), timeout_s=1.0)
        with (
            running_server(tmp_path, addr),
            pytest.raises(KeyStoreUnavailableError, match="not init") as caught,
        ):
            store.check()
        assert caught.value.fix == "vault operator init"
        with pytest.raises(KeyStoreUnavailableError, match="cannot be reached") as caught:
            store.check()
        assert "vault_addr" in caught.value.fix

    def test_a_rate_limit_is_waited_for_and_then_named(self, room: Room) -> None:
        room.put_key()
        store = room.store(TokenAuth(room.server.token))
        use(store)
        name = f"quota-{room.signer}"
        write: Any = room.admin.write_data
        write("sys/quotas/config", data={"enable_rate_limit_response_headers": True})
        write(f"sys/quotas/rate-limit/{name}", data={"path": room.mount, "rate": 1, "interval": "60s"})
        try:
            assert use(store) == TEST_KEY
            error = refused(store, KeyStoreRateLimitedError, "limits the rate")
            assert isinstance(error, KeyStoreRateLimitedError)
            assert error.retry_after_s is not None
            assert 0 < error.retry_after_s <= 60
        finally:
            room.admin.delete(f"sys/quotas/rate-limit/{name}")


def _current_token(store: VaultKeyStore) -> str:
    connection = store._connect()  # pyright: ignore[reportPrivateUsage]
    return str(connection.client._client.token)  # pyright: ignore[reportPrivateUsage]


class TestNothingShows:
    """Objects that hold credentials do not show them."""

    def test_reprs(self, room: Room) -> None:
        token, role = room.token(room.signer), room.role(room.signer)
        room.put_key()
        for auth, secret in ((TokenAuth(token), token), (role, role.secret_id)):
            store = room.store(auth)
            use(store)
            for shown in (repr(store), repr(auth), repr(vars(store)), str(auth)):
                assert secret not in shown
                assert _current_token(store) not in shown

    def test_an_error_inside_the_signing_block(self, room: Room) -> None:
        room.put_key()
        auth = room.role(room.signer)
        store = room.store(auth)

        def sign() -> None:
            with store.get(ADDRESS) as key:
                assert key.address == ADDRESS
                raise RuntimeError("the signer fell over")

        with pytest.raises(RuntimeError) as caught:
            sign()
        assert_no_leak(caught.value, TEST_KEY, auth.secret_id, _current_token(store))


def test_approle_auth_needs_both_ids() -> None:
    for role_id, secret_id, field in (("", "s", "vault_role_id"), ("r", "", "vault_secret_id")):
        with pytest.raises(KeyStoreSetupError) as caught:
            VaultKeyStore("http://127.0.0.1:1", "", AppRoleAuth(role_id, secret_id))
        assert caught.value.field == field
