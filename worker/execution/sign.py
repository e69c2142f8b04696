"""AUTHORIZED → SIGNED: take the keys, sign, drop the keys, check the result, store the bytes to send."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from worker.execution.approval import RULES, end_if_late
from worker.execution.attempt import Attempt, held_back, run_stage
from worker.execution.errors import UnexplainedQuoteError
from worker.execution.guardrails import quote_left_s, refund_caps, require_session_left, rules_mark
from worker.execution.metrics import KEYS, timed
from worker.execution.prepare import (
    digests,
    end_if_out_of_time,
    judge,
    looked_at_ledger,
    must_enable,
    read_for_signing,
    require_running,
    usable_session,
)
from worker.execution.runtime import Runtime, version_of
from worker.execution.wire import explain, stored_quote, submit_body
from worker.intents.states import State
from worker.keys.memory import no_locals_in_errors
from worker.keys.port import KeyGiver, SecretKey
from worker.sessions.importing import RegisteredSession
from worker.signing import session_signature
from worker.signing.intent_op import IntentPayloads, TypedPayload
from worker.signing.sign import psigs


def sign(runtime: Runtime, intent_id: str) -> None:
    """Do the stage for one intent, unless the ledger was lost; see ``run_stage``."""
    if not looked_at_ledger(runtime, intent_id) and held_back(runtime, intent_id):
        return
    run_stage(runtime, intent_id, (State.AUTHORIZED,), _work, Attempt.end_by_error)


def _work(attempt: Attempt) -> None:
    runtime, record = attempt.runtime, attempt.record
    if end_if_out_of_time(attempt):
        return
    now_s = runtime.now_s
    if record.quote_expires_s <= now_s + runtime.settings.min_quote_left_s:
        attempt.move(
            State.QUEUED, "the quote ran out before it was signed; a new one is needed", next_stage="prepare"
        )
        return
    if record.intent.trade is not None:
        from worker.execution.trade import sign_trade  # noqa: PLC0415 - it uses what is below

        sign_trade(attempt)
        return
    session, state = read_for_signing(runtime, record.intent_id, record.intent.session_id)
    enable = record.fields.get("enable") == "1"
    if must_enable(session, state) is not enable:
        attempt.move(
            State.QUEUED, "the session's state on chain changed; a new quote is needed", next_stage="prepare"
        )
        return
    quote = stored_quote(
        version_of(record),
        record.quote,
        quote_id=record.orchestrator_id,
        expires_s=record.quote_expires_s,
    )
    explained = explain(
        quote,
        session=session,
        calls=record.intent.calls,
        enable=enable,
        now_s=now_s,
        min_left_s=0,
        refunds=refund_caps(session.rules_of(record.intent.source)),
    )
    ahead = len(explained.executions) - len(record.intent.calls)
    judge(runtime, session, state, explained.executions, latest_s=explained.latest_s, ahead=ahead)
    message = explained.message
    if digests(message) != record.fields.get("digests"):
        raise UnexplainedQuoteError(
            "is not the one that was authorized",
            field="quote",
            fix="the record was altered: look at who writes to Redis",
        )
    # the last moment: what was read above may be seconds old
    if stopped_at_last(attempt, (session,)):
        return
    with timed(KEYS), runtime.tracing.step("keys.sign"):
        used = UsedKeys(runtime.signing_keys(session.session_id))
        members = signatures(message, session, used, enable=enable)
    body = submit_body(quote, members)
    attempt.move(
        State.SIGNED,
        f"signed by {', '.join(session.owners)}",
        next_stage="submit",
        fields={
            "body": body,
            "sent": "",
            "signed_digests": digests(message),
            "key_versions": used.words(),
        },
    )


class UsedKeys:
    """A key store that remembers which version of each key it gave, for the audit trail."""

    def __init__(self, keys: KeyGiver) -> None:
        self._keys = keys
        self._used: dict[str, str] = {}

    @contextmanager
    def get(self, address: str) -> Generator[SecretKey]:
        """As the key store's."""
        with self._keys.get(address) as key:
            self._used[address] = key.version
            yield key

    def words(self) -> str:
        """``<address>@<version> …``; a store without versions leaves that empty."""
        return " ".join(f"{address}@{version}" for address, version in self._used.items())


