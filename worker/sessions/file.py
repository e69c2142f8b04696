"""The session file: what a frontend exports after the user's approval.

JSON with the field names of the SDK's objects: 1.15's, or those of 2.2.2 when the field ``sdk`` says so. Integers are decimal strings (numbers up to 2**53-1 are taken, too),
byte strings 0x hex, times milliseconds. The shapes are also ``docs/session-file.schema.json``; what a schema cannot
say (checksums, digests, the signature) is checked here and in ``importing.py``.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeGuard, cast

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from worker.policies import (
    ArgPolicy,
    IntentExecution,
    Permit2Claim,
    SpendingLimits,
    Sudo,
    TimeFrame,
    TokenLimit,
    UniversalAction,
    UsageLimit,
    ValueLimit,
)
from worker.policies.fields import Address, HexBytes, Milliseconds, Selector, Uint256
from worker.policies.policy import PolicyModel, StrictModel
from worker.sessions import strict_json
from worker.sessions.errors import SessionFileError
from worker.sessions.model import Action, Bytes32, ChainId, Owners, Session, SwapScope, Uint8
from worker.sessions.problems import FILE_FIX, first_problem
from worker.sessions.v2 import CrossChainPermit, Permission, Permit2ClaimV2, PolicyAddresses, SessionV2
from worker.signing.structs import AccountKind, EnableData, HashAndChainId

MAX_CHAINS = 255
"""``chainDigestIndex`` is a uint8."""


class SetupOp(StrictModel):
    """A call that deploys or prepares the account, as the SDK sends it with each intent."""

    to: Address
    data: HexBytes


class AccountOfFile(StrictModel):
    """The smart account.

    Attributes:
        address: its address.
        kind: decides how signatures are packed; ``type`` in the SDK's account config.
        setup_ops: the calls that deploy it, in order; empty for one that is deployed.
        owners: who can approve a session: the account's own owners with their threshold. Needed to check an approval.
    """

    address: Address
    kind: AccountKind
    setup_ops: Annotated[tuple[SetupOp, ...], Field(strict=False)] = ()
    owners: Owners | None = None


class ChainDigest(StrictModel):
    """A session's digest on one chain."""

    chain_id: ChainId
    session_digest: Bytes32


class EnableDataOfFile(StrictModel):
    """The user's approval: the SDK's ``SessionEnableData``."""

    user_signature: HexBytes
    hashes_and_chain_ids: Annotated[
        tuple[ChainDigest, ...], Field(strict=False, min_length=1, max_length=MAX_CHAINS)
    ]
    session_to_enable_index: Uint8


class TutorialSpendingLimit(StrictModel):
    """The tutorial's spelling of spending-limits with one token, the action's target. Base units."""

    type: Literal["spending-limit"]
    limit: Uint256


class TutorialTimeFrame(StrictModel):
    """time-frame whose start may be left out, which means no start. Milliseconds."""

    type: Literal["time-frame"]
    valid_until: Milliseconds
    valid_after: Milliseconds = 0


PolicyOfFile = Annotated[
    Sudo
    | UniversalAction
    | ArgPolicy
    | SpendingLimits
    | TutorialSpendingLimit
    | TutorialTimeFrame
    | UsageLimit
    | ValueLimit
    | IntentExecution,
    Field(discriminator="type"),
]


