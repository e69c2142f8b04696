"""Random sessions, approvals and intents: our bytes against those of the installed SDK 1.15.0.

``CONFORMANCE_DRAWS`` says how many of each, ``CONFORMANCE_SEED`` which. A failure names its draw.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.sdk import SdkError, SdkOracle
from tests.support.sdk_draws import (
    FALLBACK_TARGET,
    Draw,
    DrawnSession,
    HeldKeys,
    KeySet,
    draws,
)
from worker.execution.route_request import route_request
from worker.execution.sign import signatures
from worker.orchestrator import exact_json
from worker.policies.base import Execution
from worker.sessions.chains import known_chains
from worker.sessions.emissary import get_nonce_call, is_permission_enabled_call, set_config_call
from worker.sessions.encoding import permission_id_of, session_data
from worker.sessions.errors import SessionError
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.sessions.model import Session
from worker.signing.claim_policy import claim_policy_data
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.enable import owner_enable_signature, verify_owner_enable_signature
from worker.signing.errors import SigningInputError
from worker.signing.intent_op import payloads
from worker.signing.messages import Permit2Message
from worker.signing.session_digest import multi_chain_digest, permission_id, session_digest
from worker.signing.session_signature import ACCOUNT_KINDS, erc1271, erc1271_hash
from worker.signing.sign import psig
from worker.signing.structs import AccountKind, EnableData, HashAndChainId, PolicyData, SessionData

pytestmark = pytest.mark.services

USDC = "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"
TRANSFER = "0xa9059cbb"
BASE = 8453


def our_session(drawn: DrawnSession) -> Session:
    return Session.model_validate(drawn.for_us(), by_alias=True, by_name=False)


def as_sdk_has_it(data: SessionData) -> dict[str, Any]:
    """Our session data with the SDK's names."""

    def policies(values: tuple[PolicyData, ...]) -> list[dict[str, str]]:
        return [{"policy": value.policy, "initData": hexed(value.init_data)} for value in values]

    return {
        "sessionValidator": data.session_validator,
        "sessionValidatorInitData": hexed(data.session_validator_init_data),
        "salt": hexed(data.salt),
        "actions": [
            {
                "actionTargetSelector": hexed(action.selector),
                "actionTarget": action.target,
                "actionPolicies": policies(action.policies),
            }
            for action in data.actions
        ],
        "claimPolicies": policies(data.claim_policies),
        "erc7739Policies": {
            "allowedERC7739Content": [
                {
                    "appDomainSeparator": hexed(context.app_domain_separator),
                    "contentNames": list(context.content_names),
                }
                for context in data.allowed_erc7739_content
            ],
            "erc1271Policies": policies(data.erc1271_policies),
        },
    }


def lowered(value: Any) -> Any:
    """Addresses may be mixed case in the SDK's objects; nothing else in them has letters that matter."""
    if isinstance(value, dict):
        return {name: lowered(item) for name, item in value.items()}
    if isinstance(value, list):
        return [lowered(item) for item in value]
    return value.lower() if isinstance(value, str) and value.startswith("0x") else value


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def unhex(value: str) -> bytes:
    return bytes.fromhex(value[2:])


def test_the_oracle_is_the_sdk_we_follow(sdk: SdkOracle) -> None:
    assert sdk("version") == {"sdk": "1.15.0"}


def test_our_chains_are_those_of_the_sdk(sdk: SdkOracle) -> None:
    ours = {
        chain.chain_id: (
            chain.wrapped,
            chain.testnet,
            [(token.symbol, token.address, token.decimals) for token in chain.tokens],
        )
        for chain in known_chains().values()
    }
    theirs = {
        chain["id"]: (
            lowered(chain.get("wrapped")),
            chain["testnet"],
            [(token["symbol"], token["address"].lower(), token["decimals"]) for token in chain["tokens"]],
        )
        for chain in sdk("chains")
    }
    assert ours == theirs


