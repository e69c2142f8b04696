"""Services of ``docker-compose.yml`` as processes on this machine: their very commands and environment, other addresses.

compose = Compose({"REDIS_PASSWORD": "…", …})          # the variables that .env would give
worker = compose.service("worker").by_hand({"redis:6379": "127.0.0.1:7001", "/credentials/worker": str(folder)})
process = subprocess.Popen(worker.command, env=worker.full_env(), cwd=worker.working_dir or None)
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"

# compose specification, "Interpolation": $$, $NAME, ${NAME} and ${NAME<operator>text}; nothing of ours nests them
_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<plain>\w+)|\{(?P<name>\w+)(?:(?P<operator>:?[-?+])(?P<text>[^}]*))?\})"
)


class ComposeError(Exception):
    """Compose itself would refuse this file or these variables."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """``text`` with its variables replaced as compose replaces them.

    Raises:
        ComposeError: a required variable is missing, or a ``$`` starts nothing.
    """

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name = match["plain"] or match["name"]
        found, operator, other = variables.get(name), match["operator"] or "", match["text"] or ""
        present = bool(found) if operator.startswith(":") else found is not None
        if operator.endswith("+"):
            return other if present else ""
        if present:
            return found or ""
        if operator.endswith("?"):
            raise ComposeError(f"{name}: {other}")
        return other if operator.endswith("-") else ""

    if "$" in _VARIABLE.sub("", text):
        raise ComposeError(f"invalid interpolation in {text!r}")
    return _VARIABLE.sub(value, text)


@dataclass(frozen=True, slots=True)
class Service:
    """How one container is started.

    Attributes:
        command: entry point and command, as a list.
        env: its ``environment``; no more than that.
        working_dir: empty for the image's own.
        health: the command of the health check; empty for none.
        mounts: source (a volume's name or a path) by the path in the container.
        needs: ``depends_on``: condition by service.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str
    health: tuple[str, ...]
    mounts: Mapping[str, str]
    needs: Mapping[str, str]

    def by_hand(self, instead: Mapping[str, str]) -> Service:
        """The same with texts replaced in command, environment, working folder and health check.

        Args:
            instead: what to put in place of an address or a path of the container, e.g. ``redis:6379``. Longer texts
                are replaced first. Each must occur.

        Raises:
            ComposeError: one does not occur, so that the substitution would do nothing; or a mounted path is left.
        """
        ordered = sorted(instead, key=len, reverse=True)
        found: set[str] = set()

        def swap(text: str) -> str:
            def one(match: re.Match[str]) -> str:
                found.add(match[0])
                return instead[match[0]]

            return re.sub("|".join(map(re.escape, ordered)), one, text) if ordered else text

        changed = replace(
            self,
            command=tuple(map(swap, self.command)),
            env={name: swap(value) for name, value in self.env.items()},
            working_dir=swap(self.working_dir),
            health=tuple(map(swap, self.health)),
        )
        if missing := set(instead) - found:
            raise ComposeError(f"{self.name}: {', '.join(sorted(missing))} does not occur")
        texts = (*changed.command, *changed.env.values(), changed.working_dir, *changed.health)
        if left := [path for path in self.mounts if any(path in text for text in texts)]:
            # it would outlive the test on this machine, and meet the next run
            raise ComposeError(f"{self.name}: say what stands in for {', '.join(sorted(left))}")
        return changed

    def full_env(self) -> dict[str, str]:
        """The environment for a process here: the service's, and of this machine's only what finds programs.

        The running interpreter's folder comes first on PATH, as the image's virtual environment does.
        """
        keep = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return keep | {"PATH": programs, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(self.env)


class Compose:
    """The parsed file, interpolated with ``variables`` (and nothing of this process's environment)."""

    def __init__(self, variables: Mapping[str, str], path: Path = COMPOSE_FILE) -> None:
        raw: Any = yaml.safe_load(path.read_text())
        self.document = cast(dict[str, Any], _interpolated(raw, variables))

    @property
    def names(self) -> tuple[str, ...]:
        """The services' names."""
        return tuple(self.document["services"])

    def service(self, name: str) -> Service:
        """One service."""
        found = cast(dict[str, Any], self.document["services"][name])
        return Service(
            name,
            (*_words(found.get("entrypoint", [])), *_words(found.get("command", []))),
            {key: str(value) for key, value in _mapping(found.get("environment", {})).items()},
            str(found.get("working_dir", "")),
            _health(found.get("healthcheck", {}).get("test", [])),
            {target: source for source, target in map(_mount, found.get("volumes", []))},
            {key: str(value["condition"]) for key, value in _mapping(found.get("depends_on", {})).items()},
        )


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Values are interpolated, keys are not."""
    if isinstance(value, str):
        return interpolate(value, variables)
    if isinstance(value, dict):
        return {key: _interpolated(item, variables) for key, item in cast(dict[Any, Any], value).items()}
    if isinstance(value, list):
        return [_interpolated(item, variables) for item in cast(list[Any], value)]
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ComposeError("write environment and depends_on as mappings")
    return cast(dict[str, Any], value)


def _words(value: Any) -> tuple[str, ...]:
    """A command as text is split as a shell would, without a shell."""
    return tuple(shlex.split(value)) if isinstance(value, str) else tuple(str(word) for word in value)


def _health(test: Any) -> tuple[str, ...]:
    if not test:
        return ()
    kind, *words = (str(word) for word in test)
    if kind == "CMD-SHELL":
        return ("/bin/sh", "-c", *words)
    if kind == "CMD":
        return tuple(words)
    raise ComposeError(f"a health check of the kind {kind}")


def _mount(text: str) -> tuple[str, str]:
    source, target, *_ = text.split(":")
    return source, target
