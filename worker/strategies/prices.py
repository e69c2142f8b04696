"""Prices read from the chain: exact fractions, with the age that they may have.

A feed (Chainlink's ``latestRoundData``) says when it was updated; a Uniswap V3 pool's price is that of the latest block
and can be moved within one, so a feed is the better source wherever there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from worker.chain.errors import CallRevertedError
from worker.intents.amount import TokenInfo
from worker.strategies.errors import PriceError, StrategyError
from worker.strategies.fields import Fields, as_address, as_duration
from worker.strategies.port import Reads

_LATEST_ROUND_DATA = bytes.fromhex("feaf968c")
_DECIMALS = bytes.fromhex("313ce567")
_SLOT0 = bytes.fromhex("3850c7bd")
_TOKEN0 = bytes.fromhex("0dfe1681")
_TOKEN1 = bytes.fromhex("d21220a7")
#: A chain's clock may run a little ahead of the feed's.
_FUTURE_S = 60
DEFAULT_MAX_AGE_S = 3_600
"""Most feeds have a heartbeat of an hour; one with a longer heartbeat needs a ``max_age`` of its own."""


@dataclass(frozen=True, slots=True)
class PriceSource:
    """How much of ``quote`` one ``base`` costs.

    Attributes:
        base: the token that is priced.
        quote: the token it is priced in; a feed in USD stands for a dollar token.
        address: of the feed or pool.
        kind: ``feed`` or ``pool``.
        max_age_s: the oldest update of a feed that counts.
    """

    base: TokenInfo
    quote: TokenInfo
    address: str
    kind: str
    max_age_s: int

    def read(self, reads: Reads) -> Fraction:
        """The price now: whole ``quote`` tokens for one whole ``base`` token, above zero.

        Raises:
            PriceError: it is stale, zero or no answer of such a contract.
            ChainError: the node does not answer.
        """
        now_s = reads.latest_block_time()
        return self._feed(reads, now_s) if self.kind == "feed" else self._pool(reads)

    def value(self, amount: int, price: Fraction, *, of: TokenInfo) -> int:
        """What ``amount`` base units of one of the two tokens are worth in the other, rounded down.

        Args:
            amount: base units of ``of``.
            price: as ``read`` gave it.
            of: ``base`` or ``quote``.
        """
        if of == self.base:
            worth = Fraction(amount, 10**self.base.decimals) * price * 10**self.quote.decimals
        else:
            worth = Fraction(amount, 10**self.quote.decimals) / price * 10**self.base.decimals
        return worth.numerator // worth.denominator

    def _feed(self, reads: Reads, now_s: int) -> Fraction:
        answer = self._words(reads, _LATEST_ROUND_DATA, 5)
        decimals = self._words(reads, _DECIMALS, 1)[0]
        price, updated_s = answer[1], answer[3]
        if price >= 2**255 or price == 0 or decimals > 36:
            raise PriceError("says no positive price", field=self._where, fix="check the feed's address")
        if updated_s > now_s + _FUTURE_S or now_s - updated_s > self.max_age_s:
            raise PriceError(
                f"is {now_s - updated_s} s old, {self.max_age_s} s are allowed",
                field=self._where,
                fix="wait for its next update, or set max_age to the feed's heartbeat",
            )
        return Fraction(price, 10**decimals)

    def _pool(self, reads: Reads) -> Fraction:
        root = self._words(reads, _SLOT0, 1)[0]
        pair = [f"0x{self._words(reads, call, 1)[0]:040x}" for call in (_TOKEN0, _TOKEN1)]
        if root == 0 or sorted(pair) != sorted((self.base.address, self.quote.address)):
            raise PriceError(
                f"is no pool of {self.base.symbol} and {self.quote.symbol} with a price",
                field=self._where,
                fix="check the pool's address",
            )
        # token1 per token0 in base units
        ratio = Fraction(root * root, 2**192)
        if pair[0] != self.base.address:
            ratio = 1 / ratio
        return ratio * Fraction(10**self.base.decimals, 10**self.quote.decimals)

    @property
    def _where(self) -> str:
        return f"{self.kind} {self.address}"

    def _words(self, reads: Reads, data: bytes, count: int) -> list[int]:
        try:
            reply = reads.call(self.address, data)
        except CallRevertedError:
            reply = b""
        if len(reply) < 32 * count:
            raise PriceError(
                "does not answer as one does", field=self._where, fix="check the address and the chain"
            )
        return [int.from_bytes(reply[32 * index : 32 * index + 32]) for index in range(count)]


def read_price_source(fields: Fields, *, base: str = "base", quote: str = "quote") -> PriceSource:
    """``feed`` or ``pool``, ``base``, ``quote`` and ``max_age`` of a table. Raises StrategyError."""
    kinds = [kind for kind in ("feed", "pool") if fields.has(kind)]
    if len(kinds) != 1:
        raise StrategyError(
            "needs either a feed or a pool",
            field=fields.at,
            fix='write feed = "0x…" (latestRoundData), or pool',
        )
    source = PriceSource(
        fields.token(base),
        fields.token(quote),
        fields.read(kinds[0], as_address),
        kinds[0],
        fields.maybe("max_age", as_duration, DEFAULT_MAX_AGE_S),
    )
    if source.base == source.quote:
        raise StrategyError(
            "are the same token", field=f"{fields.at}.{quote}", fix="name the two of the pair"
        )
    return source
