"""Swap scopes: what they expand to, what they let pass, and what is refused with the SDK's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from eth_abi.abi import encode

from tests.support.sessions import ACCOUNT, BASE, NOW_S, OWNER_KEY, SESSION_ADDRESS, USDC
from worker.execution.route_request import route_request
from worker.policies import ArgPolicy, SpendingLimits, UniversalAction
from worker.policies.arg_policy import AndExpression, OrExpression
from worker.policies.base import Allow, Deny, Execution
from worker.policies.evaluate import evaluate
from worker.policies.policy import PolicyModel
from worker.sessions.approval import approve
from worker.sessions.encoding import (
    DUMMY_TARGET,
    check_enableable,
    is_restricted,
    permission_id_of,
    pinned_quoters,
    policy_table,
    session_data,
)
from worker.sessions.errors import SessionError
from worker.sessions.file import load_session_file
from worker.sessions.importing import recompute, verify
from worker.sessions.model import Action, Session
from worker.sessions.swap import (
    ALLOWANCE_HOLDER,
    ALLOWANCE_HOLDER_EXEC,
    APPROVE,
    DEV_SWAPPER,
    FYND_ROUTERS,
    FYND_SWAP,
    SWAP_EXACT_IN,
    SWAPPER,
    ZERO_EX_CHAINS,
    expand,
)
from worker.signing.contracts import SMART_SESSION_EMISSARY

WETH = "0x4200000000000000000000000000000000000006"
SETTLER = "0x" + "55" * 20
OTHER = "0x" + "99" * 20
OPTIMISM = 10
GNOSIS = 100

RHINESTONE = {"id": "rhinestone"}
ZERO_EX = {"id": "0x", "settler": SETTLER}
FYND = {"id": "fynd"}


def session(*via: dict[str, Any], chain: int = BASE, total: str | None = "1000", **fields: Any) -> Session:
    """A session that may swap USDC into WETH; without venues through the default one."""
    scope: dict[str, Any] = {
        "sell": {"token": USDC, **({} if total is None else {"maxTotal": total})},
        "buy": {"token": WETH},
        "to": ACCOUNT,
        **({"via": list(via)} if via else {}),
    }
    return Session.model_validate(
        {"chain": chain, "owners": [SESSION_ADDRESS], "swap": scope, **fields}, by_name=False
    )


def targets(subject: Session) -> list[str]:
    assert subject.swap is not None
    return [str(action.target) for action in expand(subject.swap, subject.chain)]


def policies_of(action: Action) -> list[PolicyModel]:
    assert action.policies is not None
    return list(action.policies)


def refused(subject: Session) -> SessionError:
    with pytest.raises(SessionError) as caught:
        session_data(subject)
    assert caught.value.field.startswith("swap")
    return caught.value


class TestExpansion:
    """Which calls a scope stands for."""

    def test_the_default_venue_is_the_swapper(self) -> None:
        subject = session()
        assert targets(subject) == [USDC, SWAPPER.address, SWAPPER.address]
        assert session_data(subject) == session_data(session(RHINESTONE))

    def test_it_confines_the_keys(self) -> None:
        data = session_data(session())
        assert is_restricted(session())
        assert data.salt != bytes(32)
        assert data.erc1271_policies == ()
        assert [action.target for action in data.actions][-1] == DUMMY_TARGET

    def test_direct_venues_bring_the_swapper_with_a_pinned_route(self) -> None:
        subject = session(FYND)
        assert targets(subject) == [USDC, FYND_ROUTERS[BASE], SWAPPER.address, SWAPPER.address]
        assert subject.swap is not None
        _, direct, wrapped, _ = expand(subject.swap, BASE)
        [direct_rules], [route] = policies_of(direct), policies_of(wrapped)
        assert isinstance(direct_rules, UniversalAction)
        assert isinstance(route, ArgPolicy)  # more than 16 rules
        assert isinstance(route.expression, AndExpression)

    def test_an_open_settler_leaves_a_route_of_15_rules(self) -> None:
        subject = session({"id": "0x", "anySettler": True})
        assert subject.swap is not None
        [policy] = policies_of(expand(subject.swap, BASE)[-1])
        assert isinstance(policy, UniversalAction)
        assert len(policy.rules) == 15

    def test_two_direct_venues_leave_a_choice_of_routes(self) -> None:
        subject = session(ZERO_EX, FYND)
        assert targets(subject) == [
            USDC,
            ALLOWANCE_HOLDER,
            SWAPPER.address,
            SWAPPER.address,
            FYND_ROUTERS[BASE],
        ]
        assert subject.swap is not None
        [policy] = policies_of(expand(subject.swap, BASE)[2])
        assert isinstance(policy, ArgPolicy)
        assert isinstance(policy.expression, AndExpression)
        assert isinstance(policy.expression.right, OrExpression)

    def test_the_swappers_own_venue_leaves_the_route_open(self) -> None:
        subject = session(ZERO_EX, RHINESTONE)
        assert subject.swap is not None
        policies = [policy for action in expand(subject.swap, BASE)[2:] for policy in policies_of(action)]
        assert all(isinstance(policy, UniversalAction) and len(policy.rules) == 4 for policy in policies)

    def test_every_spender_may_be_approved_within_the_total(self) -> None:
        subject = session(ZERO_EX, FYND)
        assert subject.swap is not None
        approve_action = expand(subject.swap, BASE)[0]
        assert (approve_action.target, approve_action.selector) == (USDC, APPROVE)
        [spenders, total] = policies_of(approve_action)
        assert isinstance(spenders, ArgPolicy)
        assert isinstance(total, SpendingLimits)
        assert total.limit_of(USDC) == 1000

    def test_own_actions_come_first(self) -> None:
        data = session_data(session(actions=[{"target": OTHER, "selector": "0x01020304"}]))
        assert [action.target for action in data.actions[:2]] == [OTHER, USDC]

    def test_the_permission_id_does_not_depend_on_the_swapper(self) -> None:
        subject = session()
        live, dev = session_data(subject), session_data(subject, dev=True)
        assert DEV_SWAPPER.address in {action.target for action in dev.actions}
        assert dev.salt == live.salt
        assert dev.actions != live.actions

    def test_ids_are_pinned(self) -> None:
        # Where the recorded vectors are missing, these still are what the SDK made of the same scopes.
        assert permission_id_of(session()).hex() == PINNED["default"]
        assert permission_id_of(session(ZERO_EX, FYND)).hex() == PINNED["0x and fynd"]


class TestRefusals:
    """What the SDK refuses, in its words."""

    def test_no_venue(self) -> None:
        subject = session()
        assert subject.swap is not None
        empty = subject.model_copy(update={"swap": subject.swap.model_copy(update={"via": ()})})
        assert "must list at least one venue" in refused(empty).message

    def test_the_same_token(self) -> None:
        subject = session()
        assert subject.swap is not None
        swap = subject.swap.model_copy(update={"buy": subject.swap.buy.model_copy(update={"token": USDC})})
        assert "same address" in refused(subject.model_copy(update={"swap": swap})).message

    @pytest.mark.parametrize(
        ("subject", "field", "words"),
        [
            (session({"id": "0x"}), "swap.via[0].settler", "requires either a pinned settler or anySettler"),
            (
                session(RHINESTONE, {"id": "0x", "anySettler": True}, total=None),
                "swap.via[1].maxSpend",
                "requires maxSpend",
            ),
            (session(FYND, chain=OPTIMISM), "swap.via[0].id", "fynd is not available on chain 10"),
            (session(ZERO_EX, chain=GNOSIS), "swap.via[0].id", "0x is not available on chain 100"),
            (
                session({**RHINESTONE, "maxSpend": "1"}, {**RHINESTONE, "maxSpend": "2"}),
                "swap.via",
                "Conflicting swap actions",
            ),
            (
                session(actions=[{"target": USDC, "selector": "0x095ea7b3"}]),
                "swap",
                "Duplicate scoped action",
            ),
            (
                session(actions=[{"policies": []}]),
                "",
                "do not allow fallback actions",
            ),
            (
                session(claimPolicies=[{"type": "permit2-claim"}]),
                "",
                "cannot use claimPolicies",
            ),
        ],
    )
    def test_refused(self, subject: Session, field: str, words: str) -> None:
        with pytest.raises(SessionError) as caught:
            session_data(subject)
        assert words in caught.value.message
        if field:
            assert caught.value.field == field

    def test_0x_behind_the_open_swapper_is_for_every_chain_as_in_the_sdk(self) -> None:
        assert GNOSIS not in ZERO_EX_CHAINS
        permission = permission_id_of(session(ZERO_EX, RHINESTONE, chain=GNOSIS))
        assert permission.hex() == PINNED["0x behind the open Swapper on Gnosis"]

    def test_what_cannot_be_enabled(self) -> None:
        with pytest.raises(SessionError) as caught:
            check_enableable(session(total="0"))
        assert caught.value.field == "swap.sell.maxTotal"
        native = session()
        assert native.swap is not None
        sell = native.swap.sell.model_copy(update={"token": "0x" + "00" * 20})
        swap = native.swap.model_copy(update={"sell": sell})
        with pytest.raises(SessionError) as caught:
            check_enableable(native.model_copy(update={"swap": swap}))
        assert caught.value.field == "swap.sell.token"


class TestQuoters:
    """A scope through named venues is of use with quotes of those only."""

    @pytest.mark.parametrize(
        ("via", "pinned"),
        [
            ((), None),
            ((RHINESTONE,), None),
            ((ZERO_EX,), ("0x",)),
            ((FYND, ZERO_EX), ("fynd", "0x")),
            ((ZERO_EX, RHINESTONE), None),
        ],
    )
    def test_pinned(self, via: tuple[dict[str, Any], ...], pinned: tuple[str, ...] | None) -> None:
        assert pinned_quoters(session(*via)) == pinned

    def test_the_route_request_names_them(self) -> None:
        for via, pinned in (((FYND,), {"include": ["fynd"]}), ((RHINESTONE,), None)):
            text = approve(session(*via), account=ACCOUNT, kind="nexus", owner_keys=[OWNER_KEY], nonce=0)
            found = recompute(load_session_file(text))
            options = route_request(found, [swap_call()], sponsored=True, enable=False)["options"]
            assert options.get("quoters") == pinned
            assert list(options)[-1] == "signatureMode"  # the SDK's order

    def test_a_session_without_swaps_pins_none(self) -> None:
        assert pinned_quoters(Session(chain=BASE, owners=session().owners)) is None


def swap_call(*, sell: str = USDC, amount: int = 5, buy: str = WETH, to: str = ACCOUNT) -> Execution:
    """``swapExactIn`` with an empty route."""
    types = ["address", "uint256", "address", "uint256", "uint256", "address", "uint256"]
    calls = "(address,uint256,bytes)[]"
    data = encode([*types, calls], [sell, amount, buy, 1, 1, to, 0, []])
    return Execution(SWAPPER.address, 0, SWAP_EXACT_IN + data)


def zero_ex_call(**changed: Any) -> Execution:
    """``exec`` of 0x's AllowanceHolder for a settler, whose calldata begins with the recipient and the token bought."""
    fields: dict[str, Any] = {
        "operator": SETTLER,
        "sell": USDC,
        "amount": 1000,
        "target": SETTLER,
        "to": ACCOUNT,
        "buy": WETH,
        **changed,
    }
    inner = b"\x1f\xff\x99\x1f" + encode(
        ["address", "address", "uint256", "bytes"], [fields["to"], fields["buy"], 1, b"\x07" * 40]
    )
    data = encode(
        ["address", "address", "uint256", "address", "bytes"],
        [fields["operator"], fields["sell"], fields["amount"], fields["target"], inner],
    )
    return Execution(ALLOWANCE_HOLDER, 0, ALLOWANCE_HOLDER_EXEC + data)


