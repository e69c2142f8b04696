"""Amounts: parsed once, at the edge, from text; exact integers in base units ever after."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from eth_utils.address import is_checksum_address

from worker.errors import InputError

MAX_UINT256 = 2**256 - 1

#: Plain decimal notation, ASCII digits only: no sign, exponent, separator, space, or superfluous leading zero.
_PLAIN = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?")
_ADDRESS = re.compile(r"0x[0-9a-f]{40}")
_ANY_CASE_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
#: 2**256-1 has 78 digits; with a point and as many decimals as an ERC-20 can have, no amount is longer.
_MAX_TEXT = 78 + 1 + 255


class AmountError(InputError):
    """The text is no amount of the token, or names no known token."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token on one chain.

    Attributes:
        symbol: as people write it, e.g. ``USDC``.
        address: lower-case 0x hex; the zero address stands for the native token.
        decimals: 0..255, the token's own ``decimals()``.
        chain_id: the chain it lives on.
    """

    symbol: str
    address: str
    decimals: int
    chain_id: int

    def __post_init__(self) -> None:
        """Refuse what no ERC-20 can be, so that a wrong table entry cannot scale an amount."""
        if not self.symbol or not self.symbol.isprintable() or " " in self.symbol:
            raise AmountError(
                f"{self.symbol!r} is no symbol", field="symbol", fix="use one printable word without spaces"
            )
        if not _ADDRESS.fullmatch(self.address):
            raise AmountError(
                f"{self.address!r} is no address", field="address", fix="use 0x and 40 lower-case hex digits"
            )
        if type(self.decimals) is not int or not 0 <= self.decimals <= 255:
            raise AmountError(
                f"{self.decimals!r} is no uint8", field="decimals", fix="use what the token's decimals() says"
            )
        if type(self.chain_id) is not int or self.chain_id <= 0:
            raise AmountError(
                f"{self.chain_id!r} is no chain id", field="chain_id", fix="use a positive integer"
            )


@dataclass(frozen=True, slots=True)
class Amount:
    """``value`` base units of ``token``."""

    value: int
    token: TokenInfo

    def __str__(self) -> str:
        return format_amount(self.value, self.token)


class TokenResolver(Protocol):
    """Finds a token by what people write."""

    def __call__(self, name: str, /) -> TokenInfo:
        """The token of this symbol or address. Raises AmountError that names the known ones."""
        ...


class TokenTable:
    """A resolver over a fixed list of tokens of one chain: by exact symbol, or by address.

    An address is in lower case, in upper case, or has its right EIP-55 checksum. Symbols are matched exactly:
    ``USDbC`` and ``USDC`` are different tokens, and guessing is no way to pay.

    Raises:
        AmountError: two tokens share a symbol or an address, so a name would be ambiguous.
    """

    def __init__(self, tokens: Iterable[TokenInfo]) -> None:
        self._by_name: dict[str, TokenInfo] = {}
        self.tokens = tuple(tokens)
        for token in self.tokens:
            for name in (token.symbol, token.address):
                if name in self._by_name:
                    raise AmountError(f"{name} is listed twice", field="token", fix="list each token once")
                self._by_name[name] = token

    def __call__(self, name: str, /) -> TokenInfo:
        """The token. Raises AmountError."""
        found = self._by_name.get(_lower_address(name) if _ANY_CASE_ADDRESS.fullmatch(name) else name)
        if found is None:
            known = ", ".join(token.symbol for token in self.tokens) or "none"
            close = next((token.symbol for token in self.tokens if token.symbol.lower() == name.lower()), "")
            raise AmountError(
                f"the token {_shown(name)} is not known",
                field="token",
                fix=f"did you mean {close}?" if close else f"known: {known}",
            )
        return found


def parse_amount(text: object, *, token: TokenInfo, field: str = "amount", allow_zero: bool = False) -> int:
    """Base units of a human amount such as ``10`` or ``0.25``: exact, or refused.

    Digits after the point beyond the token's decimals must be zeros; nothing is ever rounded.

    Args:
        text: plain decimal notation in ASCII. A number is refused: JSON and TOML numbers may have lost digits.
        token: gives the decimals.
        field: the input field, for the message.
        allow_zero: whether 0 makes sense here.

    Returns:
        1..2**256-1 (0.. with ``allow_zero``).

    Raises:
        AmountError: it is anything else.
    """
    if not isinstance(text, str):
        raise AmountError(
            f"is {_kind(text)}, not text",
            field=field,
            fix='quote it, e.g. "10.5": a number may have lost digits already',
        )
    match = _PLAIN.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise AmountError(
            f"{_shown(text)} is no amount",
            field=field,
            fix="write plain digits with a point, e.g. 10 or 0.25: no sign, exponent, separator or spaces",
        )
    whole, fraction = match[1], match[2] or ""
    kept, beyond = fraction[: token.decimals], fraction[token.decimals :]
    if beyond.strip("0"):
        raise AmountError(
            f"{_shown(text)} has more than the {token.decimals} decimals of {token.symbol}",
            field=field,
            fix=f"use at most {token.decimals} decimals",
        )
    value = int(whole + kept.ljust(token.decimals, "0"))
    if value > MAX_UINT256:
        raise AmountError(
            f"{_shown(text)} {token.symbol} is more than 2**256-1 base units", field=field, fix="ask for less"
        )
    if value == 0 and not allow_zero:
        raise AmountError("is zero", field=field, fix="ask for more than zero")
    return value


def parse_human(
    text: object, resolver: TokenResolver, *, field: str = "amount", allow_zero: bool = False
) -> Amount:
    """An amount with its token, such as ``10 USDC``: the amount, one space, the symbol or address.

    Args:
        text: what a person wrote.
        resolver: finds the token, e.g. a ``TokenTable``.
        field: the input field, for the message.
        allow_zero: whether 0 makes sense here.

    Raises:
        AmountError: see ``parse_amount``; or the token is not known, with the known ones named.
    """
    if not isinstance(text, str):
        raise AmountError(f"is {_kind(text)}, not text", field=field, fix='write e.g. "10 USDC"')
    number, space, name = text.partition(" ")
    if not space or not number or not name or " " in name:
        raise AmountError(
            f"{_shown(text)} is no amount with a token",
            field=field,
            fix="write the amount, one space and the token, e.g. 10 USDC",
        )
    token = resolver(name)
    return Amount(parse_amount(number, token=token, field=field, allow_zero=allow_zero), token)


def format_units(value: int, decimals: int) -> str:
    """Base units as an exact decimal number without superfluous zeros: ``format_units(10500000, 6)`` is ``10.5``.

    Raises:
        AmountError: ``value`` is no integer, or negative.
    """
    if type(value) is not int or value < 0:
        raise AmountError(f"{value!r} is no amount in base units", field="amount", fix="pass an integer >= 0")
    digits = str(value).rjust(decimals + 1, "0")
    cut = len(digits) - decimals
    fraction = digits[cut:].rstrip("0")
    return f"{digits[:cut]}.{fraction}" if fraction else digits[:cut]


def format_amount(value: int, token: TokenInfo) -> str:
    """``10.5 USDC``: exact, and ``parse_human`` reads it back to the same value.

    Raises:
        AmountError: ``value`` is no integer, or negative.
    """
    return f"{format_units(value, token.decimals)} {token.symbol}"


def _lower_address(text: str) -> str:
    """The address in lower case. Raises AmountError when it is in mixed case and its EIP-55 checksum is wrong."""
    digits = text[2:]
    if digits not in {digits.lower(), digits.upper()} and not is_checksum_address(text):
        raise AmountError(
            f"the checksum of {text} is wrong",
            field="token",
            fix="copy the address again, or write it in lower case",
        )
    return text.lower()


def _shown(text: str) -> str:
    """The text as a message may quote it: escaped, and cut when it is long."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def _kind(value: object) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
