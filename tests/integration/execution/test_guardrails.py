"""Each guardrail on real services: what it stops is refused with its numbers and its scope, and is never signed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.pipeline import RECIPIENT, Pipeline, transfer
from tests.support.sessions import ACCOUNT, USDC
from worker.execution.approval import approve
from worker.execution.runtime import Runtime
from worker.execution.tokens import token_table
from worker.intents.guardrails import read_guardrails
from worker.intents.model import IntentRecord, Swap
from worker.intents.states import State
from worker.ledger.errors import IllegalTransitionError
from worker.ledger.redis_ledger import AWAITING_APPROVAL
from worker.policies.base import Execution
from worker.policies.guardrails import SESSION_SCOPE, ScopeRules
from worker.policies.sudo import Sudo
from worker.sessions.importing import RegisteredSession
from worker.sessions.model import Action

pytestmark = pytest.mark.services
STRANGER = "0x" + "51" * 20
ROUTER = "0x" + "70" * 20
WETH = "0x4200000000000000000000000000000000000006"
APPROVE = bytes.fromhex("095ea7b3")
SWAP = bytes.fromhex("deadbeef")
DCA = "strategy:dca"


def hold(
    pipeline: Pipeline, *, scope: str = SESSION_SCOPE, session: RegisteredSession | None = None, **entry: Any
) -> None:
    """Set guardrails as people write them, in place of those that are there."""
    sessions, session_id = pipeline.runtime.sessions, (session or pipeline.session).session_id
    before = sessions.rules(session_id).get(scope, ScopeRules(scope))
    new = read_guardrails(entry, token_table(pipeline.devnet.chain_id))
    sessions.set_guardrails(session_id, new, replaces=before)


def words(pipeline: Pipeline, scope: str = SESSION_SCOPE) -> str:
    session_id = pipeline.session.session_id
    return f"session {session_id}" if scope == SESSION_SCOPE else f"strategy dca (in session {session_id})"


def refused(pipeline: Pipeline, intent_id: str) -> str:
    """The reason of an intent that was refused before anything was signed or reserved."""
    record = pipeline.run(intent_id)[0]
    assert record.state is State.REJECTED, record
    assert record.body == ""
    return record.reason


def refused_first(pipeline: Pipeline, intent_id: str) -> str:
    """The same, while the messages of others wait."""
    others = [message for message in pipeline.messages if message[1] != intent_id]
    pipeline.messages[:] = [("prepare", intent_id)]
    pipeline.step()
    pipeline.messages += others
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.body) == (State.REJECTED, "")
    return record.reason


def done(pipeline: Pipeline, intent_id: str) -> IntentRecord:
    record = pipeline.run(intent_id)[0]
    assert record.state is State.COMPLETED, record
    return record


def sudo_session(pipeline: Pipeline, *calls: tuple[str, bytes]) -> RegisteredSession:
    """A session that the chain would let make these calls with any arguments."""
    return pipeline.approve(
        actions=[Action(target=to, selector=selector, policies=(Sudo(),)) for to, selector in calls]
    )


def allowance(token: str, spender: str, amount: int) -> Execution:
    return Execution(token, 0, APPROVE + bytes(12) + bytes.fromhex(spender[2:]) + amount.to_bytes(32))


def test_per_trade(pipeline: Pipeline) -> None:
    hold(pipeline, per_trade="10 USDC")
    reason = refused(pipeline, pipeline.submit("over", transfer(10_000_001)))
    assert reason == (
        "guardrail per_trade: 10 USDC allowed, this trade takes 10.000001 USDC; set for "
        f"{words(pipeline)} (ask for less)"
    )
    # the calls of a trade count together
    assert "takes 12 USDC" in refused(
        pipeline, pipeline.submit("two", transfer(6_000_000), transfer(6_000_000))
    )
    assert pipeline.devnet.requests("/intents/route", "POST") == []
    done(pipeline, pipeline.submit("at", transfer(10_000_000)))
    assert pipeline.budget() == (10_000_000, 0)


def test_a_token_that_is_not_named_is_not_bounded(pipeline: Pipeline) -> None:
    hold(pipeline, per_trade=["1 WETH", "0 ETH"])
    done(pipeline, pipeline.submit("a"))


@pytest.mark.parametrize("window", ["hour", "day", "week"])
def test_rolling_caps(pipeline: Pipeline, window: str) -> None:
    cap: dict[str, Any] = {f"per_{window}": "15 USDC"}
    hold(pipeline, **cap)
    done(pipeline, pipeline.submit("a", transfer(10_000_000)))
    reason = refused(pipeline, pipeline.submit("b", transfer(5_000_001)))
    assert reason == (
        f"guardrail per_{window}: 15 USDC allowed in any {window}, 10 USDC is used or in flight, this trade takes "
        f"5.000001 USDC; set for {words(pipeline)} (wait, or ask for less)"
    )
    assert pipeline.budget() == (10_000_000, 0)
    waiting = pipeline.submit("c", transfer(5_000_000))
    pipeline.step()
    assert pipeline.state(waiting) is State.AUTHORIZED
    # what is in flight counts, too, and what failed does not
    assert "15 USDC is used or in flight" in refused_first(pipeline, pipeline.submit("d", transfer(1)))
    pipeline.ledger.cancel(waiting, who="test", why="test", now_ms=pipeline.runtime.now_ms())
    done(pipeline, pipeline.submit("e", transfer(5_000_000)))


def test_a_cap_that_is_set_later_holds_for_what_came_before(pipeline: Pipeline) -> None:
    done(pipeline, pipeline.submit("a", transfer(10_000_000)))
    hold(pipeline, per_day="10 USDC")
    assert "10 USDC is used or in flight" in refused(pipeline, pipeline.submit("b", transfer(1)))


def test_recipients(pipeline: Pipeline) -> None:
    hold(pipeline, recipients=[RECIPIENT])
    reason = refused(pipeline, pipeline.submit("a", transfer(1), transfer(1, STRANGER)))
    assert reason == (
        f"guardrail recipients: call 1: {STRANGER} is not listed; set for {words(pipeline)} (list the receiver)"
    )
    done(pipeline, pipeline.submit("b", transfer(1)))
    hold(pipeline, recipients=[])
    assert "is not listed" in refused(pipeline, pipeline.submit("c", transfer(1)))


def test_spenders_and_calls_that_nobody_can_read(pipeline: Pipeline) -> None:
    session = sudo_session(pipeline, (USDC, APPROVE), (ROUTER, SWAP))

    def reason(key: str, *calls: Execution) -> str:
        return refused(pipeline, pipeline.submit(key, *calls, session_id=session.session_id))

    hold(pipeline, session=session, spenders=[ROUTER])
    assert f"guardrail spenders: call 0: {STRANGER} is not listed" in reason(
        "a", allowance(USDC, STRANGER, 5)
    )
    hold(pipeline, session=session, recipients=[RECIPIENT])
    assert f"guardrail recipients: call 0: {ROUTER} is not listed" in reason("b", allowance(USDC, ROUTER, 5))
    assert (
        f"guardrail recipients: call 0: who receives by function 0xdeadbeef of {ROUTER} cannot be told"
        in reason("c", Execution(ROUTER, 0, SWAP + bytes(32)))
    )


def test_an_allowance_counts_as_taken(pipeline: Pipeline) -> None:
    session = sudo_session(pipeline, (USDC, APPROVE))
    hold(pipeline, session=session, per_trade="10 USDC")
    reason = refused(
        pipeline, pipeline.submit("a", allowance(USDC, ROUTER, 2**256 - 1), session_id=session.session_id)
    )
    assert reason.startswith("guardrail per_trade: 10 USDC allowed, this trade takes 1157920892373")


def test_cooldown(pipeline: Pipeline) -> None:
    hold(pipeline, cooldown="1h")
    done(pipeline, pipeline.submit("a"))
    reason = refused(pipeline, pipeline.submit("b"))
    assert reason.startswith("guardrail cooldown: 3600 s must lie between two trades, ")
    assert reason.endswith(f"have passed since the last; set for {words(pipeline)} (wait)")
    # what ended without success leaves no cooldown behind
    hold(pipeline, scope=DCA, cooldown="1h")
    hold(pipeline)
    first = pipeline.submit("c", source=DCA)
    pipeline.step()
    pipeline.ledger.cancel(first, who="test", why="test", now_ms=pipeline.runtime.now_ms())
    done(pipeline, pipeline.submit("d", source=DCA))


def test_max_in_flight(pipeline: Pipeline) -> None:
    done(pipeline, pipeline.submit("enables"))
    hold(pipeline, max_in_flight=2)
    first, second = pipeline.submit("a"), pipeline.submit("b")
    pipeline.step()
    pipeline.step()
    assert {pipeline.state(first), pipeline.state(second)} == {State.AUTHORIZED}
    assert refused_first(pipeline, pipeline.submit("c")) == (
        f"guardrail max_in_flight: 2 trades allowed in flight, 2 are; set for {words(pipeline)} (wait for one to end)"
    )
    done(pipeline, first)
    done(pipeline, pipeline.submit("d"))


def test_a_strategy_is_held_to_both_and_others_only_to_the_session(pipeline: Pipeline) -> None:
    hold(pipeline, scope=DCA, per_trade="5 USDC", per_day="8 USDC")
    reason = refused(pipeline, pipeline.submit("a", transfer(5_000_001), source=DCA))
    assert reason.endswith(f"set for {words(pipeline, DCA)} (ask for less)")
    done(pipeline, pipeline.submit("b", transfer(5_000_000), source=DCA))
    reason = refused(pipeline, pipeline.submit("c", transfer(5_000_000), source=DCA))
    assert reason.startswith("guardrail per_day: 8 USDC allowed in any day, 5 USDC is used")
    assert words(pipeline, DCA) in reason
    done(pipeline, pipeline.submit("d", transfer(6_000_000), source="strategy:other"))
    hold(pipeline, per_trade="1 USDC")
    assert words(pipeline) in refused(pipeline, pipeline.submit("e", transfer(2_000_000), source=DCA))


def test_no_guardrail_loosens_a_policy(pipeline: Pipeline) -> None:
    hold(
        pipeline,
        per_trade="1000000 USDC",
        per_day="1000000 USDC",
        recipients=[RECIPIENT],
        spenders=[STRANGER],
    )
    assert refused(pipeline, pipeline.submit("a", transfer(100_000_001))).startswith("spending-limits: ")
    assert refused(pipeline, pipeline.submit("b", allowance(USDC, STRANGER, 1))).startswith("session: ")
    assert pipeline.budget() == (0, 0)


class TestApproval:
    """Above the threshold an intent waits for an operator."""

    def test_it_waits_and_goes_on_after_approval(self, pipeline: Pipeline) -> None:
        hold(pipeline, approval_above="5 USDC")
        intent_id = pipeline.submit("a", transfer(5_000_001))
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.attention) == (State.QUEUED, AWAITING_APPROVAL)
        assert record.reason == (
            f"guardrail approval_above: 5 USDC allowed by {words(pipeline)} without an approval, this trade takes "
            "5.000001 USDC"
        )
        assert pipeline.budget() == (0, 0)
        # however often it is asked for, it goes no further
        for _ in range(3):
            pipeline.messages.append(("prepare", intent_id))
            pipeline.step()
        assert pipeline.messages == []
        assert pipeline.state(intent_id) is State.QUEUED
        assert pipeline.devnet.requests("/intents/route", "POST") == []

        approve(pipeline.runtime, intent_id, who="ops@desk", why="looked at it")
        record = done(pipeline, intent_id)
        assert record.fields["approved_by"] == "ops@desk"
        assert abs(int(record.fields["approved_ms"]) - time.time() * 1000) < 60_000
        assert [(entry.who, entry.why) for entry in record.history if entry.who == "ops@desk"] == [
            ("ops@desk", "looked at it")
        ]

    def test_at_the_threshold_nobody_is_asked(self, pipeline: Pipeline) -> None:
        hold(pipeline, approval_above="5 USDC")
        done(pipeline, pipeline.submit("a", transfer(5_000_000)))

    def test_an_approval_opens_nothing_else(self, pipeline: Pipeline) -> None:
        hold(pipeline, approval_above="0 USDC")
        intent_id = pipeline.submit("a", transfer(1))
        pipeline.step()
        hold(pipeline, approval_above="0 USDC", per_day="0 USDC")
        approve(pipeline.runtime, intent_id, who="ops", why="fine")
        assert refused(pipeline, intent_id).startswith("guardrail per_day: ")

    def test_what_waits_for_nothing_cannot_be_approved(self, pipeline: Pipeline) -> None:
        intent_id = pipeline.submit("a")
        with pytest.raises(IllegalTransitionError, match="waits for no approval"):
            approve(pipeline.runtime, intent_id, who="ops", why="in advance")
        done(pipeline, intent_id)

    def test_it_can_be_canceled(self, pipeline: Pipeline) -> None:
        hold(pipeline, approval_above="0 USDC")
        intent_id = pipeline.submit("a")
        pipeline.step()
        pipeline.ledger.cancel(intent_id, who="ops", why="no", now_ms=pipeline.runtime.now_ms())
        with pytest.raises(IllegalTransitionError):
            approve(pipeline.runtime, intent_id, who="ops", why="yes")
        assert pipeline.state(intent_id) is State.CANCELED

    @pytest.mark.parametrize("bound", ["max_lateness", "not_after"])
    def test_it_ends_when_its_time_has_passed(self, pipeline: Pipeline, bound: str) -> None:
        lateness: dict[str, Any] = {"max_lateness": "2s"} if bound == "max_lateness" else {}
        hold(pipeline, approval_above="0 USDC", **lateness)
        until = {"not_after": int(time.time()) + 2} if bound == "not_after" else {}
        intent_id = pipeline.submit("a", **until)
        [record] = pipeline.run(intent_id)
        assert record.state is State.EXPIRED
        assert bound in record.reason
        assert record.body == ""

    def test_a_threshold_that_comes_before_signing_is_obeyed(self, pipeline: Pipeline) -> None:
        intent_id = pipeline.submit("a")
        pipeline.step()
        assert pipeline.state(intent_id) is State.AUTHORIZED
        hold(pipeline, approval_above="0 USDC")
        pipeline.step()
        assert pipeline.state(intent_id) is State.QUEUED
        assert pipeline.budget() == (0, 0)
        pipeline.step()
        assert pipeline.ledger.get(intent_id).attention == AWAITING_APPROVAL
        approve(pipeline.runtime, intent_id, who="ops", why="fine")
        done(pipeline, intent_id)


class TestTime:
    """What changes by itself is looked at again right before the keys are taken."""

    def test_max_lateness_before_the_quote(self, pipeline: Pipeline) -> None:
        hold(pipeline, max_lateness="1s")
        intent_id = pipeline.submit("a")
        time.sleep(2.1)
        [record] = pipeline.run(intent_id)
        assert record.state is State.EXPIRED
        assert record.reason.startswith("guardrail max_lateness: ")
        assert record.reason.endswith(f"1 s are allowed by {words(pipeline)}")
        assert pipeline.devnet.requests("/intents/route", "POST") == []

    def test_max_lateness_before_signing(self, pipeline: Pipeline) -> None:
        hold(pipeline, max_lateness="2s")
        intent_id = pipeline.submit("a")
        pipeline.step()
        assert pipeline.state(intent_id) is State.AUTHORIZED
        time.sleep(3.1)
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.body) == (State.EXPIRED, "")
        assert pipeline.budget() == (0, 0)

    def test_a_slot_is_late_from_its_own_time(self, pipeline: Pipeline) -> None:
        hold(pipeline, scope=DCA, max_lateness="10m")
        now_s = int(time.time())
        [record] = pipeline.run(pipeline.submit(f"{DCA}:{now_s - 700}", source=DCA))
        assert record.state is State.EXPIRED
        assert words(pipeline, DCA) in record.reason
        done(pipeline, pipeline.submit(f"{DCA}:{now_s - 300}", source=DCA))

    def test_min_session_left(self, pipeline: Pipeline) -> None:
        hold(pipeline, min_session_left="2d")
        reason = refused(pipeline, pipeline.submit("a"))
        assert reason.startswith(
            f"guardrail min_session_left: {words(pipeline)} asks for 172800 s, and the session is valid for 86"
        )
        hold(pipeline, min_session_left="12h")
        done(pipeline, pipeline.submit("b"))

    def test_min_session_left_is_asked_again_before_signing(self, pipeline: Pipeline) -> None:
        intent_id = pipeline.submit("a")
        pipeline.step()
        left_s = pipeline.session.expires_s - int(time.time())
        hold(pipeline, min_session_left=f"{left_s + 60}s")
        pipeline.step()  # the guardrails have changed: judged again
        assert pipeline.state(intent_id) is State.QUEUED
        assert refused(pipeline, intent_id).startswith("guardrail min_session_left: ")

    def test_min_quote_left(self, pipeline: Pipeline) -> None:
        hold(pipeline, min_quote_left="12h")
        intent_id = pipeline.submit("a")
        pipeline.step()
        record = pipeline.ledger.get(intent_id)
        assert (record.state, record.attention) == (State.QUEUED, "QUOTE")
        assert "43200 s are needed" in record.reason
        hold(pipeline, min_quote_left="10s")
        done(pipeline, intent_id)

    def test_guardrails_that_change_in_the_middle_of_the_last_stage(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        intent_id = pipeline.submit("a")
        pipeline.step()
        ask = pipeline.runtime.chain.call_and_time

        def slow(to: str, data: bytes) -> tuple[bytes, int]:
            hold(pipeline, recipients=[])
            return ask(to, data)

        monkeypatch.setattr(pipeline.runtime.chain, "call_and_time", slow)
        pipeline.step()
        assert pipeline.state(intent_id) is State.QUEUED
        monkeypatch.undo()
        assert refused(pipeline, intent_id).startswith("guardrail recipients: ")


def test_guardrails_that_change_before_the_reservation(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided and counted in one step: what was judged under other guardrails reserves nothing and is judged again."""
    intent_id = pipeline.submit("a")
    quote = pipeline.runtime.orchestrator.quote

    def slow(request: Any) -> Any:
        hold(pipeline, per_trade="1 USDC")
        return quote(request)

    monkeypatch.setattr(pipeline.runtime.orchestrator, "quote", slow)
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.attention, pipeline.budget()) == (State.QUEUED, "", (0, 0))
    monkeypatch.undo()
    assert refused(pipeline, intent_id).startswith("guardrail per_trade: ")


