"""Session keys in Vault's KV version 2 (or, where that is what there is, version 1).

A key lives at ``<mount>/data/<prefix>/<address>`` as ``{"private_key": "0x…", "address": "0x…"}``; what may be known
of it (address, created, label) is custom metadata of the same path. One path per address and check-and-set 0 on
writing mean that no key is ever overwritten; the latest version alone is read, so a deleted key is not replaced by
an older one. KV v1 has neither ``data/`` nor versions nor metadata: there the policy alone (create without update) keeps
a key from being overwritten, and only addresses can be listed.

With a Transit key the field is ``ciphertext`` instead of ``private_key``; see ``worker/keys/transit.py``.
"""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import requests
import structlog
import tenacity

from worker.errors import InputError
from worker.keys.errors import (
    KeyDeletedError,
    KeyExistsError,
    KeyNotFoundError,
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreRateLimitedError,
    KeyStoreSetupError,
    KeyStoreTokenExpiredError,
    KeyStoreUnavailableError,
)
from worker.keys.memory import no_locals_in_errors
from worker.keys.port import KeyInfo, SecretKey
from worker.keys.secp256k1 import checked_label, generate, parse_address
from worker.keys.transit import CIPHERTEXT, PLAIN, Transit, form_of, stored_key
from worker.keys.vault_auth import AppRoleAuth, Auth, CertAuth, KubernetesAuth, Login, TokenAuth
from worker.keys.vault_http import KvVersion, Tls, VaultHttp, VaultReplyError
from worker.outbound import Rules, is_loopback, refusal

__all__ = ["AppRoleAuth", "CertAuth", "KubernetesAuth", "Tls", "TokenAuth", "Transit", "VaultKeyStore"]

log = structlog.get_logger(__name__)
T = TypeVar("T")

ATTEMPTS = 4
"""Tries of one request: a rolling restart of Vault or a quota of 1/s is over within three waits."""

DEADLINE_TIMEOUTS = 2.0
"""Total time of one operation in units of ``timeout_s``: 10 s of the 30 s that a stage may take."""

WAIT_INITIAL_S = 0.1
WAIT_MAX_S = 1.5
"""Jittered exponential wait between tries, without a ``Retry-After``."""

RENEW_AT = 0.5
"""Share of a lease after which it is renewed before the next use: half leaves a whole half for failed renewals."""

WARN_LEFT_S = 3600.0
"""A token that cannot be renewed any further is warned about from here on: time to hand out a new one."""

KEEPER_WAIT_S = 0.5
KEEPER_WAIT_MAX_S = 15.0
"""Waits of the thread that renews a token between two looks: an eighth of the lease after a failure, within these."""

_NOBODY = f"0x{'0' * 40}"
_SEALED = "Vault is sealed"
_CERTIFICATE_REQUIRED = "CERTIFICATE_REQUIRED"  # TLS 1.3's alert, as OpenSSL spells it
_TRANSIENT_STATUS = frozenset({412, 429, 472, 473, 500, 502, 503, 504})
_SEGMENT = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")


@dataclass(slots=True)
class _Lease:
    """A token's life, by the monotonic clock. ``ttl_s`` 0 means that it does not expire."""

    started: float
    ttl_s: float
    full_ttl_s: float
    renewable: bool

    @property
    def left_s(self) -> float:
        return self.started + self.ttl_s - time.monotonic() if self.ttl_s else float("inf")

    @property
    def is_due(self) -> bool:
        return bool(self.ttl_s) and self.left_s <= self.ttl_s * (1 - RENEW_AT)


class _Connection:
    """What belongs to one process: a forked child must not share a socket (or a held lock) with its parent."""

    def __init__(self, client: VaultHttp) -> None:
        self.pid = os.getpid()
        self.client = client
        self.lock = threading.RLock()
        self.lease: _Lease | None = None
        self.keeper: threading.Thread | None = None


class _RetryableError(Exception):
    """Inside this module only: an error that another try may cure."""

    def __init__(self, error: KeyStoreError) -> None:
        self.error = error
        super().__init__(str(error))