class TestSessions:
    """The session that is signed and stored has the SDK's bytes."""

    def test_session_data_and_permission_id(self, sdk: SdkOracle) -> None:
        for draw in draws("sessions"):
            drawn = draw.session()
            theirs = sdk("session", session=drawn.for_sdk())
            ours = session_data(our_session(drawn))
            assert as_sdk_has_it(ours) == lowered(theirs["sessionData"]), draw.name
            assert hexed(permission_id(ours)) == theirs["permissionId"], draw.name

    def test_development_contracts(self, sdk: SdkOracle) -> None:
        for draw in draws("dev sessions"):
            drawn = draw.session()
            theirs = sdk("session", session=drawn.for_sdk(), dev=True)
            ours = our_session(drawn)
            assert as_sdk_has_it(session_data(ours, dev=True)) == lowered(theirs["sessionData"]), draw.name
            assert hexed(permission_id_of(ours)) == theirs["permissionId"], draw.name

    def test_swap_scopes_good_and_bad(self, sdk: SdkOracle) -> None:
        """Whatever the venues, caps and tokens: the same bytes, or refused in the same words."""
        for draw in draws("swaps"):
            chain = draw.among(*known_chains())
            drawn = DrawnSession(chain, draw.keys(1), {"swap": draw.swap(chain, sound=False)})
            theirs: Any
            ours: Any
            try:
                found = sdk("session", session=drawn.for_sdk())
                theirs = (lowered(found["sessionData"]), found["permissionId"])
            except SdkError as error:
                theirs = error.message.lower()
                if error.name == "TypeError":  # it trips over fynd's missing router before it says so
                    theirs = f"fynd is not available on chain {chain}"
            try:
                data = session_data(our_session(drawn))
                ours = (as_sdk_has_it(data), hexed(permission_id(data)))
            except SessionError as error:
                ours = error.message.lower()
            if isinstance(theirs, str) and theirs.startswith("fynd is not available"):
                assert isinstance(ours, str)
                assert ours.startswith(theirs), draw.name
            else:
                assert ours == theirs, draw.name

    @pytest.mark.parametrize(
        "kind",
        [
            "sudo",
            "spending-limits",
            "time-frame",
            "usage-limit",
            "value-limit",
            "universal-action",
            "arg-policy",
            "intent-execution",
        ],
    )
    def test_each_policy(self, sdk: SdkOracle, kind: str) -> None:
        for draw in draws(f"policies/{kind}"):
            policy = draw.policy(kind)
            action = {"target": USDC, "selector": TRANSFER, "policies": [policy]}
            drawn = DrawnSession(BASE, draw.keys(1), {"actions": [action]})
            theirs = sdk("policy", policy=policy)
            ours = session_data(our_session(drawn)).actions[0].policies[0]
            assert (ours.policy, hexed(ours.init_data)) == (
                theirs["policy"].lower(),
                theirs["initData"],
            ), draw.name

    @pytest.mark.parametrize(
        "scope",
        [
            {"actions": []},
            {"actions": [{"policies": [{"type": "sudo"}]}]},
            {"actions": [{"target": FALLBACK_TARGET, "selector": "0x00000001"}]},
            {"actions": [{"target": USDC, "selector": TRANSFER}, {"target": USDC, "selector": TRANSFER}]},
            {
                "actions": [{"target": USDC, "selector": TRANSFER}],
                "claimPolicies": [{"type": "permit2-claim", "recipientIsSponsor": True}],
            },
        ],
        ids=["no actions", "fallback", "sentinel", "duplicate", "claim policies"],
    )
    def test_restricted_sessions_are_refused_in_the_same_words(
        self, sdk: SdkOracle, scope: dict[str, Any]
    ) -> None:
        drawn = DrawnSession(BASE, KeySet((bytes([7] * 32),), None), {**scope, "restrictToActions": True})
        with pytest.raises(SdkError) as theirs:
            sdk("session", session=drawn.for_sdk())
        with pytest.raises(SessionError) as ours:
            session_data(our_session(drawn))
        assert ours.value.message == theirs.value.message


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
class TestApproval:
    """Digests, the owners' signature, and the call that enables, on one chain and on several."""

    def test_digests_signature_and_set_config(self, sdk: SdkOracle, kind: AccountKind) -> None:
        for draw in draws(f"approval/{kind}"):
            owners = draw.keys()
            drawn = draw.some(1, 3, draw.session)
            nonces = [draw.uint(2**256 - 1) for _ in drawn]
            index = draw.count(0, len(drawn) - 1)
            theirs = sdk(
                "enable",
                account={"kind": kind, "owners": owners.for_sdk()},
                sessions=[session.for_sdk() for session in drawn],
                nonces=nonces,
                index=index,
            )
            account = theirs["address"].lower()
            datas = [session_data(our_session(session)) for session in drawn]
            hashes = tuple(
                HashAndChainId(session.chain, session_digest(account, data, int(nonce)))
                for session, data, nonce in zip(drawn, datas, nonces, strict=True)
            )
            assert [
                {"chainId": str(entry.chain_id), "sessionDigest": hexed(entry.session_digest)}
                for entry in hashes
            ] == theirs["hashesAndChainIds"], draw.name
            digest = multi_chain_digest(hashes)
            assert hexed(digest) == theirs["digest"], draw.name

            signature = owner_enable_signature(kind, account, digest, owners.keys)
            assert hexed(signature) == theirs["userSignature"], draw.name
            accounts: list[str] = owners.for_us()["accounts"]
            signers = verify_owner_enable_signature(
                kind, account, digest, signature, accounts, threshold=owners.threshold or 1
            )
            assert list(signers) == accounts, draw.name

            call = set_config_call(account, datas[index], EnableData(signature, hashes, index))
            assert theirs["call"]["to"].lower() == SMART_SESSION_EMISSARY, draw.name
            # the SDK leaves the letters of pinned addresses in upper case where they were given so
            assert hexed(call) == theirs["call"]["data"].lower(), draw.name
            assert theirs["reads"] == [
                {"to": SMART_SESSION_EMISSARY, "data": hexed(get_nonce_call(account))}
            ] * len(drawn), draw.name

    def test_a_changed_bit_is_not_the_owners_signature(self, sdk: SdkOracle, kind: AccountKind) -> None:
        draw = Draw(f"forgery/{kind}", 0)
        owners = draw.keys(1)
        theirs = sdk(
            "enable",
            account={"kind": kind, "owners": owners.for_sdk()},
            sessions=[draw.session().for_sdk()],
            nonces=["0"],
            index=0,
        )
        account, digest, signature = (
            theirs["address"].lower(),
            unhex(theirs["digest"]),
            unhex(theirs["userSignature"]),
        )
        accounts = owners.for_us()["accounts"]
        assert verify_owner_enable_signature(kind, account, digest, signature, accounts)
        for position in range(len(signature)):
            forged = bytearray(signature)
            forged[position] ^= 1
            with pytest.raises(SigningInputError):
                verify_owner_enable_signature(kind, account, digest, bytes(forged), accounts)


