"""Traces of OpenTelemetry: one per intent, from enqueued to final, through every task and request.

Messages carry the intent's id and nothing else, so the trace's id is made of it: whichever process works on the intent
adds to the same trace, and whoever has an intent's id has its trace's. The root span is sent with the final state, so a
trace that has none is an intent that is still open.

Without ``SESSION_EXECUTOR_OTLP_ENDPOINT`` nothing is recorded, and no exporter is loaded. Spans hold
ids, states, counts and our own reasons: no amount, no address, no text from outside.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from structlog.contextvars import bound_contextvars

from worker.execution.errors import TracingSetupError
from worker.intents.model import IntentRecord
from worker.intents.states import State
from worker.outbound import Rules, is_loopback

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanContext, Tracer

log = structlog.get_logger(__name__)

SERVICE = "session-executor"
#: How long a process that ends waits for its last spans to be taken.
_FLUSH_MS = 2_000
#: The states in which an intent did not do what was asked.
_BAD = frozenset({State.FAILED, State.EXPIRED, State.DEAD, State.REJECTED})

#: (trace id, span id) that the next span has to take; else they are random.
_forced: ContextVar[tuple[int, int] | None] = ContextVar("forced", default=None)


def trace_id(intent_id: str) -> str:
    """The id of an intent's trace, 32 hex digits."""
    return hashlib.sha256(b"trace:" + intent_id.encode()).hexdigest()[:32]


def _root_id(intent_id: str) -> int:
    return int.from_bytes(hashlib.sha256(b"root:" + intent_id.encode()).digest()[:8])


