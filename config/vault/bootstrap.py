"""Prepare a Vault: KV v2 mount, a policy and an AppRole for each kind of process, the keys of the seals, an audit log.

Safe to run again.

    VAULT_ADDR=… VAULT_TOKEN=… python -m config.vault.bootstrap --signer-env signer.env --operator-env operator.env

One worker for everything uses the signer's credentials; beside signers of their own, workers use ``--worker-env``.

The credentials go to files of mode 0600, as lines of ``SESSION_EXECUTOR_…=…``; a file whose credentials still log in is
left as it is. With ``--init-file`` an uninitialised Vault is initialised (one unseal key, kept in that file together with
the root token) and a sealed one unsealed: for one machine without a KMS, as in docker-compose.yml.

``--rotate-record-key`` adds a key that seals records from then on; ``--drop-old-record-keys`` takes all others away, after
`session-executor ledger seal` has sealed everything with the newest one.

``--transit-key NAME`` makes a Transit key under which session keys are stored from then on (docs/vault.md), and the
policy and AppRole ``wrapper``, for `session-executor keys wrap`.

Nothing secret is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import hvac
import hvac.exceptions
import requests

KINDS = ("signer", "worker", "enqueuer", "operator", "custodian")
"""Who works with a Vault. Each has the policy ``config/vault/<kind>.hcl`` and the AppRole of the same name."""

WRAPPER = "wrapper"
"""The kind that exists only with a Transit key."""

TOKEN_TTL, TOKEN_MAX_TTL = "1h", "24h"
"""A stolen worker token is good for an hour unless it is renewed, and never for more than a day."""

#: Bound on one request; on a busy machine a first write to an empty store has taken more than 10 s.
REQUEST_TIMEOUT_S = 30
#: Bound on the initialisation, whose reply cannot be asked for again.
INIT_TIMEOUT_S = 600

_HERE = Path(__file__).parent
_PATH = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")


class BootstrapError(Exception):
    """One line for the operator."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to prepare, and where to leave the credentials."""

    addr: str
    namespace: str = ""
    mount: str = "secret"
    prefix: str = "session-keys"
    records_path: str = "session-executor/records"
    transit_mount: str = "transit"
    transit_key: str = ""
    rotate_record_key: bool = False
    drop_old_record_keys: bool = False
    signer_env: Path | None = None
    worker_env: Path | None = None
    enqueuer_env: Path | None = None
    operator_env: Path | None = None
    custodian_env: Path | None = None
    wrapper_env: Path | None = None
    init_file: Path | None = None
    audit_file: str = ""
    secret_id_ttl: str = "0"  # noqa: S105 - a duration
    wait_s: float = 60.0


def name_of(kind: str) -> str:
    """The name of a kind's policy, and of its AppRole."""
    return f"session-executor-{kind}"


def policy(
    kind: str,
    mount: str,
    prefix: str,
    records: str = "session-executor/records",
    *,
    transit_mount: str = "transit",
    transit_key: str = "session-keys",
) -> str:
    """The policy file of ``kind`` with the default mount and paths replaced."""
    for what, value in (
        ("mount", mount),
        ("prefix", prefix),
        ("records path", records),
        ("transit mount", transit_mount),
        ("transit key", transit_key),
    ):
        if not _PATH.fullmatch(value) or ".." in value:
            raise BootstrapError(f"{what} '{value}' is not a path of letters, digits, - _ . and /")
    text = (_HERE / f"{kind}.hcl").read_text()
    text = re.sub(r'path "secret/(data|metadata|destroy)/session-keys', rf'path "{mount}/\1/{prefix}', text)
    text = re.sub(
        r'path "transit/(encrypt|decrypt|rewrap)/session-keys"',
        rf'path "{transit_mount}/\1/{transit_key}"',
        text,
    )
    return text.replace('path "secret/data/session-executor/records"', f'path "{mount}/data/{records}"')


