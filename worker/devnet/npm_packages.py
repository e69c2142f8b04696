"""Installs the pinned npm packages of ``worker/devnet/npm`` into a cache folder, once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from worker.devnet.errors import DevnetError

MANIFEST = Path(__file__).parent / "npm"
# A cold install downloads about 20 MB; a slow link must still make it.
INSTALL_TIMEOUT_S = 600


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/session-executor``, by default ``~/.cache/session-executor``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification: a relative path is invalid and must be ignored
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "session-executor"


def node_modules(*, dev: bool = False) -> Path:
    """The ``node_modules`` folder of the pinned packages; installs them if they are not there.

    The folder's name holds the hash of the lock file. The install happens beside it and is moved into place, so a
    broken or a parallel install is never seen half done. npm checks the hashes of the lock file and runs no install
    script.

    Args:
        dev: with the development packages (the Solidity compiler).

    Raises:
        DevnetError: npm is missing or fails.
    """
    lock = (MANIFEST / "package-lock.json").read_bytes()
    name = f"npm-{'dev-' if dev else ''}{hashlib.sha256(lock).hexdigest()[:16]}"
    target = cache_dir() / name
    if (target / "node_modules").is_dir():
        return target / "node_modules"
    npm = shutil.which("npm")
    if npm is None:
        raise DevnetError(
            "npm is not on PATH", field="npm", fix="install Node.js 20 or newer, or put anvil on PATH"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target.parent))
    except OSError as error:
        raise DevnetError(
            f"the cache folder {target.parent} cannot be written: {error.strerror}",
            field="XDG_CACHE_HOME",
            fix="point it at a folder of yours",
        ) from None
    try:
        for manifest in ("package.json", "package-lock.json"):
            shutil.copy(MANIFEST / manifest, staging)
        omit = [] if dev else ["--omit=dev"]
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *omit],
            cwd=staging,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise DevnetError(
                f"npm ci failed: {lines[0] if lines else f'exit code {done.returncode}'}",
                field="npm",
                fix="check the network and the npm registry setting",
            )
        try:
            staging.rename(target)
        except OSError:
            # another process was faster; its folder has the same content
            if not (target / "node_modules").is_dir():
                raise
    except subprocess.TimeoutExpired:
        raise DevnetError(
            f"npm ci took longer than {INSTALL_TIMEOUT_S} s", field="npm", fix="check the network"
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target / "node_modules"
