"""Mock signatures for the orchestrator's gas estimate (protocol: signing.md 8). They authorise nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

from worker.signing import values
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.errors import SigningInputError
from worker.signing.session_digest import permission_id
from worker.signing.session_signature import emissary_enable
from worker.signing.structs import EnableData, HashAndChainId, SessionData

_EMPTY_SIGNATURE = bytes(65)


@lru_cache(maxsize=256)
def mock_signature(session: SessionData, chain_id: int, chain_count: int = 1) -> bytes:
    """``emissary ‖ ENABLE form`` of the session with signatures of zeros, as SDK 1.15.0 mocks every session.

    Args:
        session: the session that will sign.
        chain_id: the session's chain.
        chain_count: number of source chains; 0 counts as 1.

    Raises:
        SigningInputError: a field does not fit.
    """
    values.uint(chain_count, 8, "chainCount")
    blank = (HashAndChainId(0, bytes(32)),) * (max(1, chain_count) - 1)
    enable = EnableData(_EMPTY_SIGNATURE, (HashAndChainId(chain_id, bytes(32)), *blank), 0)
    return values.address(SMART_SESSION_EMISSARY, "emissary") + emissary_enable(
        session, enable, permission_id(session), _EMPTY_SIGNATURE
    )


def mock_signatures(
    sessions: Mapping[int, SessionData], target_chain_id: int, source_chain_ids: Collection[int] | None = None
) -> dict[str, str]:
    """``account.mockSignatures`` of a route request: 0x hex by decimal chain id, for every source and the target.

    Args:
        sessions: the session of each chain involved.
        target_chain_id: the destination chain.
        source_chain_ids: the source chains, ``None`` when the request leaves them to the orchestrator.

    Raises:
        SigningInputError: a chain has no session, or a field does not fit.
    """
    sources = tuple(dict.fromkeys(source_chain_ids or ()))
    mocks: dict[str, str] = {}
    for chain_id in dict.fromkeys((*sources, target_chain_id)):
        session = sessions.get(chain_id)
        if session is None:
            raise SigningInputError(f"no session for chain {chain_id}", field="sessions")
        mocks[str(chain_id)] = f"0x{mock_signature(session, chain_id, len(sources)).hex()}"
    return mocks
