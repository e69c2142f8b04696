"""Whatever comes in, the evaluator gives a verdict, the models a policy or a ValidationError, the decoders a named error."""

from __future__ import annotations

import json
from typing import Any

from eth_abi.abi import decode
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from worker.errors import ExecutorError
from worker.policies import Policy, Whitelist
from worker.policies.base import Allow, Deny, Execution
from worker.policies.evaluate import (
    FALLBACK_SELECTOR,
    FALLBACK_TARGET,
    ActionPolicies,
    PolicyTable,
    build_table,
    evaluate,
)
from worker.policies.policy import PolicyModel
from worker.policies.rules import CONDITIONS, RULE_ABI
from worker.sessions import emissary

MODEL: TypeAdapter[PolicyModel] = TypeAdapter(Policy)
MAX = 2**256 - 1
ADDRESSES = ("0x" + "11" * 20, "0x" + "22" * 20, "0x" + "00" * 20, FALLBACK_TARGET, "0x" + "ee" * 20)
ERC20 = tuple(map(bytes.fromhex, ("a9059cbb", "23b872dd", "095ea7b3", "39509351", "e9ae5c53", "ffffffff")))

#: Amounts as JSON has them: where numbers break, and what is none.
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2**53, 2**63, 2**64, 2**128, 2**255, MAX, MAX + 1]).map(str),
    st.integers(0, 100),
    st.integers(0, MAX).map(str),
)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**300),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def object_of(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields)


RULES = object_of(
    condition=st.sampled_from(CONDITIONS),
    calldataOffset=st.sampled_from([0, 4, 31, 32, 64, "18446744073709551615"]),
    referenceValue=NUMBERS,
    usageLimit=NUMBERS,
) | object_of(
    condition=st.sampled_from(CONDITIONS),
    calldataOffset=st.integers(0, 100),
    referenceValue=NUMBERS,
)
TREES: st.SearchStrategy[Any] = st.recursive(
    object_of(type=st.just("rule"), rule=RULES),
    lambda child: st.one_of(
        object_of(type=st.just("not"), child=child),
        object_of(type=st.sampled_from(["and", "or"]), left=child, right=child),
    ),
    max_leaves=8,
)
LIMITS = st.lists(object_of(token=st.sampled_from(ADDRESSES), amount=NUMBERS), max_size=3)
POLICIES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    object_of(type=st.just("sudo")),
    object_of(type=st.just("intent-execution")),
    object_of(type=st.just("usage-limit"), limit=NUMBERS),
    object_of(type=st.just("value-limit"), limit=NUMBERS),
    object_of(type=st.just("spending-limits"), limits=LIMITS),
    object_of(
        type=st.just("time-frame"),
        validUntil=st.integers(0, 2**53 - 1),
        validAfter=st.integers(0, 2**53 - 1),
    ),
    object_of(type=st.just("universal-action"), valueLimitPerUse=NUMBERS, rules=st.lists(RULES, max_size=3)),
    object_of(type=st.just("arg-policy"), valueLimitPerUse=NUMBERS, expression=TREES),
)


def made(value: dict[str, Any]) -> PolicyModel | None:
    try:
        return MODEL.validate_python(value)
    except ValidationError:
        return None


def body(words: list[bytes], length: int) -> bytes:
    return b"".join(words)[:length]


def table_of(actions: list[tuple[tuple[str, bytes], list[dict[str, Any]]]], newest: bool) -> PolicyTable:
    entries = [
        ActionPolicies(target, selector, tuple(one for value in policies if (one := made(value))))
        for (target, selector), policies in actions
    ]
    return build_table(entries, newest=newest)


VALUES = st.sampled_from([0, 0, 0, 1, 2**128, MAX])
BODIES = st.builds(
    body,
    st.lists(
        st.sampled_from([0, 1, 2**64, MAX, *(int(one, 16) for one in ADDRESSES)]).map(
            lambda word: word.to_bytes(32, "big")
        ),
        min_size=2,
        max_size=4,
    ),
    st.sampled_from([128, 128, 128, 64, 63, 0]),
)


@st.composite
def operations(draw: st.DrawFn, table: PolicyTable) -> list[Execution]:
    """Calls that the table is for; some with what nobody should pass: the types promise nothing about a route."""
    calls: list[Execution] = []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 0]))):
        target, selector = draw(st.sampled_from(sorted(table.actions)))
        if target == FALLBACK_TARGET:
            target, selector = draw(st.sampled_from(ADDRESSES[:4])), draw(st.sampled_from(ERC20))
        value, data = draw(VALUES), selector + draw(BODIES)
        match draw(st.sampled_from([*["good"] * 9, "target", "value", "data"])):
            case "target":
                target = draw(st.one_of(JUNK, st.text(max_size=44)))
            case "value":
                value = draw(st.one_of(JUNK, st.sampled_from([MAX + 1, -1])))
            case "data":
                data = draw(st.one_of(JUNK, st.binary(max_size=40)))
            case _:
                pass
        junk: Any = (target, value, data)
        calls.append(Execution(*junk))
    return calls


