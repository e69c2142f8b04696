"""One draw of the comparison with the SDK: a user's whole way, made by us and by SDK 1.15.0 from the same input.

A draw has a session of any shape, a swap scope that need not be sound, an owner set with its account of each kind, an
approval of several sessions on each of these accounts, and four intents: calls on one chain, a trade over several
chains with a session for each, an owner's calls, and a refused one. Every value of every answer is compared; request
bodies are compared as texts, as our client and the SDK send them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

from tests.support.differences import Question
from tests.support.sdk_draws import MAX_UINT64, MAX_UINT256, Draw, DrawnSession, HeldKeys, KeySet
from worker.execution.ask import Ask, Leg, check_legs
from worker.execution.owner import OwnedAccount, owner_route_request, owner_signatures
from worker.execution.route_request import route_request
from worker.execution.sign import signatures
from worker.execution.trade import trade_signatures
from worker.execution.trade_request import trade_request
from worker.execution.wire import submit_body
from worker.intents.trade import Trade
from worker.orchestrator.alps import AlpsOrchestrator
from worker.orchestrator.http import HttpClient, Reply
from worker.orchestrator.jwt_auth import intent_digest
from worker.policies.base import Execution
from worker.sessions.accounts import (
    EXECUTOR_MODULE,
    NEXUS_VERSIONS,
    CounterfactualAccount,
    derive_account,
    install_calls,
    uninstall_calls,
)
from worker.sessions.chains import known_chains
from worker.sessions.emissary import get_nonce_call, is_permission_enabled_call, set_config_call
from worker.sessions.encoding import permission_id_of, session_data
from worker.sessions.errors import SessionError
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.sessions.model import EcdsaOwners, Session
from worker.sessions.swap import FYND_ROUTERS
from worker.signing.contracts import OWNABLE_VALIDATOR, SMART_SESSION_EMISSARY
from worker.signing.enable import owner_enable_signature
from worker.signing.intent_op import IntentPayloads, payloads
from worker.signing.session_digest import multi_chain_digest, permission_id, session_digest
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.structs import AccountKind, EnableData, HashAndChainId, PolicyData, SessionData

_PERMIT2_LAYERS = ("SAME_CHAIN", "ACROSS", "ECO", "RELAY", "OFT", "NEAR", "RHINO", "CCTP")


class WholeDraw:
    """The input of one draw, and our answers to every question about it.

    Attributes:
        seen: what was drawn, by name.
    """

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.seen: Counter[str] = Counter()
        self.wild = draw.session()
        self.owners = draw.keys(draw.among(2, 2, 5), module=True)
        chains = draw.sample(list(known_chains()), 1, 3)
        self.sessions = [draw.session(chain=chain, enableable=True) for chain in chains]
        self.nonces = [draw.uint(MAX_UINT256) for _ in range(len(chains) + 1)]
        self.datas = [session_data(our_session(session)) for session in (self.wild, *self.sessions)]

    def questions(self) -> list[Question]:
        """Everything that is asked, with our answers."""
        accounts = {kind: DrawnAccount(self.draw, kind, self.owners) for kind in ACCOUNT_KINDS}
        bare = DrawnAccount(self.draw, self.draw.kind(), self.owners, sessions=False)
        kind = self.draw.kind()
        # all of the sessions on one account, one of them on each of the others
        at = self.draw.count(0, len(self.datas) - 1)
        approvals = {
            each: self._approval(account, [*range(len(self.datas))] if each == kind else [at])
            for each, account in accounts.items()
        }
        signed = approvals[kind][1]
        owned = DrawnAccount(self.draw, self.draw.kind(), self.draw.keys(3))
        self._note(self.wild, "session")
        intents = (
            self._calls(accounts[kind], signed[self.draw.count(0, len(signed) - 1)]),
            self._trade(accounts[kind], signed),
            self._owner(owned),
        )
        return [
            *self._encodings(),
            self._swap(),
            *(account.question() for account in (*accounts.values(), bare)),
            *(question for question, _ in approvals.values()),
            *(question for pair in intents for question in pair),
        ]

    def _note(self, session: DrawnSession, role: str) -> None:
        scope = session.scope
        shape = "swap" if "swap" in scope else "restricted" if scope.get("restrictToActions") else "open"
        self.seen[f"{role}: {shape}"] += 1
        if scope.get("claimPolicies"):
            self.seen[f"{role}: claim policy"] += 1
        if not scope.get("actions") and "swap" not in scope:
            self.seen[f"{role}: bare"] += 1
        for action in scope.get("actions", []):
            for policy in action.get("policies", []):
                self.seen[f"policy: {policy['type']}"] += 1

    def _encodings(self) -> list[Question]:
        session = our_session(self.wild)
        return [
            Question(
                name,
                "session",
                {"session": self.wild.for_sdk(), "dev": dev},
                {
                    "result": {
                        "sessionData": as_sdk_has_it(session_data(session, dev=dev)),
                        "permissionId": hexed(permission_id_of(session)),
                    }
                },
            )
            for name, dev in (("session", False), ("session of dev contracts", True))
        ]

    def _swap(self) -> Question:
        """Whatever the venues, caps and tokens: the same bytes, or refused in the same words."""
        chain = self.draw.among(*known_chains())
        drawn = DrawnSession(chain, self.draw.keys(1), {"swap": self.draw.swap(chain, sound=False)})
        ours: dict[str, Any]
        try:
            data = session_data(our_session(drawn))
            ours = {
                "result": {"sessionData": as_sdk_has_it(data), "permissionId": hexed(permission_id(data))}
            }
        except SessionError as error:
            ours = {"error": error.message}
        self.seen[f"swap scope: {'sound' if 'result' in ours else 'refused'}"] += 1
        question = Question("swap scope", "session", {"session": drawn.for_sdk()}, ours)
        venues = {venue["id"] for venue in drawn.scope["swap"].get("via", ())}
        if "error" in ours and "fynd" in venues and chain not in FYND_ROUTERS:
            # the SDK trips over the router that is not there before it says so, or what else is wrong
            return replace(question, said_instead=("TypeError",))
        return question

    def _approval(self, account: DrawnAccount, chosen: list[int]) -> tuple[Question, list[SignedSession]]:
        """The digests, the owners' signature and the call that enables; and each session with its approval.

        Args:
            account: whose owners approve.
            chosen: which of the sessions, 0 is the one of any shape.
        """
        every = [self.wild, *self.sessions]
        drawn = [every[index] for index in chosen]
        datas = [self.datas[index] for index in chosen]
        nonces = [self.nonces[index] for index in chosen]
        enabled = self.draw.count(0, len(chosen) - 1)
        hashes = tuple(
            HashAndChainId(session.chain, session_digest(account.address, data, int(nonce)))
            for session, data, nonce in zip(drawn, datas, nonces, strict=True)
        )
        digest = multi_chain_digest(hashes)
        signature = owner_enable_signature(
            account.kind,
            account.address,
            digest,
            account.owners.keys,
            validator=(account.owners.module or OWNABLE_VALIDATOR).lower(),
        )
        listed = [
            {"chainId": str(entry.chain_id), "sessionDigest": hexed(entry.session_digest)} for entry in hashes
        ]
        call = set_config_call(account.address, datas[enabled], EnableData(signature, hashes, enabled))
        ours = {
            "address": account.address,
            "setupOps": account.setup_ops(),
            "hashesAndChainIds": listed,
            "digest": hexed(digest),
            "userSignature": hexed(signature),
            "call": {"to": SMART_SESSION_EMISSARY, "data": hexed(call)},
            "reads": [
                {
                    "chain": session.chain,
                    "to": SMART_SESSION_EMISSARY,
                    "data": hexed(get_nonce_call(account.address)),
                }
                for session in drawn
            ],
        }
        question = Question(
            f"approval of a {account.kind}",
            "enable",
            {
                "account": account.for_sdk(),
                "sessions": [session.for_sdk() for session in drawn],
                "nonces": nonces,
                "index": enabled,
            },
            {"result": ours},
        )
        self.seen[f"approval: {account.kind}"] += 1
        return question, [
            SignedSession(
                session,
                account,
                nonce,
                {
                    "userSignature": hexed(signature),
                    "hashesAndChainIds": listed,
                    "sessionToEnableIndex": index,
                },
            )
            for index, (session, nonce) in enumerate(zip(drawn, nonces, strict=True))
            if chosen[index]
        ]

    def _calls(self, account: DrawnAccount, signed: SignedSession) -> list[Question]:
        """Calls on one chain with one session, enabled or enabled by them."""
        draw = self.draw
        option = draw.among(None, True, False)
        session = signed.registered(option)
        calls, sponsored, enabled = draw.calls(), draw.maybe(), draw.maybe()
        gas = draw.uint(MAX_UINT64, smallest=1) if draw.maybe(0.3) else None
        # calls on one chain are signed on the executor's route; a trade has the others, with claim policies
        layers = [("INTENT_EXECUTOR", "NO_FUNDING")]
        if not session.claim_policies:
            layers += [("SAME_CHAIN", "PERMIT2"), ("ECO", "PERMIT2")]
        layer, funding = draw.among(*layers)
        route = _route(
            draw.intent_op(account.address, session.chain_id, [(session.chain_id, layer, funding)])
        )
        request = route_request(
            session,
            [_execution(call) for call in calls],
            sponsored=sponsored,
            enable=not enabled,
            gas_units=None if gas is None else int(gas),
        )
        transaction: dict[str, Any] = {"chain": session.chain_id, "calls": calls}
        if gas is not None:
            transaction["gasLimit"] = gas
        if sponsored:
            transaction["sponsored"] = True
        self._note(signed.drawn, "calls")
        self.seen[f"calls: {account.kind}"] += 1
        self.seen[f"calls: {layer}, {'use' if enabled else 'enable'}"] += 1
        keys = HeldKeys(signed.drawn.owners.keys)
        return self._sent(
            "calls",
            {
                "account": account.for_sdk(),
                "chains": [session.chain_id],
                "transaction": transaction,
                "signers": signed.for_sdk(option),
                "enabled": {session.chain_id: enabled},
                "route": route,
            },
            request,
            lambda message: signatures(message, session, keys, enable=not enabled),
            account.address,
            with_target=session.verify_executions,
            sessions=[session],
        )

    def _trade(self, account: DrawnAccount, signed: list[SignedSession]) -> list[Question]:
        """Tokens and calls over several chains, with a session for each, each enabled or not."""
        draw = self.draw
        options = [draw.among(None, True, False) for _ in signed]
        by_chain = {
            item.drawn.chain: (item, option, item.registered(option), draw.maybe())
            for item, option in zip(signed, options, strict=True)
        }
        target_chain = draw.among(*by_chain)
        others = [chain for chain in by_chain if chain != target_chain]
        sources = draw.sample(others, 1, len(others)) if others and draw.maybe(0.7) else []
        if not sources or draw.maybe(0.3):
            sources.insert(draw.count(0, len(sources)), target_chain)
        legs = {
            chain: Leg(by_chain[chain][2], not by_chain[chain][3])
            for chain in dict.fromkeys((*sources, target_chain))
        }
        given, transaction = self._terms(sources, target_chain, legs)
        trade = Trade.from_json(given)
        calls = draw.calls() if draw.maybe(0.7) else []
        ask = Ask(
            legs[target_chain],
            tuple(legs[chain] for chain in sources),
            tuple(_execution(call) for call in calls),
            trade,
            bool(transaction.get("sponsored")),
        )
        elements = self._elements(sources)
        route = _route(draw.intent_op(account.address, target_chain, elements))
        self.seen[f"trade: {len(legs)} chains"] += 1
        self.seen[f"trade: {account.kind}"] += 1
        for chain, layer, funding in elements:
            self.seen[f"trade: {layer}, {funding}"] += 1
            self._note(by_chain[chain][0].drawn, "trade")
        keys = HeldKeys(tuple(key for item in signed for key in item.drawn.owners.keys))
        return self._sent(
            "trade",
            {
                "account": account.for_sdk(),
                "chains": list(legs),
                "transaction": {
                    **transaction,
                    "sourceChains": sources,
                    "targetChain": target_chain,
                    "calls": calls,
                },
                "signers": {
                    "sessions": {
                        chain: item.for_sdk(option) for chain, (item, option, _, _) in by_chain.items()
                    }
                },
                "enabled": {chain: enabled for chain, (_, _, _, enabled) in by_chain.items()},
                "route": route,
            },
            trade_request(ask),
            lambda message: trade_signatures(message, ask, keys),
            account.address,
            with_target=ask.target.session.verify_executions,
            sessions=[leg.session for leg in legs.values()],
            # what a real trade would be refused for is compared all the same
            refused=lambda: check_legs(ask.target.session, tuple(leg.session for leg in ask.sources), trade),
        )

    def _terms(
        self, sources: list[int], target: int, legs: Mapping[int, Leg]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A trade in our JSON, and the same as members of the SDK's transaction."""
        draw = self.draw
        given: dict[str, Any] = {"sources": [legs[chain].session.session_id for chain in sources]}
        transaction: dict[str, Any] = {}
        tokens = draw.some(
            0, 2, lambda: {"address": draw.address(), "amount": draw.uint(MAX_UINT256, smallest=1)}
        )
        if len(tokens) == 1 and draw.maybe(0.3):
            del tokens[0]["amount"]
        if tokens or draw.maybe():
            transaction["tokenRequests"] = tokens
        if tokens:
            given["tokens"] = [{**item, "token": item["address"]} for item in tokens]
            for item in given["tokens"]:
                del item["address"]
            if draw.maybe():
                given["recipient"] = transaction["recipient"] = draw.address()
        spend = [
            {"chain": draw.among(*sources), "token": draw.address(), "amount": draw.uint(MAX_UINT256)}
            for _ in range(draw.count(1 if tokens else 0, 2))
        ]
        if spend:
            given["spend"] = spend
        assets = draw.maybe(0.3)
        if spend and draw.maybe(0.3):
            given["exactInputs"] = True
            transaction["sourceAssets"] = [
                {"chain": item["chain"], "address": item["token"], "amount": item["amount"]} for item in spend
            ]
        elif assets:
            given["sourceAssets"] = transaction["sourceAssets"] = draw.some(
                1, 3, lambda: draw.among("USDC", "ETH", draw.address())
            )
        source_calls = {
            str(chain): draw.calls()
            for chain in legs
            if draw.maybe(0.25) and (chain in sources or chain == target)
        }
        if source_calls:
            given["sourceCalls"] = transaction["sourceCalls"] = source_calls
        if draw.maybe(0.3):
            given["feeAsset"] = transaction["feeAsset"] = draw.among("USDC", draw.address())
        if draw.maybe(0.3):
            given["settlementLayers"] = transaction["settlementLayers"] = draw.sample(
                list(_PERMIT2_LAYERS), 1, 3
            )
        if draw.maybe(0.3):
            given["customDeadline"] = transaction["customDeadline"] = int(draw.uint(2**53 - 1, smallest=1))
        sponsored = draw.among(None, True, "terms")
        if sponsored == "terms":
            terms = {name: draw.maybe() for name in ("gas", "bridging", "swaps")}
            if draw.maybe():
                terms["protocolFees"] = draw.maybe()
            given["sponsored"] = transaction["sponsored"] = terms
        elif sponsored:
            transaction["sponsored"] = True
        return given, transaction

    def _elements(self, sources: list[int]) -> list[tuple[int, str, str]]:
        """Any layers that 1.15 can sign: all of the executor, some of it, or Permit2 for at least one."""
        draw = self.draw
        chains = draw.sample(sources, 1, len(sources))
        way = draw.among("executor", "permit2", "permit2", "mixed")
        if way == "executor":
            return [(chain, "INTENT_EXECUTOR", "NO_FUNDING") for chain in chains]
        elements = [
            (chain, draw.among(*_PERMIT2_LAYERS), draw.among("PERMIT2", "PERMIT2", "NO_FUNDING"))
            for chain in chains
        ]
        at = draw.count(0, len(chains) - 1)
        chain, layer, _ = elements[at]
        elements[at] = (
            (chain, layer, "PERMIT2") if way == "permit2" else (chain, "INTENT_EXECUTOR", "NO_FUNDING")
        )
        return elements

    def _owner(self, account: DrawnAccount) -> list[Question]:
        """Calls that the owners sign."""
        draw = self.draw
        chain = draw.among(*known_chains())
        calls, sponsored = draw.calls(), draw.maybe()
        gas = draw.uint(MAX_UINT64, smallest=1) if draw.maybe(0.3) else None
        owned = (
            OwnedAccount(account.address, account.kind, chain)
            if account.existing
            else OwnedAccount.of(account.ours, chain)
        )
        layer, funding = draw.among(("INTENT_EXECUTOR", "NO_FUNDING"), ("SAME_CHAIN", "PERMIT2"))
        route = _route(draw.intent_op(account.address, chain, [(chain, layer, funding)]))
        request = owner_route_request(
            owned,
            [_execution(call) for call in calls],
            sponsored=sponsored,
            gas_units=None if gas is None else int(gas),
        )
        transaction: dict[str, Any] = {"chain": chain, "calls": calls}
        if gas is not None:
            transaction["gasLimit"] = gas
        if sponsored:
            transaction["sponsored"] = True
        self.seen[f"owner: {account.kind}"] += 1
        return self._sent(
            "owner",
            {
                "account": account.for_sdk(),
                "chains": [chain],
                "transaction": transaction,
                "route": route,
            },
            request,
            lambda message: owner_signatures(message, owned, account.owners.keys),
            account.address,
            with_target=False,
            sessions=[],
        )

    def _sent(
        self,
        name: str,
        params: dict[str, Any],
        request: dict[str, Any],
        sign: Callable[[IntentPayloads], dict[str, Any]],
        account: str,
        *,
        with_target: bool,
        sessions: Sequence[RegisteredSession],
        refused: Callable[[], None] | None = None,
    ) -> list[Question]:
        """Ask our client for a quote and submit it as the pipeline does; both bodies are caught where they leave."""
        wire = _wire()
        wire.route, wire.requests = params["route"], []
        quote = wire.client.quote(request)
        message = payloads(quote.intent_op, account, with_target=with_target)
        wire.client.submit(submit_body(quote, sign(message)))
        if refused is not None:
            try:
                refused()
            except Exception as error:  # noqa: BLE001 - only counted
                self.seen[f"{name}: refused before a quote ({type(error).__name__})"] += 1
        reads = [
            {
                "chain": session.chain_id,
                "to": SMART_SESSION_EMISSARY,
                "data": hexed(is_permission_enabled_call(session.account, session.permission_id)),
            }
            for session in sorted(sessions, key=lambda session: session.chain_id)
        ]
        ours = {
            "reads": reads,
            "requests": wire.requests,
            "originDigests": [hexed(origin.digest) for origin in message.origins],
        }
        body = wire.requests[0]["body"]
        return [
            Question(name, "send", params, {"result": ours}),
            Question(f"digest of {name}", "intentDigest", {"body": body}, {"result": intent_digest(request)}),
        ]


