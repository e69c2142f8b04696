"""``doctor``'s question, asked of the devnet's orchestrator."""

from __future__ import annotations

import pytest

from worker.devnet.devnet import Devnet
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.errors import AuthError, NotFoundError

pytest_plugins = ["tests.support.anvil"]
pytestmark = pytest.mark.services


def test_our_key_is_let_in(devnet: Devnet) -> None:
    orchestrator = AlpsOrchestrator(devnet.orchestrator_url, api_key=devnet.api_key, timeout_ms=5_000)
    assert orchestrator.check() == "answers with our key (2026-01.alps)"
    with pytest.raises(NotFoundError):
        orchestrator.status("7")


@pytest.mark.parametrize("key", ["another-key", ""])
def test_another_key_is_not(devnet: Devnet, key: str) -> None:
    orchestrator = AlpsOrchestrator(devnet.orchestrator_url, api_key=key, timeout_ms=5_000)
    for ask in (orchestrator.check, lambda: orchestrator.status("7"), lambda: orchestrator.submit("{}")):
        with pytest.raises(AuthError) as caught:
            ask()
        assert caught.value.field == "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY"
