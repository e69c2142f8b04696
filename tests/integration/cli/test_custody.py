"""``keys import``, ``rotate`` and ``destroy``: nothing of a key is shown, nothing is switched or lost by accident."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from tests.support.cli import Run, submit, write_session
from tests.support.sessions import ACCOUNT
from worker.devnet.devnet import Devnet
from worker.keys.secp256k1 import address_of
from worker.sessions.file import load_session_file

pytestmark = pytest.mark.services
KEY = keccak(b"session-executor test imported key")
ADDRESS = to_checksum_address(address_of(KEY))


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def held(command: Run) -> dict[str, dict[str, Any]]:
    return {entry["address"]: entry for entry in json.loads(command("keys", "list", "--json")[1])}


class TestImport:
    """A key comes by standard input and by nothing else."""

    @pytest.mark.parametrize("form", ["{}\n", "0x{}", "  0x{}\n\n"])
    def test_by_standard_input(self, command: Run, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        typed(monkeypatch, form.format(KEY.hex()))
        code, out, err = command("keys", "import", "--label", "old wallet", "--address", ADDRESS)
        assert (code, out, err) == (0, f"{ADDRESS}\n", "")
        assert held(command)[ADDRESS]["label"] == "old wallet"
        typed(monkeypatch, KEY.hex())
        code, out, err = command("keys", "import")
        assert (code, out) == (1, "")
        assert "is stored there" in err

    def test_never_as_an_argument(self, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        typed(monkeypatch, "")
        for arguments in ((KEY.hex(),), ("0x" + KEY.hex(), "--label", "x"), ("--", KEY.hex())):
            code, out, err = command("keys", "import", *arguments)
            assert (code, out) == (2, "")
            assert "standard input" in err
            assert KEY.hex() not in err
        assert held(command) == {}

    @pytest.mark.parametrize("text", ["", KEY.hex()[:-1], KEY.hex() + "00", "0" * 64, "f" * 64, "x" * 300])
    def test_what_is_no_key(self, command: Run, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        typed(monkeypatch, text)
        code, out, err = command("keys", "import")
        assert (code, out) == (2, "")
        assert err.startswith("error: standard input: ")
        assert err.count("\n") == 1
        assert not text or text not in err

    def test_another_key_than_expected(self, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        typed(monkeypatch, KEY.hex())
        code, _, err = command("keys", "import", "--address", ACCOUNT)
        assert code == 2
        assert f"is the key of {ADDRESS}" in err
        assert held(command) == {}


def approve(path: Path, prepared: Path, key: str) -> str:
    """What the user's frontend does with a prepared file: the same session, with the owner's signature."""
    file = load_session_file(prepared.read_text())
    return str(write_session(key, path, actions=file.session().actions, restrict=True))


def test_rotation_from_the_next_key_to_the_end_of_the_old_one(
    command: Run, key: str, session: str, tmp_path: Path, devnet: Devnet
) -> None:
    code, out, err = command("keys", "rotate", key, "--finish")
    assert (code, out) == (1, "")
    assert "no key was made to take its place" in err

    code, out, err = command("keys", "rotate", key, "--out", str(tmp_path), "--json")
    assert code == 0, err
    told = json.loads(out)
    (entry,) = told["sessions"]
    assert entry["session_id"] == session != entry["next_session_id"]
    # again: the same key, the same file
    assert json.loads(command("keys", "rotate", key, "--out", str(tmp_path), "--json")[1]) == told
    known = held(command)
    assert known[told["address"]]["replaces"] == key
    assert known[key]["sessions"] == [session]
    assert known[told["address"]]["label"] == known[key]["label"]

    code, _, err = command("keys", "rotate", key, "--finish")
    assert code == 1
    assert "is not imported yet" in err
    approved = approve(tmp_path / "approved.json", Path(entry["file"]), told["address"])
    code, out, err = command("sessions", "import", approved)
    assert (code, out.strip()) == (0, entry["next_session_id"]), err

    assert submit(command, session)[0] == 0
    code, _, err = command("keys", "rotate", key, "--finish")
    assert code == 1
    assert "1 of its intents wait to be signed" in err
    code, _, err = command("keys", "destroy", key, "--yes")
    assert code == 1
    assert "1 session(s) in use and 1 unsigned intent(s) need this key" in err
    (intent,) = json.loads(command("intents", "list", "--json")[1])
    assert command("intents", "cancel", intent["intent_id"])[0] == 0

    code, out, err = command("keys", "rotate", key, "--finish", "--json")
    assert code == 0, err
    assert json.loads(out) == {"switched": {session: entry["next_session_id"]}, "strategies_to_change": []}
    assert held(command)[key]["rotated"]
    listed = {entry["session_id"]: entry for entry in json.loads(command("sessions", "list", "--json")[1])}
    assert listed[session]["paused"]
    assert not listed[entry["next_session_id"]]["paused"]
    assert command("keys", "rotate", key, "--finish")[0] == 0

    code, out, err = command("keys", "destroy", key, "--yes")
    assert (code, out) == (0, f"{key} is destroyed\n")
    assert f"{session} loses its key (it is paused)" in err
    assert set(held(command)) == {told["address"]}


def test_a_key_that_is_in_use_is_destroyed_by_force_alone(command: Run, key: str, session: str) -> None:
    code, _, err = command("keys", "destroy", key, "--yes")
    assert code == 1
    assert "--force" in err
    assert key in held(command)
    code, out, err = command("keys", "destroy", key, "--yes", "--force")
    assert (code, out) == (0, f"{key} is destroyed\n")
    assert f"{session} loses its key" in err
    assert held(command) == {}


def test_no_answer_is_no(command: Run, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "n\n")
    assert command("keys", "destroy", key)[0] != 0
    assert key in held(command)


@pytest.mark.parametrize("name", ["rotate", "destroy"])
def test_an_address_that_is_none(command: Run, name: str) -> None:
    code, _, err = command("keys", name, KEY.hex(), *(["--yes"] if name == "destroy" else []))
    assert code == 2
    assert KEY.hex() not in err


def test_a_key_that_is_not_ours(command: Run, key: str) -> None:
    assert command("keys", "rotate", ACCOUNT)[0] == 2
    code, _, err = command("keys", "destroy", ACCOUNT, "--yes")
    assert code == 1
    assert "there is no key of" in err