class VaultKeyStore:
    """The ``KeyStore`` port on Vault KV.

    Nothing is contacted before the first use, and each process makes its own client (Celery forks).

    Args:
        addr: ``http(s)://host:port`` of Vault.
        namespace: sent as ``X-Vault-Namespace`` with every request, logins included; empty for none.
        auth: how to log in.
        mount: the KV mount, e.g. ``secret`` or ``team/kv``.
        prefix: path of the keys below the mount, without ``data/``.
        timeout_s: bound on one request; an operation with all its tries may take ``DEADLINE_TIMEOUTS`` of it.
        kv_version: of the mount.
        tls: CA and client certificate.
        redirect_hosts: ``host:port`` of places that Vault may redirect to; the token goes there. Others get nothing.
        http_hosts: hosts that plain http may go to, beside this machine.
        transit: the Transit key under which keys are stored; None: as they are.

    Raises:
        KeyStoreSetupError: a setting that cannot work.
    """

    def __init__(
        self,
        addr: str,
        namespace: str,
        auth: Auth,
        *,
        mount: str = "secret",
        prefix: str = "session-keys",
        timeout_s: float = 5.0,
        kv_version: KvVersion = 2,
        tls: Tls | None = None,
        redirect_hosts: Iterable[str] = (),
        http_hosts: frozenset[str] = frozenset(),
        transit: Transit | None = None,
    ) -> None:
        self._rules = Rules("vault_addr", http_hosts)
        self._addr = _checked_addr(addr, self._rules)
        self._namespace = namespace.strip("/")
        self._login_by = Login(auth)
        self._mount = mount.strip("/")
        self._prefix = prefix.strip("/")
        self._timeout_s = timeout_s
        self._kv_version: KvVersion = kv_version
        self._tls = tls or Tls()
        self._transit = transit
        self._redirect_hosts = frozenset(host.strip().lower() for host in redirect_hosts if host.strip())
        self._connection: _Connection | None = None
        _check_path(self._mount, self._prefix, kv_version)
        if isinstance(auth, CertAuth) and (self._tls.cert_file is None or not self._addr.startswith("https")):
            raise KeyStoreSetupError(
                "the login by certificate needs one, and https",
                field="vault_client_cert_file",
                fix="set vault_client_cert_file, vault_client_key_file and an https address",
            )

    def __repr__(self) -> str:
        return f"<VaultKeyStore {self._addr} {self._folder('data')}>"

    def keep_alive(self) -> None:
        """Renew a token that was handed out for as long as this process lives, used or not.

        Any use of the store begins it too. For a process that is to keep the token alive before its first use, or for
        others that share it. A login of our own needs none of it: a lost token is replaced when it is next needed.

        Raises:
            KeyStoreError: as for ``get``.
        """
        if isinstance(self._login_by.auth, TokenAuth):
            self._call("", VaultHttp.lookup_self)

    @no_locals_in_errors()
    def unwrap(self) -> None:
        """Take a wrapped secret id out of its wrapping token; nothing to do otherwise.

        A program that forks calls it before: the token can be used once, and children inherit what was in it. No
        connection is left open for them.

        Raises:
            KeyStoreWrappingError: the token was used before, or is not the AppRole's own.
            KeyStoreError: as for ``get``.
        """
        if not self._login_by.must_unwrap:
            return
        connection = self._connect()
        with connection.lock:
            self._unwrap(connection, time.monotonic() + self._timeout_s * DEADLINE_TIMEOUTS)
            connection.client.close()
            self._connection = None

    # ------------------------------------------------------------------ the port

    def create(self, *, label: str = "", replaces: str = "") -> KeyInfo:
        """Generate a key in this process and write it with check-and-set 0; nothing is overwritten.

        Needs ``create`` on ``data/<prefix>/*``; ``update`` on ``metadata/<prefix>/*`` for the label (without it
        the key is kept and a warning logged).

        Args:
            label: for people; printable, at most 512 bytes.
            replaces: address of the key whose place it is to take.

        Raises:
            KeyLabelError: the label.
            KeyStoreError: as for ``get``; nothing was written, or nothing that anybody knows the address of.
        """
        label = checked_label(label)
        key = generate()
        try:
            version = self._write_new(key)
        finally:
            key.wipe()
        return self._describe(KeyInfo(key.address, int(time.time()), version, label, replaces))

    def adopt(self, key: SecretKey, *, label: str = "") -> KeyInfo:
        """Write a key that was made elsewhere, with check-and-set 0. Needs what ``create`` needs.

        Raises:
            KeyLabelError: the label.
            KeyExistsError: something is stored under its address, destroyed versions included.
            KeyStoreError: as for ``get``.
        """
        label = checked_label(label)
        try:
            version = self._write_new(key)
        except KeyStoreError as error:
            problem = error
        else:
            return self._describe(KeyInfo(key.address, int(time.time()), version, label))
        if self._versions(key.address):
            raise KeyExistsError(
                "a key of this address is, or was, stored there",
                field=f"vault:{self._full_path(key.address)}",
                fix="it is never overwritten; `vault kv undelete` it if it was deleted",
            )
        raise problem

    def mark_rotated(self, address: str) -> None:
        """See the port. Needs ``read`` and ``update`` on ``metadata/<prefix>/*``; KV version 1 has no place for it.

        Raises:
            KeyAddressError, KeyNotFoundError
            KeyStoreError: as for ``get``.
        """
        address = parse_address(address)
        if self._kv_version == 1:
            log.warning("key_metadata_not_written", address=address, reason="KV version 1 has none")
            return
        self._note(address, "rotated")

    def destroy(self, address: str) -> None:
        """Destroy every version; what is known of the key stays, so that nothing is ever stored in its place.

        Needs the policy ``config/vault/custodian.hcl``.

        Raises:
            KeyAddressError
            KeyNotFoundError, KeyDeletedError: there is nothing (any more) to destroy.
            KeyStoreError: as for ``get``.
        """
        address = parse_address(address)
        where = f"vault:{self._full_path(address)}"
        versions = self._versions(address)
        if not versions:
            raise KeyNotFoundError(
                "nothing is stored there", field=where, fix="see `session-executor keys list`"
            )
        left = [number for number, destroyed in versions.items() if not destroyed]
        if not left:
            raise _deleted(where)
        self._call(address, lambda client: client.destroy(self._mount, self._path(address), left))
        if self._kv_version == 2:
            self._note(address, "destroyed")

    def wrap(self, address: str) -> tuple[str, str]:
        """Encrypt a key that is stored plainly, or bring a ciphertext to the newest version of the Transit key.

        The new ciphertext is decrypted and compared before anything is written; then every other version is destroyed,
        since it would be read as it was. May be repeated. Needs the policy ``config/vault/wrapper.hcl``.

        Returns:
            What it was stored as and what it is: ``plain``, ``vault:v1``, …

        Raises:
            KeyAddressError
            KeyStoreSetupError: no Transit key is set.
            KeyStoreError: as for ``get``.
        """
        address = parse_address(address)
        transit = self._transit
        if transit is None:
            raise KeyStoreSetupError(
                "is not set", field="vault_transit_key", fix="set SESSION_EXECUTOR_VAULT_TRANSIT_KEY"
            )
        outcome = self._call(address, lambda client: self._wrapped_once(client, transit, address))
        if isinstance(outcome, KeyStoreError):
            raise outcome
        before, ciphertext, version = outcome
        after = form_of({CIPHERTEXT: ciphertext})
        if after != before:
            new = {CIPHERTEXT: ciphertext, "address": address}
            self._call(address, lambda client: client.replace(self._mount, self._path(address), new, version))
        self._destroy_older(address)
        return before, after

    def _wrapped_once(
        self, client: VaultHttp, transit: Transit, address: str
    ) -> tuple[str, str, int] | KeyStoreError:
        """What is stored, the ciphertext to store, proven to be the key, and the version that it replaces.

        All in one step, and errors are returned, as in ``_read_once``: the stored text is in no frame of an error.
        """
        where = f"vault:{self._full_path(address)}"
        secret = _mapping(client.read(self._mount, self._path(address)))
        fields = secret.get("data", "")
        if fields is None:
            return _deleted(where)
        before = form_of(fields)
        if before.startswith("vault:"):
            text = transit.rewrap(client, str(fields[CIPHERTEXT]), address)
        else:
            key = stored_key(client, None, fields, address, where)
            if isinstance(key, KeyStoreError):
                return key
            try:
                text = transit.encrypt(client, key)
            finally:
                key.wipe()
        proof = stored_key(client, transit, {CIPHERTEXT: text}, address, where)
        if isinstance(proof, KeyStoreError):
            return proof
        proof.wipe()
        return before, text, int(_mapping({"data": secret.get("metadata")}).get("version") or 1)

    def _destroy_older(self, address: str) -> None:
        """What came before the newest version is never read again, and may hold the plain key."""
        if self._kv_version == 1:
            return
        found = self._versions(address)
        older = [number for number, destroyed in found.items() if not destroyed and number != max(found)]
        if older:
            self._call(address, lambda client: client.destroy(self._mount, self._path(address), older))

    def _describe(self, info: KeyInfo) -> KeyInfo:
        """Write down what may be known of a new key; what could not be written is not in the result."""
        if self._kv_version == 1:
            if info.label or info.replaces:
                log.warning("key_metadata_not_written", address=info.address, reason="KV version 1 has none")
            return KeyInfo(info.address, info.created, info.version)
        metadata = {"address": info.address, "created": str(info.created)}
        # Vault refuses empty values, all of them together
        metadata |= {
            name: value for name, value in (("label", info.label), ("replaces", info.replaces)) if value
        }
        try:
            self._call(
                info.address,
                lambda client: client.write_metadata(self._mount, self._path(info.address), metadata),
            )
        except KeyStoreError as error:
            # The key is safe and its address must reach the caller: only the label is lost.
            log.warning("key_metadata_not_written", address=info.address, reason=str(error))
            return KeyInfo(info.address, info.created, info.version)
        return info

    def _note(self, address: str, what: str) -> None:
        """Add the time of something to a key's metadata."""
        found = self._metadata(address)
        custom = {
            str(name): str(value)
            for name, value in cast(dict[str, Any], found.get("custom_metadata") or {}).items()
        } | {what: str(int(time.time()))}
        self._call(address, lambda client: client.write_metadata(self._mount, self._path(address), custom))

    def _metadata(self, address: str) -> dict[str, Any]:
        return _mapping(
            self._call(address, lambda client: client.read_metadata(self._mount, self._path(address)))
        )

    def _versions(self, address: str) -> dict[int, bool]:
        """Every version that there is, and whether it is destroyed; {} where nothing is or was stored."""
        try:
            found = cast(dict[str, Any], self._metadata(address).get("versions") or {})
        except (KeyNotFoundError, KeyStoreDeniedError):
            return {}
        return {int(number): bool(version.get("destroyed")) for number, version in found.items()}

    def get(self, address: str) -> AbstractContextManager[SecretKey]:
        """See the port. The key is read anew each time, checked to be of ``address``, and never cached.

        Raises:
            KeyAddressError: ``address`` is none.
            KeyNotFoundError, KeyDeletedError, KeyFormatError, KeyMismatchError: about the stored key.
            KeyStoreUnavailableError, KeyStoreRateLimitedError, KeyStoreDeniedError, KeyStoreSetupError: about Vault.
        """
        return self._borrow(parse_address(address))

    def list(self) -> Iterator[KeyInfo]:
        """The keys whose latest version is readable, by address. Needs ``list`` and ``read`` on ``metadata/``."""
        try:
            names = _mapping(
                self._call(
                    "",
                    lambda client: client.list(self._mount, self._prefix),
                )
            ).get("keys")
        except KeyNotFoundError:
            return
        for name in sorted(str(name) for name in cast(list[Any], names or [])):
            if re.fullmatch(r"0x[0-9a-f]{40}", name):
                info = self._info(name) if self._kv_version == 2 else KeyInfo(name, 0)
                if info is not None:
                    yield info

    def check(self) -> str:
        """Health, token, mount and permissions, in the order in which they can be told apart.

        Returns:
            One line for ``doctor``: version, path, remaining token life, what the token may do.

        Raises:
            KeyStoreUnavailableError: unreachable, sealed, not initialised.
            KeyStoreTokenExpiredError, KeyStoreDeniedError: the credentials.
            KeyStoreSetupError: mount missing, or not of the KV version that is set.
        """
        version = self._health()
        life = self._token_life()
        if problem := self._mount_problem():
            raise problem
        rights = self._capabilities()
        self._prove_mount(rights)
        if not {"read", "create", "root"} & set(rights):
            raise KeyStoreDeniedError(
                f"the token may neither read nor create keys at {self._folder('data')}/",
                field="vault",
                fix="give its role the policy config/vault/signer.hcl or operator.hcl; workers that sign nothing need neither",
            )
        layer = self._check_transit(rights)
        warning = "" if self._is_private() else ", PLAIN HTTP: token and keys travel unencrypted, use https"
        return (
            f"Vault {version} at {self._addr}, keys at {self._folder('data')}/ (KV v{self._kv_version}), "
            f"{layer}token {life}, may {', '.join(rights)}{warning}"
        )

    def reachable(self) -> str:
        """Whether Vault answers and is unsealed; no login, no token. Returns one line.

        Raises:
            KeyStoreUnavailableError: unreachable, sealed, not initialised.
        """
        return f"Vault {self._health()} at {self._addr}"

    def read_fields(self, path: str) -> dict[str, Any]:
        """The fields of another secret of the mount: one that is no session key. It is not cached.

        Args:
            path: below the mount, without ``data/``.

        Raises:
            KeyNotFoundError, KeyDeletedError, KeyStoreError: as for ``get``.
        """
        fields = _mapping(self._call("", lambda client: client.read(self._mount, path))).get("data")
        return cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}

    # ------------------------------------------------------------------ reading and writing a key

    @contextmanager
    def _borrow(self, address: str) -> Generator[SecretKey]:
        key = self._read(address)
        try:
            yield key
        finally:
            key.wipe()

    def _read(self, address: str) -> SecretKey:
        outcome = self._call(address, lambda client: self._read_once(client, address))
        if isinstance(outcome, KeyStoreError):
            raise outcome
        return outcome

    def _read_once(self, client: VaultHttp, address: str) -> SecretKey | KeyStoreError:
        """The key or the error, returned: a raised error would keep this frame and the stored text in it."""
        where = f"vault:{self._full_path(address)}"
        secret = _mapping(client.read(self._mount, self._path(address)))
        fields = secret.get("data", "")
        if fields is None:
            return _deleted(where)
        key = stored_key(client, self._transit, fields, address, where)
        if isinstance(key, KeyStoreError):
            return key
        metadata = secret.get("metadata")
        if isinstance(metadata, dict):
            key.version = str(cast(dict[str, Any], metadata).get("version", ""))
        return key

    def _write_new(self, key: SecretKey) -> str:
        """Version of the written secret. A repeat after a lost reply meets our own write, not somebody else's."""
        maybe_written = False
        transit, ciphertext = self._transit, ""
        if transit is not None:
            ciphertext = self._call(key.address, lambda client: transit.encrypt(client, key))

        def write(client: VaultHttp) -> Any:
            nonlocal maybe_written
            try:
                return client.write_new(
                    self._mount,
                    self._path(key.address),
                    # made here: this frame is in no error of ours
                    {CIPHERTEXT: ciphertext, "address": key.address}
                    if ciphertext
                    else {PLAIN: f"0x{key.use().hex()}", "address": key.address},
                )
            except VaultReplyError as reply:
                if maybe_written and reply.status in (400, 403) and self._is_written(client, key.address):
                    return {"data": {"version": 1}}
                maybe_written = maybe_written or reply.status >= 500
                raise
            except requests.RequestException:
                maybe_written = True
                raise

        return str(_mapping(self._call(key.address, write)).get("version", ""))

    def _is_written(self, client: VaultHttp, address: str) -> bool:
        """Did the try whose reply was lost succeed? Only this call knows the key of ``address``: a version is ours.

        The repeat is refused by check-and-set (400), or by an operator's policy, which may create and not
        update (403).
        """
        try:
            metadata = client.read_metadata(self._mount, self._path(address))
        except VaultReplyError:
            return False
        return _mapping(metadata).get("current_version") == 1

    def _info(self, address: str) -> KeyInfo | None:
        try:
            metadata = self._metadata(address)
        except KeyStoreDeniedError:
            return KeyInfo(address, 0)
        except KeyNotFoundError:
            return None  # removed since it was listed
        current = str(metadata.get("current_version", ""))
        version = cast(dict[str, Any], (metadata.get("versions") or {}).get(current, {}))
        if version.get("deletion_time") or version.get("destroyed") or not version:
            return None
        custom = cast(dict[str, Any], metadata.get("custom_metadata") or {})
        return KeyInfo(
            address,
            _created(custom.get("created"), metadata.get("created_time")),
            current,
            str(custom.get("label", "")),
            str(custom.get("replaces", "")),
            _created(custom.get("rotated"), None),
        )

    # ------------------------------------------------------------------ one operation

    @no_locals_in_errors()
    def _call(self, address: str, operation: Callable[[VaultHttp], T]) -> T:
        """Run ``operation`` with a live token, bounded retries and, where that is possible, one new login on 403."""
        deadline = time.monotonic() + self._timeout_s * DEADLINE_TIMEOUTS
        connection = self._connect()
        if not connection.lock.acquire(timeout=self._timeout_s * DEADLINE_TIMEOUTS):
            raise _unavailable("every connection is busy with requests that do not end", self._addr)
        try:
            return self._call_locked(connection, address, operation, deadline)
        finally:
            connection.lock.release()

    def _call_locked(
        self, connection: _Connection, address: str, operation: Callable[[VaultHttp], T], deadline: float
    ) -> T:
        self._ensure_token(connection, deadline)
        result, reply = self._attempts(connection, address, operation, deadline)
        if reply is not None and self._login_by.is_possible:
            # Revoked, or Vault was restored from a backup: the role itself may still be good.
            self._login(connection, deadline)
            result, reply = self._attempts(connection, address, operation, deadline)
        if reply is not None:
            raise self._denied(connection, reply, address)
        return cast(T, result)

    def _attempts(
        self, connection: _Connection, address: str, operation: Callable[[VaultHttp], T], deadline: float
    ) -> tuple[T | None, VaultReplyError | None]:
        """The result, or the 401/403 reply; every other failure is raised, without the chain that led to it."""

        def once() -> tuple[T | None, VaultReplyError | None]:
            result, failure = self._once(connection.client, operation, deadline)
            if failure is None:
                return result, None
            if isinstance(failure, VaultReplyError) and failure.status in (401, 403):
                return None, failure
            error = self._translate(failure, address)
            if isinstance(error, KeyStoreUnavailableError) and _SEALED.lower() not in error.message.lower():
                raise _RetryableError(error)
            raise error

        try:
            return _retrying(deadline)(once)
        except _RetryableError as last:
            error = last.error
        raise error

    def _once(
        self, client: VaultHttp, operation: Callable[[VaultHttp], T], deadline: float
    ) -> tuple[T | None, VaultReplyError | requests.RequestException | None]:
        """One try. Failures are returned so that the error made of them carries no request in its context."""
        left = deadline - time.monotonic()
        if left <= 0:
            return None, requests.Timeout("the time for this operation is used up")
        client.limit(min(self._timeout_s, left))
        try:
            return operation(client), None
        except (VaultReplyError, requests.RequestException) as failure:
            return None, failure

    def _translate(self, failure: VaultReplyError | requests.RequestException, address: str) -> KeyStoreError:
        if isinstance(failure, requests.RequestException):
            return _transport_error(failure, self._addr)
        where = f"vault:{self._full_path(address)}" if address else f"vault:{self._folder('metadata')}"
        if failure.path and self._transit is not None:
            refused = self._transit.refusal(failure, where)
            if refused is not None:
                return refused
        if failure.deleted:
            return _deleted(where)
        if 300 <= failure.status < 400:
            return KeyStoreSetupError(
                f"{self._addr} redirects to {failure.location or 'another place'}; the token was not sent there",
                field="vault_addr",
                fix="set vault_addr to the active node or to the load balancer itself",
            )
        if failure.status == 404:
            if "no handler for route" in failure.text:
                return self._no_mount()
            return self._mount_problem() or KeyNotFoundError(
                "nothing is stored there", field=where, fix="check address, mount and prefix, or create a key"
            )
        if failure.status == 429:
            return KeyStoreRateLimitedError(
                "Vault limits the rate of requests",
                field="vault",
                fix="raise the quota of the mount or run fewer workers",
                retry_after_s=failure.retry_after_s,
            )
        if failure.status == 503 and _SEALED.lower() in failure.text.lower():
            return _sealed(self._addr)
        if failure.status in _TRANSIENT_STATUS or failure.status >= 500:
            return _unavailable(f"answers HTTP {failure.status} {failure.text}".rstrip(), self._addr)
        return KeyStoreError(
            f"Vault refuses the request: HTTP {failure.status} {failure.text}".rstrip(),
            field=where,
            fix="see Vault's audit log",
        )

    def _denied(self, connection: _Connection, reply: VaultReplyError, address: str) -> KeyStoreError:
        """Why a 401/403: the token is gone, the mount is not there, or the policy says no."""
        soon = time.monotonic() + self._timeout_s
        _, failure = self._once(connection.client, VaultHttp.lookup_self, soon)
        if isinstance(failure, VaultReplyError) and failure.status == 403 and "invalid token" in failure.text:
            return _expired()
        if connection.lease is not None and connection.lease.left_s <= 0:
            return _expired()
        path = reply.path or (self._full_path(address) if address else f"{self._folder('metadata')}/")
        return (None if reply.path else self._mount_problem()) or KeyStoreDeniedError(
            f"permission denied at {path} (HTTP {reply.status})",
            field="vault",
            fix="give the role the policy that config/vault/ has for it; a missing mount looks the same",
        )

    def _mount_problem(self) -> KeyStoreSetupError | None:
        """What is wrong with the mount, or None: it is right, or Vault does not let us know.

        Vault answers 403 both for a mount that is not there and for one in which the token may do nothing.
        """
        data, failure = self._once(
            self._connect().client,
            lambda client: client.mount(self._mount),
            time.monotonic() + self._timeout_s,
        )
        if failure is not None:
            return None
        mount = _mapping(data)
        options = cast(dict[str, Any], mount.get("options") or {})
        version = str(options.get("version") or 1)
        if mount.get("type") != "kv" or version != str(self._kv_version):
            is_kv = mount.get("type") == "kv"
            return KeyStoreSetupError(
                f"the mount '{self._mount}' is {mount.get('type')} version {version}, not KV version {self._kv_version}",
                field="vault_mount",
                fix=f"set vault_kv_version to {version}, or name another mount"
                if is_kv
                else f"use a KV version {self._kv_version} mount",
            )
        actual = str(mount.get("path", "")).strip("/")
        if actual != self._mount:
            return KeyStoreSetupError(
                f"'{self._mount}' lies inside the mount '{actual}'",
                field="vault_mount",
                fix=f"set the mount to {actual} and move the rest to the prefix",
            )
        return None

    def _no_mount(self) -> KeyStoreSetupError:
        return KeyStoreSetupError(
            f"there is no mount '{self._mount}'",
            field="vault_mount",
            fix=f"vault secrets enable -path={self._mount} kv-v2, or correct the name or the namespace",
        )

    # ------------------------------------------------------------------ client and token

    def _connect(self) -> _Connection:
        connection = self._connection
        if connection is None or connection.pid != os.getpid():
            connection = _Connection(
                VaultHttp(
                    self._addr,
                    self._namespace,
                    self._timeout_s,
                    rules=self._rules,
                    tls=self._tls,
                    redirect_hosts=self._redirect_hosts,
                    kv_version=self._kv_version,
                )
            )
            self._connection = connection
        return connection

    def _ensure_token(self, connection: _Connection, deadline: float) -> None:
        """Log in, or renew a lease that is past its half. Done before use: there is no background thread."""
        lease = connection.lease
        if lease is None:
            auth = self._login_by.auth
            if isinstance(auth, TokenAuth):
                self._adopt_token(connection, auth, deadline)
            else:
                self._login(connection, deadline)
        elif lease.is_due:
            self._renew(connection, lease, deadline)

    def _adopt_token(self, connection: _Connection, auth: TokenAuth, deadline: float) -> None:
        """Use the token (which is in no local here: this frame is in tracebacks) and learn how long it lives."""
        connection.client.use_token(auth.token)
        result, failure = self._attempts(connection, "", VaultHttp.lookup_self, deadline)
        if failure is not None:
            if "invalid token" in failure.text:
                raise _expired()
            # A policy without lookup-self: the token works, its life is just not known.
            connection.lease = _Lease(time.monotonic(), 0, 0, renewable=False)
            return
        data = _mapping(result)
        ttl = float(data.get("ttl") or 0)
        connection.lease = _Lease(time.monotonic(), ttl, ttl, renewable=bool(data.get("renewable")))
        self._warn_if_ending(connection.lease)
        if connection.lease.renewable and ttl and connection.keeper is None:
            # without it, a token that nobody uses for the length of its lease would be lost for good
            connection.keeper = threading.Thread(
                target=_keep, args=(weakref.ref(self), connection), name="vault-token", daemon=True
            )
            connection.keeper.start()

    def _login(self, connection: _Connection, deadline: float) -> None:
        self._unwrap(connection, deadline)
        connection.client.use_token("")
        result, failure = self._attempts(connection, "", self._login_by.run, deadline)
        if failure is not None:
            connection.lease = None
            raise self._login_by.refused(failure)
        granted = cast(dict[str, Any], cast(dict[str, Any], result)["auth"])
        ttl = float(granted.get("lease_duration") or 0)
        connection.lease = _Lease(time.monotonic(), ttl, ttl, renewable=bool(granted.get("renewable")))

    def _unwrap(self, connection: _Connection, deadline: float) -> None:
        """Look at the wrapping token first, as often as it takes, then use it once."""
        if not self._login_by.must_unwrap:
            return
        connection.client.use_token("")
        problem, failure = self._attempts(connection, "", self._login_by.look_up_wrapping, deadline)
        if problem is None and failure is None:
            problem, failure = self._once(connection.client, self._login_by.unwrap, deadline)
        if problem is not None:
            log.error(
                "vault_wrapping_token_refused",
                reason=problem.message,
                consequence="no key can be had; whoever used the token may hold the secret id",
            )
            raise problem
        if failure is not None:
            raise self._translate(failure, "")

    def _renew(self, connection: _Connection, lease: _Lease, deadline: float) -> None:
        can_login = self._login_by.is_possible
        if lease.renewable and lease.left_s > 0:
            result, failure = self._once(connection.client, VaultHttp.renew_self, deadline)
            if failure is None:
                granted = cast(dict[str, Any], cast(dict[str, Any], result)["auth"])
                ttl = float(granted.get("lease_duration") or 0)
                # Near its maximum life a renewal grants less and less: who can log in then starts afresh.
                if not (can_login and ttl < lease.full_ttl_s * RENEW_AT):
                    connection.lease = _Lease(
                        time.monotonic(), ttl, lease.full_ttl_s, renewable=bool(granted.get("renewable"))
                    )
                    self._warn_if_ending(connection.lease)
                    return
        auth = self._login_by.auth
        if not isinstance(auth, TokenAuth):
            self._login(connection, deadline)
        elif lease.left_s <= 0:
            # Another process may share this token and have renewed it: Vault knows.
            self._adopt_token(connection, auth, deadline)
        else:
            self._warn_if_ending(lease)

    def _warn_if_ending(self, lease: _Lease) -> None:
        """An operator's token that no renewal lengthens any more ends the signing when it ends."""
        shortened = lease.ttl_s < lease.full_ttl_s
        if lease.ttl_s and (not lease.renewable or shortened) and lease.left_s < WARN_LEFT_S:
            log.warning(
                "vault_token_ends_soon",
                seconds_left=max(0, int(lease.left_s)),
                consequence="signing stops when it ends; hand out a new token or use an AppRole",
            )

    @no_locals_in_errors()
    def renew_if_due(self, connection: _Connection) -> bool:
        """One look of the keeper at the token of ``connection``; False when it has no more to do.

        Raises:
            KeyStoreError: it could not be renewed this time.
        """
        if self._connection is not connection or connection.pid != os.getpid():
            return False
        with connection.lock:
            self._ensure_token(connection, time.monotonic() + self._timeout_s)
            lease = connection.lease
        return lease is not None and lease.renewable and bool(lease.ttl_s)

    # ------------------------------------------------------------------ parts of check()

    def _health(self) -> str:
        connection = self._connect()
        data, failure = self._once(
            connection.client,
            lambda client: client.health(),
            time.monotonic() + self._timeout_s,
        )
        if isinstance(failure, requests.RequestException):
            raise _transport_error(failure, self._addr)
        if failure is not None and failure.status == 501:
            raise _unavailable("is not initialised", self._addr, fix="vault operator init")
        if failure is not None and failure.status == 503:
            raise _sealed(self._addr)
        if failure is not None and 300 <= failure.status < 400:
            raise self._translate(failure, "")
        return str((data or {}).get("version", "of unknown version"))

    def _token_life(self) -> str:
        try:
            data = _mapping(self._call("", VaultHttp.lookup_self))
        except KeyStoreTokenExpiredError:
            raise
        except KeyStoreDeniedError:
            return "of unknown life (its policy has no auth/token/lookup-self)"
        ttl = int(data.get("ttl") or 0)
        return f"valid for {ttl} s" if ttl else "without expiry"

    def _capabilities(self) -> tuple[str, ...]:
        path = self._full_path(_NOBODY)  # policies are written for the prefix
        try:
            data = _mapping(self._call("", lambda client: client.capabilities(path)))
        except KeyStoreTokenExpiredError:
            raise
        except KeyStoreDeniedError:
            # A policy without sys/capabilities-self says nothing about the keys: try.
            return ("read",) if self._may_read() else ()
        return tuple(sorted(str(right) for right in cast(list[Any], data.get(path) or [])))

    def _check_transit(self, rights: tuple[str, ...]) -> str:
        """Who may read keys must be able to decrypt them, and who may create them to encrypt. Raises KeyStoreError."""
        if self._transit is None:
            return ""
        for right, what in (("read", "decrypt"), ("create", "encrypt")):
            path = self._transit.path(what)
            if right not in rights or self._may(path) & {"update", "root"}:
                continue
            raise KeyStoreDeniedError(
                f"the token may {right} keys and not {what} them: no right of update at {path}",
                field="vault_transit_key",
                fix="run `python -m config.vault.bootstrap --transit-key NAME`, or correct the name",
            )
        return f"encrypted by {self._transit.mount}/keys/{self._transit.key}, "

    def _may(self, path: str) -> set[str]:
        """What the token may do at a path; everything where it may not ask."""
        try:
            found = _mapping(self._call("", lambda client: client.capabilities(path))).get(path)
        except KeyStoreTokenExpiredError:
            raise
        except KeyStoreDeniedError:
            return {"root"}
        return {str(right) for right in cast("list[Any]", found or [])}

    def _prove_mount(self, rights: tuple[str, ...]) -> None:
        """Ask for a key that nobody has: "no handler for route" tells a missing mount from a missing key."""
        if {"read", "root"} & set(rights):
            self._may_read()

    def _may_read(self) -> bool:
        try:
            self._call("", lambda client: client.read(self._mount, self._path(_NOBODY)))
        except KeyStoreTokenExpiredError:
            raise
        except KeyStoreDeniedError:
            return False
        except (KeyNotFoundError, KeyDeletedError):
            pass
        return True

    def _is_private(self) -> bool:
        url = urlsplit(self._addr)
        return url.scheme == "https" or is_loopback(url.hostname or "")

    # ------------------------------------------------------------------ paths

    def _path(self, address: str) -> str:
        return f"{self._prefix}/{address}"

    def _folder(self, kind: str) -> str:
        """Where the keys (``data``) or what is known of them (``metadata``) are, as policies name it."""
        return (
            f"{self._mount}/{kind}/{self._prefix}"
            if self._kv_version == 2
            else f"{self._mount}/{self._prefix}"
        )

    def _full_path(self, address: str) -> str:
        return f"{self._folder('data')}/{address}"


