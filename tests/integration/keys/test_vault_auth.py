"""Each way of logging in, against a real Vault: wrapped secret ids, Kubernetes, TLS certificates; and KV version 1."""

from __future__ import annotations

import base64
import json
import multiprocessing
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hvac
import pytest
import structlog.testing
from eth_utils.crypto import keccak

from tests.support.http_stub import Answer, Seen, http_stub
from tests.support.leaks import assert_no_leak
from tests.support.vault import VaultServer
from tests.support.vault_room import ADDRESS, PREFIX, TEST_KEY, Room
from tests.support.vault_tls import Certificates, TlsVault, certificates, tls_vault
from worker.keys.errors import (
    KeyNotFoundError,
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreSetupError,
    KeyStoreUnavailableError,
    KeyStoreWrappingError,
)
from worker.keys.port import KeyStore
from worker.keys.secp256k1 import address_of
from worker.keys.vault import AppRoleAuth, CertAuth, KubernetesAuth, Tls, TokenAuth, VaultKeyStore

pytestmark = pytest.mark.services


def use(store: KeyStore, address: str = ADDRESS) -> bytes:
    with store.get(address) as key:
        return key.use()


def refused(store: KeyStore, error: type[KeyStoreError], words: str, *secrets: str) -> KeyStoreError:
    with pytest.raises(error, match=words) as caught:
        use(store)
    assert type(caught.value) is error
    assert caught.value.field
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert_no_leak(caught.value, TEST_KEY, *secrets)
    return caught.value


def wrapped(room: Room, *, ttl: str = "60s", **options: Any) -> AppRoleAuth:
    """Credentials of a new role whose secret id is still wrapped."""
    plain = room.role(room.signer, **options)
    names: Any = room.admin.list("auth/approle/role")
    name = next(
        name
        for name in names["data"]["keys"]
        if room.admin.auth.approle.read_role_id(name)["data"]["role_id"] == plain.role_id  # type: ignore[index]
    )
    made: Any = room.admin.auth.approle.generate_secret_id(name, wrap_ttl=ttl)
    return AppRoleAuth(plain.role_id, made["wrap_info"]["token"], wrapped=True)


def lose_token(room: Room, store: VaultKeyStore) -> None:
    client = store._connect().client._client  # pyright: ignore[reportPrivateUsage]
    room.admin.auth.token.revoke(client.token)


