"""``session-executor sessions``."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from eth_utils.address import to_checksum_address

from worker.cli.changes import change, operator
from worker.cli.context import find_session, parsed, runtime
from worker.cli.output import (
    ListLimit,
    ListOffset,
    bar,
    note,
    print_json,
    print_line,
    print_table,
    time_left,
    utc,
)
from worker.errors import InputError, ServiceError
from worker.policies.fields import parse_address

if TYPE_CHECKING:
    from worker.execution.prepare import ChainState
    from worker.execution.runtime import Runtime
    from worker.ledger.port import Budget
    from worker.policies.policy import AmountFormat, PolicyModel
    from worker.sessions.file import AnySessionFile
    from worker.sessions.importing import RegisteredSession

app = typer.Typer(
    help="What users have granted: import their session files, see limits.", no_args_is_help=True
)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SessionArgument = Annotated[str, typer.Argument(help="The session's id, or the first digits of it.")]
#: A session file with every policy and a hundred chains is some 50 kB.
_MAX_FILE = 1_000_000
#: What people call the functions that sessions are mostly about.
_FUNCTIONS = {
    "a9059cbb": "transfer(address,uint256)",
    "23b872dd": "transferFrom(address,address,uint256)",
    "095ea7b3": "approve(address,uint256)",
    "ffffffff": "plain transfer",
}
_UNRESTRICTED = (
    "this session is not restricted: its key may sign any message for the account, token permits included, "
    "whatever its actions say; ask for restrictToActions"
)


@app.command("import")
def import_session(
    file: Annotated[
        str, typer.Argument(help="The file that the frontend exported, or - for standard input.")
    ],
    renew: Annotated[
        bool, typer.Option("--renew", help="Let it replace the approval of the same session.")
    ] = False,
    accept_risk: Annotated[
        list[str] | None,
        typer.Option("--accept-risk", metavar="CODE", help="Import it in spite of this finding; repeatable."),
    ] = None,
    guardrails: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="TOML of guardrails that hold from the first moment; see `sessions guardrails`.",
        ),
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Check a session file in every part and register it. The user's approval, our key and the chain must fit.

    A session that may do more than a trade needs is refused; `sessions explain --file FILE` tells what it may do.
    """
    from worker.cli.guardrails import read_file_of
    from worker.execution.runtime import key_store
    from worker.policies.guardrails import SESSION_SCOPE, Guardrails, ScopeRules
    from worker.sessions import privilege
    from worker.sessions.file import load_session_file
    from worker.sessions.importing import AcceptedRisk, verify

    text = read_file(file)
    services = runtime()
    parsed = load_session_file(text)
    session = verify(
        parsed,
        our_keys=[key.address for key in key_store(services.settings).list()],
        chain_id=services.chain_ids,
        now_s=int(time.time()),
        nonce=_read_nonce(services, parsed),
    )
    risks = privilege.findings(session, now_s=services.now_s)
    privilege.require_accepted(risks, accept_risk or ())
    warning = chain_word(services, session)[1]
    held_to = read_file_of(guardrails, session.chain_id) if guardrails else Guardrails()
    who, now_ms = operator(), services.now_ms()
    accepted = [
        AcceptedRisk(risk.code, who, now_ms, risk.words) for risk in risks if risk.code in (accept_risk or ())
    ]
    with change(
        services,
        "session renewed" if renew else "session imported",
        session_id=session.session_id,
        account=session.account,
        chain_id=session.chain_id,
        keys=list(session.owners),
        restricted=session.restricted,
        accepted_risks=[risk.code for risk in accepted],
        guardrails=held_to.text(),
    ) as made:
        before = _approval_sha256(services, session.session_id)
        created = services.sessions.put(session, renew=renew, guardrails=held_to, accepted=accepted)
        made.say(before=before, after=_approval_sha256(services, session.session_id))
    if (
        guardrails
        and services.sessions.rules(session.session_id).get(SESSION_SCOPE, ScopeRules(SESSION_SCOPE)).text
        != held_to.text()
    ):
        note(
            "warning: the session was registered before and keeps its guardrails; change them with `sessions guardrails`"
        )
    for risk in risks:
        if risk.severity == "severe":
            note(f"warning: {risk.words}")
    if warning:
        note(f"warning: {warning}")
    if as_json:
        print_json({"session_id": session.session_id, "created": created})
    else:
        print_line(f"{session.session_id}{'' if created else ' (was registered before)'}")


