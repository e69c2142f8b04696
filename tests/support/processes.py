"""Whether the processes of a test run."""

from __future__ import annotations

import os
import time
from pathlib import Path

END_S = 30.0
"""How long a process that was told to end gets: far more than it needs on a busy machine."""


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # ended between the two questions, or a system without /proc


def ended(*pids: int) -> bool:
    """Wait for processes to end."""
    deadline = time.monotonic() + END_S
    while any(lives(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
