"""From a swap scope to the actions that it stands for (SDK 1.15.0; sessions.md 6).

The offsets pin words of the venues' calldata, dynamic tails included: with a pointer pinned, what it points to lies
where the rule looks. They are bytes after the selector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

from worker.policies import ArgPolicy, Policy, SpendingLimits, TokenLimit, UniversalAction
from worker.policies.arg_policy import AndExpression, Expression, OrExpression, RuleExpression
from worker.policies.policy import PolicyModel
from worker.policies.rules import Rule
from worker.policies.universal_action import MAX_RULES
from worker.sessions.errors import SessionError
from worker.sessions.model import Action, FyndVenue, RhinestoneVenue, SwapScope, ZeroExVenue

APPROVE = bytes.fromhex("095ea7b3")

SWAP_EXACT_IN = bytes.fromhex("309fbe8f")
SWAP_EXACT_OUT = bytes.fromhex("0764c363")

ALLOWANCE_HOLDER = "0x0000000000001ff3684f28c67538d4d072c22734"
"""0x's contract that is called and approved, on every chain."""
ALLOWANCE_HOLDER_EXEC = bytes.fromhex("2213bc0b")
ZERO_EX_CHAINS = (1, 10, 56, 130, 137, 143, 146, 999, 4663, 8453, 9745, 42161, 43114, 57073)

FYND_ROUTERS = {
    1: "0xda892c989d07a18b5dd3f392d949f00df15c5736",
    56: "0x99748cbd931cb367dad265c5b2b4bd306d448e99",
    130: "0x764bc67b1036b00bc91221e988261f971a1c7ce4",
    137: "0x7cb3e87095f6cf95982dc6f57445171a6d3b511c",
    8453: "0x2d3524b9b5dae34b646614eebb1e038d403e4cac",
    9745: "0x8f9b3b0451efff0ae8100428aee35fa3cbc0b769",
    42161: "0xc1f838a5382bbb5729a0801c8ba73dfc861c4d34",
}
"""fynd's router by chain id, called and approved."""
FYND_SWAP = bytes.fromhex("ce25e49e")


class Swapper(NamedTuple):
    """Rhinestone's Swapper and the proxy that the account approves."""

    address: str
    proxy: str


SWAPPER = Swapper("0x40ce38e0cbb8ec54a601256e4facfed5679bccd0", "0x5afce415b4370e5efd8b9be784d21c331beab965")
DEV_SWAPPER = Swapper(
    "0x8206052a213aa7cafb18ec7898e8d1d421c02100", "0x21416a06e81fe115a5c8bf554b2b01383bd9b9f3"
)


class _Scoping(NamedTuple):
    spenders: tuple[str, ...]
    actions: tuple[Action, ...]


def expand(scope: SwapScope, chain_id: int, *, dev: bool = False) -> tuple[Action, ...]:
    """The actions of a swap scope: ``approve`` on the sell token, then each venue's calls.

    Args:
        scope: the scope.
        chain_id: the session's chain.
        dev: name the Swapper of ``useDevContracts``.

    Raises:
        SessionError: what the SDK refuses, in its words.
    """
    via = (RhinestoneVenue(id="rhinestone"),) if scope.via is None else scope.via
    if not via:
        raise SessionError(
            "swap.via must list at least one venue — an empty list would authorise nothing", field="swap.via"
        )
    if scope.sell.token == scope.buy.token:
        raise SessionError(
            f"swap.sell.token and swap.buy.token are the same address ({scope.sell.token})",
            field="swap.buy.token",
        )
    swapper = DEV_SWAPPER if dev else SWAPPER
    routes = _routes(scope, via, chain_id, swapper)
    scopings = [
        _scoping(scope, venue, chain_id, swapper, routes, field=f"swap.via[{index}]")
        for index, venue in enumerate(via)
    ]
    spenders = tuple(dict.fromkeys(spender for scoping in scopings for spender in scoping.spenders))
    calls = _without_repeats(action for scoping in scopings for action in scoping.actions)
    return (_approve(scope, spenders), *calls)


def quoters(scope: SwapScope | None) -> tuple[str, ...] | None:
    """``options.quoters.include`` of a session's route requests, None when it pins none (orchestrator.md 3).

    A scope through 0x or fynd only is of use with quotes of those; the Swapper's own venue takes any.
    """
    if scope is None or not scope.via or any(isinstance(venue, RhinestoneVenue) for venue in scope.via):
        return None
    return tuple(dict.fromkeys(venue.id for venue in scope.via))


