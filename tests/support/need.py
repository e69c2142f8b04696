"""One way to say that a real part is missing."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, how: str) -> NoReturn:
    """Skip with the reason on a laptop; fail in CI, where every part must be there.

    Args:
        what: the part that is missing, e.g. ``redis-server``.
        how: how to get it.
    """
    reason = f"{what} is missing: {how}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
