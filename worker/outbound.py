"""Where this program may connect to: the same rules for every client, and for every address that is connected to.

A URL is held against them when it is read, and each address of its host when a connection is made, by whoever makes it:
what was looked up is what is connected to, so that a name cannot lead elsewhere between check and use.

- https, but for this machine and the hosts of ``SESSION_EXECUTOR_PLAIN_HTTP_HOSTS``; no user or password in a URL;
- hosts as names of letters, digits, ``-``, ``_`` and ``.``, or as addresses in their one usual spelling;
- never an address that only the own machine or network answers without knowing who asks: unspecified, link-local, the
  metadata services of clouds, multicast; nor one of these inside of an IPv6 address.

``guarded_session.py`` has the same for ``requests``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from worker.errors import InputError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

HTTP_HOSTS_SETTING = "SESSION_EXECUTOR_PLAIN_HTTP_HOSTS"

_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII | re.IGNORECASE)
#: The URL standard reads a host whose last label is one of these as a number, in octal, hex and short forms, too.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII | re.IGNORECASE)
#: What the clouds' machines ask for their own credentials: those that are not link-local.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        *("100.100.100.200", "168.63.129.16", "192.0.0.192"),  # Alibaba, Azure, Oracle
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),  # AWS, its pods, Google
    )
)
_FORBIDDEN: tuple[tuple[str, tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]], ...] = tuple(
    (words, tuple(ipaddress.ip_network(text) for text in networks))
    for words, networks in (
        ("unspecified", ("0.0.0.0/8", "::/128")),
        ("link-local", ("169.254.0.0/16", "fe80::/10", "fec0::/10")),
        ("multicast or broadcast", ("224.0.0.0/3", "ff00::/8")),
    )
)
#: IPv6 networks whose addresses hold an IPv4 address in their last four bytes.
_CARRIES_IPV4 = tuple(ipaddress.ip_network(text) for text in ("::/96", "64:ff9b::/96"))


class RefusedAddressError(OSError):
    """A host has an address that is not connected to. An ``OSError``, as libraries expect of a connection that fails."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What one client may connect to.

    Attributes:
        field: the setting that its URL comes from.
        http_hosts: names or addresses, lower case, that plain http may go to, beside this machine.
        public_only: whether addresses of private networks are refused, too.
    """

    field: str
    http_hosts: frozenset[str] = frozenset()
    public_only: bool = False

    def check_url(self, url: str, *, query: bool = False) -> str:
        """The URL without trailing slash. The message of a refusal never shows it.

        Args:
            url: as it was set.
            query: whether it may have one.

        Raises:
            InputError: names ``field``.
        """
        parts = _split(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise self._bad("not an http(s) URL", "give a full URL such as https://host")
        if "@" in parts.netloc:
            raise self._bad("a user or password in the URL would end up in logs", "leave it out of the URL")
        if "#" in url or ("?" in url and not query):
            raise self._bad("a base URL has no query or fragment", "end it after the path")
        host = parts.hostname
        literal = self._check_host(host)
        if parts.scheme == "http" and not is_loopback(host) and host not in self.http_hosts:
            raise self._bad(
                "plain http beyond this machine can be read and changed on its way",
                f"use https, or add its host to {HTTP_HOSTS_SETTING} if the network between is yours",
            )
        reason = "" if literal is None else self._why_refused(host, literal)
        if reason:
            raise self._bad(reason, "name the service itself")
        return url if query else url.rstrip("/")

    def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, each of which may be connected to; connect to these, and do not look it up again.

        Raises:
            RefusedAddressError: one of them may not.
            OSError, UnicodeError: the name is not known.
        """
        found = [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for text in found:
            reason = self._why_refused(host, ipaddress.ip_address(text.partition("%")[0]))
            if reason:
                raise RefusedAddressError(f"{self.field}: {reason}")
        return list(dict.fromkeys(found))

    def _check_host(self, host: str) -> Address | None:
        """The address that a host is written as, None for a name."""
        try:
            if ":" in host:
                return ipaddress.IPv6Address(host if "%" not in host else "")
            if _NUMBER.fullmatch(host.rpartition(".")[2]):
                return ipaddress.IPv4Address(host)
        except ValueError:
            raise self._bad(
                "its host is an address in an unusual spelling",
                "write four decimal numbers, or IPv6 in brackets",
            ) from None
        if not _NAME.fullmatch(host):
            raise self._bad(
                "its host is no name",
                "use letters, digits, - and . without a dot at the end, xn-- for others",
            )
        return None

    def _why_refused(self, host: str, address: Address) -> str:
        has = f"{host} has the address {address}, which"
        if is_loopback(host):
            return "" if address.is_loopback else f"{has} is not this machine"
        if self.public_only and not (address.is_global and _carried(address) is None):
            return f"{has} is not a public one"
        forbidden = why_forbidden(address)
        return f"{has} is {forbidden}" if forbidden else ""

    def _bad(self, message: str, fix: str) -> InputError:
        return InputError(message, field=self.field, fix=fix)


def http_hosts(text: str) -> frozenset[str]:
    """The hosts of ``SESSION_EXECUTOR_PLAIN_HTTP_HOSTS``, separated by commas."""
    return frozenset(host.strip().lower().strip("[]") for host in text.split(",") if host.strip())


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def why_forbidden(address: Address) -> str:
    """What kind of address it is, if it is one that nothing of ours may connect to; else ``""``."""
    carried = _carried(address)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return "an IPv4 address in an IPv6 one"
    if carried is not None:
        return why_forbidden(carried) or ("an IPv4 loopback in an IPv6 one" if carried.is_loopback else "")
    if address in _METADATA:
        return "a metadata service"
    for words, networks in _FORBIDDEN:
        if any(address in network for network in networks):
            return words
    return ""


def refusal(error: BaseException | None) -> str:
    """Why a connection was refused by the rules, looked for in an error, its causes and what it holds; else ``""``."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, RefusedAddressError):
            return str(one)
        # urllib3 and requests hand the error on as an argument, or as ``reason``
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return ""


_watching = threading.Event()


def watch_connections() -> None:
    """Refuse forbidden addresses for everything in this process, for good: for libraries that open connections themselves.

    By an audit hook, which sees the address as it is handed to the system, whichever library it is.
    """
    if not _watching.is_set():
        _watching.set()
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("socket.connect", "socket.sendto"):
        return
    target = arguments[1]
    if not isinstance(target, tuple) or not target:
        return  # a Unix socket
    host = str(target[0]).partition("%")[0]  # pyright: ignore[reportUnknownArgumentType]
    try:
        forbidden = why_forbidden(ipaddress.ip_address(host))
    except ValueError:  # the system would look the name up after us
        forbidden = "" if host == "localhost" else "a name, and an address was to be connected to"
    if forbidden:
        raise RefusedAddressError(f"{host} is {forbidden}")


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None or address.sixtofour is not None:
        return address.ipv4_mapped or address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    # :: and ::1 are addresses of their own
    if int(address) > 1 and any(address in network for network in _CARRIES_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _split(url: str) -> SplitResult | None:
    # urlsplit drops tabs and line ends and lets spaces stand: what it returns is not what was given
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        # reading the port checks it; port 0 is nobody's address
        if parts.port == 0:
            return None
    except ValueError:
        return None
    return parts
