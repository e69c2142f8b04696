"""One intent is one trace, whoever works on it, and its log lines carry the trace's id."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from config.logging import configure_logging
from tests.support.otlp import Collector, Span, collector
from tests.support.pipeline import Pipeline, transfer
from worker.errors import InputError
from worker.execution import tracing
from worker.execution.tracing import Tracing, trace_id
from worker.intents.states import State


@pytest.fixture
def traces() -> Generator[Collector]:
    with collector() as found:
        yield found


def spans_of(traces: Collector, pipeline: Pipeline, intent_id: str) -> list[Span]:
    pipeline.runtime.tracing.close()
    return sorted(
        (span for span in traces.spans if span.trace_id == trace_id(intent_id)),
        key=lambda span: (span.start_ns, -span.end_ns),
    )


def test_an_intent_is_one_trace_from_enqueued_to_final(
    make_pipeline: Callable[..., Pipeline], traces: Collector
) -> None:
    pipeline = make_pipeline(otlp_endpoint=traces.url)
    intent_id = pipeline.submit("traced", transfer(1_000_000))
    assert pipeline.run(intent_id)[0].state is State.COMPLETED
    spans = spans_of(traces, pipeline, intent_id)
    (root,) = [span for span in spans if not span.parent_id]
    assert (root.name, root.attributes["state"], root.failed) == ("intent", "COMPLETED", False)
    record = pipeline.ledger.get(intent_id)
    assert root.start_ns == record.created_ms * 1_000_000
    below = {span.name for span in spans if span.parent_id == root.span_id}
    assert {"wait", "prepare", "sign", "submit", "poll"} == below
    parents = {span.span_id: span.name for span in spans}
    deeper = {
        (span.name, parents[span.parent_id]) for span in spans if span.parent_id not in ("", root.span_id)
    }
    assert deeper == {
        ("orchestrator.quote", "prepare"),
        ("keys.sign", "sign"),
        ("orchestrator.submit", "submit"),
        ("orchestrator.status", "poll"),
    }
    for span in spans:
        assert root.start_ns <= span.start_ns <= span.end_ns
        assert not span.failed


def test_a_refusal_is_a_failed_trace_with_its_reason_and_no_more(
    make_pipeline: Callable[..., Pipeline], traces: Collector
) -> None:
    pipeline = make_pipeline(otlp_endpoint=traces.url)
    intent_id = pipeline.submit("too much", transfer(200_000_000))
    assert pipeline.run(intent_id)[0].state is State.REJECTED
    spans = spans_of(traces, pipeline, intent_id)
    (root,) = [span for span in spans if span.name == "intent"]
    assert root.failed
    assert root.attributes["reason"] == "spending-limits"
    sent = b"".join(traces.bodies)
    assert intent_id.encode() in sent
    for private in ("200", "200000000", pipeline.settings.orchestrator_api_key.get_secret_value()):
        assert private.encode() not in sent.replace(intent_id.encode(), b"")
    assert pipeline.session.account.encode() not in sent


def test_a_request_that_fails_is_a_failed_span(
    make_pipeline: Callable[..., Pipeline], traces: Collector
) -> None:
    pipeline = make_pipeline(otlp_endpoint=traces.url)
    pipeline.devnet.add_fault("respond", path="/intents/route", status=401)
    intent_id = pipeline.submit("unlucky", transfer(1_000_000))
    pipeline.until(lambda: bool(pipeline.ledger.get(intent_id).attention), intent_id)
    spans = spans_of(traces, pipeline, intent_id)
    assert [(span.name, span.failed) for span in spans] == [
        ("wait", False),
        ("prepare", False),  # the error has its place in the table, the stage did what is due
        ("orchestrator.quote", True),
    ]


def test_log_lines_of_a_stage_carry_the_same_keys(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline()
    stream = io.StringIO()
    configure_logging("DEBUG", json=True, secrets=(), stream=stream)
    intent_id = pipeline.submit("logged", transfer(1_000_000))
    pipeline.run(intent_id)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    moved = [line for line in lines if line["event"] in ("intent moved", "intent ended")]
    assert [line["to_state"] for line in moved] == ["AUTHORIZED", "SIGNED", "SUBMITTED", "COMPLETED"]
    for line in moved:
        assert line["intent_id"] == intent_id
        assert line["session_id"] == pipeline.session.session_id
        assert line["attempt"] >= 0
        assert line["trace_id"] == trace_id(intent_id)


def test_a_collector_that_is_away_stops_nothing(make_pipeline: Callable[..., Pipeline]) -> None:
    pipeline = make_pipeline(otlp_endpoint="http://127.0.0.1:9/v1/traces")
    intent_id = pipeline.submit("untraced", transfer(1_000_000))
    assert pipeline.run(intent_id)[0].state is State.COMPLETED


def test_an_endpoint_that_cannot_be_one_is_named() -> None:
    with pytest.raises(InputError, match="SESSION_EXECUTOR_OTLP_ENDPOINT"):
        Tracing("ftp://somewhere")


def test_without_an_endpoint_no_exporter_is_loaded() -> None:
    code = (
        "import sys, tasks.app; print(any(name.startswith('opentelemetry.exporter') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "SESSION_EXECUTOR_OTLP_ENDPOINT": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_a_forked_process_has_a_sender_of_its_own(
    make_pipeline: Callable[..., Pipeline], traces: Collector
) -> None:
    pipeline = make_pipeline(otlp_endpoint=traces.url)
    first = pipeline.submit("before", transfer(1_000_000))
    pipeline.run(first)
    second = pipeline.submit("in the child", transfer(1_000_000))
    record = pipeline.ledger.get(second)
    child = os.fork()
    if child == 0:
        try:
            pipeline.runtime.tracing.ended(record, State.CANCELED, "by a child", now_ms=record.created_ms + 5)
            pipeline.runtime.tracing.close()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (span,) = [span for span in traces.spans if span.trace_id == trace_id(second) and not span.parent_id]
    assert span.end_ns - span.start_ns == 5_000_000
    assert spans_of(traces, pipeline, first)


def test_the_libraries_missing_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(tracing.TracingSetupError, match=r"install session-executor\[otel\]"):
        Tracing("http://127.0.0.1:4318/v1/traces")
