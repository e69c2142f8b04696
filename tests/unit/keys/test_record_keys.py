"""The keys of the seals in a file."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.keys.errors import KeyFormatError, KeyNotFoundError, KeyStoreSetupError
from worker.keys.record_keys import RecordKeyFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "record.keys"


class TestFirstUse:
    """One machine needs no further step; several need the same file."""

    def test_it_is_made_private_and_stays(self, path: Path) -> None:
        made = RecordKeyFile(path, make=True).load()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert RecordKeyFile(path, make=True).load() == made
        assert len(made.keys[made.current]) == 32

    def test_of_many_processes_one_makes_it(self, path: Path) -> None:
        files = [RecordKeyFile(path, make=True) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            made = [found.current for found in pool.map(RecordKeyFile.load, files)]
        assert len(set(made)) == 1
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_one_that_was_named_is_not_made(self, path: Path) -> None:
        with pytest.raises(KeyNotFoundError, match="does not exist") as caught:
            RecordKeyFile(path, make=False).load()
        assert caught.value.field == "record_keys_file"
        assert not path.exists()


class TestRotation:
    """A new key seals, the old one counts until it is forgotten."""

    def test_rotate_and_forget(self, path: Path) -> None:
        file = RecordKeyFile(path, make=True)
        first = file.load()
        second = file.rotate()
        both = file.load()
        assert both.current == second
        assert both.keys[first.current] == first.keys[first.current]
        with pytest.raises(KeyStoreSetupError, match="current"):
            file.forget(second)
        with pytest.raises(KeyNotFoundError):
            file.forget("nobody")
        file.forget(first.current)
        assert set(file.load().keys) == {second}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


class TestDamage:
    """A file that cannot be trusted is not used, and nothing of it is shown."""

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"current": "a", "keys": {}}',
            '{"current": "b", "keys": {"a": "%s"}}' % ("5e" * 32),
            '{"current": "a", "keys": {"a": "5e5e"}}',
            '{"current": "a", "keys": {"a": 5}}',
            '{"current": "a", "keys": {"A b": "%s"}}' % ("5e" * 32),
        ],
    )
    def test_a_file_of_another_kind(self, path: Path, text: str) -> None:
        path.parent.mkdir(mode=0o700)
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(KeyFormatError) as caught:
            RecordKeyFile(path, make=True).load()
        assert "5e5e" not in str(caught.value)
        assert caught.value.field == str(path)

    def test_a_file_that_others_may_read(self, path: Path) -> None:
        RecordKeyFile(path, make=True).load()
        path.chmod(0o640)
        with pytest.raises(KeyStoreSetupError, match="open to other users"):
            RecordKeyFile(path, make=True).load()
        assert json.loads(path.read_text())["keys"]
