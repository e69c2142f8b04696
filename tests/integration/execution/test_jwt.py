"""Whole intents with JWTs instead of the API key: a gate in front of the devnet opens every token."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.support.http_stub import Answer, Seen, Stub, http_stub
from tests.support.pipeline import Pipeline
from worker.devnet.devnet import Devnet
from worker.intents.states import State
from worker.orchestrator.jwt_auth import AUDIENCE, intent_digest

VERSIONS = ["2026-01.alps", "2026-04.blanc"]
SUBMITS = ("/intent-operations", "/intents")
QUOTES = ("/intents/route", "/quotes")


class Gate:
    """Lets a request to the devnet when its tokens are good; remembers what each one carried."""

    def __init__(self, devnet: Devnet, public: ec.EllipticCurvePublicKey) -> None:
        self._devnet = devnet
        self._public = public
        self.repeat_token = False

    def __call__(self, seen: Seen) -> Answer:
        access = self.opened(seen, "authorization")
        if seen.headers["x-api-key"] != "jwt" or access is None or access["typ"] != "access":
            return Answer(401, {"errors": [{"message": "Authentication is required"}], "traceId": "t"})
        if self.repeat_token:
            return Answer(
                403, {"errors": [{"message": f"no: {seen.headers['authorization']}"}], "traceId": "t"}
            )
        kept = ("content-type", "x-api-version")
        headers = {name: seen.headers[name] for name in kept} | {"x-api-key": self._devnet.api_key}
        reply = httpx.request(
            seen.method,
            self._devnet.orchestrator_url + seen.path,
            content=seen.body,
            headers=headers,
            timeout=60,
        )
        return Answer(reply.status_code, reply.content)

    def opened(self, seen: Seen, header: str) -> dict[str, Any] | None:
        """The claims of the token in a header, None without one."""
        if header not in seen.headers:
            return None
        token = seen.headers[header].removeprefix("Bearer ")
        return jwt.decode(token, self._public, ["ES256"], audience=AUDIENCE, issuer="integrator")


class Gated:
    """A pipeline behind a gate."""

    def __init__(self, pipeline: Pipeline, gate: Gate, stub: Stub, secret: str) -> None:
        self.pipeline = pipeline
        self.gate = gate
        self.stub = stub
        self.secret = secret

    def sent(self, *paths: str) -> list[Seen]:
        """The requests to these paths."""
        return [seen for seen in self.stub.seen if seen.path in paths]


@pytest.fixture
def gated(make_pipeline: Callable[..., Pipeline], devnet: Devnet) -> Callable[..., Any]:
    """Makes a pipeline that signs tokens, in a version; for a ``with`` block."""

    @contextmanager
    def make(version: str) -> Generator[Gated]:
        key = ec.generate_private_key(ec.SECP256R1())
        jwk = ECAlgorithm.to_jwk(key)
        gate = Gate(devnet, key.public_key())
        with http_stub(gate) as stub:
            pipeline = make_pipeline(
                orchestrator_url=stub.url,
                orchestrator_version=version,
                orchestrator_api_key="not to be sent",
                orchestrator_auth="jwt",
                orchestrator_jwt_key=jwk,
                orchestrator_jwt_key_id="key-1",
                orchestrator_jwt_integrator_id="integrator",
                orchestrator_jwt_project_id="project",
                orchestrator_jwt_app_id="app",
            )
            yield Gated(pipeline, gate, stub, json.loads(jwk)["d"])

    return make


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sponsored_intent_names_the_digest_of_its_quote_request(
    gated: Callable[..., Any], version: str
) -> None:
    with gated(version) as it:
        record = it.pipeline.run(it.pipeline.submit("a"))[0]
        assert record.state is State.COMPLETED, record.reason
        [quote], [submit] = it.sent(*QUOTES), it.sent(*SUBMITS)
        claims = it.gate.opened(submit, "x-intent-extension")
        digest = claims["policy"]["sponsorship"]["intent_input"]["digest"]
        assert digest == intent_digest(json.loads(quote.body))
        assert digest == record.fields["intent_digest"]
        assert [seen.path for seen in it.stub.seen if "x-intent-extension" in seen.headers] == [submit.path]
        assert {seen.headers["x-api-key"] for seen in it.stub.seen} == {"jwt"}
        assert it.secret not in repr(record)
        assert "eyJ" not in repr(record)


def test_an_intent_that_pays_for_itself_asks_nobody_to_sponsor_it(gated: Callable[..., Any]) -> None:
    with gated(VERSIONS[0]) as it:
        record = it.pipeline.run(it.pipeline.submit("a", sponsored=False))[0]
        assert record.state is State.COMPLETED, record.reason
        assert record.fields["intent_digest"] == ""
        [submit] = it.sent(*SUBMITS)
        assert "x-intent-extension" not in submit.headers


def test_the_same_bytes_sent_again_carry_a_new_token_for_the_same_digest(gated: Callable[..., Any]) -> None:
    with gated(VERSIONS[0]) as it:
        it.pipeline.devnet.add_fault("drop_after_accept", path=SUBMITS[0], method="POST", times=1)
        record = it.pipeline.run(it.pipeline.submit("a"))[0]
        assert record.state is State.COMPLETED, record.reason
        tokens = [it.gate.opened(seen, "x-intent-extension") for seen in it.sent(*SUBMITS)]
        assert len({token["jti"] for token in tokens}) == len(tokens)
        assert len({json.dumps(token["policy"]) for token in tokens}) == 1


def test_a_service_that_repeats_our_token_does_not_get_it_into_the_record(gated: Callable[..., Any]) -> None:
    with gated(VERSIONS[0]) as it:
        it.gate.repeat_token = True
        intent_id = it.pipeline.submit("a")
        it.pipeline.step()
        record = it.pipeline.ledger.get(intent_id)
        assert "no: Bearer ***" in record.reason
        assert "eyJ" not in repr(record)
