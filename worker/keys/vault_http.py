"""The one HTTP path to Vault: hvac with no redirects, no ambient credentials, and errors told apart.

hvac follows redirects and sends ``X-Vault-Token`` along to wherever they point, reads a token from the
environment or the home folder when it is given none, drops ``Retry-After``, and keeps whole response bodies on
its exceptions. None of that happens here.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import hvac
import requests
import urllib3.exceptions
from hvac.adapters import RawAdapter

from worker.errors import InputError
from worker.guarded_session import guard
from worker.keys.errors import KeyStoreSetupError
from worker.outbound import Rules

Reply = dict[str, Any]

#: A key, its metadata and an error list are far smaller; a page from some other server need not be read.
_MAX_BODY = 1 << 20
#: A standby node sends to the active one; what sends further goes in circles.
_MAX_REDIRECTS = 2

#: Addresses whose requests a session keeps: keys, and what else is read of Vault.
_BLANKS = 256
#: Arguments of a read that does not differ from others of its URL but in its headers.
_PLAIN = frozenset({"headers", "allow_redirects", "stream", "timeout", "verify", "cert", "proxies", "params"})

KvVersion = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of the TLS connection.

    Attributes:
        ca_file: PEM of the CAs that may have signed Vault's certificate; None: ``VAULT_CACERT``, ``VAULT_CAPATH``, or the
            usual ones.
        cert_file: PEM of our own certificate, if Vault asks for one.
        key_file: PEM of its private key, readable by its owner (and group) only.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def verify(self) -> str | bool:
        """For ``requests``: the CA file or folder, or True for the usual CAs.

        Raises:
            KeyStoreSetupError: it cannot be read.
        """
        name, place = "vault_ca_file", str(self.ca_file or "")
        for variable in () if place else ("VAULT_CACERT", "VAULT_CAPATH"):
            name, place = variable, place or os.environ.get(variable, "")
        if not place:
            return True
        if not os.access(Path(place).expanduser(), os.R_OK):
            raise KeyStoreSetupError(f"{place} cannot be read", field=name, fix="name the CA's PEM file")
        return str(Path(place).expanduser())

    def client_cert(self) -> tuple[str, str] | None:
        """For ``requests``: certificate and key, or None.

        Raises:
            KeyStoreSetupError: one is missing, cannot be read, or the key is open to everybody.
        """
        if self.cert_file is None and self.key_file is None:
            return None
        for name, file in (
            ("vault_client_cert_file", self.cert_file),
            ("vault_client_key_file", self.key_file),
        ):
            if file is None or not os.access(file.expanduser(), os.R_OK):
                problem = "is not set" if file is None else f"{file} cannot be read"
                raise KeyStoreSetupError(
                    problem, field=name, fix="name the PEM files of certificate and private key"
                )
        key_file = cast(Path, self.key_file).expanduser()
        if key_file.stat().st_mode & stat.S_IRWXO:
            raise KeyStoreSetupError(
                f"{key_file} is open to every user",
                field="vault_client_key_file",
                fix=f"chmod 600 {key_file}",
            )
        return str(cast(Path, self.cert_file).expanduser()), str(key_file)


class VaultReplyError(Exception):
    """A reply other than 200 or 204, reduced to what may be kept: never a body, only Vault's own error words.

    Args:
        status: HTTP status.
        errors: Vault's ``errors`` list (its own texts: paths and policy words, no secrets).
        retry_after_s: ``Retry-After`` in seconds, if sent as a number.
        deleted: the body was the metadata of a deleted or destroyed KV version.
        location: host of a refused redirect.

    Attributes:
        path: what was asked, where that is not the key's place in KV.
    """

    def __init__(
        self,
        status: int,
        errors: tuple[str, ...] = (),
        *,
        retry_after_s: float | None = None,
        deleted: bool = False,
        location: str = "",
    ) -> None:
        self.status = status
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.deleted = deleted
        self.location = location
        self.path = ""
        super().__init__(f"HTTP {status}")

    @property
    def text(self) -> str:
        """Vault's words on one line, shortened."""
        return " ".join("; ".join(self.errors).split())[:200]


