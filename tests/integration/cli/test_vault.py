"""The command with keys in a real Vault that does not let it: one line, exit code 1, nothing made."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from config.vault import bootstrap
from tests.support.e2e import run_command
from tests.support.vault import SealableVault, VaultServer
from tests.support.vault_room import PREFIX, Room, vault_room
from worker.devnet.stack import clean_environment

pytestmark = pytest.mark.services


@pytest.fixture
def room(vault_server: VaultServer) -> Generator[Room]:
    with vault_room(vault_server) as room:
        yield room


def environment(addr: str, token: str, mount: str) -> dict[str, str]:
    """Settings of a machine whose keys are in Vault, and whose memory is the folder that a command is run in."""
    own = {"KEY_STORE": "vault", "VAULT_ADDR": addr, "VAULT_TOKEN": token, "VAULT_MOUNT": mount}
    own["STATE_DIR"] = "state"
    return clean_environment(
        {f"SESSION_EXECUTOR_{name}": value for name, value in (own | {"VAULT_PREFIX": PREFIX}).items()}
    )


def refused(env: dict[str, str], folder: Path, *arguments: str, words: str) -> None:
    """The command fails with one line that holds the words and neither token nor traceback."""
    reply = run_command(env, folder, *arguments)
    assert (reply.returncode, reply.stdout) == (1, "")
    assert reply.stderr.startswith("error: ")
    assert reply.stderr.count("\n") == 1
    assert words in reply.stderr.lower()
    assert env["SESSION_EXECUTOR_VAULT_TOKEN"] not in reply.stderr


def test_an_operator_makes_a_key_and_a_signer_cannot(room: Room, tmp_path: Path) -> None:
    operator = environment(room.server.addr, room.token(room.operator), room.mount)
    made = run_command(operator, tmp_path, "keys", "create", "--label", "desk 1")
    assert made.returncode == 0, made.stderr
    address = made.stdout.strip()
    assert len(address) == 42
    assert address in run_command(operator, tmp_path, "keys", "list", "--json").stdout
    signer = environment(room.server.addr, room.token(room.signer), room.mount)
    refused(signer, tmp_path, "keys", "create", words="permission")


def test_a_wrong_mount_and_a_revoked_token_are_named(room: Room, tmp_path: Path) -> None:
    token = room.token(room.operator)
    refused(environment(room.server.addr, token, "nowhere"), tmp_path, "keys", "create", words="mount")
    refused(environment(room.server.addr, "hvs.wrong", room.mount), tmp_path, "keys", "create", words="token")
    down = environment("http://127.0.0.1:9", token, room.mount)
    refused(down, tmp_path, "keys", "create", words="vault")


def test_keys_are_brought_under_a_transit_key(room: Room, tmp_path: Path) -> None:
    transit = f"keys-{room.mount[-8:]}"
    prepared = bootstrap.Options(room.server.addr, mount=room.mount, transit_key=transit)
    bootstrap.bootstrap(prepared, room.server.token)
    name = f"{transit}-wrapper"
    room.admin.sys.create_or_update_policy(
        name, bootstrap.policy("wrapper", room.mount, PREFIX, transit_key=transit)
    )
    plain = environment(room.server.addr, room.token(room.operator), room.mount)
    address = run_command(plain, tmp_path, "keys", "create", "--label", "desk 1").stdout.strip()
    refused(plain, tmp_path, "keys", "wrap", "--all", words="session_executor_vault_transit_key")
    wrapper = environment(room.server.addr, room.token(name), room.mount)
    wrapper["SESSION_EXECUTOR_VAULT_TRANSIT_KEY"] = transit
    for line in (f"{address} plain -> vault:v1\n", f"{address} vault:v1\n"):
        reply = run_command(wrapper, tmp_path, "keys", "wrap", "--all")
        assert (reply.returncode, reply.stdout) == (0, line), reply.stderr
    assert set(room.stored(address.lower())) == {"ciphertext", "address"}
    told = json.loads(
        run_command(wrapper, tmp_path, "audit", "show", "--what", "key wrapped", "--json").stdout
    )
    assert [(line["key"], line["outcome"]) for line in told] == [
        (address.lower(), "refused"),
        (address.lower(), "done"),
        (address.lower(), "done"),
    ]
    assert [(line["before"], line["after"]) for line in told[1:]] == [
        ("plain", "vault:v1"),
        ("vault:v1", "vault:v1"),
    ]


def test_a_sealed_vault_is_named_and_works_again_unsealed(
    sealable_vault: SealableVault, tmp_path: Path
) -> None:
    server = sealable_vault.server
    env = environment(server.addr, server.token, "secret")
    sealable_vault.seal()
    refused(env, tmp_path, "keys", "create", words="sealed")
    sealable_vault.unseal()
    assert run_command(env, tmp_path, "keys", "create").returncode == 0
