"""From a session to what is signed and stored on chain (SDK 1.15.0, and 2.2.2 for a ``SessionV2``).

Sections refer to the protocol's ``sessions.md``. ``dev`` stands for the SDK's option ``useDevContracts``, which names
other contracts in some places; the permission id is of the production contracts all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.policies import IntentExecution, Permit2Claim, Sudo, TimeFrame, ValueLimit
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
from worker.sessions.swap import expand, quoters
from worker.sessions.v2 import SessionV2
from worker.signing.contracts import OWNABLE_VALIDATOR, SMART_SESSION_EMISSARY
from worker.signing.session_digest import permission_id
from worker.signing.structs import ActionData, Erc7739Context, PolicyData, SessionData

DEPOSIT_SELECTOR = bytes.fromhex("d0e30db0")
DUMMY_TARGET = "0x" + "00" * 18 + "0420"
DUMMY_SELECTOR = bytes.fromhex("69123456")
"""The dummy pre-claim call that triggers the enable (signing.md 2)."""

DEV_EMISSARY = "0x60731de80d78548875f8a67c4fec2a8660194e0c"
"""The emissary of ``useDevContracts``."""

_ACTIONS_ABI = "(bytes4,address,(address,bytes)[])[]"

AnySession = Session | SessionV2

_Encoder = Callable[[PolicyModel], PolicyData]


def is_restricted(session: AnySession) -> bool:
    """Whether the key is confined to its actions: no fallback, no ERC-1271 messages, a salt of its own.

    A swap scope confines it, too; sessions of 2.x never are.
    """
    return isinstance(session, Session) and (session.restrict_to_actions or session.swap is not None)


def has_actions(session: AnySession) -> bool:
    """Whether the user named the calls that are allowed; without, the SDK's default is to sign as the account."""
    return bool(session.permissions if isinstance(session, SessionV2) else session.actions or session.swap)


def explicit_actions(session: AnySession, *, dev: bool = False) -> tuple[Action, ...]:
    """The session's own actions, without the injected ones: listed, or compiled from a swap scope or permissions.

    Raises:
        SessionError: a swap scope or permission that the SDK refuses (same words).
    """
    if isinstance(session, SessionV2):
        return session.actions
    swap = () if session.swap is None else expand(session.swap, session.chain, dev=dev)
    return (*session.actions, *swap)


def labelled_actions(session: AnySession) -> tuple[tuple[str, Action], ...]:
    """What the user granted, each with its field in the session file; a swap scope's calls have no field of their own.

    Raises:
        SessionError: see ``explicit_actions``.
    """
    if isinstance(session, SessionV2):
        return session.labelled_actions()
    return tuple((f"actions[{index}]", action) for index, action in enumerate(session.actions))


def granted_actions(session: AnySession) -> tuple[Action, ...]:
    """What the user granted, a swap scope's calls and what cross-chain permits put on the fallback included.

    Raises:
        SessionError: see ``explicit_actions``.
    """
    if isinstance(session, SessionV2):
        return tuple(action for _, action in session.labelled_actions())
    return explicit_actions(session)


def pinned_quoters(session: AnySession) -> tuple[str, ...] | None:
    """``options.quoters.include`` of the session's route requests; None leaves ``quoters`` out (orchestrator.md 3)."""
    return quoters(session.swap) if isinstance(session, Session) else None


def resolve_actions(session: AnySession, *, dev: bool = False) -> tuple[ActionPolicies, ...]:
    """The final actions with their policy models, the injected ones included (sections 4 and 12).

    Raises:
        SessionError: a session that the SDK refuses (same words), or an unknown chain.
    """
    actions = explicit_actions(session, dev=dev)
    explicit = tuple(_resolve(action) for action in actions)
    if isinstance(session, SessionV2):
        return _resolve_v2(session, explicit)
    restricted = is_restricted(session)
    chain = chain_of(session.chain)
    if restricted:
        _check_restricted(session, actions)
    if not restricted and not explicit:
        return (ActionPolicies(FALLBACK_TARGET, FALLBACK_SELECTOR, (Sudo(),)),)
    injected: list[ActionPolicies] = []
    if not restricted:
        injected.append(ActionPolicies(chain.wrapped, DEPOSIT_SELECTOR, (Sudo(),)))
        if all(action.target is not None for action in actions):
            injected.append(ActionPolicies(FALLBACK_TARGET, FALLBACK_SELECTOR, (IntentExecution(),)))
    dummy: PolicyModel = ValueLimit(limit=1) if restricted else Sudo()
    injected.append(ActionPolicies(DUMMY_TARGET, DUMMY_SELECTOR, (dummy,)))
    return (*explicit, *injected)


