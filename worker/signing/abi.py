"""The emissary's ABI: type strings, and sessions as the tuples that ``eth_abi`` encodes (protocol: sessions.md 9)."""

from __future__ import annotations

from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from worker.signing import values
from worker.signing.contracts import ZERO_ADDRESS
from worker.signing.eip712 import MAX_UINT256
from worker.signing.errors import SigningInputError
from worker.signing.structs import (
    ActionData,
    EnableData,
    Erc7739Context,
    HashAndChainId,
    PolicyData,
    SessionData,
)

POLICY_ABI = "(address,bytes)"
ACTION_ABI = f"(bytes4,address,{POLICY_ABI}[])"
ERC7739_ABI = f"((bytes32,string[])[],{POLICY_ABI}[])"
SESSION_ABI = f"(address,bytes,bytes32,{ACTION_ABI}[],{POLICY_ABI}[],{ERC7739_ABI})"
CHAIN_DIGESTS_ABI = "(uint64,bytes32)[]"

CONFIG_ABI = "(uint8,uint8,address,bytes32)"
"""scope, reset period, allocator, permission id."""

ENABLE_ABI = f"(bytes,bytes,uint256,(uint8,{CHAIN_DIGESTS_ABI},{SESSION_ABI}))"
"""allocator signature, user signature, expires, (index, chain digests, session)."""

DISABLE_ABI = f"(bytes,bytes,uint256,(uint8,{CHAIN_DIGESTS_ABI}))"
"""allocator signature, user signature, expires, (index, chain digests)."""

SET_CONFIG_SIGNATURE = f"setConfig(address,{CONFIG_ABI},{ENABLE_ABI})"
REMOVE_CONFIG_SIGNATURE = f"removeConfig(address,{CONFIG_ABI},{DISABLE_ABI})"
GET_NONCE_SIGNATURE = "getNonce(address,bytes12)"
IS_PERMISSION_ENABLED_SIGNATURE = "isPermissionEnabled(address,bytes32)"

SCOPE = 0
RESET_PERIOD = 6
ALLOCATOR_SIGNATURE = bytes(32)
LOCK_TAG = bytes(12)
"""Zero, because the allocator is the zero address."""


def config_tuple(permission_id: bytes) -> tuple[Any, ...]:
    """``config`` of ``setConfig`` and ``removeConfig``.

    Raises:
        SigningInputError: the permission id is not 32 bytes.
    """
    return SCOPE, RESET_PERIOD, ZERO_ADDRESS, values.fixed_bytes(permission_id, 32, "permissionId")


def session_tuple(session: SessionData) -> tuple[Any, ...]:
    """The session as the seven-component ABI tuple (claim policies fifth, ERC-7739 policies nested last).

    Raises:
        SigningInputError: a field is not what the ABI can hold; ``field`` is its path.
    """
    values.address(session.session_validator, "sessionValidator")
    return (
        session.session_validator,
        values.any_bytes(session.session_validator_init_data, "sessionValidatorInitData"),
        values.fixed_bytes(session.salt, 32, "salt"),
        [_action(action, f"actions[{index}]") for index, action in enumerate(session.actions)],
        _policies(session.claim_policies, "claimPolicies"),
        (
            [
                _context(context, f"erc7739Policies.allowedERC7739Content[{index}]")
                for index, context in enumerate(session.allowed_erc7739_content)
            ],
            _policies(session.erc1271_policies, "erc7739Policies.erc1271Policies"),
        ),
    )


def chain_digest_tuples(digests: tuple[HashAndChainId, ...]) -> list[tuple[int, bytes]]:
    """``hashesAndChainIds`` as ABI tuples.

    Raises:
        SigningInputError: a chain id is no uint64, or a digest not 32 bytes.
    """
    return [
        (
            values.uint(item.chain_id, 64, f"hashesAndChainIds[{index}].chainId"),
            values.fixed_bytes(item.session_digest, 32, f"hashesAndChainIds[{index}].sessionDigest"),
        )
        for index, item in enumerate(digests)
    ]


def enable_tuple(session: SessionData, enable: EnableData) -> tuple[Any, ...]:
    """``enableData`` of ``setConfig`` and of the ENABLE-mode signature: the user approves without end.

    Raises:
        SigningInputError: a field does not fit, or ``sessionToEnableIndex`` points outside ``hashesAndChainIds``.
    """
    index = values.uint(enable.session_to_enable_index, 8, "sessionToEnableIndex")
    digests = chain_digest_tuples(enable.hashes_and_chain_ids)
    if index >= len(digests):
        raise SigningInputError(
            f"is {index}, but hashesAndChainIds has {len(digests)} entries", field="sessionToEnableIndex"
        )
    return (
        ALLOCATOR_SIGNATURE,
        values.any_bytes(enable.user_signature, "userSignature"),
        MAX_UINT256,
        (index, digests, session_tuple(session)),
    )


def session_from_tuple(value: tuple[Any, ...]) -> SessionData:
    """The inverse of ``session_tuple``, for a tuple that ``eth_abi`` decoded with ``SESSION_ABI``."""
    validator, init_data, salt, actions, claim_policies, (contents, erc1271_policies) = value
    return SessionData(
        session_validator=str(validator).lower(),
        session_validator_init_data=init_data,
        salt=salt,
        actions=tuple(
            ActionData(selector, str(target).lower(), _policy_data(policies))
            for selector, target, policies in actions
        ),
        claim_policies=_policy_data(claim_policies),
        allowed_erc7739_content=tuple(
            Erc7739Context(separator, tuple(names)) for separator, names in contents
        ),
        erc1271_policies=_policy_data(erc1271_policies),
    )


def decode_abi(types: list[str], data: bytes, field: str) -> tuple[Any, ...]:
    """``eth_abi``'s strict decoding with our error.

    Raises:
        SigningInputError: the data does not decode.
    """
    try:
        return tuple(decode(types, data))
    # A crafted length overflows an index before eth_abi notices; a string may hold bytes that are no UTF-8.
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise SigningInputError(
            f"does not decode as the ABI says ({type(error).__name__})", field=field
        ) from None


def _action(action: ActionData, field: str) -> tuple[Any, ...]:
    values.address(action.target, f"{field}.actionTarget")
    return (
        values.fixed_bytes(action.selector, 4, f"{field}.actionTargetSelector"),
        action.target,
        _policies(action.policies, f"{field}.actionPolicies"),
    )


def _policies(policies: tuple[PolicyData, ...], field: str) -> list[tuple[str, bytes]]:
    result: list[tuple[str, bytes]] = []
    for index, policy in enumerate(policies):
        values.address(policy.policy, f"{field}[{index}].policy")
        result.append((policy.policy, values.any_bytes(policy.init_data, f"{field}[{index}].initData")))
    return result


def _context(context: Erc7739Context, field: str) -> tuple[bytes, list[str]]:
    return (
        values.fixed_bytes(context.app_domain_separator, 32, f"{field}.appDomainSeparator"),
        [
            values.text(name, f"{field}.contentNames[{index}]")
            for index, name in enumerate(context.content_names)
        ],
    )


def _policy_data(policies: Any) -> tuple[PolicyData, ...]:
    return tuple(PolicyData(str(policy).lower(), init_data) for policy, init_data in policies)