class TestReferencePrices:
    """What a swap is sure to bring is held against the reference price."""

    def swap(
        self,
        pipeline: Pipeline,
        key: str,
        *,
        least: int,
        sold: int = 10_000_000,
        swaps: Sequence[Swap] | None = None,
    ) -> str:
        session = sudo_session(pipeline, (USDC, APPROVE), (ROUTER, SWAP))
        hold(pipeline, session=session, min_rates="2500 USDC = 1 WETH", max_slippage="1%")
        calls = (allowance(USDC, ROUTER, sold), Execution(ROUTER, 0, SWAP + least.to_bytes(32)))
        told = (Swap(USDC, 10_000_000, WETH, least),) if swaps is None else tuple(swaps)
        return pipeline.submit(key, *calls, session_id=session.session_id, swaps=told)

    def test_what_brings_enough_passes(self, pipeline: Pipeline) -> None:
        intent_id = self.swap(pipeline, "a", least=3_960_000_000_000_000)
        pipeline.step()
        assert pipeline.state(intent_id) is State.AUTHORIZED

    def test_what_brings_less_is_refused_with_the_numbers(self, pipeline: Pipeline) -> None:
        reason = refused(pipeline, self.swap(pipeline, "a", least=3_959_999_999_999_999))
        assert reason.startswith(
            "guardrail min_rates: at least 0.00396 WETH must be received (the reference price less 1.00 %), this trade is "
            "sure of 0.003959999999999999 WETH; set for session "
        )

    def test_a_swap_that_does_not_say_its_minimum_is_refused(self, pipeline: Pipeline) -> None:
        reason = refused(pipeline, self.swap(pipeline, "a", least=1, swaps=()))
        assert "what they receive for it at least cannot be told" in reason

    def test_a_minimum_that_is_in_no_call_is_refused(self, pipeline: Pipeline) -> None:
        lie = Swap(USDC, 10_000_000, WETH, 10**18)
        assert "is in no call" in refused(pipeline, self.swap(pipeline, "a", least=1, swaps=[lie]))

    def test_more_than_is_said_to_be_swapped_is_refused(self, pipeline: Pipeline) -> None:
        reason = refused(pipeline, self.swap(pipeline, "a", least=3_960_000_000_000_000, sold=10_000_001))
        assert "the calls take 10.000001 USDC, and only 10 USDC is said to be swapped" in reason


