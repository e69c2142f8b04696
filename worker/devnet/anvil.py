"""The local chain: finds anvil, starts it, and makes sure it ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from worker.devnet import npm_packages
from worker.devnet.errors import DevnetError
from worker.devnet.rpc import JsonRpc

CHAIN_ID = 8453
# Base's; an idle chain must not look like a stopped one to a client that compares clocks
BLOCK_TIME_S = 2
# anvil answers within a second on an idle machine, and within a few when it first fetches a fork's head block
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
_PR_SET_PDEATHSIG = 1


def find_anvil() -> Path:
    """Anvil on PATH, else the native binary of the pinned npm package, installed once into the cache.

    The package's own ``bin.mjs`` is a node process around the binary; running the binary itself makes its pid the one
    that is stopped.

    Raises:
        DevnetError: npm is missing or fails, or the package has no binary for this machine.
    """
    on_path = shutil.which("anvil")
    if on_path is not None:
        return Path(on_path)
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    package = f"anvil-{system}-{machine}"
    binary = npm_packages.node_modules() / "@foundry-rs" / package / "bin" / "anvil"
    if not binary.is_file():
        raise DevnetError(
            f"@foundry-rs/{package} does not exist",
            field="anvil",
            fix="install Foundry and put anvil on PATH",
        )
    return binary


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> Callable[[], None] | None:
    """A ``preexec_fn`` after which the child is killed when the thread that started it ends, however that happens.

    Linux only (``prctl(PR_SET_PDEATHSIG)``). Elsewhere None: there, SIGKILL of the parent leaves the child running;
    every other end of the parent stops it through the context manager.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def arm() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return arm


class Anvil:
    """One anvil process on loopback.

    Start it from a thread that lives as long as the chain shall (on Linux the end of that thread ends anvil too).

    Args:
        port: port of the JSON-RPC endpoint; 0 takes a free one.
        fork_url: fork this chain instead of starting an empty one.
        log_path: where anvil's output goes; by default a temporary file that is removed at the end.
        chain_id: the chain id. A forked chain must have this id already.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        fork_url: str | None = None,
        log_path: Path | None = None,
        chain_id: int = CHAIN_ID,
    ) -> None:
        self.port = port
        self.chain_id = chain_id
        self._fork_url = fork_url
        self._keep_log = log_path is not None
        self._log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def rpc_url(self) -> str:
        """The JSON-RPC endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of anvil, 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def log_path(self) -> Path | None:
        """Anvil's output."""
        return self._log_path

    def start(self) -> Self:
        """Start anvil and wait until it answers with the expected chain id.

        Raises:
            DevnetError: it does not start, or the fork is of another chain.
        """
        binary = find_anvil()
        if self.port == 0:
            self.port = free_port()
        if self._log_path is None:
            handle, name = tempfile.mkstemp(prefix="session-executor-anvil-", suffix=".log")
            os.close(handle)
            self._log_path = Path(name)
        command = [str(binary), "--host", "127.0.0.1", "--port", str(self.port), "--accounts", "1"]
        # transactions are mined at once, and an empty block comes when there are none
        command += ["--block-time", str(BLOCK_TIME_S), "--mixed-mining"]
        # on a fork the id is the fork's own, and is checked below rather than overridden
        command += ["--fork-url", self._fork_url] if self._fork_url else ["--chain-id", str(self.chain_id)]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to the foreground group; anvil must outlive it until it is stopped in order
                start_new_session=True,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - calls prctl only
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop anvil: SIGTERM, then SIGKILL. Does nothing when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if not self._keep_log and self._log_path is not None:
            with contextlib.suppress(OSError):
                self._log_path.unlink()
            self._log_path = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        process, log_path = self._process, self._log_path
        if process is None or log_path is None:
            raise DevnetError("anvil was not started", field="anvil")
        deadline = time.monotonic() + START_TIMEOUT_S
        with JsonRpc(self.rpc_url, timeout_s=5.0) as rpc:
            while True:
                code = process.poll()
                if code is not None or time.monotonic() > deadline:
                    lines = [x for x in log_path.read_text(errors="replace").splitlines() if x.strip()]
                    why = (
                        f"ended with code {code}"
                        if code is not None
                        else f"did not answer in {START_TIMEOUT_S} s"
                    )
                    raise DevnetError(
                        f"anvil {why}: {lines[-1].strip() if lines else 'no output'}",
                        field="fork_url" if self._fork_url else "anvil",
                        fix="check that the port is free and, for a fork, that its URL answers",
                    )
                with contextlib.suppress(DevnetError):
                    found = int(rpc.call("eth_chainId"), 16)
                    break
                time.sleep(0.02)
        if found != self.chain_id:
            raise DevnetError(
                f"the forked chain has id {found}, not {self.chain_id}",
                field="fork_url",
                fix=f"fork a node of chain {self.chain_id}",
            )
