"""What a Permit2 claim may say, whichever wire version it came in: every field is what the trade asked for, or named.

The one thing that cannot be read is ``q``, the hash of the settlement layer's own data, whose layout is not published:
the known arbiters are trusted to interpret it within the rest of the message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from worker.execution.ask import Ask, Leg
from worker.execution.errors import PolicyDeniedError
from worker.execution.explain import MAX_QUOTE_LIFE_S, VT_ERC7579, refuse
from worker.policies.base import Deny, Execution
from worker.policies.permit2_claim import Claim, evaluate_claim
from worker.sessions.chains import chain_of
from worker.signing.contracts import PERMIT2
from worker.signing.intent_op import TypedPayload
from worker.signing.messages import Permit2Message, TokenAmount
from worker.signing.structs import Ops

#: Layers that SDK 1.15.0 and the API name (orchestrator.md 4); what another one does is not known.
PERMIT2_LAYERS = frozenset({"SAME_CHAIN", "ACROSS", "ECO", "RELAY", "OFT", "NEAR", "RHINO", "CCTP"})
#: More gas than a block of any chain holds; a larger value has no purpose.
MAX_MIN_GAS = 100_000_000
_APPROVE = bytes.fromhex("095ea7b3")
_DEPOSIT = bytes.fromhex("d0e30db0")


@dataclass(frozen=True, slots=True)
class ClaimPaths:
    """Where a wire version has what the message says; each is the whole path, as a refusal names it."""

    origin: str
    chain: str
    spender: str
    permitted: str
    recipient: str
    target_chain: str
    fill_expiry: str
    min_gas: str
    out: str
    before: str
    after: str


def check_claims(
    found: Sequence[tuple[TypedPayload, ClaimPaths]],
    ask: Ask,
    *,
    arbiters: Collection[str],
    now_s: int,
) -> tuple[dict[int, tuple[Execution, ...]], int]:
    """Hold the Permit2 messages of a route against a trade.

    Args:
        found: every origin, with the names of its parts.
        ask: the trade.
        arbiters: addresses that may be a spender, lower-case.
        now_s: our clock, unix seconds.

    Returns:
        Per chain every call that the signatures would allow there, in order, and the latest unix second at which
        anything can be executed.

    Raises:
        UnexplainedQuoteError: names the field.
        PolicyDeniedError: a claim policy of a session says no.
    """
    before: dict[int, tuple[Execution, ...]] = {}
    taken: Counter[tuple[int, str]] = Counter()
    latest_s = 0
    after: tuple[Execution, ...] = ()
    claims: list[tuple[TypedPayload, Permit2Message, Leg, ClaimPaths]] = []
    for index, (payload, paths) in enumerate(found):
        claim = payload.message
        assert isinstance(claim, Permit2Message)
        leg = ask.source(payload.chain_id)
        if leg is None:
            refuse(paths.chain, f"is {payload.chain_id}, which is none of the source chains")
        if payload.chain_id in before:
            refuse(paths.chain, "is there twice, and Permit2 takes a nonce once on each chain")
        if leg.session.restricted:
            refuse(
                paths.chain,
                "is a chain whose session is restricted: Permit2 would refuse its signature",
            )
        if claim.spender not in arbiters:
            refuse(
                paths.spender,
                f"is {claim.spender}, which is no arbiter that we know",
                fix="if its operator vouches for it, add it to SESSION_EXECUTOR_ARBITERS",
            )
        for item in claim.permitted:
            taken[payload.chain_id, item.token] += item.amount
        before[payload.chain_id] = _check_origin_ops(claim, leg, ask, paths.before)
        calls = _check_mandate(claim, ask, paths, now_s)
        if index and calls != after:
            refuse(paths.after, "differs from that of the other claims")
        after = calls
        latest_s = max(latest_s, claim.deadline, claim.mandate.target.fill_expiry)
        claims.append((payload, claim, leg, paths))
    _check_taken(taken, ask, {payload.chain_id: paths.permitted for payload, _, _, paths in claims})
    out = [item for _, claim, _, _ in claims for item in claim.mandate.target.token_out]
    check_out(out, ask, claims[0][3].out)
    for payload, claim, leg, paths in claims:
        _judge_claim(payload, claim, leg, paths.origin)
    # one executor nonce for all claims: however many there are, the target's calls run once
    executions = {chain_id: calls for chain_id, calls in before.items() if calls}
    target = ask.target.chain_id
    if after:
        executions[target] = (*executions.get(target, ()), *after)
    return executions, latest_s


def check_out(out: Sequence[TokenAmount], ask: Ask, path: str) -> None:
    """What is delivered is what was asked for, and at least as much of it."""
    delivered: Counter[str] = Counter()
    for item in out:
        delivered[item.token] += item.amount
    asked = {item.token: item.amount for item in ask.trade.tokens}
    for token in delivered:
        if token not in asked:
            refuse(path, f"delivers {token}, which was not asked for")
    for token, least in asked.items():
        got = delivered[token]
        if got < (1 if least is None else least):
            refuse(path, f"delivers {got} of {token}, and {'some' if least is None else least} was asked for")


def check_vt(ops: Ops, path: str, ask: Ask) -> None:
    """The calls are ERC-7579 ones in the signature mode that the sessions want."""
    wanted = bytes([VT_ERC7579, ask.signature_mode]).ljust(32, b"\0")
    if ops.vt != wanted:
        refuse(
            f"{path}.vt",
            f"is 0x{ops.vt.hex()}, not 0x{wanted.hex()} (ERC-7579 calls, signature mode {ask.signature_mode})",
        )


def check_only(found: Sequence[Execution], wanted: Sequence[Execution], path: str) -> None:
    """These calls in this order, and no other."""
    for index, call in enumerate(found):
        if index >= len(wanted):
            refuse(f"{path}.ops[{index}]", f"is a call to {call.to} that nobody asked for")
        if call != wanted[index]:
            refuse(f"{path}.ops[{index}]", "differs from the call that was asked for")
    if len(found) < len(wanted):
        refuse(f"{path}.ops", f"holds {len(found)} calls, and {len(wanted)} were asked for")


def calls_of(ops: Ops) -> tuple[Execution, ...]:
    """The calls of an operation."""
    return tuple(Execution(op.to, op.value, op.data) for op in ops.ops)


def _check_mandate(claim: Permit2Message, ask: Ask, paths: ClaimPaths, now_s: int) -> tuple[Execution, ...]:
    """What is delivered where and until when, and the calls there."""
    target, trade = claim.mandate.target, ask.trade
    if target.target_chain != ask.target.chain_id:
        refuse(paths.target_chain, f"is {target.target_chain}, not {ask.target.chain_id}")
    if target.recipient != ask.recipient:
        refuse(paths.recipient, f"is {target.recipient}, not {ask.recipient}")
    if not now_s < target.fill_expiry <= now_s + MAX_QUOTE_LIFE_S:
        refuse(paths.fill_expiry, f"is not within {MAX_QUOTE_LIFE_S} s from now")
    if trade.deadline_s and target.fill_expiry > trade.deadline_s:
        refuse(paths.fill_expiry, f"is later than the deadline {trade.deadline_s} that was asked for")
    if claim.mandate.min_gas > MAX_MIN_GAS:
        refuse(paths.min_gas, f"is more than {MAX_MIN_GAS} gas, which no block holds")
    check_vt(claim.mandate.dest_ops, paths.after, ask)
    found = calls_of(claim.mandate.dest_ops)
    # nothing is added on the target chain: tokens for a recipient are the filler's to deliver
    check_only(found, ask.calls, paths.after)
    return found


def _check_origin_ops(claim: Permit2Message, leg: Leg, ask: Ask, path: str) -> tuple[Execution, ...]:
    """Ours unchanged and in order; besides them only what makes the claimed tokens available to Permit2."""
    check_vt(claim.mandate.origin_ops, path, ask)
    found = calls_of(claim.mandate.origin_ops)
    ours = list(ask.pre_claim(leg))
    permitted: Counter[str] = Counter()
    for item in claim.permitted:
        permitted[item.token] += item.amount
    for index, call in enumerate(found):
        if ours and call == ours[0]:
            ours.pop(0)
        elif not _makes_available(call, permitted, chain_of(leg.chain_id).wrapped):
            refuse(f"{path}.ops[{index}]", f"is a call to {call.to} that nobody asked for")
    if ours:
        refuse(
            f"{path}.ops", f"lacks {len(ours)} of the calls that were asked for, or has them in another order"
        )
    return found


def _makes_available(call: Execution, permitted: Mapping[str, int], wrapped: str) -> bool:
    """An approval of a claimed token to Permit2, for as much as is claimed or for ever, or the wrapping of as much.

    Whether the session may make the call is its policies' to say; they judge every call of the operation.
    """
    if call.to in permitted and call.data[:4] == _APPROVE:
        return is_permit2_approval(call)
    return call.to == wrapped and call.data == _DEPOSIT and 0 < call.value <= permitted.get(wrapped, 0)


def is_permit2_approval(call: Execution) -> bool:
    """Whether a call approves Permit2 to take a token, which only what is signed for Permit2 can use."""
    spender = bytes(12) + bytes.fromhex(PERMIT2[2:])
    return call.value == 0 and len(call.data) == 68 and call.data[:36] == _APPROVE + spender


def _check_taken(taken: Mapping[tuple[int, str], int], ask: Ask, paths: Mapping[int, str]) -> None:
    allowed = {(item.chain_id, item.token): item.amount for item in ask.trade.spend}
    for (chain_id, token), amount in taken.items():
        limit, path = allowed.get((chain_id, token)), paths[chain_id]
        if limit is None:
            refuse(path, f"takes {token} on chain {chain_id}, which the intent does not allow")
        if amount > limit:
            refuse(path, f"takes {amount} of {token} on chain {chain_id}; the intent allows {limit}")


def _judge_claim(payload: TypedPayload, claim: Permit2Message, leg: Leg, path: str) -> None:
    """Every claim policy of the chain's session. The chain may not enforce them (policies.md 5), so we do."""
    target = claim.mandate.target
    judged = Claim(
        account=leg.session.account,
        chain_id=payload.chain_id,
        spender=claim.spender,
        deadline=claim.deadline,
        tokens_in=tuple(item.token for item in claim.permitted),
        recipient=target.recipient,
        target_chain=target.target_chain,
        fill_expiry=target.fill_expiry,
        tokens_out=tuple(item.token for item in target.token_out),
    )
    verdict = evaluate_claim(leg.session.claim_policies, judged)
    if isinstance(verdict, Deny):
        raise PolicyDeniedError(f"{path}: {verdict.reason}", field=verdict.policy)
