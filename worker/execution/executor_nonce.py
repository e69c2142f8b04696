"""What the chain says about a signed message for the Intent Executor: was its nonce used?

``SingleChainOps`` has no deadline, anybody who has the signature may hand it to the executor, and the executor takes
each nonce of an account once. So a used nonce proves that an intent was executed, whatever the orchestrator knows of
it, and an unused one proves nothing about tomorrow.
"""

from __future__ import annotations

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.chain.errors import CallRevertedError
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord
from worker.signing.contracts import INTENT_EXECUTOR
from worker.signing.intent_op import IntentPayloads
from worker.signing.messages import SingleChainOps

FIELD = "executor_nonces"
"""The record's field that keeps them, since the quote is parsed by its wire version: ``<chain>:<nonce> …``."""

#: The real executor's, and the devnet's.
_IS_CONSUMED = keccak(b"isStandaloneIntentNonceConsumed(uint256,address)")[:4]


def nonces_of(message: IntentPayloads) -> str:
    """The nonces by which a quote's messages may be executed, as ``FIELD`` keeps them; ``""`` for none."""
    signed = (*message.origins, message.destination, *((message.target,) if message.target else ()))
    found = [
        f"{payload.chain_id}:{payload.message.nonce}"
        for payload in signed
        if isinstance(payload.message, SingleChainOps)
    ]
    return " ".join(dict.fromkeys(found))


def chains_of(record: IntentRecord) -> frozenset[int]:
    """The chains on which the record's nonces are."""
    return frozenset(int(item.split(":")[0]) for item in record.fields.get(FIELD, "").split())


def executed_on(runtime: Runtime, record: IntentRecord) -> frozenset[int]:
    """The chains on which one of the record's nonces was used.

    Empty also for an executor that has no such question, and for messages that are not for the executor.

    Raises:
        ChainError, WrongChainError, UnservedChainError
        SessionNotFoundError, SessionCorruptError, SessionStoreUnavailableError
    """
    kept = record.fields.get(FIELD, "").split()
    if not kept:
        return frozenset()
    account = runtime.sessions.get(record.intent.session_id).account
    return frozenset(
        int(chain_id)
        for chain_id, nonce in (item.split(":") for item in kept)
        if _is_consumed(runtime, int(chain_id), int(nonce), account)
    )


def _is_consumed(runtime: Runtime, chain_id: int, nonce: int, account: str) -> bool:
    data = _IS_CONSUMED + encode(["uint256", "address"], [nonce, account])
    try:
        return runtime.chain_of(chain_id).call(INTENT_EXECUTOR, data) == (1).to_bytes(32)
    except CallRevertedError:
        return False
