"""The error envelope of the alps API, and reading a request strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eth_utils.address import is_checksum_address

from worker.devnet.chain import Call

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}")
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
UINT256_MAX = 2**256 - 1


class ApiError(Exception):
    """An error reply.

    Args:
        status: HTTP status.
        message: the message that clients classify by.
        context: the error's context object.
    """

    def __init__(self, status: int, message: str, context: Mapping[str, Any] | None = None) -> None:
        self.status = status
        self.message = message
        self.context = context
        super().__init__(message)

    def body(self, trace_id: str) -> dict[str, Any]:
        """The alps envelope."""
        error: dict[str, Any] = {"message": self.message}
        if self.context is not None:
            error["context"] = self.context
        return {"errors": [error], "traceId": trace_id}


def invalid(path: str, what: str) -> ApiError:
    """A 400 that names the request field."""
    return ApiError(400, f"{path}: {what}", {"path": path})


def insufficient(token: str, required: int, available: int) -> ApiError:
    """The 400 for an account that has too little of a token; base units."""
    context = {"token": token, "required": str(required), "available": str(available)}
    return ApiError(400, "Insufficient balance", context)


class IlliquidError(ApiError):
    """The 422 of a split: what could be filled (token -> base units each) and what could not."""

    def __init__(self, available: Sequence[Mapping[str, str]], unfillable: Mapping[str, str]) -> None:
        self.parts = {"availableIntents": list(available), "unfillable": dict(unfillable)}
        super().__init__(422, "Insufficient liquidity to fill the full amount")

    def body(self, trace_id: str) -> dict[str, Any]:
        """Alps has no list of errors here."""
        return {
            **self.parts,
            "error": "INSUFFICIENT_LIQUIDITY",
            "message": self.message,
            "traceId": trace_id,
        }


class SimulationFailedError(ApiError):
    """``Bundle simulation failed``, with the reason where clients look for it."""

    def __init__(self, category: str, reason: str, call_index: int) -> None:
        self.reason = reason
        simulation: dict[str, Any] = {"success": False, "category": category, "reason": reason}
        if call_index >= 0:
            simulation["callIndex"] = call_index
        super().__init__(400, "Bundle simulation failed", {"error": {"simulations": [simulation]}})


def simulation_failed(category: str, reason: str, call_index: int = -1) -> SimulationFailedError:
    """A failed simulation.

    Args:
        category: one of the service's categories (protocol/orchestrator.md 8).
        reason: the revert, in words.
        call_index: the offending call, -1 for the intent as a whole.
    """
    return SimulationFailedError(category, reason, call_index)


def as_object(value: object, path: str) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise invalid(path, "must be an object")
    return {str(key): item for key, item in value.items()}


def as_list(value: object, path: str) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        raise invalid(path, "must be an array")
    return list(value)


def as_amount(value: object, path: str) -> int:
    """An integer that the SDK holds as a big integer: a decimal string, below 2**256."""
    if not isinstance(value, str) or _DECIMAL.fullmatch(value) is None or int(value) > UINT256_MAX:
        raise invalid(path, "must be a decimal string below 2^256")
    return int(value)


def as_number(value: object, path: str) -> int:
    """An integer that alps sends as a JSON number (chain ids, deadlines)."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise invalid(path, "must be a non-negative integer number")
    return value


def as_address(value: object, path: str) -> str:
    """An address, lower-cased; a wrong EIP-55 checksum is refused."""
    if not isinstance(value, str) or _ADDRESS.fullmatch(value) is None:
        raise invalid(path, "must be an address")
    if value[2:] not in (value[2:].lower(), value[2:].upper()) and not is_checksum_address(value):
        raise invalid(path, "has a wrong checksum")
    return value.lower()


def as_hex(value: object, path: str) -> bytes:
    """Bytes of a 0x hex string."""
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise invalid(path, "must be 0x hex")
    return bytes.fromhex(value[2:])


def as_calls(value: object, path: str) -> list[Call]:
    """Executions: at most 10 of ``{to, value, data}``."""
    items = as_list(value, path)
    if len(items) > 10:
        raise invalid(path, "at most 10 executions per chain")
    calls: list[Call] = []
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        entry = as_object(item, at)
        calls.append(
            Call(
                as_address(entry.get("to"), f"{at}.to"),
                as_amount(entry.get("value"), f"{at}.value"),
                as_hex(entry.get("data"), f"{at}.data"),
            )
        )
    return calls
