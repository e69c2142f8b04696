"""``make leaks`` in a short form: crashes at the two steps that have the key in hand, on a real Vault."""

from __future__ import annotations

import pytest

from tests.leaks.run import search

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]


def test_no_secret_is_left_anywhere_and_each_search_finds_a_canary() -> None:
    outcome = search("vault", ("after_key_fetch", "after_signed_stored"), ("raise",), commands=False)
    assert outcome.hits == []
    assert outcome.missed == []
    assert outcome.crashes == outcome.forced == 2
    assert len(outcome.canaries) == 15