def policy_table(session: AnySession) -> PolicyTable:
    """What the production emissary stores for the session, for the evaluator.

    Raises:
        SessionError: see ``resolve_actions``.
    """
    actions = resolve_actions(session)
    newest = isinstance(session, SessionV2) and all(
        session.contract(policy) == policy.v2_address for action in actions for policy in action.policies
    )
    return build_table(actions, newest=newest)


def claim_policies(session: AnySession, *, dev: bool = False) -> tuple[Permit2Claim, ...]:
    """The claim policies: listed, or compiled from a 2.x session's cross-chain permits.

    Raises:
        SessionError: a permit that the SDK refuses (same words).
    """
    return session.claims(dev=dev) if isinstance(session, SessionV2) else session.claim_policies


def session_data(session: AnySession, *, dev: bool = False) -> SessionData:
    """The seven-component tuple of ``setConfig`` (sections 3, 4, 5 and 7).

    Raises:
        SessionError: see ``resolve_actions``.
    """
    restricted = is_restricted(session)
    encoded = _v2_encoder(session, dev=dev) if isinstance(session, SessionV2) else _encoder(dev=dev)
    actions = _action_data(resolve_actions(session, dev=dev), encoded)
    salt = bytes(32)
    if restricted:
        # The id of a swap session must not depend on which Swapper it names.
        production = dev and isinstance(session, Session) and session.swap is not None
        salt = _salt(_action_data(resolve_actions(session), _encoder()) if production else actions)
    return SessionData(
        session_validator=session.owners.module or OWNABLE_VALIDATOR,
        session_validator_init_data=encode(
            ["uint256", "address[]"], [session.owners.threshold, sorted(session.owners.accounts)]
        ),
        salt=salt,
        actions=actions,
        claim_policies=tuple(encoded(policy) for policy in claim_policies(session, dev=dev)),
        allowed_erc7739_content=() if restricted else (Erc7739Context(bytes(32), ("",)),),
        erc1271_policies=() if restricted else (encoded(Sudo()),),
    )


def permission_id_of(session: AnySession) -> bytes:
    """The session's permission id, 32 bytes: of the production contracts, with ``useDevContracts`` too.

    Raises:
        SessionError: see ``resolve_actions``.
    """
    return permission_id(session_data(session))


def check_enableable(session: AnySession) -> None:
    """Refuse what the emissary or a policy contract would revert on when the session is enabled.

    Raises:
        SessionError: names the field.
    """
    if isinstance(session, SessionV2):
        session.check_known()
    else:
        _check_swap(session)
    for where, action in labelled_actions(session):
        try:
            _check_action(where, action)
        except SessionError as error:
            if where.startswith("actions["):
                raise
            # Permissions hold no policies: what they stand for is said in the message.
            detail = error.field.removeprefix(f"{where}.")
            raise SessionError(f"{detail} {error.message}", field=where, fix=error.fix) from None


def _check_action(where: str, action: Action) -> None:
    if action.target == ZERO_ADDRESS:
        raise SessionError("is the zero address, which the emissary refuses", field=f"{where}.target")
    if action.target == SMART_SESSION_EMISSARY:
        raise SessionError("is the session contract, which a session may not call", field=f"{where}.target")
    if action.target == FALLBACK_TARGET and action.selector == EMISSARY_CALL_SELECTOR:
        raise SessionError(
            "asks for calls to the session contract, which it refuses", field=f"{where}.selector"
        )
    for number, policy in enumerate(action.policies or ()):
        problem = policy.enable_problem()
        if problem is not None:
            field, why = problem
            raise SessionError(why, field=f"{where}.policies[{number}].{field}")


