"""Compiled policy contracts: the public ones of a folder, and stand-ins of our own for where those are not at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from worker.errors import InputError
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
from worker.policies.policy import PolicyModel

OURS = Path(__file__).parent / "contracts" / "artifacts"
"""The driver, the window and the stand-ins, compiled by ``python -m worker.devnet.compile_contracts``."""

MODELS: Mapping[str, type[PolicyModel]] = {
    "ERC20SpendingLimitPolicy": SpendingLimits,
    "UsageLimitPolicy": UsageLimit,
    "ValueLimitPolicy": ValueLimit,
    "UniActionPolicy": UniversalAction,
    "ArgPolicy": ArgPolicy,
    "TimeFramePolicy": TimeFrame,
    "IntentExecutionPolicy": IntentExecution,
    "SudoPolicy": Sudo,
}
"""The public contracts' names."""

_FACTORY = "0x000000000069e2a187aeffb852bf3ccdc95151b2"
"""The deterministic deployer of the December 2024 deployments (their repository's Deploy.toml has the salts)."""

DEPLOYED_1_15: Mapping[type[PolicyModel], tuple[str, str]] = {
    SpendingLimits: (
        "0000000000000000000000000000000000000000dd33829cc2cff403768e163e",
        "768baa3c9a9c431b370942ae74465cb3791698017aace73c2f6c53aa234b0c9f",
    ),
    UniversalAction: (
        "0000000000000000000000000000000000000000013a9fcb74b0b702f204c063",
        "0f0cab528f656576ec43373b64563dcae51dbf72baf6f28137fdb37417514ec9",
    ),
    Sudo: (
        "00000000000000000000000000000000000000002e44d3e1fe056402d02e46b9",
        "bd955cf25936748c17bdf68e37d696e78014ccb40d6c029c95f90364328d0f74",
    ),
}
"""Salt and hash of the creation code, of what SDK 1.15 names."""

STATEFUL = {SpendingLimits, UsageLimit, ValueLimit, UniversalAction, ArgPolicy}

# copies everything that follows these ten bytes into the code: creation code of a contract without a constructor
_CREATE = "0x61{:04x}80600a5f395ff3"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract.

    Attributes:
        name: the contract's.
        abi: its ABI.
        creation: the code that creates it, without constructor arguments.
    """

    name: str
    abi: list[dict[str, Any]]
    creation: bytes

    def has(self, function: str) -> bool:
        """Whether the ABI knows a function of this name."""
        return any(item.get("name") == function for item in self.abi if item["type"] == "function")

    @property
    def is_of_1_15(self) -> bool:
        """Whether this very code is at the address that SDK 1.15 names, which is derived from it (CREATE2)."""
        model = MODELS[self.name]
        salt, _ = DEPLOYED_1_15.get(model, ("", ""))
        return bool(salt) and create2(salt, keccak(self.creation).hex()) == model.address

    @property
    def constructor(self) -> list[str]:
        """The types of the constructor's arguments."""
        return next(
            ([part["type"] for part in item["inputs"]] for item in self.abi if item["type"] == "constructor"),
            [],
        )


class ArtifactError(InputError):
    """A file of the folder cannot be used."""


def read_artifacts(folder: Path) -> dict[type[PolicyModel], Artifact]:
    """The policies for which the folder holds ``<Name>/<Name>.json`` with ``abi`` and ``bytecode.object``.

    Raises:
        ArtifactError: a file is there and is not such an artifact.
    """
    found: dict[type[PolicyModel], Artifact] = {}
    for name, model in MODELS.items():
        path = folder / name / f"{name}.json"
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_bytes())
            code = content["bytecode"]["object"]
            found[model] = Artifact(name, list(content["abi"]), bytes.fromhex(code.removeprefix("0x")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{path.name} is no compiled contract ({type(error).__name__})",
                field="ARTIFACTS",
                fix="each <Name>/<Name>.json holds `abi` and `bytecode.object` in hex, without library placeholders",
            ) from None
    return found


def create2(salt: str, code_hash: str) -> str:
    """The address of a contract that the deployer creates, lower-case; both 32 bytes in hex without 0x."""
    parts = (b"\xff", bytes.fromhex(_FACTORY[2:]), bytes.fromhex(salt), bytes.fromhex(code_hash))
    return "0x" + keccak(b"".join(parts))[12:].hex()


def our_code(name: str) -> str:
    """Runtime code of one of our own contracts, 0x hex."""
    return str(json.loads((OURS / f"{name}.json").read_text())["deployedBytecode"])


def write_stand_ins(folder: Path) -> None:
    """Lay our stand-ins out as the public artifacts are."""
    for name in MODELS:
        compiled = json.loads((OURS / f"{name}.json").read_text())
        code = compiled["deployedBytecode"].removeprefix("0x")
        created = _CREATE.format(len(code) // 2) + code
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.json").write_text(
            json.dumps({"abi": compiled["abi"], "bytecode": {"object": created}})
        )
