"""From a Session to what is signed and stored on chain (SDK 1.15.0, production addresses).

Sections refer to the protocol's ``sessions.md``.
"""

from __future__ import annotations

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.policies import IntentExecution, Sudo, TimeFrame, ValueLimit
from worker.policies.evaluate import (
    EMISSARY_CALL_SELECTOR,
    FALLBACK_SELECTOR,
    FALLBACK_TARGET,
    ActionPolicies,
    PolicyTable,
    build_table,
)
from worker.policies.fields import ZERO_ADDRESS
from worker.policies.policy import PolicyModel
from worker.sessions.chains import chain_of
from worker.sessions.errors import SessionError
from worker.sessions.model import Action, Session
from worker.signing.contracts import OWNABLE_VALIDATOR, SMART_SESSION_EMISSARY
from worker.signing.structs import ActionData, Erc7739Context, PolicyData, SessionData

DEPOSIT_SELECTOR = bytes.fromhex("d0e30db0")
DUMMY_TARGET = "0x" + "00" * 18 + "0420"
DUMMY_SELECTOR = bytes.fromhex("69123456")
"""The dummy pre-claim call that triggers the enable (signing.md 2)."""

_ACTIONS_ABI = "(bytes4,address,(address,bytes)[])[]"


def is_restricted(session: Session) -> bool:
    """Whether the key is confined to its actions: no fallback, no ERC-1271 messages, a salt of its own."""
    return session.restrict_to_actions


def resolve_actions(session: Session) -> tuple[ActionPolicies, ...]:
    """The final actions with their policy models, the injected ones included (section 4).

    Raises:
        SessionError: a restricted session that the SDK refuses (same words), or an unknown chain.
    """
    restricted = is_restricted(session)
    chain = chain_of(session.chain)
    if restricted:
        _check_restricted(session)
    explicit = tuple(_resolve(action) for action in session.actions)
    if not restricted and not explicit:
        return (ActionPolicies(FALLBACK_TARGET, FALLBACK_SELECTOR, (Sudo(),)),)
    injected: list[ActionPolicies] = []
    if not restricted:
        injected.append(ActionPolicies(chain.wrapped, DEPOSIT_SELECTOR, (Sudo(),)))
        if all(action.target is not None for action in session.actions):
            injected.append(ActionPolicies(FALLBACK_TARGET, FALLBACK_SELECTOR, (IntentExecution(),)))
    dummy: PolicyModel = ValueLimit(limit=1) if restricted else Sudo()
    injected.append(ActionPolicies(DUMMY_TARGET, DUMMY_SELECTOR, (dummy,)))
    return (*explicit, *injected)


def policy_table(session: Session) -> PolicyTable:
    """What the emissary stores for the session, for the evaluator.

    Raises:
        SessionError: see ``resolve_actions``.
    """
    return build_table(resolve_actions(session))


def session_data(session: Session) -> SessionData:
    """The seven-component tuple of ``setConfig`` (sections 3, 4, 5 and 7).

    Raises:
        SessionError: see ``resolve_actions``.
    """
    restricted = is_restricted(session)
    actions = tuple(
        ActionData(action.selector, action.target, tuple(_policy_data(policy) for policy in action.policies))
        for action in resolve_actions(session)
    )
    return SessionData(
        session_validator=session.owners.module or OWNABLE_VALIDATOR,
        session_validator_init_data=encode(
            ["uint256", "address[]"], [session.owners.threshold, sorted(session.owners.accounts)]
        ),
        salt=_salt(actions) if restricted else bytes(32),
        actions=actions,
        claim_policies=tuple(_policy_data(policy) for policy in session.claim_policies),
        allowed_erc7739_content=() if restricted else (Erc7739Context(bytes(32), ("",)),),
        erc1271_policies=() if restricted else (_policy_data(Sudo()),),
    )


def check_enableable(session: Session) -> None:
    """Refuse what the emissary or a policy contract would revert on when the session is enabled.

    Raises:
        SessionError: names the field.
    """
    for index, action in enumerate(session.actions):
        where = f"actions[{index}]"
        if action.target == ZERO_ADDRESS:
            raise SessionError("is the zero address, which the emissary refuses", field=f"{where}.target")
        if action.target == SMART_SESSION_EMISSARY:
            raise SessionError(
                "is the session contract, which a session may not call", field=f"{where}.target"
            )
        if action.target == FALLBACK_TARGET and action.selector == EMISSARY_CALL_SELECTOR:
            raise SessionError(
                "asks for calls to the session contract, which it refuses", field=f"{where}.selector"
            )
        for number, policy in enumerate(action.policies or ()):
            problem = policy.enable_problem()
            if problem is not None:
                field, why = problem
                raise SessionError(why, field=f"{where}.policies[{number}].{field}")


def expires_s(session: Session) -> int:
    """The latest second (unix, exclusive) at which some action of the session's own may be used.

    0 means that an action has no end. Injected actions do not count: they only serve the routes of the others.

    Raises:
        SessionError: see ``resolve_actions``.
    """
    latest = 0
    own = {(action.target, action.selector) for action in (_resolve(action) for action in session.actions)}
    table = policy_table(session)
    for key in own:
        # The table has one policy per contract, so at most one time-frame.
        end = max(
            (policy.valid_until_s for policy in table.actions[key] if isinstance(policy, TimeFrame)),
            default=0,
        )
        if not end:
            return 0
        latest = max(latest, end)
    return latest


def _check_restricted(session: Session) -> None:
    if session.claim_policies:
        raise SessionError(
            "Restricted sessions cannot use claimPolicies because their guardrails rely on the fallback action",
            field="claimPolicies",
        )
    if not session.actions:
        raise SessionError(
            "Restricted sessions require at least one explicit action or swap scope", field="actions"
        )
    seen: set[tuple[str, bytes]] = set()
    for index, action in enumerate(session.actions):
        where = f"actions[{index}]"
        if action.target is None or action.selector is None:
            raise SessionError("Restricted sessions do not allow fallback actions", field=where)
        if action.target == FALLBACK_TARGET:
            raise SessionError(
                "Restricted sessions cannot target the smart-session fallback sentinel",
                field=f"{where}.target",
            )
        key = (action.target, action.selector)
        if key in seen:
            raise SessionError(
                f"Duplicate scoped action for {action.target} 0x{action.selector.hex()}", field=where
            )
        seen.add(key)


def _resolve(action: Action) -> ActionPolicies:
    return ActionPolicies(
        target=FALLBACK_TARGET if action.target is None else action.target,
        selector=FALLBACK_SELECTOR if action.selector is None else action.selector,
        policies=(Sudo(),) if action.policies is None else action.policies,
    )


def _policy_data(policy: PolicyModel) -> PolicyData:
    return PolicyData(policy.contract(), policy.init_data())


def _salt(actions: tuple[ActionData, ...]) -> bytes:
    """``keccak(enc((bytes4,address,(address,bytes)[])[])(actions))`` over the final list, restricted sessions only."""
    value = [
        (action.selector, action.target, [(policy.policy, policy.init_data) for policy in action.policies])
        for action in actions
    ]
    return keccak(encode([_ACTIONS_ABI], [value]))
