"""Everything recorded from SDK 1.15.0 about signing, replayed byte for byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from eth_hash.auto import keccak

from tests.support.signing import chain_digests_of, enable_of, session_of, unhex
from tests.support.vectors import load_vectors
from worker.policies import Permit2Claim
from worker.sessions.encoding import DEV_EMISSARY, permission_id_of, session_data
from worker.sessions.model import Session
from worker.signing.abi import SET_CONFIG_SIGNATURE
from worker.signing.claim_policy import claim_policy_data
from worker.signing.contracts import STARTALE_K1_VALIDATOR
from worker.signing.enable import owner_enable_signature, verify_owner_enable_signature
from worker.signing.errors import SigningInputError
from worker.signing.fastlz import compress, decompress
from worker.signing.intent_op import payloads
from worker.signing.messages import Mandate, Permit2Message, SingleChainOps, Target, TokenAmount
from worker.signing.mock import mock_signature, mock_signatures
from worker.signing.session_digest import (
    multi_chain_digest,
    permission_id,
    permits_generic_policy,
    remove_digest,
    session_digest,
)
from worker.signing.session_signature import (
    decode_emissary,
    decode_erc1271,
    emissary_enable,
    emissary_use,
    erc1271,
    erc1271_hash,
    kernel_digest,
)
from worker.signing.sign import address_of, psig
from worker.signing.structs import AccountKind, EnableData, HashAndChainId, Op, Ops, SessionData


def keys_of(file: dict[str, Any], names: list[str]) -> list[bytes]:
    return [unhex(file["keys"][name]["privateKey"]) for name in names]


def sessions_by_name() -> dict[str, dict[str, Any]]:
    recorded = (*load_vectors("sessions")["vectors"], *load_vectors("swap_sessions")["vectors"])
    return {item["name"]: item for item in recorded}


def session_like(session: dict[str, Any]) -> SessionData:
    """The recorded sessionData of the very same session; where none is recorded, the one that we encode."""
    for item in sessions_by_name().values():
        if item["session"] == session:
            return session_of(item["expected"]["sessionData"])
    return session_data(sdk_session(session))


def sdk_session(session: dict[str, Any]) -> Session:
    """A vector's session as the SDK was given it."""
    fields = {name: value for name, value in session.items() if name != "chainId"}
    owners = {"type": "ecdsa", "accounts": session["owners"]["addresses"]}
    return Session.model_validate({**fields, "chain": session["chainId"], "owners": owners})


class TestFastLz:
    """The compressor gives the bytes of Solady's, and the decompressor gives them back."""

    def test_streams(self) -> None:
        for item in load_vectors("fastlz")["vectors"]:
            source, stream = unhex(item["input"]), unhex(item["expected"])
            assert compress(source) == stream, item["name"]
            assert decompress(stream) == source, item["name"]


class TestSessions:
    """Permission ids and the digests that an owner signs."""

    def test_ids_and_digests(self) -> None:
        for item in load_vectors("sessions")["vectors"]:
            expected = item["expected"]
            session = session_of(expected["sessionData"])
            assert permission_id(session) == unhex(expected["permissionId"]), item["name"]
            assert permits_generic_policy(session) is expected["permitGenericPolicy"], item["name"]
            digest = session_digest(item["account"].lower(), session, int(item["nonce"]))
            digests = chain_digests_of(expected["hashesAndChainIds"])
            assert digests == (HashAndChainId(item["session"]["chainId"], digest),), item["name"]
            assert multi_chain_digest(digests) == unhex(expected["multiChainSessionDigest"]), item["name"]

    def test_set_config_selector(self) -> None:
        call = load_vectors("sessions")["vectors"][0]["expected"]["enableCall"]
        assert unhex(call["data"])[:4] == keccak(SET_CONFIG_SIGNATURE.encode())[:4]

    def test_removal(self) -> None:
        for item in load_vectors("v2_sessions")["removeConfigVectors"]:
            data = unhex(item["expected"]["data"])
            permission = data[4 + 4 * 32 : 4 + 5 * 32]  # the fourth member of config, after the account
            digest = remove_digest(
                item["account"].lower(), permission, int(item["nonce"]), int(item["expires"])
            )
            assert data.endswith(digest)  # the only entry of hashesAndChainIds comes last


