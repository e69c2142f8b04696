"""Calls of the emissary, the contract that stores sessions, and its answers (sessions.md 8, 9 and 11)."""

from __future__ import annotations

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.sessions.errors import EmissaryReplyError
from worker.signing import values
from worker.signing.abi import (
    CONFIG_ABI,
    DISABLE_ABI,
    ENABLE_ABI,
    GET_NONCE_SIGNATURE,
    IS_PERMISSION_ENABLED_SIGNATURE,
    LOCK_TAG,
    REMOVE_CONFIG_SIGNATURE,
    SET_CONFIG_SIGNATURE,
    config_tuple,
    enable_tuple,
)
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.eip712 import MAX_UINT256
from worker.signing.session_digest import permission_id, remove_digest
from worker.signing.structs import EnableData, SessionData


def _selector(signature: str) -> bytes:
    return keccak(signature.encode())[:4]


GET_NONCE = _selector(GET_NONCE_SIGNATURE)
IS_PERMISSION_ENABLED = _selector(IS_PERMISSION_ENABLED_SIGNATURE)
SET_CONFIG = _selector(SET_CONFIG_SIGNATURE)
REMOVE_CONFIG = _selector(REMOVE_CONFIG_SIGNATURE)


def get_nonce_call(account: str) -> bytes:
    """Calldata of ``getNonce(account, zero lock tag)``: the nonce that the next approval must name.

    Args:
        account: the smart account, lower-case.

    Raises:
        SigningInputError: no lower-case address.
    """
    return GET_NONCE + encode(["address", "bytes12"], [_address(account), LOCK_TAG])


def decode_nonce(reply: bytes) -> int:
    """The answer to ``get_nonce_call``.

    Raises:
        EmissaryReplyError: not one word.
    """
    return _word(reply, "getNonce")


def is_permission_enabled_call(account: str, permission: bytes) -> bytes:
    """Calldata of ``isPermissionEnabled(account, permission id)``.

    Args:
        account: the smart account, lower-case.
        permission: the permission id, 32 bytes.

    Raises:
        SigningInputError: an argument does not fit.
    """
    identifier = values.fixed_bytes(permission, 32, "permissionId")
    return IS_PERMISSION_ENABLED + encode(["address", "bytes32"], [_address(account), identifier])


def decode_is_permission_enabled(reply: bytes) -> bool:
    """The answer to ``is_permission_enabled_call``.

    Raises:
        EmissaryReplyError: not one word that is 0 or 1.
    """
    word = _word(reply, "isPermissionEnabled")
    if word > 1:
        raise EmissaryReplyError(
            "isPermissionEnabled answered neither true nor false",
            field=SMART_SESSION_EMISSARY,
            fix="is SESSION_EXECUTOR_RPC_URL an endpoint of the right chain?",
        )
    return word == 1


def set_config_call(account: str, session: SessionData, enable: EnableData) -> bytes:
    """Calldata of ``setConfig``, which enables a session. Anyone may send it, with no value, to the emissary.

    Args:
        account: the smart account, lower-case.
        session: the session of the chain that the call is sent on.
        enable: the user's approval; its index points to that chain.

    Raises:
        SigningInputError: a field does not fit.
    """
    return SET_CONFIG + encode(
        ["address", CONFIG_ABI, ENABLE_ABI],
        [_address(account), config_tuple(permission_id(session)), enable_tuple(session, enable)],
    )


def remove_config_call(
    account: str, permission: bytes, *, chain_id: int, nonce: int, expires_s: int = MAX_UINT256
) -> bytes:
    """Calldata of ``removeConfig``, which removes a session. Only the account itself may send it so, unsigned.

    It uses up the nonce, so outstanding approvals of the account on the chain end with it.

    Args:
        account: the smart account, lower-case.
        permission: the permission id, 32 bytes.
        chain_id: the chain that the call is sent on.
        nonce: the emissary's nonce of the account on that chain.
        expires_s: unix seconds until which the call may be sent; without end by default.

    Raises:
        SigningInputError: a field does not fit.
    """
    digest = remove_digest(account, permission, nonce, expires_s)
    entry = (values.uint(chain_id, 64, "chainId"), digest)
    return REMOVE_CONFIG + encode(
        ["address", CONFIG_ABI, DISABLE_ABI],
        [_address(account), config_tuple(permission), (b"", b"", expires_s, (0, [entry]))],
    )


def config_id(account: str, permission: bytes, action: bytes) -> bytes:
    """The id under which a policy contract keeps the counters of one action (policies.md 1), 32 bytes.

    Args:
        account: the smart account, lower-case.
        permission: the permission id, 32 bytes.
        action: the action id, ``keccak(target ‖ selector)``, 32 bytes.

    Raises:
        SigningInputError: an argument does not fit.
    """
    of_permission = keccak(
        values.fixed_bytes(permission, 32, "permissionId") + values.fixed_bytes(action, 32, "actionId")
    )
    return keccak(values.address(account, "account") + of_permission)


def _address(account: str) -> str:
    values.address(account, "account")
    return account


def _word(reply: bytes, function: str) -> int:
    if len(reply) != 32:
        raise EmissaryReplyError(
            f"{function} answered {len(reply)} bytes, not 32"
            + ("; there is no contract at that address" if not reply else ""),
            field=SMART_SESSION_EMISSARY,
            fix="is SESSION_EXECUTOR_RPC_URL an endpoint of the right chain?",
        )
    return int.from_bytes(reply, "big")
