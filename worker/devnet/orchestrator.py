"""The devnet's orchestrator: quotes, verifies what is submitted, executes it on the chain, tells its status.

Everything here is thread-safe; one lock orders what touches the chain.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eth_utils.address import to_checksum_address

from worker.devnet import blanc, claims, cross_chain, exact_json, verify
from worker.devnet.api_error import (
    ApiError,
    IlliquidError,
    SimulationFailedError,
    as_address,
    as_amount,
    as_calls,
    as_list,
    as_number,
    as_object,
    invalid,
    simulation_failed,
)
from worker.devnet.chain import (
    INTENT_EXECUTOR,
    KINDS,
    ZERO_ADDRESS,
    Call,
    Chain,
    claim_call,
    execute_call,
    fill_call,
    revert_reason,
    set_config_call,
)
from worker.devnet.chain_sessions import ChainSessions
from worker.devnet.claims import Permit2Claim
from worker.devnet.errors import DevnetError, RpcError
from worker.devnet.quotes import (
    SIG_MODE_EMISSARY_EXECUTION_ERC1271,
    Alteration,
    QuoteBook,
    StoredQuote,
    read_request,
)
from worker.devnet.session_table import OperationDeniedError, SessionTable
from worker.devnet.verify import ENABLE_MODE, EmissarySignature, InvalidSignatureError

log = logging.getLogger(__name__)

# what one filler of the devnet has at hand, and how many there are
FILLER_USDC = 400_000_000_000
MAX_PARTS = 5
TERMINAL = ("COMPLETED", "FAILED", "EXPIRED")


@dataclass(frozen=True, slots=True)
class SubmitOrders:
    """What a fault wants of one submit.

    Attributes:
        fate: ``""``, or what becomes of the accepted intent instead of its execution: ``fail`` (FAILED when it would
            be filled), ``expire`` (EXPIRED at that time), ``stall`` (PENDING for ever).
        hide_ms: for how long the status endpoint answers 404 for it.
        late_ms: hide it for this long, and execute it only then, whatever its deadline: what is signed for the
            executor has none.
        fail_simulation: let the simulation fail without a cause.
        simulation_error: answer a failed simulation with a 400 ``Bundle simulation failed`` instead of a result.
    """

    fate: str = ""
    hide_ms: int = 0
    late_ms: int = 0
    fail_simulation: bool = False
    simulation_error: bool = False


@dataclass(slots=True)
class Delays:
    """When an accepted intent moves on, in milliseconds after it was accepted, and how long a quote lives.

    Attributes:
        preconfirm_ms: PENDING becomes PRECONFIRMED.
        fill_ms: the ops are executed: FILLED or FAILED, or EXPIRED if the deadline has passed by then.
        complete_ms: FILLED becomes COMPLETED.
        quote_life_s: seconds from quote to expiry.
    """

    preconfirm_ms: int = 50
    fill_ms: int = 100
    complete_ms: int = 200
    quote_life_s: int = 120


@dataclass(slots=True)
class _Account:
    address: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Authorization:
    """How calls may execute on a chain: by a session (with what enabling), or by the owners.

    ``table_key`` is None when no action policies are consulted.
    """

    table_key: bytes | None
    enable: EmissarySignature | None = None

    def set_config(self, account: str) -> bytes:
        """Calldata that enables the session, or nothing."""
        return (
            b"" if self.enable is None else set_config_call(account, self.enable.config, self.enable.enable)
        )


@dataclass(slots=True)
class _SourceClaim:
    """Tokens to be claimed on a source chain, after the account's own calls there."""

    message: Permit2Claim
    signature: bytes
    authorization: _Authorization
    tx_hash: str = ""
    claimed_s: int = 0

    @property
    def calls(self) -> list[Call]:
        return [Call(*call) for call in self.message.origin_ops[1]]


@dataclass(slots=True)
class _Intent:
    nonce: str
    account: str
    chain_id: int
    expires_s: int
    pre_claim: list[Call]
    calls: list[Call]
    authorization: _Authorization
    recipient: str = ""
    deliveries: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    claims: list[_SourceClaim] = field(default_factory=list[_SourceClaim])
    status: str = "PENDING"
    fate: str = ""
    hidden_until: float = 0.0
    late: bool = False
    fill_s: int = 0
    tx_hash: str = ""
    reason: str = ""
    history: list[str] = field(default_factory=lambda: ["PENDING"])


