"""Session keys in encrypted Web3 keystore files (Web3 Secret Storage, version 3): the embedded default.

One file ``<address>.json`` of mode 0600 per key in a folder of mode 0700. The files are the ones that geth and other
wallets read. The passphrase is asked for at each use and never kept by this module.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

from eth_account import Account
from pydantic import SecretStr

from worker.keys.errors import (
    KeyExistsError,
    KeyFormatError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreSetupError,
    KeyStoreUnavailableError,
)
from worker.keys.memory import no_locals_in_errors
from worker.keys.port import KeyInfo, SecretKey
from worker.keys.secp256k1 import checked_label, generate, parse_address, secret_from_bytes

SCRYPT_N = 2**17
"""Cost of guessing the passphrase of a stolen file: OWASP's least for scrypt with r = 8, p = 1 (128 MiB and about
0.5 s for each guess, and for each signature). The usual wallet default, 2^18, takes 1 s."""

SCRYPT_N_RANDOM_PASSPHRASE = 2**14
"""Enough (16 MiB, 50 ms) where the passphrase is 128 random bits or more: that cannot be guessed at any cost. The demo
uses it, since it makes its own passphrase."""

_MAX_SCRYPT_N = 2**20
_MAX_SCRYPT_RP = 64
_MAX_SCRYPT_NRP = 2**23  # 128 bytes of each: 1 GiB, four times what the usual wallets ask for
_MAX_PBKDF2_C = 20_000_000
_MAX_FILE = 16_384
_EXTRA = "session-executor"  # our own member of the file; the format's readers ignore what they do not know
_FILE_NAME = re.compile(r"(0x[0-9a-f]{40})\.json")

PassphraseProvider = Callable[[], str]


def passphrase_provider(value: str | SecretStr | None, file: Path | None) -> PassphraseProvider:
    """Where the passphrase comes from: the value of ``keystore_passphrase``, or a file of mode 0600.

    The file's last newline is not part of it. Nothing is read before the first use.

    Raises:
        KeyStoreSetupError: (at use) neither or both are set, it is empty, or the file can be read by others.
    """
    # masked from here on: what ``provide`` closes over shows in a traceback with locals
    masked = SecretStr(value) if isinstance(value, str) else value

    def provide() -> str:
        if masked is not None and file is not None:
            raise KeyStoreSetupError(
                "is set both as a value and as a file",
                field="keystore_passphrase",
                fix="unset keystore_passphrase or keystore_passphrase_file",
            )
        if file is not None:
            return _passphrase_from_file(file)
        if not masked:
            raise KeyStoreSetupError(
                "is not set",
                field="keystore_passphrase",
                fix="set SESSION_EXECUTOR_KEYSTORE_PASSPHRASE, or SESSION_EXECUTOR_KEYSTORE_PASSPHRASE_FILE "
                "to a file of mode 0600",
            )
        return masked.get_secret_value()

    return provide


class KeystoreFiles:
    """The ``KeyStore`` port on a folder of encrypted files.

    Args:
        directory: the folder; made with mode 0700 when the first key is created. ``~`` is expanded.
        passphrase: gives the passphrase; see ``passphrase_provider``.
        scrypt_n: cost of new files, a power of two, at least ``SCRYPT_N_RANDOM_PASSPHRASE``. Existing files keep
            their own.
    """

    def __init__(self, directory: Path, passphrase: PassphraseProvider, *, scrypt_n: int = SCRYPT_N) -> None:
        if scrypt_n < SCRYPT_N_RANDOM_PASSPHRASE or scrypt_n > _MAX_SCRYPT_N or scrypt_n & (scrypt_n - 1):
            raise KeyStoreSetupError(
                f"{scrypt_n} is no power of two from 2^14 to 2^20", field="scrypt_n", fix="use 2^17"
            )
        self._directory = directory.expanduser()
        self._passphrase = passphrase
        self._scrypt_n = scrypt_n

    def __repr__(self) -> str:
        return f"<KeystoreFiles {self._directory}>"

    # ------------------------------------------------------------------ the port

    def create(self, *, label: str = "", replaces: str = "") -> KeyInfo:
        """Generate a key in this process and write its encrypted file; an existing one is never overwritten.

        Args:
            label: for people; printable, at most 512 bytes. It is not encrypted.
            replaces: address of the key whose place it is to take.

        Raises:
            KeyLabelError: the label.
            KeyStoreSetupError: no passphrase, or the folder is open to others.
            KeyStoreUnavailableError: the file cannot be written.
        """
        label = checked_label(label)
        self._passphrase()  # before the folder is made; not kept in this frame
        self._open_directory()
        key = generate()
        try:
            return self._keep(key, KeyInfo(key.address, int(time.time()), label=label, replaces=replaces))
        finally:
            key.wipe()

    def adopt(self, key: SecretKey, *, label: str = "") -> KeyInfo:
        """Write the encrypted file of a key that was made elsewhere; an existing one is never overwritten.

        Raises:
            KeyExistsError: there is a file of its address.
            KeyLabelError, KeyStoreSetupError, KeyStoreUnavailableError: as for ``create``.
        """
        label = checked_label(label)
        self._passphrase()
        self._open_directory()
        return self._keep(key, KeyInfo(key.address, int(time.time()), label=label))

    def mark_rotated(self, address: str) -> None:
        """See the port. The file is replaced as a whole.

        Raises:
            KeyAddressError
            KeyStoreError: as for ``get``, but for the passphrase, which is not needed.
        """
        address = parse_address(address)
        self._check_directory()
        content = self._load(address)
        extra = content.get(_EXTRA)
        known = cast(dict[str, Any], extra) if isinstance(extra, dict) else {}
        content[_EXTRA] = known | {"rotated": int(time.time())}
        self._write(self._path(address), content, replace=True)

    def destroy(self, address: str) -> None:
        """Overwrite the file and remove it. A disk or a backup may still have it: revoke the session as well.

        Raises:
            KeyAddressError
            KeyStoreError: as for ``get``, but for the passphrase, which is not needed.
        """
        address = parse_address(address)
        self._check_directory()
        self._load(address)
        path = self._path(address)
        try:
            _overwrite_and_remove(path)
        except OSError as error:
            problem = _os_problem(error)
        else:
            return
        raise KeyStoreUnavailableError(
            f"cannot be removed: {problem}", field=str(path), fix="see disk and folder"
        )

    @no_locals_in_errors()
    def _keep(self, key: SecretKey, info: KeyInfo) -> KeyInfo:
        content = _encrypt(key, self._passphrase(), self._scrypt_n)
        if isinstance(content, KeyStoreError):
            raise content
        content["address"] = key.address[2:]
        content[_EXTRA] = {"created": info.created, "label": info.label} | (
            {"replaces": info.replaces} if info.replaces else {}
        )
        self._write(self._path(key.address), content)
        return info

    def _write(self, path: Path, content: dict[str, Any], *, replace: bool = False) -> None:
        exists = False
        try:
            write_file(path, json.dumps(content).encode(), replace=replace)
        except FileExistsError:
            exists, problem = True, ""
        except OSError as error:
            problem = _os_problem(error)
        else:
            return
        if exists:
            raise KeyExistsError(
                "a key of this address is stored there", field=str(path), fix="it is never overwritten"
            )
        raise KeyStoreUnavailableError(
            f"cannot be written: {problem}", field=str(path), fix="see disk and folder"
        )

    def get(self, address: str) -> AbstractContextManager[SecretKey]:
        """See the port. The file is decrypted anew each time; nothing is cached.

        Raises:
            KeyAddressError: ``address`` is none.
            KeyNotFoundError, KeyFormatError, KeyMismatchError: about the file.
            KeyStoreDeniedError: the passphrase does not open it.
            KeyStoreSetupError: no passphrase, or folder or file are open to others.
        """
        return self._borrow(parse_address(address))

    def stamp(self, address: str) -> str:
        """Which file holds a key, and since when it is as it is; "" for none: for ``worker/keys/cache.py``."""
        try:
            found = self._path(parse_address(address)).stat()
        except OSError:
            return ""
        return f"{found.st_ino} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_size} {found.st_mode}"

    def list(self) -> Iterator[KeyInfo]:
        """The keys by address, without decrypting anything."""
        self._check_directory()
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            problem = _os_problem(error)
        else:
            for name in names:
                if match := _FILE_NAME.fullmatch(name):
                    yield _info(match[1], self._load(match[1]).get(_EXTRA))
            return
        raise KeyStoreUnavailableError(
            f"{self._directory} cannot be listed: {problem}", field="keystore_dir", fix="check owner and mode"
        )

    def check(self) -> str:
        """Folder, modes, passphrase, and that it opens the first key.

        Raises:
            KeyStoreError: as for ``get``.
        """
        self._passphrase()
        keys = list(self.list())
        if keys:
            with self.get(keys[0].address):
                pass
        return f"{len(keys)} encrypted keystore file(s) in {self._directory}"

    # ------------------------------------------------------------------ one file

    def _path(self, address: str) -> Path:
        return self._directory / f"{address}.json"

    @contextmanager
    def _borrow(self, address: str) -> Generator[SecretKey]:
        key = self._decrypt(address)
        try:
            yield key
        finally:
            key.wipe()

    @no_locals_in_errors()
    def _decrypt(self, address: str) -> SecretKey:
        self._check_directory()
        content = self._load(address)
        _check_cost(content, self._path(address))
        outcome = _decrypt(content, self._passphrase(), address, self._path(address))
        if isinstance(outcome, KeyStoreError):
            raise outcome
        return outcome

    def _load(self, address: str) -> dict[str, Any]:
        path = self._path(address)
        try:
            raw = read_private(path, _MAX_FILE)
        except FileNotFoundError:
            raw = None
        if raw is None:
            raise KeyNotFoundError(
                f"there is no key of {address} in {self._directory}",
                field="keystore_dir",
                fix="session-executor keys list shows what is there",
            )
        try:
            content: Any = json.loads(raw)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise KeyFormatError("is no JSON object", field=str(path), fix="restore the file from a backup")
        return cast(dict[str, Any], content)

    # ------------------------------------------------------------------ the folder

    def _open_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            problem = _os_problem(error)
        else:
            self._check_directory()
            return
        raise KeyStoreUnavailableError(
            f"cannot be made: {problem}", field="keystore_dir", fix=f"check {self._directory}"
        )

    def _check_directory(self) -> None:
        try:
            info = self._directory.stat()
        except OSError:
            return  # the file in it will be reported as missing
        if not stat.S_ISDIR(info.st_mode):
            raise KeyStoreSetupError("is no folder", field="keystore_dir", fix=f"check {self._directory}")
        if info.st_mode & 0o077:
            raise KeyStoreSetupError(
                f"{self._directory} is open to other users (mode {stat.S_IMODE(info.st_mode):04o})",
                field="keystore_dir",
                fix=f"chmod 700 {self._directory}",
            )


# ---------------------------------------------------------------------- helpers


def _info(address: str, extra: Any) -> KeyInfo:
    """What our own member of the file says; a file of another wallet has none."""
    fields = cast(dict[str, Any], extra) if isinstance(extra, dict) else {}
    created, label, rotated = fields.get("created"), fields.get("label"), fields.get("rotated")
    replaces = fields.get("replaces")
    return KeyInfo(
        address,
        created if type(created) is int else 0,
        label=label if isinstance(label, str) and label.isprintable() else "",
        replaces=replaces if isinstance(replaces, str) and re.fullmatch(r"0x[0-9a-f]{40}", replaces) else "",
        rotated=rotated if type(rotated) is int else 0,
    )


def _no_memory() -> KeyStoreError:
    return KeyStoreUnavailableError(
        "there is not enough memory for scrypt",
        field="keystore",
        fix="free 128 MiB and more for each signature",
    )


def _encrypt(key: SecretKey, passphrase: str, scrypt_n: int) -> dict[str, Any] | KeyStoreError:
    """The file's content or the error, returned: a raised one would keep this frame and the passphrase."""
    try:
        return Account.encrypt(key.use(), passphrase, kdf="scrypt", iterations=scrypt_n)
    except (MemoryError, ValueError):  # pycryptodome says ValueError when scrypt's memory cannot be had
        return _no_memory()


