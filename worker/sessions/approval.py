"""What a frontend does: the account's owner approves a session, and the session file comes out.

For the demo and the tests, where the owner's key is at hand. In production the wallet signs and the frontend exports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worker.sessions.encoding import AnySession, session_data
from worker.sessions.file import (
    AccountOfFile,
    ActionOfFile,
    ChainDigest,
    EnableDataOfFile,
    SessionFile,
    SessionFileV2,
    SetupOp,
)
from worker.sessions.model import EcdsaOwners
from worker.sessions.v2 import SessionV2
from worker.signing.enable import owner_enable_signature
from worker.signing.session_digest import multi_chain_digest, permission_id, session_digest
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind, HashAndChainId


def approve(
    session: AnySession,
    *,
    account: str,
    kind: AccountKind,
    owner_keys: Sequence[bytes],
    nonce: int,
    setup_ops: Sequence[tuple[str, bytes]] = (),
    verify_executions: bool | None = None,
    other_chains: Sequence[HashAndChainId] = (),
) -> str:
    """Sign the approval of a session and write its file.

    Args:
        session: what the user grants.
        account: the smart account, lower-case.
        kind: the account's kind.
        owner_keys: private keys of all the account's owners, in configured order; all of them sign.
        nonce: the emissary's nonce of the account on the session's chain.
        setup_ops: ``(to, calldata)`` of the calls that deploy the account.
        verify_executions: the signer option of SDK 1.15; None leaves it out.
        other_chains: digests of the same approval on other chains, put after this one's.

    Returns:
        The session file's text.

    Raises:
        SessionError: the session cannot be encoded.
        SigningInputError: an argument does not fit.
    """
    data = session_data(session)
    digest = session_digest(account, data, nonce)
    entries = (HashAndChainId(session.chain, digest), *other_chains)
    approved = multi_chain_digest(entries)
    owners = EcdsaOwners(accounts=tuple(address_of(key) for key in owner_keys), threshold=len(owner_keys))
    signature = owner_enable_signature(kind, account, approved, owner_keys)
    common: dict[str, Any] = {
        "account": AccountOfFile(
            address=account,
            kind=kind,
            setup_ops=tuple(SetupOp(to=to, data=calldata) for to, calldata in setup_ops),
            owners=owners,
        ),
        "chain": session.chain,
        "owners": session.owners,
        "enable_data": EnableDataOfFile(
            user_signature=signature,
            hashes_and_chain_ids=tuple(
                ChainDigest(chain_id=entry.chain_id, session_digest=entry.session_digest) for entry in entries
            ),
            session_to_enable_index=0,
        ),
        "nonce": nonce,
        "permission_id": permission_id(data),
        "session_digest": digest,
        "multi_chain_session_digest": approved,
    }
    if isinstance(session, SessionV2):
        return SessionFileV2(
            sdk="2.2.2",
            permissions=session.permissions,
            claim_policies=session.claim_policies,
            cross_chain_permits=session.cross_chain_permits,
            policy_addresses=session.policy_addresses,
            wrapped_native_token=session.wrapped_native_token,
            **common,
        ).text()
    return SessionFile(
        sdk="1.15.0",
        actions=tuple(ActionOfFile.of(action) for action in session.actions),
        claim_policies=session.claim_policies,
        restrict_to_actions=session.restrict_to_actions,
        swap=session.swap,
        verify_executions=verify_executions,
        **common,
    ).text()