class ActionOfFile(StrictModel):
    """A (target, selector) pair, or with neither the fallback. Without ``policies`` anything goes (``[sudo]``)."""

    target: Address | None = None
    selector: Selector | None = None
    policies: Annotated[tuple[PolicyOfFile, ...], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> ActionOfFile:
        if (self.target is None) != (self.selector is None):
            raise ValueError("needs both target and selector (or neither, for the fallback action)")
        if self.target is None and any(
            isinstance(policy, TutorialSpendingLimit) for policy in self.policies or ()
        ):
            raise ValueError(
                "has a spending-limit but no target, whose token it would limit; use spending-limits with its tokens"
            )
        return self

    @classmethod
    def of(cls, action: Action) -> ActionOfFile:
        """The inverse of ``action``."""
        policies: list[Any] | None = None
        if action.policies is not None:
            policies = [
                TutorialTimeFrame(
                    type="time-frame", valid_until=policy.valid_until, valid_after=policy.valid_after
                )
                if isinstance(policy, TimeFrame)
                else policy
                for policy in action.policies
            ]
        return cls(
            target=action.target,
            selector=action.selector,
            policies=None if policies is None else tuple(policies),
        )

    def action(self) -> Action:
        """The SDK's action."""
        policies = None if self.policies is None else tuple(self._policy(policy) for policy in self.policies)
        return Action(target=self.target, selector=self.selector, policies=cast("Any", policies))

    def _policy(self, policy: PolicyModel | TutorialSpendingLimit | TutorialTimeFrame) -> PolicyModel:
        if isinstance(policy, TutorialSpendingLimit):
            assert self.target is not None  # held by _both_or_neither
            return SpendingLimits(limits=(TokenLimit(token=self.target, amount=policy.limit),))
        if isinstance(policy, TutorialTimeFrame):
            return TimeFrame(valid_until=policy.valid_until, valid_after=policy.valid_after)
        return policy


class _FileBase(StrictModel):
    """What the files of both SDKs hold.

    Attributes:
        account: the smart account.
        chain: chain id.
        owners: the session keys' addresses.
        use_dev_contracts: the SDK's option; such sessions are refused, since we sign for production contracts.
        enable_data: the approval; absent for a session that a transaction has enabled already.
        nonce: the emissary's nonce that the approval names. Small ones are found by trying when it is absent.
        permission_id, session_digest, multi_chain_session_digest: what the frontend computed. They are computed
            again here and must be the same.
    """

    account: AccountOfFile
    chain: ChainId
    owners: Owners
    use_dev_contracts: bool | None = None
    enable_data: EnableDataOfFile | None = None
    nonce: Uint256 | None = None
    permission_id: Bytes32 | None = None
    session_digest: Bytes32 | None = None
    multi_chain_session_digest: Bytes32 | None = None

    def enable(self) -> EnableData | None:
        """The approval as it is signed and sent."""
        if self.enable_data is None:
            return None
        return EnableData(
            user_signature=self.enable_data.user_signature,
            hashes_and_chain_ids=tuple(
                HashAndChainId(entry.chain_id, entry.session_digest)
                for entry in self.enable_data.hashes_and_chain_ids
            ),
            session_to_enable_index=self.enable_data.session_to_enable_index,
        )


class SessionFile(_FileBase):
    """One session of SDK 1.15 on one account and one chain, and the user's approval.

    Attributes:
        sdk: the SDK version whose rules hold; other versions encode differently.
        actions: what the keys may do. Must be there, since a session without actions may do everything; with a swap
            scope, which confines the keys, they may be left out.
        claim_policies: at most one.
        restrict_to_actions: confines the keys to the actions.
        swap: swaps that the keys may make; it confines them, too.
        verify_executions: the SDK's signer option; restricted sessions always verify.
    """

    sdk: Literal["1.15.0"] | None = None
    actions: Annotated[tuple[ActionOfFile, ...], Field(strict=False)]
    claim_policies: Annotated[tuple[Permit2Claim, ...], Field(strict=False, max_length=1)] = ()
    restrict_to_actions: bool = False
    swap: SwapScope | None = None
    verify_executions: bool | None = None

    def session(self) -> Session:
        """The SDK's session."""
        return Session(
            chain=self.chain,
            owners=self.owners,
            actions=tuple(action.action() for action in self.actions),
            claim_policies=self.claim_policies,
            restrict_to_actions=self.restrict_to_actions,
            swap=self.swap,
        )

    def text(self) -> str:
        """The file's one spelling: equal files have equal texts, and ``load_session_file`` reads it back."""
        value = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"actions"})
        value["actions"] = [
            action.action().model_dump(mode="json", by_alias=True, exclude_none=True)
            for action in self.actions
        ]
        return json.dumps(value, indent=2, sort_keys=True)


