"""``make leaks``: real workers at DEBUG, crashed at every step, and then every place where something of it could be.

Each part has a stack of its own, whose secrets come to the processes as files: with keystore files and signed tokens for
the orchestrator, and with Vault (an AppRole for workers, a token for commands) and an API key. At the end a canary is
written once into each kind of place, each time in another spelling: if it is not found there, nothing is proved.

The last line is ``hits=0 canary_hits=N``; every hit is printed before it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import redis
from cryptography.hazmat.primitives.asymmetric import ec
from eth_utils.crypto import keccak
from jwt.algorithms import ECAlgorithm

from tests.chaos.driver import SETTINGS
from tests.chaos.points import POINTS
from tests.leaks import places as look
from tests.leaks.search import Secret, find, secret, spelled
from tests.support.e2e import Trader, run_command
from tests.support.otlp import Collector, collector
from tests.support.vault import dev_vault
from tests.support.vault_room import vault_room
from worker.cli.metrics import FOLDER, exposition
from worker.devnet.devnet import start_devnet
from worker.devnet.stack import PREFIX, Child, Stack
from worker.devnet.valkey import LocalRedis
from worker.execution.retention import archive_old
from worker.intents.states import State
from worker.keys.keystore import SCRYPT_N_RANDOM_PASSPHRASE, KeystoreFiles, passphrase_provider
from worker.signing.sign import address_of

Part = Literal["keystore", "vault"]
CRASHES = ("raise", "abort", "child")
CANARY = keccak(b"session-executor leak canary")
_TIMEOUT_S = 240.0
#: How often a crash is tried that another one has come before.
_TRIES = 4


@dataclass
class Outcome:
    """What one part has found.

    Attributes:
        hits: (place, secret).
        canaries: kinds of place in which the canary was found.
        missed: those in which it was not.
        searched: number of places and of bytes.
        crashes: how many forced crashes happened.
        forced: how many should have.
        notes: what else there is to say.
    """

    hits: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    canaries: list[str] = field(default_factory=list[str])
    missed: list[str] = field(default_factory=list[str])
    searched: tuple[int, int] = (0, 0)
    crashes: int = 0
    forced: int = 0
    notes: list[str] = field(default_factory=list[str])


class _Run:
    """One part: a stack with its services, and what it has written."""

    def __init__(self, part: Part, folder: Path, parts: ExitStack) -> None:
        self.part = part
        self.folder = folder
        self.secrets: list[Secret] = []
        self.unreached: list[str] = []
        self.outputs: dict[str, bytes] = {}
        self.armed = folder / "armed"
        self.metrics = folder / "metrics"
        for path in (self.armed, self.metrics):
            path.mkdir()
        binary = shutil.which("redis-server")
        self.server = parts.enter_context(
            LocalRedis(folder / "redis", binary=Path(binary) if binary else None, extra="rdbcompression no\n")
        )
        self.secret("Redis' password", self.server.url.partition("://:")[2].partition("@")[0])
        self.collector: Collector = parts.enter_context(collector())
        api_key = f"leaks-{secrets.token_hex(16)}" if part == "vault" else "jwt"
        devnet = parts.enter_context(start_devnet(api_key=api_key))
        settings = SETTINGS | {
            "broker_url": self.server.url.removesuffix("/0") + "/1",
            "orchestrator_api_key": api_key,
            "log_level": "DEBUG",
            "otlp_endpoint": self.collector.url,
            "archive_dir": str(folder / "archive"),
            "audit_file": str(folder / "audit.jsonl"),
            "audit_stream": "audit",
        }
        self.commands: dict[str, str] = {}
        others = [devnet.pid, devnet.anvil_pid, self.server.pid]
        settings |= self._jwt() if part == "keystore" else self._vault(parts, api_key, others)
        run = folder / "run"
        run.mkdir(mode=0o700)
        self.processes = parts.enter_context(look.Processes(others))
        self.stack = parts.enter_context(
            Stack(
                run,
                redis_url=self.server.url,
                devnet=devnet,
                beat=True,
                settings=settings,
                app="tests.chaos.app",
                environment={"CHAOS_DIR": str(self.armed), "CHAOS_MUTATION": "", FOLDER: str(self.metrics)},
                secrets_in_files=True,
            )
        )
        self.trader = Trader(self.stack)
        # so that something can happen while a submit is under way
        devnet.add_fault("delay_ms", method="POST", path="/intent-operations", times=0, delay_ms=500)
        passphrase = (run / "passphrase").read_text()
        self.secret("the passphrase", passphrase)
        if part == "keystore":
            keys = KeystoreFiles(
                run / "keys",
                passphrase_provider(passphrase, None),
                scrypt_n=SCRYPT_N_RANDOM_PASSPHRASE,
            )
            self.address = keys.create().address
            with keys.get(self.address) as held:
                self.secret("the session key", bytes(held.use()))
        for name, key in self.trader.runtime.seal_keys().keys.items():
            self.secret(f"the key of the seals {name}", bytes(key))
        #: Files that are there to hold a secret: of these the search would be no news.
        self.homes = [
            *(path for path in run.iterdir() if path.name.startswith("secret-")),
            *(run / "passphrase", run / "keys" / "record.keys", folder / "redis" / "local-redis.conf"),
            *folder.glob("vault-token"),
        ]

    def secret(self, name: str, value: str | bytes) -> None:
        """Look for it."""
        self.secrets.append(secret(name, value))

    def _jwt(self) -> dict[str, str]:
        jwk = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()))
        self.secret("the JWT key", json.loads(jwk)["d"])
        return {
            "orchestrator_auth": "jwt",
            "orchestrator_jwt_key": jwk,
            "orchestrator_jwt_key_id": "key-1",
            "orchestrator_jwt_integrator_id": "integrator",
            "orchestrator_jwt_project_id": "project",
            "orchestrator_jwt_app_id": "app",
        }

    def _vault(self, parts: ExitStack, api_key: str, others: list[int]) -> dict[str, str]:
        home = self.folder / "vault"
        home.mkdir()
        before = set(look.Processes().children())
        server = parts.enter_context(dev_vault(home))
        others += set(look.Processes().children()) - before
        room = parts.enter_context(vault_room(server))
        key = secrets.token_bytes(32)
        self.address = address_of(key)
        room.put_key(key, self.address)
        role = room.role(room.signer)
        token = room.token(room.operator)
        self.secret("the session key", key)
        self.secret("the API key", api_key)
        self.secret("the secret id", role.secret_id)
        self.secret("the token of commands", token)
        token_file = self.folder / "vault-token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        self.commands = {
            f"{PREFIX}VAULT_ROLE_ID": "",
            f"{PREFIX}VAULT_SECRET_ID_FILE": "",
            f"{PREFIX}VAULT_TOKEN_FILE": str(token_file),
        }
        return {
            "key_store": "vault",
            "vault_addr": server.addr,
            "vault_mount": room.mount,
            "vault_role_id": role.role_id,
            "vault_secret_id": role.secret_id,
        }

    # --- the run

    def trade(self, points: Sequence[str], crashes: Sequence[str], *, commands: bool) -> int:
        """An intent for each step and kind of crash; how many crashes happened."""
        trader = self.trader
        session = trader.import_session(self.address, limit=900_000_000)
        trader.wait([trader.submit(session, "the first carries the approval", 1)], timeout_s=_TIMEOUT_S)
        ids = [trader.submit(session, "beyond the limit", 999_000_000)]
        left = [(point, crash) for point in points for crash in crashes]
        for turn in range(_TRIES):
            armed = {
                self._submit(session, f"{point} {crash} {turn}", number + 2 + 100 * turn, point, crash): (
                    point,
                    crash,
                )
                for number, (point, crash) in enumerate(left)
            }
            records = trader.wait(list(armed), timeout_s=_TIMEOUT_S)
            assert [record.state for record in records] == [State.COMPLETED] * len(armed), records
            ids += armed
            # whoever was to strike may have been struck by another one's crash
            left = [what for intent_id, what in armed.items() if not self._fired(intent_id)]
            if not left:
                break
        self.unreached = [" ".join(what) for what in left]
        assert trader.wait(ids[:1], timeout_s=_TIMEOUT_S)[0].state is State.REJECTED
        if commands:
            self._commands(session.session_id, ids[1])
        # some of it leaves for the archive, the rest stays in Redis
        archive_old(trader.runtime, after_days=0, run_s=0.01)
        trader.wait([trader.submit(session, "the last stays", 1_000)], timeout_s=_TIMEOUT_S)
        self.outputs["metrics"] = exposition(trader.runtime, self.metrics)
        return len(points) * len(crashes) - len(left)

    def _fired(self, intent_id: str) -> bool:
        return any(self.armed.glob(f"{intent_id}.*.fired"))

    def _submit(self, session: Any, key: str, amount: int, point: str, crash: str) -> str:
        from tests.support.pipeline import transfer
        from worker.execution.enqueue import enqueue
        from worker.intents.model import TradeIntent

        intent = TradeIntent(session.session_id, key, (transfer(amount),))
        (self.armed / f"{intent.intent_id}.{point}.0").write_text(crash)
        enqueue(self.trader.runtime, intent)
        return intent.intent_id

    def _commands(self, session_id: str, intent_id: str) -> None:
        environment = self.stack.environment | self.commands
        for command in (
            *(("keys", "list", "--json"), ("sessions", "show", session_id, "--json")),
            *(("intents", "list", "--json"), ("intents", "show", intent_id, "--json")),
            *(("why", intent_id), ("doctor", "--json"), ("status",), ("audit", "verify")),
            (
                "intents",
                "submit",
                "--session",
                session_id,
                "--key",
                "k",
                "--to",
                "0x12",
                "--amount",
                "1 USDC",
            ),
        ):
            reply = run_command(environment, self.stack.directory, "--debug", *command)
            self.outputs[f"output of {' '.join(command)}"] = (reply.stdout + reply.stderr).encode()
        for words in (("report",), ("inspect", "conf", "--timeout", "1")):
            done = subprocess.run(
                [sys.executable, "-m", "celery", "-A", "tasks.app", *words],
                env=environment,
                cwd=self.stack.directory,
                capture_output=True,
                check=False,
            )
            self.outputs[f"output of celery {' '.join(words)}"] = done.stdout + done.stderr

    # --- the canary

    def plant(self) -> dict[str, Callable[[str], bool]]:
        """Write the canary once into each kind of place; for each kind, which places are of it."""
        # raw bytes have no place in an argument, nor a zero byte in an environment
        spellings = spelled(CANARY)
        printable = [form for name, form in spellings.items() if name != "raw"]
        forms = iter(printable * 3)
        run, broker = self.stack.directory, self.server.url.removesuffix("/0") + "/1"
        for path in (run / "worker-1.log", self.folder / "audit.jsonl"):
            with path.open("ab") as file:
                file.write(b"planted: " + next(forms) + b"\n")
        (run / "core.4711").write_bytes(b"\x7fELF" + spellings["raw"])
        self._plant_in_archive(next(forms))
        with redis.Redis.from_url(self.server.url, protocol=2) as client:
            client.hset("planted:record", "body", next(forms))
            client.xadd("audit", {"line": next(forms)})
            client.set("celery-task-meta-planted", next(forms))
            client.save()
            client.set("planted:after the snapshot", spellings["raw"])
        with redis.Redis.from_url(broker, protocol=2) as client:
            client.lpush("planted:queue", json.dumps({"body": next(forms).decode()}))
        self._plant_in_processes(next(forms), next(forms))
        self._plant_in_metrics(next(forms).decode())
        self._plant_in_traces(next(forms).decode())
        return {
            "a log": lambda place: place.endswith("worker-1.log"),
            "the audit trail": lambda place: place.endswith("audit.jsonl"),
            "a core file": lambda place: "core." in place,
            "the archive": lambda place: place.startswith("file archive/"),
            "a record in Redis": lambda place: place.startswith("Redis 0 hash"),
            "a stream in Redis": lambda place: place.startswith("Redis 0 stream"),
            "a result in Redis": lambda place: "celery-task-meta" in place,
            "a task message": lambda place: place.startswith("Redis 1 list"),
            "Redis' snapshot": lambda place: place.startswith("file redis/") and place.endswith(".rdb"),
            "Redis' append-only file": lambda place: place.startswith("file redis/") and ".aof" in place,
            "the output of a command": lambda place: place.startswith("output of the canary"),
            "an environment": lambda place: place.startswith("/proc/") and "/environ" in place,
            "arguments": lambda place: place.startswith("/proc/") and "/cmdline" in place,
            "metrics": lambda place: place == "metrics",
            "traces": lambda place: place.startswith("trace "),
        }

    def _plant_in_archive(self, form: bytes) -> None:
        import gzip

        folder = self.folder / "archive"
        folder.mkdir(exist_ok=True)
        with gzip.open(folder / "planted.jsonl.gz", "wb") as file:
            file.write(b'{"planted":"' + form + b'"}\n')

    def _plant_in_processes(self, in_environment: bytes, in_arguments: bytes) -> None:
        """A process as a careless supervisor would start it."""
        script = "import os, time; print(os.environ['PLANTED'], flush=True); time.sleep(20)"
        with subprocess.Popen(
            [sys.executable, "-c", script, in_arguments],
            env={**os.environ, "PLANTED": in_environment.decode()},
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            self.outputs["output of the canary"] = process.stdout.readline()
            self.processes.look()
            process.kill()

    def _plant_in_metrics(self, form: str) -> None:
        script = (
            "import sys; from prometheus_client import Counter; "
            "Counter('planted', 'A canary.', ['what']).labels(sys.stdin.read()).inc()"
        )
        subprocess.run(
            [sys.executable, "-c", script],
            env=self.stack.environment,
            input=form,
            text=True,
            check=True,
            capture_output=True,
        )
        self.outputs["metrics"] = exposition(self.trader.runtime, self.metrics)

    def _plant_in_traces(self, form: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(self.collector.url)))
        provider.get_tracer("planted").start_span("planted", attributes={"what": form}).end()
        provider.shutdown()

    # --- the search

    def everything(self) -> dict[str, bytes]:
        """All places, as they are now."""
        return {
            **look.files(self.folder, self.homes),
            **look.redis_keys(self.server.url),
            **self.outputs,
            **self.processes.places,
            **{f"trace {number}": body for number, body in enumerate(self.collector.bodies)},
        }


def search(
    part: Part, points: Sequence[str] = POINTS, crashes: Sequence[str] = CRASHES, *, commands: bool = True
) -> Outcome:
    """Run one part and search what it left.

    Args:
        part: which key store.
        points: the steps at which something happens.
        crashes: what happens there.
        commands: whether the command line is looked at, too.
    """
    outcome = Outcome()
    with (
        tempfile.TemporaryDirectory(prefix="session-executor-leaks-") as name,
        _cores_allowed(),
        ExitStack() as parts,
    ):
        run = _Run(part, Path(name), parts)
        outcome.crashes = run.trade(points, crashes, commands=commands)
        outcome.forced = len(points) * len(crashes)
        for child in run.stack.children:
            child.terminate()
        for child in run.stack.children:
            _wait(child)
        kinds = run.plant()
        places = run.everything()
        assert b"debug" in places["file run/worker-1.log"].lower()
        assert any(place.startswith("trace ") for place in places)
        outcome.hits = find(places, run.secrets)
        canary = secret("the canary", CANARY)
        found = {place for place, what in find(places, [canary]) if what == canary.name}
        for kind, is_of_kind in kinds.items():
            (outcome.canaries if any(map(is_of_kind, found)) else outcome.missed).append(kind)
        outcome.notes += [f"not reached: {', '.join(run.unreached)}"] if run.unreached else []
        outcome.searched = len(places), sum(map(len, places.values()))
        outcome.notes.append(
            f"{len(run.secrets)} secrets, {len(run.processes.seen)} processes looked into, "
            f"{len(run.processes.closed)} closed to their own user"
        )
    return outcome


class _cores_allowed:  # noqa: N801 - used as a function
    """Let the processes write core files as far as this machine allows: that they write none is their own doing."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (self._before[1], self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, self._before)


