"""Quotes: what a route request is answered with, and the server's seal over it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import hmac
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_abi.abi import encode
from eth_utils.address import to_checksum_address

from worker.devnet import cross_chain
from worker.devnet.api_error import (
    ApiError,
    as_address,
    as_amount,
    as_calls,
    as_hex,
    as_list,
    as_number,
    as_object,
    insufficient,
    invalid,
)
from worker.devnet.chain import EMISSARY, ZERO_ADDRESS, Call, Chain, selector
from worker.devnet.exact_json import Number, dumps
from worker.devnet.lies import LIES
from worker.devnet.verify import ENABLE_MODE, USE, InvalidSignatureError, unpack_emissary

# The docs' default fill deadline.
QUOTE_LIFE_S = 120
CUSTOM_DEADLINE_MIN_S = 120
CUSTOM_DEADLINE_MAX_S = 86_400
SIG_MODE_ERC1271 = 1
SIG_MODE_EMISSARY_EXECUTION_ERC1271 = 5
# first byte of `vt`: the calls run through ERC-7579; the second is the signature mode that was asked for
VT_ERC7579 = 2
ARBITER = "0x000000000006e2569CaF8Ff021810790e0A0D740"
SIGNATURE_FIELDS = (
    "originSignatures",
    "destinationSignature",
    "targetExecutionSignature",
    "signedAuthorizations",
    "options",
)
# JavaScript prints these as they stand here; a client that reads them as binary floats and writes them as another
# language does breaks the seal.
AWKWARD_NUMBERS = {
    "ETH": Number("3000.25"),
    "USDC": Number("1"),
    "SHIB": Number("0.000001"),
    "PEPE": Number("1e-7"),
    "supply": Number("12345678901234567000"),
    "cap": Number("1e+21"),
}


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """A route request, checked.

    Attributes:
        account: lower-case address.
        chain_id: the destination.
        sources: chains that tokens may be taken from, in order; empty for the destination alone.
        inputs: exact inputs as (chain, token, amount); empty when the service may choose.
        recipient: where tokens go; the account by default.
        tokens: (token, amount) pairs in base units; amount None is max-out.
        calls: the caller's executions on the destination.
        pre_claim: executions before the claim, per chain.
        signature_mode: 1 or 5.
        custom_deadline_s: unix seconds or None.
        layers: the settlement layers that may be used; None for any.
        fee_sponsored: whether the project pays the fee of bridge or swap.
        assets: symbols or addresses that inputs may be chosen from; empty for any.
    """

    account: str
    chain_id: int
    sources: tuple[int, ...]
    inputs: tuple[tuple[int, str, int], ...]
    recipient: str
    tokens: tuple[tuple[str, int | None], ...]
    calls: tuple[Call, ...]
    pre_claim: Mapping[int, tuple[Call, ...]]
    signature_mode: int
    custom_deadline_s: int | None
    layers: tuple[str, ...] | None
    fee_sponsored: bool
    assets: tuple[str, ...]

    @property
    def crosses(self) -> bool:
        """Whether tokens come from another chain than the destination."""
        return bool(self.tokens) and any(source != self.chain_id for source in self.sources)

    def swaps(self, usdc: str) -> bool:
        """Whether another token than the destination's USDC is wanted for USDC that may be taken there."""
        wanted = [token for token, _ in self.tokens if token != usdc]
        named = "USDC" in self.assets or usdc in (asset.lower() for asset in self.assets)
        return not self.crosses and bool(wanted) and (named or bool(self.inputs))


@dataclass(slots=True)
class StoredQuote:
    """What the server remembers of a quote until it is submitted or expires."""

    nonce: str
    expires_s: int
    signature_mode: int
    chain_id: int
    intent_op: dict[str, Any] = field(repr=False)


