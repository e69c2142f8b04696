"""Trades whose key is in a real Vault, on a mount with a slash, while tokens end and somebody works on the key.

``VAULT_FAULTS=long`` (``make vault-faults``) takes the times of real life; otherwise the same happens in less time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import hvac.exceptions
import pytest
from pydantic import SecretStr

from tests.support.pipeline import Pipeline, transfer
from tests.support.vault import VaultServer
from tests.support.vault_room import ADDRESS, PREFIX, TEST_KEY, Room, vault_room
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.keys.record_keys import RecordKeyFile
from worker.keys.vault import AppRoleAuth, VaultKeyStore

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]

LONG = os.environ.get("VAULT_FAULTS") == "long"
#: The whole time of trading with one token, and a pause in which nobody uses the key; seconds.
TRADING_S, IDLE_S = (40, 8) if LONG else (11, 6)
#: Life of a token that is renewed; of one whose end is wanted.
TTL_S, SHORT_S = 5, 5 if LONG else 2
USDC_UNIT = 1_000_000


@pytest.fixture(scope="module")
def room(vault_server: VaultServer) -> Iterator[Room]:
    with vault_room(vault_server) as room:
        assert "/" in room.mount
        room.put_key()
        yield room


@pytest.fixture
def trading(make_pipeline: Callable[..., Pipeline], room: Room, tmp_path: Path) -> Callable[..., Pipeline]:
    """A pipeline whose key is in the room, with the login that is given; what seals its records is not in Vault."""
    records = tmp_path / "keys" / "record-keys.json"

    def make(**login: Any) -> Pipeline:
        RecordKeyFile(records, make=True).load()
        pipeline = make_pipeline(
            key_store="vault",
            vault_addr=room.server.addr,
            vault_mount=room.mount,
            vault_prefix=PREFIX,
            vault_timeout_s=3.0,
            record_keys_file=records,
            **login,
        )
        pipeline.key_address = ADDRESS
        pipeline.session = pipeline.approve(limit=900 * USDC_UNIT)
        return pipeline

    return make


def by_token(token: str) -> dict[str, Any]:
    return {"vault_token": SecretStr(token)}


def by_role(auth: AppRoleAuth) -> dict[str, Any]:
    return {"vault_role_id": auth.role_id, "vault_secret_id": SecretStr(auth.secret_id)}


def trade(pipeline: Pipeline, key: str) -> IntentRecord:
    (record,) = pipeline.run(pipeline.submit(key, transfer(USDC_UNIT)), timeout_s=60)
    assert record.state is State.COMPLETED, record
    return record


def stopped(pipeline: Pipeline, key: str, attention: str, words: str) -> str:
    """Submit a trade that is authorized and not signed; its id."""
    intent_id = pipeline.submit(key, transfer(USDC_UNIT))
    (record,) = pipeline.until(lambda: pipeline.ledger.get(intent_id).attention == attention, intent_id)
    assert record.state is State.AUTHORIZED
    assert words in record.reason
    assert record.body == ""
    return intent_id


def _lives(room: Room, token: str) -> bool:
    try:
        room.admin.auth.token.lookup(token)
    except (hvac.exceptions.Forbidden, hvac.exceptions.InvalidPath):
        return False
    return True


def test_a_token_of_a_few_seconds_carries_trades_for_many_of_its_lives(
    trading: Callable[..., Pipeline], room: Room
) -> None:
    """Renewed at the half of each lease, also while nobody trades."""
    pipeline = trading(**by_token(room.token(room.signer)))
    token = room.token(room.signer, ttl=f"{TTL_S}s")
    pipeline.runtime = pipeline.new_runtime(**by_token(token))
    # as a worker's main process does, before anything is to be signed
    cast("VaultKeyStore", pipeline.runtime.keys).keep_alive()
    end = time.monotonic() + TRADING_S
    number = 0
    while time.monotonic() < end:
        trade(pipeline, f"trade {number}")
        if number == 1:
            time.sleep(IDLE_S)
        number += 1
    assert number >= 2
    about: Any = room.admin.auth.token.lookup(token)
    assert about["data"]["creation_ttl"] == TTL_S
    assert about["data"]["last_renewal_time"] - about["data"]["creation_time"] > TTL_S


def test_an_approle_trades_past_the_greatest_life_of_its_tokens(
    trading: Callable[..., Pipeline], room: Room
) -> None:
    life_s = SHORT_S + 1
    role = room.role(room.signer, token_ttl=f"{SHORT_S}s", token_max_ttl=f"{life_s}s")
    pipeline = trading(**by_role(role))
    end = time.monotonic() + 2 * life_s
    number = 0
    while time.monotonic() < end:
        trade(pipeline, f"trade {number}")
        number += 1
    assert number >= 2


def test_a_token_at_its_greatest_life_stops_trades_until_there_is_another(
    trading: Callable[..., Pipeline], room: Room
) -> None:
    pipeline = trading(**by_token(room.token(room.signer)))
    token = room.token(room.signer, ttl=f"{SHORT_S}s", explicit_max_ttl=f"{2 * SHORT_S}s")
    pipeline.runtime = pipeline.new_runtime(**by_token(token))
    cast("VaultKeyStore", pipeline.runtime.keys).keep_alive()
    time.sleep(2 * SHORT_S)
    while _lives(room, token):
        time.sleep(0.2)
    waiting = stopped(pipeline, "after", "KEY_STORE", "the Vault token is expired or revoked")
    executed = pipeline.executed()
    pipeline.runtime = pipeline.new_runtime(**by_token(room.token(room.signer)))
    (record,) = pipeline.run(waiting, timeout_s=60)
    assert (record.state, record.attention) == (State.COMPLETED, "")
    assert pipeline.executed() == executed + 1


def test_a_policy_without_the_path_stops_trades_until_it_has_it(
    trading: Callable[..., Pipeline], room: Room
) -> None:
    name = f"{room.signer}-late"
    room.admin.sys.create_or_update_policy(name, 'path "auth/token/lookup-self" { capabilities = ["read"] }')
    pipeline = trading(**by_role(room.role(name)))
    waiting = stopped(
        pipeline, "a", "KEY_STORE", f"permission denied at {room.mount}/data/{PREFIX}/{ADDRESS}"
    )
    room.admin.sys.create_or_update_policy(
        name, f'path "{room.mount}/data/{PREFIX}/*" {{ capabilities = ["read"] }}'
    )
    (record,) = pipeline.run(waiting, timeout_s=60)
    assert (record.state, record.attention) == (State.COMPLETED, "")


def test_a_quota_slows_trades_down_and_loses_none(trading: Callable[..., Pipeline], room: Room) -> None:
    pipeline = trading(**by_role(room.role(room.signer)))
    trade(pipeline, "before")
    quota = f"sys/quotas/rate-limit/quota-{room.signer}"
    write: Any = room.admin.write_data
    write("sys/quotas/config", data={"enable_rate_limit_response_headers": True})
    write(quota, data={"path": room.mount, "rate": 1, "interval": "2s"})
    try:
        ids = [pipeline.submit(f"trade {number}", transfer(USDC_UNIT)) for number in range(3)]
        records = pipeline.run(*ids, timeout_s=60)
    finally:
        room.admin.delete(quota)
    assert [record.state for record in records] == [State.COMPLETED] * 3


def test_a_deleted_or_destroyed_version_is_never_replaced_by_an_older_one(
    trading: Callable[..., Pipeline], room: Room
) -> None:
    """The older version holds the very same key, and still nothing is signed with it."""
    pipeline = trading(**by_role(room.role(room.signer)))
    kv, path = room.admin.secrets.kv.v2, f"{PREFIX}/{ADDRESS}"
    try:
        room.put_key()
        newest = int(kv.read_secret_metadata(path, mount_point=room.mount)["data"]["current_version"])
        assert newest >= 2
        kv.delete_latest_version_of_secret(path, mount_point=room.mount)
        waiting = stopped(pipeline, "deleted", "KEY_DELETED", "older versions are not used")
        kv.undelete_secret_versions(path, versions=[newest], mount_point=room.mount)
        (record,) = pipeline.run(waiting, timeout_s=60)
        assert (record.state, record.attention) == (State.COMPLETED, "")
        kv.destroy_secret_versions(path, versions=[newest], mount_point=room.mount)
        stopped(pipeline, "destroyed", "KEY_DELETED", "older versions are not used")
        executed = pipeline.executed()
        time.sleep(1)
        pipeline.until(lambda: True)
        assert pipeline.executed() == executed
        older: Any = kv.read_secret_version(
            path, version=newest - 1, mount_point=room.mount, raise_on_deleted_version=True
        )
        assert older["data"]["data"]["private_key"] == f"0x{TEST_KEY.hex()}"
    finally:
        room.put_key()