def fynd_call(**changed: Any) -> Execution:
    """A swap by fynd's router: amount in, sell token, buy token, least amount out, receiver, and the route."""
    fields: dict[str, Any] = {"amount": 1000, "sell": USDC, "buy": WETH, "to": ACCOUNT, **changed}
    data = encode(
        ["uint256", "address", "address", "uint256", "address", "bytes"],
        [fields["amount"], fields["sell"], fields["buy"], 1, fields["to"], b"\x07" * 40],
    )
    return Execution(FYND_ROUTERS[BASE], 0, FYND_SWAP + data)


class TestEvaluation:
    """The evaluator holds swaps to the scope."""

    def verdict(self, *calls: Execution, via: tuple[dict[str, Any], ...] = ()) -> Allow | Deny:
        return evaluate(
            policy_table(session(*via)),
            calls,
            account=ACCOUNT,
            emissary=SMART_SESSION_EMISSARY,
            now_s=NOW_S,
            chain_s=NOW_S,
            latest_s=NOW_S,
        )

    def approval(self, spender: str, amount: int) -> Execution:
        return Execution(USDC, 0, APPROVE + encode(["address", "uint256"], [spender, amount]))

    def test_the_swap_that_was_granted(self) -> None:
        allowed = self.verdict(self.approval(SWAPPER.proxy, 1000), swap_call(amount=1000))
        assert isinstance(allowed, Allow)
        assert [(change.amount, change.limit) for change in allowed.changes] == [(1000, 1000), (1000, 1000)]

    @pytest.mark.parametrize(
        "changed", [{"sell": OTHER}, {"buy": OTHER}, {"to": OTHER}, {"amount": 1001}], ids=str
    )
    def test_any_other_swap(self, changed: dict[str, Any]) -> None:
        assert isinstance(self.verdict(swap_call(**changed)), Deny)

    @pytest.mark.parametrize(
        ("via", "spender", "call"),
        [(ZERO_EX, ALLOWANCE_HOLDER, zero_ex_call), (FYND, FYND_ROUTERS[BASE], fynd_call)],
        ids=["0x", "fynd"],
    )
    def test_a_swap_of_another_venue(
        self, via: dict[str, Any], spender: str, call: Callable[..., Execution]
    ) -> None:
        allowed = self.verdict(self.approval(spender, 1000), call(), via=(via,))
        assert isinstance(allowed, Allow), allowed
        assert [(change.amount, change.limit) for change in allowed.changes] == [(1000, 1000), (1000, 1000)]
        # without the approval first, so that the call itself is what is judged
        assert isinstance(self.verdict(call(), via=(via,)), Allow)
        changes: list[dict[str, Any]] = [{"sell": OTHER}, {"buy": OTHER}, {"to": OTHER}, {"amount": 1001}]
        if via is ZERO_EX:
            changes += [{"operator": OTHER}, {"target": OTHER}]
        for changed in changes:
            assert isinstance(self.verdict(call(**changed), via=(via,)), Deny), changed

    def test_a_swap_of_a_venue_that_was_not_granted(self) -> None:
        assert isinstance(self.verdict(zero_ex_call(), via=(FYND,)), Deny)
        assert isinstance(self.verdict(fynd_call(), via=(ZERO_EX,)), Deny)
        assert isinstance(self.verdict(zero_ex_call()), Deny)

    def test_any_other_spender_or_call(self) -> None:
        assert isinstance(self.verdict(self.approval(OTHER, 1)), Deny)
        assert isinstance(self.verdict(Execution(OTHER, 0, b"\1\2\3\4")), Deny)


