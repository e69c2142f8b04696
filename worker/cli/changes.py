"""What a person changes: who asked for it, what was there before and after, and what came of it, in the audit trail."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.audit import os_user
from worker.errors import ExecutorError

if TYPE_CHECKING:
    from worker.execution.runtime import Runtime


def operator() -> str:
    """Who runs this command, as the operating system knows them: ``user@host``."""
    return os_user()


class Change:
    """A change that is being made; what is learned of it on the way goes into its line."""

    def __init__(self, facts: dict[str, object]) -> None:
        self.facts = facts
        self.outcome = "done"

    def say(self, **facts: object) -> None:
        """Add ``before``, ``after`` and the like. No secrets."""
        self.facts |= facts


@contextmanager
def change(services: Runtime, what: str, *, stops: bool = False, **facts: object) -> Generator[Change]:
    """Make a change within the block: one line with its outcome follows, also when it was refused.

    Args:
        services: whose audit trail gets the line.
        what: the change in words: ``session paused``.
        stops: it only takes away what could be signed, so it must be possible without an audit trail.
        facts: what it is about; no secrets.

    Raises:
        AuditError: the trail cannot be written, and nothing was changed.
    """
    if not stops:
        services.audit.check()
    made = Change(facts)
    try:
        yield made
    except ExecutorError as error:
        made.outcome = "maybe done" if getattr(error, "maybe_done", False) else "refused"
        made.say(error=str(error))
        raise
    except BaseException:
        made.outcome = "not known"
        raise
    finally:
        services.audit.tell("change", who=operator(), what=what, **made.facts, outcome=made.outcome)
