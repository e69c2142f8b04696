"""Keccak-256: the published constants, and the same bytes from both backends."""

from __future__ import annotations

import sys
from typing import Any, cast

import pytest
from eth_hash.auto import keccak as reference

from worker.signing.keccak import HAS_EXTENSION, keccak


def test_known_hashes() -> None:
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak(b"transfer(address,uint256)")[:4].hex() == "a9059cbb"


@pytest.mark.parametrize("size", [1, 32, 135, 136, 137, 271, 272, 273, 10_000])
def test_agrees_with_the_other_backend_around_the_block_size(size: int) -> None:
    data = (bytes(range(256)) * 40)[:size]
    assert keccak(data) == reference(data)


def test_text_is_refused() -> None:
    with pytest.raises(TypeError):
        keccak(cast("Any", "0x00"))


@pytest.mark.skipif(sys.platform != "linux", reason="the extension is a dependency on Linux only")
def test_the_extension_is_in_use() -> None:
    assert HAS_EXTENSION
