"""Random sessions, accounts and intents, spelled once for the SDK and once for ours.

Hypothesis makes the choices (how many, which kind, which edge), so that it can shrink a draw that shows a difference;
bytes that mean nothing (addresses, calldata, keys, large numbers) come from a generator that one of its integers seeds.
Edge values are drawn often: zeros, ones, the largest value of a field and the widths where encodings change.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from worker.keys.port import KeyInfo, SecretKey
from worker.policies.fields import MAX_SAFE_INTEGER
from worker.policies.rules import CONDITIONS
from worker.sessions.chains import known_chains
from worker.sessions.swap import FYND_ROUTERS, ZERO_EX_CHAINS
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.sign import address_of
from worker.signing.structs import AccountKind

MAX_UINT64 = 2**64 - 1
MAX_UINT128 = 2**128 - 1
MAX_UINT256 = 2**256 - 1
FALLBACK_TARGET = "0x" + "00" * 19 + "01"

_PRECLAIM_TARGET = "0x" + "00" * 18 + "0420"


@dataclass(frozen=True)
class KeySet:
    """ECDSA owners: their keys in configured order."""

    keys: tuple[bytes, ...]
    threshold: int | None
    module: str | None = None

    def for_sdk(self) -> dict[str, Any]:
        """What the oracle wants; it signs, so it gets the keys."""
        return {"keys": ["0x" + key.hex() for key in self.keys], **self._options()}

    def for_us(self) -> dict[str, Any]:
        """What a session file holds."""
        return {"type": "ecdsa", "accounts": [address_of(key) for key in self.keys], **self._options()}

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.threshold is not None:
            options["threshold"] = self.threshold
        if self.module is not None:
            options["module"] = self.module
        return options


@dataclass(frozen=True)
class DrawnSession:
    """A session; ``scope`` is everything but chain and owners, as JSON."""

    chain: int
    owners: KeySet
    scope: dict[str, Any]

    def for_sdk(self) -> dict[str, Any]:
        """The oracle's spelling."""
        return {"chain": self.chain, "owners": self.owners.for_sdk(), **self.scope}

    def for_us(self) -> dict[str, Any]:
        """The session file's spelling."""
        return {"chain": self.chain, "owners": self.owners.for_us(), **self.scope}


