"""Our alps requests against the published description, which has newer names for some members: SDK 1.15.0 knows the older.

The description says that older requests are rewritten. So each request is checked twice: as it is, where only the
older names may be unknown to the description; and rewritten, where it must be valid without exception.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from jsonschema import Draft4Validator

from tests.support.openapi import load_openapi
from tests.support.sdk_draws import Draw
from tests.support.whole_draw import WholeDraw

DRAWS = 40
#: Members of SDK 1.15.0's quote request that the description does not name (any more).
OLDER_NAMES = {
    "destinationGasUnits",
    "options.topupCompact",
    "options.feeToken",
    "options.quoters",
    "options.sponsorSettings.gasSponsored",
    "options.sponsorSettings.bridgeFeesSponsored",
    "options.sponsorSettings.swapFeesSponsored",
    "options.sponsorSettings.protocolFeesSponsored",
}
#: What cannot be said in the newer names.
WITHOUT_A_NEWER_NAME = {"options.feeToken", "options.quoters"}
NEWER_SPONSOR = {
    "gasSponsored": "gas",
    "bridgeFeesSponsored": "bridgeFees",
    "swapFeesSponsored": "swapFees",
    "protocolFeesSponsored": "protocolFees",
}
MODES = {1: "ERC1271", 5: "EMISSARY_EXECUTION_ERC1271"}
SIGNED = ("originSignatures", "destinationSignature", "targetExecutionSignature")


@pytest.fixture(scope="module")
def bodies() -> dict[str, list[Any]]:
    """What our client sent in some draws, by path."""
    found: dict[str, list[Any]] = {}
    for number in range(DRAWS):
        for question in WholeDraw(Draw.named(f"published description {number}")).questions():
            for request in question.ours["result"]["requests"] if question.method == "send" else ():
                found.setdefault(request["path"], []).append(json.loads(request["body"]))
    return found


def schema_of(path: str) -> dict[str, Any]:
    operation = load_openapi("alps")["paths"][path]["post"]
    return operation["requestBody"]["content"]["application/json"]["schema"]


def test_quote_requests_have_only_the_older_names_besides(bodies: dict[str, list[Any]]) -> None:
    schema = schema_of("/intents/route")
    unknown = {path for body in bodies["/intents/route"] for path in _unknown(schema, body)}
    assert unknown == OLDER_NAMES
    wrong = {problem for body in bodies["/intents/route"] for problem in _problems(schema, body)}
    assert wrong == {
        # a number, which the enumeration has, but not the type
        "options.signatureMode",
        # a list, which the SDK makes of exact inputs
        "accountAccessList",
        # SAME_CHAIN, which 1.15 may name
        "options.settlementLayers",
    }


def test_quote_requests_are_valid_in_the_newer_names(bodies: dict[str, list[Any]]) -> None:
    schema = schema_of("/intents/route")
    for body in bodies["/intents/route"]:
        rewritten = _in_newer_names(body)
        assert not list(_problems(schema, rewritten))
        assert set(_unknown(schema, rewritten)) <= WITHOUT_A_NEWER_NAME


def test_what_signing_adds_to_a_quote_is_as_described(bodies: dict[str, list[Any]]) -> None:
    """The rest of the body is the orchestrator's own quote, which goes back as it came."""
    described = schema_of("/intent-operations")["properties"]["signedIntentOp"]
    assert {"originSignatures", "destinationSignature"} <= set(described["required"])
    seen: set[str] = set()
    for body in bodies["/intent-operations"]:
        assert list(body) == ["signedIntentOp"]
        added = {name: body["signedIntentOp"][name] for name in SIGNED if name in body["signedIntentOp"]}
        schema = {"type": "object", "properties": {name: described["properties"][name] for name in added}}
        assert not list(_problems(schema, added))
        assert not list(_unknown(schema, added))
        seen |= set(added)
    assert seen == set(SIGNED)


def _in_newer_names(body: dict[str, Any]) -> dict[str, Any]:
    """As the service rewrites a request of SDK 1.15.0 (orchestrator.md 3 and 6)."""
    made = cast("dict[str, Any]", json.loads(json.dumps(body)))
    if "destinationGasUnits" in made:
        made["destinationGasLimit"] = made.pop("destinationGasUnits")
    made["account"].pop("mockSignature", None)
    options = made["options"]
    assert options.pop("topupCompact") is False
    options["signatureMode"] = MODES[options["signatureMode"]]
    if "sponsorSettings" in options:
        options["sponsorSettings"] = {
            NEWER_SPONSOR[name]: value for name, value in options["sponsorSettings"].items()
        }
    if "settlementLayers" in options:
        # same-chain and executor routes are the service's own choice there
        options["settlementLayers"] = [
            layer for layer in options["settlementLayers"] if layer != "SAME_CHAIN"
        ]
    access = made["accountAccessList"]
    if isinstance(access, list):
        amounts: dict[str, dict[str, str]] = {}
        for item in cast("list[dict[str, Any]]", access):
            amounts.setdefault(str(item["chainId"]), {})[item["tokenAddress"]] = item["amount"]
        made["accountAccessList"] = {"chainTokenAmounts": amounts}
    return made


def _problems(schema: dict[str, Any], value: Any) -> Iterator[str]:
    """Paths at which the value is not as described."""
    for error in Draft4Validator(schema).iter_errors(value):
        path = ".".join(str(part) for part in error.absolute_path)
        # a symbol is one of the listed ones and any text, of which the description wants exactly one
        if not path.startswith("accountAccessList.tokens.") or error.validator != "oneOf":
            yield path


def _unknown(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Paths of members that the schema does not name; list indices are left out."""
    branches = [schema, *(branch for name in ("oneOf", "anyOf", "allOf") for branch in schema.get(name, ()))]
    if isinstance(value, dict):
        named = {name: part for branch in branches for name, part in branch.get("properties", {}).items()}
        free: dict[str, Any] | None = next(
            (
                branch["additionalProperties"]
                for branch in branches
                if isinstance(branch.get("additionalProperties"), dict)
            ),
            None,
        )
        for name, item in cast("dict[str, Any]", value).items():
            where = f"{path}.{name}" if path else name
            part = named.get(name, free)
            if part is None:
                yield where
            else:
                yield from _unknown(part, item, where)
    elif isinstance(value, list):
        items = next((branch["items"] for branch in branches if "items" in branch), None)
        for item in cast("list[Any]", value):
            if items is not None:
                yield from _unknown(items, item, path)
