"""Where accounts of the installed SDK 1.15.0 surprise; random ones are in ``test_draws.py``."""

from __future__ import annotations

import pytest

from tests.support.sdk import SdkError, SdkOracle
from tests.support.sdk_draws import Draw, KeySet
from tests.support.whole_draw import our_owners
from worker.sessions.accounts import (
    derive_account,
)
from worker.sessions.errors import SessionError
from worker.signing.contracts import STARTALE_K1_VALIDATOR
from worker.signing.session_signature import ACCOUNT_KINDS

pytestmark = pytest.mark.services


def test_the_order_of_owners_names_another_safe_but_the_same_nexus(sdk: SdkOracle) -> None:
    """The validator sorts its owners, a Safe keeps its own list."""
    keys = Draw.named("first owner").keys(1).keys + Draw.named("second owner").keys(1).keys
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
    [key] = Draw.named("checksummed module").keys(1).keys
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
