"""Everything on one machine: Redis, devnet, real Celery workers and beat as child processes. For the demo and the tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from config.settings import SECRET_FILES, Settings
from worker.devnet.devnet import Devnet, start_devnet
from worker.devnet.errors import DevnetError
from worker.devnet.valkey import LocalRedis
from worker.keys.keystore import SCRYPT_N_RANDOM_PASSPHRASE, KeystoreFiles, passphrase_provider

PREFIX = "SESSION_EXECUTOR_"
_ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 60.0
#: The worker ends its running tasks within the soft shutdown's 10 s.
_STOP_TIMEOUT_S = 20.0


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with our settings replaced by ``own``, able to import this program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    path = os.pathsep.join(filter(None, (str(_ROOT), kept.get("PYTHONPATH", ""))))
    return {**kept, "PYTHONPATH": path, **own}


class Child:
    """A process in a group of its own, logging to a file.

    Args:
        name: for messages.
        command: what to run.
        environment: all of it.
        directory: where it runs and logs.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log_path = directory / f"{name}.log"
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                list(command),
                env=dict(environment),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is its group's, too."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative number of the signal that ended it."""
        return self._process.poll()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    def log(self) -> str:
        """What it has printed."""
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Wait until it has printed a text.

        Raises:
            DevnetError: it ended before, or took too long; with its last line.
        """
        deadline = time.monotonic() + timeout_s
        while text not in self.log():
            if not self.running() or time.monotonic() > deadline:
                lines = [line for line in self.log().splitlines() if line.strip()]
                raise DevnetError(
                    f"does not come up: {lines[-1].strip() if lines else 'it printed nothing'}",
                    field=self.name,
                )
            time.sleep(0.05)

    def terminate(self) -> None:
        """SIGTERM to the process alone: a worker ends its own pool."""
        if self.running():
            self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to its whole group, as a crash of the machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired
        """
        self._process.wait(timeout_s)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to what is left of its group."""
        if self.running():
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(_STOP_TIMEOUT_S)
        self.kill()


class Stack:
    """The services and processes; a context manager.

    Args:
        directory: an empty private folder for everything that is written.
        redis_url: a running Redis instead of an embedded one.
        devnet: a running devnet instead of one of our own.
        workers: worker processes, each with ``concurrency`` pool processes.
        concurrency: see there.
        beat: whether to run beat.
        settings: further settings, by their names without prefix.
        app: the Celery app that workers and beat run: a module with ``tasks.app`` inside.
        environment: further environment variables of the processes.
        child: how a process is started.
        secrets_in_files: whether secret settings come to the processes as files, so that no environment holds one.

    Raises:
        LocalRedisError, DevnetError: something does not come up.
    """

    def __init__(
        self,
        directory: Path,
        *,
        redis_url: str = "",
        devnet: Devnet | None = None,
        workers: int = 1,
        concurrency: int = 2,
        beat: bool = True,
        settings: Mapping[str, str] | None = None,
        app: str = "tasks.app",
        environment: Mapping[str, str] | None = None,
        child: type[Child] = Child,
        secrets_in_files: bool = False,
    ) -> None:
        self.directory = directory
        self._secrets_in_files = secrets_in_files
        self._child = child
        self._app = app
        self._stack = contextlib.ExitStack()
        self._concurrency = concurrency
        self.workers: list[Child] = []
        self.beat: Child | None = None
        try:
            if not redis_url:
                redis_url = self._stack.enter_context(LocalRedis(directory / "redis")).url
            self.devnet = devnet or self._stack.enter_context(start_devnet())
            self._passphrase_file = self._write_passphrase()
            self.environment = self._environment(redis_url, settings or {}) | dict(environment or {})
            self.settings = Settings(
                _env_file=None,  # pyright: ignore[reportCallIssue]
                **{
                    name.removeprefix(PREFIX).lower(): value
                    for name, value in self.environment.items()
                    if name.startswith(PREFIX)
                },
            )
            self.keys = KeystoreFiles(
                directory / "keys",
                passphrase_provider(None, self._passphrase_file),
                # the passphrase is random, so a slow hash of it protects nothing
                scrypt_n=SCRYPT_N_RANDOM_PASSPHRASE,
            )
            for _ in range(workers):
                self.start_worker()
            if beat:
                self.start_beat()
            for worker in self.workers:
                worker.wait_for("ready.")
            if self.beat is not None:
                self.beat.wait_for("Acquired lock")
        except BaseException:
            self.stop()
            raise

    @property
    def children(self) -> list[Child]:
        """Workers and beat."""
        return [*self.workers, *([self.beat] if self.beat else [])]

    def start_worker(
        self, *, queues: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> Child:
        """One more worker: for every queue, or for those of ``queues``. ``environment`` goes before the others'."""
        served = ("--queues", ",".join(queues)) if queues else ()
        child = self._child(
            f"worker-{len(self.workers) + 1}",
            [
                *self._celery("worker"),
                *served,
                *("--concurrency", str(self._concurrency), "--loglevel", "INFO"),
                *("--hostname", f"worker-{len(self.workers) + 1}@%h"),
            ],
            self.environment | dict(environment or {}),
            self.directory,
        )
        self._stack.callback(child.stop)
        self.workers.append(child)
        return child

    def start_beat(self) -> Child:
        """Beat, with the strategies file of the settings."""
        self.beat = self._child(
            "beat",
            [*self._celery("beat"), "--scheduler", "tasks.beat.StrategyScheduler", "--loglevel", "INFO"],
            self.environment,
            self.directory,
        )
        self._stack.callback(self.beat.stop)
        return self.beat

    def stop(self) -> None:
        """Stop everything that was started: all workers at once, then the services."""
        for child in self.children:
            child.terminate()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _celery(self, command: str) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", self._app, command]

    def _write_passphrase(self) -> Path:
        return self._write_secret("passphrase", secrets.token_hex(32))

    def _write_secret(self, name: str, text: str) -> Path:
        path = self.directory / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        return path

    def _environment(self, redis_url: str, settings: Mapping[str, str]) -> dict[str, str]:
        own = {
            "REDIS_URL": redis_url,
            "RPC_URL": self.devnet.rpc_url,
            "CHAIN_ID": str(self.devnet.chain_id),
            "ORCHESTRATOR_URL": self.devnet.orchestrator_url,
            "ORCHESTRATOR_API_KEY": self.devnet.api_key,
            "KEY_STORE": "keystore",
            "KEYSTORE_DIR": str(self.directory / "keys"),
            "STATE_DIR": str(self.directory / "state"),
            "KEYSTORE_PASSPHRASE_FILE": str(self._passphrase_file),
        } | {name.upper(): value for name, value in settings.items()}
        for name in map(str.upper, SECRET_FILES if self._secrets_in_files else ()):
            if name in own:
                path = self._write_secret(f"secret-{name.lower()}", own.pop(name))
                own[f"{name}_FILE"] = str(path)
        return clean_environment({PREFIX + name: value for name, value in own.items()})
