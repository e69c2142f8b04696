"""A room in the shared Vault for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.vault import VaultServer
from tests.support.vault_room import Room, vault_room


@pytest.fixture
def room(vault_server: VaultServer) -> Iterator[Room]:
    with vault_room(vault_server) as made:
        yield made
