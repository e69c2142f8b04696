"""Parsing of keys and addresses, and the key object that shows nothing."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from worker.keys.errors import KeyAddressError, KeyLabelError
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import (
    ORDER,
    address_of,
    checked_label,
    generate,
    parse_address,
    secret_from_bytes,
    secret_from_text,
)

KEY = keccak(b"session-executor test unit key")
ADDRESS = address_of(KEY)
CHECKSUMMED = Account.from_key(KEY).address


class TestAddress:
    """An address is taken in lower, upper or checksummed case, and nothing else."""

    @pytest.mark.parametrize("text", [ADDRESS, f"0x{ADDRESS[2:].upper()}", CHECKSUMMED])
    def test_any_right_spelling_gives_the_lower_case_one(self, text: str) -> None:
        assert parse_address(text) == ADDRESS

    def test_it_is_the_one_that_eth_account_derives(self) -> None:
        assert CHECKSUMMED.lower() == ADDRESS

    @pytest.mark.parametrize(
        "text",
        ["", "0x", ADDRESS[:-1], ADDRESS + "0", ADDRESS[2:], ADDRESS.replace("0x", "1x"), ADDRESS + "\n"],
    )
    def test_what_is_none_is_refused_with_field_and_fix(self, text: str) -> None:
        with pytest.raises(KeyAddressError) as caught:
            parse_address(text)
        assert (caught.value.field, caught.value.exit_code) == ("address", 2)
        assert caught.value.fix

    def test_a_wrong_checksum_is_refused(self) -> None:
        with pytest.raises(KeyAddressError, match="checksum"):
            parse_address(CHECKSUMMED.swapcase().replace("0X", "0x"))

    def test_a_private_key_pasted_as_an_address_is_not_repeated(self) -> None:
        with pytest.raises(KeyAddressError) as caught:
            parse_address(f"0x{KEY.hex()}")
        assert KEY.hex()[:8] not in str(caught.value)


class TestStoredText:
    """What is stored is 64 hex digits of a number below the curve's order, or a reason without content."""

    @pytest.mark.parametrize("text", [KEY.hex(), f"0x{KEY.hex()}", f"0X{KEY.hex().upper()}"])
    def test_hex_with_or_without_prefix(self, text: str) -> None:
        key = secret_from_text(text)
        assert isinstance(key, SecretKey)
        assert (key.use(), key.address) == (KEY, ADDRESS)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (KEY.hex()[:-1], "63 characters"),
            (KEY.hex() + "0", "65 characters"),
            (f" {KEY.hex()}\n", "white space"),
            ("g" * 64, "64 characters"),
            ("", "0 characters"),
            (None, "NoneType"),
            (7, "int"),
            ("0" * 64, "no secp256k1"),
            (f"{ORDER:064x}", "no secp256k1"),
            ("f" * 64, "no secp256k1"),
        ],
    )
    def test_the_reason_says_what_is_wrong_and_not_what_is_there(self, text: object, words: str) -> None:
        reason = secret_from_text(text)
        assert isinstance(reason, str)
        assert words in reason
        assert KEY.hex()[:8] not in reason

    @pytest.mark.parametrize("number", [1, ORDER - 1])
    def test_the_ends_of_the_range_are_keys(self, number: int) -> None:
        assert isinstance(secret_from_bytes(number.to_bytes(32, "big")), SecretKey)

    @given(st.integers(1, ORDER - 1))
    def test_addresses_agree_with_eth_account(self, number: int) -> None:
        value = number.to_bytes(32, "big")
        assert address_of(value) == Account.from_key(value).address.lower()

    def test_generated_keys_differ_and_fit_their_address(self) -> None:
        first, second = generate(), generate()
        assert first.use() != second.use()
        assert first.address == address_of(first.use())


class TestSecretKey:
    """The key is in no rendering, copy or serialisation of its object."""

    def test_no_rendering_shows_it(self) -> None:
        key = SecretKey(KEY, ADDRESS)
        for text in (repr(key), str(key), f"{key}", f"{key!r:>80}", repr([key]), repr({"k": key})):
            assert KEY.hex()[:8] not in text.lower()
            assert repr(KEY)[2:10] not in text
            assert ADDRESS in text

    def test_it_cannot_be_pickled_copied_or_made_json(self) -> None:
        key = SecretKey(KEY, ADDRESS)
        for serialise in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars):
            with pytest.raises(TypeError):
                serialise(key)  # type: ignore[operator]

    def test_a_wiped_key_is_zero_and_refuses_use(self) -> None:
        key = SecretKey(KEY, ADDRESS)
        kept = key._value  # pyright: ignore[reportPrivateUsage]
        key.wipe()
        assert not any(kept)
        with pytest.raises(ValueError, match="wiped"):
            key.use()


class TestLabel:
    """A label is short plain text."""

    @pytest.mark.parametrize("text", ["", "market maker", "é" * 256])
    def test_plain_text_passes(self, text: str) -> None:
        assert checked_label(text) == text

    @pytest.mark.parametrize("text", ["x" * 513, "é" * 257, "a\nb", "\x1b[31m"])
    def test_long_or_unprintable_text_is_refused(self, text: str) -> None:
        with pytest.raises(KeyLabelError) as caught:
            checked_label(text)
        assert (caught.value.field, caught.value.exit_code) == ("label", 2)
