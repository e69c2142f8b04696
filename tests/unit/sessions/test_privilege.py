"""What a session may do beyond what a trade needs is found, scored, told and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.sessions import ACCOUNT, NOW_S, SESSION_ADDRESS, USDC, make_session_file, usdc_transfer
from worker.policies import (
    ArgPolicy,
    Policy,
    SpendingLimits,
    Sudo,
    TimeFrame,
    TokenLimit,
    UniversalAction,
    UsageLimit,
    ValueLimit,
)
from worker.policies.arg_policy import NotExpression, OrExpression, RuleExpression
from worker.policies.rules import Rule
from worker.policies.spending_limits import APPROVE, TRANSFER, TRANSFER_FROM
from worker.sessions.errors import ExcessPrivilegeError
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.sessions.model import Action
from worker.sessions.privilege import (
    CODES,
    UNLIMITED,
    Finding,
    findings,
    require_accepted,
    score,
    summary,
)

DAY = TimeFrame(valid_until=(NOW_S + 86_400) * 1000, valid_after=0)
SPENDER = 0x5E
OTHER = "0x" + "77" * 20
MINT = bytes.fromhex("1249c58b")
PLAIN = bytes.fromhex("ffffffff")


def spending(amount: int, token: str = USDC) -> SpendingLimits:
    return SpendingLimits(limits=(TokenLimit(token=token, amount=amount),))


def rule(condition: Any, offset: int, reference: int = SPENDER, usage_limit: int | None = None) -> Rule:
    return Rule(
        condition=condition, calldata_offset=offset, reference_value=reference, usage_limit=usage_limit
    )


def universal(*rules: Rule, value: int = 0) -> UniversalAction:
    return UniversalAction(rules=rules, value_limit_per_use=value)


def either(*rules: Rule) -> ArgPolicy:
    left, right = (RuleExpression(type="rule", rule=item) for item in rules)
    return ArgPolicy(expression=OrExpression(type="or", left=left, right=right))


def negated(item: Rule) -> ArgPolicy:
    return ArgPolicy(expression=NotExpression(type="not", child=RuleExpression(type="rule", rule=item)))


def session(*actions: Action, **options: Any) -> RegisteredSession:
    return recompute(load_session_file(make_session_file(actions=actions, **options)))


def scoped(selector: bytes, *policies: Policy, target: str = USDC) -> RegisteredSession:
    return session(Action(target=target, selector=selector, policies=policies))


def codes(found: RegisteredSession) -> set[str]:
    return {finding.code for finding in findings(found, now_s=NOW_S)}


PINNED = rule("equal", 0)
CASES: list[tuple[str, bytes, str, tuple[Policy, ...], set[str]]] = [
    ("the tutorial's session", TRANSFER, USDC, (spending(100), DAY), {"any-recipient"}),
    ("a pinned recipient", TRANSFER, USDC, (spending(100), DAY, universal(PINNED)), set()),
    ("no end", TRANSFER, USDC, (spending(100), universal(PINNED)), {"no-expiry"}),
    (
        "a start without an end",
        TRANSFER,
        USDC,
        (spending(100), universal(PINNED), TimeFrame(valid_until=0, valid_after=1000)),
        {"no-expiry"},
    ),
    (
        "366 days are the most",
        TRANSFER,
        USDC,
        (
            spending(1),
            universal(PINNED),
            TimeFrame(valid_until=(NOW_S + 366 * 86_400) * 1000, valid_after=0),
        ),
        set(),
    ),
    (
        "a second more",
        TRANSFER,
        USDC,
        (
            spending(1),
            universal(PINNED),
            TimeFrame(valid_until=(NOW_S + 366 * 86_400 + 1) * 1000, valid_after=NOW_S * 1000),
        ),
        {"long-window"},
    ),
    ("no limit", TRANSFER, USDC, (universal(PINNED), DAY), {"no-limit"}),
    ("calls are no amounts", TRANSFER, USDC, (universal(PINNED), UsageLimit(limit=3), DAY), {"no-limit"}),
    (
        "calls of bounded amounts",
        TRANSFER,
        USDC,
        (universal(PINNED, rule("lessThanOrEqual", 32, 100)), UsageLimit(limit=3), DAY),
        set(),
    ),
    (
        "the sum of the amounts",
        TRANSFER,
        USDC,
        (universal(PINNED, rule("greaterThan", 32, 0, usage_limit=500)), DAY),
        set(),
    ),
    (
        "the sum of another word",
        TRANSFER_FROM,
        USDC,
        (universal(rule("equal", 32), rule("greaterThan", 0, 0, usage_limit=500)), DAY),
        {"no-limit"},
    ),
    ("as large as none", TRANSFER, USDC, (spending(UNLIMITED), universal(PINNED), DAY), {"unlimited-amount"}),
    ("the largest that counts", TRANSFER, USDC, (spending(UNLIMITED - 1), universal(PINNED), DAY), set()),
    ("any spender", APPROVE, USDC, (spending(100), DAY), {"any-spender"}),
    ("a pinned spender", APPROVE, USDC, (spending(100), DAY, universal(PINNED)), set()),
    (
        "one of two spenders",
        APPROVE,
        USDC,
        (spending(100), DAY, either(PINNED, rule("equal", 0, 0x5F))),
        set(),
    ),
    (
        "a spender or an amount",
        APPROVE,
        USDC,
        (spending(100), DAY, either(PINNED, rule("lessThan", 32, 5))),
        {"any-spender"},
    ),
    ("anybody but one", APPROVE, USDC, (spending(100), DAY, negated(PINNED)), {"any-spender"}),
    ("sudo", MINT, OTHER, (Sudo(),), {"sudo", "no-expiry"}),
    (
        "sudo beside a limit is none",
        MINT,
        OTHER,
        (Sudo(), UsageLimit(limit=3), ValueLimit(limit=1), DAY),
        set(),
    ),
    ("a time frame alone", MINT, OTHER, (DAY,), {"no-limit"}),
    ("calls with any value", MINT, OTHER, (UsageLimit(limit=3), DAY), {"no-limit"}),
    (
        "calls with bounded value",
        MINT,
        OTHER,
        (universal(rule("equal", 0), value=5), UsageLimit(limit=3), DAY),
        set(),
    ),
    ("bounded native value", PLAIN, OTHER, (ValueLimit(limit=10**18), DAY), set()),
    ("any native value", PLAIN, OTHER, (ValueLimit(limit=2**256 - 1), DAY), {"unlimited-amount"}),
    (
        "the account itself",
        MINT,
        ACCOUNT,
        (UsageLimit(limit=1), ValueLimit(limit=1), DAY),
        {"own-account"},
    ),
]


@pytest.mark.parametrize(
    ("selector", "target", "policies", "expected"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
def test_an_action_has_just_these_findings(
    selector: bytes, target: str, policies: tuple[Policy, ...], expected: set[str]
) -> None:
    assert codes(scoped(selector, *policies, target=target)) == expected


def test_without_restriction_and_with_a_fallback_everything_is_said() -> None:
    found = findings(session(Action(), restrict=False), now_s=NOW_S)
    assert [finding.code for finding in found] == ["unrestricted", "sudo", "fallback", "no-expiry"]
    assert score(found) == 0


def test_a_session_without_actions_may_do_anything() -> None:
    bare = session(restrict=False)
    assert codes(bare) == {"unrestricted", "sudo", "fallback", "no-expiry"}
    assert any("may call anything: anything goes" in line for line in summary(bare))


def test_a_fallback_with_limits_is_still_one() -> None:
    guarded = session(Action(policies=(spending(5), DAY)), restrict=False)
    assert codes(guarded) == {"unrestricted", "fallback"}
    capped = session(Action(policies=(spending(2**256 - 1), DAY)), restrict=False)
    assert "unlimited-amount" in codes(capped)


def test_a_swap_without_caps_and_end_is_found_and_its_pinned_spenders_are_seen() -> None:
    claims = json.loads(make_session_file())
    for name in ("enableData", "permissionId", "sessionDigest", "multiChainSessionDigest", "actions"):
        claims.pop(name)
    scope = {"sell": {"token": USDC}, "buy": {"token": OTHER}, "to": ACCOUNT}
    unlimited = recompute(load_session_file(json.dumps(claims | {"swap": scope})))
    assert codes(unlimited) == {"no-expiry", "no-limit"}
    scope = {
        "sell": {"token": USDC, "maxTotal": "1000"},
        "buy": {"token": OTHER},
        "to": ACCOUNT,
        "via": [{"id": "rhinestone", "maxSpend": "1000"}],
    }
    assert codes(recompute(load_session_file(json.dumps(claims | {"swap": scope})))) == {"no-expiry"}


def test_the_same_finding_of_many_actions_is_one_and_names_some() -> None:
    actions = [
        Action(target=f"0x{number:040x}", selector=MINT, policies=(ValueLimit(limit=1),))
        for number in range(16, 21)
    ]
    (only,) = findings(session(*actions), now_s=NOW_S)
    assert only.code == "no-expiry"
    assert only.words.count("function 0x1249c58b of 0x") == 3
    assert only.words.endswith(" and 2 more")


def test_the_score_falls_with_each_kind_of_finding() -> None:
    assert score(()) == 100
    best = findings(session(usdc_transfer(1, valid_until_ms=DAY.valid_until)), now_s=NOW_S)
    assert score(best) == 90
    single = [score((Finding(code, "severe", ""),)) for code in CODES]
    assert all(0 < value < 100 for value in single)
    assert score([Finding(code, "severe", "") for code in CODES]) == 0


class TestAccepting:
    """Severe findings are refused one by one, by name."""

    def test_notices_pass(self) -> None:
        require_accepted((Finding("any-recipient", "notice", ""),), ())

    def test_what_is_refused_names_what_to_accept(self) -> None:
        found = findings(session(Action(), restrict=False), now_s=NOW_S)
        with pytest.raises(ExcessPrivilegeError) as caught:
            require_accepted(found, ("sudo", "fallback"))
        assert "[unrestricted]" in caught.value.message
        assert "[sudo]" not in caught.value.message
        assert caught.value.fix.endswith("with --accept-risk unrestricted --accept-risk no-expiry")
        require_accepted(found, ("sudo", "fallback", "no-expiry", "unrestricted"))

    def test_an_unknown_code_is_refused(self) -> None:
        with pytest.raises(ExcessPrivilegeError, match="'everything' is no finding's code"):
            require_accepted((), ("everything",))


class TestSummary:
    """Sentences, with limits in the token's units if the caller knows them."""

    def test_the_tutorials_session(self) -> None:
        lines = summary(
            session(usdc_transfer(100_000_000, valid_until_ms=DAY.valid_until)),
            amount=lambda token, amount: f"<{amount} of {token[:6]}>",
        )
        assert lines[0] == (
            f"the key {SESSION_ADDRESS} may act for the account {ACCOUNT} on Base (8453), without asking its owner"
        )
        assert lines[1] == (
            f"may call transfer(address,uint256) of {USDC} (USDC): at most <100000000 of 0x8335> in all; "
            "until 2027-01-16 08:00:00 UTC; any recipient"
        )
        assert lines[2].startswith("ends at 2027-01-16 08:00:00 UTC here; the chain does not hold it to that")

    def test_rules_and_counters_are_told(self) -> None:
        text = "\n".join(
            summary(
                scoped(
                    APPROVE,
                    universal(PINNED, rule("inRange", 32, (1 << 128) | 9), rule("lessThan", 5, 2**80, 7)),
                    UsageLimit(limit=3),
                    ValueLimit(limit=4),
                    spending(2**255),
                    Sudo(),
                )
            )
        )
        for words in (
            "argument 0 is 94",
            "argument 1 from 1 to 9",
            "the word at 5 < 0x",
            "at most 7 over all calls",
            "3 calls in all",
            "at most 4 wei sent with the calls in all",
            "at most any amount in all",
            "never ends by itself",
        ):
            assert words in text
        assert "anything goes" not in text
        assert "any spender" not in text
