"""Production addresses that signatures name, lower-case (SDK 1.15.0; protocol: sessions.md 1)."""

from __future__ import annotations

ZERO_ADDRESS = "0x0000000000000000000000000000000000000000"

SMART_SESSION_EMISSARY = "0xad568b3f825a8d5ffc06dd3253526b64d810ae89"
"""ERC-7579 validator that stores sessions and checks what their keys sign."""

INTENT_EXECUTOR = "0x00000000005ad9ce1f5035fd62ca96cef16adaaf"
"""ERC-7579 executor; verifying contract of ``SingleChainOps``."""

OWNABLE_VALIDATOR = "0x000000000013fdb5234e4e3162a810f54d9f7e98"
"""Validator of ECDSA owners, of accounts and of sessions alike."""

STARTALE_K1_VALIDATOR = "0x00000072f286204bb934ed49d8969e86f7dec7b1"
"""Startale's own owner validator. It wants ERC-7739 signatures, which are not built here."""

PERMIT2_CLAIM_POLICY = "0x62e3588c6d861c9f986e82ec3757434edf16ce91"
"""The only claim policy that SDK 1.15.0 knows."""

PERMIT2 = "0x000000000022d473030f116ddee9f6b43ac78ba3"
"""Uniswap Permit2; verifying contract of ``PermitBatchWitnessTransferFrom``."""

FALLBACK_TARGET = "0x0000000000000000000000000000000000000001"
"""Action target that stands for "any call without an action of its own"."""

FALLBACK_SELECTOR = bytes.fromhex("00000001")
"""Action selector that goes with ``FALLBACK_TARGET``."""
