"""Holds both sides of a sequence against each other, and cuts a sequence that differs down to what matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.onchain.chain import DRIVER, Outcome, PolicyChain
from tests.onchain.draws import WHITELIST, Draw, Taken, take, without
from tests.onchain.judge import Judge, Step
from worker.policies.policy import PolicyModel


@dataclass(frozen=True, slots=True)
class Difference:
    """A sequence on which the sides differ.

    Attributes:
        number: of the sequence.
        index: of its first step that differs.
        what: in words.
        steps: the sequence.
    """

    number: int
    index: int
    what: str
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Tally:
    """What was compared.

    Attributes:
        sequences: how many.
        differences: those that differ.
        seen: how often each kind of step went which way.
    """

    sequences: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])
    seen: Counter[str] = field(default_factory=Counter[str])

    def add(self, other: Tally) -> None:
        """Add another part of the same run."""
        self.sequences += other.sequences
        self.differences += other.differences
        self.seen += other.seen


def new_judge(chain: PolicyChain) -> Judge:
    """Our side, before the first step."""
    return Judge(chain.now_s, DRIVER, WHITELIST, newest=chain.newest)


def compare(
    chain: PolicyChain, number: int, tally: Tally, models: Sequence[type[PolicyModel]] | None = None
) -> None:
    """Draw a sequence, judge it on both sides, and add what comes out to the tally.

    Args:
        chain: the chain's side.
        number: of the sequence.
        tally: is added to.
        models: only these policies, of those on the chain; None: all.
    """
    judge = new_judge(chain)
    taken = Draw(number, judge, tuple(chain.policies) if models is None else models).steps()
    outcomes = chain.run([one.step for one in taken], judge.watched)
    tally.sequences += 1
    found = differ(taken, outcomes, tally.seen)
    if found is not None:
        index, what = found
        tally.differences.append(Difference(number, index, what, tuple(one.step for one in taken)))


def differ(
    taken: Sequence[Taken], outcomes: Sequence[Outcome], seen: Counter[str] | None = None
) -> tuple[int, str] | None:
    """The first step that differs and how; None when there is none."""
    seen = Counter() if seen is None else seen
    for index, (ours, theirs) in enumerate(zip(taken, outcomes, strict=True)):
        judgement = ours.judgement
        what = "enable" if ours.step.enabling else "operate"
        if judgement.careful and not theirs.passed:
            return index, f"the rule for {judgement.careful} allows what the chain denies {_why(theirs)}"
        if judgement.inexact:
            # the chain may go on where we stop, and then its state does
            seen["stricter"] += 1
            return None
        if judgement.passed is not theirs.passed:
            sides = "allowed here, denied there" if judgement.passed else "denied here, allowed there"
            return index, f"{what}: {sides} ({judgement.why or _why(theirs)})"
        for watched, state in theirs.states.items():
            expected = ours.states.get(watched, (0, 0))
            if expected is not None and expected != state:
                name = f"{watched.model.__name__} {watched.part} of {watched.key[0]} 0x{watched.key[1].hex()}"
                return index, f"{what}: {name} is {state} on the chain and {expected} here"
        way = "passed" if theirs.passed else "refused"
        seen[f"{what} {way}"] += 1
        for policy in judgement.policies:
            seen[f"{policy} {way}"] += 1
        seen["states"] += len(theirs.states)
    return None


def shorten(chain: PolicyChain, difference: Difference) -> Difference:
    """Leave out steps and calls as long as the sides still differ."""
    best = Difference(
        difference.number, difference.index, difference.what, difference.steps[: difference.index + 1]
    )
    tried = len(best.steps) - 1
    while tried >= 0:
        for call in (None, *range(len(best.steps[tried].executions) if tried < len(best.steps) else 0)):
            steps = without(best.steps, tried, call)
            found = _differ_again(chain, steps)
            if found is not None:
                index, what = found
                best = Difference(best.number, index, what, tuple(steps[: index + 1]))
                break
        else:
            tried -= 1
            continue
        tried = min(tried, len(best.steps) - 1)
    return best


def _differ_again(chain: PolicyChain, steps: Sequence[Step]) -> tuple[int, str] | None:
    judge = new_judge(chain)
    taken = [take(judge, step) for step in steps]
    return differ(taken, chain.run(steps, judge.watched))


def _why(outcome: Outcome) -> str:
    return f"with 0x{outcome.revert_data.hex()[:80]}"