def _routes(
    scope: SwapScope, via: Sequence[Any], chain_id: int, swapper: Swapper
) -> tuple[tuple[str, tuple[Rule, ...]], ...]:
    """The rules on a Swapper call's route by venue, in venue order; empty when any aggregator may fill."""
    if any(isinstance(venue, RhinestoneVenue) for venue in via):
        return ()
    settler = next(
        (venue.settler for venue in via if isinstance(venue, ZeroExVenue) and venue.settler is not None), None
    )
    sell, buy = scope.sell.token, scope.buy.token
    found: dict[str, tuple[Rule, ...]] = {}
    for venue in via:
        if isinstance(venue, ZeroExVenue):
            found["0x"] = _zero_ex_route(sell, settler)
        else:  # without a router the venue itself is refused, in its turn
            router = FYND_ROUTERS.get(chain_id)
            found["fynd"] = () if router is None else _fynd_route(sell, buy, router, swapper.address)
    return tuple(found.items())


def _scoping(
    scope: SwapScope,
    venue: RhinestoneVenue | ZeroExVenue | FyndVenue,
    chain_id: int,
    swapper: Swapper,
    routes: Sequence[tuple[str, tuple[Rule, ...]]],
    *,
    field: str,
) -> _Scoping:
    cap = scope.sell.max_total if venue.max_spend is None else venue.max_spend
    if isinstance(venue, RhinestoneVenue):
        return _swapper_scoping(scope, cap, swapper, ())
    if isinstance(venue, FyndVenue):
        router = FYND_ROUTERS.get(chain_id)
        if router is None:
            raise _unavailable("fynd", chain_id, FYND_ROUTERS, field)
        direct = _fynd_scoping(scope, cap, router)
    else:
        direct = _zero_ex_scoping(scope, venue, cap, field)
        if [name for name, _ in routes] == ["0x"] and chain_id not in ZERO_EX_CHAINS:  # as the SDK checks it
            raise _unavailable("0x", chain_id, ZERO_EX_CHAINS, field)
    wrapped = _swapper_scoping(scope, cap, swapper, [rules for _, rules in routes])
    return _Scoping((*direct.spenders, *wrapped.spenders), (*direct.actions, *wrapped.actions))


def _unavailable(name: str, chain_id: int, chains: Iterable[int], field: str) -> SessionError:
    known = ", ".join(str(chain) for chain in chains)
    return SessionError(
        f"{name} is not available on chain {chain_id}. Supported: {known}.", field=f"{field}.id"
    )


def _zero_ex_scoping(scope: SwapScope, venue: ZeroExVenue, cap: int | None, field: str) -> _Scoping:
    """``exec(operator, token, amount, target, data)``, and in its data the Settler's slippage struct."""
    if venue.settler is None and not venue.any_settler:
        raise SessionError(
            "zeroEx() requires either a pinned settler or anySettler + maxSpend: with neither, nothing bounds the "
            "operator, target or amount",
            field=f"{field}.settler",
        )
    if venue.any_settler and cap is None:
        raise SessionError(
            "zeroEx({ anySettler: true }) requires maxSpend: with the Settler unpinned it is the only bound on what a "
            "compromised session key can pull",
            field=f"{field}.maxSpend",
        )
    rules = [_pin(32, scope.sell.token)]
    if venue.settler is not None:
        rules += [
            _pin(0, venue.settler),
            _pin(96, venue.settler),
            _pin(128, 160),
            _pin(228, scope.buy.token),
            _pin(196, scope.to),
        ]
    rules += _cap(64, cap)
    return _Scoping((ALLOWANCE_HOLDER,), (_call(ALLOWANCE_HOLDER, ALLOWANCE_HOLDER_EXEC, rules),))


def _fynd_scoping(scope: SwapScope, cap: int | None, router: str) -> _Scoping:
    """``singleSwap(amountIn, tokenIn, tokenOut, minAmountOut, receiver, …)``."""
    rules = [_pin(32, scope.sell.token), _pin(64, scope.buy.token), _pin(128, scope.to), *_cap(0, cap)]
    return _Scoping((router,), (_call(router, FYND_SWAP, rules),))


def _swapper_scoping(
    scope: SwapScope, cap: int | None, swapper: Swapper, routes: Sequence[tuple[Rule, ...]]
) -> _Scoping:
    """Both of the Swapper's functions, whose heads are alike: tokenIn, amount, tokenOut, …, recipient at 160."""
    rules = [
        _pin(0, scope.sell.token),
        _pin(64, scope.buy.token),
        _pin(160, scope.to),
        *_cap(32, cap),
    ]
    alternatives: Sequence[tuple[Rule, ...]] = ()
    if len(routes) == 1:
        rules += routes[0]
    else:
        alternatives = [route for route in routes if route]
    return _Scoping(
        (swapper.proxy,),
        tuple(
            _call(swapper.address, selector, rules, alternatives)
            for selector in (SWAP_EXACT_IN, SWAP_EXACT_OUT)
        ),
    )


