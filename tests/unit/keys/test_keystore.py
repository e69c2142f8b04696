"""Encrypted keystore files: what opens them, what does not, and that nothing secret shows."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from pydantic import SecretStr

from tests.support.leaks import assert_no_leak
from worker.keys.errors import (
    KeyAddressError,
    KeyExistsError,
    KeyFormatError,
    KeyLabelError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreSetupError,
    KeyStoreUnavailableError,
)
from worker.keys.keystore import SCRYPT_N, SCRYPT_N_RANDOM_PASSPHRASE, KeystoreFiles, passphrase_provider
from worker.keys.port import KeyStore, SecretKey
from worker.keys.secp256k1 import address_of

PASSPHRASE = keccak(b"session-executor test passphrase").hex()
KEY = keccak(b"session-executor test keystore key")
ADDRESS = address_of(KEY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def store(folder: Path) -> KeystoreFiles:
    return open_store(folder)


def open_store(folder: Path, passphrase: str = PASSPHRASE) -> KeystoreFiles:
    return KeystoreFiles(folder, passphrase_provider(passphrase, None), scrypt_n=SCRYPT_N_RANDOM_PASSPHRASE)


def put(folder: Path, content: dict[str, Any] | bytes, address: str = ADDRESS) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{address}.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(0o600)
    return path


def encrypted(key: bytes = KEY, kdf: str = "scrypt", iterations: int = 2**12) -> dict[str, Any]:
    """A file as another wallet writes it."""
    return Account.encrypt(key, PASSPHRASE, kdf=kdf, iterations=iterations)  # type: ignore[arg-type]


class TestCreateAndGet:
    """A created key is used through ``get`` and is on disk only in encrypted form."""

    def test_what_was_created_signs_for_its_address(self, store: KeystoreFiles) -> None:
        port: KeyStore = store
        info = port.create(label="market maker")
        with port.get(info.address) as key:
            assert address_of(key.use()) == info.address
        with pytest.raises(ValueError, match="wiped"):
            key.use()
        assert list(port.list()) == [info]
        assert info.label == "market maker"
        assert info.created > 1_700_000_000

    def test_the_key_is_wiped_when_the_block_raises(self, store: KeystoreFiles) -> None:
        info = store.create()
        kept: list[Any] = []

        def use() -> None:
            with store.get(info.address) as key:
                kept.append(key)
                assert key.use()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            use()
        with pytest.raises(ValueError, match="wiped"):
            kept[0].use()

    def test_modes_keep_others_out_whatever_the_umask(self, store: KeystoreFiles, folder: Path) -> None:
        before = os.umask(0)
        try:
            info = store.create()
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / f"{info.address}.json").stat().st_mode) == 0o600

    def test_the_file_is_the_standard_one_without_the_key(self, store: KeystoreFiles, folder: Path) -> None:
        info = store.create()
        (path,) = folder.iterdir()
        content = json.loads(path.read_text())
        assert (content["version"], content["address"]) == (3, info.address[2:])
        value = bytes(Account.decrypt(content, PASSPHRASE))
        assert address_of(value) == info.address
        assert value.hex() not in path.read_text()
        assert PASSPHRASE not in path.read_text()

    def test_the_default_cost_is_owasps(self, folder: Path) -> None:
        info = KeystoreFiles(folder, passphrase_provider(PASSPHRASE, None)).create()
        content = json.loads((folder / f"{info.address}.json").read_text())
        assert content["crypto"]["kdfparams"]["n"] == SCRYPT_N == 131_072

    @pytest.mark.parametrize(("kdf", "iterations"), [("scrypt", 2**12), ("pbkdf2", 10_000)])
    def test_files_of_other_wallets_open(
        self, store: KeystoreFiles, folder: Path, kdf: str, iterations: int
    ) -> None:
        put(folder, encrypted(KEY, kdf, iterations))
        with store.get(ADDRESS.upper().replace("0X", "0x")) as key:
            assert key.use() == KEY
        (info,) = store.list()
        assert (info.address, info.created, info.label) == (ADDRESS, 0, "")

    def test_nothing_is_overwritten(
        self, store: KeystoreFiles, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put(folder, b"what was there before")
        from worker.keys import keystore
        from worker.keys.port import SecretKey

        monkeypatch.setattr(keystore, "generate", lambda: SecretKey(KEY, ADDRESS))
        with pytest.raises(KeyExistsError, match="is stored there"):
            store.create()
        assert path.read_bytes() == b"what was there before"
        assert list(folder.iterdir()) == [path]

    @pytest.mark.parametrize("label", ["x" * 513, "two\nlines"])
    def test_a_label_that_cannot_be_kept_makes_no_key(
        self, store: KeystoreFiles, folder: Path, label: str
    ) -> None:
        with pytest.raises(KeyLabelError):
            store.create(label=label)
        assert not folder.exists()

    @pytest.mark.parametrize("cost", [2**13, 2**17 + 1, 2**21, 0])
    def test_a_weak_or_odd_cost_is_refused(self, folder: Path, cost: int) -> None:
        with pytest.raises(KeyStoreSetupError, match="power of two"):
            KeystoreFiles(folder, passphrase_provider(PASSPHRASE, None), scrypt_n=cost)


class TestList:
    """``list`` needs no passphrase and shows only what is a key file of ours by name."""

    def test_an_absent_folder_holds_no_keys(self, store: KeystoreFiles) -> None:
        assert list(store.list()) == []
        assert store.check().startswith("0 encrypted keystore file(s)")

    def test_other_files_are_left_alone(self, store: KeystoreFiles, folder: Path) -> None:
        put(folder, encrypted())
        (folder / "notes.txt").write_text("no key")
        (folder / f".{ADDRESS}.json.0011.tmp").write_text("half a key")
        assert [info.address for info in store.list()] == [ADDRESS]

    def test_check_opens_a_key_to_prove_the_passphrase(self, store: KeystoreFiles, folder: Path) -> None:
        put(folder, encrypted())
        assert "1 encrypted keystore file(s)" in store.check()
        with pytest.raises(KeyStoreDeniedError):
            open_store(folder, "another one").check()


def _flip(path: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        inner = content
        for name in path[:-1]:
            inner = inner[name]
        text = inner[path[-1]]
        inner[path[-1]] = ("0" if text[0] != "0" else "1") + text[1:]

    return change


def _set(path: tuple[str, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        inner = content
        for name in path[:-1]:
            inner = inner[name]
        if value is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value

    return change


class TestDamagedFiles:
    """Each way in which a file can be wrong has its error; none of them shows passphrase or key."""

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (_flip(("crypto", "ciphertext")), KeyStoreDeniedError, "the file was changed"),
            (_flip(("crypto", "mac")), KeyStoreDeniedError, "the file was changed"),
            (_flip(("crypto", "kdfparams", "salt")), KeyStoreDeniedError, "the file was changed"),
            (_set(("version",), 2), KeyFormatError, "version 3"),
            (_set(("version",), None), KeyFormatError, "version 3"),
            # the format's MAC leaves the IV out: what comes out is a key, of another address
            (_flip(("crypto", "cipherparams", "iv")), KeyMismatchError, "holds the key of"),
            (_set(("crypto", "kdf"), "argon2"), KeyFormatError, "version 3"),
            (_set(("crypto", "ciphertext"), "zz"), KeyFormatError, "version 3"),
            (_set(("crypto", "ciphertext"), 5), KeyFormatError, "version 3"),
            (_set(("crypto", "kdfparams"), None), KeyFormatError, "kdfparams"),
            (_set(("crypto",), "text"), KeyFormatError, "kdfparams"),
            (_set(("crypto", "kdfparams", "n"), 2**40), KeyFormatError, "kdfparams.n"),
            (_set(("crypto", "kdfparams", "n"), True), KeyFormatError, "kdfparams.n"),
            (_set(("crypto", "kdfparams", "n"), -1), KeyFormatError, "kdfparams.n"),
            (_set(("crypto", "kdfparams", "r"), 10**9), KeyFormatError, "kdfparams.r"),
            (_set(("crypto", "kdfparams", "dklen"), 2**31), KeyFormatError, "dklen"),
        ],
    )
    def test_a_changed_file(
        self,
        store: KeystoreFiles,
        folder: Path,
        change: Callable[[dict[str, Any]], None],
        error: type[KeyStoreError],
        words: str,
    ) -> None:
        content = encrypted()
        change(content)
        put(folder, content)
        with pytest.raises(error, match=words) as caught, store.get(ADDRESS):
            pass
        assert type(caught.value) is error
        assert caught.value.field
        assert caught.value.fix
        assert_no_leak(caught.value, KEY, PASSPHRASE)

    def test_costs_that_are_fine_one_by_one_and_too_much_together(
        self, store: KeystoreFiles, folder: Path
    ) -> None:
        content = encrypted()
        content["crypto"]["kdfparams"] |= {"n": 2**20, "r": 64, "p": 64}
        put(folder, content)
        with pytest.raises(KeyFormatError, match="1 GiB"), store.get(ADDRESS):
            pass

    @pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"crypto": '])
    def test_what_is_no_json_object(self, store: KeystoreFiles, folder: Path, raw: bytes) -> None:
        put(folder, raw)
        with pytest.raises(KeyFormatError, match="no JSON object"), store.get(ADDRESS):
            pass

    def test_a_huge_file_is_not_read(self, store: KeystoreFiles, folder: Path) -> None:
        put(folder, b" " * 20_000)
        with pytest.raises(KeyStoreSetupError, match="larger than"), store.get(ADDRESS):
            pass

    def test_the_key_of_another_address(self, store: KeystoreFiles, folder: Path) -> None:
        other = keccak(b"session-executor test other keystore key")
        put(folder, encrypted(other))
        with pytest.raises(KeyMismatchError, match=address_of(other)) as caught, store.get(ADDRESS):
            pass
        assert_no_leak(caught.value, other, PASSPHRASE)

    def test_a_number_that_is_no_key(self, store: KeystoreFiles, folder: Path) -> None:
        # no wallet writes it: in counter mode, adding the key to the ciphertext makes it one of 32 zero bytes
        content = encrypted()
        crypto = content["crypto"]
        salt = bytes.fromhex(crypto["kdfparams"]["salt"])
        derived = hashlib.scrypt(PASSPHRASE.encode(), salt=salt, n=2**12, r=8, p=1, dklen=32)
        zeros = bytes(a ^ b for a, b in zip(bytes.fromhex(crypto["ciphertext"]), KEY, strict=True))
        crypto |= {"ciphertext": zeros.hex(), "mac": keccak(derived[16:] + zeros).hex()}
        put(folder, content)
        with pytest.raises(KeyFormatError, match="no secp256k1"), store.get(ADDRESS):
            pass

    def test_a_file_that_is_not_there(self, store: KeystoreFiles) -> None:
        with pytest.raises(KeyNotFoundError, match=ADDRESS) as caught, store.get(ADDRESS):
            pass
        assert caught.value.field == "keystore_dir"

    def test_an_address_that_is_none_names_no_file(self, store: KeystoreFiles) -> None:
        for text in ("../../etc/passwd", ADDRESS[2:], ""):
            with pytest.raises(KeyAddressError), store.get(text):
                pass


class TestOpenToOthers:
    """A file or folder that another user can read is refused before anything is done with it."""

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
    def test_the_key_file(self, store: KeystoreFiles, folder: Path, mode: int) -> None:
        path = put(folder, encrypted())
        path.chmod(mode)
        with pytest.raises(KeyStoreSetupError, match=f"mode {mode:04o}") as caught, store.get(ADDRESS):
            pass
        assert caught.value.fix == f"chmod 600 {path}"

    @pytest.mark.parametrize("mode", [0o750, 0o705, 0o777])
    def test_the_folder(self, store: KeystoreFiles, folder: Path, mode: int) -> None:
        put(folder, encrypted())
        folder.chmod(mode)
        for use in (store.create, lambda: list(store.list()), lambda: store.get(ADDRESS).__enter__()):
            with pytest.raises(KeyStoreSetupError, match="open to other users") as caught:
                use()
            assert caught.value.fix == f"chmod 700 {folder}"
        assert len(list(folder.iterdir())) == 1

    def test_a_pipe_does_not_hang(self, store: KeystoreFiles, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        os.mkfifo(folder / f"{ADDRESS}.json", 0o600)
        with pytest.raises(KeyStoreSetupError, match="no plain file"), store.get(ADDRESS):
            pass

    def test_a_folder_that_is_a_file(self, store: KeystoreFiles, folder: Path) -> None:
        folder.write_text("")
        with pytest.raises(KeyStoreUnavailableError, match="cannot be made"):
            store.create()
        with pytest.raises(KeyStoreSetupError, match="no folder"):
            list(store.list())


class TestPassphrase:
    """It comes from the environment's value or from a private file, at each use."""

    def test_of_a_private_file_without_its_last_newline(self, tmp_path: Path, folder: Path) -> None:
        put(folder, encrypted())
        file = tmp_path / "passphrase"
        file.write_text(f"{PASSPHRASE}\n")
        file.chmod(0o600)
        with KeystoreFiles(folder, passphrase_provider(None, file)).get(ADDRESS) as key:
            assert key.use() == KEY

    def test_inner_space_belongs_to_it(self, tmp_path: Path) -> None:
        file = tmp_path / "passphrase"
        file.write_text(" two words \r\n")
        file.chmod(0o600)
        assert passphrase_provider(None, file)() == " two words "

    @pytest.mark.parametrize("value", [PASSPHRASE, SecretStr(PASSPHRASE)])
    def test_of_a_setting(self, value: str | SecretStr) -> None:
        assert passphrase_provider(value, None)() == PASSPHRASE

    @pytest.mark.parametrize("value", [None, "", SecretStr("")])
    def test_none_is_an_error_that_names_the_setting(self, value: str | SecretStr | None) -> None:
        with pytest.raises(KeyStoreSetupError, match="is not set") as caught:
            passphrase_provider(value, None)()
        assert "SESSION_EXECUTOR_KEYSTORE_PASSPHRASE" in caught.value.fix

    def test_both_is_an_error_that_shows_neither(self, tmp_path: Path) -> None:
        with pytest.raises(KeyStoreSetupError, match="both") as caught:
            passphrase_provider(PASSPHRASE, tmp_path / "passphrase")()
        assert_no_leak(caught.value, PASSPHRASE)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "does not exist"),
            (b"", "is empty"),
            (b"\n", "is empty"),
            (PASSPHRASE.encode() + b"\xff", "not UTF-8"),
            (PASSPHRASE.encode() * 300, "larger than"),
        ],
    )
    def test_a_file_that_holds_none(self, tmp_path: Path, content: bytes | None, words: str) -> None:
        file = tmp_path / "passphrase"
        if content is not None:
            file.write_bytes(content)
            file.chmod(0o600)
        with pytest.raises(KeyStoreSetupError, match=words) as caught:
            passphrase_provider(None, file)()
        assert str(file) in str(caught.value)
        assert caught.value.fix
        assert_no_leak(caught.value, PASSPHRASE)

    def test_a_file_open_to_others(self, tmp_path: Path) -> None:
        file = tmp_path / "passphrase"
        file.write_text(PASSPHRASE)
        file.chmod(0o644)
        with pytest.raises(KeyStoreSetupError, match="mode 0644") as caught:
            passphrase_provider(None, file)()
        assert_no_leak(caught.value, PASSPHRASE)

    def test_a_wrong_one_is_a_refusal_that_shows_neither(self, folder: Path) -> None:
        wrong = keccak(b"session-executor test wrong passphrase").hex()
        put(folder, encrypted())
        with pytest.raises(KeyStoreDeniedError) as caught, open_store(folder, wrong).get(ADDRESS):
            pass
        assert caught.value.field == "keystore_passphrase"
        assert_no_leak(caught.value, KEY, PASSPHRASE, wrong)

    def test_a_missing_one_creates_nothing(self, folder: Path) -> None:
        with pytest.raises(KeyStoreSetupError):
            KeystoreFiles(folder, passphrase_provider(None, None)).create()
        assert not folder.exists()