def read_request(body: object, chains: Mapping[int, Chain], *, blanc: bool = False) -> RouteRequest:
    """Check a ``POST /intents/route`` body (protocol/orchestrator.md 3), or one that blanc's was turned into.

    Raises:
        ApiError: naming the field, or with the service's own message where it has one.
    """
    request = as_object(body, "body")
    chain_id = as_number(request.get("destinationChainId"), "destinationChainId")
    inputs = _inputs(request)
    sources = tuple(dict.fromkeys([*_source_chains(request), *(chain for chain, _, _ in inputs)]))
    for number in (chain_id, *sources):
        if number not in chains:
            raise ApiError(400, f"Unsupported chain {number}")
    for number, token, _ in inputs:
        if token not in chains[number].tokens:
            raise ApiError(400, f"Unsupported token {token} for chain {number}")
    account = as_object(request.get("account"), "account")
    if account.get("accountType") != "ERC7579":
        raise invalid("account.accountType", "only ERC7579 accounts exist on the devnet")
    address = as_address(account.get("address"), "account.address")
    as_list(account.get("setupOps"), "account.setupOps")
    recipient = address
    if request.get("recipient") is not None:
        recipient = as_address(
            as_object(request["recipient"], "recipient").get("address"), "recipient.address"
        )
    calls = as_calls(request.get("destinationExecutions", []), "destinationExecutions")
    if request.get("destinationGasUnits") is not None:
        as_amount(request["destinationGasUnits"], "destinationGasUnits")
    pre_claim: dict[int, tuple[Call, ...]] = {}
    for key, value in as_object(request.get("preClaimExecutions", {}), "preClaimExecutions").items():
        if key not in {str(number) for number in (chain_id, *sources)}:
            raise ApiError(400, f"Unsupported chain {key}")
        pre_claim[int(key)] = tuple(as_calls(value, f"preClaimExecutions.{key}"))
    tokens = _tokens(request, chains[chain_id])
    if not tokens and not calls and not any(pre_claim.values()):
        raise ApiError(400, "No valid transfers sent for settlement quotes")
    options = as_object(request.get("options", {}), "options")
    mode = as_number(options.get("signatureMode", SIG_MODE_ERC1271), "options.signatureMode")
    if mode not in (SIG_MODE_ERC1271, SIG_MODE_EMISSARY_EXECUTION_ERC1271):
        raise invalid("options.signatureMode", "must be 1 or 5 on the devnet")
    for number in dict.fromkeys((*sources, chain_id)):
        # SDK 1.15 always mocks ENABLE mode, v2 the one that it will sign
        _check_mocks(account, number, mode, (USE, ENABLE_MODE) if blanc else (ENABLE_MODE,))
    layers = options.get("settlementLayers")
    if layers is not None:
        layers = tuple(str(layer) for layer in as_list(layers, "options.settlementLayers"))
    deadline = options.get("customDeadline")
    if deadline is not None:
        deadline = as_number(deadline, "options.customDeadline")
        now = int(time.time())
        if not now + CUSTOM_DEADLINE_MIN_S <= deadline <= now + CUSTOM_DEADLINE_MAX_S:
            raise invalid("options.customDeadline", "must be between 120 and 86400 seconds from now")
    sponsor = as_object(options.get("sponsorSettings", {}), "options.sponsorSettings")
    return RouteRequest(
        account=address,
        chain_id=chain_id,
        sources=sources,
        inputs=inputs,
        recipient=recipient,
        tokens=tokens,
        calls=tuple(calls),
        pre_claim=pre_claim,
        signature_mode=mode,
        custom_deadline_s=deadline,
        layers=layers,
        fee_sponsored=any(
            sponsor.get(name) is True
            for name in ("bridgeFeesSponsored", "bridgeFees", "swapFeesSponsored", "swapFees")
        ),
        assets=_assets(request),
    )


def _check_mocks(account: Mapping[str, Any], chain_id: int, mode: int, allowed: Collection[int]) -> None:
    """Mock signatures are hex by decimal chain id; a session's must be there and have the real one's shape.

    The service simulates the verification with them (openapi: "required for smart-session flows"). Shape:
    protocol/signing.md 8.
    """
    path = "account.mockSignatures"
    mocks = {
        key: as_hex(value, f"{path}.{key}")
        for key, value in as_object(account.get("mockSignatures", {}), path).items()
    }
    if mode != SIG_MODE_EMISSARY_EXECUTION_ERC1271:
        return
    path = f"{path}.{chain_id}"
    mock = mocks.get(str(chain_id), mocks.get("0"))
    if mock is None:
        raise invalid(path, "is required with signatureMode 5")
    if not mock.startswith(bytes.fromhex(EMISSARY[2:])):
        raise invalid(path, "does not begin with the emissary's address")
    try:
        form = unpack_emissary(mock[20:])
    except InvalidSignatureError as error:
        raise invalid(path, str(error)) from None
    if form.mode not in allowed or not form.signatures or any(form.signatures) or len(form.signatures) % 65:
        raise invalid(path, "is not the emissary form that is wanted, with zeros for signatures")


def _source_chains(request: Mapping[str, Any]) -> list[int]:
    access = request.get("accountAccessList")
    if not isinstance(access, dict) or access.get("chainIds") is None:
        return []
    path = "accountAccessList.chainIds"
    return [as_number(item, path) for item in as_list(access["chainIds"], path)]