class TestImport:
    """A swap session is imported as any other."""

    def file(self, subject: Session) -> str:
        return approve(subject, account=ACCOUNT, kind="nexus", owner_keys=[OWNER_KEY], nonce=2)

    def test_an_approved_session(self) -> None:
        text = self.file(session(ZERO_EX))
        found = verify(load_session_file(text), our_keys=[SESSION_ADDRESS], chain_id=BASE, now_s=NOW_S)
        assert (found.restricted, found.verify_executions, found.enable_nonce) == (True, True, 2)
        assert (found.expires_s, found.quoters) == (0, ("0x",))
        assert [action.target for action in found.actions][:2] == [USDC, ALLOWANCE_HOLDER]
        assert recompute(load_session_file(found.file.text())) == found

    def test_actions_may_be_left_out(self) -> None:
        file = json.loads(self.file(session()))
        assert file.pop("actions") == []
        text = json.dumps(file)
        found = verify(load_session_file(text), our_keys=[SESSION_ADDRESS], chain_id=BASE, now_s=NOW_S)
        assert len(found.actions) == 3

    def test_a_changed_scope_is_not_what_was_approved(self) -> None:
        text = self.file(session()).replace('"1000"', '"1001"')
        with pytest.raises(SessionError) as caught:
            verify(load_session_file(text), our_keys=[SESSION_ADDRESS], chain_id=BASE, now_s=NOW_S)
        assert caught.value.field == "permissionId"

    def test_development_contracts_are_refused(self) -> None:
        file = {**json.loads(self.file(session())), "useDevContracts": True}
        with pytest.raises(SessionError) as caught:
            verify(
                load_session_file(json.dumps(file)), our_keys=[SESSION_ADDRESS], chain_id=BASE, now_s=NOW_S
            )
        assert caught.value.field == "useDevContracts"


PINNED = {
    "default": "9984293e3f17c6ec1f5b5586b57ffc7f498ff100e342326a00e1d7c4ee055e83",
    "0x and fynd": "26e9cbed55488778238622e35d62d1666c03cb6a2d735b5764c62aa53c700b80",
    "0x behind the open Swapper on Gnosis": "3fda6f109d551786fde1e8298a988bda0b5e0606f928f68c88212c26e8c4c135",
}
