"""The tokens that people may name on a chain."""

from __future__ import annotations

from worker.intents.amount import TokenInfo, TokenTable, format_amount
from worker.policies.policy import AmountFormat, plain_amount
from worker.sessions.chains import chain_of


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
