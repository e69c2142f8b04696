"""The devnet's contracts seen from Python: artifacts, addresses, ABI encoding, and putting them on the chain."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from worker.devnet.errors import DevnetError, RpcError
from worker.devnet.rpc import JsonRpc
from worker.sessions.chains import chain_of, known_chains

USDC = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
WETH = "0x4200000000000000000000000000000000000006"
EMISSARY = "0xad568b3f825a8d5ffc06dd3253526b64d810ae89"
INTENT_EXECUTOR = "0x00000000005ad9ce1f5035fd62ca96cef16adaaf"
OWNABLE_VALIDATOR = "0x000000000013fdb5234e4e3162a810f54d9f7e98"
PERMIT2 = "0x000000000022d473030f116ddee9f6b43ac78ba3"
# of two layers, some of those that the SDK knows
ARBITERS = {
    "ACROSS": "0x28a4d41776968c1201a807ec51ffb405362b8882",
    "SAME_CHAIN": "0x000000000006e2569caf8ff021810790e0a0d740",
}
ARBITER = ARBITERS["ACROSS"]
ZERO_ADDRESS = "0x" + "00" * 20
# Sends every transaction of the devnet. anvil impersonates it: it has no key.
RELAYER = "0x" + keccak(text="session-executor devnet relayer")[12:].hex()
RELAYER_BALANCE_WEI = 10**24
# what it fills from; base units
RELAYER_USDC = 10**15
# ECDSA recovery, hashing and storage of the largest session of the vectors stay below a tenth of it.
TX_GAS = 16_000_000
RECEIPT_TIMEOUT_S = 10.0

KINDS = ("nexus", "safe", "startale", "kernel")

POLICY = "(address,bytes)"
ACTION = f"(bytes4,address,{POLICY}[])"
SESSION = f"(address,bytes,bytes32,{ACTION}[],{POLICY}[],((bytes32,string[])[],{POLICY}[]))"
CHAIN_DIGESTS = "(uint64,bytes32)[]"
ENABLE = f"(bytes,bytes,uint256,(uint8,{CHAIN_DIGESTS},{SESSION}))"
CONFIG = "(uint8,uint8,address,bytes32)"
CALLS = "(address,uint256,bytes)[]"
AMOUNTS = "(address,uint256)[]"
PERMIT = f"({AMOUNTS},uint256,uint256)"
_OP = f"(bytes32,{CALLS})"
MANDATE = f"((address,{AMOUNTS},uint256,uint256),uint128,{_OP},{_OP},bytes32)"
_EXECUTE = ("address", "uint256", "bytes", CALLS)
_FILL = (*_EXECUTE, "address", AMOUNTS)

CONFIG_SET = keccak(text="ConfigSet(address,bytes32,bytes)")
CONFIG_REMOVED = keccak(text="ConfigRemoved(address,bytes32)")
INTENT_EXECUTED = keccak(text="IntentExecuted(address,uint256)")
CLAIMED = keccak(text="Claimed(address,uint256)")


class Call(NamedTuple):
    """One call of a batch: lower-case address, wei, calldata."""

    to: str
    value: int
    data: bytes


def usdc_of(chain_id: int) -> str:
    """Address of USDC on a chain, lower-case.

    Raises:
        DevnetError: the devnet has no such chain: it needs the SDK's addresses of ETH, USDC and WETH.
    """
    chain = known_chains().get(chain_id)
    tokens = {} if chain is None else {token.symbol: token.address for token in chain.tokens}
    if not {"ETH", "USDC", "WETH"} <= set(tokens) or tokens["ETH"] != ZERO_ADDRESS:
        raise DevnetError(
            f"cannot stand in for chain {chain_id}",
            field="chain",
            fix="use one whose ETH, USDC and WETH SDK 1.15.0 knows, such as 8453, 42161 or 10",
        )
    return tokens["USDC"]


@lru_cache(maxsize=8)
def artifact(contract: str) -> dict[str, Any]:
    """The committed artifact: ``abi``, ``deployedBytecode``, compiler version and settings."""
    text = files("worker.devnet").joinpath("contracts", "artifacts", f"{contract}.json").read_text()
    return dict(json.loads(text))


def selector(signature: str) -> bytes:
    """First four bytes of the signature's keccak-256."""
    return keccak(text=signature)[:4]


def set_config_call(account: str, config: tuple[Any, ...], enable: tuple[Any, ...]) -> bytes:
    """Calldata of the emissary's ``setConfig`` (0xa45edb84); tuples in ABI order."""
    return selector(f"setConfig(address,{CONFIG},{ENABLE})") + encode(
        ["address", CONFIG, ENABLE], [account, config, enable]
    )


