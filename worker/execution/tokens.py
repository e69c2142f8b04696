"""The tokens that people may name on a chain."""

from __future__ import annotations

from collections.abc import Callable

from worker.intents.amount import TokenInfo, TokenTable, format_amount, format_units
from worker.policies.policy import AmountFormat, plain_amount
from worker.sessions.chains import chain_of

_SHOWN_DECIMALS = 2  # amounts of one line are easier to compare with as many


def token_table(chain_id: int) -> TokenTable:
    """Tokens by symbol or address, as SDK 1.15.0 lists them; the zero address is the chain's own currency.

    Raises:
        SessionError: the chain is not known.
    """
    return TokenTable(
        TokenInfo(token.symbol, token.address, token.decimals, chain_id)
        for token in chain_of(chain_id).tokens
    )


def amount_format(chain_id: int) -> AmountFormat:
    """How amounts are written in reasons: ``10 USDC`` for a listed token, base units for others."""
    listed = {token.address: token for token in chain_of(chain_id).tokens}

    def write(token: str, amount: int) -> str:
        found = listed.get(token)
        if found is None:
            return plain_amount(token, amount)
        return format_amount(amount, TokenInfo(found.symbol, found.address, found.decimals, chain_id))

    return write


def amounts_of(chain_id: int, policy: str, token: str) -> tuple[str, Callable[[int], str]]:
    """How the amounts of one limit are written beside each other: `` USDC`` and ``100.00``.

    Args:
        chain_id: of the session.
        policy: the policy type.
        token: lower-case address, or ``""`` where the policy counts something else.

    Returns:
        The unit to put after the first amount, with a blank before it; and the writer of the numbers.
    """
    found = next((one for one in chain_of(chain_id).tokens if token and one.address == token), None)
    if found is None:
        unit = {"usage-limit": " uses", "value-limit": " wei"}.get(policy, "")
        return f" base units of {token}" if token else unit, str
    decimals = found.decimals

    def write(amount: int) -> str:
        whole, _, fraction = format_units(amount, decimals).partition(".")
        fraction = fraction.ljust(min(decimals, _SHOWN_DECIMALS), "0")
        return f"{whole}.{fraction}" if fraction else whole

    return f" {found.symbol}", write
