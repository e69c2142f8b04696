"""``docs/tutorial.md``, run block by block: what it says is what happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from config.settings import get_settings
from tests.support.e2e import COMMAND
from tests.support.pipeline import FAST
from worker.devnet.stack import Stack

DOCUMENT = Path(__file__).parents[2] / "docs" / "tutorial.md"
RECIPIENT = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8"
#: A block waits for intents, which take a second each here.
BLOCK_TIMEOUT_S = 60
MakeStack = Callable[..., Stack]


@dataclass(frozen=True)
class Block:
    """A fenced code block: its language, its text, and the document's line that it starts at."""

    language: str
    text: str
    line: int


def blocks() -> list[Block]:
    text = DOCUMENT.read_text()
    return [
        Block(found[1], found[2], text[: found.start()].count("\n") + 2)
        for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


class Reader:
    """Somebody who types every block into one Python session and one shell, in order."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {}
        self.printed: dict[str, str] = {}
        path = os.pathsep.join((str(Path(COMMAND).parent), stack.environment["PATH"]))
        self._environment = {**stack.environment, "PATH": path}

    def read(self, block: Block) -> None:
        """Do what a block says; a failure names its line."""
        if block.language == "python":
            # so that a traceback has the document's lines
            code = compile("\n" * (block.line - 1) + block.text, str(DOCUMENT), "exec", dont_inherit=True)
            exec(code, self.names)
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=self.folder,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=BLOCK_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, f"line {block.line}: {done.stdout}{done.stderr}"
            self.printed[block.text] = done.stdout

    def output_of(self, words: str) -> str:
        """What the one block that holds these words printed."""
        [found] = [output for text, output in self.printed.items() if words in text]
        return found


@pytest.fixture
def stack(make_stack: MakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """What step 0 starts; this process has its settings, too."""
    stack = make_stack()
    stack.devnet.set_delays(**FAST)
    for name, value in stack.environment.items():
        if name.startswith("SESSION_EXECUTOR_"):
            monkeypatch.setenv(name, value)
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    get_settings.cache_clear()
    yield stack
    get_settings.cache_clear()


@pytest.mark.services
def test_every_block_does_what_the_tutorial_says(stack: Stack) -> None:
    reader = Reader(stack, Path.cwd())
    for block in blocks():
        reader.read(block)
    names, devnet = reader.names, stack.devnet
    account, usdc = names["account"].address, names["USDC"]

    # 1: the command and Python derive the same account, and the emissary was installed on it
    assert f'"{account}"' in (reader.folder / "derived.json").read_text().lower()
    assert names["installed"].status in {"FILLED", "COMPLETED"}
    first, *_ = devnet.executions(account)
    assert first.calls[0].to == account
    # 3 to 5: two trades, each once; the repeated command was the same intent
    assert reader.output_of("invoice-1").count("COMPLETED") == 2
    assert len(set(re.findall(r"int_\w+", reader.output_of("invoice-1")))) == 1
    assert names["second_trade"] == "COMPLETED"
    assert devnet.executed(usdc, names["transfer"](10_000_000).data, account=account) == 2
    assert [execution.enabled for execution in devnet.executions(account)].count(True) == 1
    # the limit: refused, not signed
    assert "REJECTED" in reader.output_of("invoice-3")
    assert "refused" in reader.output_of("invoice-3")
    assert devnet.executed(usdc, names["transfer"](31_000_000).data) == 0
    # 6: the command printed what Python sent, and revoked is revoked
    printed = json.loads((reader.folder / "revoke.json").read_text())["call"]
    assert printed["data"] == "0x" + names["revoke"].data.hex()
    assert printed["to"].lower() == names["revoke"].to
    assert "cannot be used yet" in reader.output_of("invoice-4")
    assert "REJECTED" in reader.output_of("invoice-4")
    assert devnet.executed(usdc, names["transfer"](1_000_000).data) == 0
    # 7: the same, and it is enabled by the transaction alone
    printed = json.loads((reader.folder / "enable.json").read_text())["transaction"]
    assert printed["data"] == "0x" + names["enable"].hex()
    assert "enabled already" in reader.output_of("invoice-5")
    assert "COMPLETED" in reader.output_of("invoice-5")
    assert devnet.executed(usdc, names["transfer"](20_000_000).data, account=account) == 1
    assert devnet.usdc_balance(account) == 1_000_000_000 - 40_000_000
    assert devnet.usdc_balance(RECIPIENT) >= 40_000_000


def test_the_document_is_covered() -> None:
    """No block is left out by a fence that the test does not know, and what it does not run is step 0's processes."""
    text = DOCUMENT.read_text()
    found = blocks()
    assert text.count("\n```") == 2 * len(found)
    assert {block.language for block in found} == {"python", "bash", "sh"}
    daemons = [block.text.strip() for block in found if block.language == "sh"]
    assert [command.split()[0] for command in daemons] == ["session-executor", "celery"]
    # one worker for everything, signing included
    assert daemons[1] == "celery -A tasks.app worker --concurrency 2"


def test_every_function_that_the_table_names_is_in_a_block() -> None:
    table = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][2:]
    code = "\n".join(block.text for block in blocks())
    for line in table:
        for name in re.findall(r"`([^`]+)`", line.rsplit("|", 2)[1]):
            assert name in code, f"{name} is in the table and in no block"
