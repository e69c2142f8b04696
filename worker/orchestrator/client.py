"""What both wire versions share: headers, reading a reply strictly, and showing a service's words safely."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, cast

from worker.errors import InputError
from worker.orchestrator import exact_json
from worker.orchestrator.catalog import (
    Splits,
    SupportedChains,
    amounts,
    splits,
    supported_chains,
    token_amounts,
)
from worker.orchestrator.errors import (
    HeldBackError,
    InsufficientLiquidityError,
    RateLimitedError,
    ReplyError,
    RequestRefusedError,
    UnavailableError,
)
from worker.orchestrator.http import HttpClient, Reply
from worker.orchestrator.jwt_auth import JwtSigner
from worker.orchestrator.port import ApiVersion, Brake
from worker.outbound import Rules

_T = TypeVar("_T")
#: Statuses below 500 by which a server or a gateway gives up on a request without judging it.
_GAVE_UP = (408, 425)
#: Printable ASCII without blanks: what an HTTP header carries unchanged.
_HEADER_WORD = re.compile(r"[!-~]*")
#: What stands in ``x-api-key`` when tokens say who we are.
_JWT = "jwt"
#: Three parts in base64url, the first of which is a JSON object: a token, were the service to repeat it to us.
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
#: The SDK's waits after a 429: without ``Retry-After``, and with one that asks for nothing or cannot be read.
RATE_LIMIT_MS, _LEAST_WAIT_MS = 2_000, 500
_MAX_TEXT = 300
_MAX_ID = 200


class Client:
    """One orchestrator spoken to in one version; a version's class adds its name, its endpoints and its errors.

    Args:
        base_url: https, or http on loopback.
        api_key: sent as ``x-api-key``; not used with ``jwt``.
        timeout_ms: bound on one exchange.
        jwt: signs tokens that are sent instead of the key.
        http_hosts: hosts that plain http may go to, beside this machine.
        brake: knows of waits that others were asked for, and is told of ours.

    Raises:
        InputError: the URL or the key cannot be used; shows neither.
    """

    VERSION: ClassVar[ApiVersion]
    """Sent as ``x-api-version``, always."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str,
        timeout_ms: int,
        jwt: JwtSigner | None = None,
        http_hosts: frozenset[str] = frozenset(),
        brake: Brake | None = None,
    ) -> None:
        self._brake = brake
        if jwt is not None:
            api_key = _JWT
        if not _HEADER_WORD.fullmatch(api_key):
            raise InputError(
                "holds a blank, a line end or a character beyond ASCII",
                field="SESSION_EXECUTOR_ORCHESTRATOR_API_KEY",
                fix="copy the key again, without what surrounds it",
            )
        self._api_key = "" if jwt is not None else api_key
        self._jwt = jwt
        rules = Rules("SESSION_EXECUTOR_ORCHESTRATOR_URL", http_hosts)
        self._http = HttpClient(
            rules.check_url(base_url),
            rules,
            headers={
                "content-type": "application/json",
                "x-api-key": api_key,
                # SDK 1.15 leaves this out on submit and lives on the default; we always say it
                "x-api-version": self.VERSION,
            },
            timeout_ms=timeout_ms,
        )

    @property
    def version(self) -> ApiVersion:
        """The version it speaks."""
        return self.VERSION

    def check(self) -> str:
        """Ask for an account's portfolio with our key, since GET /chains needs none.

        An orchestrator that refuses the question itself (400, 404, 422 with its own error envelope) has let our key in.

        Raises:
            OrchestratorError: not reachable, does not accept the key, or is no orchestrator.
        """
        reply = self.exchange("GET", "/accounts/0x0000000000000000000000000000000000000000/portfolio")
        if reply.status not in (400, 404, 422):
            self.object(reply, expect=200)
        elif not self.has_envelope(reply):
            raise self.unreadable(reply, f"HTTP {reply.status} without the API's error envelope")
        return f"answers with our {'key' if self._jwt is None else 'token'} ({self.VERSION})"

    def chains(self) -> SupportedChains:
        """GET /chains. Raises OrchestratorError subclasses."""
        return self.read(self.exchange("GET", "/chains"), supported_chains)

    def splits_at(self, path: str, body: Mapping[str, Any]) -> Splits:
        """POST a split request to this version's path.

        Raises:
            InsufficientLiquidityError: not all of it can be filled.
            OrchestratorError
        """
        reply = self.exchange("POST", path, json.dumps(body, separators=(",", ":"), allow_nan=False))
        if reply.status == 422:
            self.raise_if_illiquid(reply)
        return self.read(reply, splits)

    def raise_if_illiquid(self, reply: Reply) -> None:
        """Alps has the parts beside the ``error``, blanc in the ``details`` of the ``code``."""
        try:
            value = exact_json.loads(reply.body.decode("utf-8"))
            found = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
            if "INSUFFICIENT_LIQUIDITY" not in (found.get("error"), found.get("code")):
                return
            parts = cast("dict[str, Any]", found.get("details", found))
            available = amounts(parts.get("availableIntents"), "availableIntents")
            unfillable = token_amounts(parts.get("unfillable"), "unfillable")
        except (ValueError, AttributeError):
            return  # the error that the status stands for says enough
        words = ", ".join(f"{amount} of {token}" for token, amount in unfillable.items())
        raise InsufficientLiquidityError(
            self.line(f"HTTP 422: nobody can fill {words or 'all of it'}"),
            available=available,
            unfillable=unfillable,
            trace_id=self.line(reply.trace_id),
        )

    def read(self, reply: Reply, parse: Callable[[Mapping[str, Any], str], _T]) -> _T:
        """A reply of one of the readings, or the error that it stands for."""
        text, value = self.object(reply, expect=200)
        try:
            return parse(value, text)
        except ValueError as error:
            why = str(error)
        raise self.unreadable(reply, why)

    @property
    def auth_field(self) -> str:
        """The setting that says who we are."""
        return "SESSION_EXECUTOR_ORCHESTRATOR_" + ("API_KEY" if self._jwt is None else "JWT_KEY")

    @property
    def auth_fix(self) -> str:
        """What to do when the service does not let us."""
        if self._jwt is None:
            return "set a key that may do this"
        return "check the JWT_ settings against the dashboard, and the machine's clock"

    def close(self) -> None:
        """Close the connection pool."""
        self._http.close()

    def object(self, reply: Reply, *, expect: Literal[200, 201]) -> tuple[str, dict[str, Any]]:
        """The reply's text and the JSON object in it, or the error that the reply stands for."""
        if reply.status >= 300:
            self.raise_for(reply)
        text, value, why = "", None, ""
        try:
            text = reply.body.decode("utf-8")
            value = exact_json.loads(text)
        except UnicodeDecodeError:
            why = "the reply is not UTF-8"
        except ValueError as error:
            why = f"not JSON as we need it: {error}"
        if why:  # raised out here so that it carries no context: the decoder's errors hold the document
            raise self.unreadable(reply, why)
        if not isinstance(value, dict):
            raise self.unreadable(reply, "the reply is no object")
        if reply.status != expect:
            raise self.unreadable(reply, f"HTTP {reply.status} where {expect} was expected")
        return text, cast("dict[str, Any]", value)

    def unreadable(self, reply: Reply, why: str) -> ReplyError:
        """The error for a reply that is not what the API describes."""
        return ReplyError(
            self.line(why),
            fix="check that SESSION_EXECUTOR_ORCHESTRATOR_URL is an orchestrator that speaks this version",
            trace_id=self.line(reply.trace_id),
        )

    def integer_text(self, reply: Reply, value: Any, field: str) -> str:
        """Ids and deadlines come as a string or as a number; both are kept as decimal text."""
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,77}", value, re.ASCII):
            return value
        raise self.unreadable(reply, f"{field} is no decimal integer")

    def line(self, text: str) -> str:
        """Text of the service's as we may show it: one printable line, shortened, without our key."""
        if self._api_key:
            text = text.replace(self._api_key, "***")
        text = _TOKEN.sub("***", text)
        line = "".join(letter if letter.isprintable() else " " for letter in text)
        return " ".join(line.split())[:_MAX_TEXT]

    def exchange(
        self,
        method: Literal["GET", "POST"],
        path: str,
        body: str | None = None,
        *,
        intent_digest: str = "",
    ) -> Reply:
        """One exchange. Raises NeverSentError, MaybeSentError; HeldBackError while a 429's wait is not over.

        Args:
            method: of the request.
            path: below the base URL.
            body: JSON text.
            intent_digest: with JWTs, what may be sponsored; ``""`` if nothing.
        """
        auth = None if self._jwt is None else partial(self._jwt.headers, intent_digest)
        if self._brake is None:
            return self._http.request(method, path, body, auth)
        if wait_ms := self._brake.wait_ms():
            raise HeldBackError(
                f"held back for {wait_ms} ms: the orchestrator asked for a wait", retry_after_ms=wait_ms
            )
        reply = self._http.request(method, path, body, auth)
        if reply.status == 429:
            asked_ms = RATE_LIMIT_MS if reply.retry_after_ms is None else reply.retry_after_ms
            self._brake.hold(max(asked_ms, _LEAST_WAIT_MS))
        elif reply.status == 503 and reply.retry_after_ms:
            self._brake.hold(reply.retry_after_ms)
        return reply

    def has_envelope(self, reply: Reply) -> bool:
        """Whether an error reply carries this version's error envelope."""
        raise NotImplementedError

    def raise_for(self, reply: Reply) -> NoReturn:
        """Turn an error reply into its class."""
        raise NotImplementedError

    def raise_by_status(self, reply: Reply, words: str, trace: str) -> None:
        """What the HTTP status alone decides, whatever the body says: 429, 5xx, and redirects.

        A 5xx is never taken for a refusal: it may come from a gateway after the request was acted on.
        """
        if reply.status == 429:
            raise RateLimitedError(words, retry_after_ms=reply.retry_after_ms, trace_id=trace)
        if reply.status >= 500 or reply.status in _GAVE_UP:
            raise UnavailableError(
                words, status=reply.status, retry_after_ms=reply.retry_after_ms, trace_id=trace
            )
        if reply.status < 400:
            raise RequestRefusedError(
                f"HTTP {reply.status}: a redirect is not followed, the API key must not travel",
                field="SESSION_EXECUTOR_ORCHESTRATOR_URL",
                fix="set the final URL",
                trace_id=trace,
            )


def usable_id(value: Any) -> str:
    """The id, or ``""`` if it is no plain one: it becomes part of a path, and the quote's own id can serve instead."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and re.fullmatch(rf"[0-9A-Za-z_-]{{1,{_MAX_ID}}}", text):
        return text
    return ""
