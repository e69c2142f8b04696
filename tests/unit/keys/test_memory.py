"""No core file, no debugger, and no local variable of a signing that fails."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from tests.support.leaks import spellings
from worker.execution.sign import signed_by_all
from worker.keys.memory import no_locals_in_errors
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import address_of
from worker.signing import sign

KEY = keccak(b"session-executor test key in memory")
ADDRESS = address_of(KEY)


@pytest.mark.skipif(sys.platform != "linux", reason="core dumps are forbidden by Linux's means")
def test_a_process_that_dies_leaves_no_core_file(tmp_path: Path) -> None:
    """The same death with and without, as far as the machine lets cores be written at all."""
    program = """
import ctypes, os, resource, sys
from worker.keys.memory import forbid_core_dumps
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if sys.argv[1] == "forbid":
    assert forbid_core_dumps()
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
child = os.fork()
if child == 0:
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == (0 if sys.argv[1] == "forbid" else 1)
    os.abort()
status = os.waitpid(child, 0)[1]
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == 6, status
print(os.WCOREDUMP(status), hard != 0)
"""
    shown = {
        how: subprocess.run(
            [sys.executable, "-c", program, how],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[0]
        for how in ("forbid", "allow")
    }
    assert shown["forbid"] == "False"
    if shown["allow"] == "False":
        pytest.skip("this machine writes no cores")


class OneKey:
    """The part of the ``KeyStore`` port that signing uses."""

    @contextmanager
    def get(self, address: str) -> Generator[SecretKey]:
        """The one key there is."""
        key = SecretKey(KEY, address)
        try:
            yield key
        finally:
            key.wipe()


def with_locals(error: BaseException) -> str:
    """Everything that a crash reporter could take along."""
    return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def test_a_crash_reporter_gets_no_locals_of_a_signing_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("in the middle of signing")

    monkeypatch.setattr(sign, "_recovered", broken)
    # the search finds it where nothing is done about it
    with pytest.raises(ZeroDivisionError) as bare:
        sign.psigs(KEY, [bytes(32)])
    assert repr(KEY) in with_locals(bare.value)

    with pytest.raises(ZeroDivisionError) as caught:
        signed_by_all([ADDRESS], OneKey(), [bytes(32)])  # pyright: ignore[reportArgumentType]
    told = with_locals(caught.value)
    assert "in psigs" in told
    assert repr(KEY) not in told
    assert not any(spelling in told for spelling in spellings(KEY))


def test_causes_lose_their_locals_too() -> None:
    def inner(secret: str) -> None:
        raise ValueError(len(secret))

    def outer(secret: str) -> None:
        try:
            inner(secret)
        except ValueError as error:
            raise RuntimeError from error

    with pytest.raises(RuntimeError) as caught, no_locals_in_errors():
        outer("hunter2" * 2)
    told = with_locals(caught.value)
    assert "hunter2" * 2 not in told
