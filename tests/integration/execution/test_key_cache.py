"""A signer that keeps keys for some seconds, in the real pipeline: what an operator does takes them away."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.pipeline import Pipeline
from worker.execution.runtime import Runtime
from worker.intents.states import State
from worker.keys.cache import KeyCache
from worker.ledger.pauses import account_switch
from worker.policies.guardrails import SESSION_SCOPE, Guardrails, ScopeRules

pytestmark = pytest.mark.services


@pytest.fixture
def signer(pipeline: Pipeline) -> Runtime:
    """The pipeline's services, with a cache."""
    pipeline.runtime = pipeline.new_runtime(key_cache_s=300.0)
    return pipeline.runtime


def kept(cache: KeyCache) -> int:
    return len(cache._kept)  # pyright: ignore[reportPrivateUsage]


def sign(pipeline: Pipeline, key: str) -> None:
    assert pipeline.run(pipeline.submit(key))[0].state is State.COMPLETED
    assert kept(pipeline.runtime.key_cache) == 1


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_the_setting_there_is_none(pipeline: Pipeline) -> None:
    assert pipeline.runtime.signing_keys(pipeline.session.session_id) is pipeline.runtime.keys


def test_the_key_is_kept_and_whatever_an_operator_changes_drops_it(
    pipeline: Pipeline, signer: Runtime
) -> None:
    other = pipeline.new_runtime()  # the operator's process
    session_id, account = pipeline.session.session_id, pipeline.session.account
    held_to = Guardrails(max_in_flight=5)

    def edit() -> None:
        other.sessions.set_guardrails(session_id, held_to, replaces=ScopeRules(SESSION_SCOPE))

    changes: dict[str, Callable[[], object]] = {
        "session paused": lambda: other.sessions.set_paused(session_id, paused=True),
        "account paused": lambda: other.pauses.pause(
            account_switch(account), why="drill", who="me", now_ms=1
        ),
        "guardrails": edit,
        "key command": other.tell_keys_changed,
    }
    for name, change in changes.items():
        sign(pipeline, name)
        change()
        until(lambda: kept(signer.key_cache) == 0)
        other.sessions.set_paused(session_id, paused=False)
        other.pauses.resume(account_switch(account))


def test_a_key_that_is_destroyed_is_not_used_again(pipeline: Pipeline, signer: Runtime) -> None:
    sign(pipeline, "before")
    pipeline.keys.destroy(pipeline.key_address)
    intent_id = pipeline.submit("after")
    for _ in range(2):
        pipeline.step()
    record = pipeline.ledger.get(intent_id)
    assert (record.state, record.attention, record.body) == (State.AUTHORIZED, "KEY_STORE", "")
    assert kept(signer.key_cache) == 0
    assert pipeline.executed() == 1
