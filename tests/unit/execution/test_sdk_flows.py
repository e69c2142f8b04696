"""Whole intents of SDK 1.15.0: our quote request and our submit body are the recorded ones, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.vectors import load_vectors
from worker.execution.route_request import route_request
from worker.execution.sign import signatures
from worker.keys.port import KeyInfo, SecretKey
from worker.orchestrator import exact_json
from worker.policies.base import Execution
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.signing.intent_op import payloads

FLOWS = ("flow_a_enabled_same_chain", "flow_b_enable_and_use")


class MemoryKeys:
    """The ``KeyStore`` port over the vectors' published keys."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self.keys = keys
        self.taken: list[SecretKey] = []

    def create(self, *, label: str = "", replaces: str = "") -> KeyInfo:
        raise NotImplementedError(label, replaces)

    def adopt(self, key: SecretKey, *, label: str = "") -> KeyInfo:
        raise NotImplementedError(key, label)

    def mark_rotated(self, address: str) -> None:
        raise NotImplementedError(address)

    def destroy(self, address: str) -> None:
        raise NotImplementedError(address)

    @contextmanager
    def get(self, address: str) -> Generator[SecretKey]:
        key = SecretKey(self.keys[address], address)
        self.taken.append(key)
        try:
            yield key
        finally:
            key.wipe()

    def list(self) -> Iterator[KeyInfo]:
        return iter(())

    def check(self) -> str:
        return ""


def _keys(flow: dict[str, Any]) -> MemoryKeys:
    return MemoryKeys(
        {entry["address"].lower(): bytes.fromhex(entry["privateKey"][2:]) for entry in flow["keys"].values()}
    )


def _session(flow: dict[str, Any]) -> RegisteredSession:
    account, signer = flow["account"], flow["transaction"]["signer"]
    given = signer["session"]
    setup = []
    if not account["existing"]:
        setup = [{"to": account["factory"], "data": account["factoryData"]}]
    content: dict[str, Any] = {
        "account": {
            "address": account["address"],
            "kind": account["type"],
            "setupOps": setup,
            "owners": {"accounts": [flow["keys"]["owner"]["address"]]},
        },
        "chain": given["chainId"],
        "owners": {"accounts": given["owners"]["addresses"]},
        "actions": given["actions"],
    }
    if signer.get("enableData"):
        content["enableData"] = signer["enableData"]
    return recompute(load_session_file(json.dumps(content)))


def _calls(flow: dict[str, Any]) -> tuple[Execution, ...]:
    return tuple(
        Execution(call["to"].lower(), int(call["value"]), bytes.fromhex(call["data"][2:]))
        for call in flow["transaction"]["calls"]
    )


@pytest.mark.parametrize("name", FLOWS)
def test_the_quote_request_is_the_sdks(name: str) -> None:
    flow = load_vectors(name)
    recorded = flow["expected"]["http"][0]["request"]["bodyText"]
    gas = flow["transaction"].get("gasLimit")
    body = route_request(
        _session(flow),
        _calls(flow),
        sponsored=True,
        enable=not flow["enabledOnChain"],
        gas_units=None if gas is None else int(gas),
    )
    if (
        flow["transaction"]["sponsored"] is not True
    ):  # we know all or nothing; the flow sponsors the gas alone
        body["options"]["sponsorSettings"] = json.loads(recorded)["options"]["sponsorSettings"]
    assert json.dumps(body, separators=(",", ":")) == recorded


@pytest.mark.parametrize("name", FLOWS)
def test_the_submit_body_is_the_sdks(name: str) -> None:
    flow = load_vectors(name)
    route, submit = flow["expected"]["http"][:2]
    intent_op = route["response"]["body"]["intentOp"]
    raw = json.dumps(intent_op, separators=(",", ":"))
    session, keys = _session(flow), _keys(flow)
    members = signatures(
        payloads(intent_op, session.account), session, keys, enable=not flow["enabledOnChain"]
    )
    body = '{"signedIntentOp":' + exact_json.with_members(raw, members) + "}"
    assert body == submit["request"]["bodyText"]
    assert keys.taken
    for key in keys.taken:  # the keys are gone once it is signed
        with pytest.raises(ValueError, match="wiped"):
            key.use()
