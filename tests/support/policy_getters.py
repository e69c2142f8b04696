"""A stand-in for the policy contracts' getters, which the devnet does not have.

It answers a call for which the test has stored words, and reverts on any other: so a test fixes each byte of each
question, the getter, config id, emissary, token and account.
"""

from __future__ import annotations

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from tests.support.sessions import ACCOUNT, TRANSFER, USDC
from worker.devnet.chain import EMISSARY
from worker.devnet.devnet import Devnet

# h = keccak(calldata); slot h: how many bytes to answer (0: revert), slots h+1 to h+3: what
GETTERS = (
    "365f5f37" "365f20" "8054" "80601057" "5f5ffd" "5b90"
    "8060010154" "5f52" "8060020154" "602052" "60030154" "604052" "5ff3"
)  # fmt: skip
SPENDING = "0x00000088d48cf102a8cdb0137a9b173f957c6343"
USAGE = "0x1f34ef8311345a3a4a4566af321b313052f51493"
VALUE = "0x730da93267e7e513e932301b47f2ac7d062abc83"


class PolicyGetters:
    """The getters of a session's ``USDC.transfer`` on the devnet's chain.

    Args:
        devnet: where they are put.
        permission_id: the session's, 32 bytes.
    """

    def __init__(self, devnet: Devnet, permission_id: bytes) -> None:
        self.rpc = devnet.rpc
        action = keccak(bytes.fromhex(USDC[2:]) + TRANSFER)
        self.config = keccak(bytes.fromhex(ACCOUNT[2:]) + keccak(permission_id + action))
        for address in (SPENDING, USAGE, VALUE):
            self.rpc.call("anvil_setCode", address, "0x" + GETTERS)

    def answer(self, contract: str, getter: str, *words: int, cut: int = 0) -> None:
        """Answer a getter's call for the session with these words, without the last ``cut`` bytes."""
        types = ["bytes32", "address", "address"]
        arguments = [self.config, EMISSARY, ACCOUNT]
        if getter == "getPolicyData":
            types.insert(2, "address")
            arguments.insert(2, USDC)
        data = keccak(text=f"{getter}({','.join(types)})")[:4] + encode(types, arguments)
        slot = int.from_bytes(keccak(data))
        for offset, word in enumerate((32 * len(words) - cut, *words)):
            self.rpc.call("anvil_setStorageAt", contract, f"0x{slot + offset:064x}", f"0x{word:064x}")