# ---------------------------------------------------------------------- helpers


def _keep(store: weakref.ref[VaultKeyStore], connection: _Connection) -> None:
    """Renew the token at the half of each lease, until the store or the token is gone. The body of a thread."""
    failing = False
    while (lease := connection.lease) is not None:
        until_due_s = lease.ttl_s * RENEW_AT - (time.monotonic() - lease.started)
        again_s = min(KEEPER_WAIT_MAX_S, lease.ttl_s / 8)
        time.sleep(max(KEEPER_WAIT_S, again_s if failing else until_due_s))
        kept = store()
        if kept is None:
            return
        try:
            if not kept.renew_if_due(connection):
                return
            failing = False
        except KeyStoreTokenExpiredError as error:
            log.error("vault_token_lost", reason=error.message, fix=error.fix)  # noqa: TRY400 - our own words say all
            return
        except KeyStoreError as error:
            if not failing:
                log.warning("vault_token_not_renewed", reason=error.message, consequence="it is tried again")
            failing = True
        del kept


def _retrying(deadline: float) -> tenacity.Retrying:
    backoff = tenacity.wait_random_exponential(multiplier=WAIT_INITIAL_S, max=WAIT_MAX_S)

    def wait(state: tenacity.RetryCallState) -> float:
        asked = _retry_after(state)
        # Not before Vault said, and not all workers at the same moment.
        return backoff(state) if asked is None else asked + backoff(state)

    def stop(state: tenacity.RetryCallState) -> bool:
        asked = _retry_after(state) or 0.0
        return state.attempt_number >= ATTEMPTS or time.monotonic() + asked >= deadline

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_RetryableError), wait=wait, stop=stop, reraise=True
    )


