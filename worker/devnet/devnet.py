"""Starts a devnet in a child process, and talks to its control API."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from eth_abi.abi import encode

from worker.devnet.anvil import CHAIN_ID
from worker.devnet.chain import (
    ARBITERS,
    CLAIMED,
    INTENT_EXECUTED,
    INTENT_EXECUTOR,
    Call,
    read_execute_call,
    selector,
    usdc_of,
)
from worker.devnet.errors import DevnetError
from worker.devnet.rpc import JsonRpc

# A first start installs anvil from npm.
START_TIMEOUT_S = 620.0
STOP_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 30.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution that the chain has: a successful transaction of the Intent Executor.

    Attributes:
        intent_id: the intentOp's nonce.
        account: lower-case address of the account.
        calls: what it called, pre-claim ops first.
        enabled: whether the intent enabled its session on the way.
        block: block number.
        tx_hash: the transaction.
    """

    intent_id: str
    account: str
    calls: tuple[Call, ...]
    enabled: bool
    block: int
    tx_hash: str


class Devnet:
    """A running devnet. Use it as a context manager, or call ``stop``.

    Attributes:
        rpc_url: JSON-RPC endpoint of the chain.
        orchestrator_url: base URL of the alps API.
        api_key: what the orchestrator wants as ``x-api-key``.
        chain_id: the chain's id.
        rpc_urls: the endpoint of every chain, by chain id; more than one if it was started with ``also``.
        pid: process id of the orchestrator.
        anvil_pid: process id of the chain.
        log_path: what the two print.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], facts: Mapping[str, Any], log_path: Path, *, keep_log: bool
    ) -> None:
        self._process = process
        self._keep_log = keep_log
        self.rpc_url = str(facts["rpc_url"])
        self.orchestrator_url = str(facts["orchestrator_url"])
        self.api_key = str(facts["api_key"])
        self.chain_id = CHAIN_ID
        self.pid = int(facts["pid"])
        self.anvil_pid = int(facts["anvil_pid"])
        chains: list[Mapping[str, Any]] = [facts, *facts["also"]]
        self.rpc_urls = {int(chain["chain_id"]): str(chain["rpc_url"]) for chain in chains}
        self._first_blocks = {int(chain["chain_id"]): int(chain["first_block"]) for chain in chains}
        self.log_path = log_path
        self._rpcs = {chain_id: JsonRpc(url) for chain_id, url in self.rpc_urls.items()}
        self.rpc = self._rpcs[CHAIN_ID]
        self._http = httpx.Client(base_url=self.orchestrator_url, timeout=REQUEST_TIMEOUT_S, trust_env=False)

    def __repr__(self) -> str:
        return f"Devnet(rpc_url={self.rpc_url!r}, orchestrator_url={self.orchestrator_url!r})"

    # --- accounts and balances

    def register_account(
        self,
        address: str,
        *,
        owners: Sequence[str],
        kind: str = "nexus",
        threshold: int = 1,
        usdc: int | None = None,
        eth: int | None = None,
    ) -> None:
        """Put a smart account on the chain, and on every other that there is; its balances are on the first.

        Args:
            address: where.
            owners: addresses of its ECDSA owners.
            kind: ``nexus``, ``safe``, ``startale`` or ``kernel``.
            threshold: how many owners must sign.
            usdc: set its USDC balance, base units (6 decimals).
            eth: set its native balance, wei.

        Raises:
            DevnetError: the devnet refuses, with its reason.
        """
        body: dict[str, Any] = {
            "address": address,
            "kind": kind,
            "owners": list(owners),
            "threshold": threshold,
        }
        if usdc is not None:
            body["usdc"] = str(usdc)
        if eth is not None:
            body["eth"] = str(eth)
        self._control("POST", "/devnet/accounts", body)

    def usdc_balance(self, address: str, *, chain_id: int = CHAIN_ID) -> int:
        """USDC of an address in base units, read from the chain."""
        data = selector("balanceOf(address)") + encode(["address"], [address])
        call = {"to": usdc_of(chain_id), "data": "0x" + data.hex()}
        return self._rpcs[chain_id].quantity("eth_call", call, "latest")

    def rpc_of(self, chain_id: int) -> JsonRpc:
        """The chain with this id."""
        return self._rpcs[chain_id]

    def eth_balance(self, address: str) -> int:
        """Native balance of an address in wei."""
        return self.rpc.quantity("eth_getBalance", address, "latest")

    def fund(
        self, address: str, *, usdc: int | None = None, eth: int | None = None, chain_id: int = CHAIN_ID
    ) -> None:
        """Set balances of any address on a chain to exactly so much: USDC base units (6 decimals), wei."""
        body: dict[str, Any] = {"address": address, "chainId": chain_id}
        if usdc is not None:
            body["usdc"] = str(usdc)
        if eth is not None:
            body["eth"] = str(eth)
        self._control("POST", "/devnet/fund", body)

    # --- misbehaviour

    def add_fault(
        self, action: str, *, method: str = "", path: str = "/", nth: int = 0, times: int = 1, **details: Any
    ) -> None:
        """Order one fault; see ``worker.devnet.faults.Fault`` for actions and details.

        Examples: ``add_fault("drop_after_accept", method="POST", path="/intent-operations")``,
        ``add_fault("respond", path="/intents/route", status=429, headers={"Retry-After": "1"}, times=2)``,
        ``add_fault("alter_quote", path="/intents/route", lies=["changed_amount"])``,
        ``add_fault("alter_quote", path="/intents/route", values={"/intentOp/expires": "1"})``,
        ``add_fault("override_status", path="/intent-operation/", word="PENDING", times=0)``,
        ``add_fault("hide", path="/intent-operations", delay_ms=2_000)``.

        Raises:
            DevnetError: the devnet refuses, with its reason.
        """
        match = {"method": method, "path": path, "nth": nth}
        self._control("POST", "/devnet/faults", {"match": match, "times": times, "action": action, **details})

    def clear_faults(self) -> None:
        """Behave from now on."""
        self._control("DELETE", "/devnet/faults")

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force, with their hits."""
        return list(self._control("GET", "/devnet/faults")["faults"])

    def set_delays(self, **delays: int) -> None:
        """Change ``preconfirm_ms``, ``fill_ms``, ``complete_ms`` or ``quote_life_s``."""
        self._control("POST", "/devnet/delays", delays)

    def forget_quotes(self) -> None:
        """Lose every open quote."""
        self._control("POST", "/devnet/forget-quotes")

    def reset(self) -> None:
        """Back to the first state: chain, accounts, quotes, intents, counters, faults, log, delays."""
        self._control("POST", "/devnet/reset")

    # --- looking

    def executions(self, account: str = "", *, chain_id: int = CHAIN_ID) -> list[Execution]:
        """Every execution that the chain has since the start or the last reset, oldest first.

        Read from the executor's events and their transactions, not from what the orchestrator remembers: what proves
        that nothing was executed twice.

        Args:
            account: only of this account.
            chain_id: on which chain.
        """
        return [
            self._execution(entry, chain_id)
            for entry in self._logs(INTENT_EXECUTOR, INTENT_EXECUTED, account, chain_id)
        ]

    def claims(self, account: str = "", *, chain_id: int = CHAIN_ID) -> list[str]:
        """Intent ids for which tokens were claimed on a chain, oldest first, read from the arbiters' events."""
        return [
            str(int(entry["topics"][2], 16))
            for entry in self._logs(list(ARBITERS.values()), CLAIMED, account, chain_id)
        ]

    def _logs(
        self, contract: str | list[str], event: bytes, account: str, chain_id: int
    ) -> list[dict[str, Any]]:
        topics: list[Any] = ["0x" + event.hex()]
        if account:
            topics.append("0x" + "00" * 12 + account[2:].lower())
        query = {
            "address": contract,
            "fromBlock": hex(self._first_blocks[chain_id]),
            "toBlock": "latest",
            "topics": topics,
        }
        return list(self._rpcs[chain_id].call("eth_getLogs", query))

    def executed(self, to: str, data: bytes, *, account: str = "") -> int:
        """How often the chain executed exactly this call."""
        return sum(
            (call.to, call.data) == (to.lower(), data)
            for execution in self.executions(account)
            for call in execution.calls
        )

    def _execution(self, entry: Mapping[str, Any], chain_id: int) -> Execution:
        transaction = self._rpcs[chain_id].call("eth_getTransactionByHash", entry["transactionHash"])
        account, nonce, set_config, calls = read_execute_call(bytes.fromhex(transaction["input"][2:]))
        return Execution(
            str(nonce),
            account,
            calls,
            bool(set_config),
            int(entry["blockNumber"], 16),
            entry["transactionHash"],
        )

    def requests(self, path: str = "/", method: str = "") -> list[dict[str, Any]]:
        """Every API request since the start or the last reset, oldest first, filtered by path prefix and method."""
        found = self._control("GET", "/devnet/requests")["requests"]
        return [r for r in found if r["path"].startswith(path) and method in ("", r["method"])]

    def state(self) -> dict[str, Any]:
        """``accounts``, ``intents`` (every intent with its history and reason) and ``counters``."""
        return dict(self._control("GET", "/devnet/state"))

    # --- end

    @property
    def running(self) -> bool:
        """Whether the orchestrator's process lives."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until the devnet ends by itself; returns its exit code."""
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL the orchestrator, as a crash would; on Linux the chain dies with it."""
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        """Stop both processes. Does nothing when they are stopped."""
        for rpc in self._rpcs.values():
            rpc.close()
        self._http.close()
        _end(self._process)
        if not self._keep_log:
            self.log_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _control(self, method: str, path: str, body: object = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
            content = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise DevnetError(
                f"the devnet does not answer ({error})", field="devnet", fix="is it still running?"
            ) from None
        if answer.is_error:
            raise DevnetError(str(content["errors"][0]["message"]), field="devnet")
        return content


def start_devnet(
    port: int = 0,
    rpc_port: int = 0,
    fork_url: str | None = None,
    *,
    api_key: str | None = None,
    log_path: Path | None = None,
    delays: Mapping[str, int] | None = None,
    also: Sequence[int] = (),
) -> Devnet:
    """Start a devnet: anvil with chain id 8453, the contracts, and the orchestrator.

    Both run outside this process and end with it, however it ends: the orchestrator when its stdin closes, anvil with
    the orchestrator.

    Args:
        port: port of the orchestrator, 0 for a free one.
        rpc_port: port of the chain, 0 for a free one.
        fork_url: fork this chain (of the same id) instead of starting an empty one.
        api_key: the orchestrator's key; by default a random one.
        log_path: where they log; by default a temporary file that ``stop`` removes.
        delays: first values of ``preconfirm_ms``, ``fill_ms``, ``complete_ms``, ``quote_life_s``.
        also: ids of further chains, each with an anvil of its own on a free port, for trades over several chains.

    Raises:
        DevnetError: it does not start; says why.
    """
    if fork_url is not None and also:
        raise DevnetError("forks one chain only", field="fork_url", fix="leave out the further chains")
    for chain_id in also:
        usdc_of(chain_id)
    command = [sys.executable, "-m", "worker.devnet", "--stop-on-stdin-eof"]
    command += ["--port", str(port), "--rpc-port", str(rpc_port)]
    if fork_url is not None:
        command += ["--fork-url", fork_url]
    command += [part for chain_id in also for part in ("--also", str(chain_id))]
    for name, value in (delays or {}).items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    python_path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {
        **os.environ,
        "PYTHONPATH": python_path,
        "SESSION_EXECUTOR_DEVNET_API_KEY": api_key or f"devnet-{secrets.token_hex(8)}",
    }
    keep_log = log_path is not None
    if log_path is None:
        handle, name = tempfile.mkstemp(prefix="session-executor-devnet-", suffix=".log")
        os.close(handle)
        log_path = Path(name)
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            # Ctrl-C goes to the foreground group; the devnet must outlive it until it is stopped in order
            start_new_session=True,
        )
    try:
        facts = _first_line(process, log_path)
        return Devnet(process, facts, log_path, keep_log=keep_log)
    except BaseException:
        _end(process)
        if not keep_log:
            log_path.unlink(missing_ok=True)
        raise


def run_forever(
    port: int = 0, rpc_port: int = 0, fork_url: str | None = None, also: Sequence[int] = ()
) -> int:
    """Start a devnet, print the environment that points a worker at it, and wait until it is interrupted.

    Returns:
        0 after an interrupt, else the devnet's exit code.
    """
    with start_devnet(port, rpc_port, fork_url, also=also) as devnet:
        lines = [
            f"SESSION_EXECUTOR_RPC_URL={devnet.rpc_url}",
            f"SESSION_EXECUTOR_CHAIN_ID={devnet.chain_id}",
            f"SESSION_EXECUTOR_ORCHESTRATOR_URL={devnet.orchestrator_url}",
            f"SESSION_EXECUTOR_ORCHESTRATOR_API_KEY={devnet.api_key}",
        ]
        further = {str(chain_id): url for chain_id, url in devnet.rpc_urls.items() if chain_id in also}
        if further:
            lines.append(f"SESSION_EXECUTOR_SOURCE_RPC_URLS={json.dumps(further)}")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        try:
            return devnet.wait()
        except KeyboardInterrupt:
            return 0


def _first_line(process: subprocess.Popen[bytes], log_path: Path) -> dict[str, Any]:
    """The JSON line that the child prints when it is ready, or when it cannot be."""
    stdout = process.stdout
    assert stdout is not None
    line = b""
    deadline = time.monotonic() + START_TIMEOUT_S
    with selectors.DefaultSelector() as selector_:
        selector_.register(stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector_.select(max(0.0, deadline - time.monotonic())):
                break
            chunk = os.read(stdout.fileno(), 65536)
            if not chunk:
                break
            line += chunk
    try:
        facts = dict(json.loads(line))
    except ValueError:
        tail = [text for text in log_path.read_text(errors="replace").splitlines() if text.strip()]
        raise DevnetError(
            f"the devnet did not start: {tail[-1].strip() if tail else 'no output'}", field="devnet"
        ) from None
    if "message" in facts:
        raise DevnetError(facts["message"], field=facts["field"], fix=facts["fix"])
    return facts


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL; closes the pipes."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
