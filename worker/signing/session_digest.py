"""What the owner signs to approve a session, and the id that the emissary knows it by (protocol: sessions.md 4, 8).

Type hashes and field order are those of ``rhinestonewtf/smart-sessions-v2``.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_abi.abi import encode

from worker.signing import values
from worker.signing.abi import LOCK_TAG
from worker.signing.contracts import FALLBACK_SELECTOR, FALLBACK_TARGET, SMART_SESSION_EMISSARY
from worker.signing.eip712 import (
    ADDRESS,
    BOOL,
    BYTES,
    BYTES4,
    BYTES12,
    BYTES32,
    MAX_UINT256,
    STRING,
    UINT64,
    UINT256,
    Array,
    Struct,
    domain_separator,
    typed_data_digest,
)
from worker.signing.errors import SigningInputError
from worker.signing.keccak import keccak
from worker.signing.structs import HashAndChainId, PolicyData, SessionData

POLICY_DATA = Struct("PolicyData", ("policy", ADDRESS), ("initData", BYTES))
ACTION_DATA = Struct(
    "ActionData",
    ("actionTargetSelector", BYTES4),
    ("actionTarget", ADDRESS),
    ("actionPolicies", Array(POLICY_DATA)),
)
# The signed type says contentName where the ABI says contentNames.
ERC7739_CONTEXT = Struct("ERC7739Context", ("appDomainSeparator", BYTES32), ("contentName", Array(STRING)))
ERC7739_DATA = Struct(
    "ERC7739Data",
    ("allowedERC7739Content", Array(ERC7739_CONTEXT)),
    ("erc1271Policies", Array(POLICY_DATA)),
)
LOCK_TAG_DATA = Struct("LockTagData", ("lockTag", BYTES12), ("claimPolicies", Array(POLICY_DATA)))
SIGNED_PERMISSIONS = Struct(
    "SignedPermissions",
    ("actions", Array(ACTION_DATA)),
    ("erc7739Policies", ERC7739_DATA),
    ("lockTagPolicies", LOCK_TAG_DATA),
    ("permitGenericPolicy", BOOL),
)
SIGNED_SESSION = Struct(
    "SignedSession",
    ("account", ADDRESS),
    ("expires", UINT256),
    ("nonce", UINT256),
    ("permissions", SIGNED_PERMISSIONS),
    ("salt", BYTES32),
    ("sessionValidator", ADDRESS),
    ("sessionValidatorInitData", BYTES),
    ("smartSessionEmissary", ADDRESS),
)
CHAIN_SESSION = Struct("ChainSession", ("chainId", UINT64), ("session", SIGNED_SESSION))
MULTI_CHAIN_SESSION = Struct("MultiChainSession", ("sessionsAndChainIds", Array(CHAIN_SESSION)))

_REMOVE_TYPE_HASH = bytes.fromhex("098b3120e60a8adc9d970dec9c1f8796974a3ab6154f995ad56ee7b9a38d8836")


def permission_id(session: SessionData) -> bytes:
    """``keccak(enc(address,bytes,bytes32)(sessionValidator, sessionValidatorInitData, salt))``, 32 bytes.

    It does not cover the actions: every unrestricted session (salt zero) of the same keys has the same id.

    Raises:
        SigningInputError: one of the three fields does not fit.
    """
    values.address(session.session_validator, "sessionValidator")
    return keccak(
        encode(
            ["address", "bytes", "bytes32"],
            [
                session.session_validator,
                values.any_bytes(session.session_validator_init_data, "sessionValidatorInitData"),
                values.fixed_bytes(session.salt, 32, "salt"),
            ],
        )
    )


def permits_generic_policy(session: SessionData) -> bool:
    """Whether an action is exactly the fallback (``permitGenericPolicy`` of the signed permissions)."""
    return any(
        action.target == FALLBACK_TARGET and action.selector == FALLBACK_SELECTOR
        for action in session.actions
    )


def session_digest(
    account: str, session: SessionData, nonce: int, *, emissary: str = SMART_SESSION_EMISSARY
) -> bytes:
    """Struct hash of ``SignedSession`` for one chain, without a domain, 32 bytes.

    Args:
        account: the smart account, lower-case.
        session: the session on that chain.
        nonce: the emissary's ``getNonce(account, zero lock tag)`` on that chain. Any enable or removal there
            uses it up, and with it every approval that names it.
        emissary: the contract that stores the session, lower-case; another one with ``useDevContracts``.

    Raises:
        SigningInputError: a field does not fit its type.
    """
    return SIGNED_SESSION.encode(
        (
            account,
            MAX_UINT256,
            nonce,
            (
                tuple(
                    (action.selector, action.target, _policies(action.policies)) for action in session.actions
                ),
                (
                    tuple(
                        (context.app_domain_separator, context.content_names)
                        for context in session.allowed_erc7739_content
                    ),
                    _policies(session.erc1271_policies),
                ),
                (LOCK_TAG, _policies(session.claim_policies)),
                permits_generic_policy(session),
            ),
            session.salt,
            session.session_validator,
            session.session_validator_init_data,
            emissary,
        ),
        "session",
    )


def multi_chain_digest(hashes_and_chain_ids: Sequence[HashAndChainId]) -> bytes:
    """The EIP-712 digest that the account's owner signs for all chains at once, 32 bytes.

    It needs only the chain ids and session digests, in the order of ``hashesAndChainIds``.

    Raises:
        SigningInputError: no entry, a chain id that is no uint64, or a digest that is not 32 bytes.
    """
    if not hashes_and_chain_ids:
        raise SigningInputError("must have at least one entry", field="hashesAndChainIds")
    chain_sessions = [
        keccak(
            CHAIN_SESSION.type_hash
            + UINT64.encode(item.chain_id, f"hashesAndChainIds[{index}].chainId")
            + values.fixed_bytes(item.session_digest, 32, f"hashesAndChainIds[{index}].sessionDigest")
        )
        for index, item in enumerate(hashes_and_chain_ids)
    ]
    struct_hash = keccak(MULTI_CHAIN_SESSION.type_hash + keccak(b"".join(chain_sessions)))
    # Only these two fields: the approval holds on several chains.
    return typed_data_digest(domain_separator("SmartSessionEmissary", "1"), struct_hash)


def remove_digest(account: str, permission: bytes, nonce: int, expires_s: int = MAX_UINT256) -> bytes:
    """The digest that ``removeConfig`` names for one chain, 32 bytes (protocol: sessions.md 11).

    Args:
        account: the smart account, lower-case.
        permission: the permission id, 32 bytes.
        nonce: the emissary's nonce of the account on that chain.
        expires_s: unix seconds until which the removal may be sent; without end by default.

    Raises:
        SigningInputError: a field does not fit its type.
    """
    return keccak(
        _REMOVE_TYPE_HASH
        + ADDRESS.encode(account, "account")
        + BYTES32.encode(permission, "permissionId")
        + BYTES12.encode(LOCK_TAG, "lockTag")
        + UINT256.encode(expires_s, "expires")
        + UINT256.encode(nonce, "nonce")
    )


def _policies(policies: tuple[PolicyData, ...]) -> tuple[tuple[str, bytes], ...]:
    return tuple((policy.policy, policy.init_data) for policy in policies)