def test_a_gas_refund_is_signed_only_within_its_guardrail(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quote asks for a refund; what the executor really takes, only it knows, so rate and overhead are bounded."""
    asked = {"token": USDC, "exchangeRate": 3_000, "overhead": 90_000}
    with_refund(pipeline.runtime, asked, monkeypatch)
    assert "nobody has agreed to" in refused(pipeline, pipeline.submit("a", sponsored=False))

    def allow(rate: int, overhead: int, **more: Any) -> None:
        hold(
            pipeline,
            max_gas_refund={"token": "USDC", "exchange_rate": str(rate), "overhead": str(overhead)},
            **more,
        )

    allow(2_999, 90_000)
    reason = refused(pipeline, pipeline.submit("b", sponsored=False))
    assert "exchangeRate: is 3000; the guardrail max_gas_refund allows 2999" in reason
    allow(3_000, 89_999)
    assert "overhead: is 90000" in refused(pipeline, pipeline.submit("c", sponsored=False))
    # a strategy can narrow it
    allow(3_000, 90_000)
    hold(pipeline, scope=DCA, max_gas_refund={"token": "USDC", "exchange_rate": "1", "overhead": "90000"})
    assert "allows 1" in refused(pipeline, pipeline.submit("d", sponsored=False, source=DCA))
    intent_id = pipeline.submit("e", sponsored=False)
    pipeline.step()
    assert pipeline.state(intent_id) is State.AUTHORIZED
    # and taken back before it is signed
    hold(pipeline)
    pipeline.step()
    assert "nobody has agreed to" in refused(pipeline, intent_id)
    assert len(pipeline.devnet.executions(ACCOUNT)) == 0


def with_refund(runtime: Runtime, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every quote ask for a gas refund."""
    import dataclasses
    import json

    ask = runtime.orchestrator.quote

    def quote(request: Any) -> Any:
        found = ask(request)
        op = json.loads(found.raw)
        context = op["elements"][0]["mandate"]["qualifier"]["settlementContext"]
        context["gasRefund"] = asked
        return dataclasses.replace(found, raw=json.dumps(op), intent_op=op)

    monkeypatch.setattr(runtime.orchestrator, "quote", quote)
