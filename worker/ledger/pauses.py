"""Kill switches: what an operator has stopped besides single sessions. Read right before anything is signed.

One hash, ``sx:pauses``: ``all``, ``account:<address>``, ``chain:<id>`` or ``strategy:<name>`` → JSON with who, why and
when. Each change is one step, and as durable as everything else that the ledger keeps (AOF). The hash is sealed as a
whole (``worker/sealed_hash.py``): a switch that somebody else took away, or an old copy, is noticed and stops everything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis
import structlog

from worker.errors import ServiceError
from worker.intents.model import TradeIntent
from worker.json_depth import check_depth
from worker.ledger import connection, keys
from worker.ledger.codec import storable
from worker.ledger.errors import LedgerInputError
from worker.policies.fields import parse_address
from worker.sealed_hash import SealedHashes
from worker.sealing import SEAL_FIX, Revisions, Sealer

log = structlog.get_logger(__name__)

Kind = Literal["all", "account", "chain", "strategy"]

NAME = "pauses"
_MAX_WHY = 500
_STRATEGY = "strategy:"


@dataclass(frozen=True, slots=True)
class Switch:
    """One kill switch.

    Attributes:
        kind: what it stops.
        name: the account (lower-case 0x hex), the chain's id in decimal digits, or the strategy's name; "" for ``all``.
    """

    kind: Kind
    name: str = ""

    @property
    def field(self) -> str:
        """Its name in Redis."""
        return f"{self.kind}:{self.name}" if self.name else self.kind

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else "everything"


@dataclass(frozen=True, slots=True)
class Pause:
    """A switch that is off: ``at_ms`` is unix milliseconds, ``who`` and ``why`` are an operator's words."""

    switch: Switch
    why: str
    who: str
    at_ms: int


def account_switch(address: str) -> Switch:
    """All sessions of one smart account. Raises LedgerInputError."""
    try:
        return Switch("account", parse_address(address))
    except ValueError as error:
        message, _, fix = str(error).partition(": ")
        raise LedgerInputError(message, field="account", fix=fix) from None


def chain_switch(chain_id: str) -> Switch:
    """All sessions on one chain. Raises LedgerInputError."""
    if not (chain_id.isascii() and chain_id.isdecimal() and chain_id[0] != "0" and len(chain_id) <= 20):
        raise LedgerInputError(
            f"{chain_id[:40]!r} is no chain id", field="chain", fix="use decimal digits, such as 8453"
        )
    return Switch("chain", chain_id)


def strategy_switch(name: str) -> Switch:
    """All intents of one strategy. Raises LedgerInputError."""
    if not name or not name.isprintable():
        raise LedgerInputError(
            f"{name[:40]!r} is no strategy's name",
            field="strategy",
            fix="see `session-executor strategies list`",
        )
    return Switch("strategy", name)


EVERYTHING = Switch("all")


class Pauses:
    """The kill switches in Redis.

    Args:
        client: as ``worker.ledger.connection.connect`` makes it.
        where: the server without credentials, for messages.
        sealer: seals and checks them; None: not at all.
        revisions: this machine's memory.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        where: str,
        sealer: Sealer | None = None,
        revisions: Revisions | None = None,
    ) -> None:
        self._redis = client
        self._where = where
        self._hashes = SealedHashes(client, NAME, sealer, revisions)

    def pause(self, switch: Switch, *, why: str, who: str, now_ms: int) -> None:
        """Stop what the switch stands for; a repeated pause takes the new reason.

        Raises:
            LedgerInputError: there is no reason, or one that cannot be stored.
            LedgerUnavailableError: ``maybe_done`` tells whether it may be paused.
        """
        if not why.strip():
            raise LedgerInputError(
                "is empty", field="why", fix="say for whoever comes next why it is stopped"
            )
        entry = {"why": storable(why.strip())[:_MAX_WHY], "who": storable(who), "at_ms": str(now_ms)}
        connection.reach(self._redis, self._where)
        text = json.dumps(entry)
        with connection.named_errors(self._where, writes=True):
            try:
                self._hashes.change(keys.PAUSES, NAME, lambda found: {**found, switch.field: text})
            except ServiceError as error:
                # a stop needs no seal: what is not sealed stops everything
                self._redis.hset(keys.PAUSES, switch.field, text)
                log.warning("paused without a seal: everything is stopped", reason=str(error), fix=SEAL_FIX)

    def resume(self, switch: Switch) -> bool:
        """Let it go on; whether it was paused. Other switches may still hold it.

        Raises:
            LedgerUnavailableError: ``maybe_done`` tells whether it may go on.
            ForgedError, KeyStoreError: nobody can tell what is paused.
        """

        def without(found: dict[str, str]) -> dict[str, str] | None:
            return None if found.pop(switch.field, None) is None else found

        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            return self._hashes.change(keys.PAUSES, NAME, without)

    def seal(self) -> bool:
        """Take the switches as they are for ours. Raises LedgerUnavailableError, KeyStoreError."""
        connection.reach(self._redis, self._where)
        with connection.named_errors(self._where, writes=True):
            return self._hashes.change(keys.PAUSES, NAME, lambda found: found, trust=True)

    def list(self, *, trust: bool = False) -> tuple[Pause, ...]:
        """All that is paused. Raises LedgerUnavailableError, ForgedError, KeyStoreError.

        Args:
            trust: whatever the seal says.
        """
        with connection.named_errors(self._where, writes=False):
            stored = cast("dict[str, str]", self._redis.hgetall(keys.PAUSES))
            if not trust:
                stored = self._hashes.checked(NAME, stored)
        stored = {field: text for field, text in stored.items() if field not in {"rev", "seal"}}
        return tuple(_pause(_switch(field), text) for field, text in sorted(stored.items()))

    def stopping(self, intent: TradeIntent, *, account: str, chain_id: int) -> Pause | None:
        """The pause that stops an intent, the widest if there are several; one read, of all switches, for their seal.

        Args:
            intent: its source tells the strategy.
            account: its session's account, lower-case.
            chain_id: its session's chain.

        Raises:
            LedgerUnavailableError, ForgedError, KeyStoreError: not known, so nothing must be signed.
        """
        switches = [EVERYTHING, Switch("chain", str(chain_id)), Switch("account", account)]
        if intent.source.startswith(_STRATEGY):
            switches.append(Switch("strategy", intent.source.removeprefix(_STRATEGY)))
        with connection.named_errors(self._where, writes=False):
            stored = self._hashes.read(keys.PAUSES, NAME)
        for switch in switches:
            if switch.field in stored:
                return _pause(switch, stored[switch.field])
        return None


def _switch(field: str) -> Switch:
    kind, _, name = field.partition(":")
    return Switch(cast("Kind", kind), name)


def _pause(switch: Switch, text: str) -> Pause:
    """What cannot be read still stops: somebody meant something by it."""
    try:
        check_depth(text)
        entry: Any = json.loads(text)
        return Pause(switch, str(entry["why"]), str(entry["who"]), int(entry["at_ms"]))
    except (ValueError, TypeError, KeyError):
        return Pause(switch, "its entry in Redis cannot be read", "", 0)
