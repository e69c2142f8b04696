"""Checks the signatures of a submitted intent, as the chain would.

Written from protocol/signing.md with eth-account, eth-abi and eth-keys only; it shares no code with
``worker/signing``, so that the two check each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from worker.devnet.chain import CONFIG, EMISSARY, ENABLE, INTENT_EXECUTOR, OWNABLE_VALIDATOR, ZERO_ADDRESS

USE, ENABLE_MODE = 0, 1
KERNEL_REPLAYABLE = keccak(text="kernel.replayable.signature")
# A session with all the policies of the vectors is 5 kB; a bound keeps a crafted stream from filling memory.
MAX_ENABLE_BYTES = 1 << 20


SINGLE_CHAIN_OPS_TYPES = {
    "SingleChainOps": [
        {"name": "account", "type": "address"},
        {"name": "nonce", "type": "uint256"},
        {"name": "op", "type": "Op"},
        {"name": "gasRefund", "type": "GasRefund"},
    ],
    "Op": [{"name": "vt", "type": "bytes32"}, {"name": "ops", "type": "Ops[]"}],
    "Ops": [
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "data", "type": "bytes"},
    ],
    "GasRefund": [
        {"name": "token", "type": "address"},
        {"name": "exchangeRate", "type": "uint256"},
        {"name": "overhead", "type": "uint256"},
    ],
}


class InvalidSignatureError(Exception):
    """A signature or its packing is wrong; the message names the field and says how."""


@dataclass(frozen=True, slots=True)
class EmissarySignature:
    """The emissary form, unpacked.

    Attributes:
        mode: ``USE`` or ``ENABLE_MODE``.
        permission_id: 32 bytes.
        signatures: the validator's signature bytes.
        config: the ABI tuple of ENABLE mode, else ``()``.
        enable: the ABI tuple of ENABLE mode, else ``()``.
    """

    mode: int
    permission_id: bytes
    signatures: bytes
    config: tuple[Any, ...] = ()
    enable: tuple[Any, ...] = ()

    @property
    def session(self) -> tuple[Any, ...]:
        """The session of ENABLE mode, as the ABI tuple."""
        return self.enable[3][2]


def flz_decompress(stream: bytes) -> bytes:
    """FastLZ level 1, as Solady's ``LibZip.flzDecompress``.

    Raises:
        InvalidSignatureError: the stream is cut short, points before its start, or is far too large.
    """
    out = bytearray()
    at = 0
    try:
        while at < len(stream):
            control = stream[at]
            kind = control >> 5
            if kind == 0:
                literals = stream[at + 1 : at + 2 + control]
                if len(literals) != control + 1:
                    raise InvalidSignatureError("the FastLZ stream is cut short")
                out += literals
                at += control + 2
                continue
            length, low = (kind + 2, 1) if kind < 7 else (9 + stream[at + 1], 2)
            start = len(out) - (256 * (control & 31) + stream[at + low]) - 1
            if start < 0:
                raise InvalidSignatureError("the FastLZ stream points before its start")
            for offset in range(length):
                out.append(out[start + offset])
            at += low + 1
            if len(out) > MAX_ENABLE_BYTES:
                raise InvalidSignatureError("the FastLZ stream is too large")
    except IndexError:
        raise InvalidSignatureError("the FastLZ stream is cut short") from None
    return bytes(out)


def unpack_emissary(signature: bytes) -> EmissarySignature:
    """Unpack the emissary form: ``0x00 ‖ permissionId ‖ VS`` or ``0x01 ‖ flz(enc(enable, config, VS))``."""
    if not signature:
        raise InvalidSignatureError("the signature is empty")
    if signature[0] == USE:
        if len(signature) < 33:
            raise InvalidSignatureError("the USE signature is cut short")
        return EmissarySignature(USE, signature[1:33], signature[33:])
    if signature[0] != ENABLE_MODE:
        raise InvalidSignatureError(f"unknown mode 0x{signature[0]:02x}")
    try:
        enable, config, signatures = decode([ENABLE, CONFIG, "bytes"], flz_decompress(signature[1:]))
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise InvalidSignatureError(f"the ENABLE data does not decode: {error}") from None
    return EmissarySignature(ENABLE_MODE, config[3], signatures, config, enable)


def unpack_erc1271(signature: bytes, kind: str) -> tuple[bytes, bytes]:
    """Unpack the ERC-1271 form for an account of ``kind``; returns (permission id, validator signatures)."""
    permission, signatures, data = unpack_claim(signature, kind)
    if data:
        raise InvalidSignatureError("claim policy data on a message that is no Permit2 claim")
    return permission, signatures


def unpack_claim(signature: bytes, kind: str) -> tuple[bytes, bytes, bytes]:
    """As ``unpack_erc1271``, with the data for the claim policy, which may be empty."""
    head = bytes.fromhex(EMISSARY[2:])
    if kind == "kernel":
        head = b"\x01" + head + KERNEL_REPLAYABLE
    if not signature.startswith(head):
        raise InvalidSignatureError(f"does not begin with the emissary's address as {kind} packs it")
    inner = signature[len(head) :]
    if len(inner) < 65 or inner[0] != 0:
        raise InvalidSignatureError("mode is not 0x00, or it is cut short")
    end = int.from_bytes(inner[33:65])
    if not 64 <= end <= len(inner) - 1:
        raise InvalidSignatureError("the claim policy offset is out of range")
    return inner[1:33], inner[65 : end + 1], inner[end + 1 :]


def is_session_form(signature: bytes, kind: str) -> bool:
    """Whether an ERC-1271 signature is addressed to the emissary, rather than to the owners' validator."""
    at = 1 if kind == "kernel" else 0
    return signature[at : at + 20] == bytes.fromhex(EMISSARY[2:])