def bootstrap(options: Options, token: str = "") -> list[str]:
    """Do it all; returns a line for each thing that was done or found.

    Args:
        options: see ``Options``.
        token: a root or admin token; not needed with ``init_file``.

    Raises:
        BootstrapError: with the fix.
    """
    client = _client(options.addr, options.namespace)
    done: list[str] = []
    _wait(client.sys.read_seal_status, options.wait_s, f"Vault at {options.addr} does not answer")
    if options.init_file is not None:
        token = _open(client, options, options.init_file, done) or token
    status = cast(dict[str, Any], client.sys.read_seal_status())
    if not status.get("initialized"):
        raise BootstrapError("Vault is not initialised: give --init-file, or run vault operator init")
    if status.get("sealed"):
        raise BootstrapError("Vault is sealed: unseal it, or give the --init-file that holds its key")
    if not token:
        raise BootstrapError("no token: set VAULT_TOKEN to a root or admin token")
    client.token = token
    # Raft elects itself after the unseal; until then every request is answered with 500.
    _wait(client.auth.token.lookup_self, options.wait_s, "Vault does not accept the token")
    _audit(client, options.audit_file, done)
    _mount(client, options, done)
    _transit(client, options, done)
    kinds = (*KINDS, WRAPPER) if options.transit_key else KINDS
    for kind in kinds:
        client.sys.create_or_update_policy(
            name_of(kind),
            policy(
                kind,
                options.mount,
                options.prefix,
                options.records_path,
                transit_mount=options.transit_mount,
                transit_key=options.transit_key or "session-keys",
            ),
        )
        done.append(f"policy {name_of(kind)} written")
    _record_keys(client, options, done)
    _roles(client, options, kinds, done)
    wanted = (
        options.signer_env,
        options.worker_env,
        options.enqueuer_env,
        options.operator_env,
        options.custodian_env,
        options.wrapper_env,
    )
    if options.wrapper_env is not None and not options.transit_key:
        raise BootstrapError("--wrapper-env is for --transit-key: give both")
    for kind, path in zip((*KINDS, WRAPPER), wanted, strict=True):
        if path is not None:
            _credentials(client, options, name_of(kind), path, done)
    return done


def _client(addr: str, namespace: str, *, timeout_s: int | None = None) -> hvac.Client:
    client = hvac.Client(
        url=addr,
        token="",
        timeout=timeout_s or REQUEST_TIMEOUT_S,
        allow_redirects=False,
        namespace=namespace or None,
    )
    client.session.trust_env = False  # no proxy from the environment: it would see the root token
    return client


