"""Sessions of SDK 2.2.2: what they compile to, and what is refused although it could be encoded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.sessions import (
    ACCOUNT,
    BASE,
    NOW_S,
    OWNER_KEY,
    SESSION_ADDRESS,
    USDC,
    session_dict,
)
from tests.support.signing import chain_digests_of, session_of, unhex
from tests.support.vectors import load_vectors
from worker.policies import (
    ArgPolicy,
    IntentExecution,
    SpendingLimits,
    Sudo,
    TimeFrame,
    UniversalAction,
    UsageLimit,
    ValueLimit,
)
from worker.policies.base import Allow, Deny, Execution
from worker.policies.evaluate import FALLBACK_SELECTOR, FALLBACK_TARGET, evaluate
from worker.sessions.emissary import remove_config_call
from worker.sessions.encoding import (
    DEV_EMISSARY,
    check_enableable,
    expires_s,
    has_actions,
    is_restricted,
    permission_id_of,
    policy_table,
    session_data,
)
from worker.sessions.errors import SessionError
from worker.sessions.file import SessionFileV2, load_session_file
from worker.sessions.importing import RegisteredSession, recompute, verify
from worker.sessions.v2 import SessionV2
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.enable import owner_enable_signature
from worker.signing.mock import mock_signature
from worker.signing.session_digest import multi_chain_digest, permission_id, session_digest
from worker.signing.session_signature import emissary_use, erc1271
from worker.signing.sign import address_of
from worker.signing.structs import HashAndChainId

WETH = "0x4200000000000000000000000000000000000006"
TRANSFER = bytes.fromhex("a9059cbb")
END = "2030-01-01T00:00:00.000Z"
END_S = 1_893_456_000

ABI: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": "transfer",
        "stateMutability": "nonpayable",
        "inputs": [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}],
    },
    {"type": "function", "name": "deposit", "stateMutability": "payable", "inputs": []},
    {
        "type": "function",
        "name": "mixed",
        "stateMutability": "nonpayable",
        "inputs": [
            {"name": "key", "type": "bytes4"},
            {"name": "flag", "type": "bool"},
            {"name": "list", "type": "uint256[]"},
            {"name": "after", "type": "uint8"},
        ],
    },
    {
        "type": "function",
        "name": "wide",
        "inputs": [
            {
                "name": "pair",
                "type": "tuple",
                "components": [{"name": "a", "type": "address"}, {"name": "b", "type": "uint256"}],
            },
            {"name": "amount", "type": "uint256"},
        ],
    },
    {"type": "function", "name": "twice", "inputs": []},
    {"type": "function", "name": "twice", "inputs": [{"name": "a", "type": "bool"}]},
]


def of_vector(value: Any) -> Any:
    """The recorded spelling of integers, dates and chains as a session file has it."""
    if isinstance(value, list):
        return [of_vector(item) for item in value]
    if isinstance(value, dict):
        if len(value) == 1 and next(iter(value)) in {"$int", "$date", "$chain"}:
            return next(iter(value.values()))
        return {name: of_vector(item) for name, item in value.items()}
    return value


def session_of_vector(file: dict[str, Any], vector: dict[str, Any]) -> SessionV2:
    definition = of_vector(vector["definition"])
    for permission in definition.get("permissions", []):
        permission["abi"] = file["abi"]
    fields = {"chain": vector.get("chainId", 84532), **definition}
    fields["owners"] = vector["owners"]["addresses"] if "owners" in vector else [SESSION_ADDRESS]
    if "wrappedNativeToken" in vector:
        fields["wrappedNativeToken"] = vector["wrappedNativeToken"]
    return SessionV2.model_validate(fields, by_name=False)


def session(**fields: Any) -> SessionV2:
    return SessionV2.model_validate({"chain": BASE, "owners": [SESSION_ADDRESS], **fields}, by_name=False)


def permitted(name: str = "transfer", /, **config: Any) -> SessionV2:
    """A session with one function."""
    return session(permissions=[{"abi": ABI, "address": USDC, "functions": {name: config}}])


class TestRecordedSessions:
    """What 2.2.2 made of the same definitions comes out byte for byte."""

    def test_all_17_sessions_are_reproduced(self) -> None:
        file = load_vectors("v2_sessions")
        for vector in file["vectors"]:
            name, expected = vector["name"], vector["expected"]
            subject = session_of_vector(file, vector)
            data = session_data(subject)
            assert data == session_of(expected["sessionData"]), name
            assert permission_id(data) == permission_id_of(subject) == unhex(expected["permissionId"]), name
            assert has_actions(subject) is expected["hasExplicitPermissions"], name
            assert is_restricted(subject) is False
            account, nonce = vector["account"].lower(), int(vector["nonce"])
            digests = chain_digests_of(expected["hashesAndChainIds"])
            assert digests == (HashAndChainId(subject.chain, session_digest(account, data, nonce)),), name
            assert multi_chain_digest(digests) == unhex(expected["multiChainSessionDigest"]), name
        assert len(file["vectors"]) == 17

    def test_all_7_refusals_have_the_sdks_words(self) -> None:
        file = load_vectors("v2_sessions")
        for vector in file["errorVectors"]:
            with pytest.raises(SessionError) as caught:
                session_data(session_of_vector(file, vector))
            assert caught.value.message == vector["error"], vector["name"]
            assert caught.value.field.startswith("permissions[")
        assert len(file["errorVectors"]) == 7

    def test_all_3_mock_signatures(self) -> None:
        file = load_vectors("v2_sessions")
        sessions = {vector["name"]: vector for vector in file["vectors"]}
        shapes: set[str] = set()
        for vector in file["mockVectors"]:
            data = session_data(session_of_vector(file, sessions[vector["sessionFrom"]]))
            empty, identity, emissary = bytes(65), permission_id(data), unhex(SMART_SESSION_EMISSARY)
            made = {
                "enable": lambda data=data, vector=vector: mock_signature(
                    data, vector["targetChainId"], vector["chainCount"]
                ),
                "use": lambda: emissary + emissary_use(identity, empty),  # noqa: B023 - called at once
                "erc1271": lambda: erc1271("nexus", ACCOUNT, identity, empty),  # noqa: B023
            }[vector["shape"]]()
            assert made == unhex(vector["expected"]), vector["shape"]
            shapes.add(vector["shape"])
        assert shapes == {"enable", "use", "erc1271"}

    def test_both_removals(self) -> None:
        file = load_vectors("v2_sessions")
        sessions = {vector["name"]: vector for vector in file["vectors"]}
        for vector in file["removeConfigVectors"]:
            subject = session_of_vector(file, sessions[vector["sessionFrom"]])
            built = remove_config_call(
                vector["account"].lower(),
                permission_id_of(subject),
                chain_id=subject.chain,
                nonce=int(vector["nonce"]),
                expires_s=int(vector["expires"]),
            )
            assert built == unhex(vector["expected"]["data"])
            assert vector["expected"]["target"].lower() == SMART_SESSION_EMISSARY
        assert len(file["removeConfigVectors"]) == 2


class TestCompiling:
    """The policies of a permission, with and without the recorded vectors."""

    def policies(self, name: str = "transfer", /, **config: Any) -> Any:
        ((_, action),) = permitted(name, **config).labelled_actions()
        return action.policies

    def test_no_limits_mean_sudo(self) -> None:
        assert self.policies() is None
        assert policy_table(permitted()).find(USDC, TRANSFER)[1] == (Sudo(),)

    def test_the_order_is_uses_window_value_spending_rules(self) -> None:
        config = {
            "params": {"amount": {"condition": "equal", "value": "1"}},
            "spendingLimit": {"token": USDC, "amount": "2"},
            "validAfter": 5_999,
            "maxUses": "3",
        }
        uses, window, spending, rules = self.policies(**config)
        assert uses == UsageLimit(limit=3)
        assert window == TimeFrame(valid_until=4_102_444_800_000, valid_after=5_999)
        assert window.v2_init_data() == (4_102_444_800).to_bytes(6, "big") + (5).to_bytes(6, "big")
        assert isinstance(spending, SpendingLimits)
        assert isinstance(rules, UniversalAction)
        assert (rules.rules[0].calldata_offset, rules.rules[0].reference_value) == (32, 1)

    def test_value_per_use_without_rules_is_a_total(self) -> None:
        assert self.policies("deposit", valueLimitPerUse="3") == (ValueLimit(limit=3),)

    def test_fixed_bytes_are_padded_on_the_right(self) -> None:
        (rules,) = self.policies("mixed", params={"key": {"condition": "equal", "value": "0xAABBCCDD"}})
        assert rules.rules[0].reference_value == 0xAABBCCDD << 224

    def test_a_parameter_after_a_dynamic_one_is_at_its_index(self) -> None:
        (rules,) = self.policies("mixed", params={"after": {"condition": "lessThan", "value": 7}})
        assert rules.rules[0].calldata_offset == 96

    def test_any_of_makes_an_expression(self) -> None:
        (tree,) = self.policies(params={"to": {"anyOf": [ACCOUNT, USDC]}})
        assert isinstance(tree, ArgPolicy)
        assert tree.expression.type == "or"

    def test_the_policy_contracts_are_those_of_2_2_2(self) -> None:
        data = session_data(permitted(validUntil=END))
        assert data.actions[0].policies[0].policy == TimeFrame.v2_address
        assert data.actions[0].policies[0].init_data.hex() == "000070dbd880000000000000"
        assert data.erc1271_policies[0].policy == Sudo.v2_address
        assert data.salt == bytes(32)

    def test_a_digest_is_pinned(self) -> None:
        # The recorded "all-sugar"; where the vectors are missing, it still is what the SDK made of it.
        token = "0x036cbd53842c5426634e7929541ec2318f3dcf7e"
        config = {
            "maxUses": "5",
            "validUntil": END,
            "validAfter": "2023-11-14T22:13:20.000Z",
            "spendingLimit": {"token": token, "amount": "7"},
            "params": {
                "to": {"condition": "equal", "value": "0x" + "11" * 20},
                "amount": {"condition": "lessThanOrEqual", "value": "100", "usageLimit": "1000"},
            },
        }
        subject = SessionV2.model_validate(
            {
                "chain": 84532,
                "owners": ["0x1563915e194d8cfba1943570603f7606a3115508"],
                "permissions": [{"abi": ABI, "address": token, "functions": {"transfer": config}}],
                "wrappedNativeToken": WETH,
            }
        )
        digest = session_digest("0x" + "aa" * 20, session_data(subject), 4)
        assert digest.hex() == "a95d2d0eaa0b1a2b8412dc7c7c55b3c39e84fe5bac3bbfb11ff05d2ef214f8bf"

    def test_without_a_wrapped_token_there_is_no_deposit(self) -> None:
        offline, online = permitted(), permitted().model_copy(update={"wrapped_native_token": WETH})
        assert len(session_data(online).actions) == len(session_data(offline).actions) + 1
        assert session_data(online).actions[1].target == WETH

    def test_permits_put_their_limits_on_the_fallback(self) -> None:
        leg = {"chain": BASE, "token": USDC, "maxAmount": "5"}
        subject = session(crossChainPermits=[{"from": leg, "validUntil": END}])
        key, policies = policy_table(subject).find("0x" + "77" * 20, b"\1\2\3\4")
        assert key == (FALLBACK_TARGET, FALLBACK_SELECTOR)
        assert [type(policy) for policy in policies] == [IntentExecution, SpendingLimits, TimeFrame]
        assert has_actions(subject) is False
        assert expires_s(subject) == END_S

    def test_development_contracts(self) -> None:
        subject = session(crossChainPermits=[{"to": {"chain": 10, "token": USDC}, "validAfter": 1000}])
        live, dev = session_data(subject), session_data(subject, dev=True)
        assert live.claim_policies[0].init_data != dev.claim_policies[0].init_data
        fallback = next(action for action in dev.actions if action.target == FALLBACK_TARGET)
        assert fallback.policies[0].policy == IntentExecution.dev_address
        assert permission_id(dev) == permission_id_of(subject)

    def test_the_evaluator_knows_the_limits(self) -> None:
        table = policy_table(
            permitted(maxUses="2", params={"amount": {"condition": "lessThanOrEqual", "value": 9}})
        )

        def verdict(amount: int) -> Allow | Deny:
            data = TRANSFER + bytes(12) + unhex(ACCOUNT) + amount.to_bytes(32, "big")
            return evaluate(
                table,
                [Execution(USDC, 0, data)],
                account=ACCOUNT,
                emissary=SMART_SESSION_EMISSARY,
                now_s=NOW_S,
                chain_s=NOW_S,
                latest_s=NOW_S,
            )

        allowed = verdict(9)
        assert isinstance(allowed, Allow)
        assert [(change.policy, change.limit) for change in allowed.changes] == [("usage-limit", 2)]
        assert isinstance(verdict(10), Deny)


class TestRefusals:
    """Nothing is guessed: wrong definitions are refused with their field."""

    @pytest.mark.parametrize(
        ("name", "config", "field", "words"),
        [
            ("twice", {}, "", "overloaded (2 variants)"),
            ("transfer", {"params": {"x": {"condition": "equal", "value": 1}}}, ".params.x", "not found"),
            (
                "transfer",
                {"params": {"to": {"condition": "equal", "value": 5}}},
                ".params.to.value",
                "address",
            ),
            ("transfer", {"params": {"to": {"condition": "equal"}}}, ".params.to.value", "missing"),
            ("transfer", {"params": {"to": {"value": USDC}}}, ".params.to.condition", "missing"),
            (
                "transfer",
                {"params": {"amount": {"condition": "equal", "value": "0x01"}}},
                ".params.amount.value",
                "decimal",
            ),
            (
                "transfer",
                {"params": {"amount": {"condition": "equal", "value": True}}},
                ".params.amount.value",
                "boolean",
            ),
            (
                "transfer",
                {"params": {"to": {"anyOf": [USDC], "usageLimit": "5"}}},
                ".params.to.anyOf",
                "ignore",
            ),
            (
                "transfer",
                {"params": {"amount": {"anyOf": [str(n) for n in range(129)]}}},
                ".params",
                "129 rules",
            ),
            (
                "transfer",
                {"params": {"amount": {"anyOf": ["1"] * 5000}}},
                ".params",
                "5000 rules",
            ),
            (
                "mixed",
                {"params": {"key": {"condition": "equal", "value": "0xaa"}}},
                ".params.key.value",
                "4 bytes",
            ),
            ("mixed", {"params": {"flag": {"condition": "equal", "value": 1}}}, ".params.flag.value", "true"),
            ("mixed", {"params": {"list": {"condition": "equal", "value": 1}}}, ".params.list", "dynamic"),
        ],
    )
    def test_permissions(self, name: str, config: Any, field: str, words: str) -> None:
        with pytest.raises(SessionError) as caught:
            session_data(permitted(name, **config))
        assert caught.value.field == f"permissions[0].functions.{name}{field}"
        assert words in caught.value.message

    def test_a_permit_that_ends_before_it_starts(self) -> None:
        with pytest.raises(SessionError, match=r"validAfter \(2\) is greater than validUntil \(1\)"):
            session_data(session(crossChainPermits=[{"validUntil": 1999, "validAfter": 2000}]))

    @pytest.mark.parametrize(
        "fields",
        [
            {"actions": []},
            {"restrictToActions": True},
            {"crossChainPermits": [{"settlementLayers": ["RELAY"]}]},
            {"crossChainPermits": [{"validUntil": "2030-01-01"}]},
            {"crossChainPermits": [{"validUntil": "2030-13-01T00:00:00.000Z"}]},
            {"crossChainPermits": [{"validUntil": "2030-01-01T00:00:00.000+01:00"}]},
            {"crossChainPermits": [{"from": {"chain": BASE, "token": "USDC"}}]},
            {"claimPolicies": [{"type": "permit2-claim"}]},
        ],
    )
    def test_other_shapes(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            session(**fields)

    @pytest.mark.parametrize("kind", ["uint", "int256[", "Token", "uint256 ", "bytes3[]x"])
    def test_types_that_compilers_do_not_write(self, kind: str) -> None:
        abi = [{"type": "function", "name": "f", "inputs": [{"name": "a", "type": kind}]}]
        with pytest.raises(ValidationError):
            session(permissions=[{"abi": abi, "address": USDC, "functions": {"f": {}}}])

    def test_limits_that_cannot_be_enabled(self) -> None:
        for config, words in (
            ({"maxUses": 0}, "usage limit of 0"),
            ({"spendingLimit": {"token": USDC, "amount": 0}}, "limit of 0"),
            ({"validUntil": 5000, "validAfter": 5000}, "no call can pass"),
        ):
            with pytest.raises(SessionError, match=words) as caught:
                check_enableable(permitted(**config))
            assert caught.value.field == "permissions[0].functions.transfer"

    def test_a_rule_on_the_wrong_argument(self) -> None:
        subject = permitted("wide", params={"amount": {"condition": "equal", "value": 1}})
        # encoded as the SDK does, on the second word, where the tuple's second member is
        assert session_data(subject).actions[0].policies[0].init_data
        with pytest.raises(SessionError, match="another argument") as caught:
            check_enableable(subject)
        assert caught.value.field == "permissions[0].functions.wide.params.amount"

    def test_policy_contracts_that_are_not_known(self) -> None:
        known = {"usageLimit": UsageLimit.address, "sudo": Sudo.v2_address}
        check_enableable(
            permitted().model_copy(
                update={"policy_addresses": session(policyAddresses=known).policy_addresses}
            )
        )
        for addresses, field in (
            ({"usageLimit": "0x" + "11" * 20}, "policyAddresses.usageLimit"),
            ({"timeFrame": TimeFrame.address}, "policyAddresses.timeFrame"),
            ({"sudo": UsageLimit.v2_address}, "policyAddresses.sudo"),
        ):
            with pytest.raises(SessionError) as caught:
                check_enableable(session(policyAddresses=addresses))
            assert caught.value.field == field

    def test_another_token_than_the_chains_wrapped_one(self) -> None:
        check_enableable(session(wrappedNativeToken=WETH))
        with pytest.raises(SessionError) as caught:
            check_enableable(session(wrappedNativeToken=USDC))
        assert caught.value.field == "wrappedNativeToken"


def approved_file(*, emissary: str = SMART_SESSION_EMISSARY, **fields: Any) -> dict[str, Any]:
    """A session file of 2.2.2 with the owner's approval, for nonce 4."""
    base = session_dict()
    function = {"transfer": {"maxUses": "5", "validUntil": END}}
    file: dict[str, Any] = {
        "sdk": "2.2.2",
        "account": base["account"],
        "chain": BASE,
        "owners": [SESSION_ADDRESS],
        "permissions": [{"abi": ABI, "address": USDC, "functions": function}],
        "wrappedNativeToken": WETH,
        **fields,
    }
    parsed = load_session_file(json.dumps(file))
    digest = session_digest(ACCOUNT, session_data(parsed.session()), 4, emissary=emissary)
    entry = HashAndChainId(BASE, digest)
    signature = owner_enable_signature("nexus", ACCOUNT, multi_chain_digest([entry]), [OWNER_KEY])
    return {
        **file,
        "enableData": {
            "userSignature": "0x" + signature.hex(),
            "hashesAndChainIds": [{"chainId": BASE, "sessionDigest": "0x" + digest.hex()}],
            "sessionToEnableIndex": 0,
        },
    }


