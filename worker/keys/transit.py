"""The second layer: session keys lie in KV as ciphertext of Vault's Transit engine and are decrypted for each use.

Who reads KV alone (a backup, a replica, a policy that is too wide) has no key then; whoever decrypts needs a right of its
own. The Transit key is derived with the session key's address as its context, so that a ciphertext that was copied to
another path does not decrypt there.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, cast

from worker.keys.errors import KeyFormatError, KeyMismatchError, KeyStoreError, KeyStoreSetupError
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import secret_from_bytes, secret_from_text
from worker.keys.vault_http import VaultHttp, VaultReplyError

CIPHERTEXT, PLAIN = "ciphertext", "private_key"
"""Fields of a stored secret; it has one of them."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_CIPHERTEXT = re.compile(r"vault:v[1-9][0-9]*:[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True)
class Transit:
    """A Transit key: its name and the mount of its engine.

    Raises:
        KeyStoreSetupError: one of them is no path.
    """

    key: str
    mount: str = "transit"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.key) or self.key in (".", ".."):
            raise KeyStoreSetupError(
                f"'{self.key}' is no name of a Transit key",
                field="vault_transit_key",
                fix="use letters, digits and - _ .",
            )
        if not all(_NAME.fullmatch(part) and part != ".." for part in self.mount.split("/")):
            raise KeyStoreSetupError(
                f"'{self.mount}' is not a path",
                field="vault_transit_mount",
                fix="use letters, digits, - _ . separated by /",
            )

    def path(self, what: str) -> str:
        """Of an operation, as policies name it: ``transit/decrypt/session-keys``."""
        return f"{self.mount}/{what}/{self.key}"

    def encrypt(self, client: VaultHttp, key: SecretKey) -> str:
        """The ciphertext of a key. Raises VaultReplyError, requests.RequestException."""
        return self._run(
            client,
            "encrypt",
            "ciphertext",
            plaintext=base64.b64encode(key.use()).decode(),
            context=_context(key.address),
        )

    def rewrap(self, client: VaultHttp, ciphertext: str, address: str) -> str:
        """The ciphertext under the newest version of the Transit key. Raises as ``encrypt``."""
        return self._run(client, "rewrap", "ciphertext", ciphertext=ciphertext, context=_context(address))

    def decrypt(self, client: VaultHttp, ciphertext: str, address: str) -> SecretKey | str:
        """The key, or why what was encrypted is none. Raises as ``encrypt``."""
        text = self._run(client, "decrypt", "plaintext", ciphertext=ciphertext, context=_context(address))
        try:
            return secret_from_bytes(base64.b64decode(text, validate=True))
        except binascii.Error:
            return "is no base64"

    def _run(self, client: VaultHttp, what: str, wanted: str, **body: str) -> str:
        path = self.path(what)
        try:
            reply = client.transit(path, body)
        except VaultReplyError as error:
            error.path = path
            raise
        data = cast("dict[str, Any]", reply.get("data") or {})
        return str(data.get(wanted, ""))

    def refusal(self, reply: VaultReplyError, where: str) -> KeyStoreError | None:
        """What a reply of Transit's means that means something else for KV; None if it does not."""
        if reply.status == 404:
            return KeyStoreSetupError(
                f"there is no Transit engine at '{self.mount}'",
                field="vault_transit_mount",
                fix="run `python -m config.vault.bootstrap --transit-key NAME`, or correct the name or the namespace",
            )
        if reply.status != 400:
            return None
        if "key not found" in reply.text:
            return KeyStoreSetupError(
                f"there is no Transit key '{self.key}' at '{self.mount}'",
                field="vault_transit_key",
                fix="run `python -m config.vault.bootstrap --transit-key NAME`, or correct the name",
            )
        if "too old" in reply.text:
            return KeyFormatError(
                "is encrypted with a version of the Transit key that Vault does not decrypt any more",
                field=where,
                fix="lower the Transit key's min_decryption_version, then `session-executor keys wrap` it",
            )
        if "unable to decrypt" in reply.text or "authentication failed" in reply.text:
            return KeyMismatchError(
                "the ciphertext was not made for this address, or not by this Transit key",
                field=where,
                fix="find out who wrote it (Vault's audit log); restore the one that `keys create` wrote",
            )
        if "ciphertext" in reply.text:
            return KeyFormatError(
                f"its ciphertext cannot be decrypted: {reply.text}",
                field=where,
                fix="find out who wrote it (Vault's audit log); restore the one that `keys create` wrote",
            )
        return None


def stored_key(
    client: VaultHttp, transit: Transit | None, fields: Any, address: str, where: str
) -> SecretKey | KeyStoreError:
    """The key of a stored secret, or what is wrong with it, returned so that no traceback keeps the secret.

    Raises:
        VaultReplyError, requests.RequestException: about decrypting.
    """
    found = cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}
    if CIPHERTEXT in found:
        if transit is None:
            return KeyFormatError(
                "is Transit ciphertext, and no Transit key is set",
                field=where,
                fix="set SESSION_EXECUTOR_VAULT_TRANSIT_KEY",
            )
        text = found[CIPHERTEXT]
        if not isinstance(text, str) or not _CIPHERTEXT.fullmatch(text):
            return KeyFormatError(
                "its ciphertext is none of Transit's", field=where, fix="restore vault:vN:… as it was written"
            )
        key = transit.decrypt(client, text, address)
    elif PLAIN not in found:
        return KeyFormatError("has no field private_key", field=where, fix="store the key under that name")
    elif transit is not None:
        return KeyFormatError(
            "is stored plainly, and a Transit key is set: it is not used",
            field=where,
            fix="encrypt it: session-executor keys wrap ADDRESS",
        )
    else:
        key = secret_from_text(found[PLAIN])
    if isinstance(key, str):
        return KeyFormatError(f"private_key {key}", field=where, fix="store 64 hex digits and nothing else")
    if key.address != address:
        key.wipe()
        return KeyMismatchError(
            f"the stored key belongs to {key.address}",
            field=where,
            fix=f"store it under its own address, and the key of {address} here",
        )
    return key


def form_of(fields: Any) -> str:
    """What a secret is stored as, for people: ``vault:v2``, ``plain`` or ``nothing``."""
    found = cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}
    if CIPHERTEXT in found:
        return ":".join(str(found[CIPHERTEXT]).split(":")[:2])[:40]
    return "plain" if PLAIN in found else "nothing"


def _context(address: str) -> str:
    return base64.b64encode(bytes.fromhex(address[2:])).decode()
