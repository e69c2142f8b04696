"""The protocol's test vectors: JSON recorded from SDK 1.15.0, kept beside the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_DEFAULT = Path(__file__).parents[3] / "shared" / "protocol" / "vectors"

REPLAYERS: dict[str, tuple[str, ...]] = {
    "wait_for_execution": ("integration/execution/test_wait_for_execution.py",),
    "chains": ("unit/sessions/test_encoding.py",),
    "claim_policies": ("unit/policies/test_init_data.py", "unit/signing/test_vectors.py"),
    "config_ids": ("unit/sessions/test_encoding.py", "unit/policies/test_evaluate.py"),
    "enable_signatures": ("unit/signing/test_vectors.py", "unit/sessions/test_importing.py"),
    "errors_alps": ("integration/orchestrator/test_replies.py",),
    "fastlz": ("unit/signing/test_vectors.py",),
    "flow_a_enabled_same_chain": ("unit/execution/test_sdk_flows.py", "unit/signing/test_vectors.py"),
    "flow_b_enable_and_use": ("unit/execution/test_sdk_flows.py", "unit/signing/test_vectors.py"),
    "flow_c_cross_chain_permit2": ("unit/signing/test_vectors.py",),
    "flow_d_bare_session_permit2_same_chain": ("unit/signing/test_vectors.py",),
    "flow_e_jwt_sponsored_same_chain_permit2": ("unit/signing/test_vectors.py",),
    "intent_input_digest": ("unit/orchestrator/test_jwt_auth.py",),
    "modules": ("unit/sessions/test_accounts.py",),
    "policies": ("unit/policies/test_init_data.py",),
    "policy_semantics": ("unit/policies/test_contract_semantics.py",),
    "sessions": ("unit/sessions/test_encoding.py", "unit/signing/test_vectors.py"),
    "signatures": ("unit/signing/test_vectors.py",),
    "swap_sessions": ("unit/sessions/test_encoding.py",),
    "typed_data": ("unit/signing/test_vectors.py",),
    "v2_sessions": ("unit/sessions/test_v2.py",),
    "validators": ("unit/sessions/test_encoding.py",),
}
"""The test modules that replay each vector file. A module that replays another one adds itself here."""

NOT_REPLAYED: dict[str, str] = {}
"""Vector files without a test, and why. A file that is neither here nor above fails ``test_vector_files``."""


_replayed: set[str] = set()
"""The files that a test of this process has read."""


def vectors_dir() -> Path:
    """Where the vector files are looked for; it need not exist."""
    return Path(os.environ.get("VECTORS_DIR", _DEFAULT))


def load_vectors(name: str) -> Any:
    """One vector file, parsed. ``VECTORS_DIR`` overrides where they are looked for.

    Without them the test is skipped, in CI too: they are no service, and ``tests/conformance`` compares the same things
    with the SDK itself.
    """
    path = vectors_dir() / f"{name}.json"
    if not path.is_file():
        pytest.skip(
            f"the vector file {name}.json is missing: set VECTORS_DIR to the folder of the recorded vectors"
        )
    _replayed.add(name)
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def vectors() -> Any:
    """``vectors("sessions")`` gives the parsed file."""
    return load_vectors


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that ran some of the tests tells the one that reports."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["vectors"] = sorted(_replayed)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What such a process has told."""
    _replayed.update(getattr(node, "workeroutput", {}).get("vectors", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many of the vector files were replayed by this run, if any."""
    files = {path.stem for path in vectors_dir().glob("*.json")}
    if files & _replayed:
        missing = ", ".join(sorted(files - _replayed))
        terminalreporter.write_line(
            f"vector files={len(files)} replayed={len(files & _replayed)}"
            + (f" (not in this run: {missing})" if missing else "")
        )
