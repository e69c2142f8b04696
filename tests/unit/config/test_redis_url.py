"""Redis URLs of all kinds, and what Celery makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from config.celery import celery_settings
from config.redis_url import parse
from config.settings import Settings, SettingsError


def settings(**urls: str) -> Settings:
    values: dict[str, Any] = urls
    return Settings(_env_file=None, **values)  # pyright: ignore[reportCallIssue]


class TestParse:
    """Every part is read, and a URL that is none is not quoted."""

    def test_sentinels(self) -> None:
        found = parse(
            "rediss+sentinel://us%40er:p%2Fw@one:1,[::1],two/my%20books/3?sentinel_password=s&ssl_ca_certs=f"
        )
        assert (found.kind, found.tls, found.service, found.db) == ("sentinel", True, "my books", 3)
        assert found.hosts == (("one", 1), ("::1", 26379), ("two", 26379))
        assert (found.username, found.password) == ("us@er", "p/w")
        assert (found.sentinel_options, found.tls_options) == ({"password": "s"}, {"ssl_ca_certs": "f"})
        assert found.where == "rediss+sentinel://one:1,[::1],two/my%20books/3"
        assert "p/w" not in repr(found)

    def test_a_cluster(self) -> None:
        found = parse("redis+cluster://:pw@one:7000,two")
        assert (found.kind, found.hosts, found.password) == ("cluster", (("one", 7000), ("two", 6379)), "pw")

    @pytest.mark.parametrize(
        "url",
        [
            "http://:pw@host",
            "redis+sentinel://:pw@host:26379",
            "redis+sentinel://:pw@host:x/name",
            "redis+cluster://:pw@host:7000/1",
            "redis+cluster://:pw@host:99999",
            "redis://:pw@host:port",
            "pw",
        ],
    )
    def test_what_is_none_is_not_quoted(self, url: str) -> None:
        with pytest.raises(ValueError, match=r"^(is|cannot)") as caught:
            parse(url)
        assert "pw" not in str(caught.value)


class TestCelery:
    """Celery's broker is ``broker_url``, or ``redis_url`` where Celery can use it."""

    def test_sentinels_are_told_to_kombu_and_redbeat(self) -> None:
        conf = celery_settings(settings(redis_url="redis+sentinel://:p%2Fw@one:1,two/books/3"))
        assert conf["broker_url"] == "sentinel://:p%2Fw@one:1/3;sentinel://:p%2Fw@two:26379/3"
        assert conf["broker_transport_options"]["master_name"] == "books"
        assert conf["redbeat_redis_url"] == "redis-sentinel://"
        assert conf["redbeat_redis_options"]["sentinels"] == [("one", 1), ("two", 26379)]
        assert conf["redbeat_redis_options"]["password"] == "p/w"
        assert "broker_use_ssl" not in conf

    def test_no_password_is_printed(self) -> None:
        url = "redis+sentinel://:not-to-be-seen@one:1,two/books?sentinel_password=nor-this"
        with Celery(set_as_current=False) as app:
            app.conf.update(celery_settings(settings(redis_url=url)))
            printed = app.bugreport()
        assert "books" in printed
        assert not [secret for secret in ("not-to-be-seen", "nor-this") if secret in printed]

    def test_a_cluster_is_refused_as_a_broker(self) -> None:
        with pytest.raises(SettingsError, match="BROKER_URL: Celery cannot use a Redis Cluster"):
            celery_settings(settings(redis_url="redis+cluster://one"))
        conf = celery_settings(settings(redis_url="redis+cluster://one", broker_url="redis://two:1/5"))
        assert (conf["broker_url"], conf["redbeat_redis_url"]) == ("redis://two:1/5", "redis://two:1/5")

    def test_a_url_that_is_none_names_its_setting(self) -> None:
        with pytest.raises(SettingsError, match="SESSION_EXECUTOR_BROKER_URL: is no Redis URL"):
            celery_settings(settings(broker_url="amqp://one"))
