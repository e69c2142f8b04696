"""What no real Vault does on demand: it takes its time over the one reply that cannot be had twice."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from config.vault import bootstrap
from tests.support.http_stub import Answer, Seen, http_stub

UNSEAL_KEY = base64.b64encode(b"session-executor test unseal key").decode()


def test_a_slow_initialisation_does_not_lose_the_unseal_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "REQUEST_TIMEOUT_S", 1)

    def answer(seen: Seen) -> Answer:
        if seen.path == "/v1/sys/init" and seen.method != "GET":
            return Answer(200, {"keys_base64": [UNSEAL_KEY], "root_token": "a root token"}, delay_s=2)
        if seen.path == "/v1/sys/init":
            return Answer(200, {"initialized": False})
        if seen.path == "/v1/sys/seal-status":
            return Answer(200, {"initialized": True, "sealed": True})
        return Answer(400, {"errors": ["the test ends here"]})

    init = tmp_path / "init.json"
    with http_stub(answer) as stub, pytest.raises(Exception, match="the test ends here"):
        bootstrap.bootstrap(bootstrap.Options(addr=stub.url, init_file=init, wait_s=0), "")
    assert json.loads(init.read_text()) == {"unseal_key": UNSEAL_KEY, "root_token": "a root token"}
