"""The Lua integers inside a real Redis, against Python's."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.ledger.scripts import lua

pytestmark = pytest.mark.services

MAX = 2**256 - 1
EDGES = sorted(
    {
        value
        for edge in (0, 1, 10**7, 10**14, 10**15, 10**70, 10**77, 2**53, 2**63, 2**64, 2**128, MAX)
        for value in (edge - 1, edge, edge + 1)
        if 0 <= value <= MAX
    }
)

#: Some around each edge, some of any size.
UINT256 = st.one_of(st.sampled_from(EDGES), st.integers(0, MAX), st.integers(0, 10**15))
BUDGET = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Lua:
    """The functions of ``bigint.lua``, called in Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def __call__(self, expression: str, *args: object) -> Any:
        return self._client.eval(f"{lua('bigint')}\nreturn {expression}", 0, *map(str, args))


@pytest.fixture
def run(redis_url: str) -> Generator[Lua]:
    with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as client:
        yield Lua(client)


class TestBigint:
    """Every amount up to 2**256-1 is calculated exactly."""

    @pytest.mark.parametrize("value", EDGES)
    def test_an_edge_is_written_as_it_was_read(self, run: Lua, value: int) -> None:
        assert run("big_text(big_parse(ARGV[1]))", value) == str(value)

    @BUDGET
    @given(UINT256, UINT256)
    def test_sum_difference_and_order_are_pythons(self, run: Lua, a: int, b: int) -> None:
        total, order, difference = run(
            "{ big_text(big_add(big_parse(ARGV[1]), big_parse(ARGV[2]))),"
            " big_compare(big_parse(ARGV[1]), big_parse(ARGV[2])),"
            " (function() local d = big_subtract(big_parse(ARGV[1]), big_parse(ARGV[2]))"
            " return d and big_text(d) or 'negative' end)() }",
            a,
            b,
        )
        assert total == str(a + b)
        assert order == (a > b) - (a < b)
        assert difference == (str(a - b) if a >= b else "negative")

    def test_a_difference_with_leading_zero_limbs_compares_as_its_value(self, run: Lua) -> None:
        assert (
            run(
                "big_compare(big_subtract(big_parse(ARGV[1]), big_parse(ARGV[2])), big_parse('1'))",
                MAX,
                MAX - 1,
            )
            == 0
        )

    @pytest.mark.parametrize(
        "text", ["", "-1", "+1", " 1", "1 ", "01", "1.0", "1e3", "0x1", "nan", "1" * 79, "9" * 400, "\u0661"]
    )
    def test_what_is_no_amount_stops_the_script(self, run: Lua, text: str) -> None:
        with pytest.raises(redis.ResponseError, match="SX_INCONSISTENT not an amount"):
            run("big_parse(ARGV[1])", text)
