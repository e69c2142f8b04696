"""bench-memory: bytes of Redis per record and per tombstone, on a real Redis.

Records are those of one session: a transfer with its quote and its signed body, taken through every state to COMPLETED
as the pipeline does, then archived.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import redis

from tests.support.redis import start_local
from tests.support.sessions import NOW_S, USDC
from worker.intents.model import TradeIntent
from worker.intents.states import State
from worker.ledger.archived import ArchivedRecords
from worker.ledger.redis_ledger import RedisLedger
from worker.policies.base import CounterChange, Execution

_QUOTE = (Path(__file__).parent / "intent_op.json").read_text()
_NOW_MS = NOW_S * 1000
RECORDS = 2_000
_STATES = (State.AUTHORIZED, State.SIGNED, State.SUBMITTED, State.COMPLETED)
#: Five signatures of the emissary's form and their JSON.
_SIGNATURES = "s" * 2_500


def complete(ledger: RedisLedger, session_id: str, number: int) -> None:
    """Take one transfer through every state to COMPLETED, as the pipeline does."""
    data = bytes.fromhex("a9059cbb") + bytes(12) + bytes(20) + number.to_bytes(32)
    intent = TradeIntent(session_id, f"record {number}", (Execution(USDC, 0, data),), note="transfer")
    record = ledger.enqueue(intent, now_ms=_NOW_MS + number, due_ms=_NOW_MS).record
    change = CounterChange("a3f0:spending", 1, 10**18, "spending-limits", 0, USDC)
    at = State.QUEUED
    for state in _STATES:
        ledger.transition(
            record.intent_id,
            fence=0,
            from_state=at,
            to_state=state,
            who="host.example:12345",
            why="every policy passed, the quote is what was asked for, budgets reserved",
            now_ms=_NOW_MS + number,
            reserve=(change,) if state is State.AUTHORIZED else (),
            fields={
                State.AUTHORIZED: {"quote": _QUOTE, "quote_expires_s": str(NOW_S), "digests": "d" * 130},
                State.SIGNED: {"body": _QUOTE + _SIGNATURES, "sent": ""},
                State.SUBMITTED: {"orchestrator_status": "PENDING", "watch_from_ms": str(_NOW_MS)},
            }.get(state, {"tx_hash": "0x" + "e" * 64}),
        )
        at = state


def main(records: int = RECORDS) -> int:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        start_local(Path(folder)) as server,
        redis.Redis.from_url(server.url, decode_responses=True, protocol=2) as client,
    ):
        ledger, session_id = RedisLedger(server.url), f"ses_{1:016x}"

        def used() -> int:
            return int(client.info("memory")["used_memory"])

        complete(ledger, session_id, 0)  # scripts and what a session has once
        before = used()
        for number in range(1, records + 1):
            complete(ledger, session_id, number)
        with_records = used()
        archived = ArchivedRecords(client, where="benchmark")
        for raw in archived.ended_before(_NOW_MS * 2, limit=records + 1):
            archived.trim(raw, archived_ms=_NOW_MS)
        left = used()
        body = len(_QUOTE) * 2 + len(_SIGNATURES)
        sys.stdout.write(f"quote and body of a record: {body} bytes\n")
        sys.stdout.write(
            f"records={records} bytes_per_record={(with_records - before) // records} "
            f"bytes_per_tombstone={(left - before) // records}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
