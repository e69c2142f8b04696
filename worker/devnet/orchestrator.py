"""The devnet's orchestrator: quotes, verifies what is submitted, executes it on the chain, tells its status.

Everything here is thread-safe; one lock orders what touches the chain.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eth_abi.abi import decode
from eth_utils.address import to_checksum_address

from worker.devnet import blanc, exact_json, verify
from worker.devnet.api_error import (
    ApiError,
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
    CONFIG_SET,
    INTENT_EXECUTOR,
    KINDS,
    SESSION,
    USDC,
    ZERO_ADDRESS,
    Call,
    Chain,
    execute_call,
    revert_reason,
    set_config_call,
)
from worker.devnet.errors import DevnetError, RpcError
from worker.devnet.quotes import (
    SIG_MODE_EMISSARY_EXECUTION_ERC1271,
    TOKENS,
    Alteration,
    QuoteBook,
    StoredQuote,
    read_request,
)
from worker.devnet.session_table import OperationDeniedError, SessionTable
from worker.devnet.verify import ENABLE_MODE, EmissarySignature, InvalidSignatureError

log = logging.getLogger(__name__)

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


@dataclass(slots=True)
class _Authorization:
    """How an intent may execute: by a session (with what enabling) or by the owners.

    ``table_key`` is None when no action policies are consulted.
    """

    table_key: bytes | None
    enable: EmissarySignature | None = None


@dataclass(slots=True)
class _Intent:
    nonce: str
    account: str
    expires_s: int
    pre_claim: list[Call]
    calls: list[Call]
    authorization: _Authorization
    status: str = "PENDING"
    fate: str = ""
    hidden_until: float = 0.0
    late: bool = False
    fill_s: int = 0
    tx_hash: str = ""
    reason: str = ""
    history: list[str] = field(default_factory=lambda: ["PENDING"])


class DevOrchestrator:
    """An orchestrator for one chain, in alps terms; ``blanc_*`` say the same in blanc's.

    Args:
        chain: the chain, with the devnet's contracts in place.
        delays: the initial delays; ``reset`` comes back to them.
    """

    def __init__(self, chain: Chain, delays: Delays | None = None) -> None:
        self._chain = chain
        self._initial = delays or Delays()
        self.delays = Delays(**_fields(self._initial))
        self._lock = threading.RLock()
        self._wake = threading.Condition()
        self._order = itertools.count()
        self._due: list[tuple[float, int, _Intent, str, int]] = []
        self._stopped = False
        self._start_over()
        self._base_state = chain.rpc.call("evm_snapshot")
        self._thread = threading.Thread(target=self._run, name="devnet-filler", daemon=True)
        self._thread.start()

    # --- accounts

    def register_account(self, body: object) -> dict[str, Any]:
        """Put a ``DevAccount`` at an address: ``{address, kind, owners, threshold?, usdc?, eth?}`` (base units)."""
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
            self._chain.put_account(address, str(kind), owners, threshold)
            self._set_balances(address, usdc, eth)
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
        request = read_request(body, self._chain.chain_id, blanc=from_blanc)
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
            claim: dict[str, Any] = {"chainId": self._chain.chain_id, "status": _claim_status(intent.status)}
            body: dict[str, Any] = {
                "status": intent.status,
                "claims": [claim],
                "destinationChainId": self._chain.chain_id,
                "userAddress": to_checksum_address(intent.account),
                # a field that clients do not know
                "devnetReason": intent.reason,
            }
            if intent.tx_hash and intent.status in ("FILLED", "COMPLETED"):
                claim |= {"claimTimestamp": intent.fill_s, "claimTransactionHash": intent.tx_hash}
                body |= {"fillTimestamp": intent.fill_s, "fillTransactionHash": intent.tx_hash}
            return body

    def chains(self) -> dict[str, Any]:
        """``GET /chains``."""
        tokens = [
            {"symbol": symbol, "address": to_checksum_address(address), "decimals": decimals}
            for address, (symbol, decimals) in TOKENS.items()
        ]
        by_symbol = {token["symbol"]: token for token in tokens}
        return {
            str(self._chain.chain_id): {
                "name": "Base",
                "testnet": False,
                "supportedTokens": tokens,
                "nativeToken": by_symbol["ETH"],
                "wrappedNativeToken": by_symbol["WETH"],
            }
        }

    def portfolio(self, address: str) -> dict[str, Any]:
        """``GET /accounts/{address}/portfolio``."""
        owner = as_address(address, "address")
        rows: list[dict[str, Any]] = []
        for token in (USDC, ZERO_ADDRESS):
            symbol, decimals = TOKENS[token]
            balance = {"locked": "0", "unlocked": str(self._chain.balance(token, owner))}
            on_chain = {
                "chainId": self._chain.chain_id,
                "tokenAddress": to_checksum_address(token),
                "balance": balance,
            }
            rows.append(
                {
                    "tokenName": symbol,
                    "tokenDecimals": decimals,
                    "balance": balance,
                    "tokenChainBalance": [on_chain],
                }
            )
        return {"portfolio": rows}

    # --- control

    def fund(self, body: object) -> dict[str, Any]:
        """Set balances to exactly so much: ``{address, usdc?, eth?}``, decimal strings in base units."""
        request = as_object(body, "body")
        address = as_address(request.get("address"), "address")
        usdc = None if request.get("usdc") is None else as_amount(request["usdc"], "usdc")
        eth = None if request.get("eth") is None else as_amount(request["eth"], "eth")
        with self._lock:
            self._set_balances(address, usdc, eth)
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
                    {"account": account, "permissionId": "0x" + permission.hex(), **row}
                    for (account, permission), table in self._tables.items()
                    for row in table.counters()
                ],
            }

    def forget_quotes(self) -> None:
        """Lose the quote store, as a restart of the service does."""
        with self._lock:
            self._quotes.clear()

    def reset(self) -> None:
        """Back to the start: the chain as it was, no accounts, quotes, intents or counters, first delays."""
        with self._lock:
            self._start_over()
            self.delays = Delays(**_fields(self._initial))
            self._chain.rpc.call("evm_revert", self._base_state)
            self._base_state = self._chain.rpc.call("evm_snapshot")
            # reverting puts anvil's clock back to the snapshot's time
            self._chain.rpc.call("evm_setTime", int(time.time()))
            # until the next block the chain would look as old as the snapshot
            self._chain.rpc.call("evm_mine")

    def stop(self) -> None:
        """Stop moving intents on."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        self._thread.join(timeout=5)

    def _set_balances(self, address: str, usdc: int | None, eth: int | None) -> None:
        if usdc is not None:
            self._chain.set_usdc(address, usdc)
        if eth is not None:
            self._chain.set_eth(address, eth)

    def _refuse(self, quote: StoredQuote, failed: SimulationFailedError) -> None:
        """Remember an intent that never was, so that its status can be asked for."""
        account = str(quote.intent_op["sponsor"]).lower()
        intent = _Intent(quote.nonce, account, quote.expires_s, [], [], _Authorization(None))
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
        if len(elements) != 1:
            raise simulation_failed("UNCLASSIFIED_REVERT", "the devnet settles exactly one element")
        mandate = elements[0]["mandate"]
        account = as_address(quote.intent_op["sponsor"], "sponsor")
        # another account than asked for: a quote that a fault altered; the signatures decide about it
        if account not in self._accounts:
            raise simulation_failed("ACCOUNT_UNAUTHORIZED", f"no account at {account}")
        origins = as_list(signed.get("originSignatures"), "signedIntentOp.originSignatures")
        if len(origins) != 1:
            raise invalid("signedIntentOp.originSignatures", "must hold one signature per element")
        context = mandate["qualifier"]["settlementContext"]
        if context["settlementLayer"] != "INTENT_EXECUTOR" or elements[0]["idsAndAmounts"]:
            raise simulation_failed("ADAPTER_NOT_FOUND", "the devnet has the INTENT_EXECUTOR layer only")
        # the executor's domain is this chain's, whatever the quote says
        chain_id = self._chain.chain_id
        digests = (
            verify.single_chain_ops_digest(account, elements[0], int(quote.nonce), chain_id),
            verify.single_chain_ops_digest(
                account, elements[0], int(quote.intent_op["targetExecutionNonce"]), chain_id
            ),
        )
        try:
            if quote.signature_mode == SIG_MODE_EMISSARY_EXECUTION_ERC1271:
                authorization = self._verify_session(self._accounts[account], signed, origins[0], digests)
            else:
                authorization = self._verify_erc1271(self._accounts[account], signed, origins[0], digests[0])
        except InvalidSignatureError as error:
            raise simulation_failed("INVALID_SIGNATURE", str(error)) from None
        return _Intent(
            nonce=quote.nonce,
            account=account,
            expires_s=min(quote.expires_s, int(quote.intent_op["expires"])),
            pre_claim=as_calls(mandate["preClaimOps"]["ops"], "preClaimOps.ops"),
            calls=_ops(mandate["destinationOps"]["ops"]),
            authorization=authorization,
        )

    def _verify_session(
        self, owner: _Account, signed: Mapping[str, Any], origin: object, digests: tuple[bytes, bytes]
    ) -> _Authorization:
        """Mode 5: four signatures, each checked against its own digest; all name the same permission.

        ``digests`` are those of the intent and of the target execution.
        """
        account, kind = owner.address, owner.kind
        digest, target = digests
        if not isinstance(origin, dict):
            raise InvalidSignatureError("originSignatures[0] is not {preClaimSig, notarizedClaimSig}")
        fields = {
            "preClaimSig": (origin.get("preClaimSig"), digest),
            "destinationSignature": (signed.get("destinationSignature"), digest),
            "targetExecutionSignature": (signed.get("targetExecutionSignature"), target),
        }
        forms: list[tuple[str, EmissarySignature, bytes]] = []
        for name, (value, over) in fields.items():
            try:
                forms.append((name, verify.unpack_emissary(verify.hex_bytes(value, name)), over))
            except InvalidSignatureError as error:
                raise InvalidSignatureError(f"{name}: {error}") from None
        if not verify.same_enable([form for _, form, _ in forms]):
            raise InvalidSignatureError("the signatures do not agree on mode, permission and enable data")
        first = forms[0][1]
        enable = first if first.mode == ENABLE_MODE else None
        validator, init_data = self._validator(account, first)
        for name, form, over in forms:
            try:
                verify.check_validator(validator, init_data, over, form.signatures)
            except InvalidSignatureError as error:
                raise InvalidSignatureError(f"{name}: {error}") from None
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
        if permission != first.permission_id:
            raise InvalidSignatureError("notarizedClaimSig: names another permission")
        return _Authorization(first.permission_id, enable)

    def _validator(self, account: str, form: EmissarySignature) -> tuple[str, bytes]:
        """The validator that will decide: the enabled one, which stays, else the one that is being enabled."""
        table = self._table(account, form.permission_id)
        if table.validator and self._chain.is_permission_enabled(account, form.permission_id):
            return table.validator, table.validator_init_data
        if form.mode == ENABLE_MODE:
            return str(form.session[0]).lower(), bytes(form.session[1])
        raise simulation_failed(
            "ACCOUNT_UNAUTHORIZED", f"permission 0x{form.permission_id.hex()} is not enabled on chain"
        )

    def _verify_erc1271(
        self, owner: _Account, signed: Mapping[str, Any], origin: object, digest: bytes
    ) -> _Authorization:
        """Mode 1: the account's ERC-1271 signature, by its owners or by a session that may sign anything."""
        account, kind = owner.address, owner.kind
        for name, value in (
            ("originSignatures[0]", origin),
            ("destinationSignature", signed.get("destinationSignature")),
        ):
            signature = verify.hex_bytes(value, name)
            if not verify.is_session_form(signature, kind):
                if not self._chain.is_valid_signature(account, digest, signature):
                    raise InvalidSignatureError(f"{name}: the account's owners did not sign this")
                continue
            permission, signatures = verify.unpack_erc1271(signature, kind)
            table = self._table(account, permission)
            if not table.validator or not table.erc1271_open:
                raise InvalidSignatureError(f"{name}: the session may not sign ERC-1271 messages")
            verify.check_validator(
                table.validator,
                table.validator_init_data,
                verify.erc1271_hash(digest, account, kind),
                signatures,
            )
        return _Authorization(None)

    # --- execution

    def _simulate(self, intent: _Intent) -> None:
        """Policies on copies of the counters, and the very transaction as ``eth_call``."""
        try:
            self._check_policies(intent)
            self._chain.read(INTENT_EXECUTOR, self._calldata(intent))
        except OperationDeniedError as denied:
            raise simulation_failed("ACCOUNT_UNAUTHORIZED", denied.reason, denied.call_index) from None
        except RpcError as error:
            raise simulation_failed("EXECUTION_FAILED", revert_reason(error)) from None

    def _check_policies(self, intent: _Intent) -> SessionTable | None:
        """The table as it will be after the intent, or None when no policies are consulted."""
        key = intent.authorization.table_key
        if key is None:
            return None
        table = self._table(intent.account, key).copy()
        if intent.authorization.enable is not None:
            table.enable(intent.authorization.enable.session)
        if intent.pre_claim:
            table.check(intent.account, intent.pre_claim)
        table.check(intent.account, intent.calls)
        return table

    def _calldata(self, intent: _Intent) -> bytes:
        enable = intent.authorization.enable
        set_config = b"" if enable is None else set_config_call(intent.account, enable.config, enable.enable)
        return execute_call(intent.account, int(intent.nonce), set_config, intent.pre_claim + intent.calls)

    def _fill(self, intent: _Intent) -> None:
        """Execute on the chain; the policies are checked again, the counters may have moved since the submit."""
        if time.time() > intent.expires_s and not intent.late:
            self._move(intent, "EXPIRED", "the deadline has passed")
            return
        try:
            after = self._check_policies(intent)
        except OperationDeniedError as denied:
            self._move(intent, "FAILED", denied.reason)
            return
        if intent.fate:
            self._move(intent, "EXPIRED" if intent.fate == "expire" else "FAILED", f"told to {intent.fate}")
            return
        try:
            receipt = self._chain.send(INTENT_EXECUTOR, self._calldata(intent))
        except DevnetError as error:
            self._move(intent, "FAILED", str(error))
            return
        intent.tx_hash = receipt["transactionHash"]
        if int(receipt["status"], 16) != 1:
            self._move(intent, "FAILED", "the transaction reverted")
            return
        self._count(intent, after)
        block = self._chain.rpc.call("eth_getBlockByNumber", receipt["blockNumber"], False)
        intent.fill_s = int(block["timestamp"], 16)
        self._move(intent, "FILLED")

    def _count(self, intent: _Intent, after: SessionTable | None) -> None:
        """Grow the counters on top of the emissary's events, which hold this transaction's own enabling."""
        key = intent.authorization.table_key
        if key is None or after is None:
            return
        table = self._table(intent.account, key).copy()
        try:
            if intent.pre_claim:
                table.check(intent.account, intent.pre_claim)
            table.check(intent.account, intent.calls)
        except OperationDeniedError:
            table = after  # someone changed the session around this very transaction
        self._tables[intent.account, key] = table

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
        if step != "FILLED":
            self._move(intent, step)
            return
        try:
            self._fill(intent)
        except Exception as error:  # the filler thread must live on, and the intent must say why it failed
            log.exception("intent %s could not be filled", intent.nonce)
            self._move(intent, "FAILED", f"devnet: {error}")

    # --- sessions on the chain

    def _table(self, account: str, permission: bytes) -> SessionTable:
        """The session's table, brought up to the emissary's events, whoever caused them."""
        seen = self._seen_block.get(account, self._chain.first_block)
        for entry in self._chain.emissary_logs(account, seen):
            position = (int(entry["blockNumber"], 16), int(entry["logIndex"], 16))
            if position <= self._seen_log.get(account, (-1, -1)):
                continue
            self._seen_log[account] = position
            self._seen_block[account] = position[0]
            key = (account, bytes.fromhex(entry["topics"][2][2:]))
            if entry["topics"][0] != "0x" + CONFIG_SET.hex():
                self._tables.pop(key, None)
                continue
            (data,) = decode(["bytes"], bytes.fromhex(entry["data"][2:]))
            (session,) = decode([SESSION], data)
            table = self._tables.setdefault(key, SessionTable()).copy()
            try:
                table.enable(session)
            except OperationDeniedError as denied:
                # The real emissary would have reverted: it calls the policy contracts while it enables. Ours cannot
                # know; the session stays without policies, so that everything it signs is refused.
                log.warning("session of %s enabled with a bad policy: %s", account, denied.reason)
                continue
            self._tables[key] = table
        return self._tables.setdefault((account, permission), SessionTable())

    def _start_over(self) -> None:
        self._generation = next(self._order)
        self._accounts: dict[str, _Account] = {}
        self._quotes = QuoteBook(self._chain)
        self._intents: dict[str, _Intent] = {}
        self._tables: dict[tuple[str, bytes], SessionTable] = {}
        self._seen_block: dict[str, int] = {}
        self._seen_log: dict[str, tuple[int, int]] = {}


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