def _decrypt(content: dict[str, Any], passphrase: str, address: str, path: Path) -> SecretKey | KeyStoreError:
    """The key or the error, returned: a raised error would keep this frame and what is in it."""
    try:
        value = bytes(Account.decrypt(content, passphrase))
    except ValueError as error:
        # eth_keyfile says "MAC mismatch"; anything else is about the file. Neither holds key or passphrase,
        # and neither is passed on.
        wrong_passphrase = "MAC mismatch" in str(error)
    except MemoryError:
        return _no_memory()
    except (KeyError, TypeError, AttributeError, AssertionError, NotImplementedError, OverflowError):
        wrong_passphrase = False
    else:
        key = secret_from_bytes(value)
        if isinstance(key, str):
            return KeyFormatError(key, field=str(path), fix="restore the file from a backup")
        if key.address != address:
            key.wipe()
            return KeyMismatchError(
                f"holds the key of {key.address}", field=str(path), fix="name the file after its own address"
            )
        return key
    if wrong_passphrase:
        return KeyStoreDeniedError(
            f"does not open {path}",
            field="keystore_passphrase",
            fix="set the one that the key was created with; if it is that one, the file was changed",
        )
    return KeyFormatError(
        "is no keystore file of version 3", field=str(path), fix="restore the file from a backup"
    )


