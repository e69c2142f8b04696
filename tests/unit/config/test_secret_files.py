"""Secrets from files: one place for each, closed to others, and never shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from config.settings import SECRET_FILES, Settings, SettingsError, get_settings

SECRET = "hunter2"
PREFIX = "SESSION_EXECUTOR_"


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)  # pyright: ignore[reportCallIssue]


def file_of(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_every_secret_setting_has_its_file() -> None:
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert set(SECRET_FILES) | {"keystore_passphrase"} == secret
    assert {f"{name}_file" for name in secret} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", [name for name in SECRET_FILES if name != "source_rpc_urls"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_file_is_the_value(name: str, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(file_of(tmp_path, SECRET + end)))
    found = settings()
    assert getattr(found, name) == SecretStr(SECRET)
    assert SECRET not in repr(found)
    assert getattr(settings(**found.model_dump(exclude_unset=True)), name) == SecretStr(SECRET)


def test_endpoints_of_further_chains(tmp_path: Path) -> None:
    path = file_of(tmp_path, '{"42161": "https://node.example/hunter2"}\n')
    found = settings(source_rpc_urls_file=path)
    assert found.source_rpc_urls == {42161: SecretStr("https://node.example/hunter2")}


@pytest.mark.parametrize("name", SECRET_FILES)
def test_a_value_and_a_file_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"{PREFIX}{name.upper()}_FILE", str(file_of(tmp_path, "{}")))
    monkeypatch.setenv(f"{PREFIX}{name.upper()}", '{"1": "hunter2"}')
    get_settings.cache_clear()
    try:
        with pytest.raises(SettingsError, match="both as a value and as a file") as caught:
            get_settings()
    finally:
        get_settings.cache_clear()
    assert f"{PREFIX}{name.upper()}:" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (SECRET, 0o640, "chmod 600"),
        (SECRET, 0o604, "chmod 600"),
        ("", 0o600, "is empty"),
        ("\n", 0o600, "is empty"),
        (b"hunter2\xff", 0o600, "no UTF-8"),
        (SECRET * 10_000, 0o600, "too large"),
    ],
)
def test_a_file_that_cannot_be_used(text: str | bytes, mode: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        settings(vault_token_file=file_of(tmp_path, text, mode))
    assert "SESSION_EXECUTOR_VAULT_TOKEN_FILE" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, words in (
        (tmp_path / "pipe", "no plain file"),
        (tmp_path, "no plain"),
        (tmp_path / "x", "read"),
    ):
        with pytest.raises(SettingsError, match=words):
            settings(redis_url_file=path)


def test_what_is_no_json_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SOURCE_RPC_URLS_FILE") as caught:
        settings(source_rpc_urls_file=file_of(tmp_path, '{"42161": hunter2'))
    assert SECRET not in str(caught.value)
