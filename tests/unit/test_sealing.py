"""Seals: what they hold together, which keys count, and that nothing of a key shows."""

from __future__ import annotations

from hashlib import sha256

import pytest

from worker.errors import ServiceError
from worker.sealing import Sealer, SealKeys

FIRST, SECOND = sha256(b"seal key one of the tests").digest(), sha256(b"seal key two of the tests").digest()


def sealer(current: str = "one", **keys: bytes) -> Sealer:
    return Sealer(lambda: SealKeys(current, keys or {"one": FIRST}))


class TestSeals:
    """A seal is good for exactly what it was made of."""

    def test_its_own(self) -> None:
        assert sealer().problem(sealer().seal("intent", "a", "b"), "intent", "a", "b") == ""

    @pytest.mark.parametrize(
        ("kind", "parts"),
        [
            ("session", ("a", "b")),
            ("intent", ("b", "a")),
            ("intent", ("ab", "")),
            ("intent", ("a", "b", "")),
            ("intent", ('a","b',)),
            ("intent", ("a",)),
            ("intent", ("a", "B")),
        ],
    )
    def test_nothing_else(self, kind: str, parts: tuple[str, ...]) -> None:
        assert sealer().problem(sealer().seal("intent", "a", "b"), kind, *parts) != ""

    @pytest.mark.parametrize(
        "seal", ["", ":", "one", "one:", "two:" + "0" * 64, "one:" + "0" * 64, "one:é\ud800"]
    )
    def test_what_is_no_seal(self, seal: str) -> None:
        assert sealer().problem(seal, "intent", "a") != ""


class TestKeys:
    """The current key seals; all that are listed are accepted."""

    def test_an_older_key_counts_while_it_is_listed(self) -> None:
        old = sealer().seal("intent", "a")
        both = sealer("two", one=FIRST, two=SECOND)
        assert both.problem(old, "intent", "a") == ""
        assert both.seal("intent", "a").startswith("two:")
        assert "none of ours" in sealer("two", two=SECOND).problem(old, "intent", "a")

    def test_a_key_that_was_added_meanwhile_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stored = [SealKeys("one", {"one": FIRST})]
        ours = Sealer(lambda: stored[-1])
        ours.seal("intent", "a")
        stored.append(SealKeys("two", {"one": FIRST, "two": SECOND}))
        monkeypatch.setattr("worker.sealing._RELOAD_AFTER_S", 0)
        assert ours.problem(sealer("two", two=SECOND).seal("intent", "a"), "intent", "a") == ""

    def test_keys_that_are_known_outlive_an_outage_of_their_store(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers: list[SealKeys] = [SealKeys("one", {"one": FIRST})]

        def load() -> SealKeys:
            if answers:
                return answers.pop()
            raise ServiceError("is sealed")

        monkeypatch.setattr("worker.sealing._KEEP_S", 0)
        ours = Sealer(load)
        assert ours.problem(ours.seal("intent", "a"), "intent", "a") == ""

    def test_without_keys_nothing_is_sealed_or_accepted(self) -> None:
        def load() -> SealKeys:
            raise ServiceError("is sealed")

        for attempt in (
            lambda: Sealer(load).seal("i", "a"),
            lambda: Sealer(load).problem("one:00", "i", "a"),
        ):
            with pytest.raises(ServiceError):
                attempt()

    def test_no_key_shows(self) -> None:
        shown = f"{SealKeys('one', {'one': FIRST})!r} {sealer()!r}"
        assert repr(FIRST) not in shown
        assert FIRST.hex() not in shown
