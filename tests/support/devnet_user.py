"""A user of the devnet: an account with an owner key, and a session key that signs intents.

Packs and signs by the protocol's text with eth-account alone, independently of ``worker/signing`` and of
``worker/devnet/verify.py``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct, encode_typed_data
from eth_utils.crypto import keccak

from worker.devnet import exact_json
from worker.devnet.chain import (
    CONFIG,
    EMISSARY,
    ENABLE,
    INTENT_EXECUTOR,
    OWNABLE_VALIDATOR,
    SESSION,
    USDC,
    ZERO_ADDRESS,
    selector,
    set_config_call,
)
from worker.devnet.devnet import Devnet
from worker.devnet.session_table import SPENDING_LIMITS

TRANSFER = bytes.fromhex("a9059cbb")
RECIPIENT = "0x" + keccak(text="session-executor test recipient")[12:].hex()
UINT256_MAX = 2**256 - 1
DUMMY = {"to": "0x0000000000000000000000000000000000000420", "value": "0", "data": "0x69123456"}
VALUE_LIMIT = "0x730da93267e7e513e932301b47f2ac7d062abc83"


def key_of(label: str) -> bytes:
    """A throw-away private key derived from a label."""
    return keccak(text=f"session-executor test {label}")


def address_of(key: bytes) -> str:
    """Lower-case address of a key."""
    return str(Account.from_key(key).address).lower()


def sign_digest(key: bytes, digest: bytes) -> bytes:
    """``sig(k, d)``: 65 bytes over the digest itself, v 27/28."""
    return bytes(Account.unsafe_sign_hash(digest, key).signature)


def sign_personal(key: bytes, digest: bytes) -> bytes:
    """``psig(k, d)``: over the personal-sign hash of the digest, v 31/32."""
    raw = bytes(Account.sign_message(encode_defunct(primitive=digest), key).signature)
    return raw[:64] + bytes([raw[64] + 4])


def kernel_wrap(account: str, digest: bytes) -> bytes:
    """A digest in the account's chain-agnostic Kernel domain."""
    signable = encode_typed_data(
        {"name": "Kernel", "version": "0.3.3", "chainId": 0, "verifyingContract": account},
        {"Kernel": [{"name": "hash", "type": "bytes32"}]},
        {"hash": digest},
    )
    return keccak(b"\x19\x01" + signable.header + signable.body)


def transfer_data(to: str, amount: int) -> bytes:
    """Calldata of ``transfer``."""
    return TRANSFER + encode(["address", "uint256"], [to, amount])


def flz(data: bytes) -> bytes:
    """A valid FastLZ stream of literals only."""
    out = bytearray()
    for at in range(0, len(data), 32):
        chunk = data[at : at + 32]
        out += bytes([len(chunk) - 1]) + chunk
    return bytes(out)


def usdc_session(session_key: bytes, limit: int, *more: tuple[str, bytes]) -> tuple[Any, ...]:
    """ABI tuple of a restricted session: only ``USDC.transfer``, spending limit, more (policy, init data) pairs."""
    limits = (SPENDING_LIMITS, encode(["address[]", "uint256[]"], [[USDC], [limit]]))
    actions = [
        (TRANSFER, USDC, [limits, *more]),
        (bytes.fromhex("69123456"), DUMMY["to"], [(VALUE_LIMIT, (1).to_bytes(32))]),
    ]
    salt = keccak(encode(["(bytes4,address,(address,bytes)[])[]"], [actions]))
    validator_data = encode(["uint256", "address[]"], [1, [address_of(session_key)]])
    return (OWNABLE_VALIDATOR, validator_data, salt, actions, [], ([], []))


