"""No text from outside can crash the JSON decoder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.json_text import json_value
from worker.json_depth import MAX_DEPTH, check_depth


class TestDepth:
    """Nesting is counted where the decoder would see it."""

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[" * MAX_DEPTH,
            "[" * MAX_DEPTH + "]" * MAX_DEPTH,
            '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH,
            "[" + ",".join(["[]"] * 10_000) + "]",
            '["' + "[{" * 10_000 + '"]',
            '["\\"' + "[" * 10_000 + '\\""]',
            '["\\\\",' + '"[[[[[[",' * 1000 + "1]",
            '"' + "[" * 10_000,
        ],
        ids=lambda text: repr(text[:12]),
    )
    def test_accepted(self, text: str) -> None:
        check_depth(text)

    @pytest.mark.parametrize(
        "text",
        [
            "[" * (MAX_DEPTH + 1),
            '{"a":' * (MAX_DEPTH + 1),
            '[{"\\"":' * MAX_DEPTH,
            '"\\\\"' + "[" * 1000,
            '["]]]]]]]]",' * (MAX_DEPTH + 1),
            "[" * 8_000_000,
        ],
        ids=lambda text: repr(text[:12]),
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="deep"):
            check_depth(text)

    @pytest.mark.parametrize(
        "text", ['"\\"' * 2_000_000, '"' + "\\" * 8_000_001, '"[",' * 2_000_000, "\\" * 8_000_000]
    )
    def test_is_linear(self, text: str) -> None:
        """Quadratic time would need hours for these."""
        check_depth("[" * (MAX_DEPTH - 1) + text + "{")

    @given(json_value(depth=4))
    def test_real_documents_pass(self, text: str) -> None:
        check_depth(text)

    @given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", "a", ","]), max_size=600).map("".join))
    def test_what_passes_the_decoder_survives(self, text: str) -> None:
        try:
            check_depth(text)
            json.loads(text)
        except ValueError:
            pass


def test_the_decoders_of_replies_survive_in_a_process_like_the_workers() -> None:
    """In a process of its own, because what is tested is that it does not crash."""
    code = """
import sys, web3, eth_account
assert sys.getrecursionlimit() > 10_000, "the reason for the guard is gone"
from worker.orchestrator.exact_json import loads
for text in ("[" * 1_000_000, '{"a":' * 1_000_000):
    try:
        loads(text)
    except ValueError as error:
        assert "deep" in str(error)
    else:
        raise SystemExit("accepted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