def execute_call(account: str, nonce: int, set_config: bytes, calls: Sequence[Call]) -> bytes:
    """Calldata of ``DevExecutor.execute``."""
    return _encoded("execute", _EXECUTE, account, nonce, set_config, [tuple(call) for call in calls])


def fill_call(
    account: str,
    nonce: int,
    set_config: bytes,
    calls: Sequence[Call],
    *,
    recipient: str,
    deliveries: Sequence[tuple[str, int]],
) -> bytes:
    """Calldata of ``DevExecutor.fill``: as ``execute``, after the relayer has paid (token, base units) to the recipient."""
    listed = [tuple(call) for call in calls]
    return _encoded("fill", _FILL, account, nonce, set_config, listed, recipient, list(deliveries))


def claim_call(
    account: str, set_config: bytes, permit: tuple[Any, ...], mandate: tuple[Any, ...], signature: bytes
) -> bytes:
    """Calldata of ``DevArbiter.claim``; tuples in ABI order."""
    types = ("address", "bytes", PERMIT, MANDATE, "bytes")
    return _encoded("claim", types, account, set_config, permit, mandate, signature)


def read_execute_call(calldata: bytes) -> tuple[str, int, bytes, tuple[Call, ...]]:
    """What ``execute`` or ``fill`` was called with: account (lower-case), nonce, setConfig calldata, calls."""
    fill = calldata[:4] == selector(f"fill({','.join(_FILL)})")
    account, nonce, set_config, calls, *_ = decode(_FILL if fill else _EXECUTE, calldata[4:])
    return (
        str(account).lower(),
        int(nonce),
        bytes(set_config),
        tuple(Call(str(to).lower(), int(value), bytes(data)) for to, value, data in calls),
    )


def _encoded(name: str, types: Sequence[str], *values: Any) -> bytes:
    return selector(f"{name}({','.join(types)})") + encode(list(types), list(values))


def _errors() -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for name in ("DevAccount", "DevArbiter", "DevEmissary", "DevExecutor", "DevPermit2", "DevUsdc"):
        for item in artifact(name)["abi"]:
            if item["type"] == "error":
                types = ",".join(part["type"] for part in item["inputs"])
                found[selector(f"{item['name']}({types})")] = item["name"]
    return found


def revert_reason(error: RpcError) -> str:
    """Words for a revert: a ``require`` text, a custom error's name, or the node's message."""
    data = error.data
    if data[:4] == selector("Error(string)"):
        return str(decode(["string"], data[4:])[0])
    return _errors().get(data[:4], error.message if not data else f"revert 0x{data[:4].hex()}")


