"""Every recorded vector file has a test that replays it, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.vectors import NOT_REPLAYED, REPLAYERS, vectors_dir

TESTS = Path(__file__).parents[1]


def test_every_file_is_replayed() -> None:
    files = {path.stem for path in vectors_dir().glob("*.json")}
    if not files:
        pytest.skip("the vector files are missing: set VECTORS_DIR to their folder")
    unknown = sorted(files - REPLAYERS.keys() - NOT_REPLAYED.keys())
    assert not unknown, f"no test replays {', '.join(unknown)}: add it to REPLAYERS or NOT_REPLAYED"


def test_no_file_is_both_replayed_and_not() -> None:
    assert not REPLAYERS.keys() & NOT_REPLAYED.keys()


@pytest.mark.parametrize("name", sorted(REPLAYERS))
def test_the_replayers_exist_and_name_the_file(name: str) -> None:
    assert REPLAYERS[name]
    for module in REPLAYERS[name]:
        assert f'"{name}"' in (TESTS / module).read_text("utf-8"), f"{module} does not read {name}.json"


def test_what_is_not_replayed_is_read_by_no_test() -> None:
    """So that a test that is written later is registered, too."""
    for name in sorted(NOT_REPLAYED):
        readers = [
            path for path in TESTS.rglob("test_*.py") if f'vectors("{name}")' in path.read_text("utf-8")
        ]
        assert not readers, f"{readers[0].name} replays {name}.json: move it to REPLAYERS"