class DrawnAccount:
    """A configuration, spelled for the SDK and for us.

    Args:
        draw: decides the options.
        kind: its kind.
        owners: its owners.
        sessions: whether it is made with the session modules.

    Attributes:
        ours: what we make of it.
        existing: whether it is known by an address of its own instead, as accounts are that exist already.
        address: the account, lower-case.
    """

    def __init__(self, draw: Draw, kind: AccountKind, owners: KeySet, *, sessions: bool = True) -> None:
        self.kind: AccountKind = kind
        self.owners = owners
        self.sessions = sessions
        self._options: dict[str, Any] = {}
        ours: dict[str, Any] = {}
        if kind == "safe":
            if draw.maybe(0.6):
                self._options["nonce"] = draw.uint(MAX_UINT256)
                ours["salt_nonce"] = int(self._options["nonce"])
        elif draw.maybe(0.6):
            self._options["salt"] = draw.blob(32)
            ours["salt"] = unhex(self._options["salt"])
        if kind == "nexus" and draw.maybe(0.6):
            self._options["version"] = ours["version"] = draw.among(*NEXUS_VERSIONS)
        self.ours: CounterfactualAccount = derive_account(
            our_owners(owners), kind, sessions=self.sessions, **ours
        )
        given = draw.address() if kind in {"nexus", "safe"} and draw.maybe(0.3) else None
        self.existing = given is not None
        self._given = given or self.ours.address
        self.address = self._given.lower()

    def for_sdk(self) -> dict[str, Any]:
        """The account that signs: with the session modules, at its address."""
        account: dict[str, Any] = {
            "kind": self.kind,
            "owners": self.owners.for_sdk(),
            "options": self._options,
        }
        return {**account, "address": self._given} if self.existing else account

    def setup_ops(self) -> list[dict[str, str]]:
        """What deploys it."""
        ops = () if self.existing else self.ours.setup_ops
        return [{"to": to, "data": hexed(data)} for to, data in ops]

    def question(self) -> Question:
        """Its address, its init code and its modules."""
        ours, kind = self.ours, self.kind
        asked = {
            "kind": kind,
            "owners": self.owners.for_sdk(),
            "options": self._options,
            "sessions": self.sessions,
        }
        result = {
            "address": ours.address,
            "initCode": {"factory": ours.factory, "factoryData": hexed(ours.factory_data)},
            "setupOps": [{"to": to, "data": hexed(data)} for to, data in ours.setup_ops],
            # the SDK answers without calls when its configuration has no sessions
            "enable": _calls(install_calls(kind, ours.address)) if self.sessions else [],
            "disable": _calls(uninstall_calls(kind, ours.address)) if self.sessions else [],
            "executor": _calls(install_calls(kind, ours.address, EXECUTOR_MODULE)),
        }
        return Question(f"account {kind}", "derive", {"account": asked}, {"result": result})


