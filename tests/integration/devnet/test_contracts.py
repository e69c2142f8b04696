"""The devnet's contracts: what is committed is what the sources say, and they accept what the SDK signs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from tests.support.anvil import need_anvil, need_node
from tests.support.vectors import load_vectors
from worker.devnet import compile_contracts
from worker.devnet.anvil import Anvil
from worker.devnet.chain import (
    CHAIN_DIGESTS,
    CONFIG,
    EMISSARY,
    ENABLE,
    INTENT_EXECUTOR,
    RELAYER,
    SESSION,
    Call,
    Chain,
    execute_call,
    revert_reason,
    selector,
)
from worker.devnet.errors import RpcError
from worker.devnet.rpc import JsonRpc

pytestmark = pytest.mark.services


def unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


class TestArtifacts:
    """The committed artifacts are the compiler's output."""

    def test_recompiling_gives_the_committed_artifacts(self) -> None:
        need_node()
        fresh = compile_contracts.compiled()
        committed = {
            path.stem: json.loads(path.read_text()) for path in compile_contracts.ARTIFACTS.glob("*.json")
        }
        assert sorted(fresh) == sorted(committed)
        for name, artifact in fresh.items():
            assert artifact == committed[name], (
                f"{name}: run python -m worker.devnet.compile_contracts and commit the result"
            )


def set_nonce(chain: Chain, account: str, nonce: int) -> None:
    """Write the emissary's nonce: ``mapping(address => mapping(bytes12 => uint256))`` at slot 0."""
    outer = keccak(encode(["address", "uint256"], [account, 0]))
    slot = keccak(bytes(32) + outer)
    chain.rpc.call("anvil_setStorageAt", EMISSARY, "0x" + slot.hex(), "0x" + nonce.to_bytes(32).hex())


def enabling(vector: Any) -> tuple[str, tuple[Any, ...], tuple[Any, ...]]:
    """Account, config and enable tuples of a recorded ``setConfig`` call."""
    data = unhex(vector["expected"]["enableCall"]["data"])
    account, config, enable = decode(["address", CONFIG, ENABLE], data[4:])
    return account, config, enable


def recorded() -> list[Any]:
    # without the vectors the fixture reports the skip
    try:
        vectors = load_vectors("enable_signatures")["vectors"]
    except BaseException:  # noqa: BLE001 - pytest's skip and fail are no Exceptions
        return []
    # the K1 validator has no stand-in
    return [vector for vector in vectors if vector["name"] != "startale-k1"]


class TestRecordedEnabling:
    """The emissary accepts, on the chain, what SDK 1.15.0 was recorded to sign for each kind of account."""

    def test_there_are_vectors_of_every_kind(self) -> None:
        load_vectors("enable_signatures")
        kinds = {vector["accountType"].split()[0] for vector in recorded()}
        assert kinds == {"nexus", "safe", "startale", "kernel"}

    @pytest.mark.parametrize("vector", recorded(), ids=lambda vector: vector["name"])
    def test_a_recorded_approval_enables_the_session(self, vector: Any) -> None:
        need_anvil()
        keys = load_vectors("enable_signatures")["keys"]
        account, config, enable = enabling(vector)
        index = enable[3][0]
        entries = enable[3][1]
        chain_id = int(entries[index][0])
        with Anvil(chain_id=chain_id) as anvil, JsonRpc(anvil.rpc_url) as rpc:
            chain = Chain(rpc)
            chain.install()
            owners = [keys[name]["address"] for name in vector["owners"]["keys"]]
            chain.put_account(
                account, vector["accountType"].split()[0], owners, vector["owners"]["threshold"]
            )
            set_nonce(chain, account, int(vector["nonces"][index]))
            digest = selector(f"multiChainDigest({CHAIN_DIGESTS})") + encode([CHAIN_DIGESTS], [entries])
            assert chain.read(EMISSARY, digest) == unhex(vector["expected"]["multiChainSessionDigest"])
            session = selector(f"sessionDigest(address,uint256,uint256,{SESSION})") + encode(
                ["address", "uint256", "uint256", SESSION],
                [account, enable[2], int(vector["nonces"][index]), enable[3][2]],
            )
            assert chain.read(EMISSARY, session) == entries[index][1]
            receipt = chain.send(EMISSARY, unhex(vector["expected"]["enableCall"]["data"]))
            assert receipt["status"] == "0x1"
            assert chain.is_permission_enabled(account, config[3])
            # the nonce is used up
            with pytest.raises(RpcError) as caught:
                chain.read(EMISSARY, unhex(vector["expected"]["enableCall"]["data"]))
            assert revert_reason(caught.value) == "HashMismatch"

    def test_a_recorded_removal_is_accepted_from_the_account_only(self, vectors: Any) -> None:
        need_anvil()
        vector = vectors("v2_sessions")["removeConfigVectors"][0]
        account = vector["account"].lower()
        data = unhex(vector["expected"]["data"])
        with Anvil(chain_id=84532) as anvil, JsonRpc(anvil.rpc_url) as rpc:
            chain = Chain(rpc)
            chain.install()
            chain.put_account(account, "nexus", [RELAYER], 1)
            set_nonce(chain, account, int(vector["nonce"]))
            with pytest.raises(RpcError):
                chain.read(EMISSARY, data)
            chain.read(EMISSARY, data, sender=account)
            set_nonce(chain, account, int(vector["nonce"]) + 1)
            with pytest.raises(RpcError) as caught:
                chain.read(EMISSARY, data, sender=account)
            assert revert_reason(caught.value) == "HashMismatch"


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    """A bare chain with the contracts and one account."""
    need_anvil()
    with Anvil() as anvil, JsonRpc(anvil.rpc_url) as rpc:
        made = Chain(rpc)
        made.install()
        made.put_account("0x" + "ac" * 20, "nexus", [RELAYER], 1)
        yield made


class TestExecutor:
    """Who may execute, and how often."""

    def test_only_the_relayer_executes(self, chain: Chain) -> None:
        data = execute_call("0x" + "ac" * 20, 1, b"", [Call("0x" + "bb" * 20, 0, b"")])
        with pytest.raises(RpcError) as caught:
            chain.read(INTENT_EXECUTOR, data, sender="0x" + "ee" * 20)
        assert revert_reason(caught.value) == "OnlyRelayer"

    def test_a_nonce_executes_once(self, chain: Chain) -> None:
        data = execute_call("0x" + "ac" * 20, 2, b"", [Call("0x" + "bb" * 20, 0, b"")])
        assert chain.send(INTENT_EXECUTOR, data)["status"] == "0x1"
        assert chain.send(INTENT_EXECUTOR, data)["status"] == "0x0"

    def test_only_the_executor_drives_an_account(self, chain: Chain) -> None:
        data = selector("executeFromExecutor((address,uint256,bytes)[])") + encode(
            ["(address,uint256,bytes)[]"], [[]]
        )
        with pytest.raises(RpcError) as caught:
            chain.read("0x" + "ac" * 20, data)
        assert revert_reason(caught.value) == "OnlyIntentExecutor"
