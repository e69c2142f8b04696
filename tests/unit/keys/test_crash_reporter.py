"""Sentry with its defaults, which take local variables along, sees no key and no passphrase of what fails in custody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from eth_utils.crypto import keccak

from tests.support.leaks import spellings

KEY = keccak(b"session-executor test key of a crash")
PASSPHRASE = keccak(b"session-executor test passphrase of a crash").hex()

#: In a process of its own: Sentry hooks itself into everything.
_PROGRAM = """
import json, sys
from pathlib import Path
import eth_keyfile.keyfile
import sentry_sdk
from sentry_sdk.transport import Transport
from worker.execution.sign import signed_by_all
from worker.keys.keystore import KeystoreFiles
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import address_of
from worker.signing import sign

how, folder, key, passphrase = sys.argv[1], Path(sys.argv[2]), bytes.fromhex(sys.argv[3]), sys.argv[4]
events = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        events.append(envelope.serialize().decode())

sentry_sdk.init(dsn="http://public@127.0.0.1:1/1", transport=Kept, send_default_pii=True, max_value_length=100_000)
store = KeystoreFiles(folder / "keys", lambda: passphrase, scrypt_n=2**14)

def broken(*_, **__):
    raise ZeroDivisionError("in the middle of it")

try:
    if how == "nothing done about it":
        sign._recovered = broken
        sign.psigs(key, [bytes(32)])
    store.adopt(SecretKey(key, address_of(key)))
    if how == "signing":
        sign._recovered = broken
        signed_by_all([address_of(key)], store, [bytes(32)])
    if how == "decrypting":
        eth_keyfile.keyfile._scrypt_hash = broken
        with store.get(address_of(key)):
            pass
    if how == "encrypting":
        eth_keyfile.keyfile._scrypt_hash = broken
        store.create()
    if how in ("asking Vault", "logging in to Vault"):
        # the passphrase stands for what Vault gave us, and for what we gave it
        import requests
        from worker.keys.vault import AppRoleAuth, TokenAuth, VaultKeyStore
        requests.Session.send = broken
        auth = TokenAuth(passphrase) if how == "asking Vault" else AppRoleAuth("role", passphrase)
        with VaultKeyStore("http://127.0.0.1:1", "", auth).get(address_of(key)):
            pass
    if how == "using":
        with store.get(address_of(key)) as held:
            broken(held, [held], {"key": held})
except Exception as error:
    sentry_sdk.capture_exception(error)
sentry_sdk.flush()
(event,) = events
print(event)
"""


def reported(how: str, folder: Path) -> str:
    """What Sentry would send of a failure."""
    done = subprocess.run(
        # the arguments are the test's own; Sentry takes ``sys.argv`` along, so they are not given in these words
        [
            sys.executable,
            "-c",
            _PROGRAM.replace("sys.argv[3]", repr(KEY.hex())).replace("sys.argv[4]", repr(PASSPHRASE)),
            how,
            str(folder),
        ],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_search_finds_a_key_where_nothing_is_done_about_it(tmp_path: Path) -> None:
    told = reported("nothing done about it", tmp_path)
    assert repr(KEY).replace("\\", "\\\\") in told or any(form in told for form in spellings(KEY))


@pytest.mark.parametrize(
    "how", ["signing", "decrypting", "encrypting", "using", "asking Vault", "logging in to Vault"]
)
def test_custody_that_fails(tmp_path: Path, how: str) -> None:
    told = reported(how, tmp_path)
    assert '"stacktrace"' in told
    assert repr(KEY).replace("\\", "\\\\") not in told
    assert not [form for form in (*spellings(KEY), PASSPHRASE) if form in told]