class Chain:
    """What the devnet does on its chain.

    Args:
        rpc: the chain.
        forked: the chain is a fork: the token that is there stays, and balances are dealt into its storage.

    Attributes:
        chain_id: the chain's id.
        name: its name.
        usdc: address of its USDC, lower-case.
        tokens: address -> (symbol, decimals) of the tokens that the devnet deals with there.
    """

    def __init__(self, rpc: JsonRpc, *, forked: bool = False) -> None:
        self.rpc = rpc
        self.forked = forked
        self.chain_id = rpc.quantity("eth_chainId")
        self.first_block = rpc.quantity("eth_blockNumber")
        self.name = chain_of(self.chain_id).name
        known = chain_of(self.chain_id).tokens
        self.tokens = {
            token.address: (token.symbol, token.decimals)
            for symbol in ("ETH", "USDC", "WETH")
            for token in known
            if token.symbol == symbol
        }
        self.usdc = usdc_of(self.chain_id)

    def install(self) -> None:
        """Put token, emissary, executor, Permit2 and arbiters at their production addresses and fund the relayer."""
        for contract, address in (("DevUsdc", self.usdc), ("DevPermit2", PERMIT2)):
            if self.rpc.call("eth_getCode", address, "latest") == "0x":
                self._put(contract, address)
        self._put("DevEmissary", EMISSARY)
        self._put("DevExecutor", INTENT_EXECUTOR)
        for arbiter in ARBITERS.values():
            self._put("DevArbiter", arbiter)
        slot = "0x" + "00" * 12 + RELAYER[2:]
        self.rpc.call("anvil_setStorageAt", INTENT_EXECUTOR, "0x" + "00" * 32, slot)
        self.rpc.call("anvil_setBalance", RELAYER, hex(RELAYER_BALANCE_WEI))
        self.rpc.call("anvil_impersonateAccount", RELAYER)
        if not self.forked:
            self.set_usdc(RELAYER, RELAYER_USDC)
            types = ("address", "uint256")
            self.send(self.usdc, _encoded("approve", types, INTENT_EXECUTOR, 2**256 - 1))

    def put_account(self, address: str, kind: str, owners: Sequence[str], threshold: int) -> None:
        """Put a ``DevAccount`` at ``address`` and set its owners. It has let Permit2 take its USDC, as accounts have."""
        self._put("DevAccount", address)
        data = selector("configureAccount(address,uint8,uint256,address[])") + encode(
            ["address", "uint8", "uint256", "address[]"],
            [address, KINDS.index(kind), threshold, list(owners)],
        )
        self.send(INTENT_EXECUTOR, data)
        if not self.forked:
            types = ("address", "address", "uint256")
            self.send(self.usdc, _encoded("devApprove", types, address, PERMIT2, 2**256 - 1))

    def set_usdc(self, address: str, amount: int) -> None:
        """Set a USDC balance to exactly ``amount`` base units."""
        if self.forked:
            self.rpc.call("anvil_dealERC20", address, self.usdc, hex(amount))
        else:
            self.send(
                self.usdc,
                selector("devSetBalance(address,uint256)")
                + encode(["address", "uint256"], [address, amount]),
            )

    def set_eth(self, address: str, wei: int) -> None:
        """Set a native balance to exactly ``wei``."""
        self.rpc.call("anvil_setBalance", address, hex(wei))

    def balance(self, token: str, address: str) -> int:
        """Base units of ``token`` (zero address: wei) that ``address`` holds."""
        if token == ZERO_ADDRESS:
            return self.rpc.quantity("eth_getBalance", address, "latest")
        return int.from_bytes(
            self.read(token, selector("balanceOf(address)") + encode(["address"], [address]))
        )

    def is_valid_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """ERC-1271 on the account."""
        data = selector("isValidSignature(bytes32,bytes)") + encode(["bytes32", "bytes"], [digest, signature])
        try:
            return self.read(account, data)[:4] == bytes.fromhex("1626ba7e")
        except RpcError:
            return False

    def is_permission_enabled(self, account: str, permission_id: bytes) -> bool:
        """The emissary's answer."""
        data = selector("isPermissionEnabled(address,bytes32)") + encode(
            ["address", "bytes32"], [account, permission_id]
        )
        return int.from_bytes(self.read(EMISSARY, data)) == 1

    def read(self, to: str, data: bytes, *, sender: str = RELAYER, value: int = 0) -> bytes:
        """``eth_call``; raises RpcError on revert."""
        call = {
            "from": sender,
            "to": to,
            "value": hex(value),
            "data": "0x" + data.hex(),
            "gas": hex(TX_GAS),
        }
        return bytes.fromhex(self.rpc.call("eth_call", call, "latest")[2:])

    def send(self, to: str, data: bytes, *, value: int = 0) -> dict[str, Any]:
        """Send a transaction from the relayer, with so much wei, and return its receipt, whatever its status.

        Raises:
            DevnetError: anvil mined no receipt for it.
        """
        transaction = {
            "from": RELAYER,
            "to": to,
            "value": hex(value),
            "data": "0x" + data.hex(),
            "gas": hex(TX_GAS),
        }
        tx_hash = self.rpc.call("eth_sendTransaction", transaction)
        return self.receipt(tx_hash)

    def receipt(self, tx_hash: str) -> dict[str, Any]:
        """The receipt of a transaction that was sent.

        Raises:
            DevnetError: anvil mined none.
        """
        # anvil mines at once, but in a task of its own
        deadline = time.monotonic() + RECEIPT_TIMEOUT_S
        while time.monotonic() < deadline:
            receipt = self.rpc.call("eth_getTransactionReceipt", tx_hash)
            if receipt is not None:
                return dict(receipt)
            time.sleep(0.002)
        raise DevnetError(
            f"transaction {tx_hash} was not mined", field="rpc", fix="leave anvil's automine on"
        )

    def emissary_logs(self, account: str, from_block: int) -> list[dict[str, Any]]:
        """``ConfigSet`` and ``ConfigRemoved`` of one account, oldest first."""
        query = {
            "address": EMISSARY,
            "fromBlock": hex(from_block),
            "toBlock": "latest",
            "topics": [
                ["0x" + CONFIG_SET.hex(), "0x" + CONFIG_REMOVED.hex()],
                "0x" + "00" * 12 + account[2:],
            ],
        }
        return list(self.rpc.call("eth_getLogs", query))

    def _put(self, contract: str, address: str) -> None:
        self.rpc.call("anvil_setCode", address, artifact(contract)["deployedBytecode"])