def _check_cost(content: dict[str, Any], path: Path) -> None:
    """Refuse a file whose derivation would take all memory or hours: its numbers are the file's own claim."""
    crypto = content.get("crypto", content.get("Crypto"))
    params = cast(dict[str, Any], crypto).get("kdfparams") if isinstance(crypto, dict) else None
    if not isinstance(params, dict):
        raise KeyFormatError("has no kdfparams", field=str(path), fix="restore the file from a backup")
    fields = cast(dict[str, Any], params)
    limits = {"n": _MAX_SCRYPT_N, "r": _MAX_SCRYPT_RP, "p": _MAX_SCRYPT_RP, "c": _MAX_PBKDF2_C}
    for name, limit in limits.items():
        value = fields.get(name, 1)
        if type(value) is not int or not 0 < value <= limit:
            raise KeyFormatError(
                f"kdfparams.{name} is no integer from 1 to {limit}", field=str(path), fix="restore the file"
            )
    if fields.get("n", 1) * fields.get("r", 1) * fields.get("p", 1) > _MAX_SCRYPT_NRP:
        raise KeyFormatError(
            "kdfparams ask for more than 1 GiB of work",
            field=str(path),
            fix="encrypt the key with a usual cost",
        )
    if fields.get("dklen", 32) != 32:
        raise KeyFormatError("kdfparams.dklen is not 32", field=str(path), fix="restore the file")


