"""Compiled policy contracts: the public ones of a folder, and stand-ins of our own for where those are not at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