def imported(file: dict[str, Any]) -> RegisteredSession:
    return verify(load_session_file(json.dumps(file)), our_keys=[SESSION_ADDRESS], chain_id=BASE, now_s=NOW_S)


class TestImport:
    """A file says which SDK it is of, and is then held to its rules."""

    def test_an_approved_session(self) -> None:
        found = imported(approved_file())
        assert isinstance(found.file, SessionFileV2)
        assert (found.enable_nonce, found.restricted, found.verify_executions) == (4, False, True)
        assert found.expires_s == END_S
        assert found.quoters is None
        assert found.data.actions[0].policies[0].policy == UsageLimit.v2_address
        assert len(found.actions) == 1
        assert address_of(OWNER_KEY) in str(approved_file()["account"])

    def test_the_stored_text_gives_the_same_session(self) -> None:
        found = imported(approved_file())
        again = recompute(load_session_file(found.file.text()))
        assert again == found
        assert again.file.text() == found.file.text()

    def test_the_order_of_functions_and_parameters_survives(self) -> None:
        rules = {
            "to": {"condition": "equal", "value": USDC},
            "amount": {"condition": "lessThan", "value": 5},
        }
        functions = {"transfer": {"params": rules}, "deposit": {}}
        permission = {"abi": ABI, "address": USDC, "functions": functions}
        found = imported(approved_file(permissions=[permission]))
        assert [action.selector.hex() for action in found.data.actions[:2]] == ["a9059cbb", "d0e30db0"]
        assert recompute(load_session_file(found.file.text())) == found

    def test_an_approval_of_1_15_is_none_of_2_2_2(self) -> None:
        file = approved_file()
        # the same calls in the other SDK's terms: other contracts, so another digest
        old = {
            name: value
            for name, value in file.items()
            if name not in {"sdk", "permissions", "wrappedNativeToken"}
        }
        old["actions"] = [
            {
                "target": USDC,
                "selector": "0xa9059cbb",
                "policies": [
                    {"type": "usage-limit", "limit": "5"},
                    {"type": "time-frame", "validUntil": END_S * 1000, "validAfter": 0},
                ],
            }
        ]
        with pytest.raises(SessionError) as caught:
            imported(old)
        assert caught.value.field == "enableData.hashesAndChainIds[0].sessionDigest"

    def test_a_session_without_permissions_signs_as_the_account(self) -> None:
        assert imported(approved_file(permissions=[])).verify_executions is False

    def test_development_contracts_are_refused(self) -> None:
        file = approved_file(emissary=DEV_EMISSARY, useDevContracts=True)
        with pytest.raises(SessionError) as caught:
            imported(file)
        assert caught.value.field == "useDevContracts"
        assert "production" in caught.value.message
        # without the field it would not pass either
        del file["useDevContracts"]
        with pytest.raises(SessionError, match="not the digest"):
            imported(file)

    def test_an_expired_session_names_its_function(self) -> None:
        file = approved_file()
        with pytest.raises(SessionError, match="expired") as caught:
            verify(
                load_session_file(json.dumps(file)), our_keys=[SESSION_ADDRESS], chain_id=BASE, now_s=END_S
            )
        assert caught.value.field == "permissions[0].functions.transfer.validUntil"

    @pytest.mark.parametrize(
        "owners", [{"type": "passkey"}, {"type": "ens"}, {"type": "multi-factor"}, {"type": "quorum"}]
    )
    def test_owners_that_cannot_sign_here(self, owners: dict[str, Any]) -> None:
        file = approved_file()
        file["owners"] = owners
        with pytest.raises(SessionError, match="only 'ecdsa'") as caught:
            load_session_file(json.dumps(file))
        assert caught.value.field == "owners.type"
