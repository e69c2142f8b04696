"""What the search finds, and what it leaves alone."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable

import pytest
from eth_utils.crypto import keccak

from tests.leaks.search import find, secret, spelled

KEY = keccak(b"session-executor leak search")
WORD = keccak(b"session-executor leak search word").hex()


@pytest.mark.parametrize("form", spelled(KEY))
@pytest.mark.parametrize("before", [b"", b"x", b"xy"])
def test_each_spelling_of_a_key_is_found(form: str, before: bytes) -> None:
    content = b"log line " + before + spelled(KEY)[form] + b" and so on"
    assert find({"log": content}, [secret("key", KEY)]) == [("log", "key")]
    assert find({"log": gzip.compress(content)}, [secret("key", KEY)]) == [("log", "key")]


@pytest.mark.parametrize("offset", range(7))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("value", [KEY, WORD])
def test_base64_of_something_that_has_it_inside(
    offset: int, encode: Callable[[bytes], bytes], value: str | bytes
) -> None:
    raw = value.encode() if isinstance(value, str) else value
    content = encode(b"{" * offset + raw + b"}}")
    assert find({"task": content}, [secret("it", value)]) == [("task", "it")]


def test_a_text_is_found_as_it_is_in_hex_and_in_json() -> None:
    for content in (WORD, WORD.encode().hex().upper(), json.dumps({"a": json.dumps([WORD])})):
        assert find({"log": content.encode()}, [secret("word", WORD)]) == [("log", "word")]
    assert find({"log": json.dumps(repr(KEY)).encode()}, [secret("key", KEY)]) == [("log", "key")]


def test_tokens_of_vault_are_found_by_their_shape() -> None:
    token = b"hvs." + WORD[:24].encode()
    assert find({"log": b"X-Vault-Token: " + token}, []) == [("log", "a token of Vault's")]


def test_what_is_like_it_is_not_it() -> None:
    other = keccak(b"session-executor another key")
    for content in spelled(other).values():
        assert find({"log": content}, [secret("key", KEY), secret("word", WORD)]) == []
