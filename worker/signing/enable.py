"""The owner's signature that approves a session, per account kind (protocol: sessions.md 10). ECDSA owners only."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from worker.signing import values
from worker.signing.contracts import OWNABLE_VALIDATOR, STARTALE_K1_VALIDATOR
from worker.signing.errors import SigningInputError
from worker.signing.session_signature import KERNEL_REPLAYABLE, check_kind, kernel_digest
from worker.signing.sign import personal_digest, psig, recover, recover_psig, sign_digest
from worker.signing.structs import AccountKind

_KERNEL_ROOT_MODE = b"\x00"


def owner_enable_signature(
    kind: AccountKind,
    account: str,
    digest: bytes,
    keys: Sequence[bytes],
    *,
    validator: str = OWNABLE_VALIDATOR,
    default_validator: str = OWNABLE_VALIDATOR,
) -> bytes:
    """``userSignature`` of the enable data: what a wallet returns when its owners approve.

    Args:
        kind: the account's kind.
        account: the smart account, lower-case.
        digest: ``session_digest.multi_chain_digest``, 32 bytes.
        keys: the owners' private keys in configured order; all of them sign.
        validator: the account's owner validator.
        default_validator: nexus only, the validator that its version has built in.

    Raises:
        SigningInputError: an argument does not fit, or the account needs another kind of signature.
    """
    try:
        prefix, signed, personal = _layout(kind, account, digest, validator, default_validator)
        packed = b""
        for key in keys:
            packed += psig(key, signed) if personal else sign_digest(key, signed)
    except SigningInputError:
        key = b""
        del keys  # so that no traceback keeps them
        raise
    if not packed:
        raise SigningInputError("must have at least one owner key", field="keys")
    return prefix + packed


def verify_owner_enable_signature(
    kind: AccountKind,
    account: str,
    digest: bytes,
    signature: bytes,
    owners: Collection[str],
    *,
    threshold: int = 1,
    validator: str = OWNABLE_VALIDATOR,
    default_validator: str = OWNABLE_VALIDATOR,
) -> tuple[str, ...]:
    """Check ``userSignature`` as the account's validator will, and return who signed, in order.

    Args:
        kind: the account's kind.
        account: the smart account, lower-case.
        digest: ``session_digest.multi_chain_digest`` of the enable data's list, 32 bytes.
        signature: ``userSignature``.
        owners: the account's owners, lower-case addresses.
        threshold: how many of them must sign.
        validator: the account's owner validator.
        default_validator: nexus only, the validator that its version has built in.

    Raises:
        SigningInputError: it is not packed as the account kind wants it, someone else signed, one owner signed
            twice, or fewer than the threshold signed.
    """
    prefix, signed, _ = _layout(kind, account, digest, validator, default_validator)
    values.uint(threshold, 256, "threshold")
    for index, owner in enumerate(owners):
        values.address(owner, f"owners[{index}]")
    if not 1 <= threshold <= len(set(owners)):
        raise SigningInputError(f"is {threshold} with {len(set(owners))} owners", field="threshold")
    if not values.any_bytes(signature, "userSignature").startswith(prefix):
        raise SigningInputError(
            f"does not begin with {prefix.hex()} as {kind} packs it", field="userSignature"
        )
    packed = values.signature_list(signature[len(prefix) :], "userSignature")
    signers: list[str] = []
    for start in range(0, len(packed), 65):
        signer = _signer(signed, packed[start : start + 65])
        if signer not in owners:
            raise SigningInputError(
                f"is signed by {signer}, which is no owner of the account, or over another digest",
                field="userSignature",
            )
        if signer in signers:
            raise SigningInputError(f"is signed twice by {signer}", field="userSignature")
        signers.append(signer)
    if len(signers) < threshold:
        raise SigningInputError(
            f"has {len(signers)} signatures, but the account needs {threshold}", field="userSignature"
        )
    return tuple(signers)


def _layout(
    kind: AccountKind, account: str, digest: bytes, validator: str, default_validator: str
) -> tuple[bytes, bytes, bool]:
    """(bytes before the signatures, the digest that is signed, whether by personal-sign)."""
    values.address(account, "account")
    values.fixed_bytes(digest, 32, "digest")
    prefix = values.address(validator, "validator")
    known = check_kind(kind)
    if known == "kernel":
        wrapped, prefix = kernel_digest(account, digest), _KERNEL_ROOT_MODE + KERNEL_REPLAYABLE
        if validator == OWNABLE_VALIDATOR:
            return prefix, wrapped, True
        # only the Ownable validator tells a personal-sign by v: for others it stays 27 or 28
        return prefix, personal_digest(wrapped), False
    if known == "startale" and validator == STARTALE_K1_VALIDATOR:
        raise SigningInputError(
            "Startale accounts with the K1 validator are not supported",
            field="validator",
            fix="use an account with the Ownable validator",
        )
    if known == "nexus":
        values.address(default_validator, "default validator")
        if validator == default_validator:
            prefix = bytes(20)
    return prefix, digest, False


def _signer(digest: bytes, signature: bytes) -> str:
    # The Ownable validator tells the two forms apart by v.
    return recover_psig(digest, signature) if signature[64] > 30 else recover(digest, signature)
