"""``.env.example`` names every setting with its default, explains it, and holds nothing secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.settings import Settings
from tests.support.compose import ROOT

EXAMPLE = ROOT / ".env.example"
PREFIX = "SESSION_EXECUTOR_"
COMPOSE_ONLY = {"REDIS_PASSWORD", "STRATEGIES_FILE", "COMPOSE_PROFILES", "NOTIFICATIONS_FILE"}
_LINE = re.compile(r"(?:# )?([A-Z][A-Z0-9_]+)=(.*)")


def variables() -> dict[str, str]:
    found = [match for line in EXAMPLE.read_text().splitlines() if (match := _LINE.fullmatch(line))]
    assert len({match[1] for match in found}) == len(found), "a variable is there twice"
    return {match[1]: match[2] for match in found}


def load(file: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"{PREFIX}{name.upper()}", raising=False)
    return Settings(_env_file=file)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_every_setting_is_in_it_and_nothing_else() -> None:
    expected = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | COMPOSE_ONLY
    assert set(variables()) == expected


def test_each_has_a_comment_before_it() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if _LINE.fullmatch(line):
            above = lines[number - 1]
            assert above.startswith("# ") or _LINE.fullmatch(above), f"{line} has no comment above it"


def test_as_it_is_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(EXAMPLE, monkeypatch) == load(Path("/nonexistent"), monkeypatch)


def test_its_values_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uncommented = tmp_path / "all.env"
    given = {name: value for name, value in variables().items() if value}
    uncommented.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    assert load(uncommented, monkeypatch) == load(Path("/nonexistent"), monkeypatch)


def test_what_is_empty_has_no_default() -> None:
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        assert (variables()[f"{PREFIX}{name.upper()}"] == "") == (default is None or default == ""), name


def test_no_password_is_given() -> None:
    assert variables()["REDIS_PASSWORD"] == ""
    for name, field in Settings.model_fields.items():
        if "SecretStr" in str(field.annotation) and not name.endswith(("_url", "_urls")):
            assert variables()[f"{PREFIX}{name.upper()}"] == "", name
    assert "@" not in EXAMPLE.read_text()
    assert not re.search(r"[0-9a-fA-F]{20,}", EXAMPLE.read_text())
