"""Secrets from files that only their owner can read, so that no process has them in its environment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAX_BYTES = 1 << 16


def read_secret(path: Path) -> str:
    """The text of a file, without its last line end.

    Raises:
        ValueError: it cannot be used; the words tell why and how to mend it, and quote nothing of what is in it.
    """
    path = path.expanduser()
    try:
        # O_NONBLOCK: opening a FIFO must not hang; modes are taken from what was opened, not from the name
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror or type(error).__name__}); check the path, its owner and mode"
        ) from None
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        os.close(handle)
        raise ValueError(f"{path} is no plain file; point to the file itself")
    with os.fdopen(handle, "rb") as file:
        if info.st_mode & 0o077:
            raise ValueError(
                f"{path} is open to other users (mode {stat.S_IMODE(info.st_mode):04o}); chmod 600 it"
            )
        raw = file.read(_MAX_BYTES + 1)
    try:
        text = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or len(raw) > _MAX_BYTES:
        raise ValueError(f"{path} is empty, too large, or no UTF-8 text; write the secret there")
    return text
