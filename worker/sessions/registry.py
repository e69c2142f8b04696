"""The sessions that were imported, in Redis.

============================  ======  ==================================================
``sx:sessions``               set     the sessions' 16 hex digits (shared with the ledger)
``sx:{S}:session``            hash    ``file`` (JSON), ``sha256`` of it, ``fingerprint``, ``paused`` (0 or 1);
                                      ``guardrails`` and ``guardrails:strategy:<name>``, JSON;
                                      ``accepted:<code>``, JSON, for each risk that was accepted
                                      ``rev``, ``seal`` (``worker/sealed_hash.py``)
============================  ======  ==================================================

Every change is made over what was read, sealed, and refused by Redis if somebody else was quicker. Nothing derived is stored to be believed: a session is computed from its file each time, and must then be the one that
was registered.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import cast

import redis

from worker.json_depth import check_depth
from worker.policies.guardrails import RULES_FIELD, SESSION_SCOPE, Guardrails, ScopeRules
from worker.sealed_hash import SealedHashes
from worker.sealing import ForgedError, Revisions, Sealer
from worker.sessions.errors import (
    SessionConflictError,
    SessionCorruptError,
    SessionError,
    SessionForgedError,
    SessionNotFoundError,
    SessionStoreUnavailableError,
)
from worker.sessions.file import SessionFileV2, load_session_file
from worker.sessions.importing import AcceptedRisk, RegisteredSession, recompute, session_id

__all__ = ["SessionRegistry", "session_id"]

SESSIONS = "sx:sessions"
_NO_GUARDRAILS = Guardrails()
_ACCEPTED_FIELD = "accepted"
#: Sessions that a process computes once as long as their files stay as they are; each takes some 100 kB.
_COMPUTED_KEPT = 256

_SESSION = re.compile(r"ses_([0-9a-f]{16})", re.ASCII)


class SessionRegistry:
    """The registered sessions.

    Args:
        client: a client as ``worker.ledger.connection.connect`` makes it: bounded in time, replies decoded.
        where: the server without credentials, for messages.
        sealer: seals and checks them; None: not at all.
        revisions: this machine's memory.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        where: str = "Redis",
        sealer: Sealer | None = None,
        revisions: Revisions | None = None,
    ) -> None:
        self._redis = client
        self._where = where
        self._hashes = SealedHashes(client, "session", sealer, revisions)

    def __repr__(self) -> str:
        return f"<SessionRegistry at {self._where}>"

    def put(
        self,
        session: RegisteredSession,
        *,
        renew: bool = False,
        guardrails: Guardrails = _NO_GUARDRAILS,
        accepted: Iterable[AcceptedRisk] = (),
    ) -> bool:
        """Register a session that ``importing.verify`` accepted. May always be repeated.

        Args:
            session: the session.
            renew: let it replace the approval (enableData, nonce, setupOps) of the same session, registered before;
                what the session may do is the same then. It stays paused if it was, and keeps its guardrails.
            guardrails: what a session that is new is held to, from its first moment on.
            accepted: the risks that an operator accepts; who accepted one first is kept.

        Returns:
            Whether anything was written; False when it is registered just so already.

        Raises:
            SessionConflictError: its id is registered with other content.
            SessionStoreUnavailableError: Redis did not answer.
        """
        text = session.file.text()
        digits = _digits(session.session_id)
        fingerprint = session.fingerprint().hex()
        file = {"file": text, "sha256": _sha256(text)}
        risks = {f"{_ACCEPTED_FIELD}:{risk.code}": _risk_text(risk) for risk in accepted}
        known = False

        def put(found: dict[str, str]) -> Mapping[str, str] | None:
            nonlocal known
            known = False
            if not found:
                rules = {RULES_FIELD: guardrails.text()} if guardrails.text() else {}
                return {**file, "fingerprint": fingerprint, "paused": "0", **rules, **risks}
            if found.get("file") == text:
                known = True
                return None if risks.keys() <= found.keys() else risks | found
            if found.get("fingerprint") != fingerprint:
                raise self._conflict(session)
            if not renew:
                raise SessionConflictError(
                    f"{session.session_id} is registered with another approval, account kind, key order or setupOps",
                    field="session file",
                    fix="import it with --renew to replace the old approval",
                )
            # who accepted a risk first stands
            return risks | found | file

        with self._named_errors(session.session_id):
            # The set lies in another slot, so it cannot be in the step. It goes first: digits without a session are
            # skipped by `list`, a session that no list shows would be lost.
            self._redis.sadd(SESSIONS, digits)
            written = self._hashes.change(_key(digits), session.session_id, put)
        return written and not known

    def get(self, session: str) -> RegisteredSession:
        """A session by its id, computed anew from what is stored.

        Args:
            session: ``ses_`` and 16 hex digits.

        Raises:
            SessionNotFoundError: none is registered under the id.
            SessionCorruptError: what is stored is not what was registered, or this version encodes it differently.
            SessionStoreUnavailableError: Redis did not answer.
        """
        key = _key(_digits(session))
        with self._named_errors(session):
            stored = self._hashes.read(key, session)
        if not stored:
            raise _not_found(session)
        return _restore(session, stored)

    def seal(self, session: str) -> None:
        """Take what is stored of a session for ours, if it is a session at all.

        Raises:
            SessionNotFoundError: none is registered under the id.
            SessionCorruptError: what is stored is no session, or another one.
            SessionStoreUnavailableError, KeyStoreError
        """

        def seal(found: dict[str, str]) -> Mapping[str, str]:
            if not found:
                raise _not_found(session)
            _restore(session, found)
            return found

        key = _key(_digits(session))
        with self._named_errors(session):
            self._hashes.change(key, session, seal, trust=True)

    def list(
        self, *, on_corrupt: Callable[[SessionCorruptError], None] | None = None
    ) -> tuple[RegisteredSession, ...]:
        """Every session, by id.

        Args:
            on_corrupt: gets the error of each damaged session, which is then left out; without it the first is raised.

        Raises:
            SessionCorruptError: one is damaged and ``on_corrupt`` is None.
            SessionStoreUnavailableError: Redis did not answer.
        """
        with self._named_errors("the sessions"):
            members = cast("Iterable[str]", self._redis.smembers(SESSIONS))
            ids = sorted(f"ses_{digits}" for digits in members)
            pipeline = self._redis.pipeline(transaction=False)
            for session in ids:
                pipeline.hgetall(_key(_digits(session)))
            replies = pipeline.execute(raise_on_error=False)
        found: list[RegisteredSession] = []
        for session, stored in zip(ids, replies, strict=True):
            try:
                if isinstance(stored, Exception):
                    with self._named_errors(session):
                        raise stored
                if stored:  # the ledger adds to the set, too, perhaps for a session that is not registered
                    with self._named_errors(session):
                        fields = self._hashes.checked(session, stored)
                    found.append(_restore(session, fields))
            except SessionCorruptError as error:
                if on_corrupt is None:
                    raise
                on_corrupt(error)
        return tuple(found)

    def ids(self) -> tuple[str, ...]:
        """The ids under which something is registered, whatever it is. Raises SessionStoreUnavailableError."""
        with self._named_errors("the sessions"):
            members = cast("Iterable[str]", self._redis.smembers(SESSIONS))
            found = sorted(f"ses_{digits}" for digits in members)
            pipeline = self._redis.pipeline(transaction=False)
            for session in found:
                pipeline.exists(_key(_digits(session)))
            return tuple(
                name
                for name, there in zip(found, cast("list[int]", pipeline.execute()), strict=True)
                if there
            )

    def rules(self, session: str) -> Mapping[str, ScopeRules]:
        """A session's guardrails by scope, as they are now; quicker than ``get``.

        Raises:
            SessionNotFoundError: none is registered under the id.
            SessionCorruptError: some cannot be read.
            SessionForgedError: it was changed by somebody else.
            SessionStoreUnavailableError: Redis did not answer.
        """
        key = _key(_digits(session))
        with self._named_errors(session):
            stored = self._hashes.read(key, session)
        if not stored:
            raise _not_found(session)
        return _rules(session, stored)

    def set_paused(self, session: str, *, paused: bool) -> None:
        """Stop a session, or let it go on. May always be repeated.

        Args:
            session: ``ses_`` and 16 hex digits.
            paused: whether it is stopped.

        Raises:
            SessionNotFoundError: none is registered under the id.
            SessionStoreUnavailableError: Redis did not answer.
        """

        def set_paused(found: dict[str, str]) -> Mapping[str, str]:
            if not found:
                raise _not_found(session)
            return {**found, "paused": "1" if paused else "0"}

        key = _key(_digits(session))
        with self._named_errors(session):
            self._hashes.change(key, session, set_paused)

    def set_guardrails(self, session: str, new: Guardrails, *, replaces: ScopeRules) -> None:
        """Replace the guardrails of one scope. What was counted under the old ones stays counted.

        Args:
            session: ``ses_`` and 16 hex digits.
            new: what holds from now on; empty takes them away.
            replaces: as they were read; names the scope.

        Raises:
            SessionConflictError: somebody else has changed them meanwhile.
            SessionNotFoundError: none is registered under the id.
            SessionStoreUnavailableError: Redis did not answer.
        """

        def set_guardrails(found: dict[str, str]) -> Mapping[str, str]:
            if not found:
                raise _not_found(session)
            if found.get(replaces.field_name, "") != replaces.text:
                raise SessionConflictError(
                    "were changed by somebody else meanwhile",
                    field=f"guardrails of {replaces.scope}",
                    fix=f"look at `session-executor sessions guardrails {session}`, then set them again",
                )
            found.pop(replaces.field_name, None)
            return {**found, **({replaces.field_name: new.text()} if new.text() else {})}

        key = _key(_digits(session))
        with self._named_errors(session):
            self._hashes.change(key, session, set_guardrails)

    def _conflict(self, session: RegisteredSession) -> SessionConflictError:
        permission = f"0x{session.permission_id.hex()}"
        if not session.restricted:
            # sessions.md 4: the salt is zero, so the id does not cover the actions, and the chain merges the two.
            return SessionConflictError(
                f"another unrestricted session of the same keys is registered for {session.account}, and both have the "
                f"permission id {permission}: on chain the two would merge",
                field="owners",
                fix="use a key of its own for each unrestricted session, or "
                + (
                    "approve one of SDK 1.15 with restrictToActions"
                    if isinstance(session.file, SessionFileV2)
                    else "set restrictToActions"
                ),
            )
        return SessionConflictError(
            f"{session.session_id} is registered with other content under the permission id {permission}",
            field="session file",
            fix=f"compare it with `session-executor sessions show {session.session_id}`",
        )

    @contextmanager
    def _named_errors(self, what: str) -> Generator[None]:
        try:
            yield
        except ForgedError as error:
            raise SessionForgedError(
                f"{what} must not be used: {error.message.partition(': ')[2]}",
                field="session",
                fix=f"{error.fix}, or delete {_key(_digits(what))} and import the file again",
            ) from error
        except redis.ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise SessionCorruptError(
                    f"{what}: something else is stored under its name at {self._where}",
                    field="redis",
                    fix="something else writes to this Redis; give the program a database of its own",
                ) from error
            raise SessionStoreUnavailableError(
                f"{self._where} refuses: {str(error).partition(chr(10))[0]}",
                field="redis",
                fix="run `session-executor doctor`",
            ) from error
        except redis.AuthenticationError as error:
            raise SessionStoreUnavailableError(
                f"{self._where} refuses our password or user",
                field="redis",
                fix="put the right one into SESSION_EXECUTOR_REDIS_URL",
            ) from error
        except (redis.RedisError, OSError) as error:
            raise SessionStoreUnavailableError(
                f"{self._where} did not answer ({type(error).__name__})",
                field="redis",
                fix="start it, or correct SESSION_EXECUTOR_REDIS_URL; then try again",
            ) from error


