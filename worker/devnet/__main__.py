"""``python -m worker.devnet``: one devnet in this process; prints one JSON line when it is ready.

The API key comes from ``SESSION_EXECUTOR_DEVNET_API_KEY``, not from the command line, which other users can see.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import sys
from typing import Any

from worker.devnet.errors import DevnetError
from worker.devnet.orchestrator import Delays
from worker.devnet.server import serve

API_KEY_ENV = "SESSION_EXECUTOR_DEVNET_API_KEY"


def main() -> int:
    """Parse arguments, serve, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.devnet", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="orchestrator port; 0 takes a free one")
    parser.add_argument("--rpc-port", type=int, default=0, help="chain port; 0 takes a free one")
    parser.add_argument("--fork-url", default=None, help="fork this chain")
    parser.add_argument("--also", type=int, action="append", default=[], help="id of a further chain")
    parser.add_argument("--preconfirm-ms", type=int, default=Delays().preconfirm_ms)
    parser.add_argument("--fill-ms", type=int, default=Delays().fill_ms)
    parser.add_argument("--complete-ms", type=int, default=Delays().complete_ms)
    parser.add_argument("--quote-life-s", type=int, default=Delays().quote_life_s)
    parser.add_argument("--stop-on-stdin-eof", action="store_true", help="end when stdin ends")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    api_key = os.environ.pop(API_KEY_ENV, "") or f"devnet-{secrets.token_hex(8)}"

    def on_ready(facts: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({**facts, "pid": os.getpid(), "api_key": api_key}) + "\n")
        sys.stdout.flush()

    try:
        serve(
            port=args.port,
            rpc_port=args.rpc_port,
            fork_url=args.fork_url,
            also=args.also,
            api_key=api_key,
            delays=Delays(args.preconfirm_ms, args.fill_ms, args.complete_ms, args.quote_life_s),
            on_ready=on_ready,
            stop_on_stdin_eof=args.stop_on_stdin_eof,
        )
    except DevnetError as error:
        sys.stdout.write(
            json.dumps({"message": error.message, "field": error.field, "fix": error.fix}) + "\n"
        )
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
