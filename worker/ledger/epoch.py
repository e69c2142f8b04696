"""Is the ledger the one that we wrote? Notices that Redis has forgotten something, and stops trading until a person says so.

The hash ``sx:ledger`` of Redis:

- ``epoch``     a random name of this ledger, made once and again with every confirmation;
- ``replaces``  the epochs that the last confirmation stands for, separated by spaces;
- ``lost``      JSON of the first notice of a loss: ``under`` (the epoch that Redis had), ``follows`` (the one that the
                finder knew), ``who``, ``why``, ``at_ms``. It counts while ``under`` is the epoch, and stops every worker.

Beside it each machine keeps marks of its own, see ``marks.py``. Every change is one command on one key.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import redis
import structlog

from worker.json_depth import check_depth
from worker.ledger import connection, keys
from worker.ledger.codec import storable
from worker.ledger.errors import LedgerInputError, LedgerLostError
from worker.ledger.marks import Marks

log = structlog.get_logger(__name__)

_FIX = "`session-executor ledger status`, compare with the chain, then `session-executor ledger confirm`"
_MAX_WHY = 500


@dataclass(frozen=True, slots=True)
class LedgerStatus:
    """What is known.

    Attributes:
        epoch: of Redis, ``""`` for none.
        known: the one that this machine follows, ``""`` for none.
        loss: what is wrong, ``""`` while the ledger is whole as far as can be seen.
        who, at_ms: who noticed it first, and when (unix ms; 0 if it was noticed just now).
    """

    epoch: str
    known: str
    loss: str
    who: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look at Redis, and what this machine knew before it.

    Attributes:
        values: the hash.
        known: the epoch that this machine follows.
        numbers: session digits, our mark, the number in Redis.
    """

    values: dict[str, str]
    known: str
    numbers: tuple[tuple[str, int, int], ...]

    def forgotten(self) -> str:
        """What Redis knows less of than this machine, ``""`` for nothing."""
        for digits, mark, seq in self.numbers:
            if seq < mark:
                return (
                    f"it is at change {seq} of session ses_{digits}, and this machine has seen change {mark}"
                )
        return ""