def _assets(request: Mapping[str, Any]) -> tuple[str, ...]:
    access = request.get("accountAccessList")
    if not isinstance(access, dict) or access.get("tokens") is None:
        return ()
    return tuple(str(item) for item in as_list(access["tokens"], "accountAccessList.tokens"))


def _inputs(request: Mapping[str, Any]) -> tuple[tuple[int, str, int], ...]:
    """The exact inputs of a list; alps' form, which blanc's is turned into."""
    access = request.get("accountAccessList")
    if not isinstance(access, list):
        return ()
    found: list[tuple[int, str, int]] = []
    for index, item in enumerate(as_list(access, "accountAccessList")):
        at = f"accountAccessList[{index}]"
        entry = as_object(item, at)
        if entry.get("amount") is None:
            raise invalid(f"{at}.amount", "is needed on the devnet")
        found.append(
            (
                as_number(entry.get("chainId"), f"{at}.chainId"),
                as_address(entry.get("tokenAddress"), f"{at}.tokenAddress"),
                as_amount(entry["amount"], f"{at}.amount"),
            )
        )
    return tuple(found)


def _tokens(request: Mapping[str, Any], chain: Chain) -> tuple[tuple[str, int | None], ...]:
    tokens: list[tuple[str, int | None]] = []
    for index, item in enumerate(as_list(request.get("tokenRequests", []), "tokenRequests")):
        at = f"tokenRequests[{index}]"
        entry = as_object(item, at)
        token = as_address(entry.get("tokenAddress"), f"{at}.tokenAddress")
        if token not in chain.tokens:
            raise ApiError(400, f"Unsupported token {token} for chain {chain.chain_id}")
        amount = None if entry.get("amount") is None else as_amount(entry["amount"], f"{at}.amount")
        tokens.append((token, amount))
    if len(tokens) > 1 and any(amount is None for _, amount in tokens):
        raise ApiError(400, "Only one target token amount can be unset")
    return tuple(tokens)


@dataclass(frozen=True, slots=True)
class Alteration:
    """How a quote is made to lie.

    Attributes:
        lies: names of ``worker.devnet.lies``, told in this order.
        values: JSON pointer -> value, written last.
    """

    lies: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def apply(self, answer: dict[str, Any]) -> None:
        """Change the answer in place.

        Raises:
            ApiError: a pointer leads nowhere.
        """
        for name in self.lies:
            try:
                LIES[name](answer)
            except IndexError:
                raise invalid("lies", f"{name} needs an op to change") from None
        for pointer, value in self.values.items():
            set_pointer(answer, pointer, value)


