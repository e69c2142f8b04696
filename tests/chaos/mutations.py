"""Guards of the pipeline, each with what takes it away: a chaos test that passes without its guard proves nothing.

Applied by ``tests/chaos/app.py`` in the workers' processes, before the first script is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worker.execution import submit, watch
from worker.execution.attempt import Attempt
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.ledger import scripts


def _replace(owner: Any, name: str, new: Callable[..., Any]) -> None:
    """Put another function in place of ``owner.name``, which must be there."""
    assert hasattr(owner, name), name
    setattr(owner, name, new)


def _in_lua(name: str, old: str, new: str) -> None:
    """Change one place of a Lua file."""
    real = scripts.lua

    def changed(wanted: str) -> str:
        text = real(wanted)
        if wanted != name:
            return text
        assert text.count(old) == 1, f"{name}.lua holds {old!r} {text.count(old)} times"
        return text.replace(old, new)

    scripts.lua = changed


def _sent_is_not_noted() -> None:
    real = Attempt.note

    def note(attempt: Attempt, *, due_ms: int = 0, **fields: str) -> None:
        if fields.pop("sent", None) is None:
            real(attempt, due_ms=due_ms, **fields)

    _replace(Attempt, "note", note)


def _fence_is_not_checked() -> None:
    _in_lua("transition", "if now[2] ~= ARGV[2] then", "if false then")


def _limit_is_not_checked() -> None:
    _in_lua("budget", "or big_compare(total, limit) > 0 then", "then")


def _not_known_is_expired() -> None:
    def not_found(runtime: Runtime, record: IntentRecord) -> None:
        watch._move(runtime, record, State.EXPIRED, "not known", {})  # pyright: ignore[reportPrivateUsage]

    _replace(watch, "_not_found", not_found)


def _not_known_is_quoted_anew() -> None:
    _in_lua("transition", "if from_state == 'SIGNED' and to_state == 'QUEUED' and", "if false and")

    def not_found(runtime: Runtime, record: IntentRecord) -> None:
        watch._move(runtime, record, State.QUEUED, "not known", {})  # pyright: ignore[reportPrivateUsage]

    _replace(watch, "_not_found", not_found)


def _no_answer_is_a_failure() -> None:
    def on_error(attempt: Attempt, error: Exception) -> None:
        attempt.move(State.FAILED, str(error))

    _replace(submit, "_on_error", on_error)


def _claimed_is_not_due() -> None:
    _in_lua(
        "claim",
        "redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])",
        "redis.call('ZREM', KEYS[2], ARGV[1])",
    )


def _completed_is_not_spent() -> None:
    _in_lua("transition", "changes_of(held), to_state == 'COMPLETED')", "changes_of(held), false)")


def _never_quarantined() -> None:
    _in_lua("claim", "if now[3] ~= '' then", "if false then")


MUTATIONS: dict[str, Callable[[], None]] = {
    "sent_is_not_noted": _sent_is_not_noted,
    "fence_is_not_checked": _fence_is_not_checked,
    "limit_is_not_checked": _limit_is_not_checked,
    "not_known_is_expired": _not_known_is_expired,
    "not_known_is_quoted_anew": _not_known_is_quoted_anew,
    "no_answer_is_a_failure": _no_answer_is_a_failure,
    "claimed_is_not_due": _claimed_is_not_due,
    "completed_is_not_spent": _completed_is_not_spent,
    "never_quarantined": _never_quarantined,
}
"""Name -> what takes the guard away."""
