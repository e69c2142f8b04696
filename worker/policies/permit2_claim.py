"""permit2-claim: a claim policy (not an action policy) on the Permit2 message of a cross-chain intent.

Its init data is signed into the session, but as far as the public source shows the emissary does not store it when the
lock tag is zero, and Permit2's ERC-1271 path does not ask it (policies.md 5). So ``evaluate_claim`` is the only guard:
where it is not known how the contract would decide, it denies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from worker.policies.base import Allow, CounterChange, Deny, Verdict
from worker.policies.errors import PolicyViolationError
from worker.policies.fields import Address, Uint64, Uint256, parse_address
from worker.policies.policy import Call, PolicyModel, StrictModel

_MAX_ENTRIES = 255  # one count byte
_HALF = 2**128 - 1
_MAX = 2**256 - 1
_ANY_RECIPIENT = "0x" + "ff" * 20
_ADDRESS = re.compile(r"0x[0-9a-f]{40}", re.ASCII)

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

    @property
    def stored(self) -> tuple[int, int]:
        """``(min, max)`` as the contract has them: both inclusive, cut to 128 bits by the encoding."""
        packed = int.from_bytes(self.packed())
        return packed & _HALF, packed >> 128


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


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim policy reads of one Permit2 message (``PermitBatchWitnessTransferFrom``).

    Addresses are lower-case 0x hex.

    Attributes:
        account: whose tokens are taken: the sponsor.
        chain_id: the origin chain, of the Permit2 domain.
        spender: the arbiter, ``spender`` of the message.
        deadline: unix seconds.
        tokens_in: every ``permitted[].token``, in order.
        target_chain: ``mandate.target.targetChain``.
        recipient: ``mandate.target.recipient``.
        fill_expiry: ``mandate.target.fillExpiry``, unix seconds.
        tokens_out: every ``mandate.target.tokenOut[].token``, in order.
    """

    account: str
    chain_id: int
    spender: str
    deadline: int
    tokens_in: tuple[str, ...]
    target_chain: int
    recipient: str
    fill_expiry: int
    tokens_out: tuple[str, ...]


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
        raise PolicyViolationError("permit2-claim judges Permit2 messages and allows no call")

    def check_claim(self, claim: Claim) -> None:
        """Hold one Permit2 message against every field in use (policies.md 5). Bounds are inclusive.

        Stricter than the source where that is not sure: a chain without bounds is denied like one without a recipient, and
        of several entries for one chain, of which the contract keeps one, all must hold.

        Raises:
            PolicyViolationError: denied; the message names the field.
        """
        if self.arbiters and claim.spender not in self.arbiters:
            raise PolicyViolationError(f"arbiters: {claim.spender} is not among the arbiters that may claim")
        if self.expiry_bounds is not None:
            _within("expiryBounds", "deadline", claim.deadline, self.expiry_bounds)
        if self.tokens_in:
            _listed("tokensIn", claim.chain_id, claim.tokens_in, self.tokens_in)
        target = claim.target_chain
        if self.recipients:
            recipients = [entry.recipient for entry in self.recipients if entry.chain_id == target]
            if not recipients:
                raise PolicyViolationError(f"recipients: nobody may receive on chain {target}")
            # the address of all ones is how "any" is stored, so it means the same however it was written
            for recipient in recipients:
                if recipient not in {"any", _ANY_RECIPIENT, claim.recipient}:
                    raise PolicyViolationError(
                        f"recipients: {claim.recipient} would receive on chain {target}, where only {recipient} may"
                    )
        if self.fill_expiry_bounds:
            bounds = [entry for entry in self.fill_expiry_bounds if entry.chain_id == target]
            if not bounds:
                raise PolicyViolationError(f"fillExpiryBounds: chain {target} has none")
            for entry in bounds:
                _within("fillExpiryBounds", "fill expiry", claim.fill_expiry, entry)
        if self.tokens_out:
            _listed("tokensOut", target, claim.tokens_out, self.tokens_out)
        if self.recipient_is_sponsor and claim.recipient != claim.account:
            raise PolicyViolationError(
                f"recipientIsSponsor: {claim.recipient} would receive, not the account {claim.account}"
            )


def evaluate_claim(policies: Iterable[Permit2Claim], claim: Claim) -> Verdict:
    """Judge one Permit2 message by every claim policy of its session; never raises.

    A session without claim policies allows every message here, as the contracts do: what bounds the claim then is what
    the caller holds the message against.

    Args:
        policies: the claim policies of the session of the origin chain.
        claim: the message.

    Returns:
        ``Allow`` without counter changes (a claim counts nothing), or ``Deny`` with the field in the reason.
    """
    try:
        if not _well_formed(claim):
            return Deny(-1, "permit2-claim", "the Permit2 message is malformed: a field is out of range")
        for policy in policies:
            policy.check_claim(claim)
    except PolicyViolationError as error:
        return Deny(-1, "permit2-claim", error.message)
    except Exception as error:  # noqa: BLE001 - what cannot be judged is denied
        return Deny(-1, "permit2-claim", f"the policy could not be evaluated ({type(error).__name__})")
    return Allow()


def _well_formed(claim: Claim) -> bool:
    addresses = (claim.account, claim.spender, claim.recipient, *claim.tokens_in, *claim.tokens_out)
    numbers = (claim.chain_id, claim.deadline, claim.target_chain, claim.fill_expiry)
    return all(_ADDRESS.fullmatch(address) for address in addresses) and all(
        type(number) is int and 0 <= number <= _MAX for number in numbers
    )


def _within(field: str, what: str, moment: int, bounds: Bounds) -> None:
    low, high = bounds.stored
    if moment < low:
        raise PolicyViolationError(f"{field}: the {what} {moment} is before {low}")
    if moment > high:
        raise PolicyViolationError(f"{field}: the {what} {moment} is after {high}")


def _listed(field: str, chain_id: int, tokens: Iterable[str], entries: Iterable[ChainToken]) -> None:
    known = {entry.token for entry in entries if entry.chain_id == chain_id}
    for token in tokens:
        if token not in known:
            raise PolicyViolationError(f"{field}: {token} is not among the tokens of chain {chain_id}")


def _counted(entries: Sequence[bytes]) -> bytes:
    return len(entries).to_bytes(1, "big") + b"".join(entries) if entries else b""


def _address(value: str) -> bytes:
    return bytes.fromhex((_ANY_RECIPIENT if value == "any" else value)[2:])


def _chain(chain_id: int) -> bytes:
    return chain_id.to_bytes(32, "big")