def _zero_ex_route(sell: str, settler: str | None) -> tuple[Rule, ...]:
    nested = (
        ()
        if settler is None
        else (_pin(608, 0), _pin(640, 96), _pin(708, settler), _pin(740, sell), _pin(804, settler))
    )
    return (*nested, *_route(sell, ALLOWANCE_HOLDER))


def _fynd_route(sell: str, buy: str, router: str, swapper: str) -> tuple[Rule, ...]:
    nested = (_pin(640, 96), _pin(740, sell), _pin(772, buy), _pin(836, swapper))
    return (*nested, *_route(sell, router))


def _route(sell: str, aggregator: str) -> tuple[Rule, ...]:
    """The Swapper's ``calls`` are exactly two: ``approve`` of the aggregator on the sell token, and its call."""
    approve_head = int.from_bytes(APPROVE + bytes(12) + bytes.fromhex(aggregator[2:])[:16], "big")
    return (
        _pin(224, 256),
        _pin(256, 2),
        _pin(288, 64),
        _pin(320, 288),
        _pin(352, sell),
        _pin(576, aggregator),
        _pin(384, 0),
        _pin(416, 96),
        _pin(448, 68),
        _pin(480, approve_head),
        _pin(484, aggregator),
    )


def _approve(scope: SwapScope, spenders: Sequence[str]) -> Action:
    rules = [_pin(0, spender) for spender in spenders]
    policies: list[PolicyModel] = [
        UniversalAction(rules=tuple(rules))
        if len(rules) == 1
        else ArgPolicy(expression=_folded(OrExpression, rules))
    ]
    if scope.sell.max_total is not None:
        limit = TokenLimit(token=scope.sell.token, amount=scope.sell.max_total)
        policies.append(SpendingLimits(limits=(limit,)))
    return _action(scope.sell.token, APPROVE, policies)


def _call(
    target: str, selector: bytes, rules: Sequence[Rule], alternatives: Sequence[tuple[Rule, ...]] = ()
) -> Action:
    policy: PolicyModel
    if alternatives:
        either = [_folded(AndExpression, list(route)) for route in alternatives]
        right = either[0]
        for route in either[1:]:
            right = OrExpression(type="or", left=right, right=route)
        all_rules = _folded(AndExpression, rules)
        policy = ArgPolicy(expression=AndExpression(type="and", left=all_rules, right=right))
    elif len(rules) <= MAX_RULES:
        policy = UniversalAction(rules=tuple(rules))
    else:
        policy = ArgPolicy(expression=_folded(AndExpression, rules))
    return _action(target, selector, [policy])


def _action(target: str, selector: bytes, policies: Sequence[PolicyModel]) -> Action:
    return Action(target=target, selector=selector, policies=cast("tuple[Policy, ...]", tuple(policies)))


def _folded(node: type[AndExpression | OrExpression], rules: Sequence[Rule]) -> Expression:
    """A right fold: ``node(r1, node(r2, …))``."""
    *rest, last = rules
    folded: Expression = RuleExpression(type="rule", rule=last)
    for rule in reversed(rest):
        left = RuleExpression(type="rule", rule=rule)
        folded = (
            AndExpression(type="and", left=left, right=folded)
            if node is AndExpression
            else OrExpression(type="or", left=left, right=folded)
        )
    return folded


def _pin(offset: int, word: int | str) -> Rule:
    return Rule(
        condition="equal",
        calldata_offset=offset,
        reference_value=int(word, 16) if isinstance(word, str) else word,
    )


def _cap(offset: int, cap: int | None) -> list[Rule]:
    """The word is at most the cap, and so is the sum over all calls."""
    if cap is None:
        return []
    return [Rule(condition="lessThanOrEqual", calldata_offset=offset, reference_value=cap, usage_limit=cap)]


def _without_repeats(actions: Iterable[Action]) -> tuple[Action, ...]:
    found: dict[tuple[str | None, bytes | None], Action] = {}
    for action in actions:
        if found.setdefault((action.target, action.selector), action) != action:
            selector = b"" if action.selector is None else action.selector
            raise SessionError(
                f"Conflicting swap actions for {action.target} 0x{selector.hex()}: two venues authorise the same call "
                "with different policies. Give them the same cap, or list only one.",
                field="swap.via",
            )
    return tuple(found.values())
