"""A Vault behind TLS that asks for client certificates; CA and certificates are made by another Vault's PKI engine."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hvac
import hvac.exceptions
import pytest
import requests

from config.vault import bootstrap
from tests.support.vault import VaultServer, free_port, run_vault
from tests.support.vault_room import ADDRESS, TEST_KEY
from worker.keys.vault import Tls


@dataclass(frozen=True, slots=True)
class Certificates:
    """A CA in ``ca_file``, and ``<name>.pem`` with ``<name>.key`` for the server and each client."""

    folder: Path
    ca_file: Path

    def tls(self, name: str) -> Tls:
        """What a client called ``name`` shows."""
        return Tls(self.ca_file, self.folder / f"{name}.pem", self.folder / f"{name}.key")


@contextmanager
def certificates(server: VaultServer, folder: Path) -> Generator[Certificates]:
    """A CA, and certificates of ``server`` (for 127.0.0.1), ``signer`` and ``stranger``."""
    admin, mount = server.admin(), f"pki-{secrets.token_hex(4)}"
    admin.sys.enable_secrets_engine("pki", path=mount)
    try:
        root: Any = admin.secrets.pki.generate_root("internal", "session-executor test CA", mount_point=mount)
        ca_file = folder / "ca.pem"
        ca_file.write_text(root["data"]["certificate"])
        admin.secrets.pki.create_or_update_role(
            "any", {"allow_any_name": True, "enforce_hostnames": False, "ttl": "24h"}, mount_point=mount
        )
        for name in ("server", "signer", "stranger"):
            made: Any = admin.secrets.pki.generate_certificate(
                "any", name, extra_params={"ip_sans": "127.0.0.1"}, mount_point=mount
            )
            (folder / f"{name}.pem").write_text(made["data"]["certificate"])
            key_file = folder / f"{name}.key"
            key_file.touch(mode=0o600)
            key_file.write_text(made["data"]["private_key"])
        yield Certificates(folder, ca_file)
    finally:
        admin.sys.disable_secrets_engine(mount)


@dataclass(frozen=True, slots=True)
class TlsVault:
    """Unsealed, with the test key at ``secret`` and the certificate role ``signer``."""

    addr: str
    token: str = field(repr=False)


@contextmanager
def tls_vault(folder: Path, made: Certificates) -> Generator[TlsVault]:
    """A Vault in memory that refuses every connection without a certificate of the CA."""
    port = free_port()
    config = folder / "vault-tls.hcl"
    config.write_text(
        'storage "inmem" {}\n'
        f'listener "tcp" {{\n  address = "127.0.0.1:{port}"\n'
        f'  tls_cert_file = "{folder / "server.pem"}"\n  tls_key_file = "{folder / "server.key"}"\n'
        f'  tls_client_ca_file = "{made.ca_file}"\n  tls_require_and_verify_client_cert = true\n}}\n'
        f'disable_mlock = true\napi_addr = "https://127.0.0.1:{port}"\n'
    )
    addr = f"https://127.0.0.1:{port}"
    log = folder / "vault-tls.log"
    # without a certificate it answers nobody, and the handshake's refusal is an answer too
    with run_vault(["server", f"-config={config}"], {"HOME": str(folder)}, log, addr):
        mine = made.tls("server")
        admin = hvac.Client(
            url=addr, token="", verify=str(made.ca_file), cert=(str(mine.cert_file), str(mine.key_file))
        )
        _wait_until(lambda: admin.sys.is_initialized() in (True, False))
        opened: Any = admin.sys.initialize(secret_shares=1, secret_threshold=1)
        admin.sys.submit_unseal_key(opened["keys"][0])
        admin.token = opened["root_token"]
        _wait_until(lambda: bool(admin.auth.token.lookup_self()))
        admin.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        admin.sys.create_or_update_policy("signer", bootstrap.policy("signer", "secret", "session-keys"))
        admin.sys.enable_auth_method("cert")
        admin.write_data(
            "auth/cert/certs/signer",
            data={
                "certificate": made.ca_file.read_text(),
                "allowed_common_names": ["signer"],
                "token_policies": ["signer"],
                "token_no_default_policy": True,
                "token_ttl": "60s",
            },
        )
        _wait_until(
            lambda: bool(
                admin.secrets.kv.v2.create_or_update_secret(
                    f"session-keys/{ADDRESS}", {"private_key": f"0x{TEST_KEY.hex()}"}
                )
            )
        )
        yield TlsVault(addr, opened["root_token"])


def _wait_until(probe: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if probe():
                return
        except (hvac.exceptions.VaultError, requests.RequestException) as error:
            if time.monotonic() > deadline:
                pytest.fail(f"the Vault behind TLS did not become ready: {type(error).__name__}: {error}")
        time.sleep(0.1)
