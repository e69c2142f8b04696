"""Names of the Redis keys.

Everything of one session carries the hash tag ``{<16 hex digits>}`` and so lies in one slot of a Redis Cluster; a
script touches the keys of one session, or of one strategy's slots, only. The exception is a trade over several chains,
which reserves in the budgets of all its sessions at once: in a cluster those have to share a node.

============================  ======  ==================================================
``sx:sessions``               set     the sessions' 16 hex digits
``sx:{S}:intent:<id>``        hash    the record
``sx:{S}:history:<id>``       list    its history, JSON, append only
``sx:{S}:open``               zset    ids that are not final, by due time (unix ms)
``sx:{S}:late``               zset    COMPLETED ids whose orchestrator is not done yet, by due time (unix ms)
``sx:{S}:failed_late``        zset    COMPLETED ids that failed afterwards, by when that was seen (unix ms)
``sx:{S}:all``                zset    every id, by creation time (unix ms)
``sx:{S}:counts``             hash    state -> number of records, ``archived`` -> of tombstones; ``seq``: one more with every transition
``sx:{S}:archived``           hash    the last 24 digits of an archived intent's id -> its tombstone, see ``tombstone.py``
``sx:{S}:ended``              stream  intents that ended and are not told yet, see ``notices.py``
``sx:{S}:budget``             hash    ``<counter>|spent``, ``|reserved``, ``|limit``, ``|token``, ``|policy``, ``|elsewhere``
``sx:{S}:resolutions``        list    differences from the chain that operators have resolved, JSON
``sx:{S}:guard``              hash    what the guardrails have counted, see ``lua/guard.lua``
``sx:{S}:flight``             zset    trades in flight, by their start (unix ms)
``sx:{S}:spent``              zset    what trades of the last week took, by when they were settled (unix ms)
``sx:{S}:session``            hash    the session and its guardrails, see ``worker/sessions/registry.py``
``sx:slots:{strategy}``       zset    fire times that are taken (unix seconds)
``sx:slots:{strategy}:floor`` string  newest fire time that was forgotten
``sx:strategy:{N}``          hash    a strategy's cursor, lease and memory, see ``strategies.py``
``sx:strategy:{N}:missed``    list    slots that were not fired, JSON
``sx:strategies``             hash    strategies that were added at run time, JSON by name
``sx:{notices}:…``                    notifications, see ``notices.py``
``sx:pauses``                 hash    kill switches that are off, see ``pauses.py``
``sx:keys``                   string  one more with every session key that was rotated, wrapped or destroyed
``sx:ledger``                 hash    the ledger's epoch, see ``epoch.py``
``sx:archiving``              string  which process archives at the moment
============================  ======  ==================================================
"""

from __future__ import annotations

import re

from worker.ledger.errors import IntentNotFoundError, LedgerInputError

SESSIONS = "sx:sessions"
PAUSES = "sx:pauses"
LEDGER = "sx:ledger"
KEYS = "sx:keys"
ARCHIVING = "sx:archiving"
STRATEGIES = "sx:strategies"

_MAX_IDEMPOTENCY_KEY = 200
_SESSION = re.compile(r"ses_[0-9a-f]{16}")
_INTENT = re.compile(r"int_([0-9a-f]{16})_[0-9a-f]{24}")


def digits_of_session(session_id: str) -> str:
    """The hash tag of a session id ``ses_<16 hex>``. Raises LedgerInputError."""
    if not _SESSION.fullmatch(session_id):
        raise LedgerInputError(
            f"{session_id!r} is no session id",
            field="session_id",
            fix="it is ses_ and 16 lower-case hex digits",
        )
    return session_id.removeprefix("ses_")


def digits_of_intent(intent_id: str) -> str:
    """The hash tag of an intent id ``int_<16 hex>_<24 hex>``. Raises IntentNotFoundError."""
    match = _INTENT.fullmatch(intent_id)
    if not match:
        raise IntentNotFoundError(
            f"no intent has the id {intent_id!r}",
            field="intent_id",
            fix="ids look like int_<16 hex>_<24 hex>; see `session-executor intents list`",
        )
    return match[1]


def session_of(intent_id: str) -> str:
    """The id of an intent's session. Raises IntentNotFoundError."""
    return f"ses_{digits_of_intent(intent_id)}"


def require_idempotency_key(key: str) -> None:
    """Refuse a caller's key that cannot name an execution. Raises LedgerInputError."""
    if not 1 <= len(key) <= _MAX_IDEMPOTENCY_KEY or not key.isprintable():
        raise LedgerInputError(
            f"has {len(key)} characters or some that cannot be printed",
            field="idempotency_key",
            fix=f"use 1 to {_MAX_IDEMPOTENCY_KEY} printable characters",
        )


def intent(intent_id: str) -> str:
    """The record's hash."""
    return f"sx:{{{digits_of_intent(intent_id)}}}:intent:{intent_id}"


def history(intent_id: str) -> str:
    """The record's history."""
    return f"sx:{{{digits_of_intent(intent_id)}}}:history:{intent_id}"


def of_session(digits: str, name: str) -> str:
    """``open``, ``all``, ``counts``, ``budget``, ``guard``, … of a session."""
    return f"sx:{{{digits}}}:{name}"


def slots(strategy: str) -> str:
    """The fire times of a strategy. Raises LedgerInputError for a name that would break the hash tag."""
    if not strategy or not strategy.isprintable() or set(strategy) & set("{}"):
        raise LedgerInputError(
            f"{strategy!r} is no strategy name",
            field="strategy",
            fix="use printable characters without braces",
        )
    return f"sx:slots:{{{strategy}}}"


def strategy(name: str) -> str:
    """The state of a strategy; same rule for its name as in ``slots``."""
    return slots(name).replace("sx:slots:", "sx:strategy:", 1)
