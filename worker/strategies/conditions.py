"""What must hold besides the time: a price, or any number that a contract answers, beyond a level.

A condition acts on the crossing. Once it has been acted on it waits until the value was back on the other side of the
level by the hysteresis; a price that trembles around the level gives one order and not one at each check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from worker.chain.errors import CallRevertedError
from worker.intents.amount import MAX_UINT256
from worker.strategies.encode import Template, as_integer, read_template
from worker.strategies.errors import PriceError, StrategyError
from worker.strategies.fields import Fields, as_address, as_number, as_percent
from worker.strategies.port import Moment, Reads
from worker.strategies.prices import PriceSource, read_price_source

DISARMED = "condition.disarmed"
"""Name in a strategy's memory: it has acted, and waits until the value was back."""


@dataclass(frozen=True)
class ContractNumber:
    """One unsigned 256-bit word of what a view function returns.

    Attributes:
        to: the contract.
        template: the call; ``$account`` is the session's account.
        word: which word of the answer, from 0.
    """

    to: str
    template: Template
    word: int

    def read(self, moment: Moment) -> Fraction:
        """The number now. Raises PriceError, ChainError."""
        try:
            reply = moment.reads.call(self.to, self.template.data({"account": moment.account}))
        except CallRevertedError:
            reply = b""
        piece = reply[32 * self.word : 32 * self.word + 32]
        if len(piece) != 32:
            raise PriceError(
                f"{self.to} answers {len(reply)} bytes to {self.template.function}",
                field="only_if",
                fix="check the contract, the function and word",
            )
        return Fraction(int.from_bytes(piece))


@dataclass(frozen=True)
class Condition:
    """A value and the side of a level on which something is to be done.

    Attributes:
        source: where the value comes from.
        below: act at or below the level, else at or above it.
        level: the level, in whole quote tokens per base token, or the contract's own unit.
        hysteresis: share of the level by which the value must have come back before the next act.
    """

    source: PriceSource | ContractNumber
    below: bool
    level: Fraction
    hysteresis: Fraction

    def why_not(self, moment: Moment) -> tuple[str, Mapping[str, str]]:
        """Why nothing is to be done now (``""``: it is to be done), and what to remember.

        Raises:
            PriceError, ChainError: it cannot be said now.
        """
        value = self._read(moment)
        disarmed = bool(moment.memory.get(DISARMED))
        side = "below" if self.below else "above"
        holds = value <= self.level if self.below else value >= self.level
        if disarmed:
            back = self.level * (1 + self.hysteresis if self.below else 1 - self.hysteresis)
            if value > back if self.below else value < back:
                return f"{_shown(value)} is back; waits for {side} {_shown(self.level)}", {DISARMED: ""}
            return f"has acted {side} {_shown(self.level)} and waits until the value was back", {
                DISARMED: "1"
            }
        if holds:
            return "", {DISARMED: "1"}
        return f"{_shown(value)} is not {side} {_shown(self.level)}", {DISARMED: ""}

    def __str__(self) -> str:
        return f"{'below' if self.below else 'above'} {_shown(self.level)}"

    def _read(self, moment: Moment) -> Fraction:
        reads: Reads = moment.reads
        return self.source.read(reads) if isinstance(self.source, PriceSource) else self.source.read(moment)


def read_condition(fields: Fields, *, side: str = "") -> Condition:
    """The table ``only_if``: a price source or ``contract`` with ``function``, and ``below`` or ``above``.

    Args:
        fields: the table.
        side: the only side that makes sense here, ``below`` or ``above``; ``""``: either.

    Raises:
        StrategyError
    """
    source: PriceSource | ContractNumber
    if fields.has("contract"):
        source = ContractNumber(
            fields.read("contract", as_address),
            read_template(fields, frozenset({"account"})),
            fields.whole("word", 0, 63, default=0),
        )
        parse: Any = _as_level
    else:
        source = read_price_source(fields)
        parse = as_number
    sides = [name for name in ("below", "above") if fields.has(name)]
    if len(sides) != 1 or (side and sides != [side]):
        wanted = side or "below or above"
        raise StrategyError(
            f"needs the level as {wanted}", field=fields.at, fix=f'write {side or "below"} = "2500"'
        )
    condition = Condition(
        source,
        sides[0] == "below",
        fields.read(sides[0], parse),
        fields.maybe("hysteresis", as_percent, Fraction(0)),
    )
    fields.finish()
    return condition


def _as_level(value: Any, at: str) -> Fraction:
    level = as_integer(value, at)
    if not 0 <= level <= MAX_UINT256:
        raise StrategyError("is no number of 256 bits", field=at, fix='write e.g. "1100000000000000000"')
    return Fraction(level)


def _shown(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):.8g}"
