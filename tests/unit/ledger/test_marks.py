"""What a machine remembers of the ledger outlives its processes, and a folder that cannot be used is named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worker.ledger.marks import Marks, StateDirError

EPOCH = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2
SESSION = "00112233445566ff"


def test_it_remembers_the_highest_number_of_each_session(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "state")
    assert (marks.epoch(), marks.seq(SESSION), marks.sessions()) == ("", 0, [])
    marks.learn(SESSION, 3)  # before there is an epoch there is nothing to remember it by
    assert marks.seq(SESSION) == 0
    marks.adopt(EPOCH)
    for seq in (3, 12, 7):
        marks.learn(SESSION, seq)
    again = Marks(tmp_path / "state")
    assert (again.epoch(), again.seq(SESSION), again.sessions()) == (EPOCH, 12, [SESSION])
    assert again.seq("f" * 16) == 0


def test_another_epoch_starts_afresh(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    marks.adopt(EPOCH)
    marks.learn(SESSION, 12)
    marks.adopt(EPOCH)
    assert marks.seq(SESSION) == 12
    marks.adopt(OTHER)
    assert (marks.epoch(), marks.seq(SESSION)) == (OTHER, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"epoch", "lock"}


def test_many_writers_leave_the_highest(tmp_path: Path) -> None:
    Marks(tmp_path).adopt(EPOCH)
    with ThreadPoolExecutor(8) as pool:
        for seq in range(1, 200):
            pool.submit(Marks(tmp_path).learn, SESSION, seq)
    assert Marks(tmp_path).seq(SESSION) == 199


@pytest.mark.parametrize("text", ["", "no epoch", EPOCH.upper(), EPOCH + "0"])
def test_a_damaged_epoch_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "epoch").write_text(text)
    with pytest.raises(StateDirError, match="holds no epoch") as caught:
        Marks(tmp_path).epoch()
    assert caught.value.field == "SESSION_EXECUTOR_STATE_DIR"
    assert caught.value.fix


def test_a_damaged_number_is_refused(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    marks.adopt(EPOCH)
    marks.learn(SESSION, 5)
    (tmp_path / f"seq-{EPOCH}" / SESSION).write_text("5")
    for use in (lambda: marks.seq(SESSION), lambda: marks.learn(SESSION, 6)):
        with pytest.raises(StateDirError, match="cannot be read"):
            use()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StateDirError, match="cannot be used") as caught:
        Marks(file / "state").check()
    assert str(file) in str(caught.value)


def test_the_folder_is_private(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "state")
    marks.adopt(EPOCH)
    marks.learn(SESSION, 5)
    for path in (tmp_path / "state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "epoch"
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
