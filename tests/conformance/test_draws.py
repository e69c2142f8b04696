"""Random draws of everything that we and SDK 1.15.0 compute; ``make conformance`` makes more, and others each time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.conformance import run
from tests.support import whole_draw
from tests.support.conformance import run_draws
from tests.support.differences import Outcome, asked, judge
from tests.support.sdk import SdkOracle
from tests.support.sdk_draws import Draw
from tests.support.whole_draw import WholeDraw
from worker.execution import trade_request
from worker.signing.session_signature import ACCOUNT_KINDS

pytestmark = pytest.mark.services

PARTS, DRAWS_OF_A_PART = 6, 50
#: Shapes that no run may have left out.
SHAPES = (
    *(f"approval: {kind}" for kind in ACCOUNT_KINDS),
    *(f"calls: {kind}" for kind in ACCOUNT_KINDS),
    *(f"owner: {kind}" for kind in ACCOUNT_KINDS),
    "calls: INTENT_EXECUTOR, enable",
    "calls: INTENT_EXECUTOR, use",
    "calls: SAME_CHAIN, enable",
    "calls: SAME_CHAIN, use",
    "calls: bare",
    "session: swap",
    "swap scope: refused",
    "swap scope: sound",
    "trade: 2 chains",
    "trade: 3 chains",
    "trade: INTENT_EXECUTOR, NO_FUNDING",
    "trade: claim policy",
    "trade: restricted",
    "policy: arg-policy",
    "policy: universal-action",
)


class TestDraws:
    """300 draws, the same in each run."""

    total = Outcome()

    @pytest.mark.parametrize("part", range(PARTS))
    def test_no_value_differs(self, sdk: SdkOracle, part: int) -> None:
        found = run_draws(sdk, f"in every run/{part}", DRAWS_OF_A_PART)
        assert (found.draws, found.differences) == (DRAWS_OF_A_PART, [])
        self.total.add(found)

    def test_every_shape_was_drawn(self) -> None:
        if self.total.draws < PARTS * DRAWS_OF_A_PART:
            pytest.skip("only a part of the draws was run")
        assert [name for name in SHAPES if not self.total.seen[name]] == []


class TestPlantedDifferences:
    """What differs is found: in each value that the SDK answers, and in what we compute."""

    def test_each_value_of_the_sdks_answers_counts(self, sdk: SdkOracle) -> None:
        questions = WholeDraw(Draw.named("each value counts")).questions()
        answers = sdk.batch(asked(questions))
        untouched = judge(questions, answers)
        assert untouched.differences == []
        # of an error the words count, not its class
        paths = [path for path in _leaves(answers) if path[-2:] != ("error", "name")]
        assert len(paths) >= untouched.values
        for path in paths:
            with _changed(answers, path):
                assert judge(questions, answers).different == 1, path
        assert judge(questions, answers).differences == []

    @pytest.mark.parametrize("kind", ["digest", "mock", "option", "exception"])
    def test_the_command_reports_it_and_fails(
        self, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(run, "SHRINK_S", 1)
        _plant(kind, monkeypatch)
        status = run.main(["2", "--processes", "1", "--seed", "planted"])
        lines = capsys.readouterr().out.splitlines()
        assert status == 1
        assert lines[-1] == "draws=2 differences=2"
        assert any(line.startswith("difference: ") for line in lines)

    def test_without_one_the_command_ends_well(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run.main(["2", "--processes", "2", "--seed", "not planted"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "draws=2 differences=0"


def test_an_interrupted_run_says_what_it_has_compared_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def two_parts_and_a_signal(label: str, count: int) -> Outcome:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(label)
        return Outcome(draws=count)

    monkeypatch.setattr(run, "_run", two_parts_and_a_signal)
    assert run.main([str(5 * run.CHUNK), "--processes", "1", "--seed", "interrupted"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"draws={2 * run.CHUNK} differences=0"


def _plant(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one thing of ours wrong."""

    def flipped(value: bytes) -> bytes:
        return bytes([value[0] ^ 1]) + value[1:]

    if kind == "digest":
        digest = whole_draw.session_digest
        monkeypatch.setattr(
            whole_draw,
            "session_digest",
            lambda account, data, nonce: flipped(digest(account, data, nonce)),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        )
    elif kind == "mock":
        mock = trade_request.mock_signature
        monkeypatch.setattr(
            trade_request,
            "mock_signature",
            lambda data, chain, count: flipped(mock(data, chain, count)),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        )
    elif kind == "option":
        request = whole_draw.owner_route_request

        def forgetful(*given: Any, **named: Any) -> dict[str, Any]:
            made = request(*given, **named)
            del made["options"]["topupCompact"]
            return made

        monkeypatch.setattr(whole_draw, "owner_route_request", forgetful)
    else:

        def broken(*_: Any, **__: Any) -> dict[str, Any]:
            raise ValueError("planted")

        monkeypatch.setattr(whole_draw, "owner_route_request", broken)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of each value that is no container, and of each empty container."""
    items: Any = ()
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
    elif isinstance(value, list):
        items = enumerate(cast("list[Any]", value))
    if not items:
        yield path
    for name, item in items:
        yield from _leaves(item, (*path, name))


class _changed:  # noqa: N801 - it reads as a verb
    """One value of a tree is another for a while."""

    def __init__(self, tree: Any, path: tuple[str | int, ...]) -> None:
        for name in path[:-1]:
            tree = tree[name]
        self._tree, self._name, self._value = tree, path[-1], tree[path[-1]]

    def __enter__(self) -> None:
        value = self._value
        if isinstance(value, str) and value:
            # the last character may be part of a text's hex, whose case does not count
            self._tree[self._name] = value[:-1] + ("1" if value[-1] == "0" else "0")
        elif isinstance(value, int):
            self._tree[self._name] = value + 1
        else:
            self._tree[self._name] = "something"

    def __exit__(self, *_: object) -> None:
        self._tree[self._name] = self._value
