"""Tokens instead of an API key: the digest that may be sponsored, claims, algorithms, and a key that shows nowhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
import rfc8785
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from config.logging import configure_logging, secrets_of
from config.settings import Settings
from tests.support.leaks import assert_no_leak
from tests.support.vectors import load_vectors
from worker.errors import InputError
from worker.execution.runtime import jwt_signer
from worker.orchestrator.jwt_auth import AUDIENCE, JwtSigner, intent_digest, sponsored_digest

NOW_S = 1_700_000_000
IDS: dict[str, Any] = {
    "key_id": "key-1",
    "integrator_id": "integrator",
    "project_id": "project",
    "app_id": "app",
}


def ec_jwk(curve: ec.EllipticCurve) -> str:
    return ECAlgorithm.to_jwk(ec.generate_private_key(curve))


def rsa_jwk(bits: int) -> str:
    return RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, bits))


KEYS: dict[str, Callable[[], str]] = {
    "ES256": lambda: ec_jwk(ec.SECP256R1()),
    "ES384": lambda: ec_jwk(ec.SECP384R1()),
    "ES512": lambda: ec_jwk(ec.SECP521R1()),
    "RS256": lambda: rsa_jwk(2048),
}


def opened(token: str, key: str) -> dict[str, Any]:
    """The claims, checked by the public half of the key."""
    algorithm = jwt.get_unverified_header(token)["alg"]
    private = {"d", "p", "q", "dp", "dq", "qi"}
    public = {name: value for name, value in json.loads(key).items() if name not in private}
    options: Any = {"verify_exp": False, "verify_iat": False}
    return jwt.decode(
        token, jwt.PyJWK.from_dict(public, algorithm).key, [algorithm], audience=AUDIENCE, options=options
    )


class TestTheDigest:
    """SHA-256 of the canonical quote request."""

    def test_it_is_the_recorded_one(self) -> None:
        vectors = load_vectors("intent_input_digest")["vectors"]
        assert len(vectors) == 4
        for vector in vectors:
            if "input" in vector:
                given = vector["input"]
                assert rfc8785.dumps(given).decode() == vector["expected"]["canonical"]
            else:
                file, path = vector["inputFrom"].split(" ")
                assert path == "expected.http[0].request.body"
                given = load_vectors(file.removesuffix(".json"))["expected"]["http"][0]["request"]["body"]
            assert intent_digest(given) == vector["expected"]["digest"], vector["name"]

    @given(st.dictionaries(st.text(max_size=8), st.one_of(st.text(), st.integers(-(2**53) + 1, 2**53 - 1))))
    def test_the_order_of_members_does_not_matter_and_their_values_do(self, request_: dict[str, Any]) -> None:
        turned = dict(reversed(list(request_.items())))
        assert intent_digest(turned) == intent_digest(request_)
        assert intent_digest({**request_, "one more": 1}) != intent_digest(request_)

    @pytest.mark.parametrize("value", [2**53, float("nan"), b"bytes", "\ud800"])
    def test_what_has_no_canonical_form_is_an_error(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"."):
            intent_digest({"value": value})

    def test_only_a_request_for_sponsorship_has_one_to_send(self) -> None:
        off = {"gasSponsored": False}
        assert sponsored_digest({"options": {"topupCompact": False}}) == ""
        assert sponsored_digest({}) == ""
        asked = {"options": {"sponsorSettings": off}}
        assert sponsored_digest(asked) == intent_digest(asked)


class TestTokens:
    """Header, claims and lifetime are the SDK's."""

    @pytest.mark.parametrize("algorithm", KEYS)
    def test_both_kinds(self, algorithm: str) -> None:
        key = KEYS[algorithm]()
        signer = JwtSigner(key, **IDS, clock=lambda: NOW_S + 0.9)
        access, extension = signer.access_token(), signer.extension_token("ab" * 32)
        for token in (access, extension):
            assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "key-1"}
        common = {"iss": "integrator", "sub": "project", "aud": AUDIENCE, "app_id": "app", "iat": NOW_S}
        assert opened(access, key) == {**common, "typ": "access", "exp": NOW_S + 3600}
        claims = opened(extension, key)
        assert len(claims.pop("jti")) == 36
        assert claims == {
            **common,
            "typ": "intent_extension",
            "exp": NOW_S + 300,
            "policy": {"sponsorship": {"scope": "intent", "intent_input": {"digest": "ab" * 32}}},
        }

    def test_no_two_extension_tokens_have_one_id(self) -> None:
        key = KEYS["ES256"]()
        signer = JwtSigner(key, **IDS)
        assert len({opened(signer.extension_token("00"), key)["jti"] for _ in range(20)}) == 20

    def test_another_key_does_not_open_them(self) -> None:
        token = JwtSigner(KEYS["ES256"](), **IDS).access_token()
        with pytest.raises(jwt.InvalidSignatureError):
            opened(token, KEYS["ES256"]())

    def test_the_keys_own_id_serves_unless_another_is_given(self) -> None:
        key = json.dumps({**json.loads(KEYS["ES256"]()), "kid": "own"})
        for chosen, expected in (("", "own"), ("chosen", "chosen")):
            ids: dict[str, Any] = IDS | {"key_id": chosen}
            token = JwtSigner(key, **ids).access_token()
            assert jwt.get_unverified_header(token)["kid"] == expected


