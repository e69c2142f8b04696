"""Where notifications go: the TOML file of channels, and how one message is sent to each kind."""

from __future__ import annotations

import stat
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, cast

import httpx

from worker.errors import InputError, ServiceError
from worker.orchestrator.deadline import DeadlineTransport, deadline
from worker.outbound import Rules, refusal, watch_connections

EVENTS = (
    *("intent.completed", "intent.failed", "intent.refused", "intent.attention"),
    *("session.expiring", "limit.nearly_used", "strategy.paused"),
)
"""What may be told; ``docs/notifications.md`` describes each."""

_FIELDS = ("name", "url", "secret", "events")
_TIMEOUT_S = 5.0
_MAX_BYTES = 1 << 16
_GONE = 410


class NotSentError(ServiceError):
    """A notification did not arrive. ``final``: the receiver does not want it again."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message, field="notification", fix="see `session-executor notifications list`")
        self.final = final


@dataclass(frozen=True, slots=True)
class Channel:
    """A receiver.

    Attributes:
        name: unique; part of each delivery's id.
        url: of a webhook (``https://``), or what Apprise takes (``slack://…``, ``mailto://…``); holds secrets.
        secret: of a webhook, ``whsec_`` and base64.
        events: what it is told.
    """

    name: str
    url: str = field(repr=False)
    secret: str = field(repr=False, default="")
    events: tuple[str, ...] = EVENTS

    @property
    def is_webhook(self) -> bool:
        """Whether it is a Standard Webhook, and not one of Apprise's services."""
        return self.url.startswith(("https://", "http://"))

    def send(self, event_id: str, body: str, *, title: str, text: str, now_s: int) -> None:
        """Send one message, once, within seconds.

        Args:
            event_id: the same at every try, so that the receiver can tell a repetition.
            body: the JSON that a webhook gets.
            title: of the message that people get.
            text: of the message that people get.
            now_s: unix seconds; signed with the body.

        Raises:
            NotSentError
        """
        if self.is_webhook:
            self._post(event_id, body, now_s)
        else:
            self._apprise(title, text)

    def _post(self, event_id: str, body: str, now_s: int) -> None:
        from standardwebhooks import Webhook  # noqa: PLC0415 - only who notifies needs it

        headers = {
            "content-type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": Webhook(self.secret).sign(
                event_id, datetime.fromtimestamp(now_s, UTC), body
            ),
        }
        try:
            # no redirects: a body that is signed for one receiver is not handed to another
            with (
                httpx.Client(
                    timeout=_TIMEOUT_S,
                    follow_redirects=False,
                    transport=DeadlineTransport(_rules(self.name)),
                ) as client,
                deadline(_TIMEOUT_S),
                client.stream("POST", self.url, content=body.encode(), headers=headers) as response,
            ):
                status = response.status_code  # what else it says is not read
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            refused = refusal(error)
            raise NotSentError(refused or f"{self.name} does not answer ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise NotSentError(f"{self.name} answers {status}", final=status == _GONE)

    def _apprise(self, title: str, text: str) -> None:
        from apprise import Apprise, AppriseAsset  # noqa: PLC0415 - only who notifies needs it

        # its services open their connections themselves
        watch_connections()
        service = Apprise(asset=AppriseAsset(http_redirects=False))
        if not service.add(self.url):
            raise NotSentError(f"{self.name}: Apprise does not know such an address", final=True)
        if not service.notify(title=title, body=text):
            raise NotSentError(f"{self.name} was not reached by Apprise")


def read_channels(path: Path | None) -> tuple[Channel, ...]:
    """The channels of the file; none if no file is set.

    Raises:
        InputError: names the place and the fix.
    """
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                _bad(str(path), "can be read by others, and holds secrets", "chmod 600 it")
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        _bad(str(path), f"cannot be read ({error.strerror or type(error).__name__})", "check the path")
    try:
        document = tomllib.loads(text[:_MAX_BYTES].decode())
    except (ValueError, RecursionError):  # its words could repeat a secret
        _bad(str(path), "is no TOML in UTF-8", "compare it with docs/notifications.md")
    entries = document.pop("channels", [])
    if document or not isinstance(entries, list):
        _bad(str(path), "holds something else than [[channels]]", "compare it with docs/notifications.md")
    found: list[Channel] = []
    for index, entry in enumerate(cast("list[Any]", entries)):
        channel = _channel(entry, f"channels[{index}]")
        if channel.name in {other.name for other in found}:
            _bad(f"channels[{index}].name", "is the name of another one", "give each its own")
        found.append(channel)
    return tuple(found)


def _channel(entry: object, at: str) -> Channel:
    if not isinstance(entry, dict):
        _bad(at, "is no table", "write [[channels]], twice bracketed")
    given = cast("dict[str, object]", entry)
    for name in given:
        if name not in _FIELDS:
            _bad(f"{at}.{name[:40]}", "is not known", f"known: {', '.join(_FIELDS)}")
    texts: dict[str, str] = {}
    for name in ("name", "url", "secret"):
        value = given.get(name, "")
        if not isinstance(value, str) or not (value or name == "secret"):
            _bad(f"{at}.{name}", "is missing, or no text", "write it in quotes")
        texts[name] = value
    events: object = given.get("events", list(EVENTS))
    if not isinstance(events, list) or not set(cast("list[object]", events)) <= set(EVENTS):
        _bad(f"{at}.events", "names an event that there is not", f"known: {', '.join(EVENTS)}")
    channel = Channel(**texts, events=tuple(cast("list[str]", events)))
    if channel.is_webhook:
        _check_webhook(channel, at)
    elif channel.secret:
        _bad(f"{at}.secret", "belongs to a webhook", "leave it out")
    return channel


def _check_webhook(channel: Channel, at: str) -> None:
    from standardwebhooks import Webhook  # noqa: PLC0415

    _rules(f"{at}.url").check_url(channel.url, query=True)
    try:
        Webhook(channel.secret)
    except Exception:  # noqa: BLE001 - whatever the library says, its words could repeat the secret
        _bad(
            f"{at}.secret", "is no secret of a webhook", "write whsec_ and at least 24 random bytes in base64"
        )


def _rules(where: str) -> Rules:
    """A webhook is somebody else's: no name may lead it into our own network."""
    return Rules(where, public_only=True)


def _bad(field_name: str, message: str, fix: str) -> NoReturn:
    raise InputError(message, field=field_name, fix=fix)
