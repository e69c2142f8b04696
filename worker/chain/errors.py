"""What can go wrong with a chain read."""

from __future__ import annotations

from worker.errors import ServiceError


class ChainError(ServiceError):
    """The RPC endpoint is unreachable or answers nonsense; reads may be repeated."""


class WrongChainError(ServiceError):
    """The RPC endpoint serves another chain than the one configured."""
