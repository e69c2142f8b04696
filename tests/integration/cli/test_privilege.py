"""What a session may do is told before it is imported, and too much of it is refused unless an operator says so."""

from __future__ import annotations

import getpass
import json
import socket
import time
from pathlib import Path

import pytest

from tests.support.cli import Run, write_session
from tests.support.sessions import USDC, usdc_transfer

pytestmark = pytest.mark.services
YEARS_MS = 4_102_444_800_000


def test_import_refuses_each_severe_finding_until_it_is_accepted(
    command: Run, key: str, tmp_path: Path
) -> None:
    path = write_session(
        key,
        tmp_path / "s.json",
        actions=[usdc_transfer(2**256 - 1, valid_until_ms=YEARS_MS)],
        restrict=False,
    )
    accepted: list[str] = []
    for code in ("unrestricted", "unlimited-amount", "long-window"):
        exit_code, out, err = command("sessions", "import", str(path), *accepted)
        assert (exit_code, out) == (2, "")
        assert err.startswith("error: session file: may do more than it needs: ")
        assert err.count("\n") == 1
        assert f"--accept-risk {code}" in err
        assert json.loads(command("sessions", "list", "--json")[1]) == []
        accepted += ["--accept-risk", code]
    exit_code, out, err = command("sessions", "import", str(path), *accepted)
    assert exit_code == 0
    assert err.count("warning: ") == 3
    assert [entry["session_id"] for entry in json.loads(command("sessions", "list", "--json")[1])] == [
        out.strip()
    ]


def test_what_was_accepted_is_kept_with_who_and_when(command: Run, key: str, tmp_path: Path) -> None:
    path = write_session(
        key, tmp_path / "s.json", actions=[usdc_transfer(2**256 - 1, valid_until_ms=YEARS_MS)]
    )
    accepted = ("--accept-risk", "unlimited-amount", "--accept-risk", "long-window")
    # a code that is accepted in advance and not found is none
    code, out, _ = command("sessions", "import", str(path), *accepted, "--accept-risk", "sudo")
    assert code == 0
    session, who = out.strip(), f"{getpass.getuser()}@{socket.gethostname()}"
    found = json.loads(command("sessions", "show", session, "--json")[1])["accepted_risks"]
    assert [(risk["code"], risk["who"]) for risk in found] == [
        ("long-window", who),
        ("unlimited-amount", who),
    ]
    assert all(abs(risk["at_ms"] / 1000 - time.time()) < 600 for risk in found)
    assert found[0]["words"].startswith("still good in more than a year")
    # the first word stands
    assert command("sessions", "import", str(path), *accepted)[0] == 0
    assert json.loads(command("sessions", "show", session, "--json")[1])["accepted_risks"] == found
    assert f"accepted    long-window, by {who} at 20" in command("sessions", "show", session)[1]
    told = json.loads(command("sessions", "explain", session, "--json")[1])["findings"]
    assert {risk["code"]: bool(risk["accepted"]) for risk in told} == {
        "unlimited-amount": True,
        "long-window": True,
        "any-recipient": False,
    }
    assert f"by {who} at 20" in command("sessions", "explain", session)[1]


def test_an_unknown_risk_is_bad_input(command: Run, key: str, tmp_path: Path) -> None:
    path = write_session(key, tmp_path / "s.json")
    code, out, err = command("sessions", "import", str(path), "--accept-risk", "all")
    assert (code, out) == (2, "")
    assert err.startswith("error: --accept-risk: 'all' is no finding's code (known: unrestricted, ")


def test_explain_is_the_same_before_and_after_the_import(
    command: Run, key: str, session: str, tmp_path: Path
) -> None:
    code, before, err = command("sessions", "explain", "--file", str(tmp_path / "session.json"), "--json")
    assert (code, err) == (0, "")
    assert command("sessions", "explain", session, "--json")[1] == before
    told = json.loads(before)
    assert (told["session_id"], told["score"]) == (session, 90)
    assert [finding["code"] for finding in told["findings"]] == ["any-recipient"]
    assert (
        f"may call transfer(address,uint256) of {USDC} (USDC): at most 100 USDC in all" in told["summary"][1]
    )
    code, out, _ = command("sessions", "explain", session[:12])
    assert code == 0
    assert f"{session}, least privilege 90 of 100" in out
    assert key.lower() in out


@pytest.mark.parametrize("arguments", [(), ("ses_1234", "--file", "x.json")])
def test_explain_wants_one_session(command: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = command("sessions", "explain", *arguments)
    assert code == 2
    assert err.startswith("error: SESSION: either SESSION or --file must be given")