def stopped_at_last(attempt: Attempt, sessions: Sequence[RegisteredSession]) -> bool:
    """The last look before the keys are taken, at what may have changed since the intent was judged.

    Returns:
        Whether the record has left its state: it has become too late, or it has to be judged or quoted again.

    Raises:
        PausedError, SessionUnusableError: an operator has stopped it.
        GuardrailDeniedError: a session is not valid for long enough any more.
        SessionNotFoundError, SessionCorruptError, SessionStoreUnavailableError, LedgerUnavailableError
    """
    runtime, record = attempt.runtime, attempt.record
    source = record.intent.source
    now = [usable_session(runtime, session.session_id) for session in sessions]
    for session in now:
        require_running(runtime, record.intent, session)
    if rules_mark((session, source) for session in now) != record.fields.get(RULES, ""):
        attempt.move(
            State.QUEUED,
            "the guardrails have changed since it was authorized; it is judged again",
            next_stage="prepare",
        )
        return True
    if end_if_late(attempt, now):
        return True
    least_s = quote_left_s(runtime.settings.min_quote_left_s, source, *now)
    if record.quote_expires_s <= runtime.now_s + least_s:
        attempt.move(
            State.QUEUED, "the quote ran out before it was signed; a new one is needed", next_stage="prepare"
        )
        return True
    for session in now:
        require_session_left(session, source, now_s=runtime.now_s)
    return False


def signatures(
    message: IntentPayloads, session: RegisteredSession, keys: KeyGiver, *, enable: bool
) -> dict[str, Any]:
    """The members that signing adds to the intentOp, in the SDK's order (signing.md 5).

    Args:
        message: the payloads of the intentOp.
        session: whose owners sign, all of them in configured order.
        keys: where their keys are.
        enable: ENABLE mode instead of USE mode.

    Raises:
        KeyStoreError: a key cannot be had.
        UnexplainedQuoteError: a signature does not recover to its owner.
        SignatureFaultError: a signature does not recover to the key that made it.
    """
    kind, account = session.account_kind, session.account
    origins, destination = message.origins, message.destination
    hashes = {
        payload.digest: session_signature.erc1271_hash(kind, account, payload.digest)
        for payload in (*origins, destination)
    }
    # the destination is one of the origins, so it mostly needs no signature of its own
    checked = (
        (*hashes, *((message.target.digest,) if message.target else ())) if session.verify_executions else ()
    )
    signed = signed_by_all(session.owners, keys, (*hashes.values(), *checked))

    def erc1271_form(payload: TypedPayload) -> str:
        validator_signature = signed[hashes[payload.digest]]
        return _hex(session_signature.erc1271(kind, account, session.permission_id, validator_signature))

    if not session.verify_executions:
        return {
            "originSignatures": [erc1271_form(origin) for origin in origins],
            "destinationSignature": erc1271_form(destination),
        }
    by_emissary = {digest: _hex(emissary_form(session, signed[digest], enable=enable)) for digest in checked}
    members: dict[str, Any] = {
        "originSignatures": [
            {"preClaimSig": by_emissary[origin.digest], "notarizedClaimSig": erc1271_form(origin)}
            for origin in origins
        ],
        "destinationSignature": by_emissary[destination.digest],
    }
    if message.target is not None:
        members["targetExecutionSignature"] = by_emissary[message.target.digest]
    return members


def signed_by_all(owners: Sequence[str], keys: KeyGiver, digests: Sequence[bytes]) -> dict[bytes, bytes]:
    """``VS`` of each digest: the signatures of all owners in configured order, each checked.

    Raises:
        KeyStoreError: a key cannot be had.
        UnexplainedQuoteError: a signature does not recover to its owner.
        SignatureFaultError: a signature does not recover to the key that made it.
    """
    signed = dict.fromkeys(digests, b"")
    with no_locals_in_errors(), ExitStack() as stack:
        held = [stack.enter_context(keys.get(owner)) for owner in owners]
        for owner, key in zip(owners, held, strict=True):
            signer, made = psigs(key.use(), tuple(signed))
            if signer != owner:
                raise UnexplainedQuoteError("does not recover to its owner", field="signature")
            for digest, signature in zip(tuple(signed), made, strict=True):
                signed[digest] += signature
    return signed


def emissary_form(session: RegisteredSession, signed: bytes, *, enable: bool) -> bytes:
    """The emissary form around ``VS``, in ENABLE mode or in USE mode.

    Raises:
        UnexplainedQuoteError: ENABLE mode, and the session has no approval.
    """
    if not enable:
        return session_signature.emissary_use(session.permission_id, signed)
    if session.enable_data is None:
        raise UnexplainedQuoteError("has no enableData", field="session")
    return session_signature.emissary_enable(session.data, session.enable_data, session.permission_id, signed)


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
