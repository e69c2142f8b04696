"""session-executor: the server side of a session key. Start reading at docs/architecture.md.

``worker.enqueue(...)`` queues an intent from Python.
"""

from __future__ import annotations

from worker.api import enqueue

__all__ = ["enqueue"]
