"""The keys of the seals on records (``worker/sealing.py``): in Vault, or in a file of this machine.

Both hold one JSON object, ``{"current": "<id>", "keys": {"<id>": "<64 hex digits>"}}``, in Vault as the fields of a secret
of its own (``keys`` as JSON text): who enqueues reads it and still cannot read a session key.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from worker.keys.errors import (
    KeyFormatError,
    KeyNotFoundError,
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreSetupError,
    KeyStoreUnavailableError,
)
from worker.keys.keystore import read_private, write_file
from worker.keys.vault import VaultKeyStore
from worker.sealing import SealKeys

FIELD = "record_keys_file"
FILE_NAME = "record.keys"
_ID = re.compile(r"[0-9a-z]{1,16}", re.ASCII)
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_FILE = 65_536


def new_keys(before: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A new current key beside those of before, as they are stored; for 32 bytes from the system's generator."""
    name = secrets.token_hex(4)
    return {"current": name, "keys": {**(before or {}), name: secrets.token_hex(32)}}


def parse_keys(value: object, where: str) -> SealKeys:
    """What is stored. Raises KeyFormatError, which quotes nothing of it."""
    outcome = _parse(value)
    if isinstance(outcome, str):
        raise KeyFormatError(outcome, field=where, fix="restore it, or make new ones")
    return outcome


class RecordKeyFile:
    """The keys in a file (mode 0600).

    Args:
        path: of the file.
        make: make it with a first key if it is not there: the one machine that there is has nobody to ask.
    """

    def __init__(self, path: Path, *, make: bool) -> None:
        self._path = path.expanduser()
        self._make = make

    def __repr__(self) -> str:
        return f"<RecordKeyFile {self._path}>"

    def load(self) -> SealKeys:
        """The keys.

        Raises:
            KeyNotFoundError: there is no file, and none is made.
            KeyFormatError, KeyStoreSetupError, KeyStoreUnavailableError: it cannot be used.
        """
        try:
            return self._read()
        except FileNotFoundError:
            if not self._make:
                raise self._missing() from None
        self._create(new_keys())
        return self._read()

    def rotate(self) -> str:
        """Add a key, which seals from now on; its id. Those of before are still accepted. Raises KeyStoreError."""
        try:
            before = self._stored()
        except FileNotFoundError:
            made = new_keys()
            self._create(made)
            return str(made["current"])
        made = new_keys(before["keys"])
        self._replace(made)
        return str(made["current"])

    def forget(self, key_id: str) -> None:
        """Take a key out: what it has sealed is refused from now on.

        Raises:
            KeyNotFoundError: there is no such key.
            KeyStoreSetupError: it is the current one.
            KeyStoreError: as ``load``.
        """
        try:
            before = self._stored()
        except FileNotFoundError:
            raise self._missing() from None
        if key_id not in before["keys"]:
            raise KeyNotFoundError(
                f"holds no key {key_id[:16]!r}", field=str(self._path), fix="see `ledger keys`"
            )
        if key_id == before["current"]:
            raise KeyStoreSetupError("is the current key", field=key_id, fix="rotate first")
        del before["keys"][key_id]
        self._replace(before)

    def _read(self) -> SealKeys:
        return parse_keys(self._stored(), str(self._path))

    def _stored(self) -> dict[str, Any]:
        """As it is in the file, checked. Raises FileNotFoundError besides KeyStoreError."""
        raw = read_private(self._path, _MAX_FILE)
        try:
            value: Any = json.loads(raw)
        except ValueError:
            value = None
        parse_keys(value, str(self._path))
        return cast("dict[str, Any]", value)

    def _missing(self) -> KeyNotFoundError:
        return KeyNotFoundError(
            f"{self._path} does not exist",
            field=FIELD,
            fix="copy it from the machine that enqueues, or `session-executor ledger keys rotate`",
        )

    def _create(self, content: dict[str, Any]) -> None:
        """Of several processes that find no file, one makes it."""

        def create() -> None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                write_file(self._path, json.dumps(content).encode())
            except FileExistsError:
                return

        self._written(create)

    def _replace(self, content: dict[str, Any]) -> None:
        def replace() -> None:
            temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
            write_file(temporary, json.dumps(content).encode())
            temporary.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

        self._written(replace)

    def _written(self, write: Callable[[], None]) -> None:
        problem = ""
        try:
            write()
        except OSError as error:
            problem = error.strerror or type(error).__name__
        if problem:  # raised here, where no frame holds a key
            raise KeyStoreUnavailableError(
                f"{self._path} cannot be written: {problem}", field=FIELD, fix="check the folder and the disk"
            )


class VaultRecordKeys:
    """The keys in Vault.

    Args:
        store: whose mount and login are used.
        path: of the secret, below the mount.
    """

    def __init__(self, store: VaultKeyStore, path: str) -> None:
        self._store = store
        self._path = path.strip("/")

    def __repr__(self) -> str:
        return f"<VaultRecordKeys {self._path}>"

    def load(self) -> SealKeys:
        """The keys.

        Raises:
            KeyNotFoundError, KeyFormatError: what is stored.
            KeyStoreDeniedError: our role may not read them.
            KeyStoreError: Vault.
        """
        where = f"vault:{self._path}"
        try:
            fields = self._store.read_fields(self._path)
        except KeyNotFoundError:
            raise KeyNotFoundError(
                "there are no keys for the seals on records",
                field=where,
                fix="run `python -m config.vault.bootstrap` again, or correct vault_records_path",
            ) from None
        except KeyStoreDeniedError:
            raise KeyStoreDeniedError(
                "the keys of the seals on records may not be read",
                field=where,
                fix="give the role the rule for them that config/vault/signer.hcl has",
            ) from None
        outcome = _unpacked(fields)
        if isinstance(outcome, KeyStoreError):
            raise outcome
        return outcome


def _unpacked(fields: Mapping[str, Any]) -> SealKeys | KeyStoreError:
    """The keys or the error, returned: a raised one would keep this frame and the keys in it."""
    keys = fields.get("keys")
    try:
        value = json.loads(keys) if isinstance(keys, str) else keys
    except ValueError:
        value = None
    outcome = _parse({"current": fields.get("current"), "keys": value})
    if isinstance(outcome, str):
        return KeyFormatError(outcome, field="vault", fix="run `python -m config.vault.bootstrap` again")
    return outcome


def _parse(value: object) -> SealKeys | str:
    fields = cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
    keys = fields.get("keys")
    if not isinstance(keys, dict) or not keys:
        return "holds no keys of seals"
    found: dict[str, bytes] = {}
    for name, text in cast("dict[str, Any]", keys).items():
        if not _ID.fullmatch(name) or not isinstance(text, str) or not _KEY.fullmatch(text):
            return "holds a key that is not 64 hex digits under a short id"
        found[name] = bytes.fromhex(text)
    current = fields.get("current")
    if not isinstance(current, str) or current not in found:
        return "names a current key that it does not hold"
    return SealKeys(current, found)
