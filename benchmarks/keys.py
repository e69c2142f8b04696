"""bench-keys: what fetching a session key from a local, real Vault adds to an intent.

The store is the worker's: a token with the signer's policy, KV version 2, one read for each use, nothing cached, the
key's address checked and the key wiped. Time is wall-clock time, since most of it is waiting for Vault.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from benchmarks import report
from tests.support.vault import VaultServer, dev_vault
from tests.support.vault_room import ADDRESS, Room, vault_room
from worker.keys.vault import VaultKeyStore


def main(argv: list[str]) -> int:
    """Run it; 0, or 1 with one line when there is no Vault."""
    parser = report.arguments(
        "time to fetch a key from Vault", number=200, rounds=5, warm_up=50, unit="fetches"
    )
    options = parser.parse_args(argv)
    return report.run(lambda: _measure(options.number, options.rounds, options.warm_up))


def _measure(number: int, rounds: int, warm_up: int) -> None:
    report.say(f"{report.machine()}; {rounds} rounds of {number} fetches each")
    with (
        tempfile.TemporaryDirectory(prefix="session-executor-bench-") as folder,
        vault_server(Path(folder)) as server,
        vault_room(server) as room,
    ):
        first_ms, all_ms, cpu_ms = _fetches(room, number * rounds, warm_up)
    report.say()
    report.table(
        ("ms per fetch", "p50", "p95", "max"),
        (
            ("first of a process, which looks its token up", f"{first_ms:.2f}", "", ""),
            ("every later one", *(f"{report.percentile(all_ms, share):.2f}" for share in (0.5, 0.95, 1.0))),
        ),
    )
    report.say(f"CPU of our process: {cpu_ms:.2f} ms per fetch")
    report.say(f"key_fetch_ms_p50={report.percentile(all_ms, 0.5):.2f}")


def vault_server(folder: Path) -> AbstractContextManager[VaultServer]:
    """The Vault that the tests are told to use, or a fresh one in memory."""
    addr, token = os.environ.get("TEST_VAULT_ADDR"), os.environ.get("TEST_VAULT_TOKEN")
    return nullcontext(VaultServer(addr, token)) if addr and token else dev_vault(folder)


def _fetches(room: Room, count: int, warm_up: int) -> tuple[float, list[float], float]:
    """Milliseconds of the first fetch and of each later one, and mean CPU milliseconds of ours."""
    room.put_key()
    store = room.store()
    first_ms = _fetch_ms(store)
    for _ in range(warm_up):
        _fetch_ms(store)
    cpu_before = time.process_time_ns()
    all_ms = [_fetch_ms(store) for _ in range(count)]
    return first_ms, all_ms, (time.process_time_ns() - cpu_before) / 1e6 / count


def _fetch_ms(store: VaultKeyStore) -> float:
    before = time.perf_counter_ns()
    with store.get(ADDRESS) as key:
        key.use()
    return (time.perf_counter_ns() - before) / 1e6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
