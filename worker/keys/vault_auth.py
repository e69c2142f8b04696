"""How a store proves to Vault who it is: a token, an AppRole, a Kubernetes service account or a TLS client certificate.

An AppRole's secret id may come wrapped: as a token that can be unwrapped once. When it was unwrapped already, or was not
made by the AppRole itself, somebody else may hold the secret id, and that is said (``KeyStoreWrappingError``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from worker.keys.errors import (
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreSetupError,
    KeyStoreWrappingError,
)
from worker.keys.vault_http import Reply, VaultHttp, VaultReplyError

#: A projected service account token is 1 to 2 KiB.
_MAX_JWT = 16_384
_MOUNT = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*")


@dataclass(frozen=True, slots=True)
class TokenAuth:
    """A token handed out by an operator."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AppRoleAuth:
    """An AppRole.

    Attributes:
        role_id: its role id.
        secret_id: its secret id, or the wrapping token of one.
        mount: where the auth method is enabled.
        wrapped: ``secret_id`` is a wrapping token (``vault write -wrap-ttl=… auth/approle/role/…/secret-id``).
    """

    role_id: str
    secret_id: str = field(repr=False)
    mount: str = "approle"
    wrapped: bool = False


@dataclass(frozen=True, slots=True)
class KubernetesAuth:
    """The pod's service account: its token is read from ``jwt_file`` at each login, since the kubelet renews the file."""

    role: str
    jwt_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
    mount: str = "kubernetes"


@dataclass(frozen=True, slots=True)
class CertAuth:
    """The client certificate of the TLS connection; ``role`` is the name of the certificate role, empty for any."""

    role: str = ""
    mount: str = "cert"


Auth = TokenAuth | AppRoleAuth | KubernetesAuth | CertAuth

_KIND: dict[type[Auth], tuple[str, str, str]] = {
    AppRoleAuth: (
        "AppRole",
        "vault_role_id",
        "check role id, secret id (they expire) and namespace",
    ),
    KubernetesAuth: (
        "Kubernetes",
        "vault_auth_role",
        "check the role, its bound service account and namespace, and that Vault reaches the cluster's API",
    ),
    CertAuth: (
        "certificate",
        "vault_client_cert_file",
        "check that the certificate role trusts the client certificate's CA and allows its names",
    ),
}


def checked_auth(auth: Auth) -> Auth:
    """``auth``, if it can work at all.

    Raises:
        KeyStoreSetupError: names the setting that is empty or cannot be sent.
    """
    if isinstance(auth, TokenAuth):
        if not auth.token.strip() or not auth.token.isprintable() or not auth.token.isascii():
            raise KeyStoreSetupError(
                "is empty or not printable", field="vault_token", fix="set a Vault token"
            )
        return TokenAuth(auth.token.strip())
    if not _MOUNT.fullmatch(auth.mount.strip("/")) or ".." in auth.mount:
        raise KeyStoreSetupError(
            "is not a path",
            field="vault_auth_mount",
            fix="use letters, digits, - _ . separated by /, without auth/ before it",
        )
    if isinstance(auth, AppRoleAuth) and not (auth.role_id and auth.secret_id):
        missing = "vault_secret_id" if auth.role_id else "vault_role_id"
        raise KeyStoreSetupError(
            "is not set", field=missing, fix="set vault_role_id and vault_secret_id, or vault_token"
        )
    if isinstance(auth, KubernetesAuth) and not auth.role:
        raise KeyStoreSetupError(
            "is not set", field="vault_auth_role", fix="name the Kubernetes auth role of the workers"
        )
    return auth


