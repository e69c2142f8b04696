"""What can go wrong while a devnet is started or talked to.

ServiceError
└── DevnetError               anvil, npm or the devnet's own server failed
    └── RpcError              the chain answered a JSON-RPC request with an error
"""

from __future__ import annotations

from worker.errors import ServiceError


class DevnetError(ServiceError):
    """The devnet cannot be started, or does not answer."""


class RpcError(DevnetError):
    """A JSON-RPC error.

    Args:
        message: the chain's message.
        code: JSON-RPC error code.
        data: revert data (``b""`` when there is none).
    """

    def __init__(self, message: str, *, code: int = 0, data: bytes = b"") -> None:
        self.code = code
        self.data = data
        super().__init__(message, field="rpc")