@dataclass
class User:
    """An account on the devnet, and what its frontend and its session key do."""

    devnet: Devnet
    session: tuple[Any, ...]
    account: str = ""
    kind: str = "nexus"
    owner_key: bytes = field(default_factory=lambda: key_of("owner"), repr=False)
    session_key: bytes = field(default_factory=lambda: key_of("session key"), repr=False)

    def __post_init__(self) -> None:
        self.account = self.account or "0x" + keccak(text="session-executor test account")[12:].hex()
        self.http = httpx.Client(
            base_url=self.devnet.orchestrator_url,
            headers={"x-api-key": self.devnet.api_key, "x-api-version": "2026-01.alps"},
            timeout=20,
            trust_env=False,
        )

    def register(self, usdc: int = 1_000_000_000) -> None:
        """Put the account on the chain."""
        self.devnet.register_account(
            self.account, owners=[address_of(self.owner_key)], kind=self.kind, usdc=usdc, eth=10**18
        )

    @property
    def permission_id(self) -> bytes:
        """keccak(enc(validator, init data, salt))."""
        return keccak(encode(["address", "bytes", "bytes32"], list(self.session[:3])))

    def nonce(self) -> int:
        """The emissary's nonce of the account."""
        data = selector("getNonce(address,bytes12)") + encode(
            ["address", "bytes12"], [self.account, bytes(12)]
        )
        return self.devnet.rpc.quantity("eth_call", {"to": EMISSARY, "data": "0x" + data.hex()}, "latest")

    def enabled(self) -> bool:
        """The emissary's answer."""
        data = selector("isPermissionEnabled(address,bytes32)") + encode(
            ["address", "bytes32"], [self.account, self.permission_id]
        )
        return (
            self.devnet.rpc.quantity("eth_call", {"to": EMISSARY, "data": "0x" + data.hex()}, "latest") == 1
        )

    def enable_tuple(
        self,
        *,
        nonce: int | None = None,
        chain_id: int = 8453,
        key: bytes | None = None,
        expires: int = UINT256_MAX,
    ) -> tuple[Any, ...]:
        """The owner's approval as the ABI tuple of ``setConfig``."""
        digest = session_digest(self.account, self.nonce() if nonce is None else nonce, self.session, expires)
        entries = [(chain_id, digest)]
        signature = self.owner_signature(multi_chain_digest(entries, self.devnet), key=key)
        return (bytes(32), signature, expires, (0, entries, self.session))

    def owner_signature(self, digest: bytes, *, key: bytes | None = None) -> bytes:
        """The account's ERC-1271 signature by its owner, packed as its kind wants it."""
        key = key or self.owner_key
        if self.kind == "kernel":
            replayable = keccak(text="kernel.replayable.signature")
            return b"\0" + replayable + sign_personal(key, kernel_wrap(self.account, digest))
        head = bytes(20) if self.kind == "nexus" else bytes.fromhex(OWNABLE_VALIDATOR[2:])
        return head + sign_digest(key, digest)

    @property
    def config(self) -> tuple[Any, ...]:
        """The config tuple of ``setConfig``."""
        return (0, 6, ZERO_ADDRESS, self.permission_id)

    # --- intents

    def quote(
        self, calls: list[tuple[str, int, bytes]], *, mode: int = 5, pre_claim: bool = False, **more: Any
    ) -> dict[str, Any]:
        """POST a route request; returns the intentOp."""
        answer = self.http.post(
            "/intents/route", json=self.request(calls, mode=mode, pre_claim=pre_claim) | more
        )
        assert answer.status_code == 200, answer.text
        return dict(self.exact(answer)["intentOp"])

    def exact(self, answer: httpx.Response) -> dict[str, Any]:
        """The reply with the text of its numbers, which must go back as they came."""
        return dict(exact_json.loads(answer.text))

    def request(
        self, calls: list[tuple[str, int, bytes]], *, mode: int = 5, pre_claim: bool = False
    ) -> dict[str, Any]:
        """A route request as the SDK sends it."""
        body: dict[str, Any] = {
            "destinationChainId": 8453,
            "tokenRequests": [],
            "account": {"address": self.account, "accountType": "ERC7579", "setupOps": []}
            | ({"mockSignatures": {"8453": self.mock()}} if mode == 5 else {}),
            "destinationExecutions": [
                {"to": to, "value": str(value), "data": "0x" + data.hex()} for to, value, data in calls
            ],
            "accountAccessList": {"chainIds": [8453]},
            "options": {"topupCompact": False, "signatureMode": mode},
        }
        if pre_claim:
            body["preClaimExecutions"] = {"8453": [DUMMY]}
        return body

    def mock(self) -> str:
        """The placeholder for the session's signature: ENABLE form, zeros for signatures."""
        enable = (bytes(32), bytes(65), UINT256_MAX, (0, [(8453, bytes(32))], self.session))
        packed = encode([ENABLE, CONFIG, "bytes"], [enable, self.config, bytes(65)])
        return "0x" + (bytes.fromhex(EMISSARY[2:]) + b"\1" + flz(packed)).hex()

    def digest(
        self, op: dict[str, Any], nonce: str, *, chain_id: int = 8453, refund_overhead: int | None = None
    ) -> bytes:
        """SingleChainOps digest for one of the op's nonces, of whatever the op says."""
        mandate = op["elements"][0]["mandate"]
        refund = mandate["qualifier"]["settlementContext"]["gasRefund"]
        typed = {
            "types": {
                "EIP712Domain": [
                    {"name": "name", "type": "string"},
                    {"name": "version", "type": "string"},
                    {"name": "chainId", "type": "uint256"},
                    {"name": "verifyingContract", "type": "address"},
                ],
                "SingleChainOps": [
                    {"name": "account", "type": "address"},
                    {"name": "nonce", "type": "uint256"},
                    {"name": "op", "type": "Op"},
                    {"name": "gasRefund", "type": "GasRefund"},
                ],
                "Op": [{"name": "vt", "type": "bytes32"}, {"name": "ops", "type": "Ops[]"}],
                "GasRefund": [
                    {"name": "token", "type": "address"},
                    {"name": "exchangeRate", "type": "uint256"},
                    {"name": "overhead", "type": "uint256"},
                ],
                "Ops": [
                    {"name": "to", "type": "address"},
                    {"name": "value", "type": "uint256"},
                    {"name": "data", "type": "bytes"},
                ],
            },
            "primaryType": "SingleChainOps",
            "domain": {
                "name": "IntentExecutor",
                "version": "v0.0.1",
                "chainId": chain_id,
                "verifyingContract": INTENT_EXECUTOR,
            },
            "message": {
                "account": self.account,
                "nonce": int(nonce),
                "op": {
                    "vt": mandate["destinationOps"]["vt"],
                    "ops": [
                        {"to": o["to"], "value": int(o["value"]), "data": o["data"]}
                        for o in mandate["destinationOps"]["ops"]
                    ],
                },
                "gasRefund": {
                    "token": refund["token"],
                    "exchangeRate": int(refund["exchangeRate"]),
                    "overhead": int(refund["overhead"]) if refund_overhead is None else refund_overhead,
                },
            },
        }
        signable = encode_typed_data(full_message=typed)
        return keccak(b"\x19\x01" + signable.header + signable.body)

    def sign(
        self,
        op: dict[str, Any],
        *,
        key: bytes | None = None,
        enable: tuple[Any, ...] | None = None,
        chain_id: int = 8453,
        refund_overhead: int | None = None,
    ) -> dict[str, Any]:
        """The signed op of a session with verifyExecutions; ENABLE mode when ``enable`` is given."""
        key = key or self.session_key
        intent, target = (
            self.digest(op, op[name], chain_id=chain_id, refund_overhead=refund_overhead)
            for name in ("nonce", "targetExecutionNonce")
        )

        def emissary(over: bytes) -> str:
            signatures = sign_personal(key, over)
            if enable is None:
                return "0x" + (b"\0" + self.permission_id + signatures).hex()
            packed = encode([ENABLE, CONFIG, "bytes"], [enable, self.config, signatures])
            return "0x" + (b"\1" + flz(packed)).hex()

        content = kernel_wrap(self.account, intent) if self.kind == "kernel" else intent
        head = bytes.fromhex(EMISSARY[2:])
        if self.kind == "kernel":
            head = b"\1" + head + keccak(text="kernel.replayable.signature")
        wrapped = keccak(
            b"\x19Ethereum Signed Message:\n64" + bytes(12) + bytes.fromhex(self.account[2:]) + content
        )
        signatures = sign_personal(key, wrapped)
        inner = b"\0" + self.permission_id + (64 + len(signatures)).to_bytes(32) + signatures
        return {
            **op,
            "originSignatures": [
                {
                    "preClaimSig": emissary(intent),
                    "notarizedClaimSig": "0x" + (head + inner).hex(),
                }
            ],
            "destinationSignature": emissary(intent),
            "targetExecutionSignature": emissary(target),
        }

    def owner_sign(self, op: dict[str, Any], *, key: bytes | None = None) -> dict[str, Any]:
        """The signed op of the account's owner (signatureMode 1)."""
        signature = "0x" + self.owner_signature(self.digest(op, op["nonce"]), key=key).hex()
        return {**op, "originSignatures": [signature], "destinationSignature": signature}

    def submit(self, signed: dict[str, Any]) -> httpx.Response:
        """POST the signed op."""
        return self.submit_text(exact_json.dumps({"signedIntentOp": signed}))

    def submit_text(self, body: str) -> httpx.Response:
        """POST a body as it is."""
        return self.http.post(
            "/intent-operations", content=body.encode(), headers={"content-type": "application/json"}
        )

    def enable_by_owner(self) -> None:
        """Enable the session by an owner-signed ``setConfig`` intent."""
        data = set_config_call(self.account, self.config, self.enable_tuple())
        op = self.quote([(EMISSARY, 0, data)], mode=1)
        answer = self.submit(self.owner_sign(op))
        assert answer.status_code == 201, answer.text
        assert self.wait(op["nonce"])["status"] == "COMPLETED"

    def transfer(self, amount: int, to: str = RECIPIENT) -> httpx.Response:
        """Quote, sign (USE) and submit one transfer."""
        return self.submit(self.sign(self.quote([(USDC, 0, transfer_data(to, amount))])))

    def why(self, intent_id: str) -> str:
        """The devnet's own words for what became of an intent."""
        [found] = [item for item in self.devnet.state()["intents"] if item["id"] == intent_id]
        return str(found["reason"])

    def status(self, intent_id: str) -> httpx.Response:
        """GET the status."""
        return self.http.get(f"/intent-operation/{intent_id}")

    def wait(self, intent_id: str, *until: str) -> dict[str, Any]:
        """Poll until one of these statuses (by default a terminal one); returns the last reply."""
        wanted = until or ("COMPLETED", "FAILED", "EXPIRED")
        deadline = time.monotonic() + 20
        body: dict[str, Any] = {}
        while time.monotonic() < deadline:
            body = dict(self.status(intent_id).json())
            if body.get("status") in wanted:
                return body
            time.sleep(0.02)
        raise AssertionError(f"intent never became {wanted}: {body}")