class Login:
    """Logs in with an ``Auth``, and keeps what must outlive one login: the secret id that was unwrapped.

    Unwrapping works once, so a program that forks unwraps before (``VaultKeyStore.unwrap``); its children inherit the
    secret id.
    """

    def __init__(self, auth: Auth) -> None:
        self.auth = checked_auth(auth)
        wrapped = isinstance(auth, AppRoleAuth) and auth.wrapped
        self._secret_id = SecretStr(auth.secret_id) if isinstance(auth, AppRoleAuth) and not wrapped else None
        self._maybe_unwrapped = False

    @property
    def is_possible(self) -> bool:
        """Whether a lost token can be replaced by a new login."""
        return not isinstance(self.auth, TokenAuth)

    @property
    def must_unwrap(self) -> bool:
        """Whether the secret id is still in its wrapping token."""
        return isinstance(self.auth, AppRoleAuth) and self._secret_id is None

    def look_up_wrapping(self, client: VaultHttp) -> KeyStoreError | None:
        """Prove, without using it up, that the wrapping token exists and was made by the AppRole itself.

        Returns:
            What is wrong with it, or None. Returned: a raised error would keep the frames that hold the token.

        Raises:
            VaultReplyError, requests.RequestException: about the request.
        """
        auth = cast(AppRoleAuth, self.auth)
        try:
            about = _data(client.wrapping_lookup(auth.secret_id))
        except VaultReplyError as reply:
            if reply.status in (400, 403, 404):
                return self._used(maybe_ours=self._maybe_unwrapped)
            raise
        made_by = str(about.get("creation_path", ""))
        if not re.fullmatch(rf"auth/{re.escape(auth.mount.strip('/'))}/role/[^/]+/secret-id", made_by):
            # whoever unwraps a token and wraps its content again leaves sys/wrapping/… here
            return KeyStoreWrappingError(
                f"the wrapping token was made by {made_by[:100] or 'nobody knows what'}, not by the AppRole: "
                "somebody may have unwrapped the secret id and wrapped it again",
                field="vault_wrapped_secret_id",
                fix="destroy the role's secret ids, find out who unwrapped it (Vault's audit log), hand out a new one",
            )
        return None

    def unwrap(self, client: VaultHttp) -> KeyStoreError | None:
        """Use the wrapping token up. Never repeated: the second use could not be told from somebody else's.

        Returns:
            The error if it was used before, or None.

        Raises:
            VaultReplyError, requests.RequestException: about the request.
        """
        auth = cast(AppRoleAuth, self.auth)
        maybe_ours = self._maybe_unwrapped
        self._maybe_unwrapped = True
        try:
            secret_id = _data(client.unwrap(auth.secret_id)).get("secret_id")
        except VaultReplyError as reply:
            if reply.status in (400, 403, 404):
                return self._used(maybe_ours=maybe_ours)
            raise
        if not isinstance(secret_id, str) or not secret_id:
            return KeyStoreWrappingError(
                "the wrapping token held no secret id",
                field="vault_wrapped_secret_id",
                fix="wrap the reply of auth/approle/role/…/secret-id",
            )
        self._secret_id = SecretStr(secret_id)
        return None

    @staticmethod
    def _used(*, maybe_ours: bool) -> KeyStoreError:
        ours = "; an earlier request of ours, whose reply was lost, may have been it" if maybe_ours else ""
        return KeyStoreWrappingError(
            f"the wrapping token was used before, or ran out: possible theft of the secret id{ours}",
            field="vault_wrapped_secret_id",
            fix="destroy the role's secret ids, find out who unwrapped it (Vault's audit log), hand out a new one",
        )

    def run(self, client: VaultHttp) -> Reply:
        """Log in; the granted token is used from then on. A refusal is a ``VaultReplyError`` of status 403.

        Raises:
            VaultReplyError, requests.RequestException
            KeyStoreSetupError: the service account's token cannot be read.
        """
        auth = self.auth
        try:
            if isinstance(auth, AppRoleAuth):
                secret_id = cast(SecretStr, self._secret_id).get_secret_value()
                return client.login_approle(auth.role_id, secret_id, auth.mount.strip("/"))
            if isinstance(auth, KubernetesAuth):
                return client.login_with(
                    auth.mount.strip("/"), {"role": auth.role, "jwt": _jwt(auth.jwt_file)}
                )
            return client.login_with(
                cast(CertAuth, auth).mount.strip("/"),
                {"name": cast(CertAuth, auth).role} if cast(CertAuth, auth).role else {},
            )
        except VaultReplyError as reply:
            # A wrong role or secret id is a 400 here; to the caller it is a refusal like any 403.
            if reply.status in (400, 401, 404):
                raise VaultReplyError(403, reply.errors) from None
            raise

    def refused(self, reply: VaultReplyError) -> KeyStoreDeniedError:
        """The error of a login that Vault refuses."""
        kind, name, fix = _KIND[type(self.auth)]
        return KeyStoreDeniedError(
            f"Vault refuses the {kind} login: HTTP {reply.status} {reply.text}".rstrip(), field=name, fix=fix
        )


def _jwt(path: Path) -> str:
    """The service account's token; it is in no exception."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_JWT + 1)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    else:
        token = raw.decode("ascii", errors="replace").strip()
        if len(raw) <= _MAX_JWT and re.fullmatch(r"[A-Za-z0-9_.=-]+", token):
            return token
        problem = "it is empty, or no token"
    raise KeyStoreSetupError(
        f"{path} cannot be used: {problem}",
        field="vault_jwt_file",
        fix="mount the service account's token into the pod, or name its file",
    )


def _data(reply: Reply) -> dict[str, Any]:
    data: Any = reply.get("data")
    return cast(dict[str, Any], data) if isinstance(data, dict) else {}
