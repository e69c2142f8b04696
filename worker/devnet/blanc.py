"""The blanc API in terms of the alps one: requests in, answers out (protocol/orchestrator.md 6 to 8).

The devnet decides in alps terms; here its words are changed. What a client signs is the typed data that the answer
shows, and what verifies it is the stored op, so a lie that is told in both is executed as signed.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from eth_utils.address import to_checksum_address

from worker.devnet import claims
from worker.devnet.api_error import ApiError, IlliquidError, as_list, as_object, invalid
from worker.devnet.chain import INTENT_EXECUTOR, ZERO_ADDRESS
from worker.devnet.quotes import Alteration, StoredQuote, set_pointer
from worker.devnet.verify import SINGLE_CHAIN_OPS_TYPES
from worker.sessions.chains import known_chains

MODES = (
    "EMISSARY",
    "ERC1271",
    "EMISSARY_ERC1271",
    "ERC1271_EMISSARY",
    "EMISSARY_EXECUTION",
    "EMISSARY_EXECUTION_ERC1271",
    "ERC1271_EMISSARY_EXECUTION",
)
NO_REFUND = {"token": ZERO_ADDRESS, "exchangeRate": "0", "overhead": "0"}
_CAIP2 = re.compile(r"eip155:([1-9][0-9]{0,31})")
_ID = re.compile(r"[0-9]{1,78}")
_SPONSOR = ("gas", "bridgeFees", "swapFees", "protocolFees")
_CHAIN_MAPS = ("preClaimExecutions",)
_FEES = ("gas", "bridge", "swap", "app", "protocol", "sponsorSurcharge")
# what alps calls settled and failed
_WORDS = {"COMPLETED": "COMPLETED", "FAILED": "FAILED", "EXPIRED": "FAILED"}


def alps_request(body: object) -> dict[str, Any]:
    """A ``POST /quotes`` body as the alps request that asks for the same.

    Raises:
        ApiError: naming the field.
    """
    request = dict(as_object(body, "body"))
    for name in ("topupCompact", "destinationGasUnits"):
        if name in request or name in as_object(request.get("options", {}), "options"):
            raise invalid(name, "is alps")
    request["destinationChainId"] = chain_number(request.get("destinationChainId"), "destinationChainId")
    access = request.get("accountAccessList")
    if access is not None:
        fields = dict(as_object(access, "accountAccessList"))
        if "chainTokenAmounts" in fields:
            if "chainIds" in fields:
                raise invalid("accountAccessList", "has both chainIds and chainTokenAmounts")
            request["accountAccessList"] = _inputs(fields["chainTokenAmounts"])
            fields = {}
        if "chainIds" in fields:
            ids = as_list(fields["chainIds"], "accountAccessList.chainIds")
            fields["chainIds"] = [chain_number(item, "accountAccessList.chainIds") for item in ids]
        if fields:
            request["accountAccessList"] = fields
    for name in _CHAIN_MAPS:
        if name in request:
            request[name] = {
                str(chain_number(key, name)): value for key, value in as_object(request[name], name).items()
            }
    if "destinationGasLimit" in request:
        request["destinationGasUnits"] = request.pop("destinationGasLimit")
    options = dict(as_object(request.get("options", {}), "options"))
    settings = as_object(options.get("sponsorSettings", {}), "options.sponsorSettings")
    for name, value in settings.items():
        if name not in _SPONSOR or not isinstance(value, bool):
            raise invalid(f"options.sponsorSettings.{name}", f"must be a boolean named {', '.join(_SPONSOR)}")
    mode = options.get("signatureMode")
    if isinstance(mode, str):
        if mode not in MODES:
            raise invalid("options.signatureMode", f"must be one of {', '.join(MODES)}")
        options["signatureMode"] = MODES.index(mode)
    request["options"] = options
    return request


def _inputs(value: object) -> list[dict[str, Any]]:
    """``{chain: {token: amount}}`` as alps' list of exact inputs."""
    path = "accountAccessList.chainTokenAmounts"
    return [
        {"chainId": chain_number(chain, path), "tokenAddress": token, "amount": amount}
        for chain, tokens in as_object(value, path).items()
        for token, amount in as_object(tokens, f"{path}.{chain}").items()
    ]


def chain_number(value: object, path: str) -> int:
    """The number of a CAIP-2 id."""
    match = _CAIP2.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise invalid(path, "must be a CAIP-2 chain id such as eip155:8453")
    return int(match[1])


