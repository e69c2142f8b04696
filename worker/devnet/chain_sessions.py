"""The sessions that one chain's emissary knows, as the tables that decide about their calls."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from eth_abi.abi import decode

from worker.devnet.chain import CONFIG_SET, SESSION, Chain
from worker.devnet.session_table import OperationDeniedError, SessionTable

log = logging.getLogger(__name__)


class ChainSessions:
    """Tables by account and permission id, brought up to the emissary's events whenever they are asked for.

    Args:
        chain: the chain.
    """

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._tables: dict[tuple[str, bytes], SessionTable] = {}
        self._seen_block: dict[str, int] = {}
        self._seen_log: dict[str, tuple[int, int]] = {}

    def table(self, account: str, permission: bytes) -> SessionTable:
        """The session's table, whoever caused the events; an empty one for a session that was never enabled."""
        seen = self._seen_block.get(account, self.chain.first_block)
        for entry in self.chain.emissary_logs(account, seen):
            position = (int(entry["blockNumber"], 16), int(entry["logIndex"], 16))
            if position <= self._seen_log.get(account, (-1, -1)):
                continue
            self._seen_log[account] = position
            self._seen_block[account] = position[0]
            key = (account, bytes.fromhex(entry["topics"][2][2:]))
            if entry["topics"][0] != "0x" + CONFIG_SET.hex():
                self._tables.pop(key, None)
                continue
            (data,) = decode(["bytes"], bytes.fromhex(entry["data"][2:]))
            (session,) = decode([SESSION], data)
            table = self._tables.setdefault(key, SessionTable()).copy()
            try:
                table.enable(session)
            except OperationDeniedError as denied:
                # The real emissary would have reverted: it calls the policy contracts while it enables. Ours cannot
                # know; the session stays without policies, so that everything it signs is refused.
                log.warning("session of %s enabled with a bad policy: %s", account, denied.reason)
                continue
            self._tables[key] = table
        return self._tables.setdefault((account, permission), SessionTable())

    def put(self, account: str, permission: bytes, table: SessionTable) -> None:
        """Keep a table whose counters have grown."""
        self._tables[account, permission] = table

    def counters(self) -> Iterator[dict[str, Any]]:
        """Every counter, with account and permission id."""
        for (account, permission), table in self._tables.items():
            for row in table.counters():
                yield {"account": account, "permissionId": "0x" + permission.hex(), **row}