class TestOwnerEnable:
    """The owners' approval per account kind, single and multi-chain."""

    def test_signatures(self) -> None:
        file = load_vectors("enable_signatures")
        sessions = sessions_by_name()
        seen: set[str] = set()
        for item in file["vectors"]:
            kind = cast("AccountKind", item["accountType"].split(" ")[0])
            account, expected = item["account"].lower(), item["expected"]
            digests = tuple(
                HashAndChainId(
                    sessions[name]["session"]["chainId"],
                    session_digest(
                        account, session_of(sessions[name]["expected"]["sessionData"]), int(nonce)
                    ),
                )
                for name, nonce in zip(item["sessions"], item["nonces"], strict=True)
            )
            assert digests == chain_digests_of(expected["hashesAndChainIds"]), item["name"]
            digest = multi_chain_digest(digests)
            assert digest == unhex(expected["multiChainSessionDigest"]), item["name"]
            keys = keys_of(file, item["owners"]["keys"])
            if item["owners"].get("module") == STARTALE_K1_VALIDATOR:
                with pytest.raises(SigningInputError, match="K1 validator"):
                    owner_enable_signature(kind, account, digest, keys, validator=STARTALE_K1_VALIDATOR)
                continue
            if kind == "kernel":
                assert kernel_digest(account, digest) == unhex(expected["kernelWrappedDigest"])
            signature = owner_enable_signature(kind, account, digest, keys)
            assert signature == unhex(expected["enableSignature"]), item["name"]
            owners = [address_of(key) for key in keys]
            signers = verify_owner_enable_signature(
                kind, account, digest, signature, owners, threshold=item["owners"]["threshold"]
            )
            assert list(signers) == owners
            seen.add(kind)
        assert seen == {"nexus", "safe", "kernel", "startale"}


class TestSessionSignatures:
    """USE, ENABLE and ERC-1271 packing, and their inverse."""

    def test_emissary_and_erc1271(self) -> None:
        file = load_vectors("signatures")
        sessions = sessions_by_name()
        modes: set[str] = set()
        for item in file["vectors"]:
            session = session_of(sessions[item["sessionName"]]["expected"]["sessionData"])
            account, digest, expected = item["account"].lower(), unhex(item["digest"]), item["expected"]
            signed = digest if item["verifyExecutions"] else erc1271_hash("nexus", account, digest)
            assert signed == unhex(expected["hashSignedByValidator"]), item["name"]
            keys = keys_of(file, item["session"]["owners"]["keys"])
            vs = b"".join(psig(key, signed) for key in keys)
            assert vs == unhex(expected["validatorSignature"]), item["name"]
            packed = unhex(expected["packedSignature"])
            identity = permission_id(session)
            if not item["verifyExecutions"]:
                wrapped = erc1271("nexus", account, identity, vs)
                assert wrapped[20:] == packed, item["name"]
                assert decode_erc1271("nexus", wrapped).validator_signature == vs
                modes.add("erc1271")
            elif "enableData" in item:
                enable = enable_of(item["enableData"])
                assert emissary_enable(session, enable, identity, vs) == packed, item["name"]
                form = decode_emissary(packed)
                assert (form.session, form.enable, form.permission_id) == (session, enable, identity)
                assert form.validator_signature == vs
                modes.add(form.mode)
            else:
                assert emissary_use(identity, vs) == packed, item["name"]
                form = decode_emissary(packed)
                assert (form.permission_id, form.validator_signature, form.session) == (identity, vs, None)
                modes.add(form.mode)
        assert modes == {"use", "enable", "erc1271"}

    def test_account_wrapping(self) -> None:
        file = load_vectors("signatures")
        assert {item["accountType"] for item in file["wrapVectors"]} == {
            "nexus",
            "safe",
            "kernel",
            "startale",
        }
        for item in file["wrapVectors"]:
            kind, account = cast("AccountKind", item["accountType"]), item["account"].lower()
            session = session_like(item["session"])
            identity, expected = permission_id(session), item["expected"]
            (key,) = keys_of(file, item["session"]["owners"]["keys"])
            vs = psig(key, erc1271_hash(kind, account, unhex(item["digest"])))
            assert erc1271(kind, account, identity, vs) == unhex(expected["signature"]), kind
            claim = unhex(expected["claimPolicyData"])
            signature = erc1271(kind, account, identity, vs, claim)
            assert signature == unhex(expected["signatureWithClaimPolicyData"]), kind
            form = decode_erc1271(kind, signature)
            assert (form.permission_id, form.validator_signature, form.claim_policy_data) == (
                identity,
                vs,
                claim,
            )

    def test_mocks(self) -> None:
        checked = 0
        for item in load_vectors("signatures")["mockVectors"]:
            chain_id, expected = (
                item.get("targetChainId", item["session"]["chainId"]),
                unhex(item["expected"]),
            )
            if item["useDevContracts"]:
                # the emissary and the actions are the dev ones, the permission id stays production's
                subject = sdk_session(item["session"])
                enable = EnableData(bytes(65), (HashAndChainId(chain_id, bytes(32)),), 0)
                form = emissary_enable(
                    session_data(subject, dev=True), enable, permission_id_of(subject), bytes(65)
                )
                assert unhex(DEV_EMISSARY) + form == expected, item["name"]
            else:
                session = session_like(item["session"])
                assert mock_signature(session, chain_id, item["chainCount"]) == expected, item["name"]
            checked += 1
        assert checked == 6