def _retry_after(state: tenacity.RetryCallState) -> float | None:
    failure = state.outcome.exception() if state.outcome is not None else None
    error = failure.error if isinstance(failure, _RetryableError) else None
    return error.retry_after_s if isinstance(error, KeyStoreRateLimitedError) else None


def _mapping(reply: Any) -> dict[str, Any]:
    """``data`` of a reply; an empty mapping if there is none."""
    data = cast(dict[str, Any], reply).get("data") if isinstance(reply, dict) else None
    return cast(dict[str, Any], data) if isinstance(data, dict) else {}


def _created(custom: Any, created_time: Any) -> int:
    """Unix seconds from our own metadata, else from Vault's RFC 3339 time, else 0."""
    if isinstance(custom, str) and custom.isascii() and custom.isdigit():
        return int(custom)
    try:
        return int(datetime.fromisoformat(str(created_time)[:19] + "+00:00").timestamp())
    except ValueError:
        return 0


def _transport_error(failure: requests.RequestException, addr: str) -> KeyStoreError:
    if refused := refusal(failure):
        return _unavailable(f"is not connected to: {refused}", addr, fix="correct vault_addr, or its name")
    if _CERTIFICATE_REQUIRED in str(failure):
        return KeyStoreSetupError(
            f"{addr} asks for a client certificate",
            field="vault_client_cert_file",
            fix="set vault_client_cert_file and vault_client_key_file to one that Vault's listener accepts",
        )
    if isinstance(failure, requests.exceptions.SSLError):
        return KeyStoreSetupError(
            f"the TLS certificate of {addr} is not accepted",
            field="vault_addr",
            fix="set vault_ca_file (or VAULT_CACERT) to the CA that signed it, and use the name that it was issued for",
        )
    if isinstance(failure, requests.Timeout):
        return _unavailable(
            "does not answer in time", addr, fix="check that it is up, or raise vault_timeout_s"
        )
    if isinstance(failure, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return _unavailable("cannot be reached", addr, fix="start Vault or correct vault_addr")
    return KeyStoreSetupError(
        f"{addr} cannot be used as an address ({type(failure).__name__})",
        field="vault_addr",
        fix="give http(s)://host:port",
    )


def _unavailable(
    what: str, addr: str, *, fix: str = "see Vault's own log; it is tried again"
) -> KeyStoreError:
    return KeyStoreUnavailableError(f"Vault at {addr} {what}", field="vault", fix=fix)


def _sealed(addr: str) -> KeyStoreError:
    return KeyStoreUnavailableError(
        f"{_SEALED} ({addr})", field="vault", fix="vault operator unseal; nothing is signed until then"
    )


def _expired() -> KeyStoreError:
    return KeyStoreTokenExpiredError(
        "the Vault token is expired or revoked",
        field="vault_token",
        fix="hand out a new token, or use an AppRole, which logs in again by itself",
    )


def _deleted(where: str) -> KeyStoreError:
    return KeyDeletedError(
        "the latest version of the key is deleted or destroyed; older versions are not used",
        field=where,
        fix="vault kv undelete it, or approve a session for a new key",
    )


def _checked_addr(addr: str, rules: Rules) -> str:
    try:
        return rules.check_url(addr).removesuffix("/v1")
    except InputError as error:
        raise KeyStoreSetupError(error.message, field=error.field, fix=error.fix) from None


def _check_path(mount: str, prefix: str, kv_version: KvVersion) -> None:
    for name, value in (("vault_mount", mount), ("vault_prefix", prefix)):
        if not _SEGMENT.fullmatch(value) or ".." in value:
            raise KeyStoreSetupError(
                f"'{value}' is not a path", field=name, fix="use letters, digits, - _ . separated by /"
            )
    first = prefix.split("/", 1)[0]
    if kv_version == 1:
        return
    if first in ("data", "metadata") or mount.endswith(("/data", "/metadata")):
        raise KeyStoreSetupError(
            f"contains '{first if first in ('data', 'metadata') else mount.rpartition('/')[2]}/', which KV version 2 "
            f"adds by itself (mount '{mount}', prefix '{prefix}')",
            field="vault_prefix" if first in ("data", "metadata") else "vault_mount",
            fix="leave it out",
        )
