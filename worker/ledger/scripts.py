"""The Lua files, each with what it includes and the table of states in front."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError

from worker.intents.states import FINAL, TRANSITIONS
from worker.ledger import connection

#: script -> the files put before it
_INCLUDES = {
    "enqueue": ("record",),
    "claim": (),
    "store": (),
    "transition": ("bigint", "budget", "guard", "record"),
    "cancel": ("bigint", "budget", "guard", "record"),
    "approve": ("record",),
    "refuse": ("record",),
    "reseal": (),
    "usage": ("bigint", "budget", "guard"),
    "archive": ("record",),
    "tombstone": (),
    "book": ("bigint", "budget"),
    "take_due": (),
    "claim_slot": (),
    "strategy_claim": (),
    "strategy_commit": (),
    "strategy_remove": (),
    "notice_add": (),
    "notice_take": (),
}


@dataclass(frozen=True, slots=True)
class Script:
    """One script's whole text, and the SHA-1 by which Redis caches it."""

    text: str
    sha: str


def lua(name: str) -> str:
    """The text of ``lua/<name>.lua``."""
    return files("worker.ledger").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")


def states_table() -> str:
    """``TRANSITIONS`` and ``FINAL`` as Lua, so that the one table of ``worker/intents/states.py`` holds in Redis too."""
    rows = [
        f"{state} = {{ {', '.join(f'{after} = true' for after in sorted(follow))} }}"
        for state, follow in TRANSITIONS.items()
    ]
    final = ", ".join(f"{state} = true" for state in sorted(FINAL))
    return f"local TRANSITIONS = {{ {', '.join(rows)} }}\nlocal FINAL = {{ {final} }}\n"


@cache
def script(name: str) -> Script:
    """The script ``name``, ready for EVALSHA and EVAL."""
    text = states_table() + "\n".join(lua(part) for part in (*_INCLUDES[name], name))
    # Redis names a cached script by its SHA-1; nothing is protected by it.
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def run(client: redis.Redis, where: str, name: str, names: Sequence[str], args: Sequence[str | int]) -> Any:
    """Run one script; all of them write.

    Args:
        client: as ``connection.connect`` makes it.
        where: the server without credentials, for messages.
        name: of the script.
        names: its keys.
        args: its arguments.

    Raises:
        LedgerUnavailableError: ``maybe_done`` tells whether it may have happened.
        LedgerInconsistentError
    """
    ready = script(name)
    connection.reach(client, where)
    with connection.named_errors(where, writes=True):
        try:
            return client.evalsha(ready.sha, len(names), *names, *args)
        except NoScriptError:
            return client.eval(ready.text, len(names), *names, *args)
