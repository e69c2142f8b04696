"""Each benchmark runs with a handful of rounds and ends with its line; how fast it was is nobody's assertion here."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import structlog

from benchmarks import inflight, keys, memory, pipeline, policy, report, signing
from tests.support.redis import RedisServer
from tests.support.sdk import node_binary, sdk_dir
from tests.support.vault import VaultServer

pytestmark = pytest.mark.services

TINY = ["--number", "2", "--rounds", "2", "--warm-up", "1"]
NUMBER = r"\d+(\.\d+)?"


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()[-1]


class TestLastLines:
    """A run ends with the line that other programs read."""

    def test_signing_against_the_sdk(self, capsys: pytest.CaptureFixture[str]) -> None:
        sdk_dir()
        assert signing.main(TINY) == 0
        assert re.fullmatch(rf"cpu_ratio_vs_sdk={NUMBER}", last_line(capsys))

    def test_policies_and_budgets(
        self, capsys: pytest.CaptureFixture[str], redis_server: RedisServer
    ) -> None:
        redis_server.process()  # the benchmark starts one of its own, from the same binary
        assert policy.main(TINY) == 0
        assert re.fullmatch(rf"evaluate_reserve_cpu_ms={NUMBER} round_trips=1", last_line(capsys))

    def test_memory_of_a_record(self, capsys: pytest.CaptureFixture[str], redis_server: RedisServer) -> None:
        redis_server.process()
        assert memory.main(20) == 0
        figures = re.fullmatch(
            r"records=20 bytes_per_record=(\d+) bytes_per_tombstone=(-?\d+)", last_line(capsys)
        )
        assert figures
        assert int(figures[1]) > 6_000  # the quote and the body alone

    def test_keys_from_vault(self, capsys: pytest.CaptureFixture[str], vault_server: VaultServer) -> None:
        assert keys.main(TINY) == 0
        assert re.fullmatch(rf"key_fetch_ms_p50={NUMBER}", last_line(capsys))

    def test_the_whole_pipeline_against_the_sdk(
        self, capsys: pytest.CaptureFixture[str], redis_server: RedisServer, vault_server: VaultServer
    ) -> None:
        sdk_dir()
        redis_server.process()
        assert pipeline.main(["--brief", *TINY]) == 0
        assert re.fullmatch(rf"throughput_ratio_vs_sdk={NUMBER}", last_line(capsys))

    def test_where_the_time_goes(
        self, capsys: pytest.CaptureFixture[str], redis_server: RedisServer, vault_server: VaultServer
    ) -> None:
        redis_server.process()
        root = logging.getLogger()
        before = list(root.handlers), root.level
        try:
            pipeline.stages(3)
        finally:  # it logs as a worker does, to nowhere
            root.handlers[:], root.level = before
            structlog.reset_defaults()
        table = capsys.readouterr().out
        for stage in ("enqueue", "prepare", "sign", "submit", "watch", "Redis"):
            assert re.search(rf"^{stage}.* {NUMBER}$", table, re.MULTILINE), table

    def test_many_intents_in_flight(
        self, capsys: pytest.CaptureFixture[str], redis_server: RedisServer
    ) -> None:
        node_binary()
        redis_server.process()
        assert inflight.main(["--number", "20", "--rounds", "3", "--warm-up", "1"]) == 0
        figures = re.fullmatch(rf"in_flight=20 cpu_share={NUMBER} connections_max=(\d+)", last_line(capsys))
        assert figures
        assert int(figures[2]) >= 2  # Redis and the orchestrator


class TestHonesty:
    """A figure is printed only for work that was done."""

    def test_nothing_is_timed_when_the_sides_sign_different_things(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sdk_dir()
        record = signing.question

        def other_nonce(*args: Any) -> dict[str, Any]:
            asked = record(*args)
            return asked | {"intentOp": asked["intentOp"] | {"nonce": "1"}}

        monkeypatch.setattr(signing, "question", other_nonce)
        assert signing.main(TINY) == 1
        captured = capsys.readouterr()
        assert "the SDK signs" in captured.err
        assert "cpu_ratio_vs_sdk" not in captured.out

    def test_a_missing_service_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        def body() -> None:
            pytest.skip("redis-server is missing: install it")

        assert report.run(body) == 1
        assert capsys.readouterr().err == "redis-server is missing: install it\n"

    @pytest.mark.parametrize("count", ["0", "-1", "1.5", "many", ""])
    def test_a_count_is_a_count(self, capsys: pytest.CaptureFixture[str], count: str) -> None:
        with pytest.raises(SystemExit) as ended:
            policy.main([f"--number={count}"])
        assert ended.value.code == 2
        assert "is no count" in capsys.readouterr().err

    def test_percentiles_are_values_that_were_seen(self) -> None:
        values = [float(value) for value in range(1, 101)]
        assert [report.percentile(values, share) for share in (0.5, 0.95, 1.0)] == [50, 95, 100]
        assert report.percentile([7.0], 0.5) == 7
        with pytest.raises(ValueError, match="no values"):
            report.percentile([], 0.5)