class TestNoLeak:
    """The store's own object and the errors raised while a key is in use show nothing."""

    def test_the_store_shows_its_folder_only(self, store: KeystoreFiles, folder: Path) -> None:
        assert repr(store) == f"<KeystoreFiles {folder}>"
        assert PASSPHRASE not in repr(vars(store))

    def test_the_store_cannot_be_pickled(self, store: KeystoreFiles) -> None:
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(store)

    def test_an_error_inside_the_signing_block(self, store: KeystoreFiles, folder: Path) -> None:
        put(folder, encrypted())

        def sign() -> None:
            with store.get(ADDRESS) as key:
                assert key.address == ADDRESS
                raise RuntimeError("the signer fell over")

        with pytest.raises(RuntimeError) as caught:
            sign()
        assert_no_leak(caught.value, KEY, PASSPHRASE)

    def test_an_error_while_creating(self, store: KeystoreFiles, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        with pytest.raises(KeyStoreSetupError) as caught:
            store.create()
        assert_no_leak(caught.value, PASSPHRASE)

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        with pytest.raises(KeyStoreUnavailableError, match="cannot be made") as caught:
            open_store(tmp_path / ("e" * 300)).create()
        assert_no_leak(caught.value, PASSPHRASE)


class TestCustody:
    """Keys come from elsewhere, hand over and end; nothing is overwritten, and what is known of them stays readable."""

    def test_a_key_from_elsewhere_is_kept_once(self, store: KeystoreFiles) -> None:
        info = store.adopt(SecretKey(KEY, ADDRESS), label="old wallet")
        assert info.address == ADDRESS
        with store.get(ADDRESS) as key:
            assert key.use() == KEY
        with pytest.raises(KeyExistsError, match="is stored there"):
            store.adopt(SecretKey(KEY, ADDRESS), label="again")
        assert [(held.address, held.label) for held in store.list()] == [(ADDRESS, "old wallet")]

    def test_a_successor_knows_whom_it_replaces(self, store: KeystoreFiles, folder: Path) -> None:
        old = store.create(label="one")
        new = store.create(label="two", replaces=old.address)
        store.mark_rotated(old.address)
        store.mark_rotated(old.address)
        held = {info.address: info for info in store.list()}
        assert held[new.address].replaces == old.address
        assert held[new.address].rotated == 0
        assert held[old.address].rotated >= old.created
        assert held[old.address].label == "one"
        path = folder / f"{old.address}.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert sorted(found.name for found in folder.iterdir()) == sorted(
            f"{address}.json" for address in held
        )
        with store.get(old.address) as key:
            assert address_of(key.use()) == old.address

    def test_a_destroyed_key_is_overwritten_and_gone(self, store: KeystoreFiles, folder: Path) -> None:
        info = store.create()
        path = folder / f"{info.address}.json"
        other = path.with_suffix(".link")
        os.link(path, other)
        before = other.read_bytes()
        store.destroy(info.address)
        assert not path.exists()
        assert before[:64] not in other.read_bytes()
        with pytest.raises(KeyNotFoundError):
            store.destroy(info.address)
        with pytest.raises(KeyNotFoundError):
            store.mark_rotated(info.address)
