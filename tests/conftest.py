"""Shared fixtures. A missing service skips a test on a laptop and fails it in CI."""

from __future__ import annotations

pytest_plugins = [
    "tests.support.anvil",
    "tests.support.redis",
    "tests.support.sdk",
    "tests.support.vault",
    "tests.support.deployment",
    "tests.support.vectors",
]