def _wait(child: Child) -> None:
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()


def report(part: Part, outcome: Outcome, seconds: float) -> None:
    """To stdout, at once."""
    number, size = outcome.searched
    lines = [
        f"{part}: {outcome.crashes} of {outcome.forced} forced crashes, {number} places of {size / 1e6:.1f} MB in {seconds:.0f} s; "
        + "; ".join(outcome.notes),
        *(f"  HIT: {what} is in {place}" for place, what in outcome.hits),
        *(f"  the canary was not found in {kind}" for kind in outcome.missed),
    ]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def main() -> int:
    """Both parts; 1 if a secret was found, or a canary was not, or a crash did not happen."""
    parser = argparse.ArgumentParser(prog="python -m tests.leaks.run", description=__doc__)
    parser.add_argument("--part", choices=("keystore", "vault"), action="append")
    arguments = parser.parse_args()
    hits, canaries, missed = 0, 0, 0
    wanted: list[Part] = arguments.part or ["keystore", "vault"]
    for part in wanted:
        started = time.monotonic()
        outcome = search(part)
        report(part, outcome, time.monotonic() - started)
        hits += len(outcome.hits)
        canaries += len(outcome.canaries)
        missed += len(outcome.missed) + outcome.forced - outcome.crashes
    sys.stdout.write(f"hits={hits} canary_hits={canaries}\n")
    return 1 if hits or missed else 0


if __name__ == "__main__":
    sys.exit(main())
