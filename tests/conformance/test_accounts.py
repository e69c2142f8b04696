"""Random account configurations and owners' transactions: our bytes against those of the installed SDK 1.15.0."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.sdk import SdkError, SdkOracle
from tests.support.sdk_draws import Draw, KeySet, draws
from worker.execution.owner import OwnedAccount, owner_route_request, owner_signatures
from worker.policies.base import Execution
from worker.sessions.accounts import (
    EXECUTOR_MODULE,
    NEXUS_VERSIONS,
    CounterfactualAccount,
    derive_account,
    install_calls,
    uninstall_calls,
)
from worker.sessions.errors import SessionError
from worker.sessions.model import EcdsaOwners
from worker.signing.contracts import STARTALE_K1_VALIDATOR
from worker.signing.intent_op import payloads
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.structs import AccountKind

pytestmark = pytest.mark.services


class DrawnAccount:
    """A configuration, spelled for the SDK and for us; ``ours`` is what we make of it."""

    def __init__(self, draw: Draw, kind: AccountKind, *, module: bool = True) -> None:
        self.kind = kind
        self.owners = draw.keys(5, module=module)
        self.sessions = draw.maybe(0.8)
        theirs: dict[str, Any] = {}
        ours: dict[str, Any] = {}
        if kind == "safe":
            if draw.maybe(0.6):
                theirs["nonce"] = draw.uint(2**256 - 1)
                ours["salt_nonce"] = int(theirs["nonce"])
        elif draw.maybe(0.6):
            theirs["salt"] = draw.blob(32)
            ours["salt"] = bytes.fromhex(theirs["salt"][2:])
        if kind == "nexus" and draw.maybe(0.6):
            theirs["version"] = ours["version"] = draw.among(*NEXUS_VERSIONS)
        self.for_sdk = {
            "kind": kind,
            "owners": self.owners.for_sdk(),
            "options": theirs,
            "sessions": self.sessions,
        }
        self.ours: CounterfactualAccount = derive_account(
            our_owners(self.owners), kind, sessions=self.sessions, **ours
        )


def our_owners(keys: KeySet) -> EcdsaOwners:
    return EcdsaOwners.model_validate(keys.for_us())


def spelled(calls: tuple[Execution, ...]) -> list[dict[str, str]]:
    return [{"to": call.to, "value": str(call.value), "data": "0x" + call.data.hex()} for call in calls]


def lowered(calls: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value.lower() for name, value in call.items()} for call in calls]


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
class TestAccounts:
    """What a user is given as address, what deploys it, and what makes it take sessions."""

    def test_address_init_code_and_setup_ops(self, sdk: SdkOracle, kind: AccountKind) -> None:
        for draw in draws(f"accounts/{kind}"):
            drawn = DrawnAccount(draw, kind)
            theirs, ours = sdk("derive", account=drawn.for_sdk), drawn.ours
            assert ours.address == theirs["address"].lower(), draw.name
            code = {"factory": ours.factory, "factoryData": "0x" + ours.factory_data.hex()}
            # the SDK keeps the case of a checksummed owner module in its hex text
            assert code == {name: value.lower() for name, value in theirs["initCode"].items()}, draw.name
            ops = [{"to": to, "data": "0x" + data.hex()} for to, data in ours.setup_ops]
            assert ops == lowered(theirs["setupOps"]), draw.name

    def test_module_calls_of_a_deployed_account(self, sdk: SdkOracle, kind: AccountKind) -> None:
        for draw in draws(f"modules/{kind}"):
            drawn = DrawnAccount(draw, kind)
            theirs = sdk("derive", account=drawn.for_sdk)
            address = drawn.ours.address
            assert spelled(install_calls(kind, address, EXECUTOR_MODULE)) == lowered(theirs["executor"])
            # the SDK answers without calls when its configuration has no sessions
            assert lowered(theirs["enable"]) == (
                spelled(install_calls(kind, address)) if drawn.sessions else []
            )
            assert lowered(theirs["disable"]) == (
                spelled(uninstall_calls(kind, address)) if drawn.sessions else []
            )

    def test_what_an_owner_sends(self, sdk: SdkOracle, kind: AccountKind) -> None:
        for draw in draws(f"owner intents/{kind}"):
            drawn = DrawnAccount(draw, kind, module=False)
            chain = 8453
            calls, sponsored = draw.calls(), draw.maybe()
            owned = OwnedAccount.of(drawn.ours, chain)
            if kind in {"nexus", "safe"} and draw.maybe(0.3):
                owned = OwnedAccount(draw.address().lower(), kind, chain)
            account = {**drawn.for_sdk} if owned.setup_ops else {**drawn.for_sdk, "address": owned.account}
            intent_op = draw.intent_op(owned.account, chain, layer="INTENT_EXECUTOR", funding="NO_FUNDING")
            theirs = sdk(
                "ownerTransaction",
                account=account,
                chain=chain,
                calls=calls,
                **({"sponsored": True} if sponsored else {}),
                intentOp=intent_op,
            )
            request = owner_route_request(
                owned,
                [
                    Execution(call["to"].lower(), int(call["value"]), bytes.fromhex(call["data"][2:]))
                    for call in calls
                ],
                sponsored=sponsored,
            )
            text = json.dumps(request, separators=(",", ":"))
            # an existing account's address goes out as it was configured; the order of members is the SDK's
            assert text.lower() == theirs["route"].lower(), draw.name
            message = payloads(intent_op, owned.account, with_target=False)
            members = owner_signatures(message, owned, drawn.owners.keys)
            assert {**intent_op, **members} == theirs["submit"]["signedIntentOp"], draw.name


def test_the_order_of_owners_names_another_safe_but_the_same_nexus(sdk: SdkOracle) -> None:
    """The validator sorts its owners, a Safe keeps its own list."""
    keys = Draw("owner order", 0).keys(1).keys + Draw("owner order", 1).keys(1).keys
    for kind in ACCOUNT_KINDS:
        derived = [
            sdk("derive", account={"kind": kind, "owners": KeySet(order, None).for_sdk()})["address"].lower()
            for order in (keys, keys[::-1])
        ]
        assert (derived[0] == derived[1]) is (kind != "safe")
        assert [
            derive_account(our_owners(KeySet(order, None)), kind).address for order in (keys, keys[::-1])
        ] == derived


def test_startale_with_its_k1_validator_is_refused_though_the_sdk_derives_it(sdk: SdkOracle) -> None:
    """An account whose owners' approval nobody here can read is not handed out."""
    owners = KeySet((b"\x07" * 32,), None, STARTALE_K1_VALIDATOR)
    assert sdk("derive", account={"kind": "startale", "owners": owners.for_sdk()})["address"]
    with pytest.raises(SessionError) as error:
        derive_account(our_owners(owners), "startale")
    assert error.value.field == "owners.module"


def test_the_sdk_takes_a_checksummed_ownable_validator_for_another_module(sdk: SdkOracle) -> None:
    """Why we keep one spelling: the SDK's Nexus then installs its own default validator, which reverts."""
    [key] = Draw("checksummed module", 0).keys(1).keys
    plain, spelled_otherwise = (
        sdk("derive", account={"kind": "nexus", "owners": KeySet((key,), None, module).for_sdk()})["address"]
        for module in (None, "0x000000000013fdB5234E4E3162a810F54d9f7E98")
    )
    assert plain != spelled_otherwise
    ours = derive_account(
        our_owners(KeySet((key,), None, "0x000000000013fdB5234E4E3162a810F54d9f7E98")), "nexus"
    )
    assert ours.address == plain.lower()


def test_an_account_configured_for_the_sdk_without_owners_is_an_error_there(sdk: SdkOracle) -> None:
    """The oracle reports errors as errors, so that equal answers above are answers."""
    with pytest.raises(SdkError):
        sdk("derive", account={"kind": "no such kind", "owners": {"keys": ["0x" + "07" * 32]}})
