"""The audit trail: one chain for many processes, and no line can be changed, taken out or cut off unseen."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from worker.audit import FIRST, AuditError, AuditTrail, Head, kept_beside, lines, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.jsonl"


def write_some(path: Path, count: int = 5) -> Head:
    trail = AuditTrail(path)
    return [trail.write("moved", intent_id=f"int_{number}", why="é\n\ud800", n=5) for number in range(count)][
        -1
    ]


def _write_many(path: Path) -> None:
    for _ in range(25):
        AuditTrail(path).write("moved", pid=os.getpid())


class TestWriting:
    """Appended under a lock, private, and on disk."""

    def test_a_line_holds_what_it_was_told_and_its_chain(self, path: Path) -> None:
        head = write_some(path)
        found = list(lines(path))
        assert [entry["n"] for entry in found] == [1, 2, 3, 4, 5]
        assert found[0]["prev"] == FIRST
        assert [entry["prev"] for entry in found[1:]] == [entry["hash"] for entry in found[:-1]]
        assert (found[-1]["intent_id"], found[-1]["why"], found[-1]["event"]) == ("int_4", "é\n?", "moved")
        assert head == Head(found[-1]["log"], 5, found[-1]["hash"]) == kept_beside(path)
        assert verify(path, {"beside": kept_beside(path)}) == head
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_many_processes_write_one_chain(self, path: Path) -> None:
        with ProcessPoolExecutor(4) as pool:
            list(pool.map(_write_many, [path] * 4))
        assert verify(path, {"beside": kept_beside(path)}).n == 100
        assert len({entry["pid"] for entry in lines(path)}) > 1

    @pytest.mark.parametrize("rest", [b"{", b'{"log":"x","n":6', b"\xff\xfe"])
    def test_a_torn_line_is_dropped_and_said(self, path: Path, rest: bytes) -> None:
        write_some(path)
        with path.open("ab") as file:
            file.write(rest)
        with pytest.raises(AuditError, match="ends in the middle"):
            verify(path, {})
        write_some(path, 1)
        assert verify(path, {"beside": kept_beside(path)}).n == 7
        assert list(lines(path))[5]["event"] == "torn line dropped"

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(AuditError, match="cannot be written") as caught:
            AuditTrail(tmp_path / "file" / "audit.jsonl").write("signing")
        assert caught.value.field == "SESSION_EXECUTOR_AUDIT_FILE"
        AuditTrail(tmp_path / "file" / "audit.jsonl").tell("moved")  # it has happened already

    def test_the_same_is_told_once(self, path: Path) -> None:
        trail = AuditTrail(path)
        for why in ("a", "a", "b", "a"):
            trail.tell_once("forged", why=why)
        assert [entry["why"] for entry in lines(path)] == ["a", "b"]


def _edited(text: list[str]) -> list[str]:
    return [*text[:2], text[2].replace("int_2", "int_9"), *text[3:]]


def _rehashed(text: list[str]) -> list[str]:
    """With a hash of its own that fits: only the line after it tells."""
    import hashlib

    entry = json.loads(text[2])
    entry.pop("hash")
    entry["intent_id"] = "int_9"
    plain = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
    entry["hash"] = hashlib.sha256(plain.encode()).hexdigest()
    return [*text[:2], json.dumps(entry, ensure_ascii=False, separators=(",", ":")), *text[3:]]


_FORGERIES: list[tuple[Callable[[list[str]], list[str]], str]] = [
    (_edited, "line 3 was edited"),
    (_rehashed, "line 4 does not follow"),
    (lambda text: [*text[:2], *text[3:]], "line 3 has the number 4"),
    (lambda text: [text[0], text[2], text[1], *text[3:]], "line 2 has the number 3"),
    (lambda text: [*text[:2], text[1], *text[2:]], "line 3 has the number 2"),
    (lambda text: text[1:], "line 1 has the number 2"),
    (lambda text: [*text[:2], "{}", *text[2:]], "line 3 is no line"),
    (lambda text: [*text[:2], text[2].replace(":", ": ", 1), *text[3:]], "line 3 was edited"),
    (lambda text: text[:-1], "it ends at line 4, and line 5 is known"),
    (lambda text: text[:1], "it ends at line 1, and line 5 is known"),
]


class TestVerify:
    """Whatever is done to the file shows."""

    @pytest.mark.parametrize(("forge", "words"), _FORGERIES)
    def test_forgeries(self, path: Path, forge: Callable[[list[str]], list[str]], words: str) -> None:
        head = write_some(path)
        text = path.read_text().splitlines()
        path.write_text("".join(f"{line}\n" for line in forge(text)))
        with pytest.raises(AuditError, match=words) as caught:
            verify(path, {"in Redis": head})
        assert caught.value.field == str(path)

    def test_another_log_in_its_place(self, path: Path, tmp_path: Path) -> None:
        head = write_some(path)
        other = tmp_path / "other.jsonl"
        write_some(other)
        other.replace(path)
        with pytest.raises(AuditError, match="it is not the log"):
            verify(path, {"in Redis": head})

    def test_a_chain_that_was_written_anew(self, path: Path) -> None:
        """Every hash fits; the head that was kept elsewhere does not."""
        head = write_some(path)
        name = head.log
        text = path.read_text()
        path.unlink()
        trail = AuditTrail(path)
        trail._append("moved", {"why": "x"})  # pyright: ignore[reportPrivateUsage]
        assert text
        forged = Head(name, 1, "0" * 64)
        with pytest.raises(AuditError, match="it is not the log"):
            verify(path, {"in Redis": forged})

    def test_there_is_none(self, path: Path) -> None:
        with pytest.raises(AuditError, match="cannot be read"):
            verify(path, {})
