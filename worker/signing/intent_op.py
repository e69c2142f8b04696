"""From an orchestrator's ``intentOp`` to what must be signed (SDK 1.15.0; protocol: signing.md 3 and 5).

Everything is read strictly: a field that is missing, of another type, or not exactly representable is refused
with its path. Nothing here judges whether the content is what the user asked for; ``worker/execution`` does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast

from eth_utils.address import is_checksum_address

from worker.signing import values
from worker.signing.contracts import ZERO_ADDRESS
from worker.signing.errors import SigningInputError
from worker.signing.keccak import keccak
from worker.signing.messages import Mandate, Permit2Message, SingleChainOps, Target, TokenAmount
from worker.signing.structs import GasRefund, Op, Ops

PayloadKind = Literal["single-chain-ops", "permit2"]

TARGET_LAYERS = frozenset({"INTENT_EXECUTOR", "SAME_CHAIN"})
"""Settlement layers whose destination calls the session signs once more, for the Intent Executor."""

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_ADDRESS_MASK = (1 << 160) - 1
_NO_REFUND = GasRefund(ZERO_ADDRESS, 0, 0)


@dataclass(frozen=True, slots=True)
class TypedPayload:
    """One typed data to sign.

    Attributes:
        kind: ``single-chain-ops`` or ``permit2``.
        chain_id: the domain's chain; the session of this chain signs an origin.
        digest: its EIP-712 digest, 32 bytes.
        message: the values that the digest covers.
        element: index of the intentOp's element it was built from.
    """

    kind: PayloadKind
    chain_id: int
    digest: bytes
    message: SingleChainOps | Permit2Message
    element: int


@dataclass(frozen=True, slots=True)
class IntentPayloads:
    """Everything to sign for one intentOp.

    Attributes:
        origins: one per element, in order.
        destination: the last of them, signed again with the target chain's session.
        target: the destination's calls for the Intent Executor, or ``None`` when no layer needs it.
    """

    origins: tuple[TypedPayload, ...]
    destination: TypedPayload
    target: TypedPayload | None


def payloads(intent_op: Mapping[str, Any], account: str, *, with_target: bool = True) -> IntentPayloads:
    """The typed data of an intentOp, as SDK 1.15.0 builds them.

    Any element of the layer INTENT_EXECUTOR makes every element ``SingleChainOps``; else any Permit2 funding
    makes every element Permit2.

    Args:
        intent_op: the parsed ``intentOp``; integers are decimal strings or ``int``.
        account: the smart account, lower-case.
        with_target: whether to build ``target``. Only a target chain's session with verifyExecutions signs it.

    Raises:
        SigningInputError: a field is missing or malformed, the op needs a Compact signature (which SDK 1.15.0 slices
            wrongly for plain tokens), or the target message lacks its nonce.
    """
    values.address(account, "account")
    op = _object(intent_op, "intentOp")
    elements = [_object(item, f"elements[{index}]") for index, item in enumerate(_list(op, "elements", ""))]
    if not elements:
        raise SigningInputError("has no element, so there is nothing to sign", field="elements")
    contexts = [_settlement_context(element, f"elements[{index}]") for index, element in enumerate(elements)]
    layers = {context.get("settlementLayer") for context in contexts}
    nonce = _uint(op, "nonce", 256, "")
    if "INTENT_EXECUTOR" in layers:
        origins = tuple(
            _single_chain_ops(account, element, context, nonce, index, refund_required=True)
            for index, (element, context) in enumerate(zip(elements, contexts, strict=True))
        )
    elif any(context.get("fundingMethod") == "PERMIT2" for context in contexts):
        deadline = _uint(op, "expires", 256, "")
        origins = tuple(_permit2(element, nonce, deadline, index) for index, element in enumerate(elements))
    else:
        raise SigningInputError(
            "needs a Compact signature (no element is of the layer INTENT_EXECUTOR or funded by PERMIT2), "
            "which is not supported",
            field="elements",
            fix="ask for a route with other settlement layers",
        )
    target = None
    if with_target and layers & TARGET_LAYERS:
        last = len(elements) - 1
        target_nonce = _uint(op, "targetExecutionNonce", 256, "")
        origin = origins[last].message
        if isinstance(origin, SingleChainOps):
            # the same calls and refund: only the nonce is another
            chain_id, executed = origins[last].chain_id, replace(origin, nonce=target_nonce)
            target = TypedPayload("single-chain-ops", chain_id, executed.digest(chain_id), executed, last)
        else:
            target = _single_chain_ops(
                account, elements[last], contexts[last], target_nonce, last, refund_required=False
            )
    return IntentPayloads(origins=origins, destination=origins[-1], target=target)


def _single_chain_ops(
    account: str,
    element: Mapping[str, Any],
    context: Mapping[str, Any],
    nonce: int,
    index: int,
    *,
    refund_required: bool,
) -> TypedPayload:
    where = f"elements[{index}].mandate"
    mandate = _member(element, "mandate", f"elements[{index}]")
    refund = _NO_REFUND
    # The SDK throws when an origin has none, and takes zeros for the target.
    if refund_required or context.get("gasRefund") is not None:
        path = f"{where}.qualifier.settlementContext"
        given = _member(context, "gasRefund", path)
        path = f"{path}.gasRefund"
        refund = GasRefund(
            _address(given, "token", path),
            _uint(given, "exchangeRate", 256, path),
            _uint(given, "overhead", 256, path),
        )
    message = SingleChainOps(
        account, nonce, _ops(_member(mandate, "destinationOps", where), f"{where}.destinationOps"), refund
    )
    chain_id = _uint(mandate, "destinationChainId", 256, where)
    return TypedPayload("single-chain-ops", chain_id, message.digest(chain_id), message, index)


def _permit2(element: Mapping[str, Any], nonce: int, deadline: int, index: int) -> TypedPayload:
    at = f"elements[{index}]"
    where = f"{at}.mandate"
    mandate = _member(element, "mandate", at)
    qualifier = _member(mandate, "qualifier", where)
    message = Permit2Message(
        permitted=_token_amounts(element, "idsAndAmounts", at),
        spender=_address(element, "arbiter", at),
        nonce=nonce,
        deadline=deadline,
        mandate=Mandate(
            target=Target(
                recipient=_address(mandate, "recipient", where),
                token_out=_token_amounts(mandate, "tokenOut", where),
                target_chain=_uint(mandate, "destinationChainId", 256, where),
                fill_expiry=_uint(mandate, "fillDeadline", 256, where),
            ),
            min_gas=_uint(mandate, "minGas", 128, where),
            origin_ops=_ops(_member(mandate, "preClaimOps", where), f"{where}.preClaimOps"),
            dest_ops=_ops(_member(mandate, "destinationOps", where), f"{where}.destinationOps"),
            q=keccak(_bytes(qualifier, "encodedVal", f"{where}.qualifier")),
        ),
    )
    chain_id = _uint(element, "chainId", 256, at)
    return TypedPayload("permit2", chain_id, message.digest(chain_id), message, index)


def read_ops(value: Mapping[str, Any], where: str) -> Ops:
    """``{vt, ops}`` of a mandate, for ops that no message covers.

    Raises:
        SigningInputError: a field is missing or malformed.
    """
    return _ops(value, where)


def _settlement_context(element: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    mandate = _member(element, "mandate", where)
    qualifier = _member(mandate, "qualifier", f"{where}.mandate")
    path = f"{where}.mandate.qualifier"
    context = _member(qualifier, "settlementContext", path)
    for name in ("settlementLayer", "fundingMethod"):
        if not isinstance(context.get(name), str):
            raise SigningInputError("must be text", field=f"{path}.settlementContext.{name}")
    return context


def _token_amounts(parent: Mapping[str, Any], name: str, where: str) -> tuple[TokenAmount, ...]:
    """Pairs [id, amount]; the low 160 bits of an id are the token."""
    result: list[TokenAmount] = []
    for index, pair in enumerate(_list(parent, name, where)):
        path = f"{where}.{name}[{index}]"
        if not isinstance(pair, list | tuple) or len(cast("Sequence[object]", pair)) != 2:
            raise SigningInputError("must be a pair of id and amount", field=path)
        token_id, amount = cast("Sequence[object]", pair)
        token = _parse_uint(token_id, 256, f"{path}[0]") & _ADDRESS_MASK
        result.append(TokenAmount(f"0x{token:040x}", _parse_uint(amount, 256, f"{path}[1]")))
    return tuple(result)


def _ops(value: Mapping[str, Any], where: str) -> Ops:
    calls: list[Op] = []
    for index, item in enumerate(_list(value, "ops", where)):
        path = f"{where}.ops[{index}]"
        call = _object(item, path)
        calls.append(
            Op(_address(call, "to", path), _uint(call, "value", 256, path), _bytes(call, "data", path))
        )
    return Ops(values.fixed_bytes(_bytes(value, "vt", where), 32, f"{where}.vt"), tuple(calls))


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SigningInputError(f"must be an object, not {values.kind_of(value)}", field=where)
    return cast("Mapping[str, Any]", value)


def _member(parent: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    return _object(_get(parent, name, where), _path(where, name))


def _list(parent: Mapping[str, Any], name: str, where: str) -> Sequence[object]:
    value = _get(parent, name, where)
    if not isinstance(value, list | tuple):
        raise SigningInputError(f"must be a list, not {values.kind_of(value)}", field=_path(where, name))
    return cast("Sequence[object]", value)


def _get(parent: Mapping[str, Any], name: str, where: str) -> object:
    if parent.get(name) is None:
        raise SigningInputError("is missing", field=_path(where, name))
    return parent[name]


def _uint(parent: Mapping[str, Any], name: str, bits: int, where: str) -> int:
    return _parse_uint(_get(parent, name, where), bits, _path(where, name))


def _parse_uint(value: object, bits: int, field: str) -> int:
    """A decimal string, or an ``int`` that JSON carried exactly."""
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise SigningInputError("must be a whole number in decimal digits", field=field)
        value = int(value)
    return values.uint(value, bits, field)


def _address(parent: Mapping[str, Any], name: str, where: str) -> str:
    value = _get(parent, name, where)
    field = _path(where, name)
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise SigningInputError("must be an address: 0x and 40 hex digits", field=field)
    lower = _lower(value)
    if not lower:
        raise SigningInputError("has a wrong EIP-55 checksum", field=field)
    return lower


@lru_cache(maxsize=1024)
def _lower(address: str) -> str:
    """The address in lower case; empty when it is mixed and its checksum wrong. Intents name the same few again."""
    lower = address.lower()
    return lower if address == lower or is_checksum_address(address) else ""


def _bytes(parent: Mapping[str, Any], name: str, where: str) -> bytes:
    value = _get(parent, name, where)
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise SigningInputError("must be 0x and an even number of hex digits", field=_path(where, name))
    return bytes.fromhex(value[2:])


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