def single_chain_ops_digest(
    account: str, element: Mapping[str, Any], nonce: int, chain_id: int | None = None
) -> bytes:
    """EIP-712 digest of ``SingleChainOps`` for one element (protocol/signing.md 3).

    ``chain_id`` is that of the executor which verifies; by default the mandate's.
    """
    mandate = element["mandate"]
    refund: Mapping[str, Any] = mandate["qualifier"]["settlementContext"].get("gasRefund") or {
        "token": ZERO_ADDRESS,
        "exchangeRate": 0,
        "overhead": 0,
    }
    ops = mandate["destinationOps"]
    message = encode_typed_data(
        {
            "name": "IntentExecutor",
            "version": "v0.0.1",
            "chainId": int(mandate["destinationChainId"]) if chain_id is None else chain_id,
            "verifyingContract": INTENT_EXECUTOR,
        },
        SINGLE_CHAIN_OPS_TYPES,
        {
            "account": account,
            "nonce": nonce,
            "op": {
                "vt": bytes.fromhex(ops["vt"][2:]),
                "ops": [
                    {"to": op["to"].lower(), "value": int(op["value"]), "data": bytes.fromhex(op["data"][2:])}
                    for op in ops["ops"]
                ],
            },
            "gasRefund": {
                "token": refund["token"].lower(),
                "exchangeRate": int(refund["exchangeRate"]),
                "overhead": int(refund["overhead"]),
            },
        },
    )
    return keccak(b"\x19" + message.version + message.header + message.body)


def erc1271_hash(digest: bytes, account: str, kind: str) -> bytes:
    """The hash whose personal-sign form the session key signs in the ERC-1271 form (protocol/signing.md 4)."""
    if kind == "kernel":
        domain = keccak(
            encode(
                ["bytes32", "bytes32", "bytes32", "uint256", "address"],
                [
                    keccak(
                        text="EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
                    ),
                    keccak(text="Kernel"),
                    keccak(text="0.3.3"),
                    0,
                    account,
                ],
            )
        )
        digest = keccak(b"\x19\x01" + domain + keccak(keccak(text="Kernel(bytes32 hash)") + digest))
    return keccak(b"\x19Ethereum Signed Message:\n64" + bytes(12) + bytes.fromhex(account[2:]) + digest)


def check_validator(validator: str, init_data: bytes, digest: bytes, signatures: bytes) -> None:
    """The Ownable validator: the first ``threshold`` signatures are by distinct owners of the session.

    Raises:
        InvalidSignatureError: they are not, or the session has another validator.
    """
    if validator != OWNABLE_VALIDATOR:
        raise InvalidSignatureError(f"no contract at session validator {validator} on the devnet")
    try:
        decoded = decode(["uint256", "address[]"], init_data)
    except DecodingError:
        raise InvalidSignatureError("the session validator's init data does not decode") from None
    threshold, owners = int(decoded[0]), [str(owner).lower() for owner in decoded[1]]
    if threshold == 0 or len(signatures) < 65 * threshold:
        raise InvalidSignatureError(f"{len(signatures)} bytes hold fewer than {threshold} signatures")
    if len(signatures) % 65:
        raise InvalidSignatureError("trailing bytes after the signatures")
    signers = [recover(digest, signatures[65 * i : 65 * i + 65]) for i in range(threshold)]
    if not set(owners).issuperset(signers):
        raise InvalidSignatureError("signed by a key that is no owner of the session, or over another digest")
    if len(set(signers)) != len(signers):
        raise InvalidSignatureError("one owner signed twice")


def recover(digest: bytes, signature: bytes) -> str:
    """Signer of one 65-byte signature: v 27/28 over the digest, v 31/32 over its personal-sign hash."""
    v = signature[64]
    if v in (31, 32):
        digest = keccak(b"\x19Ethereum Signed Message:\n32" + digest)
        v -= 4
    if v not in (27, 28):
        raise InvalidSignatureError(f"v is {v}")
    try:
        key = Signature(signature[:64] + bytes([v - 27])).recover_public_key_from_msg_hash(digest)
    except (BadSignature, ValidationError):
        raise InvalidSignatureError("the signature recovers to no key") from None
    return key.to_address()


def hex_bytes(value: object, field: str) -> bytes:
    """Bytes of a 0x hex string of the request."""
    if not isinstance(value, str) or not value.startswith("0x"):
        raise InvalidSignatureError(f"{field} is no hex string")
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        raise InvalidSignatureError(f"{field} is no hex string") from None


def same_enable(forms: Sequence[EmissarySignature]) -> bool:
    """Whether all emissary forms have the same mode, permission, and enable data."""
    return len({(form.mode, form.permission_id, repr(form.config), repr(form.enable)) for form in forms}) == 1
