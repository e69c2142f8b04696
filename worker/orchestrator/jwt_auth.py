"""JWT authentication: tokens that we sign for ourselves with the integrator's key (orchestrator.md 1).

Instead of an API key, each request carries a short-lived *access* token. A submit whose quote asked for sponsorship
carries an *intent extension* token besides: it names the digest of the quote request that may be sponsored, and nothing
else. Claims, headers and lifetimes are those of SDK 1.15.0's ``jwt-server``.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, cast

import jwt
import rfc8785

from worker.errors import InputError

AUDIENCE = "rhinestone-api"
#: Lifetimes of the SDK's tokens.
ACCESS_S, EXTENSION_S = 3600, 300

_FIELD = "SESSION_EXECUTOR_ORCHESTRATOR_JWT_"
#: ``crv`` of an EC key -> algorithm.
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
#: What may stand in a claim: printable ASCII without blanks, as the ids of projects are.
_ID = re.compile(r"[!-~]{1,200}")


def intent_digest(request: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the canonical form (RFC 8785) of a quote request, as an extension token names it.

    Args:
        request: the body of the quote request; its integers within ±(2^53 - 1), larger ones as strings.

    Raises:
        ValueError: a value has no canonical form.
    """
    return hashlib.sha256(rfc8785.dumps(dict(request))).hexdigest()


def sponsored_digest(request: Mapping[str, Any]) -> str:
    """``intent_digest`` of a request that asks for sponsorship, ``""`` of any other one.

    Sponsorship is asked for when ``options.sponsorSettings`` is there, even if it says false throughout.
    """
    options = request.get("options")
    asked = isinstance(options, dict) and "sponsorSettings" in options
    return intent_digest(request) if asked else ""


class JwtSigner:
    """Makes the tokens. It holds the integrator's private key for as long as it lives and shows it to nobody.

    Args:
        key: the private key as a JWK (JSON text): EC on P-256, P-384 or P-521, or RSA of 2048 bits or more.
        key_id: the ``kid`` under which the orchestrator knows it; by default the JWK's own.
        integrator_id: ``iss``.
        project_id: ``sub``.
        app_id: ``app_id``.
        clock: unix seconds.

    Raises:
        InputError: names the setting; shows nothing of the key.
    """

    def __init__(
        self,
        key: str,
        *,
        key_id: str,
        integrator_id: str,
        project_id: str,
        app_id: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value in (
            ("INTEGRATOR_ID", integrator_id),
            ("PROJECT_ID", project_id),
            ("APP_ID", app_id),
        ):
            if not _ID.fullmatch(value):
                raise InputError(
                    "is not set"
                    if not value
                    else "holds a blank or a character beyond ASCII, or is too long",
                    field=_FIELD + name,
                    fix="copy it from the dashboard's key page",
                )
        loaded = _load(key)
        del key  # what is raised from here on must not show it among this frame's variables
        if isinstance(loaded, str):
            raise InputError(
                loaded, field=_FIELD + "KEY", fix="give the private key as a JWK, one line of JSON"
            )
        self._key, self._algorithm, own_id = loaded
        self._key_id = key_id or own_id
        if not _ID.fullmatch(self._key_id):
            raise InputError(
                "is not set, and the key has no kid of its own",
                field=_FIELD + "KEY_ID",
                fix="give the id under which the dashboard lists the public key",
            )
        self._claims = {"iss": integrator_id, "sub": project_id, "aud": AUDIENCE, "app_id": app_id}
        self._clock = clock

    def __repr__(self) -> str:
        return "<JwtSigner>"

    def access_token(self) -> str:
        """A token that lets a request in; valid for an hour."""
        return self._sign({"typ": "access"}, ACCESS_S)

    def extension_token(self, digest: str) -> str:
        """A token that lets one intent be sponsored; valid for five minutes.

        Args:
            digest: ``intent_digest`` of its quote request.
        """
        policy = {"sponsorship": {"scope": "intent", "intent_input": {"digest": digest}}}
        return self._sign(
            {"typ": "intent_extension", "jti": str(uuid.uuid4()), "policy": policy}, EXTENSION_S
        )

    def headers(self, digest: str = "") -> dict[str, str]:
        """Fresh tokens as the headers of one request.

        Args:
            digest: of the quote request that is to be sponsored; ``""``: no extension token.
        """
        headers = {"Authorization": f"Bearer {self.access_token()}"}
        if digest:
            headers["X-Intent-Extension"] = f"Bearer {self.extension_token(digest)}"
        return headers

    def _sign(self, claims: dict[str, Any], lifetime_s: int) -> str:
        now_s = int(self._clock())
        return jwt.encode(
            {**claims, **self._claims, "iat": now_s, "exp": now_s + lifetime_s},
            self._key,
            self._algorithm,
            # the SDK's header has no ``typ``, which None takes out
            {"kid": self._key_id, "typ": None},
        )


def _load(text: str) -> tuple[Any, str, str] | str:
    """The key, its algorithm and its ``kid``, or what is wrong: a raised error would keep the text in its frames."""
    if not text.strip():
        return "is not set"
    try:
        parsed = json.loads(text)
    except ValueError:
        return "is no JSON"
    if not isinstance(parsed, dict):
        return "is no JSON object"
    jwk = cast("dict[str, Any]", parsed)
    if jwk.get("kty") == "EC":
        algorithm = _CURVES.get(str(jwk.get("crv")), "")
    else:
        algorithm = "RS256" if jwk.get("kty") == "RSA" else ""
    if not algorithm:
        return "is neither an EC key on P-256, P-384 or P-521 nor an RSA key"
    if not jwk.get("d"):
        return "is a public key"
    kid = jwk.get("kid")
    try:
        key = jwt.PyJWK.from_dict(jwk, algorithm).key
        jwt.encode({}, key, algorithm)  # a key that cannot sign is found now, not at the first intent
    except Exception:  # noqa: BLE001 - whatever the libraries raise for it, it quotes or holds the key
        return "cannot be used: its numbers do not make a private key"
    if algorithm == "RS256" and key.key_size < 2048:
        return "is an RSA key of less than 2048 bits"
    return key, algorithm, kid if isinstance(kid, str) else ""