class TestWrappedSecretId:
    """A wrapping token is used once, by us; everything else is reported as a possible theft."""

    def test_it_is_unwrapped_once_and_the_secret_id_kept_for_later_logins(self, room: Room) -> None:
        room.put_key()
        store = room.store(wrapped(room))
        assert use(store) == TEST_KEY
        lose_token(room, store)
        assert use(store) == TEST_KEY

    def test_used_twice(self, room: Room) -> None:
        room.put_key()
        auth = wrapped(room)
        assert use(room.store(auth)) == TEST_KEY
        with structlog.testing.capture_logs() as logs:
            error = refused(room.store(auth), KeyStoreWrappingError, "possible theft", auth.secret_id)
        assert error.field == "vault_wrapped_secret_id"
        assert "destroy the role's secret ids" in error.fix
        (line,) = [line for line in logs if line["event"] == "vault_wrapping_token_refused"]
        assert line["log_level"] == "error"
        assert auth.secret_id not in json.dumps(line)

    def test_a_thief_who_wraps_it_again_is_noticed(self, room: Room) -> None:
        auth = wrapped(room)
        thief = hvac.Client(url=room.server.addr, token=auth.secret_id)
        secret: Any = thief.adapter.post("/v1/sys/wrapping/unwrap")
        again: Any = room.admin.adapter.post(
            "/v1/sys/wrapping/wrap", json=secret["data"], headers={"X-Vault-Wrap-TTL": "60s"}
        )
        forged = replace(auth, secret_id=again["wrap_info"]["token"])
        error = refused(room.store(forged), KeyStoreWrappingError, "not by the AppRole", forged.secret_id)
        assert "sys/wrapping/wrap" in error.message

    def test_one_that_ran_out(self, room: Room) -> None:
        auth = wrapped(room, ttl="1s")
        time.sleep(1.5)
        refused(room.store(auth), KeyStoreWrappingError, "or ran out", auth.secret_id)

    def test_what_is_no_wrapping_token(self, room: Room) -> None:
        token = room.token(room.signer)
        auth = AppRoleAuth("role", token, wrapped=True)
        refused(room.store(auth), KeyStoreWrappingError, "used before", token)

    def test_a_vault_that_is_down_uses_nothing_up(self, room: Room) -> None:
        room.put_key()
        auth = wrapped(room)
        down = VaultKeyStore("http://127.0.0.1:9", "", auth, mount=room.mount, timeout_s=0.5)
        refused(down, KeyStoreUnavailableError, "cannot be reached", auth.secret_id)
        assert use(room.store(auth)) == TEST_KEY

    def test_unwrapped_before_the_fork_it_serves_every_child(self, room: Room) -> None:
        room.put_key()
        store = room.store(wrapped(room))
        store.unwrap()
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        children = [context.Process(target=lambda: theirs.send(address_of(use(store)))) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        assert [ours.recv(), ours.recv()] == [ADDRESS, ADDRESS]
        store.unwrap()  # nothing to do any more
        assert use(store) == TEST_KEY


SERVICE_ACCOUNT = "system:serviceaccount:trading:session-executor"


def service_account_token(name: str) -> str:
    """A token in the form of Kubernetes's; what it is worth is the API server's (the stub's) to say."""

    def part(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    namespace, account = SERVICE_ACCOUNT.split(":")[2:]
    claims = {
        "iss": "https://kubernetes.default.svc",
        "sub": SERVICE_ACCOUNT,
        "aud": ["vault"],
        "iat": int(time.time()) - 10,
        "exp": int(time.time()) + 600,
        "jti": name,
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": account, "uid": "11111111-2222-3333-4444-555555555555"},
        },
    }
    header = part(json.dumps({"alg": "RS256", "kid": "test"}).encode())
    return f"{header}.{part(json.dumps(claims).encode())}.{part(keccak(name.encode()) * 8)}"


@dataclass(slots=True)
class Cluster:
    """A Kubernetes auth mount in the real Vault, and the API server that it asks."""

    mount: str
    reviewed: list[str]
    accepted: set[str]


@contextmanager
def cluster(room: Room) -> Generator[Cluster]:
    made = Cluster(f"kube/{room.signer}", [], set())

    def answer(seen: Seen) -> Answer:
        assert seen.path == "/apis/authentication.k8s.io/v1/tokenreviews"
        token = json.loads(seen.body)["spec"]["token"]
        made.reviewed.append(token)
        status: dict[str, Any] = {"authenticated": False, "error": "token has been invalidated"}
        if token in made.accepted:
            uid = "11111111-2222-3333-4444-555555555555"
            status = {
                "authenticated": True,
                "user": {"username": SERVICE_ACCOUNT, "uid": uid, "groups": ["system:serviceaccounts"]},
                "audiences": ["vault"],
            }
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
        return Answer(201, review, {"Content-Type": "application/json"})

    with http_stub(answer) as api:
        room.admin.sys.enable_auth_method("kubernetes", path=made.mount)
        room.admin.write_data(
            f"auth/{made.mount}/config",
            data={
                "kubernetes_host": api.url,
                "token_reviewer_jwt": "reviewer",
                "disable_local_ca_jwt": True,
            },
        )
        namespace, account = SERVICE_ACCOUNT.split(":")[2:]
        room.admin.write_data(
            f"auth/{made.mount}/role/signer",
            data={
                "bound_service_account_names": [account],
                "bound_service_account_namespaces": [namespace],
                "audience": "vault",
                "token_policies": [room.signer],
                "token_no_default_policy": True,
                "token_ttl": "60s",
            },
        )
        try:
            yield made
        finally:
            room.admin.sys.disable_auth_method(made.mount)


class TestKubernetes:
    """The pod's service account logs in; its token file is read anew each time."""

    def test_a_service_account_reads_keys_and_its_renewed_token_is_found(
        self, room: Room, tmp_path: Path
    ) -> None:
        room.put_key()
        file = tmp_path / "token"
        first, second = service_account_token("first"), service_account_token("second")
        with cluster(room) as kube:
            kube.accepted.add(first)
            file.write_text(f"{first}\n")
            store = room.store(KubernetesAuth("signer", file, kube.mount))
            assert use(store) == TEST_KEY
            assert use(store) == TEST_KEY
            assert kube.reviewed == [first]
            file.write_text(second)
            kube.accepted = {second}
            lose_token(room, store)
            assert use(store) == TEST_KEY
            assert kube.reviewed == [first, second]
            # the cluster takes it back
            kube.accepted.clear()
            lose_token(room, store)
            error = refused(store, KeyStoreDeniedError, "Kubernetes login", second)
            assert error.field == "vault_auth_role"
            wrong = room.store(KubernetesAuth("nobody", file, kube.mount))
            refused(wrong, KeyStoreDeniedError, "Kubernetes login", second)

    @pytest.mark.parametrize("content", [None, "", "two words"])
    def test_a_token_file_that_cannot_be_used(self, room: Room, tmp_path: Path, content: str | None) -> None:
        file = tmp_path / "token"
        if content is not None:
            file.write_text(content)
        error = refused(room.store(KubernetesAuth("signer", file)), KeyStoreSetupError, str(file))
        assert error.field == "vault_jwt_file"


@pytest.fixture(scope="module")
def tls(
    vault_server: VaultServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TlsVault, Certificates]]:
    """A Vault that takes nobody without a certificate of its CA."""
    folder = tmp_path_factory.mktemp("tls")
    with ExitStack() as stack:
        made = stack.enter_context(certificates(vault_server, folder))
        yield stack.enter_context(tls_vault(folder, made)), made


