"""The devnet as a fixture: one per run, put back to its first state before each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.support.need import missing
from worker.devnet.devnet import Devnet, start_devnet

ARBITRUM = 42161


def need_anvil() -> None:
    """Skip, or fail in CI, when there is neither anvil nor the npm that can install it."""
    if shutil.which("anvil") is None and shutil.which("npm") is None:
        missing("anvil", "install Node.js 20 (its npm fetches the pinned anvil), or put anvil on PATH")


def need_node() -> None:
    """Skip, or fail in CI, without node and npm."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        missing("node with npm", "install Node.js 20 or newer")


@pytest.fixture(scope="session")
def shared_devnet() -> Iterator[Devnet]:
    """One devnet for the whole run. Ask for ``devnet`` instead, unless you leave it as it was."""
    need_anvil()
    with start_devnet() as running:
        yield running


@pytest.fixture
def devnet(shared_devnet: Devnet) -> Devnet:
    """A devnet in its first state: no accounts, faults, intents or counters."""
    shared_devnet.reset()
    return shared_devnet


@pytest.fixture(scope="session")
def shared_cross_devnet() -> Iterator[Devnet]:
    """One devnet of Base and Arbitrum for the whole run. Ask for ``cross_devnet`` instead."""
    need_anvil()
    with start_devnet(also=[ARBITRUM]) as running:
        yield running


@pytest.fixture
def cross_devnet(shared_cross_devnet: Devnet) -> Devnet:
    """A devnet of two chains in its first state."""
    shared_cross_devnet.reset()
    return shared_cross_devnet