def session_digest(account: str, nonce: int, session: tuple[Any, ...], expires: int = UINT256_MAX) -> bytes:
    """Struct hash of ``SignedSession``, by eth-account's EIP-712."""
    validator, init, salt, actions, claims, (contents, erc1271) = session

    def policies(rows: Any) -> list[dict[str, Any]]:
        return [{"policy": policy, "initData": data} for policy, data in rows]

    message = {
        "account": account,
        "expires": expires,
        "nonce": nonce,
        "permissions": {
            "actions": [
                {"actionTargetSelector": sel, "actionTarget": target, "actionPolicies": policies(rows)}
                for sel, target, rows in actions
            ],
            "erc7739Policies": {
                "allowedERC7739Content": [
                    {"appDomainSeparator": domain, "contentName": list(names)} for domain, names in contents
                ],
                "erc1271Policies": policies(erc1271),
            },
            "lockTagPolicies": {"lockTag": bytes(12), "claimPolicies": policies(claims)},
            "permitGenericPolicy": any(
                sel == bytes.fromhex("00000001") and int(target, 16) == 1 for sel, target, _ in actions
            ),
        },
        "salt": salt,
        "sessionValidator": validator,
        "sessionValidatorInitData": init,
        "smartSessionEmissary": EMISSARY,
    }
    signable = encode_typed_data(
        full_message={
            "types": {"EIP712Domain": [], **_TYPES},
            "primaryType": "SignedSession",
            "domain": {},
            "message": message,
        }
    )
    return bytes(signable.body)


