"""``make onchain ARTIFACTS=dir N=sequences``: our evaluator against the compiled policy contracts, on anvil.

Random sessions and operations are judged by both; after each step the contracts' counters are read and compared. With
``BASE_RPC_URL`` anvil is a fork of that node, and what is deployed there is compared with the artifacts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tests.onchain.artifacts import MODELS, STATEFUL, Artifact, read_artifacts
from tests.onchain.chain import PolicyChain, put_policies
from tests.onchain.compare import Difference, Tally, compare, shorten
from tests.onchain.draws import WHITELIST
from worker.devnet.anvil import Anvil
from worker.devnet.rpc import JsonRpc
from worker.errors import ExecutorError
from worker.policies.policy import PolicyModel

_CHUNK = 100
_SHOWN = 3  # differences that are cut down and printed; one bug makes many
_TIMEOUT_S = 120.0


def main(argv: Sequence[str]) -> int:
    """Run it; 0 if the sides agree or there is nothing to judge, 1 if they differ or a service is missing."""
    parser = argparse.ArgumentParser(prog="make onchain", description=__doc__)
    parser.add_argument("--artifacts", default="", help="folder of <Name>/<Name>.json")
    parser.add_argument("--number", type=int, default=1000, help="sequences")
    parser.add_argument("--first", type=int, default=0, help="number of the first sequence")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    if not options.artifacts or not Path(options.artifacts).is_dir():
        where = f"{options.artifacts} is no folder" if options.artifacts else "ARTIFACTS is not given"
        _say(
            f"onchain: skipped, {where}; it names a folder with the compiled public policies as <Name>/<Name>.json"
        )
        return 0
    try:
        artifacts = read_artifacts(Path(options.artifacts))
        _list(artifacts)
        if not artifacts:
            _say("ARTIFACTS: holds none of these contracts")
            return 2
        numbers = range(options.first, options.first + max(1, options.number))
        total = _judge(artifacts, numbers, max(1, options.processes))
    except ExecutorError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    _say(f"sequences={total.sequences} differences={len(total.differences)}")
    return 1 if total.differences else 0


def _judge(artifacts: Mapping[type[PolicyModel], Artifact], numbers: range, processes: int) -> Tally:
    fork_url = os.environ.get("BASE_RPC_URL") or None
    total = Tally()
    with Anvil(fork_url=fork_url) as anvil, JsonRpc(anvil.rpc_url, timeout_s=_TIMEOUT_S) as rpc:
        chain = put_policies(rpc, artifacts, WHITELIST)
        _say("on a fork of BASE_RPC_URL" if fork_url else "on an empty chain")
        if not chain.newest:
            _say("spending-limits is the revision of 2024: judged by the rule for SDK 1.15")
        if fork_url:
            for line in deployed(chain):
                _say(line)
        chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            parts = [
                pool.submit(_part, anvil.rpc_url, chain.policies, chain.now_s, one, newest=chain.newest)
                for one in chunks
            ]
            for part in as_completed(parts):
                total.add(part.result())
                if total.sequences % (10 * _CHUNK) == 0:
                    _say(f"  {total.sequences} of {len(numbers)}, {len(total.differences)} differ")
        for kind, way in sorted(
            {(name.rpartition(" ")[0], name.rpartition(" ")[2]) for name in total.seen if " " in name}
        ):
            _say(f"  {kind:18} {way:8} {total.seen[f'{kind} {way}']:>9}")
        _say(f"  counters compared {total.seen['states']:>9}, stricter on purpose {total.seen['stricter']}")
        for difference in sorted(total.differences, key=lambda one: one.number)[:_SHOWN]:
            for line in _told(shorten(chain, difference)):
                _say(line)
    return total


def _part(
    url: str, policies: Mapping[type[PolicyModel], str], now_s: int, numbers: range, *, newest: bool
) -> Tally:
    tally = Tally()
    with JsonRpc(url, timeout_s=_TIMEOUT_S) as rpc:
        chain = PolicyChain(rpc, policies, now_s, newest=newest)
        for number in numbers:
            compare(chain, number, tally)
    return tally


def deployed(chain: PolicyChain) -> Iterator[str]:
    """Whether what is deployed at the SDKs' addresses is the code of the artifacts, line by line."""

    def code(address: str) -> bytes:
        return bytes.fromhex(chain.rpc.call("eth_getCode", address, "latest")[2:])

    for model in chain.policies:
        ours = code(chain.created[model])
        for version, address in (("1.15", model.address), ("2.x", model.v2_address)):
            theirs = code(address)
            if not theirs:
                what = "no contract"
            elif theirs == ours:
                what = "the artifact's code"
            elif _without_metadata(theirs) == _without_metadata(ours):
                what = "the artifact's code, but for the compiler's metadata"
            else:
                what = f"another code ({len(theirs)} bytes, the artifact has {len(ours)})"
            yield f"  {model.__name__:18} of SDK {version:4} at {address}: {what}"


def _without_metadata(code: bytes) -> bytes:
    # solc ends the code with CBOR and its length in two bytes
    length = int.from_bytes(code[-2:]) + 2
    return code[:-length] if length < len(code) else code


def _list(artifacts: Mapping[type[PolicyModel], Artifact]) -> None:
    for name, model in MODELS.items():
        state = "keeps state" if model in STATEFUL else "stateless"
        what = "judged" if model in artifacts else "not judged: no such artifact"
        if model in artifacts and artifacts[model].is_of_1_15:
            what += f", the code that SDK 1.15 names at {model.address}"
        _say(f"  {name:26} {state:12} {what}")


def _told(difference: Difference) -> Iterator[str]:
    yield f"sequence {difference.number} differs: {difference.what}"
    yield f"  (again: make onchain ARTIFACTS=… N=1 FIRST={difference.number})"
    for number, step in enumerate(difference.steps):
        what = "enables" if step.enabling else "executes"
        yield f"  {number}. {step.account} {what} in session 0x{step.permission.hex()[:8]}…"
        for action in step.actions:
            yield f"     {action.target} 0x{action.selector.hex()}: {', '.join(map(repr, action.policies))}"
        for call in step.executions:
            yield f"     {call.to} value {call.value} data 0x{call.data.hex()}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
