"""What a Python program calls to enqueue an intent: ``worker.enqueue(...)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings import Settings
    from worker.execution.runtime import Runtime
    from worker.intents.trade import Trade
    from worker.ledger.port import Enqueued
    from worker.policies.base import Execution


def enqueue(
    *,
    session: str,
    key: str,
    to: str | None = None,
    amount: str | None = None,
    token: str | None = None,
    calls: Sequence[Execution | Mapping[str, str]] | None = None,
    trade: Trade | Mapping[str, Any] | None = None,
    not_after: datetime | int | str | None = None,
    sponsored: bool = True,
    urgent: bool = False,
    note: str = "",
    settings: Settings | None = None,
) -> Enqueued:
    """Queue one intent for the workers: a transfer (``to`` and ``amount``), ``calls``, or a ``trade``.

    May be repeated: the same session and key give the same intent, which executes once. Policies are judged by the
    worker, so a refusal is a record, too.

    Args:
        session: the session's id, ``ses_`` and 16 hex digits.
        key: the caller's name for this one execution, 1 to 200 printable characters.
        to: who receives, an address.
        amount: exact and as text: ``"10 USDC"``, or a number with ``token``.
        token: symbol or address.
        calls: in order; each an ``Execution``, or ``{"to": "0x…", "value": "0", "data": "0x…"}`` with wei as text.
        trade: tokens, other chains and terms, see ``worker.intents.trade.Trade``.
        not_after: not to be signed after this; a ``datetime`` with a zone, unix seconds, or text.
        sponsored: whether the integrator's project pays the fees.
        urgent: before everything that waits.
        note: words for people.
        settings: instead of the environment's.

    Returns:
        The record, and whether it was created by this call; ``.record.intent_id`` is the id.

    Raises:
        worker.errors.InputError: ``field`` names the argument.
        worker.errors.ServiceError: Redis is not there; enqueue again with the same key.
        config.settings.SettingsError: a setting cannot be used.
    """
    from worker.execution.request import submit_request  # noqa: PLC0415 - `import worker` loads nothing
    from worker.intents.trade import Trade  # noqa: PLC0415

    request: dict[str, Any] = {
        "session": session,
        "key": key,
        "to": to,
        "amount": amount,
        "token": token,
        "calls": calls,
        "trade": trade.to_json() if isinstance(trade, Trade) else trade,
        "not_after": not_after.isoformat() if isinstance(not_after, datetime) else not_after,
        "sponsored": sponsored,
        "urgent": urgent,
        "note": note,
    }
    return submit_request(_services.of(settings), request, source="api")


class _Services:
    """Those of the settings that were used last; their connections are pooled, and threads may share them."""

    def __init__(self) -> None:
        self._made: tuple[Settings, Runtime] | None = None

    def of(self, settings: Settings | None) -> Runtime:
        """The services of these settings, or of the environment's."""
        from config.settings import get_settings  # noqa: PLC0415
        from worker.execution.dispatch import celery_app, dispatcher  # noqa: PLC0415
        from worker.execution.runtime import Runtime  # noqa: PLC0415

        chosen = settings or get_settings()
        made = self._made
        if made is None or made[0] is not chosen:
            app = celery_app(chosen)
            made = (
                chosen,
                Runtime(chosen, dispatch=dispatcher(app), dispatch_urgent=dispatcher(app, urgent=True)),
            )
            self._made = made
        return made[1]


_services = _Services()
