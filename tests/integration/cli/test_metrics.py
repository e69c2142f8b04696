"""What Prometheus scrapes, over the real pipeline; and no panel or alert that asks for what is not there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from config.settings import get_settings
from tests.support.cli import PREFIX, Run
from tests.support.pipeline import Pipeline, transfer
from worker.cli.metrics import exposition, serve
from worker.devnet.devnet import Devnet
from worker.execution import metrics
from worker.execution.runtime import Runtime

CONFIG = Path(__file__).parents[3] / "config"
COUNT = """
from types import SimpleNamespace
from worker.execution import metrics
from worker.intents.states import State
record = SimpleNamespace(state=State.SUBMITTED, created_ms=0, fields={})
for _ in range(int(__import__("sys").argv[1])):
    metrics.moved(record, State.FAILED, "spending-limits: no", now_ms=1_500)
"""


@pytest.fixture
def page(environment: dict[str, str], devnet: Devnet, redis_url: str, tmp_path: Path) -> str:
    """The page after one intent was completed, one refused, one failed and one left pending."""
    assert environment[PREFIX + "REDIS_URL"] == redis_url
    pipeline = Pipeline(devnet, redis_url, tmp_path / "worker", watch_attention_ms=300)
    pipeline.run(pipeline.submit("done", transfer(70_000_000)))
    pipeline.run(pipeline.submit("refused", transfer(40_000_000)))
    devnet.add_fault("fail_execution", method="POST", path="/intent-operations")
    pipeline.run(pipeline.submit("failed", transfer(1)))
    devnet.add_fault("stall", method="POST", path="/intent-operations")
    slow = pipeline.submit("slow", transfer(5_000_000))
    pipeline.until(lambda: pipeline.ledger.get(slow).attention == "SLOW", slow)
    return exposition(pipeline.runtime, None).decode()


def samples(page: str, name: str) -> dict[tuple[str, ...], float]:
    """Label values in the order of the labels' names → value."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def test_the_page_tells_what_the_pipeline_did(page: str) -> None:
    assert samples(page, "sx_ledger_up") == {(): 1}
    assert samples(page, "sx_intents") == {
        ("SUBMITTED",): 1,
        ("COMPLETED",): 1,
        ("FAILED",): 1,
        ("REJECTED",): 1,
    }
    assert samples(page, "sx_intents_attention") == {("SLOW",): 1}
    assert samples(page, "sx_intents_in_flight") == {(): 1}
    ratios = samples(page, "sx_budget_used_ratio")
    (ratio,) = [value for labels, value in ratios.items() if "spending-limits" in labels]
    assert ratio == 0.75
    # this process counts over all its tests, so these are at least what the fixture did
    moves = samples(page, "sx_intent_moves_total")
    assert moves["QUEUED", "AUTHORIZED"] >= 3
    assert moves["SUBMITTED", "COMPLETED"] >= 1
    ends = samples(page, "sx_intents_ended_badly_total")
    assert ends["QUEUED", "spending-limits", "REJECTED"] >= 1
    assert ends["SUBMITTED", "other", "FAILED"] >= 1
    assert samples(page, "sx_intent_pickup_seconds_count")[()] >= 4
    assert samples(page, "sx_orchestrator_request_seconds_count")["ok", "quote"] >= 3
    assert samples(page, "sx_key_use_seconds_count")[("ok",)] >= 3


def test_no_panel_and_no_alert_asks_for_what_is_not_there(page: str) -> None:
    there = {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}
    alerts = yaml.safe_load((CONFIG / "prometheus" / "alerts.yml").read_text())
    rules = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    dashboard = json.loads((CONFIG / "grafana" / "session-executor.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(rules) >= 10
    assert len(queries) >= 12
    asked = set(re.findall(r"\bsx_\w+", " ".join(rules + queries)))
    assert asked <= there
    # and what is told is looked at by somebody
    families = {family.name for family in text_string_to_metric_families(page)}
    looked_at = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked}
    assert {
        name for name in families if name.startswith("sx_") and not name.endswith("_created")
    } <= looked_at


def test_the_figures_of_several_processes_are_one_sum_and_outlive_them(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    for times in ("2", "3"):
        subprocess.run(
            [sys.executable, "-c", COUNT, times],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            cwd=Path(__file__).parents[3],
            check=True,
        )
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    code, out, _ = command("metrics")
    assert code == 0
    ends = samples(out, "sx_intents_ended_badly_total")
    assert list(ends.values()) == [5]
    assert samples(out, "sx_intent_life_seconds_sum") == {("FAILED",): 7.5}
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "none"))
    code, out, err = command("metrics")
    assert (code, out) == (2, "")
    assert err.startswith("error: PROMETHEUS_MULTIPROC_DIR: ")


def test_a_ledger_that_is_down_is_a_figure_not_a_failed_scrape(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + "REDIS_URL", "redis://127.0.0.1:9/0")
    get_settings.cache_clear()
    code, out, _ = command("metrics")
    assert code == 0
    assert samples(out, "sx_ledger_up") == {(): 0}


def test_it_is_served_and_only_there(command: Run, session: str) -> None:
    services = Runtime(get_settings(), dispatch=lambda stage, intent_id: None)
    with serve(lambda: exposition(services, None), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{server.server_port}"
            reply = httpx.get(f"{base}/metrics", timeout=30)
            assert samples(reply.text, "sx_ledger_up") == {(): 1}
            assert httpx.get(f"{base}/", timeout=30).status_code == 404
            code, _, err = command("metrics", "--port", str(server.server_port))
            assert code == 2
            assert err.startswith("error: --port: cannot listen on ")
        finally:
            server.shutdown()
            thread.join()


def test_a_reason_from_outside_is_no_label() -> None:
    from types import SimpleNamespace
    from typing import cast

    from worker.intents.model import IntentRecord
    from worker.intents.states import State

    record = cast("IntentRecord", SimpleNamespace(state=State.QUEUED, created_ms=0, fields={}))
    metrics.moved(record, State.REJECTED, "0x1234 whatever a server says: x", now_ms=1)
    labels = {sample.labels["reason"] for family in metrics.ENDS.collect() for sample in family.samples}
    assert "other" in labels
    assert not [label for label in labels if "0x" in label]