class _Session(requests.Session):
    """What ``requests`` works out anew for each read of the same URL (its parts, cookies, a proxy) is worked out once.

    That is a third of what reading a key from a Vault on the same machine costs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._blanks: dict[str, requests.PreparedRequest] = {}

    def request(self, method: str, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As the original."""
        plain = kwargs.keys() <= _PLAIN and not kwargs.get("proxies") and not kwargs.get("params")
        if method not in ("get", "GET") or args or not plain or not isinstance(url, str):
            return super().request(method, url, *args, **kwargs)
        if url not in self._blanks:
            if len(self._blanks) >= _BLANKS:
                self._blanks.clear()
            self._blanks[url] = self.prepare_request(requests.Request("GET", url))
        request = self._blanks[url].copy()
        assert request.url is not None
        request.headers.update(kwargs.get("headers") or {})
        return self.get_adapter(request.url).send(
            request,
            stream=bool(kwargs.get("stream")),
            timeout=kwargs.get("timeout"),
            verify=kwargs.get("verify", True),
            cert=kwargs.get("cert"),
        )


class StrictAdapter(RawAdapter):
    """Returns parsed JSON of a 200, ``{}`` of a 204, and raises ``VaultReplyError`` for all else."""

    timeout_s: float = 5.0
    redirect_hosts: frozenset[str] = frozenset()
    rules: Rules = Rules("vault_addr")

    def get_login_token(self, response: Any) -> str:
        """The token of a login reply (hvac calls it with what ``request`` returned).

        Raises:
            VaultReplyError: there is none; what answers is no Vault, or a proxy in front of one.
        """
        auth: Any = cast(Reply, response).get("auth") if isinstance(response, dict) else None
        token: Any = cast(Reply, auth).get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str) or not token:
            raise VaultReplyError(502, ("the login reply holds no token",))
        return token

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,
        **kwargs: Any,
    ) -> Any:
        """One request; see the class. ``raise_exception`` is hvac's and changes nothing here."""
        del raise_exception
        due = time.monotonic() + self.timeout_s
        home = self.base_uri
        try:
            for _ in range(_MAX_REDIRECTS):
                response, content = self._exchange(method, url, headers, due, kwargs)
                target = self._allowed_target(response)
                if target is None:
                    break
                self.base_uri, url = target
            else:
                response, content = self._exchange(method, url, headers, due, kwargs)
        finally:
            self.base_uri = home
        if response.status_code == 204:
            return {}
        body = _json(content)
        if response.status_code == 200 and isinstance(body, dict):
            return cast(dict[str, Any], body)
        raise _reply_error(response, body)

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str] | None, due: float, kwargs: dict[str, Any]
    ) -> tuple[requests.Response, bytes]:
        """One request and the whole body of its reply, until ``due``.

        requests bounds each read on its own: a server that sends a byte now and then would hold us for hours.
        """
        left = due - time.monotonic()
        if left <= 0:
            raise requests.Timeout("the time for this request is used up")
        # hvac adds its headers to the mapping that it is given
        response = super().request(
            method,
            url,
            headers=dict(headers or {}),
            raise_exception=False,
            **({"timeout": left} | kwargs),
            stream=True,
        )
        try:
            content = _read_until(response, due)
        except urllib3.exceptions.ReadTimeoutError:
            raise requests.Timeout("the reply does not end") from None
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(type(error).__name__) from None
        finally:
            # gives the connection back, or closes it if something in it was left unread
            response.close()
        return response, content

    def _allowed_target(self, response: requests.Response) -> tuple[str, str] | None:
        """Base and path of a redirect that may be followed with the token: to a named host, and not out of TLS."""
        if response.status_code not in (307, 308):
            return None
        target = urlsplit(response.headers.get("Location", ""))
        if target.netloc.lower() not in self.redirect_hosts or target.scheme not in ("http", "https"):
            return None
        if target.scheme == "http" and not str(self.base_uri).startswith("http://"):
            return None
        try:
            self.rules.check_url(f"{target.scheme}://{target.netloc}")
        except InputError:
            return None
        return f"{target.scheme}://{target.netloc}", target.path + (
            f"?{target.query}" if target.query else ""
        )


def _read_until(response: requests.Response, due: float) -> bytes:
    """The body; empty if it is longer than anything that Vault has to say."""
    content = bytearray()
    while len(content) <= _MAX_BODY:
        if time.monotonic() > due:
            raise requests.Timeout("the reply does not end")
        piece = response.raw.read1(1 << 16, decode_content=True)
        if not piece:
            response.raw.release_conn()
            return bytes(content)
        content += piece
    return b""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None  # the exception holds the document: it is not passed on


