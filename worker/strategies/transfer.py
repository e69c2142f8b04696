"""Strategies that send: a recurring transfer or subscription, and a sweep of what is above a threshold."""

from __future__ import annotations

from dataclasses import dataclass

from worker.intents.amount import Amount, format_amount
from worker.intents.transfers import transfer_call
from worker.strategies.errors import StrategyError
from worker.strategies.fields import Fields
from worker.strategies.port import Act, Decision, Moment, Wait
from worker.strategies.trades import balance_of


@dataclass(frozen=True, slots=True)
class Transfer:
    """The same amount to the same receiver at each slot.

    Attributes:
        to: who receives, lower-case address.
        amount: how much of which token.
    """

    to: str
    amount: Amount

    def decide(self, moment: Moment) -> Decision:
        """See ``Strategy``. Raises StrategyError: the receiver is the paying account."""
        require_other(self.to, moment)
        value, token = self.amount.value, self.amount.token
        return Act(
            (transfer_call(token, self.to, value),), f"transfer {format_amount(value, token)} to {self.to}"
        )

    def describe(self) -> str:
        """See ``Strategy``."""
        return f"{self.amount} to {self.to}"


def recurring_transfer(fields: Fields) -> Transfer:
    """``kind = "recurring-transfer"`` or ``"subscription"``: ``to`` and ``amount``, or ``amount`` and ``token``."""
    amount = fields.amount("amount", token="token")  # noqa: S106 - a coin, no password
    return Transfer(fields.receiver("to", amount.token), amount)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Send what the account holds above a threshold.

    Attributes:
        to: who receives, lower-case address.
        above: nothing is sent unless the balance is larger than this.
        keep: what stays in the account, base units of the same token.
    """

    to: str
    above: Amount
    keep: int

    def decide(self, moment: Moment) -> Decision:
        """See ``Strategy``. Raises StrategyError, ChainError."""
        require_other(self.to, moment)
        token = self.above.token
        held = balance_of(moment, token)
        if held <= self.above.value:
            return Wait(f"the account holds {format_amount(held, token)}, not more than {self.above}")
        value = held - self.keep
        return Act(
            (transfer_call(token, self.to, value),), f"sweep {format_amount(value, token)} to {self.to}"
        )

    def describe(self) -> str:
        """See ``Strategy``."""
        kept = format_amount(self.keep, self.above.token)
        return f"sweep what is above {self.above} to {self.to}, keep {kept}"


def sweep(fields: Fields) -> Sweep:
    """``kind = "sweep"``: ``to``, ``above``, and ``keep`` (by default all of ``above``)."""
    above = fields.amount("above")
    keep = fields.amount("keep") if fields.has("keep") else above
    if keep.token != above.token or keep.value > above.value:
        raise StrategyError(
            f"is more than {above}, or another token",
            field=fields.place("keep"),
            fix="keep at most that much",
        )
    return Sweep(fields.receiver("to", above.token), above, keep.value)


def require_other(to: str, moment: Moment) -> None:
    """Refuse to send the account's money to the account itself. Raises StrategyError."""
    if to == moment.account:
        raise StrategyError(
            "would send the account's money to the account itself", field="to", fix="set another receiver"
        )
