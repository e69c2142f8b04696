"""What calls take, read from their calldata."""

from __future__ import annotations

import pytest

from worker.execution.flows import MAX_UINT256, Flows, flows_of
from worker.policies.base import Execution
from worker.signing.contracts import PERMIT2

ACCOUNT, TOKEN, OTHER = "0x" + "aa" * 20, "0x" + "51" * 20, "0x" + "52" * 20
BOB, WRAPPED = "0x" + "b0" * 20, "0x" + "e7" * 20
NATIVE = "0x" + "00" * 20


def call(selector: str, *words: str | int, to: str = TOKEN, value: int = 0) -> Execution:
    data = b"".join(
        word.to_bytes(32) if isinstance(word, int) else bytes(12) + bytes.fromhex(word[2:]) for word in words
    )
    return Execution(to, value, bytes.fromhex(selector) + data)


def read(*calls: Execution) -> Flows:
    return flows_of(calls, account=ACCOUNT, wrapped=WRAPPED)


@pytest.mark.parametrize(
    ("made", "amount", "receivers", "spenders"),
    [
        (call("a9059cbb", BOB, 7), 7, [BOB], []),
        (call("23b872dd", ACCOUNT, BOB, 7), 7, [BOB], []),
        (call("23b872dd", BOB, ACCOUNT, 7), 0, [ACCOUNT], []),
        (call("23b872dd", OTHER, BOB, 7), 7, [BOB], []),
        (call("095ea7b3", BOB, 7), 7, [], [BOB]),
        (call("095ea7b3", BOB, 0), 0, [], []),
        (call("39509351", BOB, 7), 7, [], [BOB]),
        (call("a457c2d7", BOB, 7), 0, [], []),
        (call("a22cb465", BOB, 1), MAX_UINT256, [], [BOB]),
        (call("a22cb465", BOB, 0), 0, [], []),
        (call("87517c45", TOKEN, BOB, 7, 99, to=PERMIT2), 7, [], [BOB]),
    ],
)
def test_known_functions(made: Execution, amount: int, receivers: list[str], spenders: list[str]) -> None:
    found = read(made)
    assert found.amounts.get(TOKEN, 0) == amount
    assert [address for _, address in found.receivers] == receivers
    assert [address for _, address in found.spenders] == spenders
    assert found.unclear == ()
    assert found.handed == (frozenset({TOKEN}) if spenders else frozenset())


def test_native_currency() -> None:
    found = read(Execution(BOB, 5, b""), Execution(WRAPPED, 3, bytes.fromhex("d0e30db0")))
    assert dict(found.amounts) == {NATIVE: 8}
    assert found.receivers == ((0, BOB),)
    assert (found.unclear, found.handed) == ((), frozenset())


def test_what_is_not_known_is_unclear_and_its_value_counts() -> None:
    swap = call("deadbeef", BOB, to=OTHER, value=9)
    found = read(call("a9059cbb", BOB, 1), swap)
    assert dict(found.amounts) == {TOKEN: 1, NATIVE: 9}
    assert found.unclear == ((1, swap),)
    assert found.handed == {NATIVE}


@pytest.mark.parametrize(
    "odd",
    [
        Execution(TOKEN, 0, call("a9059cbb", BOB, 7 << 8).data[:-1]),  # read as the EVM does: zeros behind
        call("a9059cbb", int(BOB, 16) | 1 << 200, 7 << 8),  # dirty upper bytes, which some tokens ignore
        call("a9059cbb", BOB, 7 << 8, value=1),  # a token that takes native currency, too
    ],
    ids=["short", "dirty", "value"],
)
def test_odd_calls_count_and_are_unclear(odd: Execution) -> None:
    found = read(odd)
    assert found.amounts[TOKEN] == 7 << 8
    assert found.receivers == ((0, BOB),)
    assert found.unclear == ((0, odd),)


def test_sums_are_exact_and_end_at_a_uint256() -> None:
    assert (
        read(call("a9059cbb", BOB, 2**255), call("a9059cbb", BOB, 2**255 - 1)).amounts[TOKEN] == MAX_UINT256
    )
    assert read(call("a9059cbb", BOB, MAX_UINT256), call("095ea7b3", BOB, 1)).amounts[TOKEN] == MAX_UINT256


def test_what_is_taken_besides() -> None:
    found = flows_of(
        [call("a9059cbb", BOB, 1)],
        account=ACCOUNT,
        taken={TOKEN: 4, OTHER: 2},
        receivers=[BOB],
        spenders=[OTHER],
    )
    assert dict(found.amounts) == {TOKEN: 5, OTHER: 2}
    assert found.receivers == ((-1, BOB), (0, BOB))
    assert found.spenders == ((-1, OTHER),)
