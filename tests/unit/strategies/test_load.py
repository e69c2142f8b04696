"""The strategies file: what is written is what is done, or an error that names the place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InputError
from worker.intents.amount import TokenInfo, TokenTable
from worker.strategies.errors import StrategyError
from worker.strategies.load import BUILT_IN, load_strategies
from worker.strategies.model import ScheduledStrategy
from worker.strategies.transfer import Transfer

USDC = TokenInfo("USDC", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913", 6, 8453)
ETH = TokenInfo("ETH", "0x" + "00" * 20, 18, 8453)
WETH = TokenInfo("WETH", "0x4200000000000000000000000000000000000006", 18, 8453)
TOKENS = TokenTable([USDC, ETH, WETH])
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"

GOOD: dict[str, str] = {
    "name": '"rent"',
    "kind": '"recurring-transfer"',
    "session": '"ses_0123456789abcdef"',
    "cron": '"0 9 1 * *"',
    "to": f'"{TO}"',
    "amount": '"10.5 USDC"',
}
EXAMPLE = Path(__file__).parents[3] / "config" / "strategies.example.toml"


def toml(**changes: str | None) -> str:
    """One strategy, with fields changed, added or (None) left out."""
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return "[[strategies]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())


def load(text: str | Path) -> tuple[ScheduledStrategy, ...]:
    return load_strategies(text, tokens=TOKENS)


def paid(strategy: ScheduledStrategy) -> Transfer:
    """What a strategy sends."""
    assert isinstance(strategy.strategy, Transfer)
    return strategy.strategy


def outcome(text: str) -> str:
    """``loaded``, or the words of the one error that may come of a file."""
    try:
        load(text)
    except StrategyError as error:
        return str(error)
    return "loaded"


class TestGood:
    """A whole file."""

    def test_one(self) -> None:
        (strategy,) = load(toml())
        assert strategy.name == "rent"
        assert strategy.session == "ses_0123456789abcdef"
        assert paid(strategy).to == TO.lower()
        assert (paid(strategy).amount.value, paid(strategy).amount.token) == (10_500_000, USDC)
        assert str(strategy.when) == "0 9 1 * *"
        assert (strategy.enabled, strategy.sponsored, strategy.max_lateness_s) == (True, True, None)
        assert (strategy.start_s, strategy.end_s) == (None, None)

    def test_every_option(self) -> None:
        (strategy,) = load(
            toml(
                enabled="false",
                sponsored="false",
                not_after_s="900",
                start="2026-01-01T00:00:00Z",
                end="2027-01-01 00:00:00+00:00",
                session='"ses_00112233445566ff"',
                cron='"0  9\\t* * mon-fri"',
            )
        )
        assert (strategy.enabled, strategy.sponsored, strategy.max_lateness_s) == (False, False, 900)
        assert (strategy.start_s, strategy.end_s) == (1_767_225_600, 1_798_761_600)
        assert strategy.session == "ses_00112233445566ff"
        assert str(strategy.when) == "0 9 * * MON-FRI"

    @pytest.mark.parametrize(
        ("amount", "token", "value", "symbol"),
        [
            ("10 USDC", None, 10_000_000, "USDC"),
            ("0.000001 USDC", None, 1, "USDC"),
            (f"10 {USDC.address}", None, 10_000_000, "USDC"),
            ("10", "USDC", 10_000_000, "USDC"),
            ("10", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", 10_000_000, "USDC"),
            ("10 USDC", "USDC", 10_000_000, "USDC"),
            (f"10 {USDC.address}", "USDC", 10_000_000, "USDC"),
            ("0.000000000000000001 ETH", None, 1, "ETH"),
            ("9007199.254740993 ETH", None, 9_007_199_254_740_993_000_000_000, "ETH"),
        ],
    )
    def test_amount(self, amount: str, token: str | None, value: int, symbol: str) -> None:
        (strategy,) = load(toml(amount=f'"{amount}"', token=None if token is None else f'"{token}"'))
        assert (paid(strategy).amount.value, paid(strategy).amount.token.symbol) == (value, symbol)

    @pytest.mark.parametrize("to", [TO, TO.lower(), "0x" + TO[2:].upper()])
    def test_address(self, to: str) -> None:
        assert paid(load(toml(to=f'"{to}"'))[0]).to == TO.lower()

    def test_order_is_kept_and_none_is_none(self) -> None:
        assert [s.name for s in load(toml(name='"b"') + toml(name='"a"'))] == ["b", "a"]
        assert load("") == load("# nothing\n") == load("strategies = []") == ()

    def test_the_example(self) -> None:
        loaded = {strategy.name: strategy for strategy in load(EXAMPLE)}
        assert paid(loaded["weekly-savings"]).amount.value == 10_000_000
        assert loaded["monthly-allowance"].max_lateness_s == 21_600
        assert str(loaded["monthly-allowance"].when) == "30 6 1 * * Europe/Berlin"
        assert not any(
            strategy.enabled for strategy in loaded.values() if strategy.name.startswith("example-")
        )


#: (field, what is written, words of the message, words of the fix)
BAD: list[tuple[str, str, str, str]] = [
    ("name", '""', "no name", "a-z"),
    ("name", '"Rent"', "no name", "a-z"),
    ("name", '"re nt"', "no name", "a-z"),
    ("name", '"rent:1"', "no name", "a-z"),
    ("name", '"{rent}"', "no name", "a-z"),
    ("name", '"-rent"', "no name", "a-z"),
    ("name", '"rent\\n"', "no name", "a-z"),
    ("name", '"rént"', "no name", "a-z"),
    ("name", f'"{"r" * 65}"', "no name", "at most 64"),
    ("name", "7", "is a number, not text", "quotes"),
    ("kind", '"swap"', "no kind", "recurring-transfer"),
    ("kind", "true", "is true or false, not text", "quotes"),
    ("session", '"ses_123"', "no session", "16 hex"),
    ("session", '"ses_0123456789ABCDEF"', "no session", "16 hex"),
    ("session", '"ses_0123456789abcdef\\n"', "no session", "16 hex"),
    ("session", '"My Session"', "no session", "16 hex digits"),
    ("session", '""', "no session", "16 hex digits"),
    ("session", "[]", "is a list, not text", "quotes"),
    ("to", '"0x70997970C51812dc3A010C7d01b50e0d17dc79c8"', "EIP-55 checksum", "copy it again"),
    ("to", '"0x70997970C51812dc3A010C7d01b50e0d17dc79"', "no address", "40 hex"),
    ("to", '"70997970C51812dc3A010C7d01b50e0d17dc79C8"', "no address", "40 hex"),
    ("to", '"alice.eth"', "no address", "40 hex"),
    ("to", '" 0x70997970c51812dc3a010c7d01b50e0d17dc79c8"', "no address", "40 hex"),
    ("to", "0x70997970", "is a number, not text", "quotes"),
    ("to", f'"0x{"0" * 40}"', "zero address", "receiver"),
    ("to", f'"{USDC.address}"', "USDC contract itself", "receiver"),
    ("amount", '"10"', "no amount with a token", "10 USDC"),
    ("amount", '"10USDC"', "no amount with a token", "10 USDC"),
    ("amount", '"10  USDC"', "no amount with a token", "10 USDC"),
    ("amount", '"USDC 10"', "not known", "USDC"),
    ("amount", '"10 usdc"', "not known", "did you mean USDC"),
    ("amount", '"10 DAI"', "not known", "known: USDC, ETH, WETH"),
    ("amount", '"10.1234567 USDC"', "more than the 6 decimals", "at most 6"),
    ("amount", '"-10 USDC"', "no amount", "plain digits"),
    ("amount", '"1e3 USDC"', "no amount", "plain digits"),
    ("amount", '"1,000 USDC"', "no amount", "plain digits"),
    ("amount", '"0 USDC"', "zero", "more than zero"),
    ("amount", f'"{2**256} USDC"', "more than 2**256-1", "less"),
    ("amount", "10", "not text", "10 USDC"),
    ("amount", "10.5", "not text", "10 USDC"),
    ("token", '"DAI"', "not known", "known"),
    ("token", '"0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914"', "", ""),
    ("token", "7", "is a number, not text", "quotes"),
    ("cron", '""', "0 fields", "minute, hour"),
    ("cron", '"0 9 * *"', "4 fields", "minute, hour"),
    ("cron", '"0 0 9 * * *"', "6 fields", "minute, hour"),
    ("cron", '"@daily"', "1 fields", "minute, hour"),
    ("cron", '"60 9 * * *"', "60 is no minute", "0 to 59"),
    ("cron", '"0 24 * * *"', "24 is no hour", "0 to 23"),
    ("cron", '"0 9 0 * *"', "0 is no day of month", "1 to 31"),
    ("cron", '"0 9 32 * *"', "32 is no day of month", "1 to 31"),
    ("cron", '"0 9 1 0 *"', "0 is no month", "1 to 12"),
    ("cron", '"0 9 1 13 *"', "13 is no month", "1 to 12"),
    ("cron", '"0 9 * * 8"', "8 is no day of week", "0 to 7"),
    ("cron", '"0 9 * * MOO"', "MOO is no day of week", "0 to 7"),
    ("cron", '"0 9 * MON *"', "MON is no month", "1 to 12"),
    ("cron", '"0 9 L * *"', "no day of month", "numbers"),
    ("cron", '"0 9 15W * *"', "no day of month", "numbers"),
    ("cron", '"0 9 * * 5#3"', "no day of week", "numbers"),
    ("cron", '"0 9 * * 5L"', "no day of week", "numbers"),
    ("cron", '"0 9 ? * *"', "no day of month", "numbers"),
    ("cron", '"-1 9 * * *"', "no minute", "numbers"),
    ("cron", '"1.5 9 * * *"', "no minute", "numbers"),
    ("cron", '"0, 9 * * *"', "no minute", "numbers"),
    ("cron", '"5-1 9 * * *"', "runs backwards", "split"),
    ("cron", '"0 22-6 * * *"', "runs backwards", "split"),
    ("cron", '"0 9 * * SAT-SUN"', "runs backwards", "split"),
    ("cron", '"*/0 * * * *"', "does not fit", "smaller"),
    ("cron", '"*/60 * * * *"', "does not fit", "smaller"),
    ("cron", '"*/90 * * * *"', "does not fit", "smaller"),
    ("cron", '"0 8-10/5 * * *"', "does not fit", "smaller"),
    ("cron", '"5/15 * * * *"', "step without a range", "5-59/15"),
    ("cron", '"*/5/2 * * * *"', "no minute", "numbers"),
    ("cron", '"0 9 13 * 5"', "both the day of the month and the day of the week", "two strategies"),
    ("cron", '"0 9 1-31 * 5"', "both the day of the month and the day of the week", "two strategies"),
    ("cron", '"0 0 30 2 *"', "never fires", "exists"),
    ("cron", '"0 0 31 4,6,9,11 *"', "never fires", "exists"),
    ("cron", '"٣ 9 * * *"', "no cron expression", "ASCII"),
    ("cron", '"0 9 * * *\\n"', "no cron expression", "ASCII"),
    ("cron", f'"{"1," * 300}1 * * * *"', "no cron expression", "ASCII"),
    ("cron", "9", "is a number, not text", "quotes"),
    ("timezone", '"Mars/Olympus"', "no time zone", "Europe/Berlin"),
    ("timezone", '"../UTC"', "no time zone", "Europe/Berlin"),
    ("every", '"5m"', "cannot go with cron", "one trigger"),
    ("max_executions", "0", "whole number", "1"),
    ("catch_up", '"some"', "not known", "none, one, all"),
    ("catch_up", '"all"', "how old", "max_lateness_s"),
    ("jitter", '"2h"', "longer than 3600", "shorter"),
    ("jitter", "5", "a number, not text", "quotes"),
    ("retry", "3", "not a table", "{"),
    ("enabled", '"true"', "is text, not true or false", "unquoted"),
    ("enabled", "1", "is a number, not true or false", "unquoted"),
    ("sponsored", '"no"', "is text, not true or false", "unquoted"),
    ("not_after_s", "0", "whole number of seconds", "900"),
    ("not_after_s", "-1", "whole number of seconds", "900"),
    ("not_after_s", "2678401", "whole number of seconds", "900"),
    ("not_after_s", "60.0", "whole number of seconds", "900"),
    ("not_after_s", "true", "whole number of seconds", "900"),
    ("not_after_s", '"60"', "whole number of seconds", "900"),
    ("start", "2026-01-01T00:00:00", "no time zone", "with a Z"),
    ("start", "2026-01-01T00:00:00+01:00", "not in UTC", "with a Z"),
    ("start", "2026-01-01T00:00:00.5Z", "fractions", "with a Z"),
    ("start", "2026-01-01", "is a date, not a date with a time", "with a Z"),
    ("start", "09:00:00", "is a time, not a date with a time", "with a Z"),
    ("start", '"2026-01-01T00:00:00Z"', "is text, not a date with a time", "without quotes"),
    ("end", "1767225600", "is a number, not a date with a time", "with a Z"),
    ("end", "2026-01-01T00:00:00-05:00", "not in UTC", "with a Z"),
]


class TestBad:
    """One clear line: the place, what is wrong, the fix."""

    @pytest.mark.parametrize(("field", "written", "message", "fix"), BAD)
    def test_field(self, field: str, written: str, message: str, fix: str) -> None:
        text = toml(name='"first"') + toml(**{field: written})
        with pytest.raises(StrategyError) as caught:
            load(text)
        assert caught.value.field == f"strategies[1].{field}"
        assert message in caught.value.message
        assert fix in caught.value.fix
        assert caught.value.fix
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
        assert (caught.value.exit_code, isinstance(caught.value, InputError)) == (2, True)

    @pytest.mark.parametrize("field", GOOD)
    def test_missing(self, field: str) -> None:
        with pytest.raises(StrategyError, match=rf"strategies\[0\]\.{field}: is missing"):
            load(toml(**{field: None}))

    @pytest.mark.parametrize(
        ("written", "fix"),
        [("ammount", "did you mean amount?"), ("not_after", "not_after_s?"), ("zzz", "known: name")],
    )
    def test_unknown_field(self, written: str, fix: str) -> None:
        with pytest.raises(StrategyError) as caught:
            load(toml(**{written: "1"}))
        assert caught.value.field == f"strategies[0].{written}"
        assert fix in caught.value.fix

    def test_name_twice(self) -> None:
        with pytest.raises(StrategyError) as caught:
            load(toml(name='"a"') + toml() + toml(amount='"11 USDC"'))
        assert caught.value.field == "strategies[2].name"
        assert "strategies[1]" in caught.value.message

    def test_two_tokens(self) -> None:
        with pytest.raises(StrategyError, match=r"strategies\[0\]\.amount: is in USDC, and token is ETH"):
            load(toml(token='"ETH"'))

    @pytest.mark.parametrize("end", ["2026-01-01T00:00:00Z", "2025-12-31T00:00:00Z"])
    def test_end_not_after_start(self, end: str) -> None:
        with pytest.raises(StrategyError, match=r"strategies\[0\]\.end: is not after start"):
            load(toml(start="2026-01-01T00:00:00Z", end=end))

    def test_nothing_between_start_and_end(self) -> None:
        with pytest.raises(StrategyError, match=r"strategies\[0\]\.end: comes before the first fire time"):
            load(toml(start="2026-01-01T09:00:01Z", end="2026-02-01T09:00:00Z"))

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            ("[[strategy]]\nname = 1", "strategy"),
            ("debug = true", "debug"),
            ("[strategies]\nname = 'a'", "strategies"),
            ("strategies = 7", "strategies"),
            ("strategies = [7]", "strategies[0]"),
            ("strategies = [[]]", "strategies[0]"),
            ("[[strategies]", "strategies file"),
            ("a = 1\na = 2", "strategies file"),
            ("[[strategies]]\nname = 'a'\nname = 'b'", "strategies file"),
            ("\x00", "strategies file"),
            ("\ufeff[[strategies]]", "strategies file"),
            ("a = " + "[" * 5_000, "strategies file"),
            ("a = 2026-13-45", "strategies file"),
        ],
    )
    def test_no_strategies_file(self, text: str, field: str) -> None:
        with pytest.raises(StrategyError) as caught:
            load(text)
        assert caught.value.field == field
        assert caught.value.fix
        assert str(caught.value).isprintable()

    @given(st.text(max_size=80))
    def test_any_text(self, text: str) -> None:
        for document in (text, f"[[strategies]]\n{text}", toml(cron=f'"{text}"'), toml(amount=f'"{text}"')):
            assert outcome(document).isprintable()

    @given(st.sampled_from(sorted(GOOD)), st.text("0123456789abcX*/-, \"\\'[]{}.:T+Z\u0663", max_size=12))
    def test_any_value(self, field: str, value: str) -> None:
        for written in (value, f'"{value}"'):
            assert outcome(toml(**{field: written})).isprintable()


class TestFile:
    """What can be wrong with the file itself."""

    def test_read(self, tmp_path: Path) -> None:
        path = tmp_path / "s.toml"
        path.write_text(toml())
        assert load(path) == load(toml())

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "cannot be read"), (b"\xff", "not UTF-8"), (b"#" * (1 << 20) + b"#", "larger")],
    )
    def test_unreadable(self, tmp_path: Path, content: bytes | None, message: str) -> None:
        path = tmp_path / "s.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StrategyError, match=re.escape(str(path))) as caught:
            load(path)
        assert message in caught.value.message

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(StrategyError, match="cannot be read"):
            load(tmp_path)


def test_the_example_shows_every_kind() -> None:
    """The example is the documentation of the format."""
    assert {strategy.kind for strategy in load(EXAMPLE)} == set(BUILT_IN)


class TestGuardrails:
    """A strategy's own guardrails: exact, or an error at their place."""

    def test_they_are_read_with_the_tokens_of_the_chain(self) -> None:
        (strategy,) = load(
            toml() + '[strategies.guardrails]\nper_day = ["50 USDC", "0.1 ETH"]\ncooldown = "5m"\n'
        )
        assert strategy.guardrails.limit("per_day", USDC.address) == 50_000_000
        assert strategy.guardrails.limit("per_day", ETH.address) == 10**17
        assert strategy.guardrails.cooldown_s == 300
        assert load(toml())[0].guardrails.text() == ""

    @pytest.mark.parametrize(
        ("written", "words"),
        [
            ('"none"', "strategies[0].guardrails: is text, not a table"),
            ("{ per_day = 50 }", "strategies[0].guardrails.per_day: is a int, not text"),
            ('{ per_dya = "50 USDC" }', "strategies[0].guardrails.per_dya: is not known"),
            (
                '{ per_day = "50.0000001 USDC" }',
                "strategies[0].guardrails.per_day: '50.0000001' has more than",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, written: str, words: str) -> None:
        assert outcome(toml(guardrails=written)).startswith(words)