def _reply_error(response: requests.Response, body: Any) -> VaultReplyError:
    if response.is_redirect or 300 <= response.status_code < 400:
        target = urlsplit(response.headers.get("Location", ""))
        return VaultReplyError(response.status_code, location=str(target.netloc.rpartition("@")[2]))
    fields = cast(dict[str, Any], body) if isinstance(body, dict) else {}
    errors = fields.get("errors")
    return VaultReplyError(
        response.status_code,
        tuple(str(error) for error in cast(list[Any], errors)) if isinstance(errors, list) else (),
        retry_after_s=_seconds(response.headers.get("Retry-After")),
        deleted=_is_deleted_version(fields.get("data")),
    )


def _seconds(value: str | None) -> float | None:
    """``Retry-After`` as delta-seconds; Vault never sends the date form."""
    return float(value) if value is not None and value.isascii() and value.isdigit() else None


def _is_deleted_version(data: Any) -> bool:
    """True for the 404 body of a version that exists and is deleted or destroyed (KV v2 API, "Read secret version")."""
    if not isinstance(data, dict):
        return False
    metadata = cast(dict[str, Any], data).get("metadata")
    if not isinstance(metadata, dict):
        return False
    fields = cast(dict[str, Any], metadata)
    return bool(fields.get("deletion_time")) or fields.get("destroyed") is True


