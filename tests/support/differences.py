"""Questions to the SDK with our answers beside them, and what differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

_HEX = re.compile(r"0x[0-9a-fA-F]+")
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Question:
    """What the SDK is asked, and what we say.

    Attributes:
        name: what is compared, for messages.
        method: one of ``oracle.mjs``.
        params: its parameters.
        ours: our answer, ``{"result": …}`` or ``{"error": <words>}``.
        said_instead: classes of the SDK's errors that mean what ours says.
    """

    name: str
    method: str
    params: dict[str, Any]
    ours: dict[str, Any]
    said_instead: tuple[str, ...] = ()

    def answer(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """The SDK's answer, with its error, if it is one, as words."""
        error = theirs.get("error")
        if error is None:
            return theirs
        return self.ours if error["name"] in self.said_instead else {"error": error["message"]}


@dataclass(slots=True)
class Outcome:
    """What became of one draw, or of several.

    Attributes:
        draws: how many.
        different: how many of them showed a difference.
        values: how many single values were compared.
        seen: how often each shape (kind, layer, …) was drawn.
        differences: one line each.
    """

    draws: int = 0
    different: int = 0
    values: int = 0
    seen: Counter[str] = field(default_factory=Counter[str])
    differences: list[str] = field(default_factory=list[str])

    def add(self, other: Outcome) -> None:
        """Count another's draws, too."""
        self.draws += other.draws
        self.different += other.different
        self.values += other.values
        self.seen.update(other.seen)
        self.differences += other.differences


def asked(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The questions as the oracle takes them."""
    return [{"method": item.method, "params": item.params} for item in questions]


def judge(
    questions: Sequence[Question], answers: Sequence[dict[str, Any]], seen: Counter[str] | None = None
) -> Outcome:
    """Hold the SDK's answers to one draw against ours."""
    found = Differences()
    for question, answer in zip(questions, answers, strict=True):
        found.compare(question.name, lowered(question.ours), lowered(question.answer(answer)))
    return Outcome(1, int(bool(found.lines)), found.values, Counter(seen), found.lines)


@dataclass(slots=True)
class Differences:
    """The values of two JSON trees, held against each other."""

    values: int = 0
    lines: list[str] = field(default_factory=list[str])

    def compare(self, path: str, ours: Any, theirs: Any) -> None:
        """Count equal values and note what differs; the order of an object's members counts only inside texts."""
        if isinstance(ours, dict) and isinstance(theirs, dict):
            left, right = cast("dict[str, Any]", ours), cast("dict[str, Any]", theirs)
            for name in {**left, **right}:
                if name in left and name in right:
                    self.compare(f"{path}.{name}", left[name], right[name])
                else:
                    self._differ(f"{path}.{name}", left.get(name, "(none)"), right.get(name, "(none)"))
        elif isinstance(ours, list) and isinstance(theirs, list):
            items, others = cast("list[Any]", ours), cast("list[Any]", theirs)
            if len(items) != len(others):
                self._differ(f"{path}.length", len(items), len(others))
            for index, (item, other) in enumerate(zip(items, others, strict=False)):
                self.compare(f"{path}[{index}]", item, other)
        elif type(ours) is type(theirs) and ours == theirs:
            self.values += 1
        else:
            self._differ(path, ours, theirs)

    def _differ(self, path: str, ours: Any, theirs: Any) -> None:
        left, right = str(ours), str(theirs)
        start = next(
            (index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
            min(len(left), len(right)),
        )
        start = max(0, start - 40) if max(len(left), len(right)) > _SHOWN else 0
        self.lines.append(
            f"{path} (from {start}): ours {left[start : start + _SHOWN]!r}, the SDK's {right[start : start + _SHOWN]!r}"
        )


def lowered(value: Any) -> Any:
    """A JSON value with hex in lower case everywhere: the SDK keeps the letters of an address as they were given."""
    if isinstance(value, dict):
        return {name: lowered(item) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [lowered(item) for item in cast("list[Any]", value)]
    return _HEX.sub(lambda found: found[0].lower(), value) if isinstance(value, str) else value
