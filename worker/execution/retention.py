"""Final records leave Redis some time after their end: first into an archive file, then out of the ledger."""

from __future__ import annotations

import time

import structlog

from worker.execution.runtime import Runtime
from worker.ledger.archive import Archive

log = structlog.get_logger(__name__)

#: Records in one file: some 4 MB of them are held in memory meanwhile.
BATCH = 200
#: One run ends after this, far below a task's soft limit; the next one goes on.
RUN_S = 15.0
_DAY_MS = 86_400_000


def archive_old(runtime: Runtime, *, after_days: int | None = None, run_s: float = RUN_S) -> int:
    """Archive and trim what ended long enough ago; returns how many. One process at a time does it.

    Nothing happens without ``archive_dir``. What is DEAD stays, since it can be replayed, and so does whatever asks
    for attention.

    Args:
        runtime: the services.
        after_days: instead of the setting ``archive_after_days``.
        run_s: for how long to go on, seconds.

    Raises:
        ArchiveError: the folder cannot be written; nothing was trimmed.
        KeyStoreError: what is written cannot be sealed; nothing was trimmed.
        LedgerUnavailableError: what is archived and not yet trimmed is archived once more by the next run.
    """
    folder = runtime.settings.archive_dir
    if folder is None:
        return 0
    archive, ledger = Archive(folder, runtime.sealer), runtime.archived
    days = runtime.settings.archive_after_days if after_days is None else after_days
    before_ms = runtime.now_ms() - days * _DAY_MS
    deadline = time.monotonic() + run_s
    trimmed = 0
    if not ledger.begin(who=runtime.who, hold_ms=int(run_s * 2_000)):
        return 0
    try:
        while time.monotonic() < deadline:
            records = ledger.ended_before(before_ms, limit=BATCH)
            if not records:
                break
            stamp = archive.write(records, now_ms=runtime.now_ms())
            done = sum(ledger.trim(raw, archived_ms=stamp) for raw in records)
            trimmed += done
            if not done:
                break  # all of them were touched meanwhile
    finally:
        ledger.end(who=runtime.who)
    if trimmed:
        log.info("records archived", number=trimmed, folder=str(folder))
    return trimmed
