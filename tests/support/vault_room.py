"""A mount of a test's own in the shared Vault, prepared by the real bootstrap, and stores on it."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import hvac
import hvac.exceptions
from eth_utils.crypto import keccak

from config.vault import bootstrap
from tests.support.vault import VaultServer
from worker.keys.secp256k1 import address_of
from worker.keys.vault import AppRoleAuth, TokenAuth, VaultKeyStore
from worker.keys.vault_auth import Auth

TEST_KEY = keccak(b"session-executor test session key")
OTHER_KEY = keccak(b"session-executor test other key")
ADDRESS = address_of(TEST_KEY)
PREFIX = "session-keys"


@dataclass(frozen=True, slots=True)
class Room:
    """One KV v2 mount and policies for it (named after the mount), with an admin client."""

    server: VaultServer
    mount: str
    admin: hvac.Client

    @property
    def signer(self) -> str:
        """The signer's policy."""
        return f"{self.mount.replace('/', '-')}-signer"

    @property
    def operator(self) -> str:
        """The operator's policy."""
        return f"{self.mount.replace('/', '-')}-operator"

    @property
    def custodian(self) -> str:
        """The custodian's policy."""
        return f"{self.mount.replace('/', '-')}-custodian"

    def store(self, auth: Auth | None = None, **overrides: Any) -> VaultKeyStore:
        """A store with ``auth``, by default a new token with the signer's policy."""
        settings: dict[str, Any] = {"mount": self.mount, "prefix": PREFIX, "timeout_s": 3.0}
        auth = auth or TokenAuth(self.token(self.signer))
        return VaultKeyStore(self.server.addr, "", auth, **(settings | overrides))

    def put(self, secret: dict[str, Any], address: str = ADDRESS) -> None:
        """Store ``secret`` as the newest version, as an operator by hand would."""
        self.admin.secrets.kv.v2.create_or_update_secret(
            f"{PREFIX}/{address}", secret, cas=self._version(address), mount_point=self.mount
        )

    def put_key(self, key: bytes = TEST_KEY, address: str = ADDRESS) -> None:
        """Store ``key`` under ``address``."""
        self.put({"private_key": f"0x{key.hex()}"}, address)

    def stored(self, address: str) -> dict[str, Any]:
        """What is stored under ``address``."""
        found: Any = self.admin.secrets.kv.v2.read_secret_version(
            f"{PREFIX}/{address}", mount_point=self.mount, raise_on_deleted_version=True
        )
        return found["data"]["data"]

    def _version(self, address: str) -> int:
        try:
            found: Any = self.admin.secrets.kv.v2.read_secret_metadata(
                f"{PREFIX}/{address}", mount_point=self.mount
            )
        except hvac.exceptions.InvalidPath:
            return 0
        return int(found["data"]["current_version"])

    def token(self, *policies: str, **options: Any) -> str:
        """A new token with ``policies`` and without the default one."""
        made: Any = self.admin.auth.token.create(policies=list(policies), no_default_policy=True, **options)
        return str(made["auth"]["client_token"])

    def role(self, policy: str, **options: Any) -> AppRoleAuth:
        """Credentials of a new AppRole with ``policy``."""
        name = f"role-{secrets.token_hex(4)}"
        self.admin.auth.approle.create_or_update_approle(
            name, token_policies=[policy], token_no_default_policy=True, **options
        )
        role_id: Any = self.admin.auth.approle.read_role_id(name)
        secret_id: Any = self.admin.auth.approle.generate_secret_id(name)
        return AppRoleAuth(role_id["data"]["role_id"], secret_id["data"]["secret_id"])


@contextmanager
def vault_room(server: VaultServer) -> Generator[Room]:
    """A room in ``server``; its mount is removed at the end."""
    mount = f"team/kv-{secrets.token_hex(4)}"
    admin = server.admin()
    bootstrap.bootstrap(bootstrap.Options(server.addr, mount=mount), server.token)
    room = Room(server, mount, admin)
    for kind, own in (
        ("signer", room.signer),
        ("operator", room.operator),
        ("custodian", room.custodian),
    ):
        admin.sys.create_or_update_policy(own, bootstrap.policy(kind, mount, PREFIX))
    yield room
    admin.sys.disable_secrets_engine(mount)