@dataclass(frozen=True, slots=True)
class SignedSession:
    """A session that an account's owners approved."""

    drawn: DrawnSession
    account: DrawnAccount
    nonce: str
    enable_data: dict[str, Any]

    def for_sdk(self, verify_executions: bool | None) -> dict[str, Any]:
        """The signer of the SDK's transaction."""
        signer: dict[str, Any] = {"session": self.drawn.for_sdk(), "enableData": self.enable_data}
        if verify_executions is not None:
            signer["verifyExecutions"] = verify_executions
        return signer

    def registered(self, verify_executions: bool | None) -> RegisteredSession:
        """Written as a session file and read by us."""
        file: dict[str, Any] = {
            "sdk": "1.15.0",
            "account": {
                "address": self.account.address,
                "kind": self.account.kind,
                "owners": self.account.owners.for_us(),
                "setupOps": self.account.setup_ops(),
            },
            # a session without actions is written so on purpose in a session file
            "actions": [],
            **self.drawn.for_us(),
            "nonce": self.nonce,
            "enableData": self.enable_data,
        }
        if verify_executions is not None:
            file["verifyExecutions"] = verify_executions
        return recompute(load_session_file(json.dumps(file)))


class Wire:
    """Our client, with what it sends caught at the last moment, and answered as the SDK's stub answers.

    Attributes:
        route: text of the orchestrator's reply to a quote request.
        requests: what was sent.
    """

    def __init__(self) -> None:
        self.client = AlpsOrchestrator("http://127.0.0.1:9", api_key="oracle", timeout_ms=1000)
        self.client.close()
        self.client._http = cast("HttpClient", self)  # pyright: ignore[reportPrivateUsage]
        self.route = ""
        self.requests: list[dict[str, str]] = []

    def request(self, method: str, path: str, body: str | None = None, auth: object = None) -> Reply:
        """As ``HttpClient.request``."""
        assert auth is None
        self.requests.append({"method": method, "path": path, "body": body or ""})
        if path == "/intents/route":
            return Reply(200, self.route.encode(), None, "")
        return Reply(201, b'{"result":{"id":"1","status":"PENDING"}}', None, "")


