"""The same session for another key: what the user has to approve when a key is rotated.

A session's keys are part of its permission id, so another key is another session, with limits of its own that begin at zero.
"""

from __future__ import annotations

from worker.sessions.file import AnySessionFile
from worker.sessions.importing import RegisteredSession, recompute


def with_key(session: RegisteredSession, old: str, new: str) -> AnySessionFile:
    """The session's file with ``new`` in the place of ``old`` among its keys, not approved yet.

    Args:
        session: a session that ``old`` signs for.
        old: address of the key that goes, lower-case.
        new: address of the key that comes, lower-case.
    """
    owners = session.file.owners
    accounts = tuple(new if account == old else account for account in owners.accounts)
    return session.file.model_copy(
        update={
            "owners": owners.model_copy(update={"accounts": accounts}),
            "enable_data": None,
            "nonce": None,
            "permission_id": None,
            "session_digest": None,
            "multi_chain_session_digest": None,
        }
    )


def next_session_id(session: RegisteredSession, old: str, new: str) -> str:
    """The id under which ``with_key``'s session is registered once it is approved and imported.

    Raises:
        SessionError: it cannot be computed, which a registered session's can.
    """
    return recompute(with_key(session, old, new)).session_id
