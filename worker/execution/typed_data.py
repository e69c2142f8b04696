"""Typed data that a server names, matched: domain, types and members are those that we know, and nothing besides.

What does not match is refused with its path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from worker.execution.explain import refuse
from worker.policies.base import Execution
from worker.signing.eip712 import Struct

Types = Mapping[str, tuple[tuple[str, str], ...]]
"""Struct types by name: (member, type) in order."""

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,77}", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


def types_of(*structs: Struct) -> Types:
    """The types of the structs that our own encoder knows, as typed data writes them."""
    return {
        struct.type_name: tuple((name, kind.type_name) for name, kind in struct.members) for struct in structs
    }


def match_types(value: object, path: str, known: Types, domain: Sequence[tuple[str, str]]) -> None:
    """Every struct type is there, member for member and in order; ``EIP712Domain`` may be left out."""
    types = match_object(value, path, required=tuple(known), more=True)
    every = {**known, "EIP712Domain": tuple(domain)}
    for name, members in types.items():
        if name not in every:
            refuse(f"{path}.{name}", "is no type of the message")
        wanted = [{"name": member, "type": kind} for member, kind in every[name]]
        if members != wanted:
            refuse(f"{path}.{name}", "has other members than the type we know")


def match_domain(value: object, path: str, fixed: Mapping[str, str], *, contract: str) -> int:
    """A domain with these texts, a chain id and the contract (lower-case); returns the chain id."""
    domain = match_object(value, path, required=(*fixed, "chainId", "verifyingContract"))
    for name, expected in fixed.items():
        if domain[name] != expected:
            refuse(f"{path}.{name}", f"is {str(domain[name])[:60]!r}, not {expected}")
    chain_id = match_uint(domain, "chainId", path)
    found = match_address(domain, "verifyingContract", path)
    if found != contract:
        refuse(f"{path}.verifyingContract", f"is {found}, not {contract}")
    return chain_id


def match_object(
    value: object, path: str, *, required: tuple[str, ...], more: bool = False
) -> Mapping[str, Any]:
    """An object with exactly these members; with ``more``, at least these."""
    if not isinstance(value, dict):
        refuse(path, "must be an object")
    found = cast("Mapping[str, Any]", value)
    for name in required:
        if name not in found:
            refuse(f"{path}.{name}", "is missing")
    if not more:
        for name in found:
            if name not in required:
                refuse(f"{path}.{name}", "is a field that is not known")
    return found


def match_uint(value: Mapping[str, Any], name: str, path: str, *, bits: int = 256) -> int:
    """An unsigned integer as a number or as decimal text, in the one way that it is written."""
    found = value[name]
    if isinstance(found, str) and _DECIMAL.fullmatch(found):
        found = int(found)
    if type(found) is not int or not 0 <= found < 2**bits:
        refuse(f"{path}.{name}", f"must be an integer of {bits} bits, not {str(found)[:40]!r}")
    return found


def match_address(value: Mapping[str, Any], name: str, path: str) -> str:
    """An address, lower-case."""
    found = value[name]
    if not isinstance(found, str) or not _ADDRESS.fullmatch(found):
        refuse(f"{path}.{name}", f"must be an address, not {str(found)[:60]!r}")
    return found.lower()


def read_calls(value: object, path: str) -> tuple[Execution, ...]:
    """The calls of an operation, whatever they are."""
    if not isinstance(value, list):
        refuse(path, "must be a list")
    found: list[Execution] = []
    for index, item in enumerate(cast("list[Any]", value)):
        at = f"{path}[{index}]"
        op = match_object(item, at, required=("to", "value", "data"))
        data = op["data"]
        if not isinstance(data, str) or not _HEX.fullmatch(data):
            refuse(f"{at}.data", "must be 0x and an even number of hex digits")
        found.append(
            Execution(match_address(op, "to", at), match_uint(op, "value", at), bytes.fromhex(data[2:]))
        )
    return tuple(found)
