"""Sessions as SDK 2.2.2 defines them: permissions by ABI, cross-chain permits, its own policy contracts.

They compile to the same actions and claim policies as those of 1.15, for other deployments of the policies
(sessions.md 12). There is no restricted mode: the salt is always zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from eth_hash.auto import keccak
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.alias_generators import to_camel

from worker.policies import (
    ArgPolicy,
    Permit2Claim,
    Policy,
    SpendingLimits,
    Sudo,
    TimeFrame,
    TokenLimit,
    UniversalAction,
    UsageLimit,
    ValueLimit,
)
from worker.policies.arg_policy import MAX_RULES as MAX_EXPRESSION_RULES
from worker.policies.arg_policy import AndExpression, Expression, OrExpression, RuleExpression
from worker.policies.fields import (
    MAX_SAFE_INTEGER,
    Address,
    Uint128,
    Uint256,
    UnsafeJsonInteger,
    parse_address,
    parse_bytes,
    parse_uint,
)
from worker.policies.permit2_claim import Bounds, ChainBounds, ChainRecipient, ChainToken, Recipient
from worker.policies.policy import PolicyModel, StrictModel
from worker.policies.rules import Condition, Rule
from worker.sessions.chains import known_chains
from worker.sessions.errors import SessionError
from worker.sessions.model import Action, ChainId, Owners

_FAR_FUTURE_MS = 4_102_444_800_000
"""The end that the SDK gives a window with a start only: the year 2100."""

_MAX_LEGS = 255  # one count byte in the claim policy
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{3})?Z", re.ASCII)
_STATIC = re.compile(r"address|bool|u?int[0-9]+|bytes(?:[1-9]|[12][0-9]|3[0-2])", re.ASCII)
_ABI_TYPE = re.compile(
    r"(?P<base>address|bool|string|function|tuple|bytes[0-9]*|u?int[0-9]+)(?P<arrays>(?:\[[0-9]*\])*)",
    re.ASCII,
)
_SPENDING_FUNCTIONS = {
    bytes.fromhex(selector) for selector in ("095ea7b3", "39509351", "a9059cbb", "23b872dd")
}
_ARBITERS = {
    "SAME_CHAIN": ("0x000000000006e2569caf8ff021810790e0a0d740",),
    "ECO": ("0x2e7627ccfae4edb336eeb5a70f08415b0f1a2b8c", "0xa212a6accc8db0e4cdf4394d0a851c70fc27a8f0"),
    "ACROSS": ("0x28a4d41776968c1201a807ec51ffb405362b8882", "0xa162fabb9a0eef2736485a587aaab3d015e14224"),
}
_DEV_ARBITERS = {
    "SAME_CHAIN": ("0x8fa7720eee299223f25de8dc03c68a28541dcd10",),
    "ECO": ("0x1bebafb3d05d84a5bfd94800c88d1342f755d8ab", "0x8a061029ae4c5cf69b5368119b3b0c80b31f55fe"),
    "ACROSS": ("0x1b19973f7a29e950ad4faf8872745b6378005517", "0x8343fbba0526dec1c952a098057021027648bcf9"),
}


def known_arbiters() -> frozenset[str]:
    """Every production arbiter that the SDK lists for a settlement layer: who may be the spender of a claim."""
    return frozenset(address for addresses in _ARBITERS.values() for address in addresses)


_Made = TypeVar("_Made", bound=PolicyModel)


def _instant(value: Any) -> int:
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("is no date of the calendar") from None
        value = int(moment.timestamp()) * 1000 + moment.microsecond // 1000
    elif isinstance(value, str) and "T" in value:
        raise ValueError("must be a date in UTC as JSON has it, such as 2030-01-01T00:00:00.000Z")
    milliseconds = parse_uint(value, 256)
    if milliseconds > MAX_SAFE_INTEGER:
        raise ValueError("is too large for milliseconds since 1970; is it in microseconds or nanoseconds?")
    return milliseconds


Instant = Annotated[
    int,
    BeforeValidator(_instant),
    WithJsonSchema(
        {
            "description": "A Date as JSON.stringify writes it (UTC), or milliseconds since 1970-01-01 UTC",
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER},
                {"type": "string", "pattern": "^(0|[1-9][0-9]{0,15})$"},
                {
                    "type": "string",
                    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{3})?Z$",
                },
            ],
        }
    ),
]
"""Milliseconds since the epoch, as a JavaScript Date holds them."""


def _value(value: Any) -> bool | str:
    """One spelling of a parameter's value; what fits its type is decided with the ABI at hand."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and not isinstance(value, UnsafeJsonInteger) and value[:2] == "0x":
        return parse_address(value) if len(value) == 42 else "0x" + parse_bytes(value).hex()
    return str(parse_uint(value, 256))


