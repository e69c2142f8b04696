"""What can go wrong with a chain read.

ServiceError
├── ChainError            unreachable, or answers nonsense: reads may be repeated
│   └── CallRevertedError the endpoint is fine, the contract said no
└── WrongChainError       the endpoint serves another chain
"""

from __future__ import annotations

from worker.errors import ServiceError


class ChainError(ServiceError):
    """The RPC endpoint is unreachable or answers nonsense; reads may be repeated."""


class CallRevertedError(ChainError):
    """The contract reverted the call: no trouble of the endpoint's."""


class WrongChainError(ServiceError):
    """The RPC endpoint serves another chain than the one configured."""
