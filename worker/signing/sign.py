"""ECDSA over secp256k1: sign, recover, derive an address (libsecp256k1 through coincurve).

Signatures are deterministic (RFC 6979) with low s, so equal inputs give equal bytes. The functions that take
a private key forget it before they raise, so that no traceback keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence

from coincurve import PrivateKey, PublicKey

from worker.signing import values
from worker.signing.errors import SignatureFaultError, SigningInputError
from worker.signing.keccak import keccak

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Order of secp256k1 (SEC 2, 2.4.1)."""

PERSONAL_V_OFFSET = 4
"""The Ownable validator reads v 31 or 32 as "signed with the personal-sign prefix"."""

_PERSONAL_PREFIX = b"\x19Ethereum Signed Message:\n32"


def personal_digest(digest: bytes) -> bytes:
    """The personal-sign hash (EIP-191 version 0x45) of a 32-byte digest.

    Raises:
        SigningInputError: the digest is not 32 bytes.
    """
    return keccak(_PERSONAL_PREFIX + values.fixed_bytes(digest, 32, "digest"))


def address_of(key: bytes) -> str:
    """The lower-case address of a private key.

    Raises:
        SigningInputError: not a private key of 32 bytes.
    """
    problem = _key_problem(key)
    if problem:
        del key
        raise SigningInputError(problem, field="key")
    return _address(PublicKey.from_valid_secret(key))


def sign_digest(key: bytes, digest: bytes) -> bytes:
    """``sig(key, digest)``: 65 bytes ``r ‖ s ‖ v`` with v 27 or 28, over the digest itself.

    Raises:
        SigningInputError: not a private key of 32 bytes, or a digest of another length.
    """
    problem = _key_problem(key)
    if problem or type(digest) is not bytes or len(digest) != 32:
        del key
        raise SigningInputError(problem or "must be 32 bytes", field="key" if problem else "digest")
    signature = PrivateKey(key).sign_recoverable(digest, hasher=None)
    return signature[:64] + bytes((27 + signature[64],))


def psig(key: bytes, digest: bytes) -> bytes:
    """``psig(key, digest)``: 65 bytes over ``personal_digest(digest)`` with v 31 or 32.

    Raises:
        SigningInputError: not a private key of 32 bytes, or a digest of another length.
    """
    try:
        signature = sign_digest(key, personal_digest(digest))
    except SigningInputError:
        del key
        raise
    return signature[:64] + bytes((signature[64] + PERSONAL_V_OFFSET,))


def psigs(key: bytes, digests: Sequence[bytes]) -> tuple[str, list[bytes]]:
    """The key's address and ``psig(key, digest)`` of each digest, every one recovered to that address again.

    The key is expanded once for all of them, and the check compares public keys, so that several signatures of one
    key cost less than half of as many ``psig`` and ``recover_psig``.

    Raises:
        SigningInputError: not a private key of 32 bytes, or a digest of another length.
        SignatureFaultError: a signature that was just made does not recover to the key's address.
    """
    try:
        personal = [personal_digest(digest) for digest in digests]
    except SigningInputError:
        del key
        raise
    problem = _key_problem(key)
    if problem:
        del key
        raise SigningInputError(problem, field="key")
    private = PrivateKey(key)
    public = private.public_key.format(compressed=False)
    made: list[bytes] = []
    for signed in personal:
        signature = private.sign_recoverable(signed, hasher=None)
        if _recovered(signature, signed) != public:
            del key, private  # so that no traceback keeps them
            raise SignatureFaultError(
                "does not recover to the key that made it",
                field="signature",
                fix="suspect this machine's memory or processor; nothing was sent",
            )
        made.append(signature[:64] + bytes((27 + PERSONAL_V_OFFSET + signature[64],)))
    return _address_of_point(public), made


def recover(digest: bytes, signature: bytes) -> str:
    """The lower-case address that made ``sign_digest``'s signature.

    Raises:
        SigningInputError: not 65 bytes, v other than 27 and 28, r or s out of range, s in the upper half (OpenZeppelin
            refuses those, too), or no such point.
    """
    values.fixed_bytes(digest, 32, "digest")
    values.fixed_bytes(signature, 65, "signature")
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if v not in (27, 28):
        raise SigningInputError(f"v is {v}, not 27 or 28", field="signature")
    if not 0 < r < ORDER or not 0 < s <= ORDER // 2:
        raise SigningInputError("r or s is out of range", field="signature")
    try:
        public = PublicKey.from_signature_and_message(signature[:64] + bytes((v - 27,)), digest, hasher=None)
    except ValueError:
        raise SigningInputError("recovers to no key", field="signature") from None
    return _address(public)


def recover_psig(digest: bytes, signature: bytes) -> str:
    """The lower-case address that made ``psig``'s signature over ``digest``.

    Raises:
        SigningInputError: as ``recover``, with v 31 or 32.
    """
    values.fixed_bytes(signature, 65, "signature")
    v = signature[64]
    if v not in (27 + PERSONAL_V_OFFSET, 28 + PERSONAL_V_OFFSET):
        raise SigningInputError(f"v is {v}, not 31 or 32", field="signature")
    return recover(personal_digest(digest), signature[:64] + bytes((v - PERSONAL_V_OFFSET,)))


def _key_problem(key: object) -> str:
    """Why ``key`` is no private key, without its content; empty when it is one."""
    if type(key) is not bytes:
        return f"must be bytes, not {values.kind_of(key)}"
    if len(key) != 32:
        return f"must have 32 bytes, not {len(key)}"
    if not 0 < int.from_bytes(key, "big") < ORDER:
        return "is no secp256k1 private key (zero, or not below the curve's order)"
    return ""


def _recovered(signature: bytes, digest: bytes) -> bytes:
    """The uncompressed public key of ``r ‖ s ‖ parity``; empty when it recovers to none."""
    try:
        return PublicKey.from_signature_and_message(signature, digest, hasher=None).format(compressed=False)
    except ValueError:
        return b""


def _address(public: PublicKey) -> str:
    return _address_of_point(public.format(compressed=False))


def _address_of_point(point: bytes) -> str:
    return f"0x{keccak(point[1:])[12:].hex()}"
