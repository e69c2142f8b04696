"""Swapping on the session's own chain: an exact approval, then one call of the router that the configuration names.

The least that must come out is computed here from a price of our own; a router's own quote is not taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from worker.intents.amount import TokenInfo, format_amount
from worker.intents.model import Swap
from worker.policies.base import Execution
from worker.strategies.encode import Template, read_template
from worker.strategies.errors import PriceError, StrategyError
from worker.strategies.fields import NATIVE_TOKEN, Fields, as_address, as_percent
from worker.strategies.port import Moment
from worker.strategies.prices import PriceSource

_APPROVE = bytes.fromhex("095ea7b3")
_NAMES = frozenset({"sell", "buy", "amount_in", "min_out", "account", "deadline"})


@dataclass(frozen=True)
class Router:
    """A router and how it is called.

    Attributes:
        address: its address; the session must allow the call, and the approval of the sold token.
        template: its function; ``$sell $buy $amount_in $min_out $account $deadline`` are filled in.
        slippage: the share of the fair amount that may be lost.
    """

    address: str
    template: Template
    slippage: Fraction

    def swap(
        self, moment: Moment, source: PriceSource, price: Fraction, *, sell: TokenInfo, amount_in: int
    ) -> tuple[tuple[Execution, ...], Swap, str]:
        """The calls, what they swap with the least that comes out, and words.

        Raises:
            PriceError: the amount is too small for anything to come out.
        """
        buy = source.quote if sell == source.base else source.base
        fair = Fraction(source.value(amount_in, price, of=sell)) * (1 - self.slippage)
        least = fair.numerator // fair.denominator
        if least <= 0:
            raise PriceError(
                f"{format_amount(amount_in, sell)} buys no {buy.symbol}",
                field="amount",
                fix="sell more at once",
            )
        native = sell.address == NATIVE_TOKEN
        call = Execution(
            self.address,
            amount_in if native else 0,
            self.template.data(
                {
                    "sell": sell.address,
                    "buy": buy.address,
                    "amount_in": amount_in,
                    "min_out": least,
                    "account": moment.account,
                    "deadline": moment.until_s,
                }
            ),
        )
        words = f"swap {format_amount(amount_in, sell)} for at least {format_amount(least, buy)}"
        swap = Swap(sell.address, amount_in, buy.address, least)
        if native:
            return (call,), swap, words
        approve = _APPROVE + bytes(12) + bytes.fromhex(self.address[2:]) + amount_in.to_bytes(32)
        return (Execution(sell.address, 0, approve), call), swap, words


def read_router(fields: Fields) -> Router:
    """The table ``router``: ``address``, ``function``, ``args`` and ``slippage``. Raises StrategyError."""
    template = read_template(fields, _NAMES)
    if "$min_out" not in str(template.args):
        raise StrategyError(
            "does not pass $min_out, so any price would do",
            field=fields.place("args"),
            fix="put $min_out in its place",
        )
    router = Router(
        fields.read("address", as_address), template, fields.maybe("slippage", as_percent, Fraction(1, 100))
    )
    fields.finish()
    return router