@app.command("list")
def list_sessions(
    account: Annotated[str | None, typer.Option(help="Only of this account.")] = None,
    paused: Annotated[
        bool | None, typer.Option("--paused/--running", help="Only those that are paused, or are not.")
    ] = None,
    limit: ListLimit = 1_000,
    offset: ListOffset = 0,
    as_json: JsonFlag = False,
) -> None:
    """The registered sessions."""
    services = runtime()
    wanted = None if account is None else parsed("--account", parse_address, account)
    found = [
        session
        for session in services.sessions.list(on_corrupt=lambda error: note(f"warning: {error}"))
        if wanted in (None, session.account) and paused in (None, session.paused)
    ][offset : offset + limit]
    if as_json:
        print_json([_summary(session) for session in found])
        return
    print_table(
        ("session", "account", "kind", "chain", "restricted", "ends", "paused"),
        (
            (
                session.session_id,
                to_checksum_address(session.account),
                session.account_kind,
                str(session.chain_id),
                "yes" if session.restricted else "NO",
                utc(session.expires_s) if session.expires_s else "never",
                "yes" if session.paused else "",
            )
            for session in found
        ),
        empty="no sessions: register one with `session-executor sessions import FILE`",
    )


@app.command("show")
def show_session(session: SessionArgument, as_json: JsonFlag = False) -> None:
    """A session's actions and policies, and what of its limits is spent and reserved."""
    from worker.cli.guardrails import guardrails_json, print_guardrails
    from worker.execution.prepare import ENABLE_POLICY

    services = runtime()
    found = find_session(services, session)
    budgets = services.ledger.budgets(found.session_id)
    usage = services.ledger.usage(found.session_id, now_ms=services.now_ms())
    enabled, word = chain_word(services, found)
    if as_json:
        actions = [
            action.model_dump(mode="json", by_alias=True, exclude_none=True) for action in found.actions
        ]
        print_json(
            {
                **_summary(found),
                "enabled_on_chain": enabled,
                "attention": word,
                "accepted_risks": [asdict(risk) for risk in found.accepted],
                "actions": actions,
                "budgets": [_budget(budget) for budget in budgets],
                **{
                    name: value
                    for name, value in guardrails_json(found, usage).items()
                    if name != "session_id"
                },
            }
        )
        return
    fine = "enabled" if enabled else "not enabled yet; the first intent carries the approval"
    for name, value in {
        "session": found.session_id,
        "account": f"{to_checksum_address(found.account)} ({found.account_kind})",
        "keys": ", ".join(to_checksum_address(owner) for owner in found.owners),
        "permission": "0x" + found.permission_id.hex(),
        "ends": f"{utc(found.expires_s)} (time left: {time_left(found.expires_s, services.now_s)})"
        if found.expires_s
        else "never",
        "restricted": "yes" if found.restricted else f"NO: {_UNRESTRICTED}",
        "on chain": word or fine,
        "paused": "yes" if found.paused else "no",
    }.items():
        print_line(f"{name:11} {value}")
    for risk in found.accepted:
        print_line(f"{'accepted':11} {risk.code}, by {risk.who} at {utc(risk.at_ms / 1000)}: {risk.words}")
    from worker.execution.tokens import amount_format

    write = amount_format(found.chain_id)
    print_table(
        ("target", "function", "policies"),
        (
            (
                "any other" if action.target is None else to_checksum_address(action.target),
                "any other" if action.selector is None else _function(action.selector),
                # no list is the SDK's [sudo], an empty one leaves the call to the fallback
                "sudo: anything goes"
                if action.policies is None
                else "\n".join(_policy(policy, write) for policy in action.policies) or "none",
            )
            for action in found.actions
        ),
        empty="no actions: the key may do anything",
    )
    print_table(
        ("action", "limit", "used", "allowed", "spent", "reserved", "left"),
        (_budget_row(found, budget, write) for budget in budgets if budget.policy != ENABLE_POLICY),
        empty="nothing is spent or reserved yet",
    )
    print_guardrails(found, usage)