class ApprovedSession:
    """A drawn session, approved by the SDK, written as a session file and read by us."""

    def __init__(self, sdk: SdkOracle, draw: Draw, kind: AccountKind, *, restricted: bool | None) -> None:
        self.drawn = draw.session(restricted=restricted, enableable=True)
        # A session without actions is written so on purpose in a session file.
        self.drawn.scope.setdefault("actions", [])
        self.verify_executions: bool | None = draw.among(None, True, False)
        self.owners = draw.keys(2)
        # nexus and safe accounts that exist already are known by their address alone
        address = draw.address() if kind in {"nexus", "safe"} and draw.maybe(0.3) else None
        self.account: dict[str, Any] = {"kind": kind, "owners": self.owners.for_sdk()}
        if address is not None:
            self.account["address"] = address
        nonce = draw.uint(2**256 - 1)
        approval = sdk(
            "enable", account=self.account, sessions=[self.drawn.for_sdk()], nonces=[nonce], index=0
        )
        self.enable_data = {
            "userSignature": approval["userSignature"],
            "hashesAndChainIds": approval["hashesAndChainIds"],
            "sessionToEnableIndex": 0,
        }
        file: dict[str, Any] = {
            "sdk": "1.15.0",
            "account": {
                "address": approval["address"],
                "kind": kind,
                "owners": self.owners.for_us(),
                "setupOps": approval["setupOps"],
            },
            **self.drawn.for_us(),
            "nonce": nonce,
            "enableData": self.enable_data,
        }
        if self.verify_executions is not None:
            file["verifyExecutions"] = self.verify_executions
        self.session: RegisteredSession = recompute(load_session_file(json.dumps(file)))


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
class TestIntents:
    """What is asked of the orchestrator, what is signed and how it is packed."""

    @pytest.mark.parametrize("enabled", [True, False], ids=["use", "enable"])
    @pytest.mark.parametrize(
        ("layer", "funding"),
        [("INTENT_EXECUTOR", "NO_FUNDING"), ("SAME_CHAIN", "PERMIT2"), ("ECO", "PERMIT2")],
        ids=["intent-executor", "same-chain-permit2", "eco-permit2"],
    )
    def test_the_route_request_and_the_signatures(
        self, sdk: SdkOracle, kind: AccountKind, layer: str, funding: str, *, enabled: bool
    ) -> None:
        for draw in draws(f"intents/{kind}/{layer}/{enabled}"):
            # Permit2 messages of a session with a claim policy carry more data, which the pipeline does not sign.
            approved = ApprovedSession(sdk, draw, kind, restricted=True if funding == "PERMIT2" else None)
            session, calls, sponsored = approved.session, draw.calls(), draw.maybe()
            intent_op = draw.intent_op(session.account, session.chain_id, layer=layer, funding=funding)
            theirs = sdk(
                "transaction",
                account=approved.account,
                session=approved.drawn.for_sdk(),
                enableData=approved.enable_data,
                enabled=enabled,
                **(
                    {}
                    if approved.verify_executions is None
                    else {"verifyExecutions": approved.verify_executions}
                ),
                calls=calls,
                **({"sponsored": True} if sponsored else {}),
                intentOp=intent_op,
            )
            request = route_request(
                session,
                [Execution(call["to"].lower(), int(call["value"]), unhex(call["data"])) for call in calls],
                sponsored=sponsored,
                enable=not enabled,
            )
            # addresses keep the case in which they were given, which no field depends on
            assert lowered(request) == lowered(theirs["route"]), draw.name
            assert list(request) == list(theirs["route"]), draw.name
            assert {(read["to"], read["data"]) for read in theirs["reads"]} == {
                (
                    SMART_SESSION_EMISSARY,
                    hexed(is_permission_enabled_call(session.account, session.permission_id)),
                )
            }, draw.name

            message = payloads(intent_op, session.account, with_target=session.verify_executions)
            assert [hexed(origin.digest) for origin in message.origins] == theirs["originDigests"], draw.name
            members = signatures(message, session, HeldKeys(approved.drawn.owners.keys), enable=not enabled)
            submitted = theirs["submit"]["signedIntentOp"]
            assert {**intent_op, **members} == submitted, draw.name
            assert list({**intent_op, **members}) == list(submitted), draw.name

            # the body that we send is the quote's text with these members
            body = exact_json.with_members(json.dumps(intent_op), members)
            assert json.loads(body) == submitted, draw.name


