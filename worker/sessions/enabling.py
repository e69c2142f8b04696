"""Enabling a session by a transaction, for those who don't leave it to the first intent."""

from __future__ import annotations

from worker.sessions.emissary import set_config_call
from worker.sessions.errors import SessionError
from worker.sessions.importing import RegisteredSession
from worker.signing.contracts import SMART_SESSION_EMISSARY


def enable_call(registered: RegisteredSession) -> tuple[str, bytes]:
    """``(to, calldata)`` of the ``setConfig`` transaction; anyone may send it, without value.

    It works once, and only while the emissary's nonce of the account is ``registered.enable_nonce``.

    Raises:
        SessionError: the file holds no approval to send.
    """
    if registered.enable_data is None:
        raise SessionError(
            "is missing, so there is no approval to send",
            field="enableData",
            fix="have the user approve the session, export the file with enableData and import it",
        )
    return SMART_SESSION_EMISSARY, set_config_call(
        registered.account, registered.data, registered.enable_data
    )
