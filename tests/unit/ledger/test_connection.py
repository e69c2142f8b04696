"""The Redis URL: what is accepted, and what a message may show of it."""

from __future__ import annotations

import pytest

from worker.ledger.connection import connect, safe_url
from worker.ledger.errors import LedgerInputError
from worker.ledger.health import require_safe_url
from worker.ledger.redis_ledger import RedisLedger

PASSWORD = "not-a-real-password"  # a label to look for in messages


class TestSafeUrl:
    """Credentials never reach a message."""

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            (f"redis://:{PASSWORD}@127.0.0.1:7000/3", "redis://127.0.0.1:7000/3"),
            (f"rediss://user:{PASSWORD}@redis.example:6380/0", "rediss://redis.example:6380/0"),
            (f"redis://redis.example?password={PASSWORD}", "redis://redis.example"),
            (f"unix://:{PASSWORD}@/run/redis.sock?db=1", "unix:///run/redis.sock"),
            (f"redis://:{PASSWORD}@[::1]:6379/0", "redis://[::1]:6379/0"),
            (f"redis://:{PASSWORD}:with@colon@host:6379", "redis://host:6379"),
            (f"redis://host:{PASSWORD}", "(unreadable URL)"),
        ],
    )
    def test_user_password_and_query_are_left_out(self, url: str, shown: str) -> None:
        assert safe_url(url) == shown

    def test_a_ledgers_repr_shows_no_password(self) -> None:
        assert PASSWORD not in repr(RedisLedger(f"redis://:{PASSWORD}@127.0.0.1:1/0"))

    @pytest.mark.parametrize(
        "url",
        [
            "",
            PASSWORD,
            f"http://:{PASSWORD}@127.0.0.1:6379",
            f"redis://:pass/{PASSWORD}@127.0.0.1:6379",
            f"redis://host:{PASSWORD}",
            f"redis://[{PASSWORD}",
            f"redis://host:6379/0?socket_timeout={PASSWORD}",
        ],
    )
    def test_an_unusable_url_is_refused_without_quoting_it(self, url: str) -> None:
        with pytest.raises(LedgerInputError) as caught:
            connect(url, timeout_ms=100)
        assert caught.value.field == "SESSION_EXECUTOR_REDIS_URL"
        assert PASSWORD not in str(caught.value)
        assert caught.value.__cause__ is None


class TestRequireSafeUrl:
    """Beyond loopback Redis needs a password and TLS."""

    @pytest.mark.parametrize(
        "url",
        [
            "redis://127.0.0.1:6379/0",
            "redis://127.8.9.1:6379/0",
            "redis://localhost:6379/0",
            "redis://[::1]:6379/0",
            "redis:///0",
            "unix:///run/redis.sock",
            f"rediss://:{PASSWORD}@redis.example:6379/0",
            f"rediss://redis.example:6379/0?password={PASSWORD}",
        ],
    )
    def test_loopback_or_password_with_tls_is_fine(self, url: str) -> None:
        require_safe_url(url, allow_insecure=False)

    @pytest.mark.parametrize(
        ("url", "lacks"),
        [
            ("redis://redis.example:6379/0", "no password and no TLS"),
            (f"redis://:{PASSWORD}@redis.example:6379/0", "no TLS"),
            ("rediss://redis.example:6379/0", "no password"),
            ("redis://10.0.0.5:6379/0", "no password and no TLS"),
            ("redis://0.0.0.0:6379/0", "no password and no TLS"),
            ("redis://127.0.0.1.example:6379/0", "no password and no TLS"),
        ],
    )
    def test_anything_less_is_refused_unless_allowed(self, url: str, lacks: str) -> None:
        with pytest.raises(LedgerInputError, match=lacks) as caught:
            require_safe_url(url, allow_insecure=False)
        assert PASSWORD not in str(caught.value)
        require_safe_url(url, allow_insecure=True)