class DevOrchestrator:
    """An orchestrator for one chain or several, in alps terms; ``blanc_*`` say the same in blanc's.

    Args:
        chains: the chains, with the devnet's contracts in place; the first is the one that is meant when none is named.
        delays: the initial delays; ``reset`` comes back to them.
    """

    def __init__(self, chains: Sequence[Chain], delays: Delays | None = None) -> None:
        self._chains = {chain.chain_id: chain for chain in chains}
        self._home = chains[0]
        self._initial = delays or Delays()
        self.delays = Delays(**_fields(self._initial))
        self._lock = threading.RLock()
        self._wake = threading.Condition()
        self._order = itertools.count()
        self._due: list[tuple[float, int, _Intent, str, int]] = []
        self._stopped = False
        self._start_over()
        self._base_states = {chain.chain_id: chain.rpc.call("evm_snapshot") for chain in chains}
        self._thread = threading.Thread(target=self._run, name="devnet-filler", daemon=True)
        self._thread.start()

    # --- accounts

    def register_account(self, body: object) -> dict[str, Any]:
        """Put a ``DevAccount`` at an address: ``{address, kind, owners, threshold?, usdc?, eth?}`` (base units).

        The account is put on every chain, its balances on the first.
        """
        request = as_object(body, "body")
        address = as_address(request.get("address"), "address")
        kind = request.get("kind", "nexus")
        if kind not in KINDS:
            raise invalid("kind", f"must be one of {', '.join(KINDS)}")
        owners = [as_address(item, "owners") for item in as_list(request.get("owners"), "owners")]
        threshold = as_number(request.get("threshold", 1), "threshold")
        if not owners or len(set(owners)) != len(owners):
            raise invalid("owners", "must be distinct addresses, at least one")
        if not 1 <= threshold <= len(owners):
            raise invalid("threshold", "must be between 1 and the number of owners")
        usdc = None if request.get("usdc") is None else as_amount(request["usdc"], "usdc")
        eth = None if request.get("eth") is None else as_amount(request["eth"], "eth")
        with self._lock:
            for chain in self._chains.values():
                chain.put_account(address, str(kind), owners, threshold)
            self._set_balances(self._home, address, usdc, eth)
            self._accounts[address] = _Account(address, str(kind))
        return {
            "address": to_checksum_address(address),
            "kind": kind,
            "owners": owners,
            "threshold": threshold,
        }

    # --- the API

    def quote(
        self, body: object, alter: Alteration | None = None, *, from_blanc: bool = False
    ) -> dict[str, Any]:
        """``POST /intents/route``. ``alter`` is done to the quote before the server seals it."""
        request = read_request(body, self._chains, blanc=from_blanc)
        with self._lock:
            if request.account not in self._accounts:
                raise invalid("account.address", "is not registered: POST /devnet/accounts")
            self._quotes.life_s = self.delays.quote_life_s
            account_json = as_object(as_object(body, "body").get("account"), "account")
            return self._quotes.make(request, account_json, alter)

    def blanc_quote(self, body: object, alter: Alteration | None = None) -> dict[str, Any]:
        """``POST /quotes``. Lies go into the stored quote too; single values into the answer only."""
        lies = Alteration(alter.lies) if alter is not None and alter.lies else None
        return blanc.quote_answer(self.quote(blanc.alps_request(body), lies, from_blanc=True), body, alter)

    def blanc_submit(self, text: str, orders: SubmitOrders | None = None) -> dict[str, Any]:
        """``POST /intents``: verify, simulate, accept. A failed simulation is a 400, and the quote stays open.

        Raises:
            ApiError: see ``submit``.
        """
        orders = replace(orders or SubmitOrders(), simulation_error=True)
        body = _parsed(text)
        with self._lock:
            quote = self._quotes.find(blanc.intent_id(body))
            self._accept(quote, blanc.signed_op(body, quote), orders)
        return {"intentId": quote.nonce}

    def blanc_status(self, intent_id: str) -> dict[str, Any]:
        """``GET /intents/{id}``."""
        return blanc.status_answer(self.status(intent_id))

    def submit(self, text: str, orders: SubmitOrders | None = None) -> dict[str, Any]:
        """``POST /intent-operations``: verify, simulate, accept.

        A failed verification or simulation is a result with status ``FAILED`` (protocol/orchestrator.md 5): nothing
        was executed, the quote is used up, and the status endpoint says FAILED too. Why is in ``state()``.

        Args:
            text: the request body; its numbers are compared as they are written.
            orders: what a fault wants.

        Raises:
            ApiError: 404 (unknown, expired, or submitted before), 422 (altered), or 400: the request is malformed,
                or the simulation failed and the orders want it said so. After a 400 the quote can still be
                submitted.
        """
        signed = as_object(as_object(_parsed(text), "body").get("signedIntentOp"), "signedIntentOp")
        with self._lock:
            quote = self._quotes.recognise(signed)
            status = self._accept(quote, signed, orders or SubmitOrders())
        return {"result": {"id": quote.nonce, "status": status}}

    def _accept(self, quote: StoredQuote, signed: Mapping[str, Any], orders: SubmitOrders) -> str:
        """Verify, simulate and take in what was signed; returns the status word."""
        try:
            if orders.fail_simulation:
                raise simulation_failed("UNCLASSIFIED_REVERT", "told to fail")
            intent = self._verify(quote, signed)
            self._simulate(intent)
        except SimulationFailedError as failed:
            if orders.simulation_error:
                raise
            self._quotes.consume(quote)
            self._refuse(quote, failed)
            return "FAILED"
        if as_object(signed.get("options", {}), "signedIntentOp.options").get("dryRun") is True:
            return "PENDING"
        self._quotes.consume(quote)
        intent.fate = orders.fate
        intent.hidden_until = time.monotonic() + max(orders.hide_ms, orders.late_ms) / 1000
        intent.late = orders.late_ms > 0
        self._intents[quote.nonce] = intent
        if intent.fate != "stall":
            self._schedule(intent, wait_ms=orders.late_ms)
        return "PENDING"

    def status(self, intent_id: str) -> dict[str, Any]:
        """``GET /intent-operation/{id}``; the id is the intentOp's nonce."""
        with self._lock:
            intent = self._intents.get(intent_id)
            if intent is None or time.monotonic() < intent.hidden_until:
                raise ApiError(404, "Order bundle not found", {"id": intent_id})
            filled = intent.tx_hash if intent.status in ("FILLED", "COMPLETED") else ""
            body: dict[str, Any] = {
                "status": intent.status,
                "claims": _claims(intent, filled),
                "destinationChainId": intent.chain_id,
                "userAddress": to_checksum_address(intent.account),
                # a field that clients do not know
                "devnetReason": intent.reason,
            }
            if filled:
                body |= {"fillTimestamp": intent.fill_s, "fillTransactionHash": filled}
            return body

    def chains(self) -> dict[str, Any]:
        """``GET /chains``."""
        found: dict[str, Any] = {}
        for chain_id, chain in self._chains.items():
            tokens = [
                {"symbol": symbol, "address": to_checksum_address(address), "decimals": decimals}
                for address, (symbol, decimals) in chain.tokens.items()
            ]
            by_symbol = {token["symbol"]: token for token in tokens}
            found[str(chain_id)] = {
                "name": chain.name,
                "testnet": False,
                "supportedTokens": tokens,
                "nativeToken": by_symbol["ETH"],
                "wrappedNativeToken": by_symbol["WETH"],
                "explorer": {
                    "url": "https://explorer.invalid",
                    "addressPath": "/address/",
                    "txPath": "/tx/",
                },
                "devnetNote": "unknown field",
            }
        return found

    def portfolio(
        self, address: str, *, chains: Sequence[str] = (), tokens: Sequence[str] = ()
    ) -> dict[str, Any]:
        """``GET /accounts/{address}/portfolio``; ``chains`` and ``tokens`` (``chain:address``) narrow it down."""
        owner = as_address(address, "address")
        only = {token.lower() for token in tokens}
        rows: list[dict[str, Any]] = []
        for symbol, decimals in (("USDC", 6), ("ETH", 18)):
            held = [
                (chain.chain_id, token, chain.balance(token, owner))
                for chain in self._chains.values()
                for token, (name, _) in chain.tokens.items()
                if name == symbol
                and (not chains or str(chain.chain_id) in chains)
                and (not only or f"{chain.chain_id}:{token}" in only)
            ]
            if not held:
                continue
            rows.append(
                {
                    "tokenName": symbol,
                    "tokenDecimals": decimals,
                    "balance": {"locked": "0", "unlocked": str(sum(amount for _, _, amount in held))},
                    "tokenChainBalance": [
                        {
                            "chainId": chain_id,
                            "tokenAddress": to_checksum_address(token),
                            "balance": {"locked": "0", "unlocked": str(amount)},
                        }
                        for chain_id, token, amount in held
                    ],
                }
            )
        return {"portfolio": rows}

    def split(self, body: object) -> dict[str, Any]:
        """``POST /intents/split``: parts of at most ``FILLER_USDC``; what is no USDC of the chain cannot be filled.

        Raises:
            ApiError: 422 with what can be filled and what cannot.
        """
        request = as_object(body, "body")
        chain = self._chains.get(as_number(request.get("chainId"), "chainId"))
        if chain is None:
            raise ApiError(400, f"Unsupported chain {request.get('chainId')}")
        if "settlementLayers" in request:
            layers = as_list(request["settlementLayers"], "settlementLayers")
            if cross_chain.BRIDGE not in layers:
                raise ApiError(400, "No Path Found")
        intents: list[dict[str, str]] = []
        unfillable: dict[str, str] = {}
        for token, value in as_object(request.get("tokens"), "tokens").items():
            left = as_amount(value, f"tokens.{token}")
            if as_address(token, "tokens") != chain.usdc:
                unfillable[token] = str(left)
                continue
            parts = [min(FILLER_USDC, left - done) for done in range(0, left, FILLER_USDC)]
            intents += [{token: str(part)} for part in parts[:MAX_PARTS]]
            if rest := sum(parts[MAX_PARTS:]):
                unfillable[token] = str(rest)
        if unfillable:
            raise IlliquidError(intents, unfillable)
        return {"intents": intents}

    def blanc_split(self, body: object) -> dict[str, Any]:
        """``POST /intents/splits``."""
        request = dict(as_object(body, "body"))
        request["chainId"] = blanc.chain_number(request.get("chainId"), "chainId")
        return self.split(request)

    # --- control

    def fund(self, body: object) -> dict[str, Any]:
        """Set balances to exactly so much: ``{address, usdc?, eth?, chainId?}``, decimal strings in base units."""
        request = as_object(body, "body")
        address = as_address(request.get("address"), "address")
        usdc = None if request.get("usdc") is None else as_amount(request["usdc"], "usdc")
        eth = None if request.get("eth") is None else as_amount(request["eth"], "eth")
        chain = self._chains.get(as_number(request.get("chainId", self._home.chain_id), "chainId"))
        if chain is None:
            raise invalid("chainId", f"is none of {', '.join(map(str, self._chains))}")
        with self._lock:
            self._set_balances(chain, address, usdc, eth)
        return {}

    def set_delays(self, body: object) -> dict[str, int]:
        """Change some of the delays; returns all of them. They apply to intents accepted from now on."""
        changes = as_object(body, "body")
        known = _fields(self.delays)
        for name, value in changes.items():
            if name not in known:
                raise invalid(name, f"is none of {', '.join(known)}")
            known[name] = as_number(value, name)
        if not known["preconfirm_ms"] <= known["fill_ms"] <= known["complete_ms"]:
            raise invalid("delays", "must be preconfirm_ms <= fill_ms <= complete_ms")
        with self._lock:
            self.delays = Delays(**known)
        return known

    def state(self) -> dict[str, Any]:
        """Accounts, intents with their history and transaction, and every counter."""
        with self._lock:
            return {
                "accounts": [{"address": a.address, "kind": a.kind} for a in self._accounts.values()],
                "intents": [
                    {
                        "id": intent.nonce,
                        "account": intent.account,
                        "status": intent.status,
                        "history": list(intent.history),
                        "txHash": intent.tx_hash,
                        "reason": intent.reason,
                        "ops": [
                            {"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()}
                            for call in intent.calls
                        ],
                    }
                    for intent in self._intents.values()
                ],
                "counters": [
                    {"chainId": chain_id, **row}
                    for chain_id, sessions in self._sessions.items()
                    for row in sessions.counters()
                ],
            }

    def forget_quotes(self) -> None:
        """Lose the quote store, as a restart of the service does."""
        with self._lock:
            self._quotes.clear()

    def reset(self) -> None:
        """Back to the start: the chains as they were, no accounts, quotes, intents or counters, first delays."""
        with self._lock:
            self._start_over()
            self.delays = Delays(**_fields(self._initial))
            for chain_id, chain in self._chains.items():
                chain.rpc.call("evm_revert", self._base_states[chain_id])
                self._base_states[chain_id] = chain.rpc.call("evm_snapshot")
                # reverting puts anvil's clock back to the snapshot's time
                chain.rpc.call("evm_setTime", int(time.time()))
                # until the next block the chain would look as old as the snapshot
                chain.rpc.call("evm_mine")

    def stop(self) -> None:
        """Stop moving intents on."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        self._thread.join(timeout=5)

    @staticmethod
    def _set_balances(chain: Chain, address: str, usdc: int | None, eth: int | None) -> None:
        if usdc is not None:
            chain.set_usdc(address, usdc)
        if eth is not None:
            chain.set_eth(address, eth)

    def _refuse(self, quote: StoredQuote, failed: SimulationFailedError) -> None:
        """Remember an intent that never was, so that its status can be asked for."""
        account = str(quote.intent_op["sponsor"]).lower()
        intent = _Intent(quote.nonce, account, quote.chain_id, quote.expires_s, [], [], _Authorization(None))
        intent.history.clear()
        self._intents[quote.nonce] = intent
        self._move(intent, "FAILED", failed.reason)

    # --- verification

    def _verify(self, quote: StoredQuote, signed: Mapping[str, Any]) -> _Intent:
        """Check every signature.

        Raises:
            SimulationFailedError: one is wrong, or the quote was altered into something that cannot be executed.
            ApiError: a field is malformed.
        """
        try:
            return self._verified(quote, signed)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise simulation_failed(
                "UNCLASSIFIED_REVERT", f"the op makes no sense ({type(error).__name__}: {error})"
            ) from None

    def _verified(self, quote: StoredQuote, signed: Mapping[str, Any]) -> _Intent:
        elements = quote.intent_op["elements"]
        account = as_address(quote.intent_op["sponsor"], "sponsor")
        # another account than asked for: a quote that a fault altered; the signatures decide about it
        if account not in self._accounts:
            raise simulation_failed("ACCOUNT_UNAUTHORIZED", f"no account at {account}")
        contexts = [element["mandate"]["qualifier"]["settlementContext"] for element in elements]
        layers = {context["settlementLayer"] for context in contexts}
        claiming = all(context["fundingMethod"] == "PERMIT2" for context in contexts) and layers <= set(
            cross_chain.ARBITERS
        )
        if not claiming and len(elements) != 1:
            raise simulation_failed("UNCLASSIFIED_REVERT", "the devnet executes exactly one element")
        origins = as_list(signed.get("originSignatures"), "signedIntentOp.originSignatures")
        if len(origins) != len(elements):
            raise invalid("signedIntentOp.originSignatures", "must hold one signature per element")
        if not claiming and (
            contexts[0]["settlementLayer"] != "INTENT_EXECUTOR" or elements[0]["idsAndAmounts"]
        ):
            raise simulation_failed(
                "ADAPTER_NOT_FOUND",
                f"the devnet has INTENT_EXECUTOR, and {', '.join(cross_chain.ARBITERS)} with PERMIT2",
            )
        try:
            if claiming:
                return self._verify_claims(quote, signed, self._accounts[account], origins)
            return self._verify_execution(quote, signed, self._accounts[account], origins[0])
        except InvalidSignatureError as error:
            raise simulation_failed("INVALID_SIGNATURE", str(error)) from None

    def _verify_execution(
        self, quote: StoredQuote, signed: Mapping[str, Any], owner: _Account, origin: object
    ) -> _Intent:
        """INTENT_EXECUTOR: calls on one chain, and nothing is claimed."""
        [element] = quote.intent_op["elements"]
        mandate, account = element["mandate"], owner.address
        # the executor's domain is its chain's, whatever the quote says
        digests = (
            verify.single_chain_ops_digest(account, element, int(quote.nonce), quote.chain_id),
            verify.single_chain_ops_digest(
                account, element, int(quote.intent_op["targetExecutionNonce"]), quote.chain_id
            ),
        )
        sessions = self._sessions[quote.chain_id]
        if quote.signature_mode == SIG_MODE_EMISSARY_EXECUTION_ERC1271:
            authorization = self._verify_session(sessions, owner, signed, origin, digests)
        else:
            for name, value in (
                ("originSignatures[0]", origin),
                ("destinationSignature", signed.get("destinationSignature")),
            ):
                self._verify_erc1271(sessions, owner, name, verify.hex_bytes(value, name), digests[0])
            authorization = _Authorization(None)
        return _Intent(
            nonce=quote.nonce,
            account=account,
            chain_id=quote.chain_id,
            expires_s=min(quote.expires_s, int(quote.intent_op["expires"])),
            pre_claim=as_calls(mandate["preClaimOps"]["ops"], "preClaimOps.ops"),
            calls=_ops(mandate["destinationOps"]["ops"]),
            authorization=authorization,
        )

    def _verify_claims(
        self, quote: StoredQuote, signed: Mapping[str, Any], owner: _Account, origins: Sequence[object]
    ) -> _Intent:
        """PERMIT2: one message for each source chain, and the last of them again by the target chain's session."""
        elements, deadline = quote.intent_op["elements"], int(quote.intent_op["expires"])
        layer = elements[-1]["mandate"]["qualifier"]["settlementContext"]["settlementLayer"]
        messages = [claims.read_claim(element, int(quote.nonce), deadline) for element in elements]
        if len({message.chain_id for message in messages}) != len(messages):
            raise simulation_failed("PERMIT2_NONCE_CONSUMED", "two elements are of one chain")
        found: list[_SourceClaim] = []
        for index, (message, origin) in enumerate(zip(messages, origins, strict=True)):
            sessions = self._sessions.get(message.chain_id)
            if sessions is None or message.target_chain not in self._sessions:
                raise simulation_failed("ADAPTER_NOT_FOUND", "an element names a chain that is not served")
            if message.spender != cross_chain.ARBITERS[layer]:
                raise simulation_failed("ADAPTER_NOT_FOUND", f"{message.spender} is no arbiter of the devnet")
            if layer == cross_chain.SWAP and message.chain_id != message.target_chain:
                raise simulation_failed("ADAPTER_NOT_FOUND", f"{layer} stays on its chain")
            at, digest = f"originSignatures[{index}]", message.digest()
            authorization, notarized = _Authorization(None), origin
            if isinstance(origin, dict):
                path = f"{at}.preClaimSig"
                form = self._verify_form(
                    sessions, owner, path, _unpacked(path, origin.get("preClaimSig")), digest
                )
                authorization = _authorized_by(form)
                notarized = origin.get("notarizedClaimSig")
                at = f"{at}.notarizedClaimSig"
            signature = verify.hex_bytes(notarized, at)
            self._verify_erc1271(
                sessions, owner, at, signature, digest, claim=message, enabling=authorization.enable
            )
            found.append(_SourceClaim(message, signature, authorization))
        last = messages[-1]
        authorization = self._verify_destination(last, signed, owner, quote.signature_mode)
        if layer == cross_chain.SWAP and authorization.table_key is not None:
            name = "targetExecutionSignature"
            form = _unpacked(name, signed.get(name))
            if not verify.same_enable(
                [form, _unpacked("destinationSignature", signed.get("destinationSignature"))]
            ):
                raise InvalidSignatureError(f"{name}: is by another permission than the destination's")
            nonce = int(quote.intent_op["targetExecutionNonce"])
            digest = verify.single_chain_ops_digest(owner.address, elements[-1], nonce, last.target_chain)
            self._verify_form(self._sessions[last.target_chain], owner, name, form, digest)
        return _Intent(
            nonce=quote.nonce,
            account=owner.address,
            chain_id=last.target_chain,
            expires_s=min(quote.expires_s, deadline, *(message.fill_expiry for message in messages)),
            pre_claim=[],
            calls=[Call(*call) for call in last.dest_ops[1]],
            authorization=authorization,
            recipient=last.recipient,
            deliveries=[pair for message in messages for pair in message.token_out],
            claims=found,
        )

    def _verify_destination(
        self, last: Permit2Claim, signed: Mapping[str, Any], owner: _Account, mode: int
    ) -> _Authorization:
        sessions, name = self._sessions[last.target_chain], "destinationSignature"
        signature = verify.hex_bytes(signed.get(name), name)
        # a session whose executions are verified signs the emissary's form, every other signer ERC-1271
        if mode == SIG_MODE_EMISSARY_EXECUTION_ERC1271 and not verify.is_session_form(signature, owner.kind):
            form = _unpacked(name, signed.get(name))
            return _authorized_by(self._verify_form(sessions, owner, name, form, last.digest()))
        self._verify_erc1271(sessions, owner, name, signature, last.digest(), claim=last)
        return _Authorization(None)

    def _verify_session(
        self,
        sessions: ChainSessions,
        owner: _Account,
        signed: Mapping[str, Any],
        origin: object,
        digests: tuple[bytes, bytes],
    ) -> _Authorization:
        """Mode 5: four signatures, each checked against its own digest; all name the same permission.

        ``digests`` are those of the intent and of the target execution.
        """
        account, kind = owner.address, owner.kind
        digest, target = digests
        if not isinstance(origin, dict):
            raise InvalidSignatureError("originSignatures[0] is not {preClaimSig, notarizedClaimSig}")
        named = [
            (name, _unpacked(name, value), over)
            for name, value, over in (
                ("preClaimSig", origin.get("preClaimSig"), digest),
                ("destinationSignature", signed.get("destinationSignature"), digest),
                ("targetExecutionSignature", signed.get("targetExecutionSignature"), target),
            )
        ]
        forms = [form for _, form, _ in named]
        if not verify.same_enable(forms):
            raise InvalidSignatureError("the signatures do not agree on mode, permission and enable data")
        for name, form, over in named:
            self._verify_form(sessions, owner, name, form, over)
        validator, init_data = self._validator(sessions, account, forms[0])
        notarized = verify.hex_bytes(origin.get("notarizedClaimSig"), "notarizedClaimSig")
        try:
            permission, signatures = verify.unpack_erc1271(notarized, kind)
            # A restricted session has no valid ERC-1271 signature on chain, and this route needs none: the form and
            # the key are checked, not the session's ERC-1271 policies.
            verify.check_validator(
                validator, init_data, verify.erc1271_hash(digest, account, kind), signatures
            )
        except InvalidSignatureError as error:
            raise InvalidSignatureError(f"notarizedClaimSig: {error}") from None
        if permission != forms[0].permission_id:
            raise InvalidSignatureError("notarizedClaimSig: names another permission")
        return _authorized_by(forms[0])

    def _verify_form(
        self, sessions: ChainSessions, owner: _Account, name: str, form: EmissarySignature, digest: bytes
    ) -> EmissarySignature:
        """The emissary form is signed by the validator of the session that it names on this chain."""
        validator, init_data = self._validator(sessions, owner.address, form)
        try:
            verify.check_validator(validator, init_data, digest, form.signatures)
        except InvalidSignatureError as error:
            raise InvalidSignatureError(f"{name}: {error}") from None
        return form

    @staticmethod
    def _validator(sessions: ChainSessions, account: str, form: EmissarySignature) -> tuple[str, bytes]:
        """The validator that will decide: the enabled one, which stays, else the one that is being enabled."""
        table = sessions.table(account, form.permission_id)
        if table.validator and sessions.chain.is_permission_enabled(account, form.permission_id):
            return table.validator, table.validator_init_data
        if form.mode == ENABLE_MODE:
            return str(form.session[0]).lower(), bytes(form.session[1])
        raise simulation_failed(
            "ACCOUNT_UNAUTHORIZED", f"permission 0x{form.permission_id.hex()} is not enabled on chain"
        )

    @staticmethod
    def _verify_erc1271(
        sessions: ChainSessions,
        owner: _Account,
        name: str,
        signature: bytes,
        digest: bytes,
        *,
        claim: Permit2Claim | None = None,
        enabling: EmissarySignature | None = None,
    ) -> None:
        """The account's ERC-1271 signature, by its owners or by a session that may sign anything.

        Args:
            sessions: those of the chain.
            owner: the account.
            name: the signature's path, for the error.
            signature: as it was sent.
            digest: over what.
            claim: the Permit2 message, which the session's claim policies must allow; None for other messages.
            enabling: the session that will be enabled before this is looked at.
        """
        try:
            if verify.is_session_form(signature, owner.kind):
                _session_signed(sessions, owner, signature, digest, claim=claim, enabling=enabling)
            elif not sessions.chain.is_valid_signature(owner.address, digest, signature):
                raise InvalidSignatureError("the account's owners did not sign this")  # noqa: TRY301
        except InvalidSignatureError as error:
            raise InvalidSignatureError(f"{name}: {error}") from None

    # --- execution

    def _simulate(self, intent: _Intent) -> None:
        """Policies on copies of the counters, and the very transactions as ``eth_call``."""
        try:
            self._check_policies(intent)
            for claim in intent.claims:
                self._chains[claim.message.chain_id].read(claim.message.spender, self._claim(intent, claim))
            self._chains[intent.chain_id].read(
                INTENT_EXECUTOR, self._calldata(intent), value=_native(intent.deliveries)
            )
        except OperationDeniedError as denied:
            raise simulation_failed("ACCOUNT_UNAUTHORIZED", denied.reason, denied.call_index) from None
        except RpcError as error:
            raise simulation_failed("EXECUTION_FAILED", revert_reason(error)) from None

    def _check_policies(self, intent: _Intent) -> None:
        """Every operation of the intent, in order, on copies of the tables.

        Raises:
            OperationDeniedError
        """
        tables: dict[tuple[int, bytes], SessionTable] = {}
        for chain_id, authorization, operations in _operations(intent):
            key = authorization.table_key
            if key is None:
                continue
            table = tables.get((chain_id, key))
            if table is None:
                table = self._sessions[chain_id].table(intent.account, key).copy()
                if authorization.enable is not None:
                    table.enable(authorization.enable.session)
                tables[chain_id, key] = table
            for operation in operations:
                table.check(intent.account, operation)

    def _calldata(self, intent: _Intent) -> bytes:
        set_config = intent.authorization.set_config(intent.account)
        calls = intent.pre_claim + intent.calls
        if not intent.claims:
            return execute_call(intent.account, int(intent.nonce), set_config, calls)
        return fill_call(
            intent.account,
            int(intent.nonce),
            set_config,
            calls,
            recipient=intent.recipient,
            deliveries=intent.deliveries,
        )

    def _claim(self, intent: _Intent, claim: _SourceClaim) -> bytes:
        """The claim's calldata. Where the fill has enabled the session already, the claim does not do it again."""
        message, authorization = claim.message, claim.authorization
        set_config = authorization.set_config(intent.account)
        key, chain = authorization.table_key, self._chains[claim.message.chain_id]
        if set_config and key is not None and chain.is_permission_enabled(intent.account, key):
            set_config = b""
        return claim_call(intent.account, set_config, message.permit(), message.mandate(), claim.signature)

    def _fill(self, intent: _Intent) -> None:
        """Execute on the target chain; the policies are checked again, the counters may have moved since the submit."""
        if time.time() > intent.expires_s and not intent.late:
            self._move(intent, "EXPIRED", "the deadline has passed")
            return
        try:
            self._check_policies(intent)
        except OperationDeniedError as denied:
            self._move(intent, "FAILED", denied.reason)
            return
        if intent.fate:
            self._move(intent, "EXPIRED" if intent.fate == "expire" else "FAILED", f"told to {intent.fate}")
            return
        try:
            receipt = self._chains[intent.chain_id].send(
                INTENT_EXECUTOR, self._calldata(intent), value=_native(intent.deliveries)
            )
        except DevnetError as error:
            self._move(intent, "FAILED", str(error))
            return
        intent.tx_hash = receipt["transactionHash"]
        if int(receipt["status"], 16) != 1:
            self._move(intent, "FAILED", "the transaction reverted")
            return
        self._count(intent, intent.chain_id, intent.authorization, (intent.pre_claim, intent.calls))
        intent.fill_s = self._mined_s(intent.chain_id, receipt)
        self._move(intent, "FILLED")

    def _claim_all(self, intent: _Intent) -> bool:
        """Claim on every source chain what the fill has paid for; whether all of it worked."""
        for claim in intent.claims:
            chain_id = claim.message.chain_id
            try:
                receipt = self._chains[chain_id].send(claim.message.spender, self._claim(intent, claim))
            except DevnetError as error:
                self._move(intent, "FAILED", f"claim on chain {chain_id}: {error}")
                return False
            if int(receipt["status"], 16) != 1:
                self._move(intent, "FAILED", f"the claim on chain {chain_id} reverted")
                return False
            claim.tx_hash = receipt["transactionHash"]
            claim.claimed_s = self._mined_s(chain_id, receipt)
            self._count(intent, chain_id, claim.authorization, (claim.calls,))
        return True

    def _mined_s(self, chain_id: int, receipt: Mapping[str, Any]) -> int:
        block = self._chains[chain_id].rpc.call("eth_getBlockByNumber", receipt["blockNumber"], False)
        return int(block["timestamp"], 16)

    def _count(
        self,
        intent: _Intent,
        chain_id: int,
        authorization: _Authorization,
        operations: Sequence[Sequence[Call]],
    ) -> None:
        """Grow the counters on top of the emissary's events, which hold this transaction's own enabling."""
        key = authorization.table_key
        if key is None:
            return
        sessions = self._sessions[chain_id]
        table = sessions.table(intent.account, key).copy()
        try:
            for operation in operations:
                if operation:
                    table.check(intent.account, operation)
        except OperationDeniedError as denied:  # someone changed the session around this very transaction
            log.warning("counters of %s are not those of the chain: %s", intent.account, denied.reason)
            return
        sessions.put(intent.account, key, table)

    def _move(self, intent: _Intent, status: str, reason: str = "") -> None:
        intent.status = status
        intent.reason = reason
        intent.history.append(status)
        log.info("intent %s… of %s: %s %s", intent.nonce[:12], intent.account, status, reason)

    def _schedule(self, intent: _Intent, *, wait_ms: int = 0) -> None:
        start = time.monotonic() + wait_ms / 1000
        steps = (
            ("PRECONFIRMED", self.delays.preconfirm_ms),
            ("FILLED", self.delays.fill_ms),
            ("COMPLETED", self.delays.complete_ms),
        )
        with self._wake:
            for step, delay_ms in steps:
                heapq.heappush(
                    self._due,
                    (start + delay_ms / 1000, next(self._order), intent, step, self._generation),
                )
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._stopped and (not self._due or self._due[0][0] > time.monotonic()):
                    self._wake.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._stopped:
                    return
                _, _, intent, step, generation = heapq.heappop(self._due)
            with self._lock:
                if generation == self._generation and intent.status not in TERMINAL:
                    self._step(intent, step)

    def _step(self, intent: _Intent, step: str) -> None:
        try:
            if step == "FILLED":
                self._fill(intent)
            elif step != "COMPLETED" or self._claim_all(intent):
                self._move(intent, step)
        except Exception as error:  # the filler thread must live on, and the intent must say why it failed
            log.exception("intent %s could not be filled", intent.nonce)
            self._move(intent, "FAILED", f"devnet: {error}")

    def _start_over(self) -> None:
        self._generation = next(self._order)
        self._accounts: dict[str, _Account] = {}
        self._quotes = QuoteBook(self._chains)
        self._intents: dict[str, _Intent] = {}
        self._sessions = {chain_id: ChainSessions(chain) for chain_id, chain in self._chains.items()}


def _unpacked(name: str, value: object) -> EmissarySignature:
    try:
        return verify.unpack_emissary(verify.hex_bytes(value, name))
    except InvalidSignatureError as error:
        raise InvalidSignatureError(f"{name}: {error}") from None


def _session_signed(
    sessions: ChainSessions,
    owner: _Account,
    signature: bytes,
    digest: bytes,
    *,
    claim: Permit2Claim | None,
    enabling: EmissarySignature | None,
) -> None:
    """The ERC-1271 form of a session; see ``DevOrchestrator._verify_erc1271``."""
    account, kind = owner.address, owner.kind
    permission, signatures, data = verify.unpack_claim(signature, kind)
    table = sessions.table(account, permission)
    if enabling is not None and enabling.permission_id == permission:
        table = table.copy()
        try:
            table.enable(enabling.session)
        except OperationDeniedError as denied:
            raise InvalidSignatureError(denied.reason) from None
    if not table.validator or not table.erc1271_open:
        raise InvalidSignatureError("the session may not sign ERC-1271 messages")
    verify.check_validator(
        table.validator,
        table.validator_init_data,
        verify.erc1271_hash(digest, account, kind),
        signatures,
    )
    if claim is not None:
        claims.check_policies(table.claim_policies, claim, account, data)
    elif data:
        raise InvalidSignatureError("claim policy data on a message that is no Permit2 claim")


def _authorized_by(form: EmissarySignature) -> _Authorization:
    return _Authorization(form.permission_id, form if form.mode == ENABLE_MODE else None)


def _operations(intent: _Intent) -> Iterator[tuple[int, _Authorization, list[list[Call]]]]:
    """Per chain who authorizes which operations, in the order in which they run.

    With claims an operation without calls is none: nothing is executed for it. The executor's own must hold one.
    """
    target = [intent.pre_claim] if intent.pre_claim else []
    if intent.calls or not intent.claims:
        target.append(intent.calls)
    yield intent.chain_id, intent.authorization, target
    for claim in intent.claims:
        yield claim.message.chain_id, claim.authorization, [claim.calls] if claim.calls else []


def _native(deliveries: Sequence[tuple[str, int]]) -> int:
    return sum(amount for token, amount in deliveries if token == ZERO_ADDRESS)


def _claims(intent: _Intent, filled: str) -> list[dict[str, Any]]:
    """The status answer's ``claims``; an intent that claims nothing has one all the same, that of its execution."""
    status = _claim_status(intent.status)
    if not intent.claims:
        claim: dict[str, Any] = {"chainId": intent.chain_id, "status": status}
        if filled:
            claim |= {"claimTimestamp": intent.fill_s, "claimTransactionHash": filled}
        return [claim]
    return [
        {"chainId": claim.message.chain_id, "status": "COMPLETED" if claim.tx_hash else status}
        | (
            {"claimTimestamp": claim.claimed_s, "claimTransactionHash": claim.tx_hash}
            if claim.tx_hash
            else {}
        )
        for claim in intent.claims
    ]


def _parsed(text: str) -> Any:
    try:
        return exact_json.loads(text)
    except ValueError:
        raise ApiError(400, "entity.parse.failed") from None


def _ops(ops: Sequence[Mapping[str, Any]]) -> list[Call]:
    return [Call(str(op["to"]).lower(), int(op["value"]), bytes.fromhex(str(op["data"])[2:])) for op in ops]


def _fields(delays: Delays) -> dict[str, int]:
    return {
        "preconfirm_ms": delays.preconfirm_ms,
        "fill_ms": delays.fill_ms,
        "complete_ms": delays.complete_ms,
        "quote_life_s": delays.quote_life_s,
    }


def _claim_status(status: str) -> str:
    return {"COMPLETED": "COMPLETED", "FILLED": "PENDING", "FAILED": "FAILED", "EXPIRED": "FAILED"}.get(
        status, "PENDING"
    )
