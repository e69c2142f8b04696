"""The typed data of an intent: message values, their EIP-712 types and digests (protocol: signing.md 3)."""

from __future__ import annotations

from dataclasses import dataclass

from worker.signing.contracts import INTENT_EXECUTOR, PERMIT2
from worker.signing.eip712 import (
    ADDRESS,
    BYTES,
    BYTES32,
    UINT128,
    UINT256,
    Array,
    Struct,
    domain_separator,
    typed_data_digest,
)
from worker.signing.structs import GasRefund, Ops

OPS_ITEM = Struct("Ops", ("to", ADDRESS), ("value", UINT256), ("data", BYTES))
OP = Struct("Op", ("vt", BYTES32), ("ops", Array(OPS_ITEM)))
GAS_REFUND = Struct("GasRefund", ("token", ADDRESS), ("exchangeRate", UINT256), ("overhead", UINT256))
SINGLE_CHAIN_OPS = Struct(
    "SingleChainOps", ("account", ADDRESS), ("nonce", UINT256), ("op", OP), ("gasRefund", GAS_REFUND)
)

TOKEN = Struct("Token", ("token", ADDRESS), ("amount", UINT256))
TOKEN_PERMISSIONS = Struct("TokenPermissions", ("token", ADDRESS), ("amount", UINT256))
TARGET = Struct(
    "Target",
    ("recipient", ADDRESS),
    ("tokenOut", Array(TOKEN)),
    ("targetChain", UINT256),
    ("fillExpiry", UINT256),
)
MANDATE = Struct(
    "Mandate",
    ("target", TARGET),
    ("minGas", UINT128),
    ("originOps", OP),
    ("destOps", OP),
    ("q", BYTES32),
)
PERMIT_BATCH_WITNESS = Struct(
    "PermitBatchWitnessTransferFrom",
    ("permitted", Array(TOKEN_PERMISSIONS)),
    ("spender", ADDRESS),
    ("nonce", UINT256),
    ("deadline", UINT256),
    ("mandate", MANDATE),
)


@dataclass(frozen=True, slots=True)
class TokenAmount:
    """A token and how much of it. ``amount`` is in base units."""

    token: str
    amount: int


@dataclass(frozen=True, slots=True)
class SingleChainOps:
    """What the Intent Executor executes as the account.

    Attributes:
        account: the smart account.
        nonce: the executor's nonce.
        op: the calls. The pre-claim calls are not part of this message.
        gas_refund: what the executor may refund itself.
    """

    account: str
    nonce: int
    op: Ops
    gas_refund: GasRefund

    def values(self) -> tuple[object, ...]:
        """The members in signed order, for ``SINGLE_CHAIN_OPS``."""
        refund = self.gas_refund
        return (
            self.account,
            self.nonce,
            op_values(self.op),
            (refund.token, refund.exchange_rate, refund.overhead),
        )

    def digest(self, chain_id: int) -> bytes:
        """The EIP-712 digest on the chain that executes the calls.

        Raises:
            SigningInputError: a field does not fit its type.
        """
        return typed_data_digest(
            domain_separator("IntentExecutor", "v0.0.1", chain_id, INTENT_EXECUTOR),
            SINGLE_CHAIN_OPS.encode(self.values(), "SingleChainOps"),
        )


@dataclass(frozen=True, slots=True)
class Target:
    """What the filler delivers. ``fill_expiry`` is in unix seconds."""

    recipient: str
    token_out: tuple[TokenAmount, ...]
    target_chain: int
    fill_expiry: int


@dataclass(frozen=True, slots=True)
class Mandate:
    """The witness of the Permit2 message.

    Attributes:
        target: what the filler delivers.
        min_gas: gas units for the calls at the destination, uint128.
        origin_ops: calls before the claim, on the origin chain.
        dest_ops: calls after the fill, on the target chain.
        q: keccak-256 of the qualifier, 32 bytes.
    """

    target: Target
    min_gas: int
    origin_ops: Ops
    dest_ops: Ops
    q: bytes


@dataclass(frozen=True, slots=True)
class Permit2Message:
    """``PermitBatchWitnessTransferFrom``: ``spender`` may take ``permitted`` until ``deadline`` (unix seconds)."""

    permitted: tuple[TokenAmount, ...]
    spender: str
    nonce: int
    deadline: int
    mandate: Mandate

    def values(self) -> tuple[object, ...]:
        """The members in signed order, for ``PERMIT_BATCH_WITNESS``."""
        return (
            token_values(self.permitted),
            self.spender,
            self.nonce,
            self.deadline,
            mandate_values(self.mandate),
        )

    def digest(self, chain_id: int) -> bytes:
        """The EIP-712 digest on the chain that the tokens are taken from.

        Raises:
            SigningInputError: a field does not fit its type.
        """
        return typed_data_digest(
            domain_separator("Permit2", None, chain_id, PERMIT2),
            PERMIT_BATCH_WITNESS.encode(self.values(), "PermitBatchWitnessTransferFrom"),
        )


def op_values(ops: Ops) -> tuple[object, ...]:
    """The members of ``OP``."""
    return ops.vt, tuple((call.to, call.value, call.data) for call in ops.ops)


def token_values(tokens: tuple[TokenAmount, ...]) -> tuple[tuple[str, int], ...]:
    """Items of ``Array(TOKEN)`` or ``Array(TOKEN_PERMISSIONS)``."""
    return tuple((item.token, item.amount) for item in tokens)


def mandate_values(mandate: Mandate) -> tuple[object, ...]:
    """The members of ``MANDATE``."""
    target = mandate.target
    return (
        (target.recipient, token_values(target.token_out), target.target_chain, target.fill_expiry),
        mandate.min_gas,
        op_values(mandate.origin_ops),
        op_values(mandate.dest_ops),
        mandate.q,
    )
