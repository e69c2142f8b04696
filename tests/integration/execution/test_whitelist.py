"""intent-execution's list is read from its contract; what the chain does not say is on no list."""

from __future__ import annotations

import pytest
from eth_utils.crypto import keccak

from tests.support.pipeline import Pipeline
from tests.support.policy_getters import GETTERS
from tests.support.sessions import BASE
from worker.execution.whitelist import read_whitelist
from worker.policies import IntentExecution, Sudo, Whitelist
from worker.policies.base import Execution
from worker.policies.evaluate import FALLBACK_SELECTOR, FALLBACK_TARGET, ActionPolicies, build_table

pytestmark = pytest.mark.services

_TARGET, _SPENDER, _PAYMASTER = "0x" + "11" * 20, "0x" + "22" * 20, "0x" + "33" * 20
_APPROVE = bytes.fromhex("095ea7b3") + bytes(12) + bytes.fromhex(_SPENDER[2:]) + bytes(32)
_TABLE = build_table([ActionPolicies(FALLBACK_TARGET, FALLBACK_SELECTOR, (IntentExecution(),))])


def _answer(pipeline: Pipeline, calldata: bytes, word: int, *, size: int = 32) -> None:
    slot = int.from_bytes(keccak(calldata))
    for offset, value in enumerate((size, word)):
        pipeline.devnet.rpc.call(
            "anvil_setStorageAt", IntentExecution.address, f"0x{slot + offset:064x}", f"0x{value:064x}"
        )


def _listed(address: str) -> bytes:
    return keccak(text="whitelistedTargets(address)")[:4] + bytes(12) + bytes.fromhex(address[2:])


def test_the_contract_s_answers_are_what_is_listed(pipeline: Pipeline) -> None:
    call = Execution(_TARGET, 0, _APPROVE)
    assert read_whitelist(pipeline.runtime, _TABLE, [call], BASE) == Whitelist()  # no contract is there
    pipeline.devnet.rpc.call("anvil_setCode", IntentExecution.address, "0x" + GETTERS)
    assert read_whitelist(pipeline.runtime, _TABLE, [call], BASE) == Whitelist()  # it reverts
    _answer(pipeline, _listed(_TARGET), 1)
    _answer(pipeline, _listed(_SPENDER), 1, size=31)  # no whole word: not understood, so not listed
    _answer(pipeline, keccak(text="paymaster()")[:4], int(_PAYMASTER, 16))
    assert read_whitelist(pipeline.runtime, _TABLE, [call], BASE) == Whitelist(
        frozenset({_TARGET}), _PAYMASTER
    )


def test_calls_with_an_action_of_their_own_are_not_asked_about(pipeline: Pipeline) -> None:
    scoped = build_table([ActionPolicies(_TARGET, _APPROVE[:4], (Sudo(),))])
    pipeline.devnet.rpc.call("anvil_setCode", IntentExecution.address, "0x" + GETTERS)
    _answer(pipeline, _listed(_TARGET), 1)
    assert read_whitelist(pipeline.runtime, scoped, [Execution(_TARGET, 0, _APPROVE)], BASE) == Whitelist()