@pytest.mark.parametrize("kind", ACCOUNT_KINDS)
def test_claim_policy_data_of_permit2_messages(sdk: SdkOracle, kind: AccountKind) -> None:
    """A Permit2 message carries what the session's claim policy reads, next to the ERC-1271 signature."""
    for draw in draws(f"claims/{kind}"):
        policy = draw.claim_policy()
        action = {"target": USDC, "selector": TRANSFER}
        drawn = DrawnSession(BASE, draw.keys(2), {"actions": [action], "claimPolicies": [policy]})
        account = {"kind": kind, "owners": draw.keys(1).for_sdk()}
        approval = sdk("enable", account=account, sessions=[drawn.for_sdk()], nonces=["0"], index=0)
        address = approval["address"].lower()
        intent_op = draw.intent_op(address, BASE, layer="ECO", funding="PERMIT2")
        theirs = sdk(
            "transaction",
            account=account,
            session=drawn.for_sdk(),
            enabled=True,
            verifyExecutions=False,
            calls=draw.calls(),
            intentOp=intent_op,
        )
        [origin] = payloads(intent_op, address).origins
        assert isinstance(origin.message, Permit2Message)
        [claim] = our_session(drawn).claim_policies
        hash_ = erc1271_hash(kind, address, origin.digest)
        form = erc1271(
            kind,
            address,
            permission_id(session_data(our_session(drawn))),
            b"".join(psig(key, hash_) for key in drawn.owners.keys),
            claim_policy_data(origin.message, claim),
        )
        assert theirs["submit"]["signedIntentOp"]["originSignatures"] == [hexed(form)], draw.name
