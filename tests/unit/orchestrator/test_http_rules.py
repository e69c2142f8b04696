"""Which URLs may carry the key, and how long a service may ask us to wait."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import InputError
from worker.orchestrator import errors
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.deadline import proxy_for
from worker.orchestrator.http import MAX_RETRY_AFTER_MS, parse_retry_after
from worker.outbound import Rules

NOW_S = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.fixture
def far_from_utc() -> Iterator[None]:
    """Local time 11 hours ahead of UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "XXX-11"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


class TestRetryAfter:
    """Seconds or a date; whatever else is left to our own backoff."""

    @pytest.mark.parametrize(
        ("value", "wait_ms"),
        [
            ("0", 0),
            ("3", 3_000),
            (" 3 ", 3_000),
            ("0003", 3_000),
            ("3600", MAX_RETRY_AFTER_MS),
            ("999999", MAX_RETRY_AFTER_MS),
            ("9" * 5000, MAX_RETRY_AFTER_MS),
            ("0" * 5000 + "7", 7_000),
            ("Tue, 14 Nov 2023 22:13:23 GMT", 3_000),
            ("Tuesday, 14-Nov-23 22:13:23 GMT", 3_000),
            ("Tue Nov 14 22:13:23 2023", 3_000),
            ("Tue, 14 Nov 2023 22:13:23 -0000", 3_000),
            ("Tue, 14 Nov 2023 22:13:23", 3_000),
            ("Wed, 15 Nov 2023 00:13:23 +0200", 3_000),
            ("Tue, 14 Nov 2023 22:13:19 GMT", 0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Fri, 14 Nov 2099 22:13:20 GMT", MAX_RETRY_AFTER_MS),
            (None, None),
            ("", 0),
            ("-5", 0),
            ("+5", 0),
            ("3.5", 3_500),
            ("1e3", 0),
            ("abc", 0),
            ("٣", 0),
            ("²", 0),
            ("3, 4", 0),
            ("Tue, 14 Nov 99999 22:13:23 GMT", 0),
            ("Tue, 32 Nov 2023 22:13:23 GMT", 0),
            ("Tue, 14 Nov 2023 25:61:61 GMT", 0),
            ("0.1", 100),
            ("0.0001", 1),
            ("1.", 0),
            (".5", 0),
        ],
    )
    def test_value(self, value: str | None, wait_ms: int | None, far_from_utc: None) -> None:
        assert parse_retry_after(value, now_s=NOW_S) == wait_ms

    @given(st.text(max_size=60))
    def test_any_text_is_a_bounded_wait_or_none(self, text: str) -> None:
        wait_ms = parse_retry_after(text, now_s=NOW_S)
        assert wait_ms is None or 0 <= wait_ms <= MAX_RETRY_AFTER_MS


class TestUrl:
    """The API key travels by https, or not at all beyond this machine."""

    @pytest.mark.parametrize(
        ("url", "kept"),
        [
            ("https://orchestrator.example", "https://orchestrator.example"),
            ("https://orchestrator.example/", "https://orchestrator.example"),
            ("https://orchestrator.example:8443/base//", "https://orchestrator.example:8443/base"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://127.9.9.9", "http://127.9.9.9"),
            ("http://localhost:1", "http://localhost:1"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ],
    )
    def test_accepted(self, url: str, kept: str) -> None:
        assert Rules("F").check_url(url) == kept

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "orchestrator.example",
            "//orchestrator.example",
            "ftp://orchestrator.example",
            "file:///etc/passwd",
            "https://",
            "https://:443",
            "https://host:99999",
            "https://host:0",
            "https://host:port",
            "https://[::1",
            "https://[nonsense]",
            "https://host/with space",
            "https://host\n",
            " https://host",
            "https://hößt.example/\u2028",
            "https://user:hunter2@host",
            "https://hunter2@host",
            "https://host?key=hunter2",
            "https://host/#hunter2",
            "http://orchestrator.example",
            "http://127.0.0.1.evil.example",
            "http://localhost.evil.example",
            "http://0.0.0.0",
            "http://10.0.0.1",
        ],
    )
    def test_refused_by_its_setting_without_being_shown(self, url: str) -> None:
        with pytest.raises(InputError) as caught:
            Rules("SOME_URL").check_url(url)
        assert caught.value.field == "SOME_URL"
        assert caught.value.fix
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)

    @given(st.text(max_size=40))
    def test_any_text_is_accepted_or_refused(self, text: str) -> None:
        for url in (text, f"https://{text}", f"http://127.0.0.1{text}"):
            try:
                kept = Rules("F").check_url(url)
            except InputError:
                continue
            # what is accepted can be used without a further check
            AlpsOrchestrator(kept, api_key="k", timeout_ms=1000).close()


class TestApiKey:
    """A key that cannot travel in a header is refused at the start, unseen."""

    @pytest.mark.parametrize(
        "key", ["hunter2\n", " hunter2", "hunter2\r\nX-Evil: 1", "hunter2\u2026", "hunter2\x00"]
    )
    def test_refused_without_being_shown(self, key: str) -> None:
        with pytest.raises(InputError) as caught:
            AlpsOrchestrator("https://orchestrator.example", api_key=key, timeout_ms=1000)
        assert caught.value.field == "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY"
        assert "hunter2" not in str(caught.value)
        assert caught.value.__context__ is None


class TestProxy:
    """The environment's proxy is found as other programs find it."""

    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http", "https", "all", "no"):
            monkeypatch.delenv(f"{name}_proxy", raising=False)
            monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)

    def test_none(self) -> None:
        assert proxy_for("https", "orchestrator.example") is None

    def test_by_scheme_unless_excepted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", "internal.example")
        assert proxy_for("https", "orchestrator.example") == "http://proxy.example:3128"
        assert proxy_for("http", "orchestrator.example") is None
        assert proxy_for("https", "a.internal.example") is None

    def test_for_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
        assert proxy_for("https", "orchestrator.example") == "http://proxy.example:3128"


@pytest.mark.parametrize(
    "error",
    [
        errors.NeverSentError("m", field="f", fix="x", trace_id="t"),
        errors.RateLimitedError("m", retry_after_ms=5, trace_id="t"),
        errors.UnavailableError("m", status=503, retry_after_ms=7),
    ],
)
def test_an_error_survives_the_way_between_processes(error: errors.OrchestratorError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)
