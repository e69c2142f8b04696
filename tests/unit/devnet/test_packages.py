"""The npm lock: everything pinned by hash, and no address of a registry in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worker.devnet import npm_packages
from worker.devnet.errors import DevnetError


class TestLock:
    """What is committed."""

    def test_every_package_is_pinned_by_hash_and_none_by_address(self) -> None:
        text = (npm_packages.MANIFEST / "package-lock.json").read_text()
        assert "resolved" not in text
        packages = json.loads(text)["packages"]
        assert all("integrity" in package for name, package in packages.items() if name)

    def test_the_lock_is_of_the_manifest(self) -> None:
        manifest = json.loads((npm_packages.MANIFEST / "package.json").read_text())
        root = json.loads((npm_packages.MANIFEST / "package-lock.json").read_text())["packages"][""]
        for kind in ("dependencies", "devDependencies"):
            assert root[kind] == manifest[kind]


class TestCache:
    """Where packages go, and why they cannot."""

    def test_a_relative_cache_folder_is_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert npm_packages.cache_dir() == Path.home() / ".cache" / "session-executor"

    def test_a_missing_npm_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(DevnetError, match="npm is not on PATH"):
            npm_packages.node_modules()

    def test_a_failing_npm_leaves_nothing_behind(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        bin_dir = tmp_path / "bin"
        bin_dir.mkdir()
        npm = bin_dir / "npm"
        npm.write_text("#!/bin/sh\necho 'npm error no network' >&2\nexit 7\n")
        npm.chmod(0o755)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("PATH", f"{bin_dir}:/usr/bin:/bin")
        with pytest.raises(DevnetError, match="npm error no network"):
            npm_packages.node_modules()
        assert list((tmp_path / "cache" / "session-executor").iterdir()) == []

    def test_an_installed_folder_is_used_without_npm(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        bin_dir = tmp_path / "bin"
        bin_dir.mkdir()
        npm = bin_dir / "npm"
        npm.write_text("#!/bin/sh\nmkdir node_modules\n")
        npm.chmod(0o755)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("PATH", f"{bin_dir}:/usr/bin:/bin")
        first = npm_packages.node_modules()
        npm.unlink()
        monkeypatch.setenv("PATH", str(tmp_path))
        assert npm_packages.node_modules() == first
        assert first.is_dir()