def quote_answer(answer: Mapping[str, Any], body: object, alter: Alteration | None) -> dict[str, Any]:
    """The answer to ``POST /quotes``: one route.

    Args:
        answer: the alps answer, lies included.
        body: the blanc request.
        alter: its ``values`` are written last, into this answer only.
    """
    op = answer["intentOp"]
    elements = op["elements"]
    mandate = elements[0]["mandate"]
    chain = int(mandate["destinationChainId"])
    options = as_object(as_object(body, "body").get("options", {}), "options")
    sponsored = as_object(options.get("sponsorSettings", {}), "options.sponsorSettings")
    fees = {
        "gas": sponsored.get("gas", False),
        "bridge": sponsored.get("bridgeFees", False),
        "swap": sponsored.get("swapFees", False),
        "protocol": sponsored.get("protocolFees", False),
    }
    route: dict[str, Any] = {
        "intentId": str(op["nonce"]),
        "expiresAt": int(op["expires"]),
        "estimatedFillTime": {"seconds": 2},
        "settlementLayer": mandate["qualifier"]["settlementContext"]["settlementLayer"],
        "signData": _sign_data(op),
        "cost": {
            "input": [
                _token(int(element["chainId"]), int(token), amount)
                for element in elements
                for token, amount in element["idsAndAmounts"]
            ],
            "output": [_token(chain, token, amount) for token, amount in _delivered(elements).items()],
            "fees": {
                "total": {"usd": 0},
                "breakdown": {name: {"usd": 0, "sponsored": fees.get(name, False)} for name in _FEES},
            },
        },
        # a field that clients do not know
        "devnetNote": "unknown field",
    }
    result = {"routes": [route]}
    for pointer, value in (alter.values if alter is not None else {}).items():
        set_pointer(result, pointer, value)
    return result


def signed_op(body: object, quote: StoredQuote) -> dict[str, Any]:
    """A ``POST /intents`` body as the signed alps op.

    Raises:
        ApiError: naming the field.
    """
    signatures = as_object(as_object(body, "body").get("signatures"), "signatures")
    signed = {
        **quote.intent_op,
        "originSignatures": signatures.get("origin"),
        "destinationSignature": signatures.get("destination"),
    }
    if "targetExecution" in signatures:
        signed["targetExecutionSignature"] = signatures["targetExecution"]
    return signed


def intent_id(body: object) -> str:
    """The ``intentId`` of a ``POST /intents`` body."""
    value = as_object(body, "body").get("intentId")
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise invalid("intentId", "must be decimal digits")
    return value


