"""permit2-claim: a claim policy (not an action policy) on the Permit2 message of a cross-chain intent.

Its init data is signed into the session. Permit2 messages are not supported by this version; nothing here can
allow one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from worker.policies.base import CounterChange
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Address, Uint64, Uint256, parse_address
from worker.policies.policy import Call, PolicyModel, StrictModel

_MAX_ENTRIES = 255  # one count byte
_HALF = 2**128 - 1
_MAX = 2**256 - 1
_ANY_RECIPIENT = "0x" + "ff" * 20

Recipient = Annotated[
    str,
    BeforeValidator(lambda value: value if value == "any" else parse_address(value)),  # pyright: ignore[reportUnknownLambdaType]
    WithJsonSchema(
        {"type": "string", "pattern": "^(any|0[xX][0-9a-fA-F]{40})$", "description": "Address, or any"}
    ),
]


class Bounds(StrictModel):
    """Inclusive bounds, unix seconds; no minimum means 0, no maximum means none."""

    min: Uint256 | None = None
    max: Uint256 | None = None

    def packed(self) -> bytes:
        """``uint128(max) ‖ uint128(min)``, each cut to its low 128 bits as the SDK does."""
        low = self.min or 0
        high = _MAX if self.max is None else self.max
        return ((high & _HALF) << 128 | low & _HALF).to_bytes(32, "big")


class ChainToken(StrictModel):
    """A token on a chain."""

    chain_id: Uint64
    token: Address


class ChainRecipient(StrictModel):
    """A recipient on a chain; ``any`` for whoever."""

    chain_id: Uint64
    recipient: Recipient


class ChainBounds(Bounds):
    """Bounds that hold on a chain."""

    chain_id: Uint64


class Permit2Claim(PolicyModel):
    """What a Permit2 claim signed by the session key may look like. Every field that is absent is not checked."""

    address: ClassVar[str] = "0x62e3588c6d861c9f986e82ec3757434edf16ce91"
    v2_address: ClassVar[str] = "0x62e3588c6d861c9f986e82ec3757434edf16ce91"

    type: Literal["permit2-claim"] = "permit2-claim"
    arbiters: Annotated[tuple[Address, ...], Field(strict=False, max_length=_MAX_ENTRIES)] = ()
    expiry_bounds: Bounds | None = None
    tokens_in: Annotated[tuple[ChainToken, ...], Field(strict=False, max_length=_MAX_ENTRIES)] = ()
    recipients: Annotated[tuple[ChainRecipient, ...], Field(strict=False, max_length=_MAX_ENTRIES)] = ()
    fill_expiry_bounds: Annotated[tuple[ChainBounds, ...], Field(strict=False, max_length=_MAX_ENTRIES)] = ()
    tokens_out: Annotated[tuple[ChainToken, ...], Field(strict=False, max_length=_MAX_ENTRIES)] = ()
    recipient_is_sponsor: bool = False

    def init_data(self) -> bytes:
        """``uint32 modeConfig ‖ sections`` in field order (sessions.md 7)."""
        mode = 0
        sections = b""
        for field, section in (
            (0, _counted([_address(arbiter) for arbiter in self.arbiters])),
            (1, self.expiry_bounds.packed() if self.expiry_bounds is not None else b""),
            (2, _counted([_chain(entry.chain_id) + _address(entry.token) for entry in self.tokens_in])),
            (3, _counted([_chain(entry.chain_id) + _address(entry.recipient) for entry in self.recipients])),
            (4, _counted([_chain(entry.chain_id) + entry.packed() for entry in self.fill_expiry_bounds])),
            (5, _counted([_chain(entry.chain_id) + _address(entry.token) for entry in self.tokens_out])),
        ):
            if section:
                mode |= 1 << 2 * field
                sections += section
        if self.recipient_is_sponsor:
            mode |= 1 << 2 * 9
        return mode.to_bytes(4, "big") + sections

    def check(self, call: Call) -> tuple[CounterChange, ...]:
        """Denies: a claim policy judges Permit2 messages, not calls.

        Raises:
            PolicyViolationError: always.
        """
        del call
        raise PolicyViolationError("permit2-claim is not supported by this version")


def _counted(entries: Sequence[bytes]) -> bytes:
    return len(entries).to_bytes(1, "big") + b"".join(entries) if entries else b""


def _address(value: str) -> bytes:
    return bytes.fromhex((_ANY_RECIPIENT if value == "any" else value)[2:])


def _chain(chain_id: int) -> bytes:
    return chain_id.to_bytes(32, "big")