class VaultHttp:
    """The requests that a key store makes, by hvac. Each returns the parsed reply (``{}`` for a 204).

    Args:
        addr: ``http(s)://host:port``.
        namespace: sent with every request; empty for none.
        timeout_s: bound on one request, from connecting to the last byte of the reply.
        rules: what may be connected to.
        tls: CA and client certificate.
        redirect_hosts: ``host:port`` of the places that a 307 or 308 may lead to, token included.
        kv_version: of the mount that keys are in.

    Every method raises ``VaultReplyError`` or ``requests.RequestException``.

    Raises:
        KeyStoreSetupError: a file of ``tls`` cannot be used.
    """

    def __init__(
        self,
        addr: str,
        namespace: str,
        timeout_s: float,
        *,
        rules: Rules,
        tls: Tls | None = None,
        redirect_hosts: frozenset[str] = frozenset(),
        kv_version: KvVersion = 2,
    ) -> None:
        tls = tls or Tls()
        verify, cert = tls.verify(), tls.client_cert()
        session = _Session()
        # hvac takes these from the session that it is given
        session.verify, session.cert = verify, cert
        self._client = hvac.Client(
            url=addr,
            token="",  # an empty one keeps hvac from reading VAULT_TOKEN or ~/.vault-token
            allow_redirects=False,
            adapter=StrictAdapter,
            namespace=namespace or None,
            verify=verify,
            # hvac would take VAULT_CLIENT_CERT for None
            cert=cast(Any, cert or ()),
            session=session,
        )
        self._kv_version = kv_version
        self._adapter = cast(StrictAdapter, self._client.adapter)
        self._adapter.timeout_s = timeout_s
        self._adapter.redirect_hosts = redirect_hosts
        self._adapter.rules = rules
        # No proxy from the environment (it would see a token sent over http), no password from ~/.netrc. What is read
        # counts on it.
        self._adapter.session.trust_env = False
        guard(self._adapter.session, rules)

    def close(self) -> None:
        """Close the connections."""
        self._adapter.close()

    def limit(self, timeout_s: float) -> None:
        """Bound the requests that follow."""
        self._adapter.timeout_s = timeout_s

    def use_token(self, token: str) -> None:
        """Send ``token`` from now on; empty for none."""
        self._client.token = token

    def health(self) -> Reply:
        """``sys/health``; a standby node counts as healthy."""
        return self._adapter.request("get", "/v1/sys/health?standbyok=true&perfstandbyok=true")

    def login_approle(self, role_id: str, secret_id: str, mount: str) -> Reply:
        """Log in; the granted token is used from then on."""
        return cast(Reply, self._client.auth.approle.login(role_id, secret_id, mount_point=mount))

    def login_with(self, mount: str, proof: dict[str, str]) -> Reply:
        """Log in at any other auth method; the granted token is used from then on."""
        return cast(Reply, self._adapter.login(url=f"/v1/auth/{mount}/login", json=proof))

    def wrapping_lookup(self, wrapping_token: str) -> Reply:
        """What is known of a wrapping token; it stays usable."""
        return self._adapter.request("post", "/v1/sys/wrapping/lookup", json={"token": wrapping_token})

    def unwrap(self, wrapping_token: str) -> Reply:
        """What a wrapping token wraps; it is used up."""
        self.use_token(wrapping_token)
        try:
            return self._adapter.request("post", "/v1/sys/wrapping/unwrap")
        finally:
            self.use_token("")

    def lookup_self(self) -> Reply:
        """What is known of our token."""
        return cast(Reply, self._client.auth.token.lookup_self())

    def renew_self(self) -> Reply:
        """Lengthen our token's lease."""
        return cast(Reply, self._client.auth.token.renew_self())

    def capabilities(self, path: str) -> Reply:
        """What our token may do at ``path``."""
        return cast(Reply, self._client.sys.get_capabilities([path]))

    def transit(self, path: str, body: dict[str, str]) -> Reply:
        """Encrypt, decrypt or rewrap, as ``path`` says; ``body`` as in the Transit API."""
        return self._adapter.request("post", f"/v1/{path}", json=body)

    def mount(self, mount: str) -> Reply:
        """Type and options of a mount in which the token may do anything at all."""
        return self._adapter.request("get", f"/v1/sys/internal/ui/mounts/{mount}")

    def read(self, mount: str, path: str) -> Reply:
        """The latest version of a secret, in the form of KV v2; a deleted one is an error."""
        if self._kv_version == 1:
            found = cast(Reply, self._client.secrets.kv.v1.read_secret(path, mount_point=mount))
            return {"data": {"data": found.get("data")}}
        return cast(
            Reply,
            self._client.secrets.kv.v2.read_secret_version(
                path, mount_point=mount, raise_on_deleted_version=True
            ),
        )

    def write_new(self, mount: str, path: str, secret: dict[str, str]) -> Reply:
        """Write version 1, with check-and-set 0 (of which KV v1 knows nothing: there the policy must not allow update)."""
        if self._kv_version == 1:
            return cast(
                Reply,
                self._client.secrets.kv.v1.create_or_update_secret(
                    path, secret, method="POST", mount_point=mount
                ),
            )
        return cast(
            Reply,
            self._client.secrets.kv.v2.create_or_update_secret(path, secret, cas=0, mount_point=mount),
        )

    def read_metadata(self, mount: str, path: str) -> Reply:
        """Versions and custom metadata. KV v1 has none: there it is known only that the secret is there."""
        if self._kv_version == 1:
            folder, _, name = path.rpartition("/")
            data: Any = self.list(mount, folder).get("data")
            if name not in cast(list[Any], cast(Reply, data).get("keys") or []):
                raise VaultReplyError(404)
            return {"data": {"current_version": 1, "versions": {"1": {"created_time": ""}}}}
        return cast(Reply, self._client.secrets.kv.v2.read_secret_metadata(path, mount_point=mount))

    def replace(self, mount: str, path: str, secret: dict[str, str], version: int) -> Reply:
        """Write the next version of a secret whose newest one is ``version`` (KV v1 has no versions)."""
        if self._kv_version == 1:
            return self.write_new(mount, path, secret)
        return cast(
            Reply,
            self._client.secrets.kv.v2.create_or_update_secret(path, secret, cas=version, mount_point=mount),
        )

    def write_metadata(self, mount: str, path: str, custom: dict[str, str]) -> Reply:
        """Set the custom metadata (KV v2)."""
        return cast(
            Reply,
            self._client.secrets.kv.v2.update_metadata(path, custom_metadata=custom, mount_point=mount),
        )

    def destroy(self, mount: str, path: str, versions: Sequence[int]) -> Reply:
        """Destroy versions for good; KV v1 has one, which is deleted."""
        if self._kv_version == 1:
            return cast(Reply, self._client.secrets.kv.v1.delete_secret(path, mount_point=mount))
        return cast(
            Reply,
            self._client.secrets.kv.v2.destroy_secret_versions(path, list(versions), mount_point=mount),
        )

    def list(self, mount: str, path: str) -> Reply:
        """Names below ``path``."""
        kv: Any = self._client.secrets.kv.v1 if self._kv_version == 1 else self._client.secrets.kv.v2
        return cast(Reply, kv.list_secrets(path, mount_point=mount))
