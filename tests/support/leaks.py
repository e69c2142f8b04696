"""Looks for a secret in everything that an exception can be turned into."""

from __future__ import annotations

import base64
import io
import traceback

from rich.console import Console
from rich.traceback import Traceback


def spellings(secret: str | bytes) -> set[str]:
    """How a secret may be written: as it is, hex, upper-case hex, decimal, base64, the start of its repr."""
    raw = secret.encode() if isinstance(secret, str) else secret
    found = {raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode().rstrip("="), repr(raw)[2:-1]}
    if isinstance(secret, bytes):
        found.add(str(int.from_bytes(raw, "big")))
        # a rendering may cut a long value: its first bytes give it away as well
        found |= {raw.hex()[:16], repr(raw[:8])[2:-1]}
    else:
        found.add(secret)
    return found


def renderings(error: BaseException) -> str:
    """The exception as text, with its chain and the local variables of every frame, rendered in two ways."""
    output = io.StringIO()
    console = Console(file=output, width=400)
    for one in _chain(error):
        console.print(
            Traceback.from_exception(
                type(one),
                one,
                one.__traceback__,
                show_locals=True,
                locals_max_string=100_000,
                locals_max_length=1_000,
                width=400,
            )
        )
        output.write("".join(traceback.TracebackException.from_exception(one, capture_locals=True).format()))
        output.write(f"{one!r} {one} {one.args!r} {vars(one)!r}")
    return output.getvalue()


def assert_no_leak(error: BaseException, *secrets: str | bytes) -> None:
    """Fail if any spelling of ``secrets`` is in any rendering, frames of this test file excluded.

    A test holds the secrets in its own locals, so the traceback starts below the first frame.
    """
    below = error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)
    text = renderings(below)
    assert len(text) > 200  # the renderer did its work
    for secret in secrets:
        for spelling in spellings(secret):
            assert spelling not in text, f"a secret shows in:\n{text}"


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and what it is chained to, suppressed contexts included."""
    chain: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in chain:
            chain.append(one)
            waiting += [one.__cause__, one.__context__]
    return chain
