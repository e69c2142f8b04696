"""No blind signing: every field of what is signed is either what was asked for, or a reason to refuse.

This is alps; ``explain_blanc`` does the same for the other version.

The message of a same-chain route (``SingleChainOps``) holds account, chain, nonce, calls and gas refund, and no
deadline. It is rebuilt from the quote by ``worker/signing``; here the quote is held against the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from worker.execution.errors import StaleQuoteError, UnexplainedQuoteError
from worker.execution.route_request import Signer, pre_claim_calls, signature_mode
from worker.orchestrator.port import Quote
from worker.policies.base import Execution
from worker.policies.guardrails import GasRefundCap
from worker.signing.intent_op import IntentPayloads

#: First byte of ``vt``: the calls are executed through ERC-7579. The second is the signature mode.
VT_ERC7579 = 2
#: A quote's life as the API bounds it (``customDeadline``); a longer one would hold budgets for as long.
MAX_QUOTE_LIFE_S = 86_400
_UINT256 = 2**256


@dataclass(frozen=True, slots=True)
class Explained:
    """A quote that is what was asked for.

    Attributes:
        executions: every call that the signature would allow, in order, the pre-claim calls first.
        latest_s: the latest unix second at which they can be executed.
        message: what is to be signed, built by us from the values that were checked.
    """

    executions: tuple[Execution, ...]
    latest_s: int
    message: IntentPayloads


def check_quote(
    quote: Quote,
    *,
    session: Signer,
    calls: Sequence[Execution],
    enable: bool,
    now_s: int,
    min_left_s: int,
    refunds: Mapping[str, GasRefundCap] | None = None,
) -> tuple[tuple[Execution, ...], int]:
    """Hold a quote against what was asked for.

    Args:
        quote: the orchestrator's answer.
        session: who would sign: a session, or the account's owners.
        calls: the intent's calls.
        enable: whether the intent carries the enable signature.
        now_s: our clock, unix seconds.
        min_left_s: how long the quote must still live.
        refunds: what may be signed as gas refund, by token; nothing by default.

    Returns:
        Every call that the signature would allow, in order, the pre-claim calls first; and the latest unix second
        at which they can be executed.

    Raises:
        UnexplainedQuoteError: names the field.
        StaleQuoteError: it expires too soon; a new quote may be fine.
    """
    op = quote.intent_op
    account, chain = session.account, session.chain_id
    if _address(op, "sponsor", "intentOp") != account:
        refuse("intentOp.sponsor", f"is {op.get('sponsor')}, not our account {account}")
    _integer(op, "nonce", "intentOp")
    check_life(quote.expires_s, now_s, min_left_s, "intentOp.expires")
    if quote.cost.get("hasFulfilledAll") is not True:
        refuse("intentCost.hasFulfilledAll", "is not true: the route would not deliver all that was asked")
    elements = op.get("elements")
    if not isinstance(elements, list) or len(cast("list[Any]", elements)) != 1:
        refuse("intentOp.elements", "must hold exactly one element for a same-chain intent")
    path = "intentOp.elements[0]"
    element = _object(cast("list[Any]", elements)[0], path)
    if _integer(element, "chainId", path) != chain:
        refuse(f"{path}.chainId", f"is {element.get('chainId')}, not {chain}")
    for name in ("idsAndAmounts", "spendTokens"):
        if element.get(name, []) != []:
            refuse(f"{path}.{name}", "would take tokens from the account beyond the calls asked for")
    mandate = _object(element.get("mandate"), f"{path}.mandate")
    return _check_mandate(
        mandate,
        f"{path}.mandate",
        quote,
        op,
        session=session,
        calls=calls,
        enable=enable,
        now_s=now_s,
        refunds=refunds or {},
    )


def _check_mandate(
    mandate: Mapping[str, Any],
    path: str,
    quote: Quote,
    op: Mapping[str, Any],
    *,
    session: Signer,
    calls: Sequence[Execution],
    enable: bool,
    now_s: int,
    refunds: Mapping[str, GasRefundCap],
) -> tuple[tuple[Execution, ...], int]:
    account, chain = session.account, session.chain_id
    if _integer(mandate, "destinationChainId", path) != chain:
        refuse(f"{path}.destinationChainId", f"is {mandate.get('destinationChainId')}, not {chain}")
    if _address(mandate, "recipient", path) != account:
        refuse(f"{path}.recipient", f"is {mandate.get('recipient')}, not our account {account}")
    if mandate.get("tokenOut") != []:
        refuse(f"{path}.tokenOut", "names tokens out, and none were asked for")
    deadline = _integer(mandate, "fillDeadline", path)
    if deadline > now_s + MAX_QUOTE_LIFE_S:
        refuse(f"{path}.fillDeadline", f"is more than {MAX_QUOTE_LIFE_S} s away")
    _check_settlement(mandate, path, session, refunds)
    if session.verify_executions:
        _integer(op, "targetExecutionNonce", "intentOp")
    mode = signature_mode(session)
    found: list[Execution] = []
    for name, expected in (
        ("preClaimOps", pre_claim_calls(session, enable=enable)),
        ("destinationOps", tuple(calls)),
    ):
        found.extend(_check_ops(mandate.get(name), f"{path}.{name}", expected, mode))
    return tuple(found), max(quote.expires_s, deadline)


def check_life(expires_s: int, now_s: int, min_left_s: int, field: str) -> None:
    """Refuse a quote that lives too long, and ask for another when it leaves too little time.

    Raises:
        UnexplainedQuoteError, StaleQuoteError: name ``field``.
    """
    if expires_s <= now_s + min_left_s:
        raise StaleQuoteError(
            f"leaves {expires_s - now_s} s, and {min_left_s} s are needed to sign and send",
            field=field,
        )
    if expires_s > now_s + MAX_QUOTE_LIFE_S:
        refuse(field, f"is more than {MAX_QUOTE_LIFE_S} s away")


def _check_settlement(
    mandate: Mapping[str, Any], path: str, session: Signer, refunds: Mapping[str, GasRefundCap]
) -> None:
    qualifier = _object(mandate.get("qualifier"), f"{path}.qualifier")
    path = f"{path}.qualifier.settlementContext"
    context = _object(qualifier.get("settlementContext"), path)
    layer, funding = context.get("settlementLayer"), context.get("fundingMethod")
    if (layer, funding) != ("INTENT_EXECUTOR", "NO_FUNDING"):
        refuse(
            path, f"is {layer} funded by {funding}; this version signs INTENT_EXECUTOR with NO_FUNDING only"
        )
    if context.get("using7579") is not True:
        refuse(f"{path}.using7579", f"must be true for a {session.account_kind} account")
    refund = _object(context.get("gasRefund"), f"{path}.gasRefund")
    check_refund(
        _address(refund, "token", f"{path}.gasRefund"),
        {name: _integer(refund, name, f"{path}.gasRefund") for name in ("exchangeRate", "overhead")},
        refunds,
        f"{path}.gasRefund",
    )


def check_refund(
    token: str, fields: Mapping[str, int], refunds: Mapping[str, GasRefundCap], path: str
) -> None:
    """Refuse a gas refund that nobody has agreed to.

    Args:
        token: lower-case address.
        fields: ``exchangeRate`` and ``overhead`` as they would be signed.
        refunds: what was agreed to, by token.
        path: the refund's path in the quote.

    Raises:
        UnexplainedQuoteError: names the field.
    """
    cap = refunds.get(token)
    for name, most in (
        ("exchangeRate", cap.exchange_rate if cap else 0),
        ("overhead", cap.overhead if cap else 0),
    ):
        if fields[name] > most:
            refuse(
                f"{path}.{name}",
                "would let the executor take a fee from the account that nobody has agreed to"
                if cap is None
                else f"is {fields[name]}; the guardrail max_gas_refund allows {most}",
                fix="submit it sponsored, or allow it by the session's guardrail max_gas_refund",
            )
    if cap is None and token != "0x" + "00" * 20:
        refuse(f"{path}.token", "names a fee token, and no fee was agreed to")


def _check_ops(value: object, path: str, expected: Sequence[Execution], mode: int) -> list[Execution]:
    ops = _object(value, path)
    vt = ops.get("vt")
    wanted = "0x" + _vt(mode).hex()
    if vt != wanted:
        refuse(f"{path}.vt", f"is {vt}, not {wanted} (ERC-7579 calls, signature mode {mode})")
    listed = ops.get("ops")
    if not isinstance(listed, list):
        refuse(f"{path}.ops", "must be a list")
    calls = [_call(item, f"{path}.ops[{index}]") for index, item in enumerate(cast("list[Any]", listed))]
    for index, call in enumerate(calls):
        where = f"{path}.ops[{index}]"
        if index >= len(expected):
            refuse(where, f"is a call to {call.to} that nobody asked for")
        if call != expected[index]:
            refuse(where, "differs from the call that was asked for")
    if len(calls) < len(expected):
        refuse(f"{path}.ops", f"holds {len(calls)} calls, and {len(expected)} were asked for")
    return calls


def _call(value: object, path: str) -> Execution:
    op = _object(value, path)
    data = op.get("data")
    if not isinstance(data, str) or not data.startswith("0x"):
        refuse(f"{path}.data", "is no 0x hex string")
    try:
        decoded = bytes.fromhex(data[2:])
    except ValueError:
        refuse(f"{path}.data", "is no 0x hex string")
    if len(decoded) * 2 != len(data) - 2:  # fromhex skips white space
        refuse(f"{path}.data", "is no 0x hex string")
    return Execution(_address(op, "to", path), _integer(op, "value", path), decoded)


def _object(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        refuse(path, "must be an object")
    return cast("Mapping[str, Any]", value)


def _integer(value: Mapping[str, Any], name: str, path: str) -> int:
    """A uint256 that JSON may carry as a number or as decimal text."""
    found = value.get(name)
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) <= 78:
        found = int(found)
    if type(found) is not int or not 0 <= found < _UINT256:
        refuse(f"{path}.{name}", f"must be an integer of 256 bits, not {str(found)[:40]!r}")
    return found


def _address(value: Mapping[str, Any], name: str, path: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or len(found) != 42 or not found.startswith("0x"):
        refuse(f"{path}.{name}", f"must be an address, not {str(found)[:60]!r}")
    try:
        bytes.fromhex(found[2:])
    except ValueError:
        refuse(f"{path}.{name}", f"must be an address, not {found!r}")
    return found.lower()


def signature_vt(session: Signer) -> bytes:
    """``vt`` of the calls that this signer signs, 32 bytes."""
    return _vt(signature_mode(session))


def _vt(mode: int) -> bytes:
    return bytes([VT_ERC7579, mode]).ljust(32, b"\0")


def refuse(path: str, why: str, *, fix: str = "") -> NoReturn:
    """Raise UnexplainedQuoteError for the field at a path."""
    raise UnexplainedQuoteError(
        why, field=path, fix=fix or "the orchestrator answered something else; report it to its operator"
    )