@lru_cache(maxsize=_COMPUTED_KEPT)
def _computed(text: str) -> tuple[RegisteredSession, str]:
    """What a file's text stands for, and its fingerprint: of the same text always the same. Raises SessionError."""
    session = recompute(load_session_file(text))
    return session, session.fingerprint().hex()


def _restore(name: str, stored: Mapping[str, str]) -> RegisteredSession:
    """The session out of its hash, if it is still the one that was registered."""
    missing = {"file", "sha256", "fingerprint", "paused"} - stored.keys()
    if missing:
        raise _corrupt(name, f"lacks {', '.join(sorted(missing))}")
    if _sha256(stored["file"]) != stored["sha256"]:
        raise _corrupt(name, "its file was changed in Redis")
    if stored["paused"] not in {"0", "1"}:
        raise _corrupt(name, "paused is neither 0 nor 1")
    try:
        session, fingerprint = _computed(stored["file"])
    except SessionError as error:
        raise _corrupt(name, f"its file is refused: {error}") from error
    if session.session_id != name:
        raise _corrupt(name, f"its file gives the id {session.session_id}")
    if fingerprint != stored["fingerprint"]:
        raise _corrupt(name, "its file gives another session than the one that was registered")
    return replace(
        session,
        paused=stored["paused"] == "1",
        rules=_rules(name, stored),
        accepted=_accepted(name, stored),
    )