def op_json(ops: Ops) -> dict[str, Any]:
    return {
        "vt": "0x" + ops.vt.hex(),
        "ops": [{"to": op.to, "value": str(op.value), "data": "0x" + op.data.hex()} for op in ops.ops],
    }


def token_json(tokens: tuple[TokenAmount, ...]) -> list[dict[str, str]]:
    return [{"token": item.token, "amount": str(item.amount)} for item in tokens]


def message_json(message: SingleChainOps | Permit2Message) -> dict[str, Any]:
    """The message as the SDK shows it, addresses in lower case."""
    if isinstance(message, SingleChainOps):
        refund = message.gas_refund
        return {
            "account": message.account,
            "nonce": str(message.nonce),
            "op": op_json(message.op),
            "gasRefund": {
                "token": refund.token,
                "exchangeRate": str(refund.exchange_rate),
                "overhead": str(refund.overhead),
            },
        }
    mandate, target = message.mandate, message.mandate.target
    return {
        "permitted": token_json(message.permitted),
        "spender": message.spender,
        "nonce": str(message.nonce),
        "deadline": str(message.deadline),
        "mandate": {
            "target": {
                "recipient": target.recipient,
                "tokenOut": token_json(target.token_out),
                "targetChain": str(target.target_chain),
                "fillExpiry": str(target.fill_expiry),
            },
            "minGas": str(mandate.min_gas),
            "originOps": op_json(mandate.origin_ops),
            "destOps": op_json(mandate.dest_ops),
            "q": "0x" + mandate.q.hex(),
        },
    }


def lower(value: Any) -> Any:
    return json.loads(json.dumps(value).lower())


class TestTypedData:
    """Payloads and digests built from an intentOp."""

    def test_origins_and_destination(self) -> None:
        built = 0
        for item in load_vectors("typed_data")["vectors"]:
            expected, account = item["expected"], item["account"].lower()
            if any(
                origin["digest"].startswith("ERROR") or origin["primaryType"] == "MultichainCompact"
                for origin in expected["origin"]
            ):
                with pytest.raises(SigningInputError):
                    payloads(item["intentOp"], account)
                continue
            result = payloads(item["intentOp"], account)
            assert [origin.digest for origin in result.origins] == [
                unhex(origin["digest"]) for origin in expected["origin"]
            ], item["name"]
            assert result.destination.digest == unhex(expected["destinationDigest"]), item["name"]
            for origin, wanted in zip(result.origins, expected["origin"], strict=True):
                assert origin.chain_id == wanted["domain"]["chainId"]
                assert lower(message_json(origin.message)) == lower(wanted["message"]), item["name"]
            built += 1
        assert built == 4

    def test_why_the_others_are_refused(self) -> None:
        vectors = {item["name"]: item for item in load_vectors("typed_data")["vectors"]}
        for name, words in {
            "same-chain-no-funding": "Compact",
            "compact-two-elements": "Compact",
            "mixed-intent-executor-wins": r"elements\[0\].*gasRefund: is missing",
        }.items():
            with pytest.raises(SigningInputError, match=words):
                payloads(vectors[name]["intentOp"], vectors[name]["account"].lower())

    def test_target(self) -> None:
        for item in load_vectors("typed_data")["targetExecutionVectors"]:
            target = payloads(item["intentOp"], item["account"].lower()).target
            assert target is not None
            expected = item["expected"]
            assert target.digest == unhex(expected["digest"]), item["name"]
            assert target.chain_id == expected["domain"]["chainId"]
            assert lower(message_json(target.message)) == lower(expected["message"])


class TestClaimPolicyData:
    """What is appended for the Permit2 claim policy."""

    def test_data(self) -> None:
        file = load_vectors("claim_policies")
        message = permit2_message(file["message"])
        for item in file["vectors"]:
            policy = Permit2Claim.model_validate(item["claimPolicy"])
            assert claim_policy_data(message, policy) == unhex(item["expected"]["calldata"]), item["name"]


