"""Accounts against the vectors recorded from SDK 1.15.0, and what is refused. Random ones: ``tests/conformance``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.sessions import ACCOUNT, key_of, make_session_file
from tests.support.vectors import load_vectors
from worker.policies.base import Execution
from worker.sessions.accounts import (
    EXECUTOR_MODULE,
    FALLBACK_MODULE,
    VALIDATOR,
    Module,
    deployed_by,
    derive_account,
    install_calls,
    uninstall_calls,
)
from worker.sessions.emissary import remove_config_call
from worker.sessions.enabling import revoke_call
from worker.sessions.errors import SessionError
from worker.sessions.file import load_session_file
from worker.sessions.importing import recompute
from worker.sessions.model import EcdsaOwners
from worker.signing.contracts import SMART_SESSION_EMISSARY, STARTALE_K1_VALIDATOR
from worker.signing.errors import SigningInputError
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind

OWNERS = EcdsaOwners(accounts=(address_of(key_of("owner")),))


def recorded(calls: list[dict[str, str]]) -> list[Execution]:
    return [
        Execution(call["to"].lower(), int(call["value"]), bytes.fromhex(call["data"][2:])) for call in calls
    ]


class TestVectors:
    """What the SDK was seen to compute."""

    @pytest.mark.parametrize("flow", ["flow_b_enable_and_use", "flow_d_bare_session_permit2_same_chain"])
    def test_the_accounts_of_the_flows(self, flow: str) -> None:
        file = load_vectors(flow)
        account: dict[str, Any] = file["account"]
        derived = derive_account(
            EcdsaOwners(accounts=(file["keys"]["owner"]["address"],)), kind=account["type"]
        )
        assert derived.address == account["address"].lower()
        assert derived.factory == account["factory"]
        assert "0x" + derived.factory_data.hex() == account["factoryData"]
        assert derived.setup_ops == ((derived.factory, derived.factory_data),)

    def test_module_calls(self) -> None:
        vectors: dict[str, Any] = {vector["name"]: vector for vector in load_vectors("modules")["vectors"]}
        # without sessions in its configuration the SDK has no calls; here nobody asks for them then
        assert vectors.pop("nexus-sessions-not-configured")["expected"] == {"enable": [], "disable": []}
        assert set(vectors) == {"nexus", "safe", "kernel", "startale-ownable"}
        for name, vector in vectors.items():
            kind: Any = name.removesuffix("-ownable")
            account = vector["account"].lower()
            assert vector["module"] == SMART_SESSION_EMISSARY
            assert list(install_calls(kind, account)) == recorded(vector["expected"]["enable"])
            assert list(uninstall_calls(kind, account)) == recorded(vector["expected"]["disable"])

    def test_the_accounts_of_the_module_calls(self) -> None:
        """Four kinds of one owner: their addresses, computed here, are those that the SDK had."""
        file = load_vectors("modules")
        owner = load_vectors("flow_b_enable_and_use")["keys"]["owner"]["address"]
        for vector in file["vectors"]:
            kind: Any = vector["name"].split("-")[0]
            derived = derive_account(
                EcdsaOwners(accounts=(owner,)), kind, sessions=not vector["name"].endswith("not-configured")
            )
            assert derived.address == vector["account"].lower(), vector["name"]


class TestDerivation:
    """One configuration, one address."""

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_everything_that_is_configured_is_in_the_address(self, kind: AccountKind) -> None:
        other = EcdsaOwners(accounts=(address_of(key_of("another owner")),))
        both = (*OWNERS.accounts, *other.accounts)
        salted: dict[str, Any] = {"salt_nonce": 1} if kind == "safe" else {"salt": b"\x01" * 32}
        addresses = [
            derive_account(OWNERS, kind).address,
            derive_account(other, kind).address,
            derive_account(EcdsaOwners(accounts=both), kind).address,
            derive_account(EcdsaOwners(accounts=both, threshold=2), kind).address,
            derive_account(EcdsaOwners(accounts=OWNERS.accounts, module="0x" + "0d" * 20), kind).address,
            derive_account(OWNERS, kind, sessions=False).address,
            derive_account(OWNERS, kind, **salted).address,
        ]
        assert len(set(addresses)) == len(addresses)

    def test_nexus_is_the_default_and_has_two_versions(self) -> None:
        assert derive_account(OWNERS) == derive_account(OWNERS, "nexus", version="1.2.0")
        newer = derive_account(OWNERS, "nexus", version="1.2.1")
        assert newer.factory != derive_account(OWNERS).factory
        assert newer.factory_data == derive_account(OWNERS).factory_data

    @pytest.mark.parametrize(
        ("kind", "options", "field"),
        [
            ("safe", {"salt": bytes(32)}, "salt"),
            ("nexus", {"salt_nonce": 0}, "salt nonce"),
            ("kernel", {"version": "3.3"}, "version"),
            ("nexus", {"version": "1.0.2"}, "version"),
        ],
    )
    def test_an_option_of_another_kind_is_refused(
        self, kind: AccountKind, options: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(SessionError) as error:
            derive_account(OWNERS, kind, **options)
        assert error.value.field == field
        assert error.value.fix

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("nexus", {"salt": bytes(31)}),
            ("kernel", {"salt": bytes(33)}),
            ("safe", {"salt_nonce": -1}),
            ("safe", {"salt_nonce": 2**256}),
            ("eoa", {}),
        ],
    )
    def test_a_value_that_does_not_fit_is_refused(self, kind: Any, options: dict[str, Any]) -> None:
        with pytest.raises(SigningInputError):
            derive_account(OWNERS, kind, **options)

    def test_startale_with_its_k1_validator_is_refused(self) -> None:
        with pytest.raises(SessionError) as error:
            derive_account(EcdsaOwners(accounts=OWNERS.accounts, module=STARTALE_K1_VALIDATOR), "startale")
        assert error.value.field == "owners.module"


class TestSetupOps:
    """A session file that names its account's factory call names the account with it."""

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    @pytest.mark.parametrize("sessions", [True, False])
    def test_the_address_follows_from_the_call(self, kind: AccountKind, *, sessions: bool) -> None:
        owners = EcdsaOwners(accounts=(*OWNERS.accounts, address_of(key_of("second owner"))), threshold=2)
        options: dict[str, Any] = {"salt_nonce": 7} if kind == "safe" else {"salt": b"\x07" * 32}
        made = derive_account(owners, kind, sessions=sessions, **options)
        assert deployed_by(made.factory, made.factory_data) == made.address

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_what_deploys_another_account_is_refused_at_import(self, kind: AccountKind) -> None:
        made = derive_account(OWNERS, kind)
        other = derive_account(EcdsaOwners(accounts=(address_of(key_of("second owner")),)), kind)
        right = make_session_file(account=made.address, kind=kind, setup_ops=made.setup_ops)
        assert recompute(load_session_file(right)).setup_ops == made.setup_ops
        wrong = make_session_file(account=made.address, kind=kind, setup_ops=other.setup_ops)
        with pytest.raises(SessionError) as error:
            recompute(load_session_file(wrong))
        assert error.value.field == "account.setupOps[0]"
        assert error.value.message == f"deploys {other.address}, not the account {made.address}"

    def test_a_factory_that_is_not_known_is_let_pass(self) -> None:
        made = derive_account(OWNERS)
        for factory, data in (("0x" + "fa" * 20, made.factory_data), (made.factory, b"\x01" * 40)):
            assert deployed_by(factory, data) is None
            file = make_session_file(account=made.address, setup_ops=[(factory, data)])
            assert recompute(load_session_file(file)).setup_ops == ((factory, data),)

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_calldata_that_is_cut_short_is_not_known(self, kind: AccountKind) -> None:
        made = derive_account(OWNERS, kind)
        for length in (0, 3, 4, 36, 99):
            assert deployed_by(made.factory, made.factory_data[:length]) is None


