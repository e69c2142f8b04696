"""``make chaos N=rounds``: every point times every fault; the last line says what was broken."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.driver import CLEAN, Chaos, Counts, rounds
from worker.devnet.devnet import start_devnet
from worker.devnet.valkey import LocalRedis


def main() -> int:
    """Run it; 0 if nothing was broken and every point was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=1)
    number = max(1, parser.parse_args().rounds)
    # so that a terminated run stops what it has started
    signal.signal(signal.SIGTERM, _end)
    binary = shutil.which("redis-server")
    if binary is None:
        sys.stderr.write("redis-server: is not installed (apt-get install redis-server)\n")
        return 2
    total = Counts()
    unreached = 0

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="session-executor-chaos-") as name, start_devnet() as devnet:

        class Round(Chaos):
            """A round's stack with a Redis of its own."""

            def __init__(self, directory: Path) -> None:
                self._parts = ExitStack()
                server = self._parts.enter_context(LocalRedis(directory / "redis", binary=Path(binary)))
                try:
                    super().__init__(directory, server, devnet, workers=2, beat=True)
                except BaseException:
                    self._parts.close()
                    raise

            def __exit__(self, *_: object) -> None:
                super().__exit__()
                self._parts.close()

        for counts in rounds(number, Round, Path(name), say):
            total.add(counts)
            unreached += sum("not reached" in note for note in counts.notes)
            for note in counts.notes:
                say(f"  {note}")
    say(f"rounds={number} {total}")
    return 0 if str(total) == CLEAN and not unreached else 1


def _end(_number: int, _frame: object) -> None:
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