@app.command("enable")
def enable_session(session: SessionArgument, as_json: JsonFlag = False) -> None:
    """Print the transaction that enables a session now; anyone may send it. Without it the first intent enables it."""
    from worker.execution.errors import SessionUnusableError
    from worker.sessions.enabling import enable_call

    services = runtime()
    found = find_session(services, session)
    state = _chain_state(services, found)
    if state.enabled:
        if as_json:
            print_json({"enabled": True})
        else:
            print_line("the session is enabled already")
        return
    to, data = enable_call(found)
    if state.nonce != found.enable_nonce:
        raise SessionUnusableError(
            f"the approval is for enable nonce {found.enable_nonce} and the account is at {state.nonce}: the transaction "
            "would revert",
            field="session",
            fix="ask the user for a new approval and import it with --renew",
        )
    call = {
        "chain_id": found.chain_id,
        "to": to_checksum_address(to),
        "value": "0",
        "data": "0x" + data.hex(),
    }
    if as_json:
        print_json({"enabled": False, "transaction": call})
        return
    for name, value in call.items():
        print_line(f"{name:9} {value}")


@app.command("revoke")
def revoke_session(session: SessionArgument, as_json: JsonFlag = False) -> None:
    """Print the call that ends a session on chain for good. Only the account itself may make it: its owner signs.

    Approvals of the account that are not used yet end with it. `pause` stops this program at once, until then.
    """
    from worker.execution.prepare import read_enable_nonce
    from worker.sessions.enabling import revoke_call

    services = runtime()
    found = find_session(services, session)
    enabled = _chain_state(services, found).enabled
    made = revoke_call(found, nonce=read_enable_nonce(services, found.account))
    call = {
        "chain_id": found.chain_id,
        "from": to_checksum_address(found.account),
        "to": to_checksum_address(made.to),
        "value": str(made.value),
        "data": "0x" + made.data.hex(),
    }
    if not enabled:
        note("warning: the session is not enabled; this call only ends the approvals that are not used yet")
    if not found.restricted:
        note("warning: it ends every unrestricted session of the same keys, which are one on chain")
    if as_json:
        print_json({"enabled": enabled, "call": call})
        return
    for name, value in call.items():
        print_line(f"{name:9} {value}")
    note("it works until the account enables or revokes something else on this chain; then print it again")


@app.command()
def pause(session: SessionArgument) -> None:
    """Stop a session: what is not signed yet is refused."""
    _set_paused(session, paused=True)


@app.command()
def resume(session: SessionArgument) -> None:
    """Let a session go on."""
    _set_paused(session, paused=False)


def _set_paused(name: str, *, paused: bool) -> None:
    services = runtime()
    found = find_session(services, name)
    with change(
        services,
        "session paused" if paused else "session resumed",
        stops=paused,
        session_id=found.session_id,
        before=_word(found.paused),
        after=_word(paused),
    ):
        services.sessions.set_paused(found.session_id, paused=paused)
    print_line(f"{found.session_id} {'is paused' if paused else 'goes on'}")


def _word(paused: bool) -> str:
    return "paused" if paused else "not paused"


def _approval_sha256(services: Runtime, session_id: str) -> str:
    """SHA-256 of the session's file as it is registered; what stands in its place where there is none."""
    from worker.sessions.errors import SessionCorruptError, SessionNotFoundError

    try:
        return hashlib.sha256(services.sessions.get(session_id).file.text().encode()).hexdigest()
    except SessionNotFoundError:
        return "not registered"
    except SessionCorruptError:
        return "damaged"


def read_file(file: str) -> bytes:
    """A session file's content; ``-`` is standard input.

    Raises:
        InputError: it cannot be read, or is too large to be one.
    """
    try:
        if file == "-":
            content = sys.stdin.buffer.read(_MAX_FILE + 1) if sys.stdin else b""
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(_MAX_FILE + 1)
    except OSError as error:
        raise InputError(
            f"{file} cannot be read ({error.strerror or type(error).__name__})",
            field="FILE",
            fix="check the path and its permissions",
        ) from None
    if len(content) > _MAX_FILE:
        raise InputError(f"is larger than {_MAX_FILE} bytes", field="FILE", fix="give a session file")
    return content


def _read_nonce(services: Runtime, file: AnySessionFile) -> int | None:
    """The account's enable nonce, for a file that names none; None when the chain cannot be asked.

    Raises:
        WrongChainError: the endpoint serves another chain.
    """
    from worker.chain.errors import WrongChainError
    from worker.execution.prepare import read_enable_nonce

    if file.nonce is not None or file.chain not in services.chain_ids:
        return None
    try:
        return read_enable_nonce(services, file.account.address, file.chain)
    except WrongChainError:
        raise
    except ServiceError:
        return None  # `chain_word` says so