class TestModules:
    """Calls that the account itself makes."""

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_every_call_goes_to_the_account_without_value(self, kind: AccountKind) -> None:
        calls = [
            *install_calls(kind, ACCOUNT),
            *install_calls(kind, ACCOUNT, EXECUTOR_MODULE),
            *uninstall_calls(kind, ACCOUNT),
        ]
        assert {(call.to, call.value) for call in calls} == {(ACCOUNT, 0)}

    def test_a_validator_of_kernel_is_granted_its_execute_function(self) -> None:
        module = Module(VALIDATOR, "0x" + "0d" * 20, b"\x01\x02")
        install, grant = install_calls("kernel", ACCOUNT, module)
        assert bytes.fromhex("0102") in install.data
        assert grant.data[:4] == bytes.fromhex("b9b82941")
        assert grant.data[4:25] == b"\x01" + b"\x0d" * 20

    def test_a_fallback_module_on_kernel_is_refused(self) -> None:
        with pytest.raises(SessionError) as error:
            install_calls("kernel", ACCOUNT, FALLBACK_MODULE)
        assert error.value.field == "module"

    def test_an_address_in_mixed_case_is_refused(self) -> None:
        for make in (install_calls, uninstall_calls):
            with pytest.raises(SigningInputError) as error:
                make("nexus", ACCOUNT.upper())
            assert error.value.field == "account"


def test_a_session_is_revoked_by_the_recorded_call() -> None:
    """The call's bytes are compared with the vectors in ``test_encoding``; here it is the session's own."""
    session = recompute(load_session_file(make_session_file()))
    call = revoke_call(session, nonce=7)
    assert (call.to, call.value) == (SMART_SESSION_EMISSARY, 0)
    assert call.data == remove_config_call(session.account, session.permission_id, chain_id=8453, nonce=7)
    assert call.data != revoke_call(session, nonce=8).data
