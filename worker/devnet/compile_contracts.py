"""``python -m worker.devnet.compile_contracts [folder]``: compiles its ``*.sol`` with the pinned solc, writes the artifacts.

Without a folder it is ``contracts``, the devnet's own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from worker.devnet import npm_packages
from worker.devnet.errors import DevnetError

SOURCES = Path(__file__).parent / "contracts"
ARTIFACTS = SOURCES / "artifacts"
# solc runs as WebAssembly, which compiles itself first: seconds, or half a minute on a busy machine
COMPILE_TIMEOUT_S = 300


def compiled(sources: Path = SOURCES) -> dict[str, dict[str, Any]]:
    """The artifacts of the sources as they are: name, compiler, settings, ABI and deployed bytecode.

    Args:
        sources: the folder; each file holds the contract of its name.

    Raises:
        DevnetError: node or solc is missing, or the sources do not compile without a warning.
    """
    modules = npm_packages.node_modules(dev=True)
    node = shutil.which("node")
    if node is None:
        raise DevnetError("node is not on PATH", field="node", fix="install Node.js 20 or newer")
    script = npm_packages.MANIFEST / "compile.mjs"
    done = subprocess.run(  # noqa: S603 - fixed arguments
        [node, str(script), str(modules), str(sources)],
        capture_output=True,
        text=True,
        timeout=COMPILE_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise DevnetError(f"solc: {done.stderr.strip()}", field="contracts", fix="correct the source")
    return dict(json.loads(done.stdout))


def main(argv: list[str]) -> int:
    """Write the artifacts into the folder ``artifacts`` beside the sources; returns the exit code."""
    sources = Path(argv[0]) if argv else SOURCES
    try:
        for name, artifact in compiled(sources).items():
            (sources / "artifacts" / f"{name}.json").write_text(json.dumps(artifact, indent=1) + "\n")
    except DevnetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
