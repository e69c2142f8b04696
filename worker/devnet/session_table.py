"""What the emissary and its policy contracts know about a session, mirrored in Python.

Deliberately not built on ``worker/policies``: it reads the init data bytes that were enabled on the chain and keeps its
own counters, so that a mistake in one of the two shows up as a disagreement. It mimics the contracts, not the advice:
a time-frame on an action is *not* enforced (the emissary discards the window), a session is accepted after its expiry.
Rules: protocol/policies.md 1 and 2. Policies that no contract here stands in for deny.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from worker.devnet.chain import EMISSARY, Call

SUDO = "0x0000003111cd8e92337c100f22b7a9dbf8dee301"
SPENDING_LIMITS = "0x00000088d48cf102a8cdb0137a9b173f957c6343"
TIME_FRAME = "0x8177451511de0577b911c254e9551d981c26dc72"
USAGE_LIMIT = "0x1f34ef8311345a3a4a4566af321b313052f51493"
VALUE_LIMIT = "0x730da93267e7e513e932301b47f2ac7d062abc83"
# the deployments that SDK 2.2.2 names; its time-frame has a packing of its own
SUDO_V2 = "0x0000000000feec8d74e3143fbabbca515358d869"
TIME_FRAME_V2 = "0x0000000000d30f611fa3bf652ac6879428586930"
NAMES = {
    SUDO: "sudo",
    SUDO_V2: "sudo",
    SPENDING_LIMITS: "spending-limits",
    "0x000000000033212e272655d8a22402db819477a6": "spending-limits",
    TIME_FRAME: "time-frame",
    TIME_FRAME_V2: "time-frame",
    USAGE_LIMIT: "usage-limit",
    "0x00000000001d4479fa2a947026204d0283cede4b": "usage-limit",
    VALUE_LIMIT: "value-limit",
    "0x000000000021dc45451291bcdfc9f0b46d6f0278": "value-limit",
}

FALLBACK = ("0x" + "00" * 19 + "01", bytes.fromhex("00000001"))
EXECUTE_SELECTOR = bytes.fromhex("e9ae5c53")
NO_SELECTOR = b"\xff\xff\xff\xff"
_TRANSFER = bytes.fromhex("a9059cbb")
_TRANSFER_FROM = bytes.fromhex("23b872dd")
_APPROVE = bytes.fromhex("095ea7b3")
_INCREASE_ALLOWANCE = bytes.fromhex("39509351")


class OperationDeniedError(Exception):
    """The emissary or a policy would revert.

    Args:
        reason: the revert, in words.
        call_index: the offending call, -1 for the operation as a whole.
    """

    def __init__(self, reason: str, call_index: int = -1) -> None:
        self.reason = reason
        self.call_index = call_index
        super().__init__(reason)


@dataclass(slots=True)
class _Policy:
    """One policy of one action, with its own state."""

    address: str
    limits: dict[str, int] = field(default_factory=dict[str, int])
    used: dict[str, int] = field(default_factory=dict[str, int])
    window: tuple[int, int] = (0, 0)


def _enable(address: str, init_data: bytes) -> _Policy:
    """The state that a policy contract has after ``initializeWithMultiplexer``; raises on what it would revert on."""
    policy = _Policy(address)
    name = NAMES.get(address, address)
    try:
        if name == "spending-limits":
            tokens, amounts = decode(["address[]", "uint256[]"], init_data)
            if len(tokens) != len(amounts) or not all(int(token, 16) for token in tokens) or not all(amounts):
                raise OperationDeniedError(f"{name}: zero token, zero limit or unequal lists")
            policy.limits = dict(zip((token.lower() for token in tokens), amounts, strict=True))
        elif name == "time-frame":
            size = 6 if address == TIME_FRAME_V2 else 16
            if len(init_data) < 2 * size:
                raise OperationDeniedError(f"{name}: init data is too short")
            until, after = int.from_bytes(init_data[:size]), int.from_bytes(init_data[size : 2 * size])
            if until != 0 and after > until:
                raise OperationDeniedError(f"{name}: validAfter is later than validUntil")
            policy.window = (until, after)
        elif name in ("usage-limit", "value-limit"):
            size = 16 if name == "usage-limit" else 32
            limit = int.from_bytes(init_data[:size])
            if len(init_data) < size or limit == 0:
                raise OperationDeniedError(f"{name}: zero limit")
            policy.limits = {"": limit}
    except DecodingError:
        raise OperationDeniedError(f"{name}: init data does not decode") from None
    return policy


def _address_word(data: bytes, index: int) -> str:
    word = data[4 + 32 * index : 36 + 32 * index]
    if len(word) != 32 or any(word[:12]):
        raise OperationDeniedError("spending-limits: an address argument does not decode")
    return "0x" + word[12:].hex()


def _amount_word(data: bytes, index: int) -> int:
    word = data[4 + 32 * index : 36 + 32 * index]
    if len(word) != 32:
        raise OperationDeniedError("spending-limits: an amount argument does not decode")
    return int.from_bytes(word)


def _check_spending(policy: _Policy, call: Call, account: str) -> None:
    if call.value != 0 or len(call.data) < 4:
        raise OperationDeniedError("PolicyViolation: spending-limits allows no value and no bare call")
    if not int(call.to, 16):
        raise OperationDeniedError("InvalidTokenAddress: spending-limits on the zero address")
    sel = call.data[:4]
    counter = "spent"
    if sel == _TRANSFER:
        _address_word(call.data, 0)
        amount = _amount_word(call.data, 1)
    elif sel == _TRANSFER_FROM:
        _address_word(call.data, 0)
        recipient = _address_word(call.data, 1)
        amount = _amount_word(call.data, 2)
        if recipient == account:
            amount = 0
    elif sel in (_APPROVE, _INCREASE_ALLOWANCE):
        _address_word(call.data, 0)
        amount = _amount_word(call.data, 1)
        counter = "approved"
    else:
        raise OperationDeniedError(f"PolicyViolation: spending-limits does not know 0x{sel.hex()}")
    limit = policy.limits.get(call.to, 0)
    total = sum(policy.used.get(f"{call.to}:{name}", 0) for name in ("spent", "approved"))
    if total + amount > limit:
        raise OperationDeniedError(
            f"PolicyViolation: spending-limits {total} + {amount} > {limit} of {call.to}"
        )
    key = f"{call.to}:{counter}"
    policy.used[key] = policy.used.get(key, 0) + amount


def _check(policy: _Policy, call: Call, account: str) -> None:
    match NAMES.get(policy.address):
        case "sudo":
            return
        case "time-frame":
            # never fails by itself, and nobody looks at the window that it returns
            if policy.window == (0, 0):
                raise OperationDeniedError("PolicyCheckReverted: time-frame is not configured")
        case ("usage-limit" | "value-limit") as name:
            growth = 1 if name == "usage-limit" else call.value
            used, limit = policy.used.get("", 0), policy.limits[""]
            if used + growth > limit:
                raise OperationDeniedError(f"PolicyViolation: {name} {used} + {growth} > {limit}")
            policy.used[""] = used + growth
        case "spending-limits":
            _check_spending(policy, call, account)
        case _:
            raise OperationDeniedError(
                f"PolicyCheckReverted: no contract at policy {policy.address} on the devnet"
            )


class SessionTable:
    """One permission of one account: validator, actions, policies and their counters."""

    def __init__(self) -> None:
        self.validator = ""
        self.validator_init_data = b""
        self.erc1271_open = False
        self.claim_policies: list[tuple[str, bytes]] = []
        self._actions: dict[tuple[str, bytes], dict[str, _Policy]] = {}

    def enable(self, session: Sequence[Any]) -> None:
        """Merge a session (the ABI tuple of ``setConfig``) in, as the emissary does.

        Policies of an action are a set by address in first-seen order; one that is enabled again starts afresh. The
        validator of the first enabling stays.

        Raises:
            OperationDeniedError: a policy contract would revert.
        """
        validator, validator_init, _salt, actions, claims, (contents, erc1271) = session
        if not self.validator:
            self.validator, self.validator_init_data = validator.lower(), validator_init
        for sel, target, policies in actions:
            row = self._actions.setdefault((target.lower(), sel), {})
            for address, init_data in policies:
                row[address.lower()] = _enable(address.lower(), init_data)
        # the emissary does not store them (policies.md 5); the devnet's service holds claims against them
        self.claim_policies = [(address.lower(), bytes(data)) for address, data in claims]
        if any(domain == b"\0" * 32 and "" in names for domain, names in contents):
            self.erc1271_open = [address.lower() for address, _ in erc1271] in ([SUDO], [SUDO_V2])

    def check(self, account: str, calls: Sequence[Call]) -> None:
        """Check one operation and count it. On denial the counters are undefined: work on a ``copy()``.

        Raises:
            OperationDeniedError: with the reason and the call's index.
        """
        if not calls:
            raise OperationDeniedError("NoExecutionsInBatch")
        for index, call in enumerate(calls):
            try:
                for policy in self._policies_of(account, call):
                    _check(policy, call, account)
            except OperationDeniedError as denied:
                raise OperationDeniedError(denied.reason, index) from None

    def copy(self) -> SessionTable:
        """An independent copy."""
        return copy.deepcopy(self)

    def counters(self) -> list[dict[str, Any]]:
        """Every counter: action, policy, key (token and counter for spending-limits), used, limits."""
        return [
            {
                "target": target,
                "selector": "0x" + sel.hex(),
                "policy": NAMES.get(policy.address, policy.address),
                "used": {key: str(value) for key, value in policy.used.items()},
                "limits": {key: str(value) for key, value in policy.limits.items()},
            }
            for (target, sel), row in self._actions.items()
            for policy in row.values()
        ]

    def _policies_of(self, account: str, call: Call) -> list[_Policy]:
        sel = call.data[:4] if len(call.data) >= 4 else NO_SELECTOR
        if sel == EXECUTE_SELECTOR and call.to == account:
            raise OperationDeniedError("InvalidSelfCall")
        if call.to in (FALLBACK[0], EMISSARY):
            raise OperationDeniedError("InvalidTarget")
        for key in ((call.to, sel), FALLBACK):
            policies = list(self._actions.get(key, {}).values())
            if policies:
                return policies
        raise OperationDeniedError(f"NoPoliciesSet for {call.to} 0x{sel.hex()}")