def ops_from(value: Mapping[str, Any]) -> Ops:
    return Ops(
        unhex(value["vt"]),
        tuple(Op(op["to"].lower(), int(op["value"]), unhex(op["data"])) for op in value["ops"]),
    )


def tokens_from(items: list[dict[str, str]]) -> tuple[TokenAmount, ...]:
    return tuple(TokenAmount(item["token"].lower(), int(item["amount"])) for item in items)


def permit2_message(value: dict[str, Any]) -> Permit2Message:
    mandate, target = value["mandate"], value["mandate"]["target"]
    return Permit2Message(
        permitted=tokens_from(value["permitted"]),
        spender=value["spender"].lower(),
        nonce=int(value["nonce"]),
        deadline=int(value["deadline"]),
        mandate=Mandate(
            target=Target(
                target["recipient"].lower(),
                tokens_from(target["tokenOut"]),
                int(target["targetChain"]),
                int(target["fillExpiry"]),
            ),
            min_gas=int(mandate["minGas"]),
            origin_ops=ops_from(mandate["originOps"]),
            dest_ops=ops_from(mandate["destOps"]),
            q=unhex(mandate["q"]),
        ),
    )


class TestFlows:
    """Complete runs of the SDK: every signature that it submitted, rebuilt from the intentOp that it got."""

    @pytest.mark.parametrize(
        "name",
        [
            "flow_a_enabled_same_chain",
            "flow_b_enable_and_use",
            "flow_c_cross_chain_permit2",
            "flow_d_bare_session_permit2_same_chain",
            "flow_e_jwt_sponsored_same_chain_permit2",
        ],
    )
    def test_submitted_signatures(self, name: str) -> None:
        file = load_vectors(name)
        kind = cast("AccountKind", file["account"]["type"])
        account = file["account"]["address"].lower()
        route, submit = (call["request"] for call in file["expected"]["http"])
        op = json.loads(submit["bodyText"])["signedIntentOp"]
        signer = file["transaction"]["signer"]
        per_chain = signer.get("sessions")

        def sign_for(chain_id: int) -> dict[str, Any]:
            return per_chain[str(chain_id)] if per_chain else signer

        verify = isinstance(op["originSignatures"][0], dict)
        enabled = bool(file["enabledOnChain"])

        def emissary_form(chain_id: int, digest: bytes) -> str:
            given = sign_for(chain_id)
            (key,) = keys_of(file, given["session"]["owners"]["keys"])
            vs = psig(key, digest)
            if enabled:
                form = emissary_use(permission_id(session_like(given["session"])), vs)
            else:
                session = session_like(given["session"])
                form = emissary_enable(session, enable_of(given["enableData"]), permission_id(session), vs)
            assert decode_emissary(form).validator_signature == vs
            return "0x" + form.hex()

        def erc1271_form(chain_id: int, digest: bytes, message: object) -> str:
            session = sign_for(chain_id)["session"]
            (key,) = keys_of(file, session["owners"]["keys"])
            vs = psig(key, erc1271_hash(kind, account, digest))
            data = b""
            if session.get("claimPolicies") and isinstance(message, Permit2Message):
                data = claim_policy_data(message, Permit2Claim.model_validate(session["claimPolicies"][0]))
            return "0x" + erc1271(kind, account, permission_id(session_like(session)), vs, data).hex()

        result = payloads(op, account)
        for origin, submitted in zip(result.origins, op["originSignatures"], strict=True):
            notarized = erc1271_form(origin.chain_id, origin.digest, origin.message)
            if verify:
                assert submitted == {
                    "preClaimSig": emissary_form(origin.chain_id, origin.digest),
                    "notarizedClaimSig": notarized,
                }
            else:
                assert submitted == notarized
        target_chain = file["transaction"].get("targetChainId", file["transaction"].get("chainId"))
        destination = result.destination
        assert op["destinationSignature"] == (
            emissary_form(target_chain, destination.digest)
            if verify
            else erc1271_form(target_chain, destination.digest, destination.message)
        )
        if "targetExecutionSignature" in op:
            assert result.target is not None
            assert op["targetExecutionSignature"] == emissary_form(target_chain, result.target.digest)
        else:
            assert result.target is None or not verify

        involved = {chain: sign_for(chain)["session"] for chain in map(int, per_chain or [target_chain])}
        encoded = {chain: session_like(session) for chain, session in involved.items()}
        sources = file["transaction"].get("sourceChainIds")
        mocks = json.loads(route["bodyText"])["account"]
        assert mocks["mockSignatures"] == mock_signatures(encoded, target_chain, sources)
        assert mocks["mockSignature"] == mocks["mockSignatures"][str(target_chain)]
