"""What can go wrong with an orchestrator, told by what it means for the money.

OrchestratorError
├── NeverSentError            the request did not leave us: safe to send again
├── MaybeSentError            it may have been acted on: find out before anything else
├── RateLimitedError          refused unread (429); ``retry_after_ms``
│   └── HeldBackError         nothing left us: an earlier 429 asked all who share the key to wait
├── UnavailableError          500, 502, 503, 504: reads are repeated; a submit is *maybe sent*
├── ReplyError                an answer that we cannot read
├── NotFoundError             404, or words that mean it
├── AuthError                 401, 403
├── ConflictError             409
├── NoRouteError              no path or quote now; a later quote may work
├── SimulationFailedError     the bundle reverts
└── RequestRefusedError       any other refusal: repeating the same request cannot help
    └── InsufficientLiquidityError   not all of an amount can be filled; what could be
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.errors import ServiceError


class OrchestratorError(ServiceError):
    """The root. ``trace_id`` is the orchestrator's, for its support."""

    def __init__(
        self, message: str, *, field: str = "orchestrator", fix: str = "", trace_id: str = ""
    ) -> None:
        super().__init__(message, field=field, fix=fix)
        self.trace_id = trace_id


class NeverSentError(OrchestratorError):
    """The request did not leave this machine (DNS, refused connection, TLS)."""


class MaybeSentError(OrchestratorError):
    """The request left, and no answer came: it may have been acted on."""


class RateLimitedError(OrchestratorError):
    """429. ``retry_after_ms`` is how long to wait, None when the reply does not say."""

    def __init__(self, message: str, *, retry_after_ms: int | None = None, trace_id: str = "") -> None:
        super().__init__(message, fix="slow down; raise the project's rate limit", trace_id=trace_id)
        self.retry_after_ms = retry_after_ms


class HeldBackError(RateLimitedError):
    """Nothing left us: somebody who shares our key was asked to wait. ``retry_after_ms`` is what is left of it."""


class UnavailableError(OrchestratorError):
    """A 5xx. ``status`` is the HTTP status, ``retry_after_ms`` as for 429."""

    def __init__(
        self, message: str, *, status: int = 0, retry_after_ms: int | None = None, trace_id: str = ""
    ) -> None:
        super().__init__(message, fix="the service's own trouble; it is asked again", trace_id=trace_id)
        self.status = status
        self.retry_after_ms = retry_after_ms


class ReplyError(OrchestratorError):
    """The reply is not what the API describes. After a submit this means *maybe sent*."""


class NotFoundError(OrchestratorError):
    """404: no such intent, or the quote expired or was submitted already."""


class AuthError(OrchestratorError):
    """401 or 403."""


class ConflictError(OrchestratorError):
    """409."""


class NoRouteError(OrchestratorError):
    """No path, plan or aggregator quote right now."""


class SimulationFailedError(OrchestratorError):
    """The orchestrator simulated the bundle and it reverts."""


class RequestRefusedError(OrchestratorError):
    """The request itself is refused."""


class InsufficientLiquidityError(RequestRefusedError):
    """What was to be split cannot be filled as a whole.

    ``available``: parts that could be, ``unfillable``: what is left; token -> base units.
    """

    def __init__(
        self,
        message: str,
        *,
        available: Sequence[Mapping[str, int]],
        unfillable: Mapping[str, int],
        trace_id: str = "",
    ) -> None:
        super().__init__(message, field="tokens", fix="ask for less, or wait", trace_id=trace_id)
        self.available = tuple(available)
        self.unfillable = dict(unfillable)
