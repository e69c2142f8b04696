"""The one HTTP path to Vault: hvac with no redirects, no ambient credentials, and errors told apart.

hvac follows redirects and sends ``X-Vault-Token`` along to wherever they point, reads a token from the
environment or the home folder when it is given none, drops ``Retry-After``, and keeps whole response bodies on
its exceptions. None of that happens here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import hvac
import requests
from hvac.adapters import RawAdapter

Reply = dict[str, Any]

#: A key, its metadata and an error list are far smaller; a page from some other server need not be read.
_MAX_BODY = 1 << 20


class VaultReplyError(Exception):
    """A reply other than 200 or 204, reduced to what may be kept: never a body, only Vault's own error words.

    Args:
        status: HTTP status.
        errors: Vault's ``errors`` list (its own texts: paths and policy words, no secrets).
        retry_after_s: ``Retry-After`` in seconds, if sent as a number.
        deleted: the body was the metadata of a deleted or destroyed KV version.
        location: host of a refused redirect.
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
        super().__init__(f"HTTP {status}")

    @property
    def text(self) -> str:
        """Vault's words on one line, shortened."""
        return " ".join("; ".join(self.errors).split())[:200]


class StrictAdapter(RawAdapter):
    """Returns parsed JSON of a 200, ``{}`` of a 204, and raises ``VaultReplyError`` for all else."""

    timeout_s: float = 5.0

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
        kwargs.setdefault("timeout", self.timeout_s)
        # hvac adds its headers to the mapping that it is given
        response = super().request(method, url, headers=dict(headers or {}), raise_exception=False, **kwargs)
        if response.status_code == 204:
            return {}
        body = _json(response)
        if response.status_code == 200 and isinstance(body, dict):
            return cast(dict[str, Any], body)
        raise _reply_error(response, body)


def _json(response: requests.Response) -> Any:
    if len(response.content) > _MAX_BODY:
        return None
    try:
        return json.loads(response.content)
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

    CA certificates come from ``VAULT_CACERT`` or ``VAULT_CAPATH``, as for Vault's own command.

    Args:
        addr: ``http(s)://host:port``.
        namespace: sent with every request; empty for none.
        timeout_s: bound on connecting and on each read.

    Every method raises ``VaultReplyError`` or ``requests.RequestException``.
    """

    def __init__(self, addr: str, namespace: str, timeout_s: float) -> None:
        self._client = hvac.Client(
            url=addr,
            token="",  # an empty one keeps hvac from reading VAULT_TOKEN or ~/.vault-token
            allow_redirects=False,
            adapter=StrictAdapter,
            namespace=namespace or None,
        )
        self._adapter = cast(StrictAdapter, self._client.adapter)
        self._adapter.timeout_s = timeout_s
        # No proxy from the environment (it would see a token sent over http), no password from ~/.netrc.
        self._adapter.session.trust_env = False

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

    def lookup_self(self) -> Reply:
        """What is known of our token."""
        return cast(Reply, self._client.auth.token.lookup_self())

    def renew_self(self) -> Reply:
        """Lengthen our token's lease."""
        return cast(Reply, self._client.auth.token.renew_self())

    def capabilities(self, path: str) -> Reply:
        """What our token may do at ``path``."""
        return cast(Reply, self._client.sys.get_capabilities([path]))

    def mount(self, mount: str) -> Reply:
        """Type and options of a mount in which the token may do anything at all."""
        return self._adapter.request("get", f"/v1/sys/internal/ui/mounts/{mount}")

    def read(self, mount: str, path: str) -> Reply:
        """The latest version of a secret; a deleted one is an error."""
        return cast(
            Reply,
            self._client.secrets.kv.v2.read_secret_version(
                path, mount_point=mount, raise_on_deleted_version=True
            ),
        )

    def write_new(self, mount: str, path: str, secret: dict[str, str]) -> Reply:
        """Write version 1, with check-and-set 0."""
        return cast(
            Reply,
            self._client.secrets.kv.v2.create_or_update_secret(path, secret, cas=0, mount_point=mount),
        )

    def read_metadata(self, mount: str, path: str) -> Reply:
        """Versions and custom metadata."""
        return cast(Reply, self._client.secrets.kv.v2.read_secret_metadata(path, mount_point=mount))

    def write_metadata(self, mount: str, path: str, custom: dict[str, str]) -> Reply:
        """Set the custom metadata."""
        return cast(
            Reply,
            self._client.secrets.kv.v2.update_metadata(path, custom_metadata=custom, mount_point=mount),
        )

    def list(self, mount: str, path: str) -> Reply:
        """Names below ``path``."""
        return cast(Reply, self._client.secrets.kv.v2.list_secrets(path, mount_point=mount))