def status_answer(status: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to ``GET /intents/{id}``, from the alps one."""
    word = _WORDS.get(str(status["status"]), "PENDING")
    target = status["destinationChainId"]
    item: dict[str, Any] = {"type": "FILL", "status": word}
    if "fillTransactionHash" in status:
        item |= {
            "status": "COMPLETED",
            "txHash": status["fillTransactionHash"],
            "timestamp": status["fillTimestamp"],
        }
    operations: dict[int, list[dict[str, Any]]] = {target: [item]}
    for claim in status["claims"]:
        # an execution on one chain claims nothing; alps shows it as a claim of the same transaction
        if claim.get("claimTransactionHash", item.get("txHash")) == item.get("txHash"):
            continue
        operations.setdefault(claim["chainId"], []).append(
            {
                "type": "CLAIM",
                "status": "COMPLETED",
                "txHash": claim["claimTransactionHash"],
                "timestamp": claim["claimTimestamp"],
            }
        )
    return {
        "status": word,
        "accountAddress": status["userAddress"],
        "operations": [{"chain": chain, "items": items} for chain, items in operations.items()],
        "devnetReason": status["devnetReason"],
    }


def chains_answer(chains: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to ``GET /chains``, from the alps one."""
    return {f"eip155:{chain_id}": value for chain_id, value in chains.items()}


def portfolio_answer(portfolio: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to ``GET /accounts/{address}/portfolio``, from the alps one."""
    return {
        "portfolio": [
            {
                "symbol": row["tokenName"],
                "chains": [
                    {
                        "chainId": f"eip155:{entry['chainId']}",
                        "address": entry["tokenAddress"],
                        "decimals": row["tokenDecimals"],
                        "amount": entry["balance"]["unlocked"],
                    }
                    for entry in row["tokenChainBalance"]
                ],
                "devnetNote": "unknown field",
            }
            for row in portfolio["portfolio"]
        ]
    }


def error_body(error: ApiError, trace: str) -> dict[str, Any]:
    """The error envelope: a code, a message, and details in the shape that goes with the code."""
    if isinstance(error, IlliquidError):
        return {
            "code": "INSUFFICIENT_LIQUIDITY",
            "message": error.message,
            "traceId": trace,
            "details": error.parts,
        }
    simulations = as_object((error.context or {}).get("error", {}), "error").get("simulations")
    if simulations:
        return {
            "code": "SIMULATION_FAILED",
            "message": error.message,
            "traceId": trace,
            "details": {
                "category": simulations[0]["category"],
                "errorSelector": "0x",
                "errorName": simulations[0]["reason"],
                "retryable": False,
                "simulations": simulations,
            },
        }
    code = {
        400: "VALIDATION_ERROR",
        401: "UNAUTHORIZED",
        404: "NOT_FOUND",
        409: "CONFLICT",
        422: "UNPROCESSABLE_CONTENT",
        503: "RELAYER_MARKET_UNAVAILABLE",
    }.get(error.status, "INTERNAL_ERROR")
    body: dict[str, Any] = {"code": code, "message": error.message, "traceId": trace}
    if code in ("VALIDATION_ERROR", "UNPROCESSABLE_CONTENT"):
        body["details"] = [{"message": error.message, "context": dict(error.context or {})}]
    return body


def _sign_data(op: Mapping[str, Any]) -> dict[str, Any]:
    elements = op["elements"]
    context = elements[0]["mandate"]["qualifier"]["settlementContext"]
    if context["fundingMethod"] == "PERMIT2":
        origins = [_permit2(op, element) for element in elements]
        data: dict[str, Any] = {"origin": origins, "destination": copy.deepcopy(origins[-1])}
        if context["settlementLayer"] == "SAME_CHAIN":
            data["targetExecution"] = _typed_data(op, elements[-1], op["targetExecutionNonce"])
        return data
    return {
        "origin": [_typed_data(op, element, op["nonce"]) for element in elements],
        "destination": _typed_data(op, elements[-1], op["nonce"]),
        "targetExecution": _typed_data(op, elements[-1], op["targetExecutionNonce"]),
    }


def _permit2(op: Mapping[str, Any], element: Mapping[str, Any]) -> dict[str, Any]:
    claim = claims.read_claim(element, int(op["nonce"]), int(op["expires"]))
    return {
        "domain": claim.domain(),
        "types": copy.deepcopy(claims.PERMIT2_TYPES),
        "primaryType": "PermitBatchWitnessTransferFrom",
        "message": _as_json(claim.message()),
    }


def _as_json(value: Any) -> Any:
    """Integers as decimal text and bytes as hex, as the API writes a message."""
    if isinstance(value, dict):
        return {name: _as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    if isinstance(value, bytes):
        return "0x" + value.hex()
    return str(value) if isinstance(value, int) else value


def _delivered(elements: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """What all elements deliver of each token."""
    found: Counter[int] = Counter()
    for element in elements:
        for token, amount in element["mandate"]["tokenOut"]:
            found[int(token)] += int(amount)
    return dict(found)


def _typed_data(op: Mapping[str, Any], element: Mapping[str, Any], nonce: object) -> dict[str, Any]:
    mandate = element["mandate"]
    context = mandate["qualifier"]["settlementContext"]
    return {
        "domain": {
            "name": "IntentExecutor",
            "version": "v0.0.1",
            "chainId": int(mandate["destinationChainId"]),
            "verifyingContract": to_checksum_address(INTENT_EXECUTOR),
        },
        "types": copy.deepcopy(SINGLE_CHAIN_OPS_TYPES),
        "primaryType": "SingleChainOps",
        "message": {
            "account": op["sponsor"],
            "nonce": str(nonce),
            "op": {
                "vt": mandate["destinationOps"]["vt"],
                "ops": copy.deepcopy(mandate["destinationOps"]["ops"]),
            },
            "gasRefund": dict(context.get("gasRefund") or NO_REFUND),
        },
    }


def _token(chain: int, token: int, amount: object) -> dict[str, Any]:
    address = f"0x{token:040x}"
    known = known_chains().get(chain)
    listed = known.token_at(address) if known is not None else None
    symbol, decimals = ("?", 18) if listed is None else (listed.symbol, listed.decimals)
    return {
        "chainId": f"eip155:{chain}",
        "tokenAddress": to_checksum_address(address),
        "symbol": symbol,
        "decimals": decimals,
        "price": {"usd": 1},
        "amount": str(amount),
    }
