"""AUTHORIZED → SIGNED: take the keys, sign, drop the keys, check the result, store the bytes to send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, cast

from worker.execution.attempt import Attempt, run_stage
from worker.execution.errors import UnexplainedQuoteError
from worker.execution.explain import check_quote
from worker.execution.prepare import (
    digests,
    end_if_out_of_time,
    judge,
    must_enable,
    read_chain,
    usable_session,
)
from worker.execution.runtime import Runtime
from worker.intents.states import State
from worker.keys.port import KeyStore
from worker.orchestrator import exact_json
from worker.orchestrator.port import Quote
from worker.sessions.importing import RegisteredSession
from worker.signing import session_signature
from worker.signing.intent_op import IntentPayloads, payloads
from worker.signing.sign import psig, recover_psig


def sign(runtime: Runtime, intent_id: str) -> None:
    """Do the stage for one intent; see ``run_stage``."""
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
    session = usable_session(runtime, record.intent.session_id)
    state = read_chain(runtime, session)
    enable = record.fields.get("enable") == "1"
    if must_enable(session, state) is not enable:
        attempt.move(
            State.QUEUED, "the session's state on chain changed; a new quote is needed", next_stage="prepare"
        )
        return
    intent_op = cast("Mapping[str, Any]", exact_json.loads(record.quote))
    quote = Quote(
        record.orchestrator_id, record.quote_expires_s, record.quote, intent_op, {"hasFulfilledAll": True}
    )
    executions, latest_s = check_quote(
        quote, session=session, calls=record.intent.calls, enable=enable, now_s=now_s, min_left_s=0
    )
    ahead = len(executions) - len(record.intent.calls)
    judge(runtime, session, state, executions, latest_s=latest_s, ahead=ahead)
    message = payloads(intent_op, session.account, with_target=session.verify_executions)
    if digests(message) != record.fields.get("digests"):
        raise UnexplainedQuoteError(
            "is not the one that was authorized",
            field="quote",
            fix="the record was altered: look at who writes to Redis",
        )
    members = signatures(message, session, runtime.keys, enable=enable)
    body = '{"signedIntentOp":' + exact_json.with_members(record.quote, members) + "}"
    attempt.move(
        State.SIGNED,
        f"signed by {', '.join(session.owners)}",
        next_stage="submit",
        fields={"body": body, "sent": ""},
    )


def signatures(
    message: IntentPayloads, session: RegisteredSession, keys: KeyStore, *, enable: bool
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
    """
    kind, account, permission = session.account_kind, session.account, session.permission_id

    with ExitStack() as stack:
        held = [stack.enter_context(keys.get(owner)) for owner in session.owners]

        def all_sign(digest: bytes) -> bytes:
            made = [psig(key.use(), digest) for key in held]
            for owner, signature in zip(session.owners, made, strict=True):
                if recover_psig(digest, signature) != owner:
                    raise UnexplainedQuoteError("does not recover to its owner", field="signature")
            return b"".join(made)

        emissary_form = _emissary_form(session, all_sign, enable=enable)

        def erc1271_form(digest: bytes) -> bytes:
            signed = all_sign(session_signature.erc1271_hash(kind, account, digest))
            return session_signature.erc1271(kind, account, permission, signed)

        if not session.verify_executions:
            return {
                "originSignatures": [_hex(erc1271_form(origin.digest)) for origin in message.origins],
                "destinationSignature": _hex(erc1271_form(message.destination.digest)),
            }
        members: dict[str, Any] = {
            "originSignatures": [
                {
                    "preClaimSig": _hex(emissary_form(origin.digest)),
                    "notarizedClaimSig": _hex(erc1271_form(origin.digest)),
                }
                for origin in message.origins
            ],
            "destinationSignature": _hex(emissary_form(message.destination.digest)),
        }
        if message.target is not None:
            members["targetExecutionSignature"] = _hex(emissary_form(message.target.digest))
        return members


def _emissary_form(
    session: RegisteredSession, all_sign: Callable[[bytes], bytes], *, enable: bool
) -> Callable[[bytes], bytes]:
    def form(digest: bytes) -> bytes:
        signed = all_sign(digest)
        if not enable:
            return session_signature.emissary_use(session.permission_id, signed)
        if session.enable_data is None:
            raise UnexplainedQuoteError("has no enableData", field="session")
        return session_signature.emissary_enable(
            session.data, session.enable_data, session.permission_id, signed
        )

    return form


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
