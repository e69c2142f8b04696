"""Quotes that are not what was asked for, each wrong in one way.

Every lie changes the answer before the server seals it, so that nothing but a look at the content can find it. What a
client signs all the same is executed as signed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from worker.devnet.chain import USDC, selector

# Whom the lies favour. It has no key.
STRANGER = "0x" + keccak(text="session-executor devnet stranger")[12:].hex()
_ONE_USDC = 1_000_000
_LATE_S = 10 * 365 * 86_400


def _element(answer: dict[str, Any]) -> dict[str, Any]:
    return answer["intentOp"]["elements"][0]


def _mandate(answer: dict[str, Any]) -> dict[str, Any]:
    return _element(answer)["mandate"]


def _ops(answer: dict[str, Any]) -> list[dict[str, str]]:
    return _mandate(answer)["destinationOps"]["ops"]


def _op_to_stranger() -> dict[str, str]:
    data = selector("transfer(address,uint256)") + encode(["address", "uint256"], [STRANGER, _ONE_USDC])
    return {"to": to_checksum_address(USDC), "value": "0", "data": "0x" + data.hex()}


def _set_word(answer: dict[str, Any], index: int, change: Callable[[int], int]) -> None:
    """Change one argument word of the first op's calldata."""
    op = _ops(answer)[0]
    data = bytes.fromhex(op["data"][2:])
    at = 4 + 32 * index
    word = change(int.from_bytes(data[at : at + 32])) % 2**256
    op["data"] = "0x" + (data[:at] + word.to_bytes(32) + data[at + 32 :]).hex()


def extra_op(answer: dict[str, Any]) -> None:
    """The server adds a transfer of 1 USDC to a stranger."""
    _ops(answer).append(_op_to_stranger())


def extra_pre_claim_op(answer: dict[str, Any]) -> None:
    """The same among the pre-claim ops, which the signed message of this layer does not cover."""
    _mandate(answer)["preClaimOps"]["ops"].append(_op_to_stranger())


def dropped_op(answer: dict[str, Any]) -> None:
    """The last op is missing."""
    _ops(answer).pop()


def reordered_ops(answer: dict[str, Any]) -> None:
    """The ops come in reverse order."""
    _ops(answer).reverse()


def changed_amount(answer: dict[str, Any]) -> None:
    """The first op moves one base unit more (its second argument grows)."""
    _set_word(answer, 1, lambda word: word + 1)


def changed_recipient(answer: dict[str, Any]) -> None:
    """The first op pays a stranger (its first argument)."""
    _set_word(answer, 0, lambda _word: int(STRANGER, 16))


def changed_target(answer: dict[str, Any]) -> None:
    """The first op calls another contract."""
    _ops(answer)[0]["to"] = to_checksum_address(STRANGER)


def added_value(answer: dict[str, Any]) -> None:
    """The first op sends one wei."""
    _ops(answer)[0]["value"] = "1"


def other_sponsor(answer: dict[str, Any]) -> None:
    """The op is for another account."""
    answer["intentOp"]["sponsor"] = to_checksum_address(STRANGER)


def other_recipient(answer: dict[str, Any]) -> None:
    """The mandate's recipient is a stranger."""
    _mandate(answer)["recipient"] = to_checksum_address(STRANGER)


def other_chain(answer: dict[str, Any]) -> None:
    """The op is for chain 10."""
    _element(answer)["chainId"] = "10"
    _mandate(answer)["destinationChainId"] = "10"


def other_layer(answer: dict[str, Any]) -> None:
    """The op settles through another layer, which another message would authorize."""
    context = _mandate(answer)["qualifier"]["settlementContext"]
    context["settlementLayer"] = "ACROSS"
    context["fundingMethod"] = "PERMIT2"


def claimed_token(answer: dict[str, Any]) -> None:
    """The op takes 1 USDC from the account as its claim."""
    _element(answer)["idsAndAmounts"] = [[str(int(USDC, 16)), str(_ONE_USDC)]]


def second_element(answer: dict[str, Any]) -> None:
    """The element is there twice."""
    elements = answer["intentOp"]["elements"]
    elements.append(copy.deepcopy(elements[0]))


def gas_refund(answer: dict[str, Any]) -> None:
    """A fee: the account pays for gas in USDC."""
    _mandate(answer)["qualifier"]["settlementContext"]["gasRefund"] = {
        "token": to_checksum_address(USDC),
        "exchangeRate": str(10**12),
        "overhead": "100000",
    }


def expired(answer: dict[str, Any]) -> None:
    """The op ended a minute ago."""
    _set_expiry(answer, int(time.time()) - 60)


def late_expiry(answer: dict[str, Any]) -> None:
    """The op may be executed for ten more years."""
    _set_expiry(answer, int(time.time()) + _LATE_S)


def not_fulfilled(answer: dict[str, Any]) -> None:
    """The cost says that not all that was asked for will be delivered."""
    answer["intentCost"]["hasFulfilledAll"] = False


def _set_expiry(answer: dict[str, Any], when_s: int) -> None:
    answer["intentOp"]["expires"] = str(when_s)
    _mandate(answer)["fillDeadline"] = str(when_s)


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    lie.__name__: lie
    for lie in (
        extra_op,
        extra_pre_claim_op,
        dropped_op,
        reordered_ops,
        changed_amount,
        changed_recipient,
        changed_target,
        added_value,
        other_sponsor,
        other_recipient,
        other_chain,
        other_layer,
        claimed_token,
        second_element,
        gas_refund,
        expired,
        late_expiry,
        not_fulfilled,
    )
}