class SessionFileV2(_FileBase):
    """One session of SDK 2.2.2 on one account and one chain, and the user's approval.

    Attributes:
        sdk: says that these are the rules of 2.2.2.
        permissions: what the keys may call. Must be there, since a session without permissions may do everything.
        claim_policies, cross_chain_permits, policy_addresses: as in the SDK's session definition.
        wrapped_native_token: the token that ``createSession`` took from the API; absent if the session was built
            without it.
    """

    sdk: Literal["2.2.2"]
    permissions: Annotated[tuple[Permission, ...], Field(strict=False)]
    claim_policies: Annotated[tuple[Permit2ClaimV2, ...], Field(strict=False)] = ()
    cross_chain_permits: Annotated[tuple[CrossChainPermit, ...], Field(strict=False)] = ()
    policy_addresses: PolicyAddresses = PolicyAddresses()
    wrapped_native_token: Address | None = None

    def session(self) -> SessionV2:
        """The SDK's session."""
        return SessionV2(
            chain=self.chain,
            owners=self.owners,
            permissions=self.permissions,
            claim_policies=self.claim_policies,
            cross_chain_permits=self.cross_chain_permits,
            policy_addresses=self.policy_addresses,
            wrapped_native_token=self.wrapped_native_token,
        )

    def text(self) -> str:
        """The file's one spelling: equal files have equal texts, and ``load_session_file`` reads it back.

        The order of functions and parameters is that of the actions and rules, so no keys are sorted.
        """
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), indent=2)


AnySessionFile = SessionFile | SessionFileV2


def load_session_file(text: str | bytes) -> AnySessionFile:
    """Parse a session file. Nothing is trusted yet: see ``importing.verify``.

    Its field ``sdk`` alone decides whether it is read as 2.2.2's; without the field it is 1.15.0's.

    Args:
        text: the file's content, text or UTF-8.

    Raises:
        SessionFileError: names the path of what is wrong, such as ``actions[0].policies[1].limit``.
    """
    value = strict_json.loads(text)
    model = SessionFileV2 if value.get("sdk") == SessionV2.sdk else SessionFile
    if model is SessionFile and "swap" in value:
        value.setdefault("actions", [])
    try:
        # Only the SDK's camelCase, although the models know the Python names, too.
        return model.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        path, why = first_problem(error)
        fix = _FIXES.get(path, FILE_FIX)
        raise SessionFileError(why, field=path or "session file", fix=fix) from None


_FIXES = {
    "sdk": "export it with @rhinestone/sdk 1.15.0 or 2.2.2; other versions may name other policy contracts",
    "permissions": "list the allowed calls; write [] only for a session that may do anything",
    "actions": "list the allowed calls; write [] only for a session that may do anything",
}


def session_file_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a session file, as committed in ``docs/session-file.schema.json``."""
    schema = TypeAdapter(AnySessionFile).json_schema(by_alias=True, mode="validation")
    _adapt(schema)
    for shape in _shapes(schema):
        kind = shape["properties"].get("type", {})
        # Members of a union are told apart by their type; what is no member may leave it out.
        if "const" in kind and kind["const"] not in {"ecdsa", "permit2-claim"}:
            required: list[str] = shape.setdefault("required", [])
            if "type" not in required:
                required.insert(0, "type")
    first = schema["$defs"]["SessionFile"]
    first["required"].remove("actions")
    first["anyOf"] = [{"required": ["actions"]}, {"required": ["swap"]}]
    schema["$defs"]["ActionOfFile"]["dependentRequired"] = {"target": ["selector"], "selector": ["target"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "session-executor session file",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _shapes(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [shape for shape in schema["$defs"].values() if "properties" in shape]


def _adapt(part: Any) -> None:
    """Say what the loader does: no null anywhere; without pydantic's titles and Python's section headings."""
    if isinstance(part, list):
        for entry in cast("list[Any]", part):
            _adapt(entry)
        return
    if not _is_object(part):
        return
    part.pop("discriminator", None)  # OpenAPI's, unknown to JSON Schema
    if isinstance(part.get("title"), str):
        del part["title"]
    if isinstance(part.get("description"), str):
        words = part["description"].partition("\n\nAttributes:")[0].replace("``", "`").split()
        part["description"] = " ".join(words)
    if "default" in part and part["default"] is None:
        del part["default"]
    options = part.get("anyOf")
    if isinstance(options, list):
        kept = [option for option in cast("list[Any]", options) if option != {"type": "null"}]
        if len(kept) == 1:
            del part["anyOf"]
            for key, value in kept[0].items():
                part.setdefault(key, value)
        else:
            part["anyOf"] = kept
    for value in list(part.values()):
        _adapt(value)


def _is_object(part: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(part, dict)
