"""Guardrails of a trade over two real chains: each chain's session says no for what is taken there, and counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.cross_chain import ARBITRUM, BASE, FUNDS, RECIPIENT, USDC_OF, CrossChain
from tests.support.pipeline import transfer
from worker.devnet.chain import ARBITER
from worker.devnet.devnet import Devnet
from worker.execution.approval import approve
from worker.execution.tokens import token_table
from worker.intents.guardrails import read_guardrails
from worker.intents.states import State
from worker.ledger.port import Usage
from worker.ledger.redis_ledger import AWAITING_APPROVAL
from worker.policies.guardrails import SESSION_SCOPE, ScopeRules
from worker.sessions.importing import RegisteredSession

pytestmark = pytest.mark.services


@pytest.fixture
def pipeline(cross_devnet: Devnet, redis_url: str, tmp_path: Path) -> CrossChain:
    """Two sessions, on Base and on Arbitrum."""
    return CrossChain(cross_devnet, redis_url, tmp_path)


def hold(pipeline: CrossChain, session: RegisteredSession, **entry: Any) -> None:
    sessions = pipeline.runtime.sessions
    before = sessions.rules(session.session_id).get(SESSION_SCOPE, ScopeRules(SESSION_SCOPE))
    new = read_guardrails(entry, token_table(session.chain_id))
    sessions.set_guardrails(session.session_id, new, replaces=before)


def usage(pipeline: CrossChain, session: RegisteredSession) -> list[Usage]:
    return list(pipeline.ledger.usage(session.session_id, now_ms=pipeline.runtime.now_ms()))


def test_what_is_taken_counts_with_the_session_of_its_chain(pipeline: CrossChain) -> None:
    hold(pipeline, pipeline.source, per_day="8 USDC", spenders=[ARBITER])
    hold(pipeline, pipeline.target, recipients=[RECIPIENT], max_fee="1 USDC")
    calls = [transfer(1_000_000, token=USDC_OF[ARBITRUM])]
    first = pipeline.run(pipeline.submit_trade("a", calls=calls))[0]
    assert first.state is State.COMPLETED, first.reason
    assert usage(pipeline, pipeline.source) == [
        Usage("session", USDC_OF[BASE], 0, 5_000_000, 5_000_000, 5_000_000)
    ]
    assert usage(pipeline, pipeline.target) == [
        Usage("session", USDC_OF[ARBITRUM], 0, 1_000_000, 1_000_000, 1_000_000)
    ]
    second = pipeline.run(pipeline.submit_trade("b"))[0]
    assert second.state is State.REJECTED
    assert second.reason == (
        "guardrail per_day: 8 USDC allowed in any day, 5 USDC is used or in flight, this trade takes 5 USDC; "
        f"set for session {pipeline.source.session_id} (wait, or ask for less)"
    )
    assert pipeline.held() == (FUNDS - 5_000_000, 4_000_000)
    assert usage(pipeline, pipeline.target)[0].held == 0


@pytest.mark.parametrize(
    ("which", "entry", "words"),
    [
        ("source", {"per_trade": "4 USDC"}, "guardrail per_trade: 4 USDC allowed, this trade takes 5.5 USDC"),
        ("source", {"spenders": [RECIPIENT]}, f"guardrail spenders: {ARBITER} is not listed"),
        ("target", {"recipients": []}, f"guardrail recipients: call 0: {RECIPIENT} is not listed"),
    ],
)
def test_either_session_says_no(pipeline: CrossChain, which: str, entry: dict[str, Any], words: str) -> None:
    session: RegisteredSession = getattr(pipeline, which)
    hold(pipeline, session, **entry)
    calls = [transfer(1_000_000, token=USDC_OF[ARBITRUM])]
    record = pipeline.run(pipeline.submit_trade("a", calls=calls))[0]
    assert (record.state, record.body) == (State.REJECTED, "")
    assert record.reason.startswith(words)
    assert f"set for session {session.session_id}" in record.reason
    assert pipeline.held() == (FUNDS, 0)


def test_a_source_chains_session_can_ask_for_an_approval_and_change_its_mind(pipeline: CrossChain) -> None:
    hold(pipeline, pipeline.source, approval_above="5 USDC")
    intent_id = pipeline.submit_trade("a")
    pipeline.step()
    record = pipeline.ledger.get(intent_id)
    # what the trade may take at most is what an operator is asked for
    assert (record.state, record.attention) == (State.QUEUED, AWAITING_APPROVAL)
    assert "this trade takes 5.5 USDC" in record.reason
    approve(pipeline.runtime, intent_id, who="ops", why="fine")
    pipeline.step()
    assert pipeline.state(intent_id) is State.AUTHORIZED
    hold(pipeline, pipeline.source, approval_above="5 USDC", max_in_flight=1, per_hour="4 USDC")
    pipeline.step()
    assert pipeline.state(intent_id) is State.QUEUED
    record = pipeline.run(intent_id)[0]
    assert record.state is State.REJECTED
    assert record.reason.startswith("guardrail per_hour: 4 USDC allowed in any hour, 0 USDC is used")
    assert pipeline.held() == (FUNDS, 0)