def _wait(probe: Callable[[], object], seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            probe()
        except hvac.exceptions.Forbidden:
            raise BootstrapError(f"{complaint}: permission denied") from None
        except (requests.RequestException, hvac.exceptions.VaultError) as error:
            reason = type(error).__name__
        else:
            return
        if time.monotonic() > deadline:
            raise BootstrapError(f"{complaint} ({reason})")
        time.sleep(0.3)


def _open(client: hvac.Client, options: Options, init_file: Path, done: list[str]) -> str:
    """Initialise and unseal with the key in ``init_file``; returns the root token in it."""
    if not client.sys.is_initialized():
        # The file comes first: a key that cannot be written down must not be made.
        _write_private(init_file, "")
        # The reply holds the only copy of the unseal key: giving up on a slow disk would lose it for good.
        patient = _client(options.addr, options.namespace, timeout_s=INIT_TIMEOUT_S)
        made = cast(dict[str, Any], patient.sys.initialize(secret_shares=1, secret_threshold=1))
        _write_private(
            init_file, json.dumps({"unseal_key": made["keys_base64"][0], "root_token": made["root_token"]})
        )
        done.append(f"Vault initialised; unseal key and root token are in {init_file}")
    kept = _read_init(init_file)
    if kept is None:
        return ""
    unseal_key, root_token = kept
    if cast(dict[str, Any], client.sys.read_seal_status()).get("sealed"):
        client.sys.submit_unseal_key(unseal_key)
        done.append("Vault unsealed")
    return root_token


def _read_init(init_file: Path) -> tuple[str, str] | None:
    """Unseal key and root token of the file; None if there is none."""
    try:
        kept: Any = json.loads(init_file.read_text())
        return str(kept["unseal_key"]), str(kept["root_token"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BootstrapError(f"cannot read {init_file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BootstrapError(f"{init_file} is damaged: restore it, or start with an empty Vault") from None


def _audit(client: hvac.Client, audit_file: str, done: list[str]) -> None:
    if not audit_file:
        return
    devices = cast(dict[str, Any], client.sys.list_enabled_audit_devices())["data"]
    if "file/" in devices:
        done.append("audit log is on")
        return
    client.sys.enable_audit_device("file", options={"file_path": audit_file})
    done.append(f"audit log switched on: {audit_file}")


def _mount(client: hvac.Client, options: Options, done: list[str]) -> None:
    mounts = cast(dict[str, Any], client.sys.list_mounted_secrets_engines())["data"]
    found = cast(dict[str, Any] | None, mounts.get(f"{options.mount}/"))
    if found is None:
        client.sys.enable_secrets_engine(
            "kv", path=options.mount, options={"version": "2"}, description="session keys"
        )
        # Only a mount of our own is configured: each write must say which version it replaces.
        _wait(
            partial(client.secrets.kv.v2.configure, cas_required=True, mount_point=options.mount),
            options.wait_s,
            f"the mount {options.mount} does not become ready",
        )
        done.append(f"KV v2 mounted at {options.mount}")
        return
    if found.get("type") != "kv" or (found.get("options") or {}).get("version") != "2":
        raise BootstrapError(f"the mount {options.mount} exists and is not KV version 2: choose another one")
    done.append(f"KV v2 is mounted at {options.mount}")


def _transit(client: hvac.Client, options: Options, done: list[str]) -> None:
    """The Transit engine and the key under which session keys are stored; one that was made otherwise is refused."""
    name, mount = options.transit_key, options.transit_mount
    if not name:
        return
    if "/" in name:
        raise BootstrapError(f"transit key '{name}' is not a name of letters, digits, - _ and .")
    mounts = cast(dict[str, Any], client.sys.list_mounted_secrets_engines())["data"]
    found = cast(dict[str, Any] | None, mounts.get(f"{mount}/"))
    if found is None:
        client.sys.enable_secrets_engine("transit", path=mount, description="encrypts session keys")
        done.append(f"Transit mounted at {mount}")
    elif found.get("type") != "transit":
        raise BootstrapError(f"the mount {mount} exists and is not Transit: choose another one")
    transit = client.secrets.transit
    try:
        transit.read_key(name, mount_point=mount)
    except hvac.exceptions.InvalidPath:
        # derived: the context, which is the session key's address, must be the same when it is decrypted
        transit.create_key(
            name, derived=True, convergent_encryption=False, exportable=False, mount_point=mount
        )
        done.append(f"Transit key {mount}/keys/{name} made")
    key = cast(dict[str, Any], transit.read_key(name, mount_point=mount))["data"]
    if not key.get("derived") or key.get("convergent_encryption"):
        raise BootstrapError(f"the Transit key {name} is not derived, or convergent: choose another name")
    if key.get("exportable") or key.get("allow_plaintext_backup"):
        raise BootstrapError(f"the Transit key {name} can be exported: choose another name")
    done.append(f"session keys are encrypted by {mount}/keys/{name}, version {key['latest_version']}")


def _record_keys(client: hvac.Client, options: Options, done: list[str]) -> None:
    """The keys of the seals: made once, added to on request, never replaced."""
    kv = client.secrets.kv.v2
    path, mount = options.records_path, options.mount
    try:
        found = cast(
            dict[str, Any],
            kv.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True),
        )["data"]
    except hvac.exceptions.InvalidPath:
        found = None
    if found is None:
        _write_record_keys(client, options, _one_more_key({}), 0)
        done.append(f"keys of the seals on records made at {mount}/{path}")
        return
    kept, version = found["data"], int(found["metadata"]["version"])
    keys: dict[str, str] = json.loads(kept["keys"])
    stored: dict[str, Any] = {"current": kept["current"], "keys": keys}
    before = json.dumps(stored)
    if options.rotate_record_key:
        stored = _one_more_key(keys)
        done.append(f"records are sealed with the key {stored['current']} from now on")
    if options.drop_old_record_keys:
        current = stored["current"]
        stored["keys"] = {current: stored["keys"][current]}
        done.append(f"of the keys of the seals only {current} is left")
    if json.dumps(stored) == before:
        done.append(f"keys of the seals on records are at {mount}/{path}")
        return
    _write_record_keys(client, options, stored, version)


def _one_more_key(before: dict[str, str]) -> dict[str, Any]:
    """As ``worker/keys/record_keys.py`` reads them: 32 bytes from the system's generator under a new id."""
    name = secrets.token_hex(4)
    return {"current": name, "keys": {**before, name: secrets.token_hex(32)}}


def _write_record_keys(client: hvac.Client, options: Options, stored: dict[str, Any], version: int) -> None:
    client.secrets.kv.v2.create_or_update_secret(
        options.records_path,
        {"current": stored["current"], "keys": json.dumps(stored["keys"])},
        cas=version,
        mount_point=options.mount,
    )


def _roles(client: hvac.Client, options: Options, kinds: tuple[str, ...], done: list[str]) -> None:
    methods = cast(dict[str, Any], client.sys.list_auth_methods())["data"]
    if "approle/" not in methods:
        client.sys.enable_auth_method("approle")
    for role in map(name_of, kinds):
        client.auth.approle.create_or_update_approle(
            role,
            token_policies=[role],
            token_no_default_policy=True,
            token_ttl=TOKEN_TTL,
            token_max_ttl=TOKEN_MAX_TTL,
            secret_id_ttl=options.secret_id_ttl,
            bind_secret_id=True,
        )
        done.append(f"AppRole {role} has the policy of its name")


def _credentials(client: hvac.Client, options: Options, role: str, path: Path, done: list[str]) -> None:
    kept = _read_env(path)
    role_id = str(cast(dict[str, Any], client.auth.approle.read_role_id(role))["data"]["role_id"])
    if kept.get("SESSION_EXECUTOR_VAULT_ROLE_ID") == role_id and _logs_in(
        client, options, role_id, kept.get("SESSION_EXECUTOR_VAULT_SECRET_ID", "")
    ):
        done.append(f"{path} holds working credentials of {role}")
        return
    made = cast(dict[str, Any], client.auth.approle.generate_secret_id(role))["data"]
    _write_private(
        path,
        "SESSION_EXECUTOR_KEY_STORE=vault\n"
        f"SESSION_EXECUTOR_VAULT_ROLE_ID={role_id}\n"
        f"SESSION_EXECUTOR_VAULT_SECRET_ID={made['secret_id']}\n"
        + (f"SESSION_EXECUTOR_VAULT_TRANSIT_KEY={options.transit_key}\n" if options.transit_key else "")
        + (
            f"SESSION_EXECUTOR_VAULT_TRANSIT_MOUNT={options.transit_mount}\n"
            if options.transit_key and options.transit_mount != "transit"
            else ""
        ),
    )
    done.append(f"credentials of {role} written to {path}")


def _read_env(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        raise BootstrapError(f"cannot read {path}: is it the right file?") from None
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, _, value in pairs}


def _logs_in(client: hvac.Client, options: Options, role_id: str, secret_id: str) -> bool:
    try:
        made: Any = _client(options.addr, options.namespace).auth.approle.login(
            role_id, secret_id, use_token=False
        )
    except (hvac.exceptions.InvalidRequest, hvac.exceptions.Forbidden):
        return False
    client.auth.token.revoke(made["auth"]["client_token"])
    return True


def _write_private(path: Path, content: str) -> None:
    """``content`` at ``path`` with mode 0600, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise BootstrapError(f"cannot write {path}: {error.strerror}") from None


def _options(arguments: list[str] | None) -> Options:
    env = os.environ
    parser = argparse.ArgumentParser(prog="python -m config.vault.bootstrap", description=__doc__)
    parser.add_argument("--addr", default=env.get("VAULT_ADDR", "http://127.0.0.1:8200"))
    parser.add_argument("--namespace", default=env.get("VAULT_NAMESPACE", ""))
    parser.add_argument("--mount", default=env.get("SESSION_EXECUTOR_VAULT_MOUNT", "secret"))
    parser.add_argument("--prefix", default=env.get("SESSION_EXECUTOR_VAULT_PREFIX", "session-keys"))
    parser.add_argument(
        "--records-path", default=env.get("SESSION_EXECUTOR_VAULT_RECORDS_PATH", "session-executor/records")
    )
    parser.add_argument(
        "--transit-key",
        default=env.get("SESSION_EXECUTOR_VAULT_TRANSIT_KEY", ""),
        help="store session keys as ciphertext of this Transit key",
    )
    parser.add_argument("--transit-mount", default=env.get("SESSION_EXECUTOR_VAULT_TRANSIT_MOUNT", "transit"))
    parser.add_argument("--rotate-record-key", action="store_true", help="seal with a new key from now on")
    parser.add_argument(
        "--drop-old-record-keys", action="store_true", help="refuse what older keys have sealed"
    )
    for kind in (*KINDS, WRAPPER):
        parser.add_argument(f"--{kind}-env", type=Path, help=f"file for the {kind}'s AppRole")
    parser.add_argument("--init-file", type=Path, help="initialise and unseal with the key in this file")
    parser.add_argument("--audit-file", default="", help="path of the audit log, as Vault sees it")
    parser.add_argument("--secret-id-ttl", default="0", help="life of the secret ids; 0 is for ever")
    parser.add_argument("--wait-s", type=float, default=60.0, help="how long to wait for Vault")
    return Options(**vars(parser.parse_args(arguments)))


def main(arguments: list[str] | None = None) -> int:
    """The command; see the module."""
    try:
        for line in bootstrap(_options(arguments), os.environ.get("VAULT_TOKEN", "")):
            print(f"vault: {line}")  # noqa: T201 - a command's output
    except BootstrapError as error:
        problem = str(error)
    except hvac.exceptions.VaultError as error:
        problem = f"{type(error).__name__}: {error}"
    except requests.RequestException as error:
        # its text holds urllib3's object names and the URL twice
        problem = f"Vault stopped answering ({type(error).__name__}): see its log and run this again"
    else:
        return 0
    print(f"vault: {' '.join(problem.split())}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
