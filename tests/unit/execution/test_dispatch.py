"""Messages go out over one client per channel and pool."""

from __future__ import annotations

from typing import Any, cast

from kombu.transport import redis as kombu_redis

from config.settings import Settings
from worker.execution.dispatch import celery_app


class Channel(kombu_redis.Channel):
    """As much of a channel as its clients need."""

    def __init__(self) -> None:
        self.made: list[object] = []
        self.pools: list[Any] = [_Pool()]

    @property
    def pool(self) -> Any:
        return self.pools[-1]

    def Client(self, **arguments: Any) -> Any:  # noqa: N802 - kombu's name
        client = _Client(arguments["connection_pool"])
        self.made.append(client)
        return client


class _Pool:
    connection_kwargs: dict[str, Any] = {}  # noqa: RUF012


class _Client:
    def __init__(self, pool: object) -> None:
        self.connection_pool = pool


def test_a_channel_keeps_its_client_while_its_pool_stays() -> None:
    for _ in range(2):  # a second app changes nothing
        celery_app(Settings(_env_file=None))  # pyright: ignore[reportCallIssue]
    channel = cast("Any", Channel())
    first = channel._create_client()
    assert channel._create_client() is first
    with channel.conn_or_acquire() as client:
        assert client is first
    channel.pools.append(_Pool())  # as after a fork
    second = channel._create_client()
    assert second is not first
    assert channel._create_client() is second
    assert channel.made == [first, second]


def test_a_client_that_waits_for_messages_is_its_own() -> None:
    celery_app(Settings(_env_file=None))  # pyright: ignore[reportCallIssue]
    channel = cast("Any", Channel())
    type(channel).async_pool = property(lambda self: self.pool)
    assert channel._create_client(asynchronous=True) is not channel._create_client(asynchronous=True)