class QuoteBook:
    """Makes quotes and recognises them again. Not thread-safe: the orchestrator locks.

    Args:
        chains: the devnet's chains.
        life_s: how long a quote lives.
    """

    def __init__(self, chains: Mapping[int, Chain], life_s: int = QUOTE_LIFE_S) -> None:
        self.life_s = life_s
        self._chains = chains
        self._key = secrets.token_bytes(32)
        self._open: dict[str, StoredQuote] = {}

    def make(
        self,
        request: RouteRequest,
        account_json: Mapping[str, Any],
        alter: Alteration | None = None,
    ) -> dict[str, Any]:
        """A quote.

        On one chain: INTENT_EXECUTOR, NO_FUNDING, no gas refund (and none is ever collected); tokens for another
        recipient become transfers behind the caller's calls, as a solver would add them. From other chains: ACROSS,
        PERMIT2, one element for each chain that tokens are taken from. For another token than may be taken, on one
        chain: SAME_CHAIN, PERMIT2.

        Args:
            request: what was asked.
            account_json: the request's ``account`` object, echoed in the metadata.
            alter: what a lying server writes into the answer *before* it is sealed.

        Raises:
            ApiError: ``Insufficient balance``, ``No Path Found``.
        """
        now = int(time.time())
        expires = now + self.life_s
        if request.crosses or request.swaps(self._chains[request.chain_id].usdc):
            answer = self._taking(request, account_json, expires)
        else:
            if request.custom_deadline_s is not None and not request.tokens:
                expires = request.custom_deadline_s
            answer = self._staying(request, account_json, expires)
        if alter is not None:
            alter.apply(answer)
        intent_op = answer["intentOp"]
        intent_op["serverSignature"] = self._seal(intent_op)
        nonce = str(intent_op.get("nonce"))
        self._drop_expired(now)
        with contextlib.suppress(KeyError, TypeError, ValueError):  # altered into nonsense
            expires = int(intent_op["expires"])
        self._open[nonce] = StoredQuote(
            nonce, expires, request.signature_mode, request.chain_id, copy.deepcopy(intent_op)
        )
        return answer

    def recognise(self, signed_intent_op: Mapping[str, Any]) -> StoredQuote:
        """The quote that a submitted op belongs to; it stays open until ``consume``.

        Args:
            signed_intent_op: as ``exact_json.loads`` parses it.

        Raises:
            ApiError: 422 ``Invalid bundle signature`` when anything but the signatures changed; 404 when the quote
                is unknown, expired or was submitted before.
        """
        intent_op = {key: value for key, value in signed_intent_op.items() if key not in SIGNATURE_FIELDS}
        seal = intent_op.get("serverSignature")
        if not isinstance(seal, str) or not hmac.compare_digest(
            seal.encode(), self._seal(intent_op).encode()
        ):
            raise ApiError(422, "Invalid bundle signature")
        return self.find(str(intent_op.get("nonce")))

    def find(self, nonce: str) -> StoredQuote:
        """The open quote of an id; it stays open until ``consume``.

        Raises:
            ApiError: 404 when it is unknown, expired or was submitted before.
        """
        quote = self._open.get(nonce)
        if quote is None or quote.expires_s <= time.time():
            raise ApiError(
                404, "Order bundle not found", {"reason": "the quote has expired or was already submitted"}
            )
        return quote

    def consume(self, quote: StoredQuote) -> None:
        """Take the quote out: a second submit gets 404."""
        del self._open[quote.nonce]

    def clear(self) -> None:
        """Forget every open quote, as a restart of the quote store does."""
        self._open.clear()

    def _drop_expired(self, now: int) -> None:
        for nonce in [nonce for nonce, quote in self._open.items() if quote.expires_s <= now]:
            del self._open[nonce]

    def _seal(self, intent_op: Mapping[str, Any]) -> str:
        """HMAC-SHA256 over the whole op but the seal: order of keys and text of numbers included."""
        sealed = {key: value for key, value in intent_op.items() if key != "serverSignature"}
        text = dumps(sealed).encode(errors="surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()

    def _staying(
        self, request: RouteRequest, account_json: Mapping[str, Any], expires: int
    ) -> dict[str, Any]:
        if request.layers is not None and not {"INTENT_EXECUTOR", "SAME_CHAIN"}.intersection(request.layers):
            raise ApiError(400, "No Path Found")
        received: list[tuple[str, int]] = []
        extra: list[Call] = []
        for token, wanted in request.tokens:
            balance = self._chains[request.chain_id].balance(token, request.account)
            amount = balance if wanted is None else wanted
            if amount > balance:
                raise insufficient(token, amount, balance)
            received.append((token, amount))
            if request.recipient != request.account:
                extra.append(_transfer(token, request.recipient, amount))
        chain, zero = str(request.chain_id), {"token": ZERO_ADDRESS, "exchangeRate": "0", "overhead": "0"}
        element = {
            "arbiter": ARBITER,
            "chainId": chain,
            "idsAndAmounts": [],
            "spendTokens": [],
            "beforeFill": False,
            "mandate": _mandate(
                request,
                out=received,
                after=(*request.calls, *extra),
                before=request.pre_claim.get(request.chain_id, ()),
                expires=expires,
                context={
                    "settlementLayer": "INTENT_EXECUTOR",
                    "fundingMethod": "NO_FUNDING",
                    "using7579": True,
                    "gasRefund": zero,
                },
                encoded="0x",
            ),
        }
        spent = {(request.chain_id, token): amount for token, amount in received}
        return self._answer(request, account_json, [element], spent=spent, received=received, expires=expires)

    def _taking(self, request: RouteRequest, account_json: Mapping[str, Any], expires: int) -> dict[str, Any]:
        layer = cross_chain.layer_of(request)
        if request.layers is not None and layer not in request.layers:
            raise ApiError(400, "No Path Found")
        route, token = cross_chain.plan(request, self._chains), request.tokens[0][0]
        elements = [
            {
                "arbiter": to_checksum_address(cross_chain.ARBITERS[layer]),
                "chainId": str(chain_id),
                "idsAndAmounts": _ids([(self._chains[chain_id].usdc, taken)]),
                "spendTokens": _ids([(self._chains[chain_id].usdc, taken)]),
                "beforeFill": False,
                "mandate": _mandate(
                    request,
                    out=[(token, given)],
                    after=request.calls,
                    before=request.pre_claim.get(chain_id, ()),
                    expires=expires,
                    context={
                        "settlementLayer": layer,
                        "fundingMethod": "PERMIT2",
                        "using7579": True,
                    },
                    encoded=cross_chain.QUALIFIER,
                ),
            }
            for chain_id, taken, given in route
        ]
        spent = {(chain_id, self._chains[chain_id].usdc): taken for chain_id, taken, _ in route}
        received = [(token, sum(given for _, _, given in route))]
        return self._answer(request, account_json, elements, spent=spent, received=received, expires=expires)

    def _answer(
        self,
        request: RouteRequest,
        account_json: Mapping[str, Any],
        elements: Sequence[Mapping[str, Any]],
        *,
        spent: Mapping[tuple[int, str], int],
        received: Sequence[tuple[str, int]],
        expires: int,
    ) -> dict[str, Any]:
        intent_op: dict[str, Any] = {
            "sponsor": to_checksum_address(request.account),
            "nonce": str(secrets.randbits(256)),
            "targetExecutionNonce": str(secrets.randbits(256)),
            "expires": str(expires),
            "elements": list(elements),
            "signedMetadata": {
                "fees": {},
                "quotes": {},
                "tokenPrices": dict(AWKWARD_NUMBERS),
                "opGasParams": {"estimatedCalldataSize": 0},
                "gasPrices": {str(request.chain_id): "5000000"},
                "account": {
                    "address": to_checksum_address(request.account),
                    "accountType": "ERC7579",
                    "setupOps": account_json.get("setupOps", []),
                    "accountContext": {},
                },
            },
        }
        by_chain: dict[str, dict[str, Any]] = {}
        for (chain_id, token), amount in spent.items():
            by_chain.setdefault(str(chain_id), {})[to_checksum_address(token)] = {
                "locked": "0",
                "unlocked": str(amount),
            }
        # in the token that is delivered; a swap's is in its price
        fee = max(0, sum(spent.values()) - sum(amount for _, amount in received))
        return {
            "intentOp": intent_op,
            "intentCost": {
                "hasFulfilledAll": True,
                "tokensReceived": [
                    {
                        "tokenAddress": to_checksum_address(token),
                        "hasFulfilled": True,
                        "amountSpent": str(amount + fee),
                        "destinationAmount": str(amount),
                        "fee": str(fee),
                    }
                    for token, amount in received
                ],
                "sponsoredFee": {"relayer": 0, "protocol": 0},
                "tokensSpent": by_chain,
            },
            "devnetNote": "unknown field",
        }


def _mandate(
    request: RouteRequest,
    *,
    out: Sequence[tuple[str, int]],
    after: Sequence[Call],
    before: Sequence[Call],
    expires: int,
    context: Mapping[str, Any],
    encoded: str,
) -> dict[str, Any]:
    vt = "0x" + bytes([VT_ERC7579, request.signature_mode]).hex().ljust(64, "0")
    return {
        "recipient": to_checksum_address(request.recipient),
        "tokenOut": _ids(out),
        "destinationChainId": str(request.chain_id),
        "fillDeadline": str(expires),
        "destinationOps": {"vt": vt, "ops": [_op(call) for call in after]},
        "preClaimOps": {"vt": vt, "ops": [_op(call) for call in before]},
        "qualifier": {
            # clients must send back what they do not know
            "settlementContext": {**context, "devnetNote": "unknown field"},
            "encodedVal": encoded,
        },
        "minGas": "0",
    }


def _ids(amounts: Sequence[tuple[str, int]]) -> list[list[str]]:
    return [[str(int(token, 16)), str(amount)] for token, amount in amounts]


def set_pointer(document: dict[str, Any], pointer: str, value: object) -> None:
    """Write ``value`` at a JSON pointer (RFC 6901); ``-`` appends to an array.

    Raises:
        ApiError: the pointer leads nowhere.
    """
    here: Any = document
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    if not parts:
        raise invalid("alter_quote", f"{pointer!r} is no JSON pointer to a field")
    try:
        for part in parts[:-1]:
            here = here[int(part)] if isinstance(here, list) else here[part]
        if isinstance(here, list):
            if parts[-1] == "-":
                here.append(value)
            else:
                here[int(parts[-1])] = value
        else:
            here[parts[-1]] = value
    except (KeyError, IndexError, ValueError, TypeError):
        raise invalid("alter_quote", f"{pointer!r} leads nowhere") from None


def _op(call: Call) -> dict[str, str]:
    return {"to": to_checksum_address(call.to), "value": str(call.value), "data": "0x" + call.data.hex()}


def _transfer(token: str, recipient: str, amount: int) -> Call:
    if token == ZERO_ADDRESS:
        return Call(recipient, amount, b"")
    data = selector("transfer(address,uint256)") + encode(["address", "uint256"], [recipient, amount])
    return Call(token, 0, data)
