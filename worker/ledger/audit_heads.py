"""Heads of the audit trails of all machines in Redis, sealed; and on request a copy of each line in a Redis Stream.

``sx:audit`` is a hash: name of a log → ``<number> <hash> <seal>`` of its newest line. It tells that the end of a file was
cut off. Neither is needed to sign: the file is.

An intent writes six lines. Their heads are not worth a write in Redis each, so a process keeps one a second, and the last
one before it ends; the head in the file beside the log is that of the very last line.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Any, cast

import redis
import structlog

from worker.audit import Head
from worker.errors import ServiceError
from worker.ledger import connection
from worker.sealing import SEAL_FIX, ForgedError, Sealer

log = structlog.get_logger(__name__)

HEADS = "sx:audit"
#: How often a process keeps a head, seconds.
EVERY_S = 1.0
#: Lines kept in the stream.
_STREAM_KEPT = 100_000

#: Keep a head unless a newer one is there: several processes write. KEYS hash; ARGV log, number, value.
_KEEP = """
local now = redis.call('HGET', KEYS[1], ARGV[1])
local number = now and string.match(now, '^(%d+) ')
if not number or tonumber(number) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
"""


class RedisHeads:
    """The ``Heads`` in Redis.

    Args:
        client: as ``worker.ledger.connection.connect`` makes it.
        where: the server without credentials, for messages.
        sealer: seals them.
        stream: name of the stream that gets the lines, "" for none.
    """

    def __init__(self, client: redis.Redis, *, where: str, sealer: Sealer, stream: str = "") -> None:
        self._redis = client
        self._keep: Any = client.register_script(_KEEP)
        self._where = where
        self._sealer = sealer
        self._stream = stream
        self._at_exit = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._kept_s = -EVERY_S
        self._waiting: Head | None = None
        self._timed = False

    def keep(self, head: Head, line: str) -> None:
        """See the port: at once, or within a second of the one before. A failure is only logged: the next head says as much.

        Where there is a stream, it gets each line at once.
        """
        if self._pid != os.getpid():
            self._begin()  # a forked child has none of its parent's threads, and what waits is the parent's
        with self._lock:
            now_s = time.monotonic()
            if not self._stream and now_s - self._kept_s < EVERY_S:
                self._waiting = head
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self.flush)
                if not self._timed:
                    self._timed = True
                    timer = threading.Timer(EVERY_S - (now_s - self._kept_s), self._on_time)
                    timer.daemon = True
                    timer.start()
                return
            self._kept_s, self._waiting = now_s, None
        self._write(head, line)

    def flush(self) -> None:
        """Keep now what waits for its second."""
        if self._pid != os.getpid():
            return
        with self._lock:
            head, self._waiting = self._waiting, None
            if head is None:
                return
            self._kept_s = time.monotonic()
        self._write(head, "")

    def _on_time(self) -> None:
        with self._lock:
            self._timed = False
        self.flush()

    def _write(self, head: Head, line: str) -> None:
        try:
            seal = self._sealer.seal("audit", head.log, str(head.n), head.hash)
            with connection.named_errors(self._where, writes=True):
                self._keep(keys=[HEADS], args=[head.log, head.n, f"{head.n} {head.hash} {seal}"])
                if self._stream:
                    self._redis.xadd(self._stream, {"line": line}, maxlen=_STREAM_KEPT, approximate=True)
        except ServiceError as error:
            # nothing is lost: the next head says as much, and what is wrong is told by whoever needs Redis or the keys
            log.info("head of the audit trail not kept in Redis", n=head.n, error=str(error))

    def of(self, name: str) -> Head | None:
        """The head of a log.

        Raises:
            ForgedError: it was written by somebody else.
            LedgerUnavailableError, KeyStoreError
        """
        with connection.named_errors(self._where, writes=False):
            text = cast("str | None", self._redis.hget(HEADS, name))
        if text is None:
            return None
        number, _, rest = text.partition(" ")
        own, _, seal = rest.partition(" ")
        problem = self._sealer.problem(seal, "audit", name, number, own)
        if problem:
            raise ForgedError(f"the head of the audit trail: {problem}", field="redis", fix=SEAL_FIX)
        return Head(name, int(number), own)