ParamValue = Annotated[
    bool | str,
    BeforeValidator(_value),
    WithJsonSchema(
        {
            "description": "A value of the parameter's type: a boolean, 0x hex, or an integer",
            "anyOf": [
                {"type": "boolean"},
                {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER},
                {"type": "string", "pattern": "^(0x([0-9a-fA-F]{2})*|0|[1-9][0-9]{0,77})$"},
            ],
        }
    ),
]


class AbiModel(BaseModel):
    """A part of an ABI. Compilers add members of their own, which don't matter and are dropped."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="ignore",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
    )


def _abi_type(value: Any) -> str:
    if not isinstance(value, str) or not _ABI_TYPE.fullmatch(value):
        raise ValueError("is no ABI type as compilers write it, such as uint256 or address[]")
    return value


class AbiParameter(AbiModel):
    """A parameter of a function."""

    name: str = ""
    type: Annotated[
        str,
        BeforeValidator(_abi_type),
        WithJsonSchema({"type": "string", "pattern": f"^(?:{_ABI_TYPE.pattern})$"}),
    ]
    components: Annotated[tuple[AbiParameter, ...], Field(strict=False)] = ()

    def canonical(self) -> str:
        """The type as a function's signature has it."""
        if not self.type.startswith("tuple"):
            return self.type
        inner = ",".join(component.canonical() for component in self.components)
        return f"({inner}){self.type.removeprefix('tuple')}"

    def is_one_word(self) -> bool:
        """Whether the parameter takes one word of the calldata's head: a static word, or a dynamic one's pointer."""
        match = _ABI_TYPE.fullmatch(self.type)
        assert match is not None  # held by the field's type
        return (not match["arrays"] and match["base"] != "tuple") or self.is_dynamic()

    def is_dynamic(self) -> bool:
        """Whether the head holds a pointer to it."""
        if (
            self.type in {"string", "bytes"}
            or "[]" in self.type
            or self.type.startswith(("string[", "bytes["))
        ):
            return True
        return any(component.is_dynamic() for component in self.components)


class AbiFunction(AbiModel):
    """A function of a contract."""

    type: Literal["function"]
    name: str
    state_mutability: Literal["pure", "view", "nonpayable", "payable"] = "nonpayable"
    inputs: Annotated[tuple[AbiParameter, ...], Field(strict=False)]

    def selector(self) -> bytes:
        """``keccak(name(type,…))``, the first 4 bytes."""
        types = ",".join(parameter.canonical() for parameter in self.inputs)
        return keccak(f"{self.name}({types})".encode())[:4]


class OtherAbiEntry(AbiModel):
    """An event, an error, a constructor."""

    type: Annotated[str, WithJsonSchema({"type": "string", "not": {"const": "function"}})]


def _functions_only(value: Any) -> Any:
    """Events, errors and constructors of an ABI are of no use here."""
    if not isinstance(value, list | tuple):
        return value
    entries = cast("Sequence[Any]", value)
    return [entry for entry in entries if not _is_other(entry)]


def _is_other(entry: Any) -> bool:
    kind = cast("dict[str, Any]", entry).get("type") if isinstance(entry, dict) else None
    return isinstance(kind, str) and kind != "function"


class ParamRule(StrictModel):
    """What a parameter may be: compared with ``value``, or any of several values.

    ``usage_limit`` bounds the sum over all calls; it belongs to the comparison.
    """

    condition: Condition | None = None
    value: ParamValue | None = None
    usage_limit: Uint256 | None = None
    any_of: Annotated[tuple[ParamValue, ...], Field(strict=False)] | None = None


