"""What intent-execution's list says about the calls of one operation, read from its contract (policies.md 2)."""

from __future__ import annotations

from collections.abc import Sequence

from eth_abi.abi import encode
from eth_hash.auto import keccak

from worker.chain.errors import CallRevertedError
from worker.execution.retry import read_again
from worker.execution.runtime import Runtime
from worker.policies import IntentExecution, Whitelist
from worker.policies.base import Execution
from worker.policies.evaluate import NO_FUNCTION_SELECTOR, PolicyTable
from worker.policies.intent_execution import approved_spender

_LISTED = keccak(b"whitelistedTargets(address)")[:4]
_PAYMASTER = keccak(b"paymaster()")[:4]


def read_whitelist(runtime: Runtime, table: PolicyTable, executions: Sequence[Execution]) -> Whitelist:
    """Ask the chain about the targets and spenders that intent-execution will be asked about, and no others.

    Nothing is asked for a session whose calls all have actions of their own. A contract that is not there, reverts or
    answers in another form lists nothing.

    Raises:
        ChainError, WrongChainError: the chain cannot be asked.
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
    targets = frozenset(
        address for address in addresses if _word(runtime, _LISTED + encode(["address"], [address])) == 1
    )
    paymaster = _word(runtime, _PAYMASTER) if approves else None
    named = paymaster is not None and 0 < paymaster < 2**160
    return Whitelist(targets, f"0x{paymaster:040x}" if named else "")


def _word(runtime: Runtime, data: bytes) -> int | None:
    try:
        reply = read_again(lambda: runtime.chain.call(IntentExecution.address, data))
    except CallRevertedError:
        return None
    return int.from_bytes(reply) if len(reply) == 32 else None