def read_private(path: Path, limit: int) -> bytes:
    """Content of a file that only its owner may read.

    Raises:
        FileNotFoundError: there is none.
        KeyStoreSetupError: others may read or write it, it is not a plain file, or larger than ``limit`` bytes.
        KeyStoreUnavailableError: it cannot be read.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang; modes are taken from what was opened, not from the name
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        problem = _os_problem(error)
        handle = -1
    else:
        problem = ""
    if handle < 0:
        raise KeyStoreUnavailableError(
            f"cannot be read: {problem}", field=str(path), fix="check owner and mode"
        )
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)  # a folder cannot be made a file object
        raise KeyStoreSetupError("is no plain file", field=str(path), fix="point to the file itself")
    with os.fdopen(handle, "rb") as file:
        if info.st_mode & 0o077:
            raise KeyStoreSetupError(
                f"is open to other users (mode {stat.S_IMODE(info.st_mode):04o})",
                field=str(path),
                fix=f"chmod 600 {path}",
            )
        if info.st_size > limit:
            raise KeyStoreSetupError(
                f"is larger than {limit} bytes", field=str(path), fix="point to the right file"
            )
        return file.read(limit)


def _passphrase_from_file(file: Path) -> str:
    outcome = _read_passphrase(file.expanduser())
    if isinstance(outcome, KeyStoreError):
        raise outcome
    return outcome


def _read_passphrase(path: Path) -> str | KeyStoreError:
    """The passphrase or the error, returned: a raised one would keep this frame and what was read."""
    problem, fix = "", "write the passphrase there, mode 0600"
    try:
        raw = read_private(path, _MAX_FILE)
    except FileNotFoundError:
        problem = "does not exist"
    except KeyStoreError as error:
        return error.with_traceback(None)
    else:
        try:
            passphrase = raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            problem, fix = "is not UTF-8 text", "write text"
        else:
            if passphrase:
                return passphrase
            problem = "is empty"
    return KeyStoreSetupError(f"{path} {problem}", field="keystore_passphrase_file", fix=fix)


def _overwrite_and_remove(path: Path) -> None:
    """Best effort: what is on the disk is overwritten where the file system writes in place."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(_MAX_FILE))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    _sync_folder(path.parent)


def write_file(path: Path, content: bytes, *, replace: bool = False) -> None:
    """All of ``content`` under ``path``, on disk, or nothing; over an existing file only with ``replace``."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # refuses to overwrite
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _os_problem(error: OSError) -> str:
    return error.strerror or type(error).__name__
