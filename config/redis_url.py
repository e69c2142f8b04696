"""Redis URLs, those for Sentinels and clusters included.

- ``redis://[user:password@]host:port/0``, ``rediss://`` for TLS, ``unix:///path``: one server, as redis-py reads them;
- ``redis+sentinel://[user:password@]host:26379,host:26379/NAME[/0]``: whichever server the Sentinels call NAME's master
  (``?sentinel_password=…`` if they ask for one themselves), ``rediss+sentinel://`` for TLS;
- ``redis+cluster://[user:password@]host:port,host:port``, ``rediss+cluster://`` for TLS: some nodes of a Redis Cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

Kind = Literal["single", "sentinel", "cluster"]

SCHEMES: dict[str, Kind] = {
    "redis": "single",
    "rediss": "single",
    "unix": "single",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
_PORTS: dict[Kind, int] = {"single": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL in its parts.

    Attributes:
        kind: one server, Sentinels, or a cluster.
        tls: whether TLS is asked for.
        hosts: (host, port): the server, the Sentinels, or nodes.
        username, password: of the servers, ``""`` for none.
        service: the Sentinels' name of the master.
        db: the database.
        options: the query.
        where: it without credentials and query, for messages.
        text: the URL itself, which may hold a password.
    """

    kind: Kind
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    username: str = ""
    password: str = field(default="", repr=False)
    service: str = ""
    db: int = 0
    options: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    where: str = ""
    text: str = field(default="", repr=False)

    @property
    def login(self) -> str:
        """``user:password@`` as a URL has it, ``""`` without a password."""
        return f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@" if self.password else ""

    @property
    def without_login(self) -> str:
        """The URL of one server without user and password."""
        options = {
            name: value for name, value in self.options.items() if name not in ("username", "password")
        }
        return f"{self.where}?{urlencode(options)}" if options else self.where

    @property
    def sentinel_options(self) -> dict[str, str]:
        """How to log in to the Sentinels themselves, as redis-py names it."""
        prefix = "sentinel_"
        return {
            name.removeprefix(prefix): value
            for name, value in self.options.items()
            if name in {"sentinel_username", "sentinel_password"}
        }

    @property
    def tls_options(self) -> dict[str, str]:
        """``ssl_…`` of the query, as redis-py names them."""
        return {name: value for name, value in self.options.items() if name.startswith("ssl_")}


def parse(url: str) -> RedisUrl:
    """Read a URL.

    Raises:
        ValueError: it is none; the words quote nothing of it, since it may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    kind = SCHEMES.get(scheme)
    if kind is None or not separator:
        raise ValueError("is no Redis URL")
    tls = scheme.startswith("rediss")
    try:
        # urlsplit knows one host only: the hosts are read here
        parts = urlsplit(f"any://{rest}")
        options = dict(parse_qsl(parts.query))
        if scheme == "unix":
            password = unquote(parts.password or "") or options.get("password", "")
            return RedisUrl(
                kind,
                tls=False,
                hosts=(),
                password=password,
                options=options,
                where=f"unix://{parts.path}",
                text=url,
            )
        login, _, hosts = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        service, db = _path(kind, parts.path.strip("/"))
        return RedisUrl(
            kind,
            tls,
            tuple(_host(item, _PORTS[kind]) for item in (hosts or "localhost").split(",")),
            unquote(username),
            unquote(password) or options.get("password", ""),
            service,
            int(options.get("db") or db or 0),
            options,
            where=f"{scheme}://{hosts}{parts.path}",
            text=url,
        )
    except ValueError:
        raise ValueError(_HELP[kind]) from None


_HELP: dict[Kind, str] = {
    "single": "cannot be read",
    "sentinel": "is not of the form redis+sentinel://[user:password@]host:26379,host:26379/NAME",
    "cluster": "is not of the form redis+cluster://[user:password@]host:6379,host:6379",
}


def _path(kind: Kind, path: str) -> tuple[str, str]:
    """The Sentinels' name of the master, and the database."""
    if kind == "sentinel":
        service, _, db = path.partition("/")
        if not service:
            raise ValueError
        return unquote(service), db
    if kind == "cluster" and path not in {"", "0"}:
        raise ValueError  # a cluster has one database
    return "", path


def _host(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    number = int(port) if port else default_port
    if not host or not 0 < number < 65_536:
        raise ValueError
    return host, number
