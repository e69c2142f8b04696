"""The chain's side: the policies behind our driver, a sequence judged in one ``eth_call``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from tests.onchain.artifacts import Artifact, our_code
from tests.onchain.judge import Counts, Step, Watched
from worker.devnet.chain import RELAYER, RELAYER_BALANCE_WEI, Chain, selector
from worker.devnet.errors import DevnetError
from worker.devnet.rpc import JsonRpc
from worker.policies import (
    ArgPolicy,
    IntentExecution,
    SpendingLimits,
    TimeFrame,
    UsageLimit,
    ValueLimit,
    Whitelist,
)
from worker.policies.evaluate import action_id
from worker.policies.policy import PolicyModel
from worker.sessions.emissary import config_id

_POLICY = "(address,bytes)"
_ACTION = f"(address,bytes4,{_POLICY}[])"
_STEP = f"(bool,address,bytes32,{_ACTION}[],(address,uint256,bytes)[])"
_PROBE = "(address,bytes)"
_RUN = selector(f"run({_STEP}[],{_PROBE}[])")
_READ = keccak(text="session-executor: read a slot")
_IMPLEMENTATION = keccak(text="session-executor: implementation")
# for the driver's bound on a step, times the steps of a sequence
_GAS = 10_000_000_000
_RULE_SLOTS, _RULE_LIMIT, _RULE_USED = 4, 2, 3
_GETTERS: Mapping[type[PolicyModel], tuple[str, ...]] = {
    UsageLimit: ("getUsageLimit", "getUsed"),
    ValueLimit: ("getValueLimit", "getUsed"),
    TimeFrame: ("getTimeFrameConfig",),
}

_Ends = tuple[str, bytes]
"""Target and calldata of a question."""


def address_of(name: str) -> str:
    """An address that nobody has a key of."""
    return "0x" + keccak(text=f"session-executor onchain {name}")[12:].hex()


DRIVER = address_of("driver")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the chain says of a step.

    Attributes:
        passed: not reverted.
        revert_data: why it reverted.
        states: the watched state after it.
    """

    passed: bool
    revert_data: bytes
    states: Mapping[Watched, Counts]


class PolicyChain:
    """Policies on a chain.

    Args:
        rpc: anvil.
        policies: where each policy is, of those that are there.
        now_s: the time that each sequence sees, unix seconds.
        created: where the contract itself is; ``policies`` are windows on it.
        newest: whether spending-limits is the revision that counts approvals apart and has a getter. The one of 2024
            has a single sum in its storage.
    """

    def __init__(
        self,
        rpc: JsonRpc,
        policies: Mapping[type[PolicyModel], str],
        now_s: int,
        created: Mapping[type[PolicyModel], str] = MappingProxyType({}),
        *,
        newest: bool = True,
    ) -> None:
        self.newest = newest
        self.rpc = rpc
        self.created = created
        self.policies = policies
        self.now_s = now_s

    def run(self, steps: Sequence[Step], watched: Sequence[Watched]) -> list[Outcome]:
        """Judge a sequence from a clean state.

        Raises:
            DevnetError: the chain cannot do it.
        """
        probes = [self._probes(one) for one in watched]
        data = _RUN + encode(
            [f"{_STEP}[]", f"{_PROBE}[]"],
            [[self._encoded(step) for step in steps], [probe for group in probes for probe in group]],
        )
        answer = self.rpc.call(
            "eth_call", {"from": RELAYER, "to": DRIVER, "data": "0x" + data.hex(), "gas": hex(_GAS)}, "latest"
        )
        now_s, outcomes = decode(["uint256", "(bool,bytes,bytes)[]"], bytes.fromhex(answer[2:]))
        if now_s != self.now_s:
            raise DevnetError(f"the chain's time moved from {self.now_s} to {now_s}", field="rpc")
        return [
            Outcome(passed, why, _states(watched, [len(group) for group in probes], seen))
            for passed, why, seen in outcomes
        ]

    def _encoded(self, step: Step) -> tuple[Any, ...]:
        actions = [
            (
                action.target,
                action.selector,
                [(self.policies[type(policy)], policy.v2_init_data()) for policy in action.policies],
            )
            for action in step.actions
        ]
        calls = [(call.to, call.value, call.data) for call in step.executions]
        return step.enabling, step.account, step.permission, actions, calls

    def _probes(self, watched: Watched) -> list[_Ends]:
        account, permission = watched.session
        config = config_id(account, permission, bytes.fromhex(action_id(*watched.key)))
        policy = self.policies[watched.model]
        words = [config, bytes.fromhex(DRIVER[2:]), bytes.fromhex(account[2:])]
        if watched.model is SpendingLimits and not self.newest:
            # (spent, limit) in mapping(id => mapping(multiplexer => mapping(token => mapping(account => …)))) at slot 1
            words.insert(2, bytes.fromhex(watched.part[2:]))
            start = _slot(1, words)
            return [(policy, _READ + ((start + place) % 2**256).to_bytes(32)) for place in (1, 0)]
        if watched.model is SpendingLimits:
            types = ["bytes32", "address", "address", "address"]
            asked = selector(f"getPolicyData({','.join(types)})")
            return [(policy, asked + encode(types, [config, DRIVER, watched.part, account]))]
        if watched.model in _GETTERS:
            types = ["bytes32", "address", "address"]
            arguments = encode(types, [config, DRIVER, account])
            return [
                (policy, selector(f"{name}({','.join(types)})") + arguments)
                for name in _GETTERS[watched.model]
            ]
        # mapping(id => mapping(multiplexer => mapping(account => config))) at slot 0
        start = _slot(0, words) + 2  # after the value limit, and the number of rules or the root
        if watched.model is ArgPolicy:
            start = int.from_bytes(keccak((start % 2**256).to_bytes(32)))
        start += _RULE_SLOTS * int(watched.part)
        return [
            (policy, _READ + ((start + place) % 2**256).to_bytes(32)) for place in (_RULE_LIMIT, _RULE_USED)
        ]