def _without(key: str, name: str) -> str:
    return json.dumps({member: value for member, value in json.loads(key).items() if member != name})


def _with(key: str, **members: Any) -> str:
    return json.dumps({**json.loads(key), **members})


def _bad_keys() -> dict[str, tuple[Callable[[str], str], str]]:
    other = json.loads(KEYS["ES256"]())["x"]
    return {
        "empty": (lambda _: " ", "not set"),
        "cut": (lambda key: key[:-1], "no JSON"),
        "list": (lambda key: f"[{key}]", "no JSON object"),
        "public": (lambda key: _without(key, "d"), "public key"),
        "oct": (lambda key: _with(key, kty="oct"), "neither"),
        "curve": (lambda key: _with(key, crv="secp256k1"), "neither"),
        "d": (lambda key: _with(key, d="!"), "cannot be used"),
        "point": (lambda key: _with(key, x=other), "cannot be used"),
        "type": (lambda key: _with(key, y=7), "cannot be used"),
        "short": (lambda _: rsa_jwk(1024), "less than 2048"),
    }


class TestRefusals:
    """A setting that cannot be used is named; what it holds is not shown."""

    @pytest.mark.parametrize("name", _bad_keys())
    @pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
    def test_a_key_that_cannot_sign(self, name: str) -> None:
        change, words = _bad_keys()[name]
        key = KEYS["ES256"]()
        secret = json.loads(key)["d"]
        changed = change(key)
        with pytest.raises(InputError, match=words) as error:
            JwtSigner(changed, **IDS)
        assert error.value.field == "SESSION_EXECUTOR_ORCHESTRATOR_JWT_KEY"
        assert error.value.fix
        assert_no_leak(error.value, secret)

    @pytest.mark.parametrize("name", IDS)
    @pytest.mark.parametrize("value", ["", "two words", "n\u00e4me", "x" * 201])
    def test_an_id_that_cannot_stand_in_a_claim(self, name: str, value: str) -> None:
        ids: dict[str, Any] = IDS | {name: value}
        with pytest.raises(InputError) as error:
            JwtSigner(KEYS["ES256"](), **ids)
        assert error.value.field == f"SESSION_EXECUTOR_ORCHESTRATOR_JWT_{name.upper()}"

    def test_the_settings_are_where_it_comes_from(self) -> None:
        key = KEYS["ES256"]()
        ids = {f"orchestrator_jwt_{name}": value for name, value in IDS.items()}
        given: Any = {"orchestrator_jwt_key": key, **ids}
        assert jwt_signer(Settings(_env_file=None, **given)) is None  # pyright: ignore[reportCallIssue]
        signer = jwt_signer(Settings(_env_file=None, orchestrator_auth="jwt", **given))  # pyright: ignore[reportCallIssue]
        assert signer is not None
        assert opened(signer.access_token(), key)["iss"] == "integrator"
        assert json.loads(key)["d"] not in repr(signer) + repr(vars(signer))


def test_neither_the_key_nor_a_token_is_in_a_log() -> None:
    key = KEYS["ES256"]()
    settings = Settings(_env_file=None, orchestrator_jwt_key=key)  # pyright: ignore[reportCallIssue, reportArgumentType]
    output = io.StringIO()
    configure_logging(json=True, stream=output, secrets=secrets_of(settings))
    token = JwtSigner(key, **IDS).access_token()
    log = structlog.get_logger("test")
    log.info(
        "x",
        key=key,
        jwk=json.loads(key),
        part=f"d is {json.loads(key)['d']}",
        note=token,
        headers={"a": token},
    )
    log.info("sent Bearer %s", token)
    text = output.getvalue()
    assert text.count("\n") == 2
    for secret in (json.loads(key)["d"], token, token.split(".")[2]):
        assert secret not in text
