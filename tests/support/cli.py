"""Command lines for tests: in this process, with real services behind them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.pipeline import RECIPIENT
from tests.support.sessions import OWNER_KEY, make_session_file, usdc_transfer

Run = Callable[..., tuple[int, str, str]]
"""``run("keys", "list")`` → (exit code, standard output, standard error)."""

PREFIX = "SESSION_EXECUTOR_"


def write_session(key: str, path: Path, **options: Any) -> Path:
    """A session file approved by the account's owner, valid for a day; options as for ``make_session_file``."""
    until_ms = (int(time.time()) + 86_400) * 1000
    options.setdefault("actions", [usdc_transfer(100_000_000, valid_until_ms=until_ms)])
    path.write_text(make_session_file(OWNER_KEY, key.lower(), **options))
    return path


def submit(
    command: Run, session: str, *more: str, key: str = "k", amount: str = "10 USDC"
) -> tuple[int, str, str]:
    """``intents submit`` of a transfer."""
    return command(
        "intents", "submit", "--session", session, "--to", RECIPIENT, "--amount", amount, "--key", key, *more
    )
