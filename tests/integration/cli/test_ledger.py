"""``ledger status`` and ``ledger confirm``: what an operator sees and says after Redis has forgotten the books."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import redis

from tests.support.cli import PREFIX, Run, submit
from worker.ledger import keys
from worker.ledger.epoch import LedgerEpoch
from worker.ledger.marks import Marks

pytestmark = pytest.mark.services


def test_a_loss_is_shown_and_confirmed(command: Run, environment: dict[str, str], tmp_path: Path) -> None:
    code, out, _ = command("ledger", "status")
    assert (code, out.strip()) == (0, "new: no worker has traded on it yet")
    assert command("ledger", "confirm", "--why", "nothing")[0] == 2
    with redis.Redis.from_url(environment[PREFIX + "REDIS_URL"], protocol=2, decode_responses=True) as client:
        LedgerEpoch(client, Marks(tmp_path / "state"), where="here").look(who="a worker", now_ms=1)
        code, out, _ = command("ledger", "status")
        assert (code, out.startswith("whole, epoch ")) == (0, True)
        client.flushall()
    code, out, _ = command("ledger", "status", "--json")
    found = json.loads(out)
    assert (code, found["whole"], found["noticed_ms"]) == (1, False, 0)
    assert "Redis holds no ledger any more" in found["loss"]
    code, out, _ = command("doctor", "--json")
    assert code == 1
    (finding,) = [finding for finding in json.loads(out) if finding["what"] == "ledger"]
    assert finding["status"] == "fail"
    # nobody answers the question: nothing is confirmed
    assert command("ledger", "confirm", "--why", "compared")[0] != 0
    assert command("ledger", "status")[0] == 1
    code, _, err = command("ledger", "confirm", "--yes", "--why", " ")
    assert code == 2
    assert "--why" in err
    code, out, err = command("ledger", "confirm", "--yes", "--why", "compared with the chain")
    assert (code, out.startswith("confirmed, epoch ")) == (0, True)
    assert "what counts from now on: no intents" in err
    assert command("ledger", "status")[0] == 0


def test_what_is_archived_is_shown_from_its_file(
    command: Run, session: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command("ledger", "archive")
    assert code == 2
    assert "SESSION_EXECUTOR_ARCHIVE_DIR: is not set" in err
    monkeypatch.setenv("SESSION_EXECUTOR_ARCHIVE_DIR", str(tmp_path / "archive"))
    intent = submit(command, session)[1].strip()
    command("intents", "cancel", intent)
    with redis.Redis.from_url(redis_url, protocol=2) as client:  # long ago
        client.hset(keys.intent(intent), mapping={"created_ms": 1, "updated_ms": 1})
        client.zadd(keys.of_session(keys.digits_of_intent(intent), "all"), {intent: 1})
        assert command("ledger", "archive")[1].startswith("1 archived")
        assert intent not in command("intents", "list")[1]
        shown = command("intents", "show", intent)[1]
        assert "CANCELED" in shown
        assert "archived" in shown
        assert json.loads(command("intents", "show", intent, "--json")[1])["archived_ms"] > 0
        # asked for again it is the same one
        assert submit(command, session)[1].split()[:1] == [intent]
        tombstones = keys.of_session(keys.digits_of_intent(intent), "archived")
        client.delete(tombstones)
        words = command("ledger", "restore-archive", str(tmp_path / "archive"))[1]
        assert words.strip() == "1 archived intents read, 1 of them were not known to the ledger"
        assert client.hlen(tombstones) == 1
        client.delete(tombstones)
        [path] = (tmp_path / "archive").glob("*.gz")
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"CANCELED", b"FAILED")))
        code, _, err = command("ledger", "restore-archive", str(tmp_path / "archive"))
        assert code == 1
        assert f"{intent}: its seal does not fit its content" in err
        assert client.hlen(tombstones) == 0
        assert command("ledger", "restore-archive", "--unsealed", str(tmp_path / "archive"))[0] == 0
        code, _, err = command("intents", "show", intent)
        assert "is not known to be ours" in err
    monkeypatch.setenv("SESSION_EXECUTOR_ARCHIVE_DIR", str(tmp_path / "elsewhere"))
    code, _, err = command("intents", "show", intent)
    assert code == 2
    assert "has ended as FAILED and is archived" in err
    assert command("ledger", "restore-archive", str(tmp_path / "nowhere"))[0] == 2
