"""One pipeline per test, over the shared devnet and Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pipeline import Pipeline
from worker.devnet.devnet import Devnet


@pytest.fixture
def make_pipeline(devnet: Devnet, redis_url: str, tmp_path: Path) -> Callable[..., Pipeline]:
    """A pipeline with settings of the test's own."""

    def make(**settings: Any) -> Pipeline:
        return Pipeline(devnet, redis_url, tmp_path, **settings)

    return make


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """A pipeline with a limit of 100 USDC."""
    return make_pipeline()
