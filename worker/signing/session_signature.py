"""How a session's signature over a digest is packed, and its strict inverse (protocol: signing.md 4).

``VS`` below is the concatenation of ``sign.psig(key, hash)`` for every owner of the session, in configured order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from eth_abi.abi import encode

from worker.signing import values
from worker.signing.abi import (
    CONFIG_ABI,
    ENABLE_ABI,
    config_tuple,
    decode_abi,
    enable_tuple,
    session_from_tuple,
)
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.eip712 import BYTES32, Struct, domain_separator, typed_data_digest
from worker.signing.errors import SigningInputError
from worker.signing.fastlz import compress, decompress
from worker.signing.keccak import keccak
from worker.signing.session_digest import permission_id as permission_id_of
from worker.signing.structs import AccountKind, EnableData, HashAndChainId, SessionData

USE_MODE = b"\x00"
ENABLE_MODE = b"\x01"
DIRECT_MODE = b"\x00"
"""ERC-1271 mode of the emissary: the digest is signed as it is, without ERC-7739."""

KERNEL_REPLAYABLE = keccak(b"kernel.replayable.signature")
ACCOUNT_KINDS: tuple[AccountKind, ...] = ("nexus", "safe", "kernel", "startale")

_KERNEL_VALIDATOR_MODE = b"\x01"
_KERNEL = Struct("Kernel", ("hash", BYTES32))
_PERSONAL_PREFIX_64 = b"\x19Ethereum Signed Message:\n64"
# The offset of the claim policy data counts from after the mode byte: permission id, and the offset's own word.
_ERC1271_HEAD = 64


@dataclass(frozen=True, slots=True)
class EmissaryForm:
    """An unpacked emissary signature.

    Attributes:
        mode: ``use`` or ``enable``.
        permission_id: 32 bytes.
        validator_signature: ``VS``.
        session: the session that ENABLE mode stores, else ``None``.
        enable: the user's approval that ENABLE mode carries, else ``None``.
    """

    mode: Literal["use", "enable"]
    permission_id: bytes
    validator_signature: bytes = field(repr=False)
    session: SessionData | None = field(default=None, repr=False)
    enable: EnableData | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Erc1271Form:
    """An unpacked ERC-1271 signature.

    Attributes:
        permission_id: 32 bytes.
        validator_signature: ``VS``.
        claim_policy_data: what the claim policy checks; empty for messages that are no Permit2 claim.
    """

    permission_id: bytes
    validator_signature: bytes = field(repr=False)
    claim_policy_data: bytes = field(repr=False)


def check_kind(kind: object) -> AccountKind:
    """``kind`` as an account kind that this program can sign for.

    Raises:
        SigningInputError: it is none.
    """
    for known in ACCOUNT_KINDS:
        if kind == known:
            return known
    raise SigningInputError(
        "is no supported account kind", field="account kind", fix=f"use one of {', '.join(ACCOUNT_KINDS)}"
    )


def emissary_use(permission_id: bytes, validator_signature: bytes) -> bytes:
    """USE mode, for a session that is enabled: ``0x00 ‖ permissionId ‖ VS`` with VS over the digest itself.

    Raises:
        SigningInputError: the permission id is not 32 bytes, or VS no list of 65-byte signatures.
    """
    return (
        USE_MODE
        + values.fixed_bytes(permission_id, 32, "permissionId")
        + values.signature_list(validator_signature, "validatorSignature")
    )


def emissary_enable(
    session: SessionData, enable: EnableData, permission_id: bytes, validator_signature: bytes
) -> bytes:
    """ENABLE mode, which stores the session with its first use: ``0x01 ‖ flz(enc(enable, config, VS))``.

    Raises:
        SigningInputError: a field does not fit, ``sessionToEnableIndex`` is outside the list, or the permission id
            is not the session's (the emissary recomputes it and reverts).
    """
    if values.fixed_bytes(permission_id, 32, "permissionId") != permission_id_of(session):
        raise SigningInputError("is not the id of the session", field="permissionId")
    return ENABLE_MODE + compress(
        encode(
            [ENABLE_ABI, CONFIG_ABI, "bytes"],
            [
                enable_tuple(session, enable),
                config_tuple(permission_id),
                values.signature_list(validator_signature, "validatorSignature"),
            ],
        )
    )


def kernel_digest(account: str, digest: bytes) -> bytes:
    """The digest as a Kernel 0.3.3 account wants it, replayable across chains (chain id 0).

    Raises:
        SigningInputError: the account is no lower-case address, or the digest not 32 bytes.
    """
    values.address(account, "account")
    values.fixed_bytes(digest, 32, "digest")
    return typed_data_digest(
        domain_separator("Kernel", "0.3.3", 0, account), _KERNEL.encode((digest,), "Kernel")
    )


def erc1271_hash(kind: AccountKind, account: str, digest: bytes) -> bytes:
    """The hash ``h`` that ``VS`` of the ERC-1271 form signs (``psig(key, h)``: a second personal-sign layer).

    Args:
        kind: the account's kind; kernel wraps the digest in its own domain first.
        account: the smart account, lower-case.
        digest: EIP-712 digest of the payload, 32 bytes.

    Raises:
        SigningInputError: an argument does not fit.
    """
    owner = values.address(account, "account")
    values.fixed_bytes(digest, 32, "digest")
    if check_kind(kind) == "kernel":
        digest = kernel_digest(account, digest)
    return keccak(_PERSONAL_PREFIX_64 + bytes(12) + owner + digest)


def erc1271(  # noqa: PLR0917 - the last two have defaults that nearly every caller keeps
    kind: AccountKind,
    account: str,
    permission_id: bytes,
    validator_signature: bytes,
    claim_policy_data: bytes = b"",
    emissary: str = SMART_SESSION_EMISSARY,
) -> bytes:
    """The ERC-1271 form, wrapped as the account kind wants it.

    Args:
        kind: the account's kind.
        account: the smart account, lower-case. The packing does not hold it: it is only checked.
        permission_id: 32 bytes.
        validator_signature: VS over ``erc1271_hash``.
        claim_policy_data: see ``claim_policy.claim_policy_data``.
        emissary: the session contract.

    Raises:
        SigningInputError: an argument does not fit.
    """
    values.address(account, "account")
    signatures = values.signature_list(validator_signature, "validatorSignature")
    return b"".join(
        (
            _erc1271_prefix(kind, emissary),
            DIRECT_MODE,
            values.fixed_bytes(permission_id, 32, "permissionId"),
            (_ERC1271_HEAD + len(signatures)).to_bytes(32, "big"),
            signatures,
            values.any_bytes(claim_policy_data, "claimPolicyData"),
        )
    )


def decode_emissary(signature: bytes) -> EmissaryForm:
    """Unpack the emissary form; only what ``emissary_use`` and ``emissary_enable`` make is accepted, byte for byte.

    Raises:
        SigningInputError: anything else.
    """
    mode = values.any_bytes(signature, "signature")[:1]
    if mode == USE_MODE:
        if len(signature) < 33:
            raise SigningInputError("the USE form is cut short", field="signature")
        form = EmissaryForm("use", signature[1:33], signature[33:])
        values.signature_list(form.validator_signature, "validatorSignature")
        return form
    if mode != ENABLE_MODE:
        raise SigningInputError("has no mode byte 0x00 (USE) or 0x01 (ENABLE)", field="signature")
    enable, config, signatures = decode_abi(
        [ENABLE_ABI, CONFIG_ABI, "bytes"], decompress(signature[1:]), "signature"
    )
    _, user_signature, _, (index, digests, session) = enable
    form = EmissaryForm(
        mode="enable",
        permission_id=config[3],
        validator_signature=signatures,
        session=session_from_tuple(session),
        enable=EnableData(
            user_signature, tuple(HashAndChainId(chain_id, digest) for chain_id, digest in digests), index
        ),
    )
    assert form.session is not None
    assert form.enable is not None
    # Whatever is fixed (scope, allocator, expires, the stream itself) is compared by packing it again.
    if emissary_enable(form.session, form.enable, form.permission_id, signatures) != signature:
        raise SigningInputError("is not packed as the ENABLE form is", field="signature")
    return form


def decode_erc1271(
    kind: AccountKind, signature: bytes, emissary: str = SMART_SESSION_EMISSARY
) -> Erc1271Form:
    """Unpack the ERC-1271 form of an account of ``kind``; only what ``erc1271`` makes is accepted.

    Raises:
        SigningInputError: anything else.
    """
    prefix = _erc1271_prefix(kind, emissary) + DIRECT_MODE
    if not values.any_bytes(signature, "signature").startswith(prefix):
        raise SigningInputError(
            f"does not begin with the emissary and mode 0x00 as {kind} packs them", field="signature"
        )
    inner = signature[len(prefix) :]
    end = int.from_bytes(inner[32:64], "big")
    if not _ERC1271_HEAD <= end <= len(inner):
        raise SigningInputError("the offset of the claim policy data is out of range", field="signature")
    return Erc1271Form(
        permission_id=inner[:32],
        validator_signature=values.signature_list(inner[_ERC1271_HEAD:end], "validatorSignature"),
        claim_policy_data=inner[end:],
    )


def _erc1271_prefix(kind: AccountKind, emissary: str) -> bytes:
    contract = values.address(emissary, "emissary")
    if check_kind(kind) == "kernel":
        return _KERNEL_VALIDATOR_MODE + contract + KERNEL_REPLAYABLE
    return contract