class FunctionConfig(StrictModel):
    """What a function may be called with.

    Attributes:
        params: rules by parameter name.
        max_uses: calls in all.
        valid_until, valid_after: when, milliseconds.
        value_limit: wei in all, of a payable function.
        value_limit_per_use: wei per call, of a function with ``params``; without them the SDK makes it wei in all.
        spending_limit: base units of a token in all.
    """

    value_limit_per_use: Uint256 | None = None
    params: dict[str, ParamRule] = Field(default_factory=dict)
    max_uses: Uint128 | None = None
    valid_until: Instant | None = None
    valid_after: Instant | None = None
    value_limit: Uint256 | None = None
    spending_limit: TokenLimit | None = None


class Permission(StrictModel):
    """Functions of one contract, by their names in its ABI; their order is the order of the actions.

    Of the ABI, what ``functions`` does not name is dropped.
    """

    address: Address
    functions: dict[str, FunctionConfig]
    abi: Annotated[
        tuple[AbiFunction, ...],
        BeforeValidator(_functions_only, json_schema_input_type=tuple[AbiFunction | OtherAbiEntry, ...]),
        Field(strict=False),
    ]

    @field_validator("abi")
    @classmethod
    def _of_named_functions(
        cls, abi: tuple[AbiFunction, ...], info: ValidationInfo
    ) -> tuple[AbiFunction, ...]:
        named: dict[str, FunctionConfig] = info.data.get("functions", {})
        return tuple(entry for entry in abi if entry.name in named)


class FromLeg(StrictModel):
    """A token that a cross-chain permit lets go, ``max_amount`` base units of it in all."""

    chain: ChainId
    token: Address
    max_amount: Uint256 | None = None


class ToLeg(StrictModel):
    """A token that a cross-chain permit lets arrive, and where."""

    chain: ChainId
    token: Address
    recipient: Recipient | None = None


class FillDeadline(StrictModel):
    """When a fill may happen on a chain, milliseconds."""

    chain: ChainId
    min: Instant | None = None
    max: Instant | None = None


