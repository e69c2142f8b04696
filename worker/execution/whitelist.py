"""What intent-execution's list says about the calls of one operation, read from its contract (policies.md 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.chain.errors import CallRevertedError
from worker.execution.retry import read_again
from worker.execution.runtime import Runtime
from worker.policies import IntentExecution, Whitelist
from worker.policies.base import Execution
from worker.policies.evaluate import NO_FUNCTION_SELECTOR, PolicyTable
from worker.policies.intent_execution import approved_spender

if TYPE_CHECKING:
    from worker.chain.reader import ChainReader

_LISTED = keccak(b"whitelistedTargets(address)")[:4]
_PAYMASTER = keccak(b"paymaster()")[:4]


def read_whitelist(
    runtime: Runtime, table: PolicyTable, executions: Sequence[Execution], chain_id: int
) -> Whitelist:
    """Ask the session's chain about the targets and spenders that intent-execution will be asked about, and no others.

    Nothing is asked for a session whose calls all have actions of their own. A contract that is not there, reverts or
    answers in another form lists nothing.

    Raises:
        ChainError, WrongChainError, UnservedChainError: the chain cannot be asked.
    """
    addresses: dict[str, None] = {}
    approves = False
    for execution in executions:
        selector = execution.data[:4] if len(execution.data) >= 4 else NO_FUNCTION_SELECTOR
        if any(isinstance(policy, IntentExecution) for policy in table.find(execution.to, selector)[1]):
            addresses[execution.to] = None
            if spender := approved_spender(execution.data):
                addresses[spender] = None
                approves = True
    if not addresses:
        return Whitelist()
    chain = runtime.chain_of(chain_id)
    targets = frozenset(
        address for address in addresses if _word(chain, _LISTED + encode(["address"], [address])) == 1
    )
    paymaster = _word(chain, _PAYMASTER) if approves else None
    named = paymaster is not None and 0 < paymaster < 2**160
    return Whitelist(targets, f"0x{paymaster:040x}" if named else "")


def _word(chain: ChainReader, data: bytes) -> int | None:
    try:
        reply = read_again(lambda: chain.call(IntentExecution.address, data))
    except CallRevertedError:
        return None
    return int.from_bytes(reply) if len(reply) == 32 else None
