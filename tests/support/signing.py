"""Values for the signing tests: labelled keys, sessions of the recorded vectors, and a session of our own."""

from __future__ import annotations

from typing import Any

from eth_hash.auto import keccak

from worker.signing.contracts import FALLBACK_SELECTOR, FALLBACK_TARGET, OWNABLE_VALIDATOR
from worker.signing.structs import (
    ActionData,
    EnableData,
    Erc7739Context,
    HashAndChainId,
    PolicyData,
    SessionData,
)

ACCOUNT = "0x" + "aa" * 20
DIGEST = keccak(b"session-executor test digest")


def labelled_key(label: str) -> bytes:
    """A private key that anyone can derive again and that guards nothing."""
    return keccak(f"session-executor test key: {label}".encode())


def unhex(text: str) -> bytes:
    """Bytes of 0x hex."""
    return bytes.fromhex(text.removeprefix("0x"))


def session_of(data: dict[str, Any]) -> SessionData:
    """A vector's ``sessionData``; its addresses are mixed case."""
    return SessionData(
        session_validator=data["sessionValidator"].lower(),
        session_validator_init_data=unhex(data["sessionValidatorInitData"]),
        salt=unhex(data["salt"]),
        actions=tuple(
            ActionData(
                unhex(action["actionTargetSelector"]),
                action["actionTarget"].lower(),
                _policies(action["actionPolicies"]),
            )
            for action in data["actions"]
        ),
        claim_policies=_policies(data["claimPolicies"]),
        allowed_erc7739_content=tuple(
            Erc7739Context(unhex(item["appDomainSeparator"]), tuple(item["contentNames"]))
            for item in data["erc7739Policies"]["allowedERC7739Content"]
        ),
        erc1271_policies=_policies(data["erc7739Policies"]["erc1271Policies"]),
    )


def chain_digests_of(items: list[dict[str, Any]]) -> tuple[HashAndChainId, ...]:
    """A vector's ``hashesAndChainIds``."""
    return tuple(HashAndChainId(int(item["chainId"]), unhex(item["sessionDigest"])) for item in items)


def enable_of(data: dict[str, Any]) -> EnableData:
    """A vector's ``enableData``."""
    return EnableData(
        unhex(data["userSignature"]),
        chain_digests_of(data["hashesAndChainIds"]),
        data["sessionToEnableIndex"],
    )


def own_session() -> SessionData:
    """An unrestricted session with every kind of field in use, independent of the recorded vectors."""
    policy = PolicyData("0x" + "5e" * 20, bytes(range(70)))
    return SessionData(
        session_validator=OWNABLE_VALIDATOR,
        session_validator_init_data=bytes(31) + b"\x01",
        salt=bytes(32),
        actions=(
            ActionData(
                bytes.fromhex("a9059cbb"), "0x" + "70" * 20, (policy, PolicyData("0x" + "51" * 20, b""))
            ),
            ActionData(FALLBACK_SELECTOR, FALLBACK_TARGET, ()),
        ),
        claim_policies=(policy,),
        allowed_erc7739_content=(Erc7739Context(bytes(32), ("", "Größe")),),
        erc1271_policies=(policy,),
    )


def own_enable(user_signature: bytes = bytes(85)) -> EnableData:
    """Enable data for two chains; the session is the second."""
    return EnableData(
        user_signature,
        (HashAndChainId(8453, keccak(b"first")), HashAndChainId(84532, keccak(b"second"))),
        1,
    )


def own_intent_op(layer: str = "SAME_CHAIN", funding: str = "PERMIT2") -> dict[str, Any]:
    """An intentOp of one element with a call before the claim and one at the destination."""
    token = str(int("70" * 20, 16))
    context: dict[str, Any] = {"settlementLayer": layer, "fundingMethod": funding}
    if layer == "INTENT_EXECUTOR":
        context["gasRefund"] = {"token": "0x" + "70" * 20, "exchangeRate": "5", "overhead": "6"}
    return {
        "sponsor": ACCOUNT,
        "nonce": "7",
        "targetExecutionNonce": "8",
        "expires": "1893456000",
        "elements": [
            {
                "arbiter": "0x" + "ab" * 20,
                "chainId": "8453",
                "idsAndAmounts": [[token, "2500000"]],
                "mandate": {
                    "recipient": "0x" + "11" * 20,
                    "tokenOut": [[token, "2400000"]],
                    "destinationChainId": "8453",
                    "fillDeadline": "1893455000",
                    "destinationOps": {
                        "vt": "0x02" + "00" * 31,
                        "ops": [{"to": "0x" + "70" * 20, "value": "1", "data": "0xdeadbeef"}],
                    },
                    "preClaimOps": {
                        "vt": "0x02" + "00" * 31,
                        "ops": [{"to": "0x" + "00" * 18 + "0420", "value": "0", "data": "0x69123456"}],
                    },
                    "minGas": "100000",
                    "qualifier": {"settlementContext": context, "encodedVal": "0x1234"},
                },
            }
        ],
    }


def _policies(items: list[dict[str, Any]]) -> tuple[PolicyData, ...]:
    return tuple(PolicyData(item["policy"].lower(), unhex(item["initData"])) for item in items)
