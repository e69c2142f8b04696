"""The console on a system where things went well and wrong, with the real pipeline behind it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path

import pytest

from tasks.poison import PoisonBox
from tests.support.cli import PREFIX, Run
from tests.support.pipeline import Pipeline, transfer
from tests.support.sessions import USDC
from worker.devnet.devnet import Devnet
from worker.intents.states import State
from worker.ledger.connection import connect

OTHER = "0x" + "77" * 20


Busy = tuple[Pipeline, dict[str, str]]


@pytest.fixture
def busy(
    environment: dict[str, str],
    devnet: Devnet,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Busy:
    """One intent completed, one refused by the limit, one that the orchestrator keeps PENDING, one queued."""
    assert environment[PREFIX + "REDIS_URL"] == redis_url
    pipeline = Pipeline(devnet, redis_url, tmp_path / "worker", watch_attention_ms=300)
    # the operator has the keys of the seals, which lie beside the worker's
    monkeypatch.setenv(PREFIX + "KEYSTORE_DIR", str(tmp_path / "worker" / "keys"))
    vars(pipeline.runtime)["who"] = "worker:7"  # in place of this machine's name and process id
    ids = {"done": pipeline.submit("done", transfer(70_000_000), note="=1+1")}
    pipeline.run(ids["done"])
    ids["refused"] = pipeline.submit("refused", transfer(40_000_000))
    pipeline.run(ids["refused"])
    pipeline.devnet.add_fault("stall", method="POST", path="/intent-operations")
    ids["slow"] = pipeline.submit("slow", transfer(5_000_000))
    pipeline.until(lambda: pipeline.ledger.get(ids["slow"]).attention == "SLOW", ids["slow"])
    ids["queued"] = pipeline.submit("queued", transfer(1))
    return pipeline, ids


def test_status_is_one_screen_and_says_by_its_code_that_somebody_should_look(
    busy: Busy, command: Run
) -> None:
    code, out, err = command("status")
    assert (code, err) == (1, "")
    assert "attention  1 SLOW" in out
    assert "1 COMPLETED" in out
    assert "in flight  1" in out
    assert "100 USDC" in out
    assert " 75 %" in out
    code, out, _ = command("status", "--json")
    found = json.loads(out)
    assert found["intents"] == {"QUEUED": 1, "SUBMITTED": 1, "COMPLETED": 1, "REJECTED": 1}
    assert found["attention"] == {"SLOW": 1}
    (session,) = found["sessions"]
    (budget,) = [budget for budget in session["budgets"] if budget["policy"] == "spending-limits"]
    assert (budget["spent"], budget["reserved"]) == ("70000000", "5000000")


def test_status_of_an_idle_system_is_well(command: Run, session: str) -> None:
    code, out, err = command("status")
    assert (code, err) == (0, "")
    assert "intents    none" in out


def test_why_names_the_policy_and_the_numbers(busy: Busy, command: Run) -> None:
    _, ids = busy
    code, out, _ = command("why", ids["refused"])
    assert code == 0
    assert f"{ids['refused']} is REJECTED since " in out
    assert (
        "spending-limits: 100.00 USDC allowed, 70.00 spent or reserved, this call takes 40.00 (call 0)" in out
    )
    code, out, _ = command("why", ids["slow"])
    assert "SLOW: " in out
    assert "what to do: " in out
    assert "the orchestrator's last word is PENDING" in out
    found = json.loads(command("why", ids["slow"], "--json")[1])
    assert (found["state"], found["attention"]) == ("SUBMITTED", "SLOW")
    assert {budget["reserved"] for budget in found["budgets"] if budget["token"] == USDC} == {"5000000"}
    assert command("why", "int_nothing")[0] == 2


def test_export_has_every_intent_once_with_what_it_moved(busy: Busy, command: Run) -> None:
    pipeline, ids = busy
    code, out, err = command("export", "--format", "jsonl")
    assert (code, err) == (0, "4 intents\n")
    rows = {row["intent_id"]: row for row in map(json.loads, out.splitlines())}
    assert set(rows) == set(ids.values())
    done = rows[ids["done"]]
    assert [moved["amount"] for moved in done["moved"] if moved["token"] == USDC] == ["70000000"]
    assert done["tx_hash"] == pipeline.ledger.get(ids["done"]).tx_hash != ""
    assert rows[ids["refused"]]["moved"] == []
    out = command("export", "--state", "COMPLETED")[1]
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["intent_id"] == ids["done"]
    assert row["note"] == "'=1+1"  # a spreadsheet must not run it
    assert command("export", "--since", "2999-01-01", "--format", "jsonl")[1] == ""
    assert command("export", "--until", "2000-01-01", "--format", "jsonl")[1] == ""
    code, _, err = command("export", "--since", "yesterday")
    assert code == 2
    assert err == "error: --since: 'yesterday' is no day (write 2026-01-31)\n"


def test_export_pages_through_more_than_one_page(
    busy: Busy, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.cli.console._PAGE", 2)
    assert command("export")[2] == "4 intents\n"


def test_report_of_a_day(busy: Busy, command: Run) -> None:
    pipeline, ids = busy
    found = json.loads(command("report", "--json")[1])
    assert found["sessions"][pipeline.session.session_id] == {
        "states": {"COMPLETED": 1, "QUEUED": 1, "REJECTED": 1, "SUBMITTED": 1},
        "moved": {USDC: "70000000"},
    }
    assert found["reasons"] == {"REJECTED: spending-limits": 1}
    out = command("report")[1]
    assert "70 USDC" in out
    assert "REJECTED: spending-limits" in out
    assert "no intents" in command("report", "--day", "2001-01-01")[1]
    assert pipeline.ledger.get(ids["queued"]).state is State.QUEUED


def test_a_session_shows_its_limits_as_bars_with_the_time_left(busy: Busy, command: Run) -> None:
    pipeline, _ = busy
    out = command("sessions", "show", pipeline.session.session_id)[1]
    assert "[###############-----]  75 %" in out
    assert "(time left: 23:5" in out


def test_watch_looks_as_often_as_asked(busy: Busy, command: Run) -> None:
    code, out, _ = command("watch", "--every", "0.2", "--times", "2")
    assert code == 0
    assert out.count("in flight  1") == 2


PAGE = Path(__file__).parents[3] / "docs" / "console.md"
_SAME_EVERY_TIME = (
    (re.compile(r"int_[0-9a-f]{16}_[0-9a-f]{24}"), "int_" + "0" * 16 + "_" + "1" * 24),
    (re.compile(r"ses_[0-9a-f]{16}"), "ses_" + "0" * 16),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"), "2026-01-31 12:00:00 UTC"),
    (re.compile(r"(tx_hash +)0x[0-9a-f]{64}"), r"\g<1>0x" + "2" * 64),
    (re.compile(r"(signed by )0x[0-9a-f]{40}"), r"\g<1>0x" + "3" * 40),
    (re.compile(r"(orchestrator_id +)\d+"), r"\g<1>12345"),
    (re.compile(r"(_ms +)\d{13}"), r"\g<1>1769860800000"),
    (re.compile(r"after \d+ s"), "after 210 s"),
    (re.compile(r"(?<= )\d\d:\d\d:\d\d(?= +│)"), "23:59:59"),
    (re.compile(r"(attempts +)\d+"), r"\g<1>4"),
    (re.compile(r"(keys +)0x[0-9a-fA-F]{40}"), r"\g<1>0x" + "3" * 40),
    (re.compile(r"(permission +)0x[0-9a-f]{64}"), r"\g<1>0x" + "5" * 64),
    (re.compile(r"time left: \d\d:\d\d:\d\d"), "time left: 23:59:59"),
    (re.compile(r"psn_[0-9a-f]{16}"), "psn_" + "4" * 16),
    (re.compile(r"(prepare|sign|submit|watch) \d+"), r"\g<1> 0"),
)


def test_the_page_shows_what_the_commands_print(busy: Busy, command: Run, redis_url: str) -> None:
    """``UPDATE_DOCS=1`` writes the page anew."""
    pipeline, ids = busy
    box = PoisonBox(connect(redis_url, timeout_ms=2_000))
    text = PAGE.read_text()
    shown = (
        ("status",),
        ("why", ids["refused"]),
        ("why", ids["slow"]),
        ("intents", "show", ids["done"]),
        ("sessions", "show", pipeline.session.session_id),
        ("poison", "list"),
    )
    blocks: list[str] = []
    for arguments in shown:
        if arguments[0] == "poison":  # not before: `status` counts it
            box.put("not-json", "prepare", b"<html><body>502</body></html>")
            box.put("refused-request", "prepare", b'{"to":"0x12"}', why="to: is no address")
        block = f"$ session-executor {' '.join(arguments)}\n{command(*arguments)[1]}"
        for pattern, same in _SAME_EVERY_TIME:
            block = pattern.sub(same, block)
        blocks.append("\n".join(line.rstrip() for line in block.splitlines()))
    found = re.compile(r"(?<=```text\n).*?(?=\n```)", re.DOTALL)
    if os.environ.get("UPDATE_DOCS"):
        parts = iter(blocks)
        text = found.sub(lambda _: next(parts), text)
        PAGE.write_text(text)
    assert found.findall(text) == blocks