def multi_chain_digest(entries: list[tuple[int, bytes]], devnet: Devnet) -> bytes:
    """The owner's digest, asked from the emissary, whose answer the recorded vectors vouch for (test_contracts)."""
    data = selector("multiChainDigest((uint64,bytes32)[])") + encode(["(uint64,bytes32)[]"], [entries])
    return bytes.fromhex(
        devnet.rpc.call("eth_call", {"to": EMISSARY, "data": "0x" + data.hex()}, "latest")[2:]
    )


def _members(text: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "name"), part.split(" "), strict=True)) for part in text.split(",")]


_TYPES = {
    "SignedSession": _members(
        "address account,uint256 expires,uint256 nonce,SignedPermissions permissions,bytes32 salt,"
        "address sessionValidator,bytes sessionValidatorInitData,address smartSessionEmissary"
    ),
    "SignedPermissions": _members(
        "ActionData[] actions,ERC7739Data erc7739Policies,LockTagData lockTagPolicies,bool permitGenericPolicy"
    ),
    "ActionData": _members("bytes4 actionTargetSelector,address actionTarget,PolicyData[] actionPolicies"),
    "PolicyData": _members("address policy,bytes initData"),
    "ERC7739Data": _members("ERC7739Context[] allowedERC7739Content,PolicyData[] erc1271Policies"),
    "ERC7739Context": _members("bytes32 appDomainSeparator,string[] contentName"),
    "LockTagData": _members("bytes12 lockTag,PolicyData[] claimPolicies"),
}

__all__ = ["RECIPIENT", "SESSION", "User", "address_of", "key_of", "transfer_data", "usdc_session"]
