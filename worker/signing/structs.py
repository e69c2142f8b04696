"""The values that are signed, in the shape the contracts know them (protocol: SDK 1.15.0, emissary ABI).

Addresses are lower-case 0x hex strings, byte strings are ``bytes``, integers are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AccountKind = Literal["nexus", "safe", "kernel", "startale"]


@dataclass(frozen=True, slots=True)
class PolicyData:
    """A policy contract and its init data."""

    policy: str
    init_data: bytes


@dataclass(frozen=True, slots=True)
class ActionData:
    """A (selector, target) pair and the policies that guard it. ``selector`` is 4 bytes."""

    selector: bytes
    target: str
    policies: tuple[PolicyData, ...]


@dataclass(frozen=True, slots=True)
class Erc7739Context:
    """One allowed ERC-7739 content. ``app_domain_separator`` is 32 bytes."""

    app_domain_separator: bytes
    content_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionData:
    """What the emissary stores for a session (the seven-component ABI tuple of ``setConfig``).

    ``salt`` is 32 bytes.
    """

    session_validator: str
    session_validator_init_data: bytes
    salt: bytes
    actions: tuple[ActionData, ...]
    claim_policies: tuple[PolicyData, ...]
    allowed_erc7739_content: tuple[Erc7739Context, ...]
    erc1271_policies: tuple[PolicyData, ...]


@dataclass(frozen=True, slots=True)
class HashAndChainId:
    """A session's digest on one chain. ``session_digest`` is 32 bytes."""

    chain_id: int
    session_digest: bytes


@dataclass(frozen=True, slots=True)
class EnableData:
    """The user's approval, as the SDK's ``SessionEnableData``."""

    user_signature: bytes
    hashes_and_chain_ids: tuple[HashAndChainId, ...]
    session_to_enable_index: int


@dataclass(frozen=True, slots=True)
class Op:
    """One call inside a signed ``Op`` struct."""

    to: str
    value: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ops:
    """The signed ``Op(bytes32 vt,Ops[] ops)`` struct. ``vt`` is 32 bytes."""

    vt: bytes
    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class GasRefund:
    """What the executor refunds itself. All zero means no refund."""

    token: str
    exchange_rate: int
    overhead: int