def _chain_state(services: Runtime, session: RegisteredSession) -> ChainState:
    """What the emissary says, asked once: an operator can repeat a command. Our own clock stands for the chain's.

    Raises:
        WrongChainError, ChainError, EmissaryReplyError
    """
    from worker.execution.prepare import ChainState
    from worker.sessions import emissary
    from worker.signing.contracts import SMART_SESSION_EMISSARY

    def ask(data: bytes) -> bytes:
        return services.chain_of(session.chain_id).call(SMART_SESSION_EMISSARY, data)

    enabled = emissary.decode_is_permission_enabled(
        ask(emissary.is_permission_enabled_call(session.account, session.permission_id))
    )
    nonce = None if enabled else emissary.decode_nonce(ask(emissary.get_nonce_call(session.account)))
    return ChainState(enabled, nonce, services.now_s)


def chain_word(services: Runtime, session: RegisteredSession) -> tuple[bool | None, str]:
    """Whether the session is enabled (None: not known), and what stands against using it now (``""``: nothing).

    Raises:
        WrongChainError: the endpoint serves another chain.
    """
    from worker.chain.errors import WrongChainError
    from worker.execution.errors import SessionUnusableError
    from worker.execution.prepare import must_enable

    try:
        state = _chain_state(services, session)
        must_enable(session, state)
    except WrongChainError:
        raise
    except SessionUnusableError as error:
        return False, f"it cannot be used yet: {error}"
    except ServiceError as error:
        return None, f"not compared with the chain: {error}"
    return state.enabled, ""


def _summary(session: RegisteredSession) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "account": to_checksum_address(session.account),
        "account_kind": session.account_kind,
        "chain_id": session.chain_id,
        "keys": [to_checksum_address(owner) for owner in session.owners],
        "permission_id": "0x" + session.permission_id.hex(),
        "restricted": session.restricted,
        "expires": session.expires_s or None,
        "paused": session.paused,
    }


def _budget(budget: Budget) -> dict[str, str]:
    return {
        "counter": budget.counter,
        "policy": budget.policy,
        "token": budget.token,
        "limit": str(budget.limit),
        "spent": str(budget.spent),
        "reserved": str(budget.reserved),
        "elsewhere": str(budget.elsewhere),
    }


def _budget_row(session: RegisteredSession, budget: Budget, write: AmountFormat) -> tuple[str, ...]:
    def written(amount: int) -> str:
        if budget.token:
            return write(budget.token, amount)
        return _native(amount, write) if budget.policy == "value-limit" else str(amount)

    left = max(0, budget.limit - budget.used)
    return (
        _action_of(session, budget.counter),
        budget.policy,
        bar(budget.used, budget.limit),
        written(budget.limit),
        written(budget.spent)
        + (f", {written(budget.elsewhere)} elsewhere (see `sessions sync`)" if budget.elsewhere else ""),
        written(budget.reserved),
        written(left),
    )


def _action_of(session: RegisteredSession, counter: str) -> str:
    """Words for the action whose id begins the counter's name."""
    from worker.policies.evaluate import FALLBACK_TARGET, action_id

    for target, selector in session.table.actions:
        if counter.startswith(action_id(target, selector)):
            return "any other" if target == FALLBACK_TARGET else f"{target} {_function(selector)}"
    return "-"


def _function(selector: bytes) -> str:
    return _FUNCTIONS.get(selector.hex(), "0x" + selector.hex())


def _native(amount: int, write: AmountFormat) -> str:
    """Native currency by its name where the chain's is listed, else wei."""
    from worker.policies.fields import ZERO_ADDRESS

    text = write(ZERO_ADDRESS, amount)
    return f"{amount} wei" if ZERO_ADDRESS in text else text


def _policy(policy: PolicyModel, write: AmountFormat) -> str:
    """One policy in words; those without words of their own as the file has them."""
    from worker.policies import SpendingLimits, Sudo, TimeFrame, UsageLimit, ValueLimit

    if isinstance(policy, Sudo):
        return "sudo: anything goes"
    if isinstance(policy, SpendingLimits):
        return "spending-limits: " + ", ".join(write(limit.token, limit.amount) for limit in policy.limits)
    if isinstance(policy, TimeFrame):
        start = f"from {utc(policy.valid_after_s)} " if policy.valid_after_s else ""
        return f"time-frame: {start}" + (
            f"until {utc(policy.valid_until_s)}" if policy.valid_until_s else "without end"
        )
    if isinstance(policy, UsageLimit):
        return f"usage-limit: {policy.limit} calls"
    if isinstance(policy, ValueLimit):
        return f"value-limit: {_native(policy.limit, write)}"
    return json.dumps(policy.model_dump(mode="json", by_alias=True, exclude_none=True))
