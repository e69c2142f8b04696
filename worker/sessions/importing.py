"""From a session file to a session that may be used: everything is computed again, nothing is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import NoReturn

from eth_abi.exceptions import EncodingError

from worker.policies.evaluate import PolicyTable
from worker.policies.guardrails import SESSION_SCOPE, STRATEGY_SCOPE, ScopeRules
from worker.policies.permit2_claim import Permit2Claim
from worker.sessions.accounts import deployed_by
from worker.sessions.chains import chain_of
from worker.sessions.encoding import (
    AnySession,
    check_enableable,
    claim_policies,
    expires_s,
    granted_actions,
    has_actions,
    is_restricted,
    labelled_actions,
    pinned_quoters,
    policy_table,
    session_data,
)
from worker.sessions.errors import SessionError, SessionFileError
from worker.sessions.file import AnySessionFile, SessionFile
from worker.sessions.model import Action, EcdsaOwners
from worker.signing.contracts import OWNABLE_VALIDATOR, ZERO_ADDRESS
from worker.signing.enable import verify_owner_enable_signature
from worker.signing.errors import SigningInputError
from worker.signing.session_digest import multi_chain_digest, permission_id, session_digest
from worker.signing.structs import AccountKind, EnableData, SessionData

NONCES_TRIED = 256
"""How many enable nonces are tried for an approval that names none. An account's nonce counts its enables and removals
on one chain, so a larger one is rare; trying takes some 50 ms once, at import."""

_APPROVE_AGAIN = "have the user approve it again and export the file anew"
_LAST_PRINTABLE_S = 253_402_300_799  # 9999-12-31T23:59:59Z


@dataclass(frozen=True, slots=True)
class AcceptedRisk:
    """A finding in spite of which a session was imported.

    Attributes:
        code: the finding's, see ``worker/sessions/privilege.py``.
        who: the operator.
        at_ms: unix milliseconds.
        words: what the finding said then.
    """

    code: str
    who: str
    at_ms: int
    words: str


@lru_cache(maxsize=256)  # to make one is to check one; most sessions have none
def _no_rules(scope: str) -> ScopeRules:
    return ScopeRules(scope)


@dataclass(frozen=True, slots=True)
class RegisteredSession:
    """A session whose file holds together, with all that the pipeline needs of it.

    Attributes:
        session_id: ``ses_`` and 16 hex digits.
        account: the smart account, lower-case.
        account_kind: decides how signatures are packed.
        setup_ops: ``(to, calldata)`` of the calls that deploy the account, in order.
        chain_id: the one chain that it is for.
        session: the SDK's session.
        data: what the emissary stores.
        permission_id: its name there, 32 bytes. Unrestricted sessions of the same keys share it.
        table: the policies of each action, for the evaluator.
        restricted: whether the keys are confined to the actions.
        verify_executions: whether the emissary checks each call; else the keys sign as the account (ERC-1271).
        quoters: ``options.quoters.include`` of its route requests; None leaves ``quoters`` out.
        enable_data: the user's approval; None when a transaction enabled the session.
        enable_nonce: the emissary's nonce that the approval names; the approval is dead once the chain's differs.
        owners: the session keys' addresses in the order in which their signatures are concatenated.
        threshold: how many the validator needs; the SDK has all of them sign.
        expires_s: unix second at which the last of its actions ends, exclusive; 0 if one never ends.
        file: the file that it came from, completed with what was computed.
        paused: whether an operator has stopped it.
        rules: scope -> guardrails of our own, of the session itself and of strategies that trade with it.
        accepted: the risks that an operator has accepted, by code.
    """

    session_id: str
    account: str
    account_kind: AccountKind
    setup_ops: tuple[tuple[str, bytes], ...] = field(repr=False)
    chain_id: int
    session: AnySession = field(repr=False)
    data: SessionData = field(repr=False)
    permission_id: bytes
    table: PolicyTable = field(repr=False)
    restricted: bool
    verify_executions: bool
    enable_data: EnableData | None = field(repr=False)
    enable_nonce: int | None
    owners: tuple[str, ...]
    threshold: int
    expires_s: int
    file: AnySessionFile = field(repr=False)
    quoters: tuple[str, ...] | None = None
    paused: bool = False
    rules: Mapping[str, ScopeRules] = field(default_factory=dict[str, ScopeRules], repr=False)
    accepted: tuple[AcceptedRisk, ...] = field(default=(), repr=False)

    def rules_of(self, source: str) -> tuple[ScopeRules, ...]:
        """The guardrails that hold for an intent: the session's, and its strategy's if it comes from one.

        Args:
            source: the intent's ``source``.
        """
        scopes = [SESSION_SCOPE, *([source] if source.startswith(STRATEGY_SCOPE) else [])]
        return tuple(self.rules.get(scope) or _no_rules(scope) for scope in scopes)

    @property
    def actions(self) -> tuple[Action, ...]:
        """What the user granted, compiled from a swap scope or permissions where there are; () may do everything."""
        return granted_actions(self.session)

    @property
    def claim_policies(self) -> tuple[Permit2Claim, ...]:
        """What a Permit2 claim of it may look like; () for whatever it likes."""
        return claim_policies(self.session)

    def fingerprint(self) -> bytes:
        """32 bytes that cover the account and all that the emissary stores, but neither chain nor approval."""
        return session_digest(self.account, self.data, 0)


def session_id(chain_id: int, account: str, permission: bytes) -> str:
    """The id of a session: ``ses_`` and the first 16 hex digits of ``sha256(chain, account, permission id)``.

    Args:
        chain_id: the chain.
        account: the smart account, lower-case.
        permission: the permission id, 32 bytes.
    """
    name = f"{chain_id}\n{account}\n0x{permission.hex()}"
    return "ses_" + hashlib.sha256(name.encode()).hexdigest()[:16]


def verify(
    file: AnySessionFile,
    *,
    our_keys: Collection[str],
    chain_id: int | Collection[int],
    now_s: int,
    nonce: int | None = None,
) -> RegisteredSession:
    """Decide whether a session file can be registered.

    Args:
        file: the parsed file.
        our_keys: addresses of the keys that we hold, in any case.
        chain_id: the chain that this program serves, or several.
        now_s: unix seconds.
        nonce: the account's enable nonce as read from the chain, tried first for a file that names none.

    Raises:
        SessionError: names the field that doesn't fit. ``SessionFileError`` when it contradicts the rest of the file.
    """
    served = (chain_id,) if isinstance(chain_id, int) else chain_id
    if file.chain not in served:
        raise SessionFileError(
            f"is {_chain(file.chain)}, but this program serves {', '.join(map(_chain, served))}",
            field="chain",
            fix="import it where that chain is served, or set SESSION_EXECUTOR_CHAIN_ID; for trades over several chains "
            "add it to SESSION_EXECUTOR_SOURCE_RPC_URLS",
        )
    registered = recompute(file, nonce=nonce)
    held = {address.lower() for address in our_keys}
    for index, owner in enumerate(registered.owners):
        if owner not in held:
            raise SessionFileError(
                f"{owner} is not the address of a key of ours, and all session owners must sign",
                field=f"owners.accounts[{index}]",
                fix="create the key with `session-executor keys create` and have the user approve its address",
            )
    if registered.expires_s and now_s >= registered.expires_s:
        raise SessionFileError(
            f"the session expired at {_utc(registered.expires_s)}; it is {_utc(now_s)}",
            field=_end_field(registered),
            fix="have the user approve a new session",
        )
    return registered


def recompute(file: AnySessionFile, *, nonce: int | None = None) -> RegisteredSession:
    """Compute a session from its file and hold the file's own claims against it: ids, digests, the approval.

    Args:
        file: the parsed file.
        nonce: as in ``verify``.

    Raises:
        SessionError: names the field that doesn't fit.
    """
    session = file.session()
    if file.use_dev_contracts:
        raise SessionFileError(
            "is true, and this program signs for the production contracts only",
            field="useDevContracts",
            fix="have the user approve a session without useDevContracts",
        )
    _check_owners(file)
    _check_setup_ops(file)
    try:
        data = session_data(session)
        table = policy_table(session)
        permission = permission_id(data)
    except (SigningInputError, EncodingError) as error:
        raise SessionFileError(f"cannot be encoded: {error}", field="session file") from None
    check_enableable(session)
    _same(file.permission_id, permission, "permissionId")
    enable = file.enable()
    enable_nonce = _check_digests(file, data, enable, nonce)
    if enable is not None:
        _check_approval(file, enable)
    restricted = is_restricted(session)
    # The SDK's rule (signing.md 2): the option counts for unrestricted sessions only; 2.x has none.
    option = file.verify_executions if isinstance(file, SessionFile) else None
    verify_executions = restricted or (has_actions(session) if option is None else option)
    # What the exporter may leave out is filled in, so that equal sessions have equal files.
    completed: dict[str, object] = {
        "use_dev_contracts": None,
        "nonce": enable_nonce,
        "permission_id": permission,
        "session_digest": None
        if enable_nonce is None
        else session_digest(file.account.address, data, enable_nonce),
        "multi_chain_session_digest": None
        if enable is None
        else multi_chain_digest(enable.hashes_and_chain_ids),
    }
    if isinstance(file, SessionFile):
        completed |= {"sdk": "1.15.0", "verify_executions": verify_executions}
    return RegisteredSession(
        session_id=session_id(session.chain, file.account.address, permission),
        account=file.account.address,
        account_kind=file.account.kind,
        setup_ops=tuple((op.to, op.data) for op in file.account.setup_ops),
        chain_id=session.chain,
        session=session,
        data=data,
        permission_id=permission,
        table=table,
        restricted=restricted,
        verify_executions=verify_executions,
        enable_data=enable,
        enable_nonce=enable_nonce,
        owners=session.owners.accounts,
        threshold=session.owners.threshold,
        expires_s=expires_s(session),
        file=file.model_copy(update=completed),
        quoters=pinned_quoters(session),
    )


def _check_owners(file: AnySessionFile) -> None:
    if file.owners.module not in {None, OWNABLE_VALIDATOR}:
        raise SessionFileError(
            f"{file.owners.module} is not the Ownable validator, and how others want signatures is not known",
            field="owners.module",
            fix=f"leave it out, or use {OWNABLE_VALIDATOR}",
        )
    account_owners = file.account.owners.accounts if file.account.owners else ()
    for index, owner in enumerate(file.owners.accounts):
        if owner in account_owners or owner == file.account.address:
            raise SessionFileError(
                f"{owner} owns the account, which no session limits; a session key must be a key of its own",
                field=f"owners.accounts[{index}]",
                fix="create one with `session-executor keys create` and have the user approve its address",
            )


def _check_setup_ops(file: AnySessionFile) -> None:
    """Whoever deploys what the file names must deploy its account.

    Calls of factories that we do not know are let pass: the SDK takes any for an account that it did not make, and none
    of them is the account's own call.
    """
    for index, op in enumerate(file.account.setup_ops):
        deployed = deployed_by(op.to, op.data)
        if deployed not in {None, file.account.address}:
            raise SessionFileError(
                f"deploys {deployed}, not the account {file.account.address}",
                field=f"account.setupOps[{index}]",
                fix="export the file anew from the account that approved it",
            )


def _check_digests(
    file: AnySessionFile, data: SessionData, enable: EnableData | None, read_nonce: int | None
) -> int | None:
    """Hold the digests against the session; returns the nonce that they name, None if there is none.

    The session digest covers the nonce, so only the right nonce gives it: one found by trying is as sure as one given.
    """
    claims: list[tuple[str, bytes]] = []
    if enable is not None:
        index = enable.session_to_enable_index
        if index >= len(enable.hashes_and_chain_ids):
            raise SessionFileError(
                f"is {index}, but hashesAndChainIds has {len(enable.hashes_and_chain_ids)} entries (from 0)",
                field="enableData.sessionToEnableIndex",
                fix="give the place of this session's chain",
            )
        entry = enable.hashes_and_chain_ids[index]
        if entry.chain_id != file.chain:
            raise SessionFileError(
                f"is {entry.chain_id}, but the session is for chain {file.chain}",
                field=f"enableData.hashesAndChainIds[{index}].chainId",
                fix="let sessionToEnableIndex point to the entry of this session's chain",
            )
        claims.append((f"enableData.hashesAndChainIds[{index}].sessionDigest", entry.session_digest))
    if file.session_digest is not None:
        claims.append(("sessionDigest", file.session_digest))
    if not claims:
        return file.nonce
    where, claimed = claims[0]
    candidates = _candidates(file.nonce, read_nonce)
    found = next(
        (nonce for nonce in candidates if session_digest(file.account.address, data, nonce) == claimed), None
    )
    if found is None:
        which = f"for nonce {file.nonce}" if file.nonce is not None else "for any nonce that was tried"
        raise SessionFileError(
            f"is not the digest of this session {which}: the account, the owners, the actions, their policies or the "
            "nonce are not those that were approved",
            field=where,
            fix=_APPROVE_AGAIN if file.nonce is not None else f"add nonce, or {_APPROVE_AGAIN}",
        )
    for name, other in claims[1:]:
        _same(other, claimed, name)
    return found


def _candidates(given: int | None, read: int | None) -> Iterable[int]:
    if given is not None:
        return (given,)
    return range(NONCES_TRIED) if read is None else (read, *range(NONCES_TRIED))


def _check_approval(file: AnySessionFile, enable: EnableData) -> None:
    digest = multi_chain_digest(enable.hashes_and_chain_ids)
    _same(file.multi_chain_session_digest, digest, "multiChainSessionDigest")
    owners = file.account.owners
    if owners is None:
        raise SessionFileError(
            "is missing, and the approval in enableData cannot be checked without it",
            field="account.owners",
            fix='add the account\'s owners, such as {"accounts": ["0x…"], "threshold": 1}',
        )
    validator = owners.module or OWNABLE_VALIDATOR
    try:
        verify_owner_enable_signature(
            file.account.kind,
            file.account.address,
            digest,
            enable.user_signature,
            owners.accounts,
            threshold=owners.threshold,
            validator=validator,
            default_validator=_default_validator(file.account.kind, validator, enable.user_signature),
        )
    except SigningInputError as error:
        _refuse_approval(error, owners)


def _default_validator(kind: AccountKind, validator: str, signature: bytes) -> str:
    """Nexus versions have different default validators, and only the default is packed as zeros.

    The file does not tell the version, the signature's first 20 bytes do: a signature that names the validator comes
    from an account with another default. The chain has the last word when the session is enabled.
    """
    named = kind == "nexus" and signature[:20] == bytes.fromhex(validator[2:])
    return ZERO_ADDRESS if named else OWNABLE_VALIDATOR


def _refuse_approval(error: SigningInputError, owners: EcdsaOwners) -> NoReturn:
    if error.field == "validator":
        where = "account.owners.module"
    elif error.field == "threshold":
        where = "account.owners.threshold"
    else:
        where = "enableData.userSignature"
    raise SessionFileError(
        error.message,
        field=where,
        fix=error.fix or f"{_APPROVE_AGAIN}; it must be signed by {', '.join(owners.accounts)}",
    ) from None


def _same(claimed: bytes | None, computed: bytes, where: str) -> None:
    if claimed is not None and claimed != computed:
        raise SessionFileError(
            f"is 0x{claimed.hex()}, but this session gives 0x{computed.hex()}",
            field=where,
            fix="the session was changed after it was exported, or another SDK version made it; export it again",
        )


def _end_field(registered: RegisteredSession) -> str:
    """The time-frame with the latest end."""
    for where, action in labelled_actions(registered.session):
        for number, policy in enumerate(action.policies or ()):
            if getattr(policy, "valid_until_s", 0) == registered.expires_s:
                listed = where.startswith("actions[")
                return f"{where}.policies[{number}].validUntil" if listed else f"{where}.validUntil"
    return "actions"


def _chain(chain_id: int) -> str:
    try:
        return f"{chain_id} ({chain_of(chain_id).name})"
    except SessionError:
        return str(chain_id)


def _utc(seconds: int) -> str:
    if seconds > _LAST_PRINTABLE_S:
        return f"unix second {seconds}"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