@cache
def _wire() -> Wire:
    # reading the machine's certificates takes longer than all else in a draw
    return Wire()


def our_session(drawn: DrawnSession) -> Session:
    """A drawn session as our model reads it."""
    return Session.model_validate(drawn.for_us(), by_alias=True, by_name=False)


def our_owners(keys: KeySet) -> EcdsaOwners:
    """A drawn owner set as our model reads it."""
    return EcdsaOwners.model_validate(keys.for_us())


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


def hexed(value: bytes) -> str:
    """Bytes as the SDK writes them."""
    return "0x" + value.hex()


def unhex(value: str) -> bytes:
    """The inverse of ``hexed``."""
    return bytes.fromhex(value[2:])


def _execution(call: Mapping[str, str]) -> Execution:
    return Execution(call["to"].lower(), int(call["value"]), unhex(call["data"]))


def _calls(calls: Sequence[Execution]) -> list[dict[str, str]]:
    return [{"to": call.to, "value": str(call.value), "data": hexed(call.data)} for call in calls]


def _route(intent_op: dict[str, Any]) -> str:
    # as JavaScript writes it: what the SDK sends back is what it parsed, what we send back is this text
    return json.dumps({"intentOp": intent_op, "intentCost": {}}, separators=(",", ":"), ensure_ascii=False)