def _check_swap(session: Session) -> None:
    if session.swap is None:
        return
    if session.swap.sell.token == ZERO_ADDRESS:
        raise SessionError(
            "is the zero address; sell the wrapped native token instead", field="swap.sell.token"
        )
    if session.swap.sell.token == SMART_SESSION_EMISSARY:
        raise SessionError("is the session contract, which a session may not call", field="swap.sell.token")
    if session.swap.sell.max_total == 0:
        raise SessionError("a spending limit of 0 cannot be enabled", field="swap.sell.maxTotal")


def expires_s(session: AnySession) -> int:
    """The latest second (unix, exclusive) at which some action of the session's own may be used.

    0 means that an action has no end. Injected actions do not count: they only serve the routes of the others.

    Raises:
        SessionError: see ``resolve_actions``.
    """
    latest = 0
    own = {(action.target, action.selector) for action in map(_resolve, granted_actions(session))}
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


def _check_restricted(session: Session, actions: tuple[Action, ...]) -> None:
    if session.claim_policies:
        raise SessionError(
            "Restricted sessions cannot use claimPolicies because their guardrails rely on the fallback action",
            field="claimPolicies",
        )
    if not actions:
        raise SessionError(
            "Restricted sessions require at least one explicit action or swap scope", field="actions"
        )
    seen: set[tuple[str, bytes]] = set()
    for index, action in enumerate(actions):
        listed = index < len(session.actions)
        where = f"actions[{index}]" if listed else "swap"
        if action.target is None or action.selector is None:
            raise SessionError("Restricted sessions do not allow fallback actions", field=where)
        if action.target == FALLBACK_TARGET:
            raise SessionError(
                "Restricted sessions cannot target the smart-session fallback sentinel",
                field=f"{where}.target" if listed else "swap.sell.token",
            )
        key = (action.target, action.selector)
        if key in seen:
            raise SessionError(
                f"Duplicate scoped action for {action.target} 0x{action.selector.hex()}", field=where
            )
        seen.add(key)


def _resolve_v2(session: SessionV2, explicit: tuple[ActionPolicies, ...]) -> tuple[ActionPolicies, ...]:
    """Section 12: cross-chain limits and windows are put on the fallback, next to intent-execution."""
    fallback = session.fallback_policies()
    if not explicit and not fallback:
        return (ActionPolicies(FALLBACK_TARGET, FALLBACK_SELECTOR, (Sudo(),)),)
    wrapped = session.wrapped_native_token
    deposit = () if wrapped is None else (ActionPolicies(wrapped, DEPOSIT_SELECTOR, (Sudo(),)),)
    return (
        *explicit,
        *deposit,
        ActionPolicies(FALLBACK_TARGET, FALLBACK_SELECTOR, (IntentExecution(), *fallback)),
        ActionPolicies(DUMMY_TARGET, DUMMY_SELECTOR, (Sudo(),)),
    )


def _resolve(action: Action) -> ActionPolicies:
    return ActionPolicies(
        target=FALLBACK_TARGET if action.target is None else action.target,
        selector=FALLBACK_SELECTOR if action.selector is None else action.selector,
        policies=(Sudo(),) if action.policies is None else action.policies,
    )


def _encoder(*, dev: bool = False) -> _Encoder:
    return lambda policy: PolicyData(policy.contract(dev=dev), policy.init_data())


def _v2_encoder(session: SessionV2, *, dev: bool) -> _Encoder:
    return lambda policy: PolicyData(session.contract(policy, dev=dev), policy.v2_init_data())


def _action_data(actions: tuple[ActionPolicies, ...], encoded: _Encoder) -> tuple[ActionData, ...]:
    return tuple(
        ActionData(action.selector, action.target, tuple(encoded(policy) for policy in action.policies))
        for action in actions
    )


def _salt(actions: tuple[ActionData, ...]) -> bytes:
    """``keccak(enc((bytes4,address,(address,bytes)[])[])(actions))`` over the final list, restricted sessions only."""
    value = [
        (action.selector, action.target, [(policy.policy, policy.init_data) for policy in action.policies])
        for action in actions
    ]
    return keccak(encode([_ACTIONS_ABI], [value]))
