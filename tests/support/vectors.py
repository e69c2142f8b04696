"""The protocol's test vectors: JSON recorded from SDK 1.15.0, kept beside the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_DEFAULT = Path(__file__).parents[3] / "shared" / "protocol" / "vectors"


def load_vectors(name: str) -> Any:
    """One vector file, parsed. ``VECTORS_DIR`` overrides where they are looked for.

    Without them the test is skipped, in CI too: they are no service, and ``tests/conformance`` compares the same things
    with the SDK itself.
    """
    path = Path(os.environ.get("VECTORS_DIR", _DEFAULT)) / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"the vector file {name}.json is missing: set VECTORS_DIR to the folder of the recorded vectors")
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def vectors() -> Any:
    """``vectors("sessions")`` gives the parsed file."""
    return load_vectors
