"""Keccak-256 as Ethereum uses it: the C extension of safe-pysha3 if it is there, else the backend that eth-hash finds.

Both give the same bytes. An intent takes some twenty hashes, and pycryptodome spends several times as long on setting
one up as the extension spends on all of it; that was most of what building typed data costs (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from eth_hash.auto import keccak as _eth_hash_keccak

_new = cast("Callable[[bytes], Any] | None", import_module("sha3").keccak_256 if find_spec("sha3") else None)

HAS_EXTENSION = _new is not None
"""Whether the fast one is in use; where there is no wheel of it (``pyproject.toml``) the other one is."""


def keccak(data: bytes) -> bytes:
    """The 32-byte hash of ``data``.

    Raises:
        TypeError: not bytes.
    """
    return cast("bytes", _new(data).digest()) if _new is not None else _eth_hash_keccak(data)