class HeldKeys:
    """A key store over keys that the test made up: the SDK must hold the same ones, so they cannot come from a vault."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._keys = {address_of(key): key for key in keys}

    @contextmanager
    def _borrow(self, address: str) -> Generator[SecretKey]:
        key = SecretKey(self._keys[address], address)
        try:
            yield key
        finally:
            key.wipe()

    def get(self, address: str) -> Any:
        """The key, wiped afterwards."""
        return self._borrow(address)

    def create(self, *, label: str = "", replaces: str = "") -> KeyInfo:
        """Not needed here."""
        raise NotImplementedError

    def adopt(self, key: SecretKey, *, label: str = "") -> KeyInfo:
        """Not needed here."""
        raise NotImplementedError

    def mark_rotated(self, address: str) -> None:
        """Not needed here."""
        raise NotImplementedError

    def destroy(self, address: str) -> None:
        """Not needed here."""
        raise NotImplementedError

    def list(self) -> Iterator[KeyInfo]:
        """The addresses."""
        return (KeyInfo(address, 0) for address in self._keys)

    def check(self) -> str:
        """Always there."""
        return "in memory"


class Draw:
    """A source of random values.

    Args:
        choices: decides what has a meaning, such as a kind or a length.
        noise: decides what has none, such as the bytes of an address.
    """

    def __init__(self, choices: random.Random, noise: random.Random) -> None:
        self._choices = choices
        self._noise = noise

    @classmethod
    def named(cls, name: str) -> Draw:
        """The same values for the same name."""
        source = random.Random(name)
        return cls(source, source)

    def maybe(self, chance: float = 0.5) -> bool:
        """True with the given chance."""
        return self._choices.randrange(100) >= 100 - round(100 * chance)

    def among(self, *values: Any) -> Any:
        """One of them; the first is the simplest."""
        return values[self.count(0, len(values) - 1)]

    def count(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return low if low == high else self._choices.randint(low, high)

    def sample(self, values: list[Any], low: int, high: int) -> list[Any]:
        """``low`` to ``high`` of the values, each once, in any order."""
        return self._noise.sample(values, min(self.count(low, high), len(values)))

    def some(self, low: int, high: int, make: Callable[[], Any]) -> list[Any]:
        """A list of ``low`` to ``high`` values."""
        return [make() for _ in range(self.count(low, high))]

    def uint(self, largest: int, *, smallest: int = 0) -> str:
        """A decimal string, often near an edge."""
        bits = self._noise.randint(1, largest.bit_length())
        value = self.among(
            smallest, smallest + 1, largest, largest - 1, 1 << (bits - 1), self._noise.getrandbits(bits)
        )
        return str(min(max(value, smallest), largest))

    def blob(self, size: int) -> str:
        """0x hex of ``size`` bytes; zero bytes are frequent, as in calldata, so that compression has work."""
        noise = self._noise
        value = bytes(byte if noise.random() < 1 / 3 else 0 for byte in noise.randbytes(size))
        return "0x" + value.hex()

    def address(self) -> str:
        """Lower-case, or with its checksum."""
        raw = "0x" + self._noise.randbytes(20).hex()
        return to_checksum_address(raw) if self._noise.random() < 0.5 else raw

    def keys(self, most: int = 3, *, role: str = "account owner", module: bool = False) -> KeySet:
        """1 to ``most`` keys of a role in an order that need not be sorted; roles share no key."""
        labels = self._noise.sample(range(1000), self.count(1, most))
        keys = tuple(keccak(f"conformance {role} {label}".encode()) for label in labels)
        threshold = self.count(1, len(keys)) if self.maybe(0.7) else None
        return KeySet(keys, threshold, self.address() if module and self.maybe(0.2) else None)

    def kind(self) -> AccountKind:
        """An account kind."""
        return self.among(*ACCOUNT_KINDS)

    def session(
        self, *, chain: int | None = None, restricted: bool | None = None, enableable: bool = False
    ) -> DrawnSession:
        """A session that the SDK can encode.

        Args:
            chain: its chain; by default any that the SDK knows.
            restricted: whether it is confined to its actions; by default either.
            enableable: leave out what the contracts revert on (limits of 0, empty windows) and what other
                validators need.
        """
        confined = self.maybe() if restricted is None else restricted
        swaps = confined and self.maybe(0.4)
        on = self.among(*known_chains()) if chain is None else chain
        actions = self._scoped_actions(1 if confined and not swaps else 0, enableable=enableable)
        scope: dict[str, Any] = {}
        if swaps:
            scope["swap"] = self.swap(on)
            if self.maybe(0.3):
                scope["restrictToActions"] = self.maybe()
        elif confined:
            scope["restrictToActions"] = True
        else:
            if self.maybe(0.2):
                scope["restrictToActions"] = False
            if self.maybe(0.3):
                actions.insert(self.count(0, len(actions)), self._with_policies({}, enableable=enableable))
            if actions and self.maybe(0.2):
                actions.append(actions[0])
            if self.maybe(0.3):
                scope["claimPolicies"] = [self.claim_policy()]
        if actions or self.maybe():
            scope["actions"] = actions
        return DrawnSession(
            on,
            self.keys(role="session key", module=not enableable),
            scope,
        )

    def swap(self, chain: int, *, sound: bool = True) -> dict[str, Any]:
        """A swap scope.

        Args:
            chain: the session's chain.
            sound: one that the SDK takes; else venues, caps and tokens at random.
        """
        total = self.uint(MAX_UINT256, smallest=1) if self.maybe(0.6) else None
        sell, buy = self.address(), self.address()
        if not sound and self.maybe(0.1):
            buy = sell.lower()
        scope: dict[str, Any] = {
            "sell": {"token": sell, **({} if total is None else {"maxTotal": total})},
            "buy": {"token": buy},
            "to": self.address(),
        }
        if self.maybe(0.8):
            scope["via"] = self._venues(chain, has_total=total is not None, sound=sound)
        return scope

    def _venues(self, chain: int, *, has_total: bool, sound: bool) -> list[dict[str, Any]]:
        names = ["rhinestone"]
        if not sound or chain in ZERO_EX_CHAINS:
            names += ["0x", "0x"]
        if not sound or chain in FYND_ROUTERS:
            names += ["fynd", "fynd"]
        settler = self.address()
        # venues with different caps contradict each other
        cap = self.uint(MAX_UINT256) if self.maybe() else None
        venues: list[dict[str, Any]] = []
        for name in self.some(1 if sound else 0, 3, lambda: self.among(*names)):
            venue: dict[str, Any] = {"id": name}
            if not sound:
                cap = self.among(None, "5", "7") if self.maybe(0.3) else cap
            if cap is not None:
                venue["maxSpend"] = cap
            if name == "0x":
                if (not has_total and cap is None and sound) or self.maybe(0.7):
                    venue["settler"] = settler
                if ("settler" not in venue and sound) or self.maybe(0.3 if sound is False or cap else 0):
                    venue["anySettler"] = True
            venues.append(venue)
        if sound and len({venue.get("settler") for venue in venues if venue["id"] == "0x"}) > 1:
            return [venue for venue in venues if venue["id"] != "0x" or "settler" in venue]
        return venues

    def _scoped_actions(self, least: int, *, enableable: bool) -> list[dict[str, Any]]:
        targets = self.some(1, 3, self.address)
        selectors = ["0xa9059cbb", "0x095ea7b3", *self.some(1, 2, lambda: self.blob(4))]
        pairs = [(target, selector) for target in targets for selector in selectors]
        unique = {(target.lower(), selector): target for target, selector in pairs}
        chosen = self.sample(list(unique.items()), least, min(4, len(unique)))
        return [
            self._with_policies({"target": target, "selector": selector}, enableable=enableable)
            for (_, selector), target in chosen
        ]

    def _with_policies(self, action: dict[str, Any], *, enableable: bool) -> dict[str, Any]:
        if self.maybe(0.15):
            return action
        return {**action, "policies": self.some(0, 3, lambda: self.policy(enableable=enableable))}

    def policy(self, kind: str | None = None, *, enableable: bool = False) -> dict[str, Any]:
        """One action policy."""
        least = 1 if enableable else 0
        made = kind or self.among(
            "sudo",
            "spending-limits",
            "spending-limits",
            "time-frame",
            "time-frame",
            "usage-limit",
            "value-limit",
            "universal-action",
            "arg-policy",
            "intent-execution",
        )
        if made == "spending-limits":
            limits = self.some(
                least, 3, lambda: {"token": self.address(), "amount": self.uint(MAX_UINT256, smallest=least)}
            )
            return {"type": made, "limits": limits}
        if made == "time-frame":
            # the SDK takes numbers here, and floors the milliseconds to seconds
            until = int(self.uint(MAX_SAFE_INTEGER, smallest=2_000_000_000_000 if enableable else 0))
            after = int(self.uint(1_999_999_999_999 if enableable else MAX_SAFE_INTEGER))
            return {"type": made, "validUntil": until, "validAfter": after}
        if made == "usage-limit":
            return {"type": made, "limit": self.uint(MAX_UINT128, smallest=least)}
        if made == "value-limit":
            return {"type": made, "limit": self.uint(MAX_UINT256, smallest=least)}
        if made == "universal-action":
            return {"type": made, **self._value_limit_per_use(), "rules": self.some(1, 16, self.rule)}
        if made == "arg-policy":
            return {
                "type": made,
                **self._value_limit_per_use(),
                "expression": self.expression(self.count(0, 5)),
            }
        return {"type": made}

    def _value_limit_per_use(self) -> dict[str, Any]:
        return {"valueLimitPerUse": self.uint(MAX_UINT256)} if self.maybe() else {}

    def rule(self) -> dict[str, Any]:
        """A rule on one word of the calldata."""
        rule: dict[str, Any] = {
            "condition": self.among(*CONDITIONS),
            "calldataOffset": self.uint(MAX_UINT64),
            "referenceValue": self.uint(MAX_UINT256) if self.maybe() else self.blob(self.among(1, 4, 20, 32)),
        }
        if self.maybe(0.4):
            rule["usageLimit"] = self.uint(MAX_UINT256)
        return rule

    def expression(self, depth: int) -> dict[str, Any]:
        """An expression of at most ``depth`` levels above its rules."""
        kind = "rule" if depth == 0 else self.among("rule", "not", "and", "or", "and", "or")
        if kind == "rule":
            return {"type": kind, "rule": self.rule()}
        if kind == "not":
            return {"type": kind, "child": self.expression(depth - 1)}
        return {"type": kind, "left": self.expression(depth - 1), "right": self.expression(depth - 1)}

    def claim_policy(self) -> dict[str, Any]:
        """A permit2-claim policy with any of its fields."""
        fields: dict[str, Callable[[], Any]] = {
            "arbiters": lambda: self.some(0, 3, self.address),
            "expiryBounds": self._bounds,
            "tokensIn": lambda: self.some(0, 3, lambda: self._on_chain("token")),
            "recipients": lambda: self.some(0, 3, lambda: self._on_chain("recipient")),
            "fillExpiryBounds": lambda: self.some(0, 3, lambda: {"chainId": self._chain(), **self._bounds()}),
            "tokensOut": lambda: self.some(0, 3, lambda: self._on_chain("token")),
            "recipientIsSponsor": self.maybe,
        }
        return {"type": "permit2-claim", **{name: make() for name, make in fields.items() if self.maybe()}}

    def _bounds(self) -> dict[str, Any]:
        return {name: self.uint(MAX_UINT256) for name in ("min", "max") if self.maybe()}

    def _on_chain(self, name: str) -> dict[str, Any]:
        value = "any" if name == "recipient" and self.maybe(0.3) else self.address()
        return {"chainId": self._chain(), name: value}

    def _chain(self) -> int:
        return self.among(*known_chains())

    def calls(self) -> list[dict[str, str]]:
        """1 to 3 calls of an intent."""
        return self.some(
            1,
            3,
            lambda: {
                "to": to_checksum_address(self.address()),
                "value": self.uint(MAX_UINT256),
                "data": self.blob(self.among(0, 3, 4, 36, 68, 200)),
            },
        )

    def intent_op(self, account: str, target: int, elements: list[tuple[int, str, str]]) -> dict[str, Any]:
        """An ``intentOp`` for the account.

        Args:
            account: who sponsors it.
            target: the destination chain.
            elements: (source chain, settlement layer, funding method) of each.
        """
        return {
            "sponsor": account,
            "nonce": self.uint(MAX_UINT256),
            "targetExecutionNonce": self.uint(MAX_UINT256),
            "expires": self.uint(MAX_UINT64),
            "elements": [self._element(target, chain, layer, funding) for chain, layer, funding in elements],
            "serverSignature": self.blob(32)[2:],
            "signedMetadata": {"tokenPrices": {"ETH": 3000.25}, "account": {"address": account}},
            "laterField": [True, None, {"\u00e9": "\u2028", "x": 0.1}],
        }

    def _element(self, target: int, chain: int, layer: str, funding: str) -> dict[str, Any]:
        return {
            "arbiter": self.address(),
            "chainId": str(chain),
            "idsAndAmounts": self.some(1, 3, self._id_and_amount) if funding == "PERMIT2" else [],
            "spendTokens": [],
            "beforeFill": False,
            "mandate": {
                "recipient": self.address(),
                "tokenOut": self.some(0, 2, self._id_and_amount),
                "destinationChainId": str(target),
                "fillDeadline": self.uint(MAX_UINT64),
                "destinationOps": {"vt": self.blob(32), "ops": self.calls()},
                "preClaimOps": {
                    "vt": self.blob(32),
                    "ops": [{"to": _PRECLAIM_TARGET, "value": "0", "data": "0x69123456"}],
                },
                "qualifier": {
                    "settlementContext": {
                        "settlementLayer": layer,
                        "fundingMethod": funding,
                        "using7579": True,
                        "gasRefund": {
                            "token": self.address(),
                            "exchangeRate": self.uint(MAX_UINT256),
                            "overhead": self.uint(MAX_UINT256),
                        },
                    },
                    "encodedVal": self.blob(self.among(0, 64)),
                },
                "minGas": self.uint(MAX_UINT128),
            },
        }

    def _id_and_amount(self) -> list[str]:
        # an id's low 160 bits are the token; the upper ones are a lock tag that must not matter
        return [self.uint(MAX_UINT256), self.uint(MAX_UINT256)]