class TestCertificates:
    """TLS with a CA and a client certificate; the certificate is the login too."""

    def test_a_client_certificate_logs_in(self, tls: tuple[TlsVault, Certificates]) -> None:
        vault, made = tls
        store = VaultKeyStore(vault.addr, "", CertAuth("signer"), tls=made.tls("signer"))
        assert use(store) == TEST_KEY
        assert use(VaultKeyStore(vault.addr, "", CertAuth(), tls=made.tls("signer"))) == TEST_KEY
        assert "may read" in store.check()

    def test_a_certificate_of_another_name(self, tls: tuple[TlsVault, Certificates]) -> None:
        vault, made = tls
        store = VaultKeyStore(vault.addr, "", CertAuth("signer"), tls=made.tls("stranger"))
        error = refused(store, KeyStoreDeniedError, "certificate login")
        assert error.field == "vault_client_cert_file"

    def test_without_a_certificate(self, tls: tuple[TlsVault, Certificates]) -> None:
        vault, made = tls
        store = VaultKeyStore(vault.addr, "", TokenAuth(vault.token), tls=Tls(made.ca_file))
        error = refused(store, KeyStoreSetupError, "asks for a client certificate", vault.token)
        assert error.field == "vault_client_cert_file"
        with pytest.raises(KeyStoreSetupError, match="needs one"):
            VaultKeyStore(vault.addr, "", CertAuth(), tls=Tls(made.ca_file))

    def test_a_server_of_another_ca(
        self, tls: tuple[TlsVault, Certificates], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vault, made = tls
        mine = made.tls("signer")
        unknown = Tls(None, mine.cert_file, mine.key_file)
        monkeypatch.delenv("VAULT_CACERT", raising=False)
        error = refused(
            VaultKeyStore(vault.addr, "", CertAuth(), tls=unknown), KeyStoreSetupError, "not accepted"
        )
        assert "vault_ca_file" in error.fix
        monkeypatch.setenv("VAULT_CACERT", str(made.ca_file))
        assert use(VaultKeyStore(vault.addr, "", CertAuth(), tls=unknown)) == TEST_KEY

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"ca_file": Path("nowhere.pem")}, "vault_ca_file"),
            ({"cert_file": Path("nowhere.pem")}, "vault_client_cert_file"),
            ({"key_file": None}, "vault_client_key_file"),
        ],
    )
    def test_files_that_cannot_be_used(
        self, tls: tuple[TlsVault, Certificates], change: dict[str, Any], field: str
    ) -> None:
        vault, made = tls
        store = VaultKeyStore(vault.addr, "", CertAuth(), tls=replace(made.tls("signer"), **change))
        assert refused(store, KeyStoreSetupError, "cannot be read|is not set").field == field

    def test_a_private_key_that_everybody_may_read(self, tls: tuple[TlsVault, Certificates]) -> None:
        vault, made = tls
        key_file = made.tls("signer").key_file
        assert key_file is not None
        key_file.chmod(0o644)
        try:
            store = VaultKeyStore(vault.addr, "", CertAuth(), tls=made.tls("signer"))
            assert refused(store, KeyStoreSetupError, "every user").field == "vault_client_key_file"
        finally:
            key_file.chmod(0o600)


