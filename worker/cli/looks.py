"""Looks at services: each ends in a finding, and none holds up the others. For ``doctor`` and ``health``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from worker.errors import ExecutorError

#: What a look gives: ok or warn, what was seen, and the fix.
Seen = tuple[Literal["ok", "warn", "fail"], str, str]
Look = tuple[str, Callable[[], Seen]]
"""What is looked at, and how."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``detail`` and ``fix`` may hold several lines."""

    what: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


def ok(detail: str) -> Seen:
    """What a look gives that has found nothing wrong."""
    return "ok", detail, ""


class Group:
    """Looks that need the same service, one after the other, in a thread that nobody has to wait for.

    When the first of them fails the others are not tried: without the service they would only repeat it.
    """

    def __init__(self, looks: Sequence[Look]) -> None:
        self._looks = looks
        self._found: list[Finding] = []
        # a daemon: a service that never ends its answer must not keep the command alive
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def findings(self, ends: float, bound_s: float) -> list[Finding]:
        """One finding for each look, at the latest when the monotonic clock shows ``ends``."""
        self._thread.join(max(0.0, ends - time.monotonic()))
        found = list(self._found)
        for what, _ in self._looks[len(found) :]:
            first = found[0] if found else None
            if first is None or first.status != "fail":
                found.append(
                    Finding(what, "fail", f"no answer within {bound_s:g} s", "see whether it is overloaded")
                )
            else:
                found.append(Finding(what, "warn", f"not looked at: {first.what} failed", first.fix))
        return found

    def _run(self) -> None:
        for what, look in self._looks:
            self._found.append(look_at(what, look))
            if self._found[0].status == "fail":
                return


def look_at(what: str, look: Callable[[], Seen]) -> Finding:
    """One look; whatever it raises is a finding."""
    try:
        return Finding(what, *look())
    except ExecutorError as error:
        where = f"{error.field}: " if error.field and error.field != what else ""
        return Finding(what, "fail", f"{where}{error.message}", error.fix)
    except Exception as error:  # noqa: BLE001 - one broken look must not hide the others
        return Finding(what, "fail", f"unexpected {type(error).__name__}", "report this")
