"""The ``Orchestrator`` port: what the pipeline asks of a Rhinestone orchestrator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from worker.orchestrator.catalog import Portfolio, Splits, SupportedChains

ApiVersion = Literal["2026-01.alps", "2026-04.blanc"]
"""The wire versions; both are served by one host."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A route to sign.

    Attributes:
        quote_id: the id under which a submit of this quote can be looked up (alps: the intentOp's nonce; blanc: the intentId).
        expires_s: unix seconds; the signed payload cannot be executed after it.
        raw: text of the ``intentOp`` (blanc: of the route) exactly as received; alps wants it back unchanged, number
            formatting included.
        intent_op: the same, parsed with exact integers, to be checked and signed.
        cost: the ``intentCost`` object (blanc: the route's ``cost``).
        version: the wire version that it came in, in which it must be submitted.
    """

    quote_id: str
    expires_s: int
    raw: str = field(repr=False)
    intent_op: Mapping[str, Any] = field(repr=False)
    cost: Mapping[str, Any] = field(repr=False)
    version: ApiVersion = field(default="2026-01.alps", repr=False)


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """``intent_id`` is what to poll; ``status`` the word in the reply (PENDING, or FAILED: simulation failed)."""

    intent_id: str
    status: str


@dataclass(frozen=True, slots=True)
class IntentStatus:
    """One status reply. ``status`` is the word as received, whatever its type, as text."""

    status: str
    fill_tx_hash: str
    raw: Mapping[str, Any] = field(repr=False)


class Brake(Protocol):
    """What everybody who shares our key knows of a 429: nobody asks before its wait is over."""

    def wait_ms(self) -> int:
        """How long no request may leave, milliseconds; 0 if it may now."""
        ...

    def hold(self, wait_ms: int) -> None:
        """The orchestrator has asked for a wait of so many milliseconds."""
        ...


class Orchestrator(Protocol):
    """Every method raises ``worker/orchestrator/errors.py`` classes, which tell never sent from maybe sent."""

    @property
    def version(self) -> ApiVersion:
        """The wire version it speaks: the shape of requests and bodies."""
        ...

    def quote(self, request: Mapping[str, Any]) -> Quote:
        """POST the quote request, in this version's shape."""
        ...

    def submit(self, body: str, *, intent_digest: str = "") -> SubmitResult:
        """POST the signed body, byte for byte; the digest of its quote request if that asked for sponsorship."""
        ...

    def status(self, intent_id: str) -> IntentStatus:
        """GET the status."""
        ...

    def portfolio(
        self, account: str, *, chains: Sequence[int] = (), tokens: Sequence[tuple[int, str]] = ()
    ) -> Portfolio:
        """GET an account's balances: on every chain, or on some, or of some (chain, token address) pairs."""
        ...

    def chains(self) -> SupportedChains:
        """GET the supported chains and tokens."""
        ...

    def splits(self, chain_id: int, tokens: Mapping[str, int], *, layers: Sequence[str] = ()) -> Splits:
        """POST amounts (token address -> base units) to be split into parts that can be filled on a chain.

        Raises InsufficientLiquidityError, with what could be filled, if not all of it can.
        """
        ...

    def check(self) -> str:
        """Prove that the service answers our key; returns a short description for ``doctor``."""
        ...
