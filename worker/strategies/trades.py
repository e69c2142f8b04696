"""Strategies that swap: DCA, TWAP, limit and stop orders, and rebalancing to weights."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from worker.intents.amount import Amount, TokenInfo
from worker.intents.model import Swap
from worker.policies.base import Execution
from worker.strategies.errors import StrategyError
from worker.strategies.fields import NATIVE_TOKEN, Fields, as_percent
from worker.strategies.port import Act, Decision, Moment, Wait
from worker.strategies.prices import PriceSource, read_price_source
from worker.strategies.swap import Router, read_router


def balance_of(moment: Moment, token: TokenInfo) -> int:
    """What the account holds, base units. Raises ChainError."""
    if token.address == NATIVE_TOKEN:
        return moment.reads.native_balance(moment.account)
    return moment.reads.erc20_balance(token.address, moment.account)


@dataclass(frozen=True)
class SwapParts:
    """Sell a part of a token at each slot until a total is sold; no total: for ever.

    Attributes:
        part: what is sold at one slot. The last one may be smaller.
        total: what is sold in all; None: no end.
        parts: in how many parts the total goes (TWAP); None: as many as it takes (DCA, an order).
        source: the price.
        router: where it is swapped.
    """

    part: Amount
    total: Amount | None
    parts: int | None
    source: PriceSource
    router: Router

    def decide(self, moment: Moment) -> Decision:
        """See ``Strategy``."""
        sell = self.part.token
        amount = self._amount(moment.number)
        if amount == 0:
            assert self.total is not None
            return Wait(f"the total of {self.total} is sold", finished=True)
        price = self.source.read(moment.reads)
        calls, swap, words = self.router.swap(moment, self.source, price, sell=sell, amount_in=amount)
        return Act(calls, words, swaps=(swap,))

    def describe(self) -> str:
        """See ``Strategy``."""
        other = self.source.quote if self.part.token == self.source.base else self.source.base
        end = "" if self.total is None else f", {self.total} in all"
        return f"swap {self.part} for {other.symbol}{end}"

    def _amount(self, number: int) -> int:
        """Base units of the execution ``number`` (from 1). The parts add up to the total exactly."""
        if self.total is None:
            return self.part.value
        if self.parts is not None:
            if number > self.parts:
                return 0
            # what is left over goes to the first ones, one base unit each
            small, left = divmod(self.total.value, self.parts)
            return small + (1 if number <= left else 0)
        return max(0, min(self.part.value, self.total.value - self.part.value * (number - 1)))


def dca(fields: Fields) -> SwapParts:
    """``kind = "dca"``: ``sell`` so much at each slot, up to ``total``."""
    source, router = _market(fields)
    part = _sold(fields, "sell", source)
    total = fields.amount("total") if fields.has("total") else None
    if total is not None and (total.token != part.token or total.value < part.value):
        raise StrategyError(
            f"is no amount of {part.token.symbol} above sell",
            field=fields.place("total"),
            fix="write a larger one",
        )
    return SwapParts(part, total, None, source, router)


def twap(fields: Fields) -> SwapParts:
    """``kind = "twap"``: ``total`` in ``parts`` equal parts, one at each slot."""
    source, router = _market(fields)
    total = _sold(fields, "total", source)
    parts = fields.whole("parts", 2, 10_000)
    if total.value < parts:
        raise StrategyError(
            "is less than one base unit a part", field=fields.place("total"), fix="use fewer parts"
        )
    return SwapParts(Amount(-(-total.value // parts), total.token), total, parts, source, router)


def order(fields: Fields) -> SwapParts:
    """``kind = "limit-order"`` or ``"stop-order"``: ``sell`` once ``only_if`` holds."""
    source, router = _market(fields)
    return SwapParts(_sold(fields, "sell", source), None, None, source, router)


@dataclass(frozen=True)
class Holding:
    """One token of a portfolio, its weight, and its price in the quote token."""

    source: PriceSource
    weight: Fraction


@dataclass(frozen=True)
class Rebalance:
    """Trade tokens against one quote token until each has its weight of the whole.

    Attributes:
        quote: what everything is priced and traded in; its weight is what the others leave.
        holdings: the other tokens.
        threshold: no trade while every token is within this share of the whole from its weight.
        router: where it is swapped.
    """

    quote: TokenInfo
    holdings: tuple[Holding, ...]
    threshold: Fraction
    router: Router

    def decide(self, moment: Moment) -> Decision:
        """See ``Strategy``. Sales first; what they bring at least, and what is there, pays for the purchases."""
        prices = [holding.source.read(moment.reads) for holding in self.holdings]
        held = [balance_of(moment, holding.source.base) for holding in self.holdings]
        worth = [
            holding.source.value(amount, price, of=holding.source.base)
            for holding, price, amount in zip(self.holdings, prices, held, strict=True)
        ]
        cash = balance_of(moment, self.quote)
        whole = cash + sum(worth)
        if whole == 0:
            return Wait("the account holds none of the tokens")
        targets = [int(whole * holding.weight) for holding in self.holdings]
        gaps = [target - now for target, now in zip(targets, worth, strict=True)]
        if max(abs(gap) for gap in gaps) <= whole * self.threshold:
            return Wait(f"every weight is within {float(self.threshold):.2%} of its target")
        calls: list[Execution] = []
        words: list[str] = []
        swaps: list[Swap] = []
        for holding, price, gap, amount in zip(self.holdings, prices, gaps, held, strict=True):
            sold = min(amount, holding.source.value(-gap, price, of=self.quote)) if gap < 0 else 0
            if sold > 0:
                made, swap, text = self.router.swap(
                    moment, holding.source, price, sell=holding.source.base, amount_in=sold
                )
                calls += made
                words.append(text)
                swaps.append(swap)
                cash += swap.least
        for holding, price, gap in zip(self.holdings, prices, gaps, strict=True):
            spent = min(gap, cash)
            if spent > 0 and holding.source.value(spent, price, of=self.quote) > 0:
                made, swap, text = self.router.swap(
                    moment, holding.source, price, sell=self.quote, amount_in=spent
                )
                calls += made
                words.append(text)
                swaps.append(swap)
                cash -= spent
        if not calls:
            return Wait("the differences are too small to trade")
        return Act(tuple(calls), "; ".join(words), swaps=tuple(swaps))

    def describe(self) -> str:
        """See ``Strategy``."""
        weights = ", ".join(f"{float(item.weight):.4g} {item.source.base.symbol}" for item in self.holdings)
        return f"rebalance to {weights}, the rest {self.quote.symbol}"


def rebalance(fields: Fields) -> Rebalance:
    """``kind = "rebalance"``: ``quote``, ``holdings`` with ``base``, ``weight`` and a price each, ``threshold``."""
    quote = fields.token("quote")
    holdings: list[Holding] = []
    for item in fields.tables("holdings"):
        weight = item.read("weight", as_percent)
        source = read_price_source(item)
        if source.quote != quote:
            raise StrategyError(
                f"is not {quote.symbol}", field=item.place("quote"), fix="price all in one token"
            )
        item.finish()
        holdings.append(Holding(source, weight))
    names = [holding.source.base for holding in holdings]
    if len(set(names)) != len(names) or sum(holding.weight for holding in holdings) > 1:
        raise StrategyError(
            "name a token twice, or weigh more than 100% together",
            field=fields.place("holdings"),
            fix="what they leave of 100% is the quote token's",
        )
    return Rebalance(
        quote,
        tuple(holdings),
        fields.maybe("threshold", as_percent, Fraction(1, 100)),
        read_router(fields.table("router")),
    )


def _market(fields: Fields) -> tuple[PriceSource, Router]:
    price = fields.table("price")
    source = read_price_source(price)
    price.finish()
    return source, read_router(fields.table("router"))


def _sold(fields: Fields, name: str, source: PriceSource) -> Amount:
    amount = fields.amount(name)
    if amount.token not in (source.base, source.quote):
        raise StrategyError(
            f"is not in {source.base.symbol} or {source.quote.symbol}",
            field=fields.place(name),
            fix="name one of the pair",
        )
    return amount