@pytest.fixture
def v1(room: Room) -> Iterator[str]:
    """A KV version 1 mount with a slash in its name, and a policy for it."""
    mount = f"{room.mount}-v1"
    room.admin.sys.enable_secrets_engine("kv", path=mount, options={"version": "1"})
    room.admin.sys.create_or_update_policy(
        f"{room.signer}-v1", f'path "{mount}/{PREFIX}/*" {{ capabilities = ["read"] }}'
    )
    room.admin.sys.create_or_update_policy(
        f"{room.operator}-v1",
        f'path "{mount}/{PREFIX}/*" {{ capabilities = ["create", "list"] }}\n'
        f'path "{mount}/{PREFIX}" {{ capabilities = ["list"] }}',
    )
    yield mount
    room.admin.sys.disable_secrets_engine(mount)


class TestKvVersion1:
    """A mount without versions works by its setting, and a wrong setting is named."""

    def store(self, room: Room, mount: str, policy: str) -> VaultKeyStore:
        return room.store(TokenAuth(room.token(f"{policy}-v1")), mount=mount, kv_version=1)

    def test_the_operator_creates_and_the_worker_reads(self, room: Room, v1: str) -> None:
        operator, signer = self.store(room, v1, room.operator), self.store(room, v1, room.signer)
        refused(signer, KeyNotFoundError, "nothing is stored")
        with structlog.testing.capture_logs() as logs:
            info = operator.create(label="kept nowhere")
        assert [line["event"] for line in logs] == ["key_metadata_not_written"]
        assert info.label == ""
        assert address_of(use(signer, info.address)) == info.address
        assert [held.address for held in operator.list()] == [info.address]
        assert f"{v1}/{PREFIX}/ (KV v1)" in signer.check()
        with pytest.raises(KeyStoreDeniedError):
            use(operator, info.address)
        with pytest.raises(KeyStoreDeniedError):
            signer.create()

    def test_the_wrong_version_is_named_either_way(self, room: Room, v1: str) -> None:
        room.put_key()
        root = TokenAuth(room.server.token)
        error = refused(room.store(root, mount=v1), KeyStoreSetupError, "is kv version 1, not KV version 2")
        assert "vault_kv_version to 1" in error.fix
        error = refused(
            room.store(root, kv_version=1), KeyStoreSetupError, "is kv version 2, not KV version 1"
        )
        assert "vault_kv_version to 2" in error.fix
        with pytest.raises(KeyStoreSetupError, match="version 2"):
            room.store(root, kv_version=1).check()

    def test_a_policy_without_the_path(self, room: Room, v1: str) -> None:
        store = room.store(TokenAuth(room.token(room.signer)), mount=v1, kv_version=1)
        error = refused(store, KeyStoreDeniedError, "permission denied")
        assert f"{v1}/{PREFIX}/{ADDRESS}" in error.message


@pytest.mark.parametrize(
    ("auth", "field"),
    [
        (AppRoleAuth("role", "secret", "../sys"), "vault_auth_mount"),
        (AppRoleAuth("", "secret", wrapped=True), "vault_role_id"),
        (KubernetesAuth(""), "vault_auth_role"),
        (CertAuth(), "vault_client_cert_file"),
    ],
)
def test_a_login_that_cannot_work_is_refused_at_once(auth: Any, field: str) -> None:
    with pytest.raises(KeyStoreSetupError) as caught:
        VaultKeyStore("http://127.0.0.1:1", "", auth)
    assert caught.value.field == field
