"""What the chain says about a signed message: was its nonce used?

``SingleChainOps`` has no deadline, anybody who has the signature may hand it to the executor, and the executor takes
each nonce of an account once. So a used nonce proves that an intent was executed, whatever the orchestrator knows of
it, and an unused one proves nothing about tomorrow.

Permit2 takes a nonce once, too, and none after the message's deadline. A used one proves that the tokens were taken,
and not that anything was delivered for them: that is for a person to look up.
"""

from __future__ import annotations

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.chain.errors import CallRevertedError
from worker.execution.runtime import Runtime
from worker.intents.model import IntentRecord
from worker.signing.contracts import INTENT_EXECUTOR, PERMIT2
from worker.signing.intent_op import IntentPayloads
from worker.signing.messages import SingleChainOps

FIELD = "executor_nonces"
"""The record's field that keeps them, since the quote is parsed by its wire version: ``<chain>:<nonce> …``, those of
Permit2 with ``:permit2`` behind."""

_PERMIT2 = "permit2"

#: The real executor's, and the devnet's.
_IS_CONSUMED = keccak(b"isStandaloneIntentNonceConsumed(uint256,address)")[:4]


_NONCE_BITMAP = keccak(b"nonceBitmap(address,uint256)")[:4]


def nonces_of(message: IntentPayloads) -> str:
    """The nonces by which a quote's messages may be executed, as ``FIELD`` keeps them; ``""`` for none."""
    signed = (*message.origins, message.destination, *((message.target,) if message.target else ()))
    found = [
        f"{payload.chain_id}:{payload.message.nonce}"
        + ("" if isinstance(payload.message, SingleChainOps) else f":{_PERMIT2}")
        for payload in signed
    ]
    return " ".join(dict.fromkeys(found))


def chains_of(record: IntentRecord) -> frozenset[int]:
    """The chains on which the record's nonces are."""
    return frozenset(int(item.split(":")[0]) for item in record.fields.get(FIELD, "").split())


def claims(record: IntentRecord) -> bool:
    """Whether tokens are taken by Permit2: then used nonces do not say that the intent is done."""
    return f":{_PERMIT2}" in record.fields.get(FIELD, "")


def executed_on(runtime: Runtime, record: IntentRecord) -> frozenset[int]:
    """The chains on which one of the record's nonces was used.

    Empty also for an executor that has no such question.

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
        for chain_id, nonce, *kind in (item.split(":") for item in kept)
        if (_is_claimed if kind else _is_consumed)(runtime, int(chain_id), int(nonce), account)
    )


def _is_consumed(runtime: Runtime, chain_id: int, nonce: int, account: str) -> bool:
    data = _IS_CONSUMED + encode(["uint256", "address"], [nonce, account])
    try:
        return runtime.chain_of(chain_id).call(INTENT_EXECUTOR, data) == (1).to_bytes(32)
    except CallRevertedError:
        return False


def _is_claimed(runtime: Runtime, chain_id: int, nonce: int, account: str) -> bool:
    """Permit2's unordered nonces: the low byte is the bit of a word, the rest names the word."""
    data = _NONCE_BITMAP + encode(["address", "uint256"], [account, nonce >> 8])
    try:
        word = runtime.chain_of(chain_id).call(PERMIT2, data)
    except CallRevertedError:
        return False
    return len(word) == 32 and bool(int.from_bytes(word) >> (nonce & 0xFF) & 1)
