"""bench-sign: CPU of building and signing one enabled-session intent, ours beside that of SDK 1.15.0 under node.

Both sides get the same parsed ``intentOp`` and the same session, build the typed data, and make the emissary and
ERC-1271 forms of every signature that a submit carries; what they make is compared before anything is timed. Each
process reads its own CPU time, and the two take turns in one run, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from benchmarks import report
from tests.support.sdk import node_binary, node_workspace
from tests.support.sdk_draws import HeldKeys
from tests.support.sessions import ACCOUNT, OWNER_KEY, SESSION_KEY, make_session_file
from worker.execution.sign import signatures
from worker.orchestrator import exact_json
from worker.sessions.file import load_session_file
from worker.sessions.importing import RegisteredSession, recompute
from worker.signing.intent_op import payloads

_HERE = Path(__file__).parent
_SCRIPT = "signing.mjs"
_ROUTES = {
    "intent executor": ("INTENT_EXECUTOR", "NO_FUNDING"),
    "permit2, same chain": ("SAME_CHAIN", "PERMIT2"),
}


def intent_op(layer: str, funding: str) -> dict[str, Any]:
    """The recorded ``intentOp`` (10 USDC to a recipient, a restricted session), for another way to settle.

    Args:
        layer: the settlement layer.
        funding: ``PERMIT2`` adds the tokens that are taken and delivered.
    """
    op = cast("dict[str, Any]", exact_json.loads((_HERE / "intent_op.json").read_text()))
    element = op["elements"][0]
    context = element["mandate"]["qualifier"]["settlementContext"]
    context |= {"settlementLayer": layer, "fundingMethod": funding}
    if funding == "PERMIT2":
        token = str(int(element["mandate"]["destinationOps"]["ops"][0]["to"], 16))
        element["idsAndAmounts"] = [[token, "10050000"]]
        element["mandate"]["tokenOut"] = [[token, "10000000"]]
    return op


class Sdk:
    """The node process; it answers one line for each line it is given."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One answer.

        Raises:
            BenchmarkError: the process ended.
        """
        stdin, stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        try:
            stdin.write(json.dumps(question, default=float) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise report.BenchmarkError(
                f"the SDK's process ended: {_pipe(self._process.stderr).read()[-2000:]}"
            )
        return json.loads(line)

    def cpu_us(self, count: int) -> float:
        """CPU time of signing ``count`` intents, microseconds."""
        return float(self.ask({"count": count})["cpu_us"])


@contextmanager
def sdk_process(script: str = _SCRIPT) -> Generator[Sdk]:
    """The SDK's half, ended when the block ends; ``script`` is one of this folder."""
    node = node_binary()
    with node_workspace() as folder:
        shutil.copy(_HERE / script, folder)
        with subprocess.Popen(
            [node, script],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield Sdk(process)
            finally:
                process.kill()


def main(argv: list[str]) -> int:
    """Run it; 0, or 1 with one line when node or the SDK is missing."""
    parser = report.arguments(
        "CPU of signing an intent, against the SDK's", number=200, rounds=7, warm_up=500, unit="intents"
    )
    options = parser.parse_args(argv)
    return report.run(lambda: _compare(options.number, options.rounds, options.warm_up))


def _compare(number: int, rounds: int, warm_up: int) -> None:
    report.say(f"{report.machine()}; {rounds} rounds of {number} intents each, the sides in turn")
    ratios = {
        name: _route(name, intent_op(layer, funding), number=number, rounds=rounds, warm_up=warm_up)
        for name, (layer, funding) in _ROUTES.items()
    }
    # the worse of the two, so that no route does worse than what is promised
    report.say(f"cpu_ratio_vs_sdk={min(ratios.values()):.1f}")


def _route(name: str, op: dict[str, Any], *, number: int, rounds: int, warm_up: int) -> float:
    """The median of the rounds' ratios, SDK / ours."""
    session = recompute(load_session_file(make_session_file()))
    keys = HeldKeys((SESSION_KEY,))

    def sign() -> dict[str, Any]:
        message = payloads(op, session.account, with_target=session.verify_executions)
        return signatures(message, session, keys, enable=False)

    with sdk_process() as sdk:
        theirs = sdk.ask(question(session, op))
        if theirs != sign():
            raise report.BenchmarkError(f"{name}: the SDK signs {theirs}, we sign {sign()}")
        sdk.cpu_us(warm_up)
        _cpu_us(sign, warm_up)
        pairs = [(sdk.cpu_us(number) / number, _cpu_us(sign, number) / number) for _ in range(rounds)]
    ratios = [their_us / our_us for their_us, our_us in pairs]
    report.say()
    report.table(
        (name, "min", "median", "max"),
        (
            ("SDK, CPU µs per intent", *report.spread([pair[0] for pair in pairs], 0)),
            ("ours, CPU µs per intent", *report.spread([pair[1] for pair in pairs], 0)),
            ("SDK / ours, round by round", *report.spread(ratios, 1)),
        ),
    )
    return statistics.median(ratios)


def _cpu_us(work: Callable[[], object], count: int) -> float:
    before = time.process_time_ns()
    for _ in range(count):
        work()
    return (time.process_time_ns() - before) / 1000


def question(session: RegisteredSession, op: dict[str, Any]) -> dict[str, Any]:
    """What ``signing.mjs`` needs to sign the same: the throw-away keys, the session's actions, the intentOp."""
    file = json.loads(make_session_file())
    return {
        "account": {"kind": session.account_kind, "address": ACCOUNT, "ownerKeys": ["0x" + OWNER_KEY.hex()]},
        "session": {
            "keys": ["0x" + SESSION_KEY.hex()],
            "actions": file["actions"],
            "restrictToActions": file["restrictToActions"],
        },
        "chain": session.chain_id,
        "intentOp": op,
    }


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