def _risk_text(risk: AcceptedRisk) -> str:
    return json.dumps({"who": risk.who, "atMs": risk.at_ms, "words": risk.words})


def _accepted(name: str, stored: Mapping[str, str]) -> tuple[AcceptedRisk, ...]:
    found: list[AcceptedRisk] = []
    for field, text in sorted(stored.items()):
        own, _, code = field.partition(":")
        if own != _ACCEPTED_FIELD:
            continue
        try:
            check_depth(text)
            value = json.loads(text)
            found.append(AcceptedRisk(code, str(value["who"]), int(value["atMs"]), str(value["words"])))
        except (ValueError, KeyError, TypeError) as error:
            raise _corrupt(name, f"its {field} cannot be read") from error
    return tuple(found)


def _rules(name: str, stored: Mapping[str, str]) -> dict[str, ScopeRules]:
    """The guardrails by scope. What cannot be read stops the session: somebody meant something by it."""
    found: dict[str, ScopeRules] = {}
    for field, text in stored.items():
        own, _, scope = field.partition(":")
        if own != RULES_FIELD:
            continue
        try:
            check_depth(text)
            rules = ScopeRules(scope or SESSION_SCOPE, text, Guardrails.of_text(text))
        except ValueError as error:
            raise SessionCorruptError(
                f"{name} must not be used: its {field} cannot be read",
                field="session",
                fix=f"delete the field {field} of {_key(_digits(name))} in Redis and set them again",
            ) from error
        found[rules.scope] = rules
    return found


def _corrupt(name: str, why: str) -> SessionCorruptError:
    return SessionCorruptError(
        f"{name} must not be used: {why}",
        field="session",
        fix=f"find out what else wrote to this Redis; then delete {_key(_digits(name))} and import the file again",
    )


def _not_found(name: str) -> SessionNotFoundError:
    return SessionNotFoundError(
        f"{name} is not registered",
        field="session",
        fix="see `session-executor sessions list`, or import its file",
    )


def _digits(name: str) -> str:
    match = _SESSION.fullmatch(name)
    if match is None:
        raise SessionNotFoundError(
            f"{name!r} is no session id",
            field="session",
            fix="ids look like ses_<16 hex digits>; see `session-executor sessions list`",
        )
    return match[1]


def _key(digits: str) -> str:
    """The braces are the hash tag that puts all of one session into one slot of a cluster."""
    return f"sx:{{{digits}}}:session"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
