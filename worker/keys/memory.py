"""Keeping key material out of what is written when a process dies, and of what is told about an error."""

from __future__ import annotations

import ctypes
import resource
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def forbid_core_dumps() -> bool:
    """No core file of this process and of what it forks; whether the kernel agreed in full.

    The limit stops core files, but not a collector that the kernel pipes cores to; a process that is not dumpable stops
    both, and keeps others of the same user from attaching a debugger or reading its memory and environment.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return False
    try:
        return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False


@contextmanager
def no_locals_in_errors() -> Generator[None]:
    """Errors of the block keep no local variables of the functions that it called.

    A crash reporter that takes locals along (Sentry does by default) would take key bytes with them. Their lines stay.
    """
    try:
        yield
    except BaseException as error:
        seen: set[int] = set()
        each: BaseException | None = error
        while each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            each = each.__cause__ or each.__context__
        raise
