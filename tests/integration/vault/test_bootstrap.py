"""``python -m config.vault.bootstrap`` on real Vaults: what it makes, that it can be run again, and who may do what."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import pytest

from config.settings import Settings
from config.vault import bootstrap
from tests.support.vault import SealableVault, VaultServer, dev_vault, free_port, running_server
from tests.support.vault_room import ADDRESS, OTHER_KEY, TEST_KEY
from worker.keys.errors import KeyStoreDeniedError
from worker.keys.record_keys import VaultRecordKeys
from worker.keys.secp256k1 import address_of
from worker.keys.vault import AppRoleAuth, TokenAuth, VaultKeyStore
from worker.sealing import Sealer, SealKeys

pytestmark = pytest.mark.services

ROOT = Path(__file__).parents[3]


def run(addr: str, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """The command as an operator runs it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("VAULT_", "SESSION_EX"))}
    env |= {"VAULT_ADDR": addr} | ({"VAULT_TOKEN": token} if token else {})
    return subprocess.run(
        [sys.executable, "-m", "config.vault.bootstrap", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def settings_of(file: Path) -> Settings:
    return Settings(_env_file=file)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def approle_of(file: Path) -> AppRoleAuth:
    settings = settings_of(file)
    assert settings.key_store == "vault"
    assert settings.vault_secret_id is not None
    return AppRoleAuth(settings.vault_role_id, settings.vault_secret_id.get_secret_value())


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Vault that the command prepared, and what it wrote."""

    server: VaultServer
    signer_env: Path
    worker_env: Path
    enqueuer_env: Path
    operator_env: Path
    custodian_env: Path
    output: str

    @property
    def files(self) -> dict[str, Path]:
        """The credentials by the option that writes them."""
        return {
            "--signer-env": self.signer_env,
            "--worker-env": self.worker_env,
            "--enqueuer-env": self.enqueuer_env,
            "--operator-env": self.operator_env,
            "--custodian-env": self.custodian_env,
        }

    def client(self, file: Path) -> hvac.Client:
        """Logged in with the credentials of ``file``."""
        auth = approle_of(file)
        client = hvac.Client(url=self.server.addr, token="")
        client.auth.approle.login(auth.role_id, auth.secret_id)
        return client


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    folder = tmp_path_factory.mktemp("bootstrap")
    with dev_vault(folder) as server:
        made = Prepared(server, *(folder / f"{kind}.env" for kind in bootstrap.KINDS), output="")
        done = run(server.addr, *(f"{name}={file}" for name, file in made.files.items()), token=server.token)
        assert done.returncode == 0, done.stderr
        yield replace(made, output=done.stdout)


class TestWhatItMakes:
    """Policies, roles and credentials that work, in private files, and nothing secret on the screen."""

    def test_the_credentials_are_in_private_files_only(self, prepared: Prepared) -> None:
        for file in prepared.files.values():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert approle_of(file).secret_id not in prepared.output
        assert prepared.server.token not in prepared.output
        assert len({approle_of(file).role_id for file in prepared.files.values()}) == 5
        assert [path.name for path in prepared.worker_env.parent.glob(".*.env*")] == []

    def test_the_operator_creates_and_the_signer_signs(self, prepared: Prepared) -> None:
        operator = VaultKeyStore(prepared.server.addr, "", approle_of(prepared.operator_env))
        signer = VaultKeyStore(prepared.server.addr, "", approle_of(prepared.signer_env))
        info = operator.create(label="first")
        assert info in list(operator.list())
        with signer.get(info.address) as key:
            assert address_of(key.use()) == info.address
        assert signer.check().endswith("may read")
        assert operator.check().endswith("may create")

    def test_a_second_run_changes_nothing(self, prepared: Prepared) -> None:
        before = {file: file.read_bytes() for file in prepared.files.values()}
        again = run(
            prepared.server.addr,
            *(f"{name}={file}" for name, file in prepared.files.items()),
            token=prepared.server.token,
        )
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("holds working credentials") == 5
        assert {file: file.read_bytes() for file in before} == before

    def test_credentials_that_no_longer_log_in_are_replaced(self, prepared: Prepared, tmp_path: Path) -> None:
        file = tmp_path / "signer.env"
        lines = prepared.signer_env.read_text().splitlines()
        lines[2] = lines[2].partition("=")[0] + "=00000000-0000-0000-0000-000000000000"
        file.write_text("\n".join(lines) + "\n")
        done = run(prepared.server.addr, f"--signer-env={file}", token=prepared.server.token)
        assert done.returncode == 0, done.stderr
        assert f"credentials of session-executor-signer written to {file}" in done.stdout
        assert VaultKeyStore(prepared.server.addr, "", approle_of(file)).check()

    def test_tokens_are_short_lived_and_carry_one_policy(self, prepared: Prepared) -> None:
        for kind, file in zip(bootstrap.KINDS, prepared.files.values(), strict=True):
            policy = f"session-executor-{kind}"
            about: Any = prepared.client(file).auth.token.lookup_self()
            assert about["data"]["policies"] == [policy]
            assert 0 < about["data"]["ttl"] <= 3600
            assert about["data"]["creation_ttl"] == 3600
            assert about["data"]["renewable"]


Attempt = Callable[[hvac.Client], Any]
PATH = f"session-keys/{ADDRESS}"


def _any(client: Any) -> Any:
    return client


def _kv(client: hvac.Client) -> Any:
    return client.secrets.kv.v2


def read(client: hvac.Client) -> Any:
    return _kv(client).read_secret_version(PATH, raise_on_deleted_version=True)


def overwrite(client: hvac.Client) -> Any:
    return _kv(client).create_or_update_secret(PATH, {"private_key": "x"}, cas=1)


def patch(client: hvac.Client) -> Any:
    """By PATCH itself; hvac's own ``patch`` may read and write instead."""
    return client.adapter.request(
        "patch",
        f"/v1/secret/data/{PATH}",
        headers={"Content-Type": "application/merge-patch+json"},
        json={"data": {"private_key": "x"}, "options": {"cas": 1}},
    )


DESTRUCTIVE: dict[str, Attempt] = {
    "overwrite": overwrite,
    "overwrite without cas": lambda c: _kv(c).create_or_update_secret(PATH, {"private_key": "x"}),
    "patch": patch,
    "delete": lambda c: _kv(c).delete_latest_version_of_secret(PATH),
    "delete versions": lambda c: _kv(c).delete_secret_versions(PATH, [1]),
    "destroy": lambda c: _kv(c).destroy_secret_versions(PATH, [1]),
    "delete metadata": lambda c: _kv(c).delete_metadata_and_all_versions(PATH),
    "expire": lambda c: _kv(c).update_metadata(PATH, delete_version_after="1s"),
    "forget versions": lambda c: _kv(c).update_metadata(PATH, max_versions=1),
    "drop the cas rule": lambda c: _kv(c).update_metadata(PATH, cas_required=False),
    "configure the mount": lambda c: _kv(c).configure(max_versions=1),
}
OUTSIDE: dict[str, Attempt] = {
    "read another prefix": lambda c: _kv(c).read_secret_version("app/db", raise_on_deleted_version=True),
    "read a prefix that starts alike": lambda c: _kv(c).read_secret_version(
        f"session-keys-other/{ADDRESS}", raise_on_deleted_version=True
    ),
    "list the mount": lambda c: _kv(c).list_secrets(""),
    "list mounts": lambda c: _any(c).sys.list_mounted_secrets_engines(),
    "read a policy": lambda c: _any(c).sys.read_policy("session-executor-signer"),
    "write a policy": lambda c: _any(c).sys.create_or_update_policy("session-executor-signer", 'path "*" {}'),
    "make a token": lambda c: _any(c).auth.token.create(policies=["root"]),
    "make a secret id": lambda c: _any(c).auth.approle.generate_secret_id("session-executor-signer"),
    "read the role id": lambda c: _any(c).auth.approle.read_role_id("session-executor-signer"),
    "seal": lambda c: _any(c).sys.seal(),
}


@pytest.fixture(scope="module")
def stored(prepared: Prepared) -> Prepared:
    """With a key, and secrets of others beside it."""
    kv = _kv(prepared.server.admin())
    kv.create_or_update_secret(PATH, {"private_key": f"0x{TEST_KEY.hex()}"}, cas=0)
    kv.create_or_update_secret(f"session-keys-other/{ADDRESS}", {"private_key": "x"}, cas=0)
    kv.create_or_update_secret("app/db", {"password": "x"}, cas=0)
    return prepared


def denied(client: hvac.Client, attempt: Attempt) -> None:
    with pytest.raises(hvac.exceptions.Forbidden):
        attempt(client)


class TestLeastPrivilege:
    """The real Vault lets the signer read session keys, the operator create them, and nobody else do anything."""

    def test_the_signer_reads(self, stored: Prepared) -> None:
        found = read(stored.client(stored.signer_env))
        assert found["data"]["data"]["private_key"] == f"0x{TEST_KEY.hex()}"

    @pytest.mark.parametrize("what", [*DESTRUCTIVE, *OUTSIDE])
    def test_the_signer_does_nothing_else(self, stored: Prepared, what: str) -> None:
        denied(stored.client(stored.signer_env), (DESTRUCTIVE | OUTSIDE)[what])

    @pytest.mark.parametrize("kind", ["--worker-env", "--enqueuer-env"])
    def test_who_prepares_or_enqueues_gets_403_on_a_key(self, stored: Prepared, kind: str) -> None:
        client = stored.client(stored.files[kind])
        for attempt in (read, *DESTRUCTIVE.values(), *OUTSIDE.values()):
            denied(client, attempt)
        denied(client, lambda c: _kv(c).list_secrets("session-keys"))
        denied(client, lambda c: _kv(c).read_secret_metadata(PATH))
        denied(client, lambda c: _kv(c).create_or_update_secret("session-keys/new", {"a": "b"}, cas=0))
        store = VaultKeyStore(stored.server.addr, "", approle_of(stored.files[kind]))
        with pytest.raises(KeyStoreDeniedError, match="permission denied at secret/data/session-keys"):
            store.get(ADDRESS).__enter__()
        with pytest.raises(KeyStoreDeniedError, match="workers that sign nothing need neither"):
            store.check()

    @pytest.mark.parametrize("kind", ["worker", "enqueuer"])
    def test_their_policy_denies_even_beside_one_that_allows(self, stored: Prepared, kind: str) -> None:
        made: Any = stored.server.admin().auth.token.create(
            policies=[f"session-executor-{kind}", "session-executor-signer"], no_default_policy=True
        )
        denied(hvac.Client(url=stored.server.addr, token=made["auth"]["client_token"]), read)

    def test_the_signer_neither_lists_nor_creates(self, stored: Prepared) -> None:
        client = stored.client(stored.signer_env)
        denied(client, lambda c: _kv(c).list_secrets("session-keys"))
        denied(client, lambda c: _kv(c).read_secret_metadata(PATH))
        denied(client, lambda c: _kv(c).create_or_update_secret("session-keys/new", {"a": "b"}, cas=0))

    @pytest.mark.parametrize("what", [*DESTRUCTIVE, *OUTSIDE])
    def test_the_operator_can_neither_harm_a_key_nor_look_around(self, stored: Prepared, what: str) -> None:
        denied(stored.client(stored.operator_env), (DESTRUCTIVE | OUTSIDE)[what])

    def test_the_operator_creates_lists_and_labels_and_reads_no_key(self, stored: Prepared) -> None:
        client = stored.client(stored.operator_env)
        path = f"session-keys/{address_of(OTHER_KEY)}"
        _kv(client).create_or_update_secret(path, {"private_key": f"0x{OTHER_KEY.hex()}"}, cas=0)
        _kv(client).update_metadata(path, custom_metadata={"label": "two"})
        assert address_of(OTHER_KEY) in _kv(client).list_secrets("session-keys")["data"]["keys"]
        denied(client, read)
        denied(client, lambda c: _kv(c).read_secret_version(path, raise_on_deleted_version=True))

    @pytest.mark.parametrize("what", [what for what in [*DESTRUCTIVE, *OUTSIDE] if what != "destroy"])
    def test_the_custodian_reads_no_key_and_harms_one_in_no_other_way(
        self, stored: Prepared, what: str
    ) -> None:
        client = stored.client(stored.custodian_env)
        denied(client, read)
        denied(client, (DESTRUCTIVE | OUTSIDE)[what])
        denied(client, lambda c: _kv(c).create_or_update_secret("session-keys/new", {"a": "b"}, cas=0))

    @pytest.mark.parametrize("policy", ["no-such-policy", "default"])
    def test_a_token_of_something_else_gets_nothing(self, stored: Prepared, policy: str) -> None:
        made: Any = stored.server.admin().auth.token.create(
            policies=[policy], no_default_policy=policy != "default"
        )
        client = hvac.Client(url=stored.server.addr, token=made["auth"]["client_token"])
        for attempt in (read, *DESTRUCTIVE.values(), *OUTSIDE.values()):
            denied(client, attempt)
        denied(client, lambda c: _kv(c).list_secrets("session-keys"))

    def test_nothing_of_it_changed_the_key(self, stored: Prepared) -> None:
        found = read(stored.server.admin())
        assert found["data"]["metadata"]["version"] == 1
        assert found["data"]["data"]["private_key"] == f"0x{TEST_KEY.hex()}"


class TestInitAndUnseal:
    """With ``--init-file`` an empty Vault becomes usable, and a sealed one usable again."""

    def test_from_empty_through_a_restart(self, tmp_path: Path) -> None:
        addr = f"http://127.0.0.1:{free_port()}"
        init, signer, audit = tmp_path / "init.json", tmp_path / "s" / ".env", tmp_path / "audit.log"
        arguments = [f"--init-file={init}", f"--signer-env={signer}", f"--audit-file={audit}"]
        with running_server(tmp_path, addr):
            refused = run(addr, f"--signer-env={signer}", "--wait-s=5")
            assert refused.returncode == 1
            assert "not initialised" in refused.stderr
            first = run(addr, *arguments)
            assert first.returncode == 0, first.stderr
            assert "Vault initialised" in first.stdout
            assert stat.S_IMODE(init.stat().st_mode) == 0o600
            again = run(addr, *arguments)
            assert again.returncode == 0, again.stderr
            assert "audit log is on" in again.stdout
            kept = signer.read_bytes()
            _kv(hvac.Client(url=addr, token=_root(init))).create_or_update_secret(
                PATH, {"private_key": f"0x{TEST_KEY.hex()}"}, cas=0
            )
        with running_server(tmp_path, addr):
            sealed = run(addr, f"--signer-env={signer}", token=_root(init))
            assert sealed.returncode == 1
            assert "sealed" in sealed.stderr
            done = run(addr, *arguments)
            assert done.returncode == 0, done.stderr
            assert "Vault unsealed" in done.stdout
            assert signer.read_bytes() == kept
            with VaultKeyStore(addr, "", approle_of(signer)).get(ADDRESS) as key:
                assert key.use() == TEST_KEY
        for output in (first.stdout, again.stdout, done.stdout, audit.read_text()):
            assert _root(init) not in output
            assert TEST_KEY.hex() not in output
        assert f"session-keys/{ADDRESS}" in audit.read_text()

    def test_a_damaged_init_file(self, tmp_path: Path) -> None:
        addr = f"http://127.0.0.1:{free_port()}"
        init = tmp_path / "init.json"
        with running_server(tmp_path, addr):
            assert run(addr, f"--init-file={init}").returncode == 0
            for content in ("", "{}", "[]", "{"):
                init.write_text(content)
                refused = run(addr, f"--init-file={init}")
                assert refused.returncode == 1
                assert f"{init} is damaged" in refused.stderr

    def test_an_init_file_that_cannot_be_written_leaves_vault_as_it_is(self, tmp_path: Path) -> None:
        addr = f"http://127.0.0.1:{free_port()}"
        (tmp_path / "file").write_text("")
        with running_server(tmp_path, addr):
            refused = run(addr, f"--init-file={tmp_path / 'file' / 'init.json'}")
            assert refused.returncode == 1
            assert "cannot write" in refused.stderr
            assert not hvac.Client(url=addr, token="").sys.is_initialized()


def _root(init: Path) -> str:
    return str(json.loads(init.read_text())["root_token"])


class TestRefusals:
    """Each failure is one line with what to do, exit code 1, and no traceback."""

    def one_line(self, done: subprocess.CompletedProcess[str], words: str) -> None:
        assert done.returncode == 1
        assert done.stderr.startswith("vault: ")
        assert done.stderr.count("\n") == 1
        assert words in done.stderr

    def test_down(self) -> None:
        self.one_line(run(f"http://127.0.0.1:{free_port()}", "--wait-s=0.5", token="t"), "does not answer")

    def test_no_token(self, prepared: Prepared) -> None:
        self.one_line(run(prepared.server.addr), "set VAULT_TOKEN")

    def test_a_token_that_is_none(self, prepared: Prepared) -> None:
        done = run(prepared.server.addr, token="hvs.unknown")
        self.one_line(done, "permission denied")
        assert "hvs.unknown" not in done.stderr

    def test_a_token_that_may_not(self, prepared: Prepared) -> None:
        made: Any = prepared.server.admin().auth.token.create(policies=["default"])
        done = run(prepared.server.addr, token=made["auth"]["client_token"])
        self.one_line(done, "permission denied")
        assert made["auth"]["client_token"] not in done.stderr

    def test_a_mount_of_version_1(self, sealable_vault: SealableVault) -> None:
        admin = sealable_vault.server.admin()
        admin.sys.enable_secrets_engine("kv", path="old", options={"version": "1"})
        done = run(sealable_vault.server.addr, "--mount=old", token=sealable_vault.server.token)
        self.one_line(done, "is not KV version 2")

    @pytest.mark.parametrize("mount", ["a b", "../x", 'x" {', "/", "x//y"])
    def test_a_mount_that_would_change_the_policy(self, prepared: Prepared, mount: str) -> None:
        done = run(prepared.server.addr, f"--prefix={mount}", token=prepared.server.token)
        self.one_line(done, "is not a path")

    def test_a_credentials_file_that_cannot_be_written(self, prepared: Prepared, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        done = run(
            prepared.server.addr, f"--worker-env={tmp_path / 'file' / 'x.env'}", token=prepared.server.token
        )
        self.one_line(done, "cannot")


def test_another_mount_and_prefix_get_policies_of_their_own(tmp_path: Path) -> None:
    with dev_vault(tmp_path) as server:
        signer = tmp_path / "signer.env"
        done = run(
            server.addr, "--mount=team/kv", "--prefix=prod/keys", f"--signer-env={signer}", token=server.token
        )
        assert done.returncode == 0, done.stderr
        operator = VaultKeyStore(
            server.addr, "", TokenAuth(server.token), mount="team/kv", prefix="prod/keys"
        )
        info = operator.create()
        store = VaultKeyStore(server.addr, "", approle_of(signer), mount="team/kv", prefix="prod/keys")
        with store.get(info.address) as key:
            assert address_of(key.use()) == info.address


class TestTheKeysOfTheSeals:
    """Made once, added to and dropped on request; what a dropped key has sealed is refused."""

    def test_rotate_then_drop(self, prepared: Prepared) -> None:
        server, mount = prepared.server, "seals"
        store = VaultKeyStore(server.addr, "", TokenAuth(server.token), mount=mount)

        def keys_after(*flags: str) -> SealKeys:
            done = run(server.addr, f"--mount={mount}", *flags, token=server.token)
            assert done.returncode == 0, done.stderr
            known = VaultRecordKeys(store, "session-executor/records").load()
            assert not any(key.hex() in done.stdout + done.stderr for key in known.keys.values())
            return known

        first = keys_after()
        seal = Sealer(lambda: first).seal("record", "of the first key")
        assert keys_after() == first
        second = keys_after("--rotate-record-key")
        assert set(second.keys) == {first.current, second.current}
        assert second.keys[first.current] == first.keys[first.current]
        assert Sealer(lambda: second).problem(seal, "record", "of the first key") == ""
        assert keys_after() == second
        third = keys_after("--drop-old-record-keys")
        assert third.keys == {second.current: second.keys[second.current]}
        assert keys_after("--drop-old-record-keys") == third
        assert "none of ours" in Sealer(lambda: third).problem(seal, "record", "of the first key")
        both = keys_after("--rotate-record-key", "--drop-old-record-keys")
        assert set(both.keys) == {both.current} != {second.current}
