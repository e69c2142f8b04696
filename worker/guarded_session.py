"""A ``requests`` session that keeps to the rules of ``outbound.py`` and follows no redirect."""

from __future__ import annotations

import socket
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from worker.outbound import Rules, refusal


class GuardedSession(requests.Session):
    """A session whose connections are made to addresses that were looked at; a redirect is the answer.

    Args:
        rules: what it may connect to.
        trust_env: whether a proxy of the environment is used. What a proxy connects to is the proxy's business; its own
            address is held against the rules.
    """

    def __init__(self, rules: Rules, *, trust_env: bool) -> None:
        super().__init__()
        self.trust_env = trust_env
        guard(self, rules)

    def get_redirect_target(self, resp: requests.Response) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nowhere, whoever forgets ``allow_redirects=False``."""
        del resp


def guard(session: requests.Session, rules: Rules) -> None:
    """Put a session that exists under the rules."""
    adapter = _Adapter(rules)
    for prefix in ("http://", "https://"):
        session.mount(prefix, adapter)


class _Adapter(HTTPAdapter):
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: Any = self.poolmanager
        manager.pool_classes_by_scheme = _pools(self._rules)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager: Any = super().proxy_manager_for(proxy, **kwargs)
        # a proxy inside of the own network is what proxies are for
        manager.pool_classes_by_scheme = _pools(Rules(self._rules.field))
        return manager


def _pools(rules: Rules) -> dict[str, type[HTTPConnectionPool]]:
    """Pool classes of urllib3 whose connections are made under the rules."""

    class Guarded(HTTPConnection):
        """Looks its host up by itself, and has urllib3 connect to what was found."""

        def _new_conn(self) -> socket.socket:
            name = self._dns_host
            try:
                found = rules.addresses(name, self.port)
            except (OSError, UnicodeError) as error:
                raise NewConnectionError(self, refusal(error) or type(error).__name__) from error
            failure: NewConnectionError | ConnectTimeoutError = NewConnectionError(self, "no address")
            for address in found:
                self._dns_host = address
                try:
                    return super()._new_conn()
                except (NewConnectionError, ConnectTimeoutError) as error:
                    failure = error
                finally:
                    self._dns_host = name  # TLS and the Host header are about the name
            raise failure

    class GuardedTls(Guarded, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = cast("Any", Guarded)

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = cast("Any", GuardedTls)

    return {"http": Pool, "https": TlsPool}
