"""Enabling a session by a transaction, for those who don't leave it to the first intent; and revoking it."""

from __future__ import annotations

from worker.policies.base import Execution
from worker.sessions.emissary import remove_config_call, set_config_call
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


def revoke_call(registered: RegisteredSession, *, nonce: int) -> Execution:
    """The ``removeConfig`` call that ends a session for good. The account itself must make it, so its owners sign.

    It works only while the emissary's nonce of the account is ``nonce``. It uses that nonce up, so every approval of the
    account on this chain that is not used yet ends with it, of this session and of others. Unrestricted sessions of the
    same keys are one to the emissary: all of them end.

    Args:
        registered: the session.
        nonce: the emissary's nonce of the account now.

    Raises:
        SigningInputError: the nonce is no uint256.
    """
    data = remove_config_call(
        registered.account, registered.permission_id, chain_id=registered.chain_id, nonce=nonce
    )
    return Execution(SMART_SESSION_EMISSARY, 0, data)