class Tracing:
    """What a process sends, and where to.

    The sender has a thread, which a fork does not inherit: it is made at the first span of each process.

    Args:
        endpoint: URL that takes OTLP over HTTP, usually ``…/v1/traces``; ``""`` for none. Headers and what else the
            exporter takes come from OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_HEADERS``).
        http_hosts: hosts that plain http may go to, beside this machine.

    Raises:
        InputError: the URL cannot be used.
        TracingSetupError: the libraries are not installed.
    """

    def __init__(self, endpoint: str = "", http_hosts: frozenset[str] = frozenset()) -> None:
        self._rules = Rules("SESSION_EXECUTOR_OTLP_ENDPOINT", http_hosts)
        self._endpoint = self._rules.check_url(endpoint) if endpoint else ""
        self._provider: TracerProvider | None = None
        self._sender: BatchSpanProcessor | None = None
        self._pid = 0
        self._lock = threading.Lock()
        if endpoint:
            _require_libraries()

    @property
    def on(self) -> bool:
        """Whether anything is recorded."""
        return bool(self._endpoint)

    @contextmanager
    def stage(self, name: str, record: IntentRecord) -> Generator[None]:
        """One attempt at one stage: a span below the intent's root, and the same keys on every log line within.

        Args:
            name: of the stage.
            record: as it was claimed.
        """
        keys = {
            "intent_id": record.intent_id,
            "session_id": record.intent.session_id,
            "attempt": record.attempts,
            "trace_id": trace_id(record.intent_id),
        }
        with bound_contextvars(**keys):
            tracer = self._tracer()
            if tracer is None:
                yield
                return
            from opentelemetry import trace  # noqa: PLC0415

            parent = trace.set_span_in_context(trace.NonRecordingSpan(_root(record.intent_id)))
            attributes = {key: value for key, value in keys.items() if key != "trace_id"}
            with tracer.start_as_current_span(
                name,
                context=parent,
                attributes={**attributes, "state": str(record.state), "source": record.intent.source},
                record_exception=False,  # a traceback is not for others
                set_status_on_exception=False,
            ) as span:
                try:
                    yield
                except BaseException as error:
                    span.set_status(trace.StatusCode.ERROR, type(error).__name__)
                    raise

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """A part of a stage: a request, the use of a key. Nothing outside of a stage."""
        tracer = self._tracer()
        if tracer is None:
            yield
            return
        from opentelemetry import trace  # noqa: PLC0415

        if not trace.get_current_span().get_span_context().is_valid:
            yield
            return
        with tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise

    def waited(self, record: IntentRecord, *, now_ms: int) -> None:
        """The time that an intent waited for the stage that begins now, as a span.

        Args:
            record: as it was claimed.
            now_ms: unix milliseconds.
        """
        since_ms = int(record.fields.get("entered_ms") or record.created_ms)
        self._finished("wait", record, since_ms, now_ms, {"state": str(record.state)})

    def ended(self, record: IntentRecord, to_state: State, why: str, *, now_ms: int) -> None:
        """The root: the intent's whole life.

        Args:
            record: as it was before its last change.
            to_state: the final state.
            why: our own words for it.
            now_ms: unix milliseconds.
        """
        attributes = {
            "intent_id": record.intent_id,
            "session_id": record.intent.session_id,
            "source": record.intent.source,
            "state": str(to_state),
            "reason": why.partition(":")[0],
        }
        self._finished("intent", record, record.created_ms, now_ms, attributes, bad=to_state in _BAD)

    def _finished(
        self,
        name: str,
        record: IntentRecord,
        from_ms: int,
        to_ms: int,
        attributes: dict[str, str],
        *,
        bad: bool = False,
    ) -> None:
        tracer = self._tracer()
        if tracer is None:
            return
        from opentelemetry import context, trace  # noqa: PLC0415

        root = _root(record.intent_id)
        is_root = name == "intent"
        parent = context.Context() if is_root else trace.set_span_in_context(trace.NonRecordingSpan(root))
        token = _forced.set((root.trace_id, root.span_id) if is_root else None)
        try:
            span = tracer.start_span(
                name, context=parent, start_time=from_ms * 1_000_000, attributes=attributes
            )
        finally:
            _forced.reset(token)
        if bad:
            span.set_status(trace.StatusCode.ERROR, attributes["reason"])
        span.end(max(from_ms, to_ms) * 1_000_000)

    def _tracer(self) -> Tracer | None:
        if not self._endpoint:
            return None
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._provider, self._sender = _provider(self._endpoint, self._rules)
                    self._pid = os.getpid()
                    atexit.register(self.close)
        return self._provider.get_tracer(SERVICE) if self._provider is not None else None

    def close(self) -> None:
        """Send what is left, within some seconds; called when the process ends."""
        if self._sender is not None and self._pid == os.getpid():
            atexit.unregister(self.close)
            # by itself it waits half a minute for a collector that is away
            last = threading.Thread(target=self._sender.shutdown, daemon=True)
            last.start()
            last.join(_FLUSH_MS / 1000)
            self._provider, self._sender, self._pid = None, None, 0


def _require_libraries() -> None:
    try:
        import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        raise TracingSetupError(
            "OpenTelemetry is not installed",
            field="SESSION_EXECUTOR_OTLP_ENDPOINT",
            fix="install session-executor[otel], or unset it",
        ) from None


def _root(intent_id: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415

    return SpanContext(
        int(trace_id(intent_id), 16), _root_id(intent_id), is_remote=True, trace_flags=TraceFlags(1)
    )


def _provider(endpoint: str, rules: Rules) -> tuple[TracerProvider, BatchSpanProcessor]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

    from worker.guarded_session import GuardedSession  # noqa: PLC0415

    class Ids(RandomIdGenerator):
        """Random, but for the root of an intent's trace."""

        def generate_trace_id(self) -> int:
            forced = _forced.get()
            return super().generate_trace_id() if forced is None else forced[0]

        def generate_span_id(self) -> int:
            forced = _forced.get()
            return super().generate_span_id() if forced is None else forced[1]

    provider = TracerProvider(
        resource=Resource.create({"service.name": SERVICE}), id_generator=Ids(), shutdown_on_exit=False
    )
    session = GuardedSession(rules, trust_env=not is_loopback(urlsplit(endpoint).hostname or ""))
    sender = BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_FLUSH_MS / 1000, session=session))
    provider.add_span_processor(sender)
    return provider, sender
