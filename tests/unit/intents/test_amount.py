"""Amounts: exact or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intents.amount import (
    MAX_UINT256,
    Amount,
    AmountError,
    TokenInfo,
    TokenTable,
    format_amount,
    format_units,
    parse_amount,
    parse_human,
)

USDC = TokenInfo("USDC", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913", 6, 8453)
WETH = TokenInfo("WETH", "0x4200000000000000000000000000000000000006", 18, 8453)
WHOLE = TokenInfo("PASS", "0x" + "11" * 20, 0, 8453)
ODD = TokenInfo("ODD", "0x" + "22" * 20, 255, 8453)
TOKENS = TokenTable([USDC, WETH, WHOLE])

MAX_TEXT = str(MAX_UINT256)
MAX_USDC = f"{MAX_TEXT[:-6]}.{MAX_TEXT[-6:]}"

ACCEPTED = [
    ("1", USDC, 1_000_000),
    ("10", USDC, 10_000_000),
    ("100", USDC, 100_000_000),
    ("0.1", USDC, 100_000),
    ("2.01", USDC, 2_010_000),
    ("0.000001", USDC, 1),
    ("1.1000000", USDC, 1_100_000),
    ("1.10", USDC, 1_100_000),
    ("1.0", USDC, 1_000_000),
    ("1.123456", USDC, 1_123_456),
    ("1.123456000000000000000000000", USDC, 1_123_456),
    ("1.2", WETH, 1_200_000_000_000_000_000),
    ("12345678901.123456789012345678", WETH, 12_345_678_901_123_456_789_012_345_678),
    ("0.000000000000000001", WETH, 1),
    ("9007199254740993", WHOLE, 2**53 + 1),
    ("18446744073709551616", WHOLE, 2**64),
    ("340282366920938463463374607431768211457", WHOLE, 2**128 + 1),
    ("9007199254.740993", USDC, 2**53 + 1),
    (MAX_TEXT, WHOLE, MAX_UINT256),
    (MAX_USDC, USDC, MAX_UINT256),
    ("0." + "0" * 254 + "1", ODD, 1),
    ("7.000", WHOLE, 7),
]

REFUSED = [
    ("", USDC, "no amount"),
    (" ", USDC, "no amount"),
    (" 1", USDC, "no amount"),
    ("1 ", USDC, "no amount"),
    ("1\n", USDC, "no amount"),
    ("+1", USDC, "no amount"),
    ("-1", USDC, "no amount"),
    ("-0", USDC, "no amount"),
    ("1e3", USDC, "no amount"),
    ("1E18", USDC, "no amount"),
    ("1e-7", USDC, "no amount"),
    ("1_000", USDC, "no amount"),
    ("1,000", USDC, "no amount"),
    ("1,5", USDC, "no amount"),
    ("0x10", USDC, "no amount"),
    ("\uff11", USDC, "no amount"),
    ("1\uff10", USDC, "no amount"),
    ("²", USDC, "no amount"),
    ("٣", USDC, "no amount"),
    ("1\u00a0", USDC, "no amount"),
    ("\ufeff1", USDC, "no amount"),
    ("\u22121", USDC, "no amount"),
    (".5", USDC, "no amount"),
    ("1.", USDC, "no amount"),
    ("1.2.3", USDC, "no amount"),
    (".", USDC, "no amount"),
    ("01", USDC, "no amount"),
    ("00", USDC, "no amount"),
    ("00.5", USDC, "no amount"),
    ("NaN", USDC, "no amount"),
    ("nan", USDC, "no amount"),
    ("inf", USDC, "no amount"),
    ("Infinity", USDC, "no amount"),
    ("ten", USDC, "no amount"),
    ("10 USDC", USDC, "no amount"),
    ("$10", USDC, "no amount"),
    ("1.1234567", USDC, "more than the 6 decimals of USDC"),
    ("0.0000001", USDC, "more than the 6 decimals of USDC"),
    ("0.5", WHOLE, "more than the 0 decimals of PASS"),
    ("0", USDC, "is zero"),
    ("0.0", USDC, "is zero"),
    ("0.000000", USDC, "is zero"),
    (str(MAX_UINT256 + 1), WHOLE, "more than 2**256-1"),
    (MAX_TEXT, USDC, "more than 2**256-1"),
    ("1", ODD, "more than 2**256-1"),
    ("9" * 5000, WHOLE, "no amount"),
    (1, USDC, "is a int, not text"),
    (1.5, USDC, "is a float, not text"),
    (float("nan"), USDC, "is a float, not text"),
    (True, USDC, "is a bool, not text"),
    (None, USDC, "is null, not text"),
    ([], USDC, "is a list, not text"),
    (b"1", USDC, "is a bytes, not text"),
]


class TestParseAmount:
    """Plain decimal text becomes base units without any loss."""

    @pytest.mark.parametrize(("text", "token", "value"), ACCEPTED)
    def test_plain_digits_are_exact(self, text: str, token: TokenInfo, value: int) -> None:
        assert parse_amount(text, token=token) == value

    @pytest.mark.parametrize(("text", "token", "words"), REFUSED)
    def test_anything_else_is_refused_naming_the_field(
        self, text: object, token: TokenInfo, words: str
    ) -> None:
        with pytest.raises(AmountError) as caught:
            parse_amount(text, token=token, field="limit")
        assert words in caught.value.message
        assert caught.value.field == "limit"
        assert caught.value.fix
        assert caught.value.exit_code == 2
        assert len(str(caught.value).splitlines()) == 1

    def test_every_cent_up_to_100_is_exact(self) -> None:
        for cents in range(1, 10_001):
            assert parse_amount(f"{cents // 100}.{cents % 100:02}", token=USDC) == cents * 10_000

    @pytest.mark.parametrize("text", ["0", "0.0", "0.000000000"])
    def test_zero_is_taken_where_it_is_allowed(self, text: str) -> None:
        assert parse_amount(text, token=USDC, allow_zero=True) == 0

    def test_a_long_input_is_cut_in_the_message(self) -> None:
        with pytest.raises(AmountError) as caught:
            parse_amount("9" * 100_000, token=USDC)
        assert len(str(caught.value)) < 300

    @given(st.integers(1, MAX_UINT256), st.sampled_from([USDC, WETH, WHOLE, ODD]))
    def test_what_is_formatted_is_read_back(self, value: int, token: TokenInfo) -> None:
        assert parse_amount(format_units(value, token.decimals), token=token) == value
        assert parse_human(format_amount(value, token), TokenTable([token])) == Amount(value, token)

    @given(st.text(max_size=12))
    def test_no_text_makes_anything_but_an_amount_or_an_amount_error(self, text: str) -> None:
        try:
            value = parse_amount(text, token=USDC)
        except AmountError:
            return
        assert text.isascii()
        assert 0 < value <= MAX_UINT256


class TestParseHuman:
    """An amount and its token in one line."""

    @pytest.mark.parametrize(
        "text",
        [
            "10 USDC",
            f"10 {USDC.address}",
            "10 0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        ],
    )
    def test_a_symbol_or_an_address_names_the_token(self, text: str) -> None:
        assert parse_human(text, TOKENS) == Amount(10_000_000, USDC)

    @pytest.mark.parametrize(
        "text", ["10USDC", "10  USDC", " 10 USDC", "10 USDC ", "10", "USDC", "10\tUSDC", "", " "]
    )
    def test_any_other_layout_is_refused(self, text: str) -> None:
        with pytest.raises(AmountError, match="no amount with a token"):
            parse_human(text, TOKENS)

    def test_an_unknown_token_names_the_known_ones(self) -> None:
        with pytest.raises(AmountError) as caught:
            parse_human("10 DOGE", TOKENS)
        assert caught.value.field == "token"
        assert caught.value.fix == "known: USDC, WETH, PASS"

    def test_an_address_with_a_wrong_checksum_is_refused(self) -> None:
        with pytest.raises(AmountError, match="checksum") as caught:
            parse_human("10 0x833589Fcd6eDb6E08f4c7C32D4f71b54bdA02913", TOKENS)
        assert caught.value.field == "token"
        assert parse_human("10 0x" + USDC.address[2:].upper(), TOKENS).token == USDC

    def test_a_symbol_in_the_wrong_case_is_not_guessed(self) -> None:
        with pytest.raises(AmountError, match="did you mean USDC"):
            parse_human("10 usdc", TOKENS)

    @pytest.mark.parametrize("value", [10, 10.0, None, True, {"amount": "10"}])
    def test_only_text_is_taken(self, value: object) -> None:
        with pytest.raises(AmountError, match="not text"):
            parse_human(value, TOKENS)

    def test_the_amount_is_checked_with_the_tokens_decimals(self) -> None:
        assert parse_human("0.0000001 WETH", TOKENS).value == 10**11
        with pytest.raises(AmountError, match="6 decimals"):
            parse_human("0.0000001 USDC", TOKENS)


class TestFormat:
    """Base units as people write them."""

    @pytest.mark.parametrize(
        ("value", "token", "text"),
        [
            (0, USDC, "0 USDC"),
            (1, USDC, "0.000001 USDC"),
            (10_500_000, USDC, "10.5 USDC"),
            (100_000_000, USDC, "100 USDC"),
            (1_000_000, WHOLE, "1000000 PASS"),
            (2**53 + 1, WETH, "0.009007199254740993 WETH"),
            (MAX_UINT256, USDC, f"{MAX_USDC} USDC"),
        ],
    )
    def test_every_digit_is_kept(self, value: int, token: TokenInfo, text: str) -> None:
        assert format_amount(value, token) == text
        assert str(Amount(value, token)) == text

    @pytest.mark.parametrize("value", [-1, 1.0, True, "1"])
    def test_only_base_units_are_taken(self, value: int) -> None:
        with pytest.raises(AmountError, match="base units"):
            format_amount(value, USDC)


class TestTokenInfo:
    """A wrong table entry is refused before it can scale an amount."""

    @pytest.mark.parametrize(
        ("symbol", "address", "decimals", "chain_id", "field"),
        [
            ("", USDC.address, 6, 1, "symbol"),
            ("US DC", USDC.address, 6, 1, "symbol"),
            ("USDC", USDC.address.upper(), 6, 1, "address"),
            ("USDC", "0x1234", 6, 1, "address"),
            ("USDC", USDC.address, -1, 1, "decimals"),
            ("USDC", USDC.address, 256, 1, "decimals"),
            ("USDC", USDC.address, True, 1, "decimals"),
            ("USDC", USDC.address, 6, 0, "chain_id"),
        ],
    )
    def test_a_malformed_entry_names_its_field(
        self, symbol: str, address: str, decimals: int, chain_id: int, field: str
    ) -> None:
        with pytest.raises(AmountError) as caught:
            TokenInfo(symbol, address, decimals, chain_id)
        assert caught.value.field == field

    def test_a_symbol_listed_twice_is_refused(self) -> None:
        with pytest.raises(AmountError, match="USDC is listed twice"):
            TokenTable([USDC, TokenInfo("USDC", WETH.address, 18, 8453)])