def _slot(mapping: int, keys: Sequence[bytes]) -> int:
    slot = mapping.to_bytes(32)
    for key in keys:
        slot = keccak(key.rjust(32, b"\0") + slot)
    return int.from_bytes(slot)


def put_policies(
    rpc: JsonRpc, artifacts: Mapping[type[PolicyModel], Artifact], whitelist: Whitelist
) -> PolicyChain:
    """Put the driver and the policies on the chain, and stop its clock.

    Args:
        rpc: anvil, perhaps of a fork.
        artifacts: the policies.
        whitelist: what intent-execution shall list.

    Raises:
        DevnetError: a contract cannot be created.
    """
    chain = Chain(rpc)
    rpc.call("anvil_setBalance", RELAYER, hex(RELAYER_BALANCE_WEI))
    rpc.call("anvil_impersonateAccount", RELAYER)
    rpc.call("anvil_setCode", DRIVER, our_code("PolicyDriver"))
    contracts: dict[type[PolicyModel], str] = {}
    policies: dict[type[PolicyModel], str] = {}
    for model, artifact in artifacts.items():
        created = contracts[model] = _create(rpc, artifact, whitelist)
        if model is IntentExecution:
            # its list is set by its constructor too, which a window would not show
            _list(chain, created, artifact, whitelist)
            policies[model] = created
            continue
        window = address_of(artifact.name)
        rpc.call("anvil_setCode", window, our_code("StorageWindow"))
        rpc.call(
            "anvil_setStorageAt", window, "0x" + _IMPLEMENTATION.hex(), "0x" + created[2:].rjust(64, "0")
        )
        policies[model] = window
    rpc.call("evm_setIntervalMining", 0)
    rpc.call("evm_setBlockGasLimit", hex(_GAS))
    rpc.call("evm_mine")
    empty = _RUN + encode([f"{_STEP}[]", f"{_PROBE}[]"], [[], []])
    now_s = int.from_bytes(chain.read(DRIVER, empty)[:32])
    spending = artifacts.get(SpendingLimits)
    newest = spending is None or spending.has("getPolicyData")
    return PolicyChain(rpc, policies, now_s, contracts, newest=newest)


def _create(rpc: JsonRpc, artifact: Artifact, whitelist: Whitelist) -> str:
    arguments = b""
    types = artifact.constructor
    if types:
        # intent-execution's owner and paymaster, and in its first revision what it lists
        known: dict[str, Any] = {"address[]": sorted(whitelist.targets)}
        values = [known.get(kind, RELAYER) for kind in types]
        arguments = encode(types, values)
    transaction = {"from": RELAYER, "data": "0x" + (artifact.creation + arguments).hex(), "gas": hex(10**7)}
    tx_hash = rpc.call("eth_sendTransaction", transaction)
    receipt = Chain(rpc).receipt(tx_hash)
    if int(receipt["status"], 16) != 1:
        raise DevnetError(f"{artifact.name} cannot be created", field="ARTIFACTS", fix="compile it again")
    return str(receipt["contractAddress"]).lower()


def _list(chain: Chain, address: str, artifact: Artifact, whitelist: Whitelist) -> None:
    calls = [selector("setPaymaster(address)") + encode(["address"], [whitelist.paymaster])]
    entries = [(target, True) for target in sorted(whitelist.targets)]
    if artifact.has("setWhitelistedTargets"):
        types = "(address,bool)[]"
        calls.append(selector(f"setWhitelistedTargets({types})") + encode([types], [entries]))
    else:
        calls += [
            selector("setWhitelistedTarget(address,bool)") + encode(["address", "bool"], entry)
            for entry in entries
        ]
    for data in calls:
        if int(chain.send(address, data)["status"], 16) != 1:
            raise DevnetError(f"{artifact.name} does not take its list", field="ARTIFACTS")


def _states(watched: Sequence[Watched], groups: Sequence[int], seen: bytes) -> dict[Watched, Counts]:
    states: dict[Watched, Counts] = {}
    at = 0
    for one, group in zip(watched, groups, strict=True):
        words: list[int] = []
        for _ in range(group):
            answered, at = seen[at], at + 1
            length = (3 if one.model is SpendingLimits and group == 1 else 1) if answered else 0
            words += [int.from_bytes(seen[at + 32 * i : at + 32 * (i + 1)]) for i in range(length)]
            at += 32 * length
        if one.model is TimeFrame and words:
            words = [words[0] >> 48, words[0] & (2**48 - 1)]
        # a token that is not listed has no state
        states[one] = (words[0], sum(words[1:])) if words else (0, 0)
    if at != len(seen):
        raise DevnetError("a policy's getter answers in another form", field="ARTIFACTS")
    return states
