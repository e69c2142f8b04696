"""The published API descriptions, kept beside the project like the vectors, as validators of what goes over the wire."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator  # OpenAPI 3.0 schemas are of its generation

_DEFAULT = Path(__file__).parents[3] / "shared" / "protocol" / "openapi"


@lru_cache
def _description(name: str) -> dict[str, Any] | None:
    path = Path(os.environ.get("OPENAPI_DIR", _DEFAULT)) / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def load_openapi(name: str) -> dict[str, Any]:
    """One description, parsed. ``OPENAPI_DIR`` overrides where it is looked for; without it the test is skipped."""
    found = _description(name)
    if found is None:
        pytest.skip(
            f"the API description {name}.json is missing: set OPENAPI_DIR to the folder of the published files"
        )
    return found


def problems(description: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """What is wrong with one logged request of the devnet and its reply, measured by a description."""
    path, method = str(entry["path"]), str(entry["method"]).lower()
    known = description["paths"]
    if path not in known:
        path = next((p for p in known if "{" in p and path.startswith(p.split("{")[0])), path)
    if method not in known.get(path, {}):
        return [f"{method} {path} is not in the description"]
    operation = known[path][method]
    found: list[str] = []
    for parameter in operation["parameters"]:
        if parameter["in"] != "header" or not parameter["required"]:
            continue
        value = entry["headers"].get(parameter["name"])
        if value is None or (parameter["name"] != "x-api-key" and _errors(parameter["schema"], value)):
            found.append(f"header {parameter['name']}: {value!r}")
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        found += [f"request {text}" for text in _errors(schema, entry["body"])]
    reply = operation["responses"].get(str(entry["status"]))
    if reply is None:
        found.append(f"status {entry['status']} is not in the description")
    else:
        schema = reply["content"]["application/json"]["schema"]
        found += [f"reply {text}" for text in _errors(schema, entry["response"])]
    return found


def _errors(schema: dict[str, Any], value: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft4Validator(schema).iter_errors(value)]