class LedgerEpoch:
    """The gate that every signature passes.

    Args:
        client: Redis, with a bound on every command.
        where: its URL without credentials.
        marks: this machine's memory.
    """

    def __init__(self, client: redis.Redis, marks: Marks, *, where: str) -> None:
        self._redis = client
        self._where = where
        self._marks = marks

    def require_whole(self, session_id: str, *, who: str, now_ms: int) -> None:
        """Pass if Redis still knows all that this machine has seen of the ledger; name the ledger if it is new.

        Args:
            session_id: whose numbers are compared.
            who: this process, for the notice of a loss.
            now_ms: unix milliseconds.

        Raises:
            LedgerLostError: it has forgotten something, or another process has noticed that.
            StateDirError, LedgerUnavailableError
        """
        self._require([keys.digits_of_session(session_id)], who, now_ms)

    def look(self, *, who: str, now_ms: int) -> None:
        """As ``require_whole``, for every session that this machine knows: a loss is noticed before anybody trades.

        Raises:
            LedgerLostError, StateDirError, LedgerUnavailableError
        """
        self._require(self._marks.sessions(), who, now_ms)

    def _require(self, sessions: Sequence[str], who: str, now_ms: int) -> None:
        seen = self._look(sessions)
        if not seen.values.get("epoch") and not seen.values.get("lost") and not seen.known:
            seen = replace(seen, values=self._name_it())
        status = self._status(seen)
        if not status.loss:
            if status.known != status.epoch:
                self._marks.adopt(status.epoch)
            return
        if not status.at_ms:
            self._tell(status, who=who, now_ms=now_ms)
        raise lost(status.loss, self._where)

    def status(self) -> LedgerStatus:
        """What is known; every session that this machine knows is looked at. Changes nothing.

        Raises:
            StateDirError, LedgerUnavailableError
        """
        return self._status(self._look(self._marks.sessions()))

    def confirm(self, *, who: str, why: str, now_ms: int) -> str:
        """A person says that what Redis holds now is the truth: a new epoch, which every machine adopts.

        Args:
            who: the person.
            why: their words, kept in the hash.
            now_ms: unix milliseconds.

        Returns:
            The new epoch.

        Raises:
            LedgerInputError: nothing is lost.
            StateDirError, LedgerUnavailableError
        """
        seen = self._look(self._marks.sessions())
        values, status = seen.values, self._status(seen)
        if not status.loss:
            raise LedgerInputError("is whole: nothing to confirm", field="ledger", fix="nothing to do")
        if not why.strip() or len(why) > _MAX_WHY:
            raise LedgerInputError(
                f"has {len(why)} characters", field="--why", fix=f"say in 1 to {_MAX_WHY} what was compared"
            )
        notice = _notice(values)
        replaced = {status.epoch, status.known, str(notice.get("follows", ""))} - {""}
        replaced |= set(values.get("replaces", "").split())
        epoch = secrets.token_hex(16)
        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            self._redis.hset(
                keys.LEDGER,
                mapping={
                    "epoch": epoch,
                    "replaces": " ".join(sorted(replaced)),
                    "lost": "",
                    "confirmed": json.dumps(
                        {"who": storable(who), "why": storable(why), "at_ms": str(now_ms)}
                    ),
                },
            )
        self._marks.adopt(epoch)
        log.warning("ledger confirmed", who=who, why=why, epoch=epoch)
        return epoch

    def _look(self, sessions: Sequence[str]) -> _Seen:
        """Our marks first: what another process changes meanwhile must not look like a loss."""
        known = self._marks.epoch()
        marks = [self._marks.seq(digits) for digits in sessions]
        with connection.named_errors(self._where, writes=False):
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(keys.LEDGER)
            # after the epoch: a loss in between shows in the numbers
            for digits in sessions:
                pipe.hget(keys.of_session(digits, "counts"), "seq")
            values, *found = pipe.execute()
        seqs = [int(text or "0") for text in found]
        return _Seen(values, known, tuple(zip(sessions, marks, seqs, strict=True)))

    def _name_it(self) -> dict[str, str]:
        """The first worker of a new ledger; of several at once one wins."""
        with connection.named_errors(self._where, writes=True):
            self._redis.hsetnx(keys.LEDGER, "epoch", secrets.token_hex(16))
            return cast("dict[str, str]", self._redis.hgetall(keys.LEDGER))

    @staticmethod
    def _status(seen: _Seen) -> LedgerStatus:
        values, known = seen.values, seen.known
        epoch = values.get("epoch", "")
        notice = _notice(values)
        if notice and notice.get("under") == epoch:
            return LedgerStatus(
                epoch, known, str(notice.get("why")), str(notice.get("who")), int(notice.get("at_ms", 1))
            )
        if not known or known in values.get("replaces", "").split():
            return LedgerStatus(epoch, known, "")
        if known == epoch:
            return LedgerStatus(epoch, known, seen.forgotten())
        has = f"the ledger in Redis is {epoch[:8]}" if epoch else "Redis holds no ledger any more"
        return LedgerStatus(epoch, known, f"{has}, and this machine has worked with {known[:8]}")

    def _tell(self, status: LedgerStatus, *, who: str, now_ms: int) -> None:
        """Stop the other machines as well, those that have no marks of their own."""
        log.error("the ledger has lost what it held", reason=status.loss, redis=self._where)
        notice = {
            "under": status.epoch,
            "follows": status.known,
            "who": storable(who),
            "why": storable(status.loss),
            "at_ms": str(now_ms),
        }
        with connection.named_errors(self._where, writes=True):
            self._redis.hset(keys.LEDGER, "lost", json.dumps(notice))


def lost(why: str, where: str) -> LedgerLostError:
    """The error for a ledger that has forgotten something."""
    return LedgerLostError(f"the ledger at {where} has lost what it held: {why}", field="redis", fix=_FIX)


def _notice(values: dict[str, str]) -> dict[str, Any]:
    text = values.get("lost", "")
    if not text:
        return {}
    try:
        check_depth(text)
        found = json.loads(text)
        if isinstance(found, dict):
            int(cast("dict[str, Any]", found).get("at_ms", 1))
            return cast("dict[str, Any]", found)
    except (ValueError, TypeError):
        pass
    # fail closed: something is there, and it cannot be read
    return {
        "under": values.get("epoch", ""),
        "why": "the notice of a loss cannot be read",
        "who": "",
        "at_ms": 1,
    }