MOMENTS = st.one_of(st.just(1_800_000_000), st.integers(0, 2**40), st.integers(-(2**70), 2**70))
TABLES: st.SearchStrategy[PolicyTable] = st.builds(
    table_of,
    st.lists(
        st.tuples(
            st.one_of(
                st.just((FALLBACK_TARGET, FALLBACK_SELECTOR)),
                st.tuples(st.sampled_from(ADDRESSES[:3]), st.sampled_from(ERC20)),
            ),
            st.lists(POLICIES, min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)


class TestEvaluator:
    """It never raises, and it allows nothing that is malformed."""

    @given(
        TABLES.flatmap(lambda table: st.tuples(st.just(table), operations(table))),
        st.tuples(MOMENTS, MOMENTS, MOMENTS),
        st.booleans(),
    )
    @settings(max_examples=200)
    def test_a_verdict_on_anything(
        self, asked: tuple[PolicyTable, list[Execution]], moments: tuple[int, int, int], exact: bool
    ) -> None:
        table, calls = asked
        verdict = evaluate(
            table,
            calls,
            account=ADDRESSES[1],
            emissary=ADDRESSES[4],
            now_s=moments[0],
            chain_s=moments[1],
            latest_s=moments[2],
            whitelist=Whitelist(frozenset(ADDRESSES[:1]), ADDRESSES[1]),
            sums={} if exact else None,
        )
        if isinstance(verdict, Deny):
            assert -1 <= verdict.call_index < len(calls)
            assert verdict.reason.isprintable()
            assert verdict.reason
            return
        assert isinstance(verdict, Allow)
        assert calls
        for call in calls:
            assert type(call.value) is int
            assert 0 <= call.value <= MAX
            assert type(call.data) is bytes
            assert call.to in ADDRESSES[:3]
        for change in verdict.changes:
            assert type(change.amount) is type(change.limit) is int
            assert 0 < change.amount <= change.limit <= MAX
            assert 0 <= change.call_index < len(calls)


class TestModels:
    """A policy or a ValidationError, and every policy has its init data."""

    @given(POLICIES, st.data())
    @settings(max_examples=100)
    def test_a_policy_with_parts_that_are_junk(self, value: dict[str, Any], data: st.DataObject) -> None:
        place: Any = value
        while True:
            step = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner: Any = place[step]
            if not inner or not isinstance(inner, dict | list) or data.draw(st.booleans()):
                break
            place = inner
        place[step] = data.draw(JUNK)
        self.encodes(made(value))

    @given(POLICIES)
    @settings(max_examples=100)
    def test_what_is_encoded_can_be_read_and_comes_back_from_json(self, value: dict[str, Any]) -> None:
        self.encodes(made(value))

    def encodes(self, policy: PolicyModel | None) -> None:
        if policy is None:
            return
        again = MODEL.validate_json(policy.model_dump_json(by_alias=True, exclude_none=True))
        assert again == policy
        assert again.init_data() == policy.init_data()
        problem = policy.enable_problem()
        assert problem is None or all(problem)
        layout = {
            "spending-limits": ["address[]", "uint256[]"],
            "universal-action": [f"(uint256,(uint256,{RULE_ABI}[16]))"],
            "arg-policy": [f"(uint256,(uint8,{RULE_ABI}[],uint256[]))"],
        }.get(json.loads(policy.model_dump_json())["type"])
        if layout:
            decode(layout, policy.init_data(), strict=True)
        else:
            assert len(policy.init_data()) in {0, 16, 32}
            assert len(policy.v2_init_data()) in {0, 12, 16, 32}


class TestReplies:
    """The session contract's answers: a value, or the error that names the contract."""

    @given(st.one_of(st.binary(max_size=70), st.integers(0, 3).map(lambda word: word.to_bytes(32, "big"))))
    def test_any_answer(self, reply: bytes) -> None:
        for read in (emissary.decode_nonce, emissary.decode_is_permission_enabled):
            refusal: ExecutorError | None = None
            try:
                found = read(reply)
            except ExecutorError as error:
                refusal = error
            else:
                assert len(reply) == 32
                assert found == int.from_bytes(reply)
            if refusal is not None:
                assert refusal.field
                assert str(refusal).isprintable()
