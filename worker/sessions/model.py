"""The Session model of SDK 1.15: one key set, one chain, its actions and their policies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, field_validator, model_validator

from worker.policies import Permit2Claim, Policy
from worker.policies.fields import MAX_SAFE_INTEGER, Address, Selector, Uint256, parse_bytes, parse_uint
from worker.policies.policy import StrictModel


def _chain_id(value: Any) -> int:
    chain_id = parse_uint(value, 64)
    if chain_id == 0:
        raise ValueError("must be the id of a chain, such as 8453")
    return chain_id


def _uint8(value: Any) -> int:
    return parse_uint(value, 8)


def _bytes32(value: Any) -> bytes:
    digest = parse_bytes(value)
    if len(digest) != 32:
        raise ValueError(f"must be 32 bytes, not {len(digest)}")
    return digest


ChainId = Annotated[
    int,
    BeforeValidator(_chain_id),
    WithJsonSchema(
        {
            "description": "Chain id",
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_SAFE_INTEGER},
                {"type": "string", "pattern": "^[1-9][0-9]{0,19}$"},
            ],
        }
    ),
]

Uint8 = Annotated[
    int,
    BeforeValidator(_uint8),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 255},
                {"type": "string", "pattern": "^(0|[1-9][0-9]{0,2})$"},
            ]
        }
    ),
]

Bytes32 = Annotated[
    bytes,
    BeforeValidator(_bytes32),
    PlainSerializer(lambda value: "0x" + value.hex(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^0x[0-9a-fA-F]{64}$", "description": "32 bytes"}),
]


class EcdsaOwners(StrictModel):
    """Keys on secp256k1 behind the Ownable validator.

    Attributes:
        accounts: their addresses, in the configured order (signatures are concatenated in it).
        threshold: how many must sign on chain; the SDK always makes all of them sign.
        module: another validator contract, or None for the Ownable validator.
    """

    type: Annotated[str, WithJsonSchema({"const": "ecdsa"})] = "ecdsa"
    accounts: Annotated[tuple[Address, ...], Field(strict=False, min_length=1, max_length=32)]
    threshold: Uint8 = 1
    module: Address | None = None

    @field_validator("type")
    @classmethod
    def _only_ecdsa(cls, kind: str) -> str:
        if kind != "ecdsa":
            raise ValueError(
                "only 'ecdsa' owners are supported; passkeys, multi-factor, quorum and ENS owners are not"
            )
        return kind

    @field_validator("accounts")
    @classmethod
    def _no_repeats(cls, accounts: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(accounts)) != len(accounts):
            raise ValueError("names an owner twice")
        return accounts

    @model_validator(mode="after")
    def _reachable(self) -> EcdsaOwners:
        if not 1 <= self.threshold <= len(self.accounts):
            raise ValueError(f"threshold {self.threshold} cannot be met by {len(self.accounts)} owners")
        return self


def _owners(value: Any) -> Any:
    """A bare list of addresses is one ECDSA owner set with threshold 1."""
    if isinstance(value, list | tuple):
        return {"accounts": value}
    if isinstance(value, dict):
        kind: Any = value.get("type", "ecdsa")  # pyright: ignore[reportUnknownMemberType]
        if kind != "ecdsa":  # before the other fields, which are another kind's and would confuse the message
            return {"type": kind if isinstance(kind, str) else "", "accounts": ["0x" + "00" * 20]}
    return value  # pyright: ignore[reportUnknownVariableType]


Owners = Annotated[
    EcdsaOwners,
    BeforeValidator(
        _owners,
        json_schema_input_type=Annotated[tuple[Address, ...], Field(min_length=1)] | EcdsaOwners,
    ),
]
"""An ECDSA owner set, or just the list of its addresses."""


class Action(StrictModel):
    """A (target, selector) pair, or with neither the fallback, and the policies that guard it.

    ``policies`` None means ``[sudo]``; an empty list stays empty, which leaves the call to the fallback.
    """

    target: Address | None = None
    selector: Selector | None = None
    policies: Annotated[tuple[Policy, ...], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> Action:
        if (self.target is None) != (self.selector is None):
            raise ValueError(
                "target and selector must be given together (or neither, for the fallback action)"
            )
        return self


class SellSide(StrictModel):
    """What a swap scope sells: the token, and base units of it that may leave the account in all (None: no limit)."""

    token: Address
    max_total: Uint256 | None = None


class BuySide(StrictModel):
    """What a swap scope buys."""

    token: Address


class RhinestoneVenue(StrictModel):
    """Rhinestone's Swapper, whichever aggregator fills. ``max_spend`` base units of the sell token, all calls together."""

    id: Literal["rhinestone"]
    max_spend: Uint256 | None = None


class ZeroExVenue(StrictModel):
    """0x, direct and behind the Swapper.

    Attributes:
        settler: the 0x contract that the calls are pinned to.
        any_settler: leave it open, which needs a cap.
        max_spend: base units of the sell token, all calls together; by default the scope's ``max_total``.
    """

    id: Literal["0x"]
    settler: Address | None = None
    any_settler: bool = False
    max_spend: Uint256 | None = None


class FyndVenue(StrictModel):
    """fynd's router, direct and behind the Swapper. ``max_spend`` as for 0x."""

    id: Literal["fynd"]
    max_spend: Uint256 | None = None


Venue = Annotated[RhinestoneVenue | ZeroExVenue | FyndVenue, Field(discriminator="id")]
"""Where a swap may be made, told apart by ``id``."""


class SwapScope(StrictModel):
    """Swaps of one token into another. It expands to actions and confines the keys to them (``worker.sessions.swap``).

    Attributes:
        to: who gets what is bought.
        via: the venues; None stands for rhinestone without a cap of its own.
    """

    sell: SellSide
    buy: BuySide
    to: Address
    via: Annotated[tuple[Venue, ...], Field(strict=False)] | None = None


class Session(StrictModel):
    """A session of SDK 1.15. ``chain`` is the chain id."""

    chain: ChainId
    owners: Owners
    actions: Annotated[tuple[Action, ...], Field(strict=False)] = ()
    claim_policies: Annotated[tuple[Permit2Claim, ...], Field(strict=False, max_length=1)] = ()
    restrict_to_actions: bool = False
    swap: SwapScope | None = None
