"""Permit2 claims of a submitted intent: what was signed, and what the session's claim policies say about it.

Written from protocol/signing.md 3 and 6 and sessions.md 7 with eth-account and eth-abi only; it shares no code with
``worker/signing`` and ``worker/policies``, so that the two check each other. The chain itself does not enforce claim
policies (policies.md 5); a service that did would decide like this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak

from worker.devnet.chain import PERMIT2
from worker.devnet.verify import InvalidSignatureError

PERMIT2_CLAIM = "0x62e3588c6d861c9f986e82ec3757434edf16ce91"
ANYONE = "0x" + "ff" * 20
_ADDRESS_MASK = 2**160 - 1


def _members(text: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "name"), member.split(" "), strict=True)) for member in text.split(",")]


PERMIT2_TYPES = {
    "PermitBatchWitnessTransferFrom": _members(
        "TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline,Mandate mandate"
    ),
    "TokenPermissions": _members("address token,uint256 amount"),
    "Token": _members("address token,uint256 amount"),
    "Target": _members("address recipient,Token[] tokenOut,uint256 targetChain,uint256 fillExpiry"),
    "Mandate": _members("Target target,uint128 minGas,Op originOps,Op destOps,bytes32 q"),
    "Op": _members("bytes32 vt,Ops[] ops"),
    "Ops": _members("address to,uint256 value,bytes data"),
}
_TOKEN = "Token(address token,uint256 amount)"  # noqa: S105 - a type
_TOKEN_PERMISSIONS = "TokenPermissions(address token,uint256 amount)"  # noqa: S105
_OPS = "Ops(address to,uint256 value,bytes data)"
_OP = f"Op(bytes32 vt,Ops[] ops){_OPS}"
_TARGET = "Target(address recipient,Token[] tokenOut,uint256 targetChain,uint256 fillExpiry)"
_MANDATE = f"Mandate(Target target,uint128 minGas,Op originOps,Op destOps,bytes32 q){_OP}{_TARGET}{_TOKEN}"


@dataclass(frozen=True, slots=True)
class Permit2Claim:
    """One element of an op as the Permit2 message that was signed for it.

    Attributes:
        chain_id: the chain that the tokens are taken on.
        permitted: (token, base units) pairs; tokens lower-case.
        spender: the arbiter, lower-case.
        nonce: the op's nonce.
        deadline: the op's expiry, unix seconds.
        recipient: who gets ``token_out``, lower-case.
        token_out: (token, base units) pairs.
        target_chain: where.
        fill_expiry: until when, unix seconds.
        min_gas: gas units.
        origin_ops, dest_ops: ``(vt, ((to, wei, calldata), …))``.
        q: keccak-256 of the qualifier.
    """

    chain_id: int
    permitted: tuple[tuple[str, int], ...]
    spender: str
    nonce: int
    deadline: int
    recipient: str
    token_out: tuple[tuple[str, int], ...]
    target_chain: int
    fill_expiry: int
    min_gas: int
    origin_ops: tuple[bytes, tuple[tuple[str, int, bytes], ...]]
    dest_ops: tuple[bytes, tuple[tuple[str, int, bytes], ...]]
    q: bytes

    def message(self) -> dict[str, Any]:
        """The message of the typed data; integers as they are, bytes as bytes."""

        def ops(value: tuple[bytes, tuple[tuple[str, int, bytes], ...]]) -> dict[str, Any]:
            vt, calls = value
            return {
                "vt": vt,
                "ops": [dict(zip(("to", "value", "data"), call, strict=True)) for call in calls],
            }

        def tokens(pairs: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
            return [{"token": token, "amount": amount} for token, amount in pairs]

        return {
            "permitted": tokens(self.permitted),
            "spender": self.spender,
            "nonce": self.nonce,
            "deadline": self.deadline,
            "mandate": {
                "target": {
                    "recipient": self.recipient,
                    "tokenOut": tokens(self.token_out),
                    "targetChain": self.target_chain,
                    "fillExpiry": self.fill_expiry,
                },
                "minGas": self.min_gas,
                "originOps": ops(self.origin_ops),
                "destOps": ops(self.dest_ops),
                "q": self.q,
            },
        }

    def domain(self) -> dict[str, Any]:
        """The domain of the typed data."""
        return {"name": "Permit2", "chainId": self.chain_id, "verifyingContract": PERMIT2}

    def digest(self) -> bytes:
        """The EIP-712 digest, 32 bytes."""
        typed = encode_typed_data(self.domain(), PERMIT2_TYPES, self.message())
        return keccak(b"\x19" + typed.version + typed.header + typed.body)

    def permit(self) -> tuple[Any, ...]:
        """The ABI tuple of ``PermitBatchTransferFrom``."""
        return list(self.permitted), self.nonce, self.deadline

    def mandate(self) -> tuple[Any, ...]:
        """The ABI tuple of ``Mandate``."""
        target = (self.recipient, list(self.token_out), self.target_chain, self.fill_expiry)
        (before_vt, before), (after_vt, after) = self.origin_ops, self.dest_ops
        return target, self.min_gas, (before_vt, list(before)), (after_vt, list(after)), self.q


def read_claim(element: Mapping[str, Any], nonce: int, deadline: int) -> Permit2Claim:
    """An element as its Permit2 message (protocol/signing.md 3).

    Raises:
        KeyError, TypeError, ValueError: it makes no sense.
    """
    mandate = element["mandate"]

    def tokens(pairs: Sequence[Sequence[Any]]) -> tuple[tuple[str, int], ...]:
        return tuple((f"0x{int(token) & _ADDRESS_MASK:040x}", int(amount)) for token, amount in pairs)

    def ops(value: Mapping[str, Any]) -> tuple[bytes, tuple[tuple[str, int, bytes], ...]]:
        return bytes.fromhex(value["vt"][2:]), tuple(
            (op["to"].lower(), int(op["value"]), bytes.fromhex(op["data"][2:])) for op in value["ops"]
        )

    return Permit2Claim(
        chain_id=int(element["chainId"]),
        permitted=tokens(element["idsAndAmounts"]),
        spender=element["arbiter"].lower(),
        nonce=nonce,
        deadline=deadline,
        recipient=mandate["recipient"].lower(),
        token_out=tokens(mandate["tokenOut"]),
        target_chain=int(mandate["destinationChainId"]),
        fill_expiry=int(mandate["fillDeadline"]),
        min_gas=int(mandate["minGas"]),
        origin_ops=ops(mandate["preClaimOps"]),
        dest_ops=ops(mandate["destinationOps"]),
        q=keccak(bytes.fromhex(mandate["qualifier"]["encodedVal"][2:])),
    )


def check_policies(
    policies: Sequence[tuple[str, bytes]], claim: Permit2Claim, account: str, data: bytes
) -> None:
    """Hold a claim against a session's claim policies, and the data that came with its signature against the message.

    Args:
        policies: (address, init data) as the session has them.
        claim: the message.
        account: whose tokens are taken, lower-case.
        data: what follows the validator's signatures.

    Raises:
        InvalidSignatureError: denied, or the data is not what the first policy reads of this message.
    """
    expected = b""
    for index, (address, init_data) in enumerate(policies):
        if address != PERMIT2_CLAIM:
            raise InvalidSignatureError(f"no contract at claim policy {address} on the devnet")
        rules = _Rules(init_data)
        rules.check(claim, account)
        if index == 0:
            expected = rules.data(claim)
    if data != expected:
        raise InvalidSignatureError("the claim policy's data is not that of the message")


class _Rules:
    """The claim policy's init data, read section by section."""

    def __init__(self, init_data: bytes) -> None:
        self._rest = init_data
        mode = int.from_bytes(self._take(4))
        used = [bool(mode >> 2 * number & 1) for number in range(10)]
        self.arbiters = ["0x" + self._take(20).hex() for _ in self._counted(used=used[0])]
        self.expiry = self._bounds() if used[1] else None
        self.tokens_in = self._chain_addresses(used=used[2])
        self.recipients = self._chain_addresses(used=used[3])
        self.fill_expiry = [
            (int.from_bytes(self._take(32)), self._bounds()) for _ in self._counted(used=used[4])
        ]
        self.tokens_out = self._chain_addresses(used=used[5])
        self.recipient_is_sponsor = used[9]
        if self._rest:
            raise InvalidSignatureError("the claim policy's init data does not decode")

    def check(self, claim: Permit2Claim, account: str) -> None:
        """Raises InvalidSignatureError, with the field of the policy."""
        target, recipient = claim.target_chain, claim.recipient
        bounds = [bound for chain, bound in self.fill_expiry if chain == target]
        receivers = [receiver for chain, receiver in self.recipients if chain == target]
        verdicts = {
            "arbiters": not self.arbiters or claim.spender in self.arbiters,
            "expiryBounds": self.expiry is None or self.expiry[0] <= claim.deadline <= self.expiry[1],
            "tokensIn": not self.tokens_in
            or {(claim.chain_id, token) for token, _ in claim.permitted} <= set(self.tokens_in),
            "recipients": not self.recipients or bool({recipient, ANYONE} & set(receivers)),
            "fillExpiryBounds": not self.fill_expiry
            or any(low <= claim.fill_expiry <= high for low, high in bounds),
            "tokensOut": not self.tokens_out
            or {(target, token) for token, _ in claim.token_out} <= set(self.tokens_out),
            "recipientIsSponsor": not self.recipient_is_sponsor or recipient == account,
        }
        for name, allowed in verdicts.items():
            if not allowed:
                raise InvalidSignatureError(f"the claim policy denies the claim: {name}")

    def data(self, claim: Permit2Claim) -> bytes:
        """What this policy reads of a message, packed (protocol/signing.md 6)."""
        permitted = (
            _pairs(claim.permitted) if self.tokens_in else _hashes(_TOKEN_PERMISSIONS, claim.permitted)
        )
        target = (
            bytes.fromhex(claim.recipient[2:])
            + claim.target_chain.to_bytes(32)
            + claim.fill_expiry.to_bytes(32)
        )
        out = _pairs(claim.token_out) if self.tokens_out else _hashes(_TOKEN, claim.token_out)
        before, after = _op_hash(claim.origin_ops), _op_hash(claim.dest_ops)
        if self.recipients or self.fill_expiry or self.tokens_out or self.recipient_is_sponsor:
            mandate = target + out + claim.min_gas.to_bytes(16) + before + after + claim.q
        else:
            target_hash = keccak(
                keccak(text=_TARGET + _TOKEN)
                + bytes(12)
                + bytes.fromhex(claim.recipient[2:])
                + _hashes(_TOKEN, claim.token_out)
                + claim.target_chain.to_bytes(32)
                + claim.fill_expiry.to_bytes(32)
            )
            mandate = keccak(
                keccak(text=_MANDATE) + target_hash + claim.min_gas.to_bytes(32) + before + after + claim.q
            )
        spender = bytes.fromhex(claim.spender[2:])
        return spender + claim.nonce.to_bytes(32) + claim.deadline.to_bytes(32) + permitted + mandate

    def _take(self, count: int) -> bytes:
        taken, self._rest = self._rest[:count], self._rest[count:]
        if len(taken) != count:
            raise InvalidSignatureError("the claim policy's init data does not decode")
        return taken

    def _counted(self, *, used: bool) -> Iterator[int]:
        return iter(range(self._take(1)[0] if used else 0))

    def _bounds(self) -> tuple[int, int]:
        high, low = int.from_bytes(self._take(16)), int.from_bytes(self._take(16))
        return low, high

    def _chain_addresses(self, *, used: bool) -> list[tuple[int, str]]:
        return [
            (int.from_bytes(self._take(32)), "0x" + self._take(20).hex()) for _ in self._counted(used=used)
        ]


def _pairs(amounts: Sequence[tuple[str, int]]) -> bytes:
    return bytes([len(amounts)]) + b"".join(
        encode(["address", "uint256"], [token, amount]) for token, amount in amounts
    )


def _hashes(kind: str, amounts: Sequence[tuple[str, int]]) -> bytes:
    return keccak(
        b"".join(
            keccak(keccak(text=kind) + encode(["address", "uint256"], [token, amount]))
            for token, amount in amounts
        )
    )


def _op_hash(ops: tuple[bytes, tuple[tuple[str, int, bytes], ...]]) -> bytes:
    vt, calls = ops
    hashed = [
        keccak(keccak(text=_OPS) + encode(["address", "uint256", "bytes32"], [to, value, keccak(data)]))
        for to, value, data in calls
    ]
    return keccak(keccak(text=_OP) + vt + keccak(b"".join(hashed)))