def _legs(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


SettlementLayer = Literal["SAME_CHAIN", "ECO", "ACROSS"]


class CrossChainPermit(StrictModel):
    """Cross-chain intents that the key may sign for."""

    from_: Annotated[
        tuple[FromLeg, ...],
        BeforeValidator(_legs, json_schema_input_type=FromLeg | tuple[FromLeg, ...]),
        Field(strict=False, max_length=_MAX_LEGS, alias="from"),
    ] = ()
    to: Annotated[
        tuple[ToLeg, ...],
        BeforeValidator(_legs, json_schema_input_type=ToLeg | tuple[ToLeg, ...]),
        Field(strict=False, max_length=_MAX_LEGS),
    ] = ()
    valid_until: Instant | None = None
    valid_after: Instant | None = None
    fill_deadline: Annotated[tuple[FillDeadline, ...], Field(strict=False, max_length=_MAX_LEGS)] = ()
    allow_recipient_not_account: bool = False
    settlement_layers: Annotated[tuple[SettlementLayer, ...], Field(strict=False)] = ()

    @property
    def _window_s(self) -> tuple[int | None, int | None]:
        return _seconds(self.valid_after), _seconds(self.valid_until)

    def check(self) -> None:
        """Refuse what the SDK refuses.

        Raises:
            SessionError: its words.
        """
        after, until = self._window_s
        if after is not None and until is not None and after > until:
            raise SessionError(
                f"crossChainPermits: validAfter ({after}) is greater than validUntil ({until})",
                field="crossChainPermits",
            )

    def claim(self, *, dev: bool) -> Permit2Claim:
        """The claim policy that it stands for."""
        after, until = self._window_s
        book = _DEV_ARBITERS if dev else _ARBITERS
        layers = self.settlement_layers or tuple(book)
        return Permit2Claim(
            arbiters=tuple(dict.fromkeys(address for layer in layers for address in book[layer])),
            expiry_bounds=None if after is None and until is None else Bounds(min=after, max=until),
            tokens_in=tuple(ChainToken(chain_id=leg.chain, token=leg.token) for leg in self.from_),
            recipients=tuple(
                ChainRecipient(chain_id=leg.chain, recipient=leg.recipient)
                for leg in self.to
                if leg.recipient is not None
            ),
            fill_expiry_bounds=tuple(
                ChainBounds(chain_id=bounds.chain, min=_seconds(bounds.min), max=_seconds(bounds.max))
                for bounds in self.fill_deadline
            ),
            tokens_out=tuple(ChainToken(chain_id=leg.chain, token=leg.token) for leg in self.to),
            recipient_is_sponsor=not self.allow_recipient_not_account,
        )

    def fallback_policies(self) -> Iterator[PolicyModel]:
        """The policies that it puts on the fallback action."""
        limits = tuple(
            TokenLimit(token=leg.token, amount=leg.max_amount)
            for leg in self.from_
            if leg.max_amount is not None
        )
        if limits:
            yield SpendingLimits(limits=limits)
        after, until = self._window_s
        if after is not None or until is not None:
            yield TimeFrame(
                valid_until=_FAR_FUTURE_MS if until is None else until * 1000,
                valid_after=0 if after is None else after * 1000,
            )


class TokenOnChain(StrictModel):
    """A token of a claim policy."""

    chain: ChainId
    address: Address


class RecipientOnChain(StrictModel):
    """A recipient of a claim policy; ``any`` for whoever."""

    chain: ChainId
    address: Recipient


class BoundsOnChain(Bounds):
    """Bounds of a claim policy on a chain, unix seconds."""

    chain: ChainId


class Permit2ClaimV2(StrictModel):
    """A claim policy in the spelling of 2.x."""

    type: Literal["permit2"]
    spenders: Annotated[tuple[Address, ...], Field(strict=False, max_length=_MAX_LEGS)] = ()
    source_tokens: Annotated[tuple[TokenOnChain, ...], Field(strict=False, max_length=_MAX_LEGS)] = ()
    destination_tokens: Annotated[tuple[TokenOnChain, ...], Field(strict=False, max_length=_MAX_LEGS)] = ()
    recipients: Annotated[tuple[RecipientOnChain, ...], Field(strict=False, max_length=_MAX_LEGS)] = ()
    recipient_is_account: bool = False
    permit_deadline: Bounds | None = None
    fill_deadline: Annotated[tuple[BoundsOnChain, ...], Field(strict=False, max_length=_MAX_LEGS)] = ()

    def claim(self) -> Permit2Claim:
        """The same in the spelling of 1.15."""
        return Permit2Claim(
            arbiters=self.spenders,
            expiry_bounds=self.permit_deadline,
            tokens_in=tuple(
                ChainToken(chain_id=each.chain, token=each.address) for each in self.source_tokens
            ),
            recipients=tuple(
                ChainRecipient(chain_id=each.chain, recipient=each.address) for each in self.recipients
            ),
            fill_expiry_bounds=tuple(
                ChainBounds(chain_id=each.chain, min=each.min, max=each.max) for each in self.fill_deadline
            ),
            tokens_out=tuple(
                ChainToken(chain_id=each.chain, token=each.address) for each in self.destination_tokens
            ),
            recipient_is_sponsor=self.recipient_is_account,
        )


class PolicyAddresses(StrictModel):
    """Policy contracts named instead of 2.2.2's own. The init data stays 2.2.2's."""

    sudo: Address | None = None
    universal_action: Address | None = None
    arg_policy: Address | None = None
    spending_limits: Address | None = None
    time_frame: Address | None = None
    usage_limit: Address | None = None
    value_limit: Address | None = None

    def of(self, policy_type: str) -> str | None:
        """The contract named for a policy type such as ``time-frame``, if one is."""
        return getattr(self, policy_type.replace("-", "_"), None)


class SessionV2(StrictModel):
    """A session of SDK 2.2.2.

    Attributes:
        chain: chain id.
        owners: the session keys.
        permissions: the calls that are allowed; without any, the session may do everything.
        claim_policies: claim policies given as such.
        cross_chain_permits: cross-chain intents that are allowed.
        policy_addresses: other policy contracts.
        wrapped_native_token: the chain's, which the key may then call ``deposit()`` of; None when the session was
            built without the API's chain list.
    """

    sdk: ClassVar[str] = "2.2.2"

    chain: ChainId
    owners: Owners
    permissions: Annotated[tuple[Permission, ...], Field(strict=False)] = ()
    claim_policies: Annotated[tuple[Permit2ClaimV2, ...], Field(strict=False)] = ()
    cross_chain_permits: Annotated[tuple[CrossChainPermit, ...], Field(strict=False)] = ()
    policy_addresses: PolicyAddresses = PolicyAddresses()
    wrapped_native_token: Address | None = None

    def contract(self, policy: PolicyModel, *, dev: bool = False) -> str:
        """The contract of a policy in this session, lower-case."""
        if dev and policy.dev_address:
            return policy.dev_address
        return self.policy_addresses.of(_type_of(policy)) or policy.v2_address

    def labelled_actions(self) -> tuple[tuple[str, Action], ...]:
        """Each action with the field that it comes from; last the fallback's policies, if permits put any there.

        Raises:
            SessionError: what the SDK refuses, in its words.
        """
        found = list(self._permitted())
        fallback = self.fallback_policies()
        if fallback:
            found.append(("crossChainPermits", Action(policies=cast("tuple[Policy, ...]", fallback))))
        return tuple(found)

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions that the permissions stand for, in order.

        Raises:
            SessionError: what the SDK refuses, in its words.
        """
        return tuple(action for _, action in self._permitted())

    def fallback_policies(self) -> tuple[PolicyModel, ...]:
        """What cross-chain permits put on the fallback action, next to intent-execution.

        Raises:
            SessionError: what the SDK refuses, in its words.
        """
        for permit in self.cross_chain_permits:
            permit.check()
        return tuple(policy for permit in self.cross_chain_permits for policy in permit.fallback_policies())

    def claims(self, *, dev: bool = False) -> tuple[Permit2Claim, ...]:
        """The claim policies: those given, then those of the permits.

        Raises:
            SessionError: what the SDK refuses, in its words.
        """
        for permit in self.cross_chain_permits:
            permit.check()
        return (
            *(claim.claim() for claim in self.claim_policies),
            *(permit.claim(dev=dev) for permit in self.cross_chain_permits),
        )

    def check_known(self) -> None:
        """Refuse what could be encoded, but means something on chain that is unknown here, or not what it says.

        Raises:
            SessionError: names the field.
        """
        self._check_contracts()
        known = known_chains().get(self.chain)
        if self.wrapped_native_token is not None and known and self.wrapped_native_token != known.wrapped:
            raise SessionError(
                f"is not the wrapped native token of {known.name}, {known.wrapped}",
                field="wrappedNativeToken",
                fix="let createSession of the SDK fill it in",
            )
        for index, permission in enumerate(self.permissions):
            for name, config in permission.functions.items():
                entry = _entry(permission, name, f"permissions[{index}].functions.{name}")
                for parameter in config.params:
                    place = _place(entry, parameter)
                    if not all(other.is_one_word() for other in entry.inputs[: place or 0]):
                        raise SessionError(
                            f"comes after a parameter of several words, and SDK {self.sdk} puts its rule on another "
                            "argument",
                            field=f"permissions[{index}].functions.{name}.params.{parameter}",
                            fix="use an SDK that computes the offset, or grant the call without this rule",
                        )

    def _check_contracts(self) -> None:
        """Only deployments whose behaviour is known, and that read the init data of 2.2.2."""
        for policy in _OVERRIDABLE:
            kind = str(policy.model_fields["type"].default)
            named = self.policy_addresses.of(kind)
            known = {policy.v2_address} if policy is TimeFrame else {policy.v2_address, policy.address}
            if named is not None and named not in known:
                raise SessionError(
                    "reads the window in another form than 2.2.2 writes it"
                    if named == policy.address
                    else f"{named} is no {kind} contract that is known here, so what it allows is not known",
                    field=f"policyAddresses.{to_camel(kind.replace('-', '_'))}",
                    fix=f"leave it out, which stands for {policy.v2_address}",
                )

    def _permitted(self) -> Iterator[tuple[str, Action]]:
        seen: set[tuple[str, bytes]] = set()
        for index, permission in enumerate(self.permissions):
            for name, config in permission.functions.items():
                where = f"permissions[{index}].functions.{name}"
                entry = _entry(permission, name, where)
                policies = tuple(_policies(entry, config, where))
                action = Action(
                    target=permission.address,
                    selector=entry.selector(),
                    policies=cast("tuple[Policy, ...]", policies) if policies else None,
                )
                key = (permission.address, entry.selector())
                if key in seen:
                    raise SessionError(
                        f'Duplicate permission for function "{name}" (selector 0x{key[1].hex()}) on {key[0]}: '
                        "permission entries for the same function on the same contract share one on-chain action, so "
                        "the later entry's policies would silently overwrite the earlier ones. Merge them into a "
                        "single entry.",
                        field=where,
                    )
                seen.add(key)
                yield where, action


_OVERRIDABLE: tuple[type[PolicyModel], ...] = (
    Sudo,
    UniversalAction,
    ArgPolicy,
    SpendingLimits,
    TimeFrame,
    UsageLimit,
    ValueLimit,
)


def _entry(permission: Permission, name: str, where: str) -> AbiFunction:
    entries = [entry for entry in permission.abi if entry.name == name]
    if not entries:
        raise SessionError(f'Function "{name}" not found in the provided ABI.', field=where)
    if len(entries) > 1:
        raise SessionError(
            f'Function "{name}" is overloaded ({len(entries)} variants). Permission entries do not support overloaded '
            "functions. Pre-filter the ABI to a single overload before passing it.",
            field=where,
        )
    return entries[0]


def _place(entry: AbiFunction, parameter: str) -> int | None:
    return next((index for index, each in enumerate(entry.inputs) if each.name == parameter), None)


def _policies(entry: AbiFunction, config: FunctionConfig, where: str) -> Iterator[PolicyModel]:
    """The policies of one function in the SDK's order."""
    if config.max_uses is not None:
        yield UsageLimit(limit=config.max_uses)
    if config.valid_until is not None or config.valid_after is not None:
        until = _FAR_FUTURE_MS if config.valid_until is None else config.valid_until
        after = config.valid_after or 0
        if until < after:
            raise SessionError(
                f'Function "{entry.name}": validUntil ({until}) is before validAfter ({after}).',
                field=f"{where}.validUntil",
            )
        yield TimeFrame(valid_until=until, valid_after=after)
    if config.value_limit is not None:
        if entry.state_mutability != "payable":
            raise SessionError(
                f'Function "{entry.name}" is not payable — `valueLimit` only constrains native ETH attached to the '
                "call, which is always zero for non-payable functions. Remove `valueLimit`.",
                field=f"{where}.valueLimit",
            )
        yield ValueLimit(limit=config.value_limit)
    if config.spending_limit is not None:
        if entry.selector() not in _SPENDING_FUNCTIONS:
            raise SessionError(
                f'Function "{entry.name}" (selector 0x{entry.selector().hex()}) is not an ERC-20 transfer/approve '
                "selector; `spendingLimit` only works on approve, increaseAllowance, transfer, or transferFrom. The "
                "on-chain policy dispatches by selector and would fail every call for other functions.",
                field=f"{where}.spendingLimit",
            )
        yield SpendingLimits(limits=(config.spending_limit,))
    if config.params:
        yield _rules(entry, config, where)
    elif config.value_limit_per_use is not None:
        yield ValueLimit(limit=config.value_limit_per_use)  # in all, whatever the field's name says


def _rules(entry: AbiFunction, config: FunctionConfig, where: str) -> PolicyModel:
    per_use = config.value_limit_per_use
    if per_use is None:
        per_use = config.value_limit or 0
    sets: list[list[Rule]] = []
    for name, rule in config.params.items():
        sets.append(_alternatives(entry, name, rule, f"{where}.params.{name}"))
    if all(rule.any_of is None for rule in config.params.values()):
        rules = tuple(rule for alternatives in sets for rule in alternatives)
        return _made(UniversalAction, f"{where}.params", value_limit_per_use=per_use, rules=rules)
    count = sum(len(alternatives) for alternatives in sets)
    if count > MAX_EXPRESSION_RULES:  # before the tree is built, which would be as deep
        raise SessionError(
            f"ArgPolicy expression has {count} rules, max is {MAX_EXPRESSION_RULES}", field=f"{where}.params"
        )
    each = [_any(alternatives) for alternatives in sets]
    expression = each[-1]
    for left in reversed(each[:-1]):
        expression = AndExpression(type="and", left=left, right=expression)
    return _made(ArgPolicy, f"{where}.params", value_limit_per_use=per_use, expression=expression)


def _any(rules: Sequence[Rule]) -> Expression:
    *rest, last = rules
    expression: Expression = RuleExpression(type="rule", rule=last)
    for rule in reversed(rest):
        expression = OrExpression(type="or", left=RuleExpression(type="rule", rule=rule), right=expression)
    return expression


def _alternatives(entry: AbiFunction, name: str, rule: ParamRule, where: str) -> list[Rule]:
    """The rules of one parameter, of which one must hold."""
    place = _place(entry, name)
    if place is None:
        names = ", ".join(parameter.name for parameter in entry.inputs)
        raise SessionError(
            f'Parameter "{name}" not found in function "{entry.name}". Available: {names}', field=where
        )
    kind = entry.inputs[place].type
    if not _STATIC.fullmatch(kind):
        raise SessionError(
            f'Parameter "{name}" has dynamic type "{kind}". Permission rules only support static types '
            "(address, bool, uint*, int*, bytes1\u2013bytes32).",
            field=where,
        )
    offset = 32 * place  # the SDK's, which is wrong after parameters of several words: see check_known
    if rule.any_of is not None:
        if not rule.any_of:
            raise SessionError(
                f'Parameter "{name}" has empty anyOf — provide at least one value.', field=f"{where}.anyOf"
            )
        if rule.condition is not None or rule.value is not None or rule.usage_limit is not None:
            raise SessionError(
                "stands beside condition, value or usageLimit, which the SDK would ignore",
                field=f"{where}.anyOf",
            )
        return [
            Rule(
                condition="equal",
                calldata_offset=offset,
                reference_value=_word(value, kind, f"{where}.anyOf"),
            )
            for value in rule.any_of
        ]
    if rule.condition is None:
        raise SessionError("is missing", field=f"{where}.condition")
    if rule.value is None:
        raise SessionError("is missing", field=f"{where}.value")
    word = _word(rule.value, kind, f"{where}.value")
    return [
        Rule(
            condition=rule.condition,
            calldata_offset=offset,
            reference_value=word,
            usage_limit=rule.usage_limit,
        )
    ]


def _word(value: bool | str, kind: str, where: str) -> int:
    """A value as the word that calldata holds for the type."""
    if kind == "bool":
        if isinstance(value, bool):
            return int(value)
        raise SessionError("must be true or false", field=where)
    if isinstance(value, bool):
        raise SessionError(f"is a boolean, but the parameter's type is {kind}", field=where)
    if kind == "address":
        if len(value) == 42 and value.startswith("0x"):
            return int(value, 16)
        raise SessionError("must be an address: 0x and 40 hex digits", field=where)
    if kind.startswith("bytes"):
        size = int(kind.removeprefix("bytes"))
        if value.startswith("0x") and len(value) == 2 + 2 * size:
            return int(value[2:].ljust(64, "0"), 16)
        raise SessionError(f"must be {size} bytes of 0x hex", field=where)
    if value.startswith("0x"):
        raise SessionError("must be an integer as a decimal string", field=where)
    return int(value)


def _made(policy: type[_Made], where: str, **fields: Any) -> _Made:
    try:
        return policy(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SessionError(str(first.get("ctx", {}).get("error", first["msg"])), field=where) from None


def _type_of(policy: PolicyModel) -> str:
    return str(getattr(policy, "type", ""))


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000
