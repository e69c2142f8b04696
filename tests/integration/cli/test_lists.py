"""Whatever lists something filters, pages, and has JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from redis import Redis
from typer.core import TyperGroup

from tasks.poison import PoisonBox
from tests.support.cli import Run, submit
from tests.support.pipeline import RECIPIENT
from tests.support.sessions import ACCOUNT
from worker.cli.main import app

#: Never more than a few, all of one kind.
_SHORT = {("ledger", "keys", "list")}
_PAGED = {"--limit", "--offset", "--json"}


def listing(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Every command named ``list``, and those that list under another name, with their options."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from listing(command, (*path, name))
        elif name == "list" or (*path, name) == ("audit", "show"):
            options = {word for parameter in command.params for word in parameter.opts}
            yield (*path, name), options


def test_every_list_filters_pages_and_has_json() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    found = dict(listing(group))
    assert {"intents", "sessions", "keys", "strategies", "poison", "notifications", "audit"} <= {
        path[0] for path in found
    }
    for path, options in found.items():
        if path in _SHORT:
            assert "--json" in options, path
            continue
        assert options >= _PAGED, path
        assert options - _PAGED - {"--help"}, f"{path} has no filter"


@pytest.fixture
def filled(command: Run, session: str, redis_url: str, tmp_path: Path) -> str:
    """At least two of everything; the session's id."""
    assert command("keys", "create", "--label", "another")[0] == 0
    for number in range(3):
        assert submit(command, session, key=f"k{number}")[0] == 0
    file = tmp_path / "strategies.toml"
    file.write_text(
        "".join(
            f'[[strategies]]\nname = "{name}"\nkind = "{kind}"\nsession = "{session}"\nevery = "1h"\n'
            f'to = "{RECIPIENT}"\namount = "1 USDC"\n'
            for name, kind in (("a", "recurring-transfer"), ("b", "subscription"))
        )
    )
    assert command("strategies", "add", str(file))[0] == 0
    box = PoisonBox(Redis.from_url(redis_url, protocol=2))
    for kind in ("not-json", "too-large"):
        box.put(kind, "sign", b"x")
    return session


def test_they_do_it(command: Run, filled: str) -> None:
    def rows(*arguments: str) -> list[dict[str, object]]:
        code, out, err = command(*arguments, "--json")
        assert (code, err) == (0, ""), arguments
        return json.loads(out)

    lists = {
        ("sessions", "list"): (("--account", ACCOUNT, "--running"), ("--paused",)),
        ("keys", "list"): (("--label", "anoth", "--current"), ("--rotated",)),
        ("strategies", "list"): (("--session", filled, "--kind", "subscription"), ("--kind", "dca")),
        ("intents", "list"): (("--session", filled, "--state", "QUEUED"), ("--state", "DEAD")),
        ("poison", "list"): (("--kind", "too-large"), ("--kind", "no-message")),
        ("audit", "show"): (("--session", filled), ("--event", "forged")),
    }
    for name, (some, none) in lists.items():
        whole = rows(*name)
        assert whole, name
        found = rows(*name, *some)
        assert found, name
        assert all(row in whole for row in found), name
        assert rows(*name, *none) == [], name
        # pages are the whole, each row once
        pages = [rows(*name, "--limit", "1", "--offset", str(number)) for number in range(len(whole) + 1)]
        assert pages[-1] == [], name
        paged = [row for page in pages for row in page]
        assert paged == (whole[::-1] if name == ("audit", "show") else whole), name
    code, _, err = command("sessions", "list", "--account", "nobody")
    assert code == 2
    assert err.startswith("error: --account: ")
