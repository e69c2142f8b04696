"""The operations page shows metrics and a trace as they are, and every command that a page names exists."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.support.otlp import Span, collector
from tests.support.pipeline import Pipeline, transfer
from worker.cli.main import app
from worker.cli.metrics import exposition
from worker.devnet.devnet import Devnet
from worker.execution.tracing import trace_id
from worker.intents.states import State

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "operations.md"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_COMMAND = re.compile(r"(?:^|[`$ ])(session-executor(?: [^`\n|>#]+)?)", re.MULTILINE)


def commands(text: str) -> list[str]:
    """Every command line of ours in a page, in code blocks and in the text."""
    code = "\n".join(
        [*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *re.findall(r"`(session-executor [^`\n]+)`", text)]
    )
    return [found.strip() for found in _COMMAND.findall(code.replace("\\\n", " "))]


def unknown(line: str) -> str:
    """What of a command line the program does not know; empty when it knows all of it."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(line.replace("…", "X").replace("[", "").replace("]", ""))[1:]
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):
            break
        found = command.commands.get(words[0])
        if found is None:
            # `devnet|demo`: each of them has to exist
            missing = [name for name in words[0].split("|") if name not in command.commands]
            return missing[0] if missing else ""
        command, words = found, words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in options | {"--help", "--install-completion"}:
            return name
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    wrong = {line: unknown(line) for line in commands(page.read_text()) if unknown(line)}
    assert not wrong


def test_a_command_that_is_not_there_is_found() -> None:
    assert commands("`session-executor trade --now` and\n```sh\nsession-executor doctor --fix\n```") == [
        "session-executor doctor --fix",
        "session-executor trade --now",
    ]
    assert unknown("session-executor trade --now") == "trade"
    assert unknown("session-executor doctor --fix") == "--fix"
    assert unknown("session-executor intents show ID --json") == ""


def tree(spans: list[Span], parent: str = "", depth: int = 0) -> list[str]:
    """The trace as text, in the order in which things began; polls and waits once each."""
    lines: list[str] = []
    seen: set[tuple[str, str]] = set()
    for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
        state = span.attributes.get("state", "")
        if span.parent_id != parent or (depth and (span.name, state) in seen):
            continue
        seen.add((span.name, state))
        lines.append(f"{'   ' * depth}{span.name:<{30 - 3 * depth}}{state}".rstrip())
        lines += tree(spans, span.span_id, depth + 1)
    return lines


def test_the_page_shows_metrics_and_a_trace_as_they_are(
    devnet: Devnet, redis_url: str, tmp_path: Path
) -> None:
    """``UPDATE_DOCS=1`` writes the page anew."""
    with collector() as traces:
        pipeline = Pipeline(devnet, redis_url, tmp_path, otlp_endpoint=traces.url)
        intent_id = pipeline.submit("shown", transfer(1_000_000))
        assert pipeline.run(intent_id)[0].state is State.COMPLETED
        pipeline.runtime.tracing.close()
        page = exposition(pipeline.runtime, None).decode()
    helps = dict(re.findall(r"^# HELP (sx_\w+) (.*)$", page, re.MULTILINE))
    # when a counter began depends on what this process has counted before
    helps = {name: words for name, words in helps.items() if not name.endswith("_created")}
    width = max(map(len, helps))
    metrics = "\n".join(f"{name:<{width}}  {words}" for name, words in sorted(helps.items()))
    trace = "\n".join(tree([span for span in traces.spans if span.trace_id == trace_id(intent_id)]))
    text = PAGE.read_text()
    found = re.compile(r"(?<=```text\n).*?(?=```)", re.DOTALL)
    blocks = [metrics + "\n", trace + "\n"]
    if os.environ.get("UPDATE_DOCS"):
        parts = iter(blocks)
        text = found.sub(lambda _: next(parts), text)
        PAGE.write_text(text)
    assert found.findall(text) == blocks
