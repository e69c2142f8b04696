"""The real ``@rhinestone/sdk`` under node, as an oracle and as a user.

The pinned packages of ``tests/conformance`` are installed once into the cache folder; npm checks the lock's hashes and
runs no install script. Later runs need no network.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import pytest
from eth_hash.auto import keccak

from tests.support.need import missing
from worker.devnet.devnet import Devnet
from worker.devnet.npm_packages import cache_dir

CONFORMANCE = Path(__file__).parents[1] / "conformance"
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
# A cold install downloads about 45 MB; a slow link must still make it.
INSTALL_TIMEOUT_S = 600
# A script waits for intents that the SDK polls twice a second.
RUN_TIMEOUT_S = 120
# Computing signatures takes milliseconds; a minute means that the oracle hangs.
CALL_TIMEOUT_S = 60
_NODE_MAJOR = 20


class NodeError(AssertionError):
    """A script under node failed; the message holds the end of what it printed."""


class SdkError(Exception):
    """The SDK threw. ``name`` is the error's class, ``message`` its words."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        self.message = message
        super().__init__(f"{name}: {message}")


def node_binary() -> str:
    """``node``, 20 or newer, from PATH; skips, or fails in CI, when it or npm is missing."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        _no_node("node and npm are not on PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    major = version.removeprefix("v").split(".")[0]
    if not major.isdigit() or int(major) < _NODE_MAJOR:
        _no_node(f"node {version or '?'} is too old")
    return node


def sdk_dir() -> Path:
    """The folder whose ``node_modules`` holds the pinned SDK; installs it if it is not there.

    The folder's name holds the hash of the lock file, and the install is moved into place when it is whole. Skips
    visibly, or fails in CI, when node is missing or the packages cannot be had.
    """
    node_binary()
    lock = (CONFORMANCE / "package-lock.json").read_bytes()
    target = cache_dir() / f"sdk-{hashlib.sha256(lock).hexdigest()[:16]}"
    if (target / "node_modules").is_dir():
        return target
    npm = shutil.which("npm")
    assert npm is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CONFORMANCE / name, staging)
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=staging,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            _no_sdk(lines[0] if lines else f"npm ci ended with {done.returncode}")
        try:
            staging.rename(target)
        except OSError:
            # another run was faster; its folder has the same content
            if not (target / "node_modules").is_dir():
                raise
    except subprocess.TimeoutExpired:
        _no_sdk(f"npm ci took longer than {INSTALL_TIMEOUT_S} s")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


@contextmanager
def node_workspace() -> Generator[Path]:
    """A folder with the scripts of ``tests/conformance`` and ``docs/examples``, beside the installed packages.

    node looks for packages from the script's own folder upwards, and the tree holds no ``node_modules``.
    """
    installed = sdk_dir()
    with tempfile.TemporaryDirectory(prefix="session-executor-node-") as name:
        folder = Path(name)
        (folder / "node_modules").symlink_to(installed / "node_modules")
        shutil.copy(CONFORMANCE / "package.json", folder)
        for pattern in ("*.mjs", "*.ts", "tsconfig.json"):
            for script in CONFORMANCE.glob(pattern):
                shutil.copy(script, folder)
        for script in EXAMPLES.glob("*.ts"):
            shutil.copy(script, folder)
        yield folder


def run_node(script: str, env: Mapping[str, str], *, timeout_s: float = RUN_TIMEOUT_S) -> str:
    """Run one script of ``tests/conformance`` or ``docs/examples`` to its end; returns its stdout.

    Args:
        script: the file's name; TypeScript runs through the pinned tsx, without type checks.
        env: added to PATH and HOME; nothing else of our environment is passed on.
        timeout_s: seconds until it is killed.

    Raises:
        NodeError: it failed or took too long.
    """
    node = node_binary()
    with node_workspace() as folder:
        try:
            done = subprocess.run(
                [node, "--import", "tsx", script],
                cwd=folder,
                env={**_base_environment(), **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NodeError(f"{script} took longer than {timeout_s} s") from None
    if done.returncode != 0:
        raise NodeError(f"{script} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def type_check() -> str:
    """Check the types of every script against the SDK's own declarations; returns the compiler's complaints."""
    node = node_binary()
    with node_workspace() as folder:
        compiler = folder / "node_modules" / "typescript" / "bin" / "tsc"
        done = subprocess.run(
            [node, str(compiler), "--project", "tsconfig.json"],
            cwd=folder,
            env=_base_environment(),
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    return done.stdout + done.stderr if done.returncode else ""


@dataclass(frozen=True)
class Tutorial:
    """What ``tutorial.ts`` did and left.

    Attributes:
        account: the smart account that the SDK derived, lower-case.
        report: the script's own words: ``enabledBefore``, ``enabledAfter``, ``enableTx``, ``tradeTx``, ``refusal``
            (class of the error when the SDK goes above the limit), and USDC
            ``before`` and ``after`` the trade, base units.
        file: text of the session file for ``worker_address``; its session is approved and not enabled yet.
    """

    account: str
    report: dict[str, Any]
    file: str


def labelled_key(label: str) -> bytes:
    """A private key that anyone can compute again."""
    return keccak(f"session-executor sdk {label}".encode())


def devnet_environment(devnet: Devnet) -> dict[str, str]:
    """What the scripts of ``tests/conformance`` need to find the devnet."""
    return {
        "RPC_URL": devnet.rpc_url,
        "ORCHESTRATOR_URL": devnet.orchestrator_url,
        "API_KEY": devnet.api_key,
        **({"ARBITRUM_RPC_URL": devnet.rpc_urls[42161]} if 42161 in devnet.rpc_urls else {}),
    }


def run_tutorial(
    devnet: Devnet,
    *,
    worker_address: str,
    recipient: str,
    limit_usdc: str = "100",
    valid_until_ms: int | None = None,
) -> Tutorial:
    """Go through the SDK's tutorial on the devnet and export a second session for a key of ours.

    The account has 1000 USDC, of which the SDK sends 10 to the recipient by a session of its own. The exported session
    allows ``USDC.transfer`` only, and its first use enables it.

    Args:
        devnet: a devnet in its first state.
        worker_address: address of the key that the exported session is for.
        recipient: who gets the 10 USDC.
        limit_usdc: spending limit of the exported session, in whole USDC.
        valid_until_ms: its end, unix milliseconds; by default in 24 hours.

    Raises:
        NodeError: the SDK failed.
    """
    until = valid_until_ms if valid_until_ms is not None else (int(time.time()) + 24 * 3600) * 1000
    output = run_node(
        "tutorial.ts",
        {
            **devnet_environment(devnet),
            "OWNER_KEY": "0x" + labelled_key("owner").hex(),
            "SESSION_KEY": "0x" + labelled_key("session").hex(),
            "WORKER_ADDRESS": worker_address,
            "WORKER_LIMIT_USDC": limit_usdc,
            "RECIPIENT": recipient,
            "VALID_UNTIL_MS": str(until),
        },
    )
    report = dict(json.loads(output))
    return Tutorial(str(report["account"]).lower(), report, str(report.pop("file")))


class SdkOracle:
    """A node process that answers questions with the SDK's own functions, one JSON line each way."""

    def __init__(self) -> None:
        self._workspace = node_workspace()
        folder = self._workspace.__enter__()
        try:
            self._process = subprocess.Popen(
                [node_binary(), "oracle.mjs"],
                cwd=folder,
                env=_base_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except BaseException:
            self._workspace.__exit__(None, None, None)
            raise
        self._next_id = 0

    def batch(self, questions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Several answers at once, which saves a wait for each.

        Args:
            questions: ``{"method", "params"}`` each, as for a single one.

        Returns:
            ``{"result": …}`` or ``{"error": {"name", "message"}}`` for each, in order.

        Raises:
            NodeError: the process ended or hangs.
        """
        return self("batch", questions=list(questions))

    def __call__(self, method: str, **params: Any) -> Any:
        """The SDK's answer.

        Args:
            method: one of ``oracle.mjs``.
            params: JSON values; integers that may exceed 2**53 as decimal strings.

        Raises:
            SdkError: the SDK threw.
            NodeError: the process ended or hangs.
        """
        self._next_id += 1
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        guard = threading.Timer(CALL_TIMEOUT_S, self._process.kill)
        guard.start()
        try:
            stdin.write(json.dumps({"id": self._next_id, "method": method, "params": params}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            guard.cancel()
        if not line:
            self._process.wait()
            raise NodeError(f"the oracle ended in {method}: {_pipe(self._process.stderr).read()[-2000:]}")
        answer = json.loads(line)
        if answer.get("id") != self._next_id:
            raise NodeError(f"the oracle answered out of turn: {line[:200]}")
        if "error" in answer:
            raise SdkError(answer["error"]["name"], answer["error"]["message"])
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            _pipe(pipe).close()
        self._workspace.__exit__(None, None, None)


@pytest.fixture(scope="session")
def sdk() -> Generator[SdkOracle]:
    """One oracle for the whole run; it keeps no state between questions."""
    oracle = SdkOracle()
    yield oracle
    oracle.close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _base_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def _no_node(reason: str) -> NoReturn:
    missing(f"node ({reason})", f"install Node.js {_NODE_MAJOR} or newer with npm")


def _no_sdk(reason: str) -> NoReturn:
    missing(f"@rhinestone/sdk ({reason})", "give npm a registry once; later runs use the cache")
