"""Random sequences: sessions over all policies, and operations that go for the policies' edges."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.onchain.chain import DRIVER, address_of
from tests.onchain.judge import Judge, Judgement, Key, Session, Step
from worker.policies import (
    ArgPolicy,
    IntentExecution,
    SpendingLimits,
    Sudo,
    TimeFrame,
    TokenLimit,
    UniversalAction,
    UsageLimit,
    ValueLimit,
    Whitelist,
)
from worker.policies.base import Execution
from worker.policies.evaluate import FALLBACK_SELECTOR, FALLBACK_TARGET, ActionPolicies, action_id
from worker.policies.fields import MAX_SAFE_INTEGER, ZERO_ADDRESS
from worker.policies.policy import PolicyModel
from worker.policies.rules import CONDITIONS, Rule

MAX = 2**256 - 1
ACCOUNTS = (address_of("account 1"), address_of("account 2"))
PERMISSIONS = (b"\x01" * 32, b"\x02" * 32)
TOKENS = tuple(address_of(f"token {number}") for number in range(3))
LISTED = (address_of("listed 1"), address_of("listed 2"))
PAYMASTER = address_of("paymaster")
STRANGER = address_of("stranger")
WHITELIST = Whitelist(frozenset(LISTED), PAYMASTER)

TRANSFER, TRANSFER_FROM = bytes.fromhex("a9059cbb"), bytes.fromhex("23b872dd")
APPROVE, INCREASE = bytes.fromhex("095ea7b3"), bytes.fromhex("39509351")
EXECUTE, VALUE, OTHER = bytes.fromhex("e9ae5c53"), b"\xff" * 4, bytes.fromhex("12345678")
ERC20 = (TRANSFER, TRANSFER_FROM, APPROVE, INCREASE)
POWERS = (2**53, 2**63, 2**64, 2**127, 2**128, 2**160, 2**255, MAX)
OFFSETS = (0, 0, 32, 32, 64, 96, 1, 4, 31, 33, 60, 2**32, 2**64 - 1, 2**64 - 36)
DEEPEST = 82
"""Rules of a right-leaning chain that the public contract still evaluates to the end (policies.md 2)."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A step and what we say of it.

    Attributes:
        step: the step.
        judgement: ours.
        states: what the chain must hold after it.
    """

    step: Step
    judgement: Judgement
    states: dict[Any, Any]


def take(judge: Judge, step: Step) -> Taken:
    """Judge a step and note the state after it."""
    judgement = judge.take(step)
    return Taken(step, judgement, {one: judge.state(one) for one in judge.watched})


class Draw:
    """One random sequence.

    Args:
        number: which; the same number is the same sequence, as long as our side judges the same.
        judge: our side, from its start. Drawing asks it for what is left of a limit.
        models: the policies that may be used.
    """

    def __init__(self, number: int, judge: Judge, models: Sequence[type[PolicyModel]]) -> None:
        self.random = random.Random(f"onchain {number}")
        self.judge = judge
        # what keeps state is drawn more often
        self.models = [
            model for model in models for _ in range(1 if model in {Sudo, IntentExecution, TimeFrame} else 3)
        ]
        self.sessions: list[Session] = [
            (account, permission) for account in ACCOUNTS for permission in PERMISSIONS
        ]

    def steps(self) -> list[Taken]:
        """The sequence: one or two sessions, some twenty steps, now and then another enabling."""
        sessions = self.random.sample(self.sessions, self.random.choice((1, 1, 1, 2)))
        taken = [take(self.judge, self.enabling(session)) for session in sessions]
        for _ in range(self.random.randint(8, 24)):
            session = self.random.choice(sessions)
            again = self.random.random() < (0.06 if self.judge.table(session).actions else 0.9)
            taken.append(take(self.judge, self.enabling(session) if again else self.operation(session)))
        return taken

    # --- sessions

    def enabling(self, session: Session) -> Step:
        """One to four actions, some of them there already."""
        known = list(self.judge.table(session).actions)
        actions: list[ActionPolicies] = []
        for _ in range(self.random.randint(1, 4)):
            target, selector = (
                self.random.choice(known) if known and self.random.random() < 0.5 else self.key(session)
            )
            count = self.random.choice((0, 1, 1, 1, 1, 1, 2, 2, 3))
            policies = tuple(self.policy(target, selector) for _ in range(count))
            actions.append(ActionPolicies(target, selector, policies))
            known.append((target, selector))
        return Step(*session, enabling=True, actions=tuple(actions))

    def key(self, session: Session) -> Key:
        """Target and selector of an action."""
        if self.random.random() < 0.15:
            return FALLBACK_TARGET, FALLBACK_SELECTOR
        return self.target(session), self.selector()

    def target(self, session: Session) -> str:
        """Mostly a token; sometimes what has rules of its own."""
        special = (ZERO_ADDRESS, session[0], DRIVER, FALLBACK_TARGET, LISTED[0], STRANGER)
        return self.random.choice(special if self.random.random() < 0.06 else (*TOKENS, *TOKENS, LISTED[0]))

    def selector(self) -> bytes:
        """Mostly an ERC-20 function."""
        return self.random.choice((*ERC20, TRANSFER, TRANSFER, APPROVE, OTHER, VALUE, EXECUTE))

    def policy(self, target: str, selector: bytes) -> PolicyModel:
        """A policy; now and then one that cannot be enabled, or that no call of the action can pass."""
        model = self.random.choice(self.models)
        while model is SpendingLimits and selector not in (*ERC20, FALLBACK_SELECTOR) and self.often():
            model = self.random.choice(self.models)
        if model is UsageLimit:
            return UsageLimit(limit=self.random.choice((0, 1, 2, 3, 3, 5, 8, 2**128 - 1)))
        if model is ValueLimit:
            return ValueLimit(limit=self.limit())
        if model is SpendingLimits:
            return self.spending(target)
        if model is TimeFrame:
            if self.often():
                start, end = self.random.choice(((-1, 1), (0, 1), (0, 0), (-1000, 10**6), (-1, 0), (1, 9)))
                now = self.judge.now_s
                return TimeFrame(valid_until=end and (now + end) * 1000, valid_after=(now + start) * 1000)
            return TimeFrame(valid_until=self.moment_ms(), valid_after=self.moment_ms())
        if model is UniversalAction:
            count = self.random.choice(
                (1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 16) if self.random.random() < 0.98 else (0,)
            )
            return UniversalAction(
                value_limit_per_use=self.per_use(), rules=tuple(self.rule() for _ in range(count))
            )
        if model is ArgPolicy:
            return ArgPolicy.model_validate(
                {"valueLimitPerUse": str(self.per_use()), "expression": self.expression()}
            )
        return Sudo() if model is Sudo else IntentExecution()

    def spending(self, target: str) -> SpendingLimits:
        """One to three tokens, the action's most often among them."""
        tokens = [self.random.choice(TOKENS) for _ in range(self.random.choice((1, 1, 2, 3)))]
        if target in TOKENS and self.random.random() < 0.8:
            tokens[0] = target
        if self.random.random() < 0.02:
            tokens.append(ZERO_ADDRESS)
        return SpendingLimits(limits=tuple(TokenLimit(token=token, amount=self.limit()) for token in tokens))

    def often(self) -> bool:
        """Four times of five."""
        return self.random.random() < 0.8

    def limit(self) -> int:
        """A limit; rarely 0."""
        return 0 if self.random.random() < 0.02 else max(1, self.amount())

    def per_use(self) -> int:
        """Native value per call."""
        return self.random.choice((0, 0, 0, 1, self.amount()))

    def moment_ms(self) -> int:
        """A moment at or around the chain's time, far away, or none."""
        now = self.judge.now_s
        moment = self.random.choice((0, 0, now - 1, now, now + 1, now - 1000, now + 1000, now + 10**6))
        if self.random.random() < 0.05:
            return self.random.choice((1, 999, MAX_SAFE_INTEGER))
        return moment * 1000 + self.random.choice((0, 0, 1, 999))

    def amount(self) -> int:
        """Small, or near a power where numbers break elsewhere."""
        if self.random.random() < 0.5:
            return self.random.randint(0, 100)
        power = self.random.choice(POWERS)
        return min(MAX, max(0, power + self.random.randint(-2, 2)))

    def rule(self) -> Rule:
        """A rule on one of the first words, rarely beyond any calldata."""
        condition = self.random.choice(CONDITIONS)
        reference = self.amount()
        if condition == "inRange":
            ends = [self.random.choice((0, 5, 50, 2**53, 2**64, 2**128 - 1)) for _ in range(2)]
            if self.random.random() < 0.9:
                ends.sort()
            reference = ends[0] << 128 | ends[1]
        limited = self.random.random() < 0.5
        return Rule(
            condition=condition,
            calldata_offset=self.random.choice(OFFSETS if self.random.random() < 0.15 else (0, 32)),
            reference_value=reference,
            usage_limit=self.amount() if limited else None,
        )

    def expression(self) -> dict[str, Any]:
        """A small tree, or a long chain."""
        if self.random.random() < 0.04:
            return self.chain(self.random.choice((DEEPEST, DEEPEST - 1, 20, 128)))
        return self.tree(self.random.randint(0, 4))

    def tree(self, depth: int) -> dict[str, Any]:
        """A random tree."""
        kind = self.random.choice(("rule", "not", "and", "and", "or", "or")) if depth else "rule"
        if kind == "rule":
            return {"type": kind, "rule": self.rule().model_dump(by_alias=True, mode="json")}
        if kind == "not":
            return {"type": kind, "child": self.tree(depth - 1)}
        return {"type": kind, "left": self.tree(depth - 1), "right": self.tree(depth - 1)}

    def chain(self, rules: int) -> dict[str, Any]:
        """A right-leaning chain in which any rule may be the one that decides."""
        kind = self.random.choice(("and", "or"))
        decides = "notEqual" if kind == "and" else "equal"

        def rule(value: int) -> dict[str, Any]:
            made = Rule(condition=decides, calldata_offset=0, reference_value=value)
            return {"type": "rule", "rule": made.model_dump(by_alias=True, mode="json")}

        tree = rule(rules)
        for value in range(rules - 1, 0, -1):
            tree = {"type": kind, "left": rule(value), "right": tree}
        return tree

    # --- operations

    def operation(self, session: Session) -> Step:
        """Mostly one call; batches up to five, and the empty one."""
        count = self.random.choices((0, 1, 2, 3, 5), (1, 60, 20, 10, 5))[0]
        calls: list[Execution] = []
        for _ in range(count):
            repeat = bool(calls) and self.random.random() < 0.3
            calls.append(calls[-1] if repeat else self.call(session))
        return Step(*session, enabling=False, executions=tuple(calls))

    def call(self, session: Session) -> Execution:
        """A call that some action is for, or any; with arguments at the edges of its policies."""
        if self.random.random() < 0.02:
            return Execution(session[0], 0, EXECUTE + bytes(64))
        actions = self.judge.table(session).actions
        if self.random.random() < 0.7:
            actions = {key: found for key, found in actions.items() if found}
        target, selector = self.target(session), self.selector()
        if self.random.random() < 0.3:
            target = self.random.choice(LISTED)
        key = (FALLBACK_TARGET, FALLBACK_SELECTOR)
        if actions and self.random.random() < 0.95:
            key = self.random.choice(list(actions))
            if key != (FALLBACK_TARGET, FALLBACK_SELECTOR):
                target, selector = key
        policies = actions.get((target, selector)) or actions.get(key, ())
        matched = (target, selector) if actions.get((target, selector)) else key
        value = self.value(session, matched, policies)
        return Execution(target, value, self.data(session, target, selector, matched, policies))

    def value(self, session: Session, key: Key, policies: Sequence[PolicyModel]) -> int:
        """Native value: mostly none, else what is left, what a call may send, or one too much."""
        edges = [0]
        for policy in policies:
            if isinstance(policy, ValueLimit):
                edges += [policy.limit, self.left(session, key, policy, "-", policy.limit), 1]
            elif isinstance(policy, UniversalAction | ArgPolicy):
                edges.append(policy.value_limit_per_use)
        if any(isinstance(policy, SpendingLimits) for policy in policies) and self.random.random() < 0.9:
            return 0
        value = self.random.choice(edges)
        caps = [one.value_limit_per_use for one in policies if isinstance(one, UniversalAction | ArgPolicy)]
        if caps and self.often():
            value = min(value, *caps)
        value += self.random.choice((0,) * 10 + (1, -1))
        if self.random.random() < 0.05:
            value = self.amount()
        return min(MAX, max(0, value))

    def left(self, session: Session, key: Key, policy: PolicyModel, part: str, limit: int) -> int:
        """What is left of a counter."""
        kind = str(getattr(policy, "type", ""))
        return max(0, limit - self.judge.used(session, f"{action_id(*key)}:{kind}:{part}"))

    def data(
        self, session: Session, target: str, selector: bytes, key: Key, policies: Sequence[PolicyModel]
    ) -> bytes:
        """Calldata of the function, as it should be or damaged."""
        if selector == VALUE and self.random.random() < 0.8:
            return self.random.randbytes(self.random.choice((0, 0, 0, 1, 3)))
        amounts = [self.amount()]
        for policy in policies:
            if isinstance(policy, SpendingLimits):
                limit = policy.limit_of(target)
                left = self.left(session, key, policy, target, limit)
                amounts += [left, left, left // 2, left // 3, limit]
        words = [self.word(session) for _ in range(self.random.choice((0, 1, 2, 2, 3, 4, 6)))]
        if selector in ERC20:
            words = [self.word(session) for _ in range(2 if selector == TRANSFER_FROM else 1)]
            words.append(self.near(self.random.choice(amounts)))
        if any(isinstance(policy, IntentExecution) for policy in policies) and self.often():
            words[:1] = [int(self.random.choice((*LISTED, PAYMASTER)), 16)]
        self.meet_rules(session, key, policies, words)
        data = bytearray(selector + b"".join(word.to_bytes(32, "big") for word in words))
        damage = self.random.random()
        if damage < 0.06:
            del data[self.random.choice((len(data) - 32, self.random.randrange(len(data) + 1))) :]
        elif damage < 0.12:
            data += self.random.randbytes(self.random.choice((1, 31, 32, 100)))
        elif damage < 0.15 and len(data) > 36:
            data[self.random.randrange(4, 16)] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def word(self, session: Session) -> int:
        """An address, mostly."""
        people = (STRANGER, STRANGER, session[0], LISTED[0], PAYMASTER, ZERO_ADDRESS)
        return int(self.random.choice(people), 16) if self.random.random() < 0.8 else self.amount()

    def near(self, amount: int) -> int:
        """Exactly that, or one beside it."""
        return min(MAX, max(0, amount + self.random.choice((0, 0, 0, 0, 1, -1))))

    def meet_rules(
        self, session: Session, key: Key, policies: Sequence[PolicyModel], words: list[int]
    ) -> None:
        """Put what the rules compare with into the words that they look at."""
        rules: list[tuple[PolicyModel, int, Rule]] = []
        for policy in policies:
            if isinstance(policy, UniversalAction):
                rules += [(policy, number, rule) for number, rule in enumerate(policy.rules)]
            elif isinstance(policy, ArgPolicy):
                rules += [(policy, number, rule) for number, rule in enumerate(policy.compiled[0])]
        self.random.shuffle(rules)
        for policy, number, rule in rules[:8]:
            place, rest = divmod(rule.calldata_offset, 32)
            while place >= len(words) and place < 4 and self.often():
                words.append(self.word(session))
            if rest or place >= len(words) or self.random.random() < 0.2:
                continue
            reference = rule.reference_value
            edges = [reference, reference + 1, reference - 1, words[place], 0, 1]
            if rule.condition == "inRange":
                low, high = reference >> 128, reference % 2**128
                edges = [low, high, (low + high) // 2, low - 1, high + 1]
            left = MAX
            if rule.usage_limit is not None:
                left = self.left(session, key, policy, f"rule{number}", rule.usage_limit)
                edges += [left, left // 2]
            edges = [edge for edge in edges if 0 <= edge <= MAX]
            held = [edge for edge in edges if rule.holds(edge) and edge <= left]
            words[place] = self.random.choice(held) if held and self.often() else self.random.choice(edges)


def without(steps: Sequence[Step], index: int, call: int | None = None) -> list[Step]:
    """The steps without one of them, or without one of its calls."""
    shorter = list(steps)
    if call is None:
        del shorter[index]
    else:
        calls = shorter[index].executions
        shorter[index] = replace(shorter[index], executions=calls[:call] + calls[call + 1 :])
    return shorter
