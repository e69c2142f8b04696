"""``VaultKeyStore`` against scripted replies that a real Vault gives only in odd moments."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from tests.support.http_stub import Answer, Seen, http_stub
from tests.support.leaks import assert_no_leak
from tests.support.raw_http import Play, raw_http
from worker.keys.errors import (
    KeyDeletedError,
    KeyFormatError,
    KeyNotFoundError,
    KeyStoreDeniedError,
    KeyStoreError,
    KeyStoreRateLimitedError,
    KeyStoreSetupError,
    KeyStoreUnavailableError,
)
from worker.keys.secp256k1 import address_of
from worker.keys.vault import ATTEMPTS, AppRoleAuth, TokenAuth, VaultKeyStore

KEY = keccak(b"session-executor test stub key")
ADDRESS = address_of(KEY)
TOKEN = keccak(b"session-executor test stub token").hex()
SECRET_ID = keccak(b"session-executor test stub secret id").hex()
LOOKUP = Answer(body={"data": {"ttl": 3600, "renewable": False}})
FOUND = Answer(body={"data": {"data": {"private_key": f"0x{KEY.hex()}"}, "metadata": {"version": 1}}})


def script(*answers: Answer) -> Callable[[Seen], Answer]:
    """Plays ``answers`` for reads and writes of keys, the last one for ever; the token lookup always works."""
    left = list(answers)

    def answer(seen: Seen) -> Answer:
        if seen.path.startswith("/v1/auth/token/"):
            return LOOKUP
        if "/internal/ui/mounts/" in seen.path:
            return Answer(403, {"errors": ["permission denied"]})
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


def store(url: str, *, namespace: str = "", timeout_s: float = 2.0, role: bool = False) -> VaultKeyStore:
    auth = AppRoleAuth("role-id", SECRET_ID) if role else TokenAuth(TOKEN)
    return VaultKeyStore(url, namespace, auth, timeout_s=timeout_s)


def keys_asked_for(seen: list[Seen]) -> int:
    return sum("/data/" in one.path for one in seen)


def failing(url: str, error: type[KeyStoreError], words: str, **options: Any) -> KeyStoreError:
    with pytest.raises(error, match=words) as caught, store(url, **options).get(ADDRESS):
        pass
    assert type(caught.value) is error
    assert caught.value.field
    assert caught.value.fix
    assert_no_leak(caught.value, KEY, TOKEN, SECRET_ID)
    return caught.value


class TestCredentials:
    """The token goes to the configured address and nowhere else; nothing ambient is used."""

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_is_not_followed(self, status: int) -> None:
        with http_stub(lambda _: FOUND) as other:
            target = other.url.replace("http://", "http://user:word@")
            with http_stub(script(Answer(status, headers={"Location": f"{target}/v1/secret"}))) as vault:
                error = failing(vault.url, KeyStoreSetupError, "the token was not sent there")
            assert other.seen == []
            assert other.url.removeprefix("http://") in error.message
            assert "word" not in error.message

    @pytest.mark.parametrize("status", [307, 308])
    def test_a_redirect_to_an_allowed_host_is_followed_with_the_token(self, status: int) -> None:
        with http_stub(script(FOUND)) as active:
            host = active.url.removeprefix("http://")

            def standby(seen: Seen) -> Answer:
                return Answer(status, headers={"Location": f"{active.url}{seen.path}"})

            with http_stub(standby) as vault:
                one = VaultKeyStore(vault.url, "team", TokenAuth(TOKEN), timeout_s=2.0, redirect_hosts=[host])
                with one.get(ADDRESS) as key:
                    assert key.use() == KEY
                assert len(vault.seen) == len(active.seen) == 2
                assert {seen.headers["x-vault-token"] for seen in active.seen} == {TOKEN}
                assert {seen.headers["x-vault-namespace"] for seen in active.seen} == {"team"}

    def test_allowed_hosts_that_send_in_circles_or_on_to_others(self) -> None:
        with http_stub(lambda _: FOUND) as other:
            hosts: list[str] = []

            def circle(seen: Seen) -> Answer:
                return Answer(307, headers={"Location": f"http://{hosts[0]}{seen.path}"})

            def onward(seen: Seen) -> Answer:
                return Answer(307, headers={"Location": f"{other.url}{seen.path}"})

            for answer, times in ((circle, 3), (onward, 1)):
                with http_stub(answer) as vault:
                    hosts[:] = [vault.url.removeprefix("http://")]
                    one = VaultKeyStore(vault.url, "", TokenAuth(TOKEN), timeout_s=2.0, redirect_hosts=hosts)
                    with pytest.raises(KeyStoreSetupError, match="redirects to"), one.get(ADDRESS):
                        pass
                    assert len(vault.seen) == times
            assert other.seen == []

    @pytest.mark.parametrize("role", [False, True])
    def test_every_request_carries_the_namespace(self, role: bool) -> None:
        def answer(seen: Seen) -> Answer:
            if seen.path == "/v1/auth/approle/login":
                return Answer(body={"auth": {"client_token": TOKEN, "lease_duration": 60, "renewable": True}})
            return script(FOUND)(seen)

        with http_stub(answer) as vault, store(vault.url, namespace="admin/team", role=role).get(ADDRESS):
            assert len(vault.seen) == 2
            assert {one.headers.get("x-vault-namespace") for one in vault.seen} == {"admin/team"}
            assert vault.seen[-1].headers["x-vault-token"] == TOKEN

    def test_the_environments_token_file_and_proxy_are_not_used(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("VAULT_TOKEN", "ambient")
        monkeypatch.setenv("VAULT_NAMESPACE", "ambient")
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / ".vault-token").write_text("ambient")
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ambient password ambient\n")
        with http_stub(lambda _: FOUND) as proxy, http_stub(script(FOUND)) as vault:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("NO_PROXY", "")
            with store(vault.url).get(ADDRESS) as key:
                assert key.use() == KEY
            assert proxy.seen == []
            for one in vault.seen:
                assert "ambient" not in str(one.headers)
                assert "authorization" not in one.headers

    def test_the_secret_id_is_sent_once_and_the_token_from_then_on(self) -> None:
        def answer(seen: Seen) -> Answer:
            if seen.path == "/v1/auth/approle/login":
                assert json.loads(seen.body) == {"role_id": "role-id", "secret_id": SECRET_ID}
                return Answer(body={"auth": {"client_token": TOKEN, "lease_duration": 60, "renewable": True}})
            return script(FOUND)(seen)

        with http_stub(answer) as vault:
            one = store(vault.url, role=True)
            for _ in range(3):
                with one.get(ADDRESS):
                    pass
            assert [SECRET_ID.encode() in seen.body for seen in vault.seen] == [True, False, False, False]


class TestTransient:
    """What another try may cure is tried a bounded number of times."""

    @pytest.mark.parametrize("status", [412, 472, 473, 500, 502, 503, 504])
    def test_a_hiccup_is_tried_again(self, status: int) -> None:
        with http_stub(script(Answer(status, {"errors": ["busy"]}), Answer(drop=True), FOUND)) as vault:
            with store(vault.url).get(ADDRESS) as key:
                assert key.use() == KEY
            assert keys_asked_for(vault.seen) == 3

    @pytest.mark.parametrize("status", [500, 502, 503])
    def test_the_tries_end(self, status: int) -> None:
        with http_stub(script(Answer(status, {"errors": ["internal error"]}))) as vault:
            error = failing(vault.url, KeyStoreUnavailableError, f"HTTP {status} internal error")
            assert keys_asked_for(vault.seen) == ATTEMPTS
            assert error.field == "vault"

    def test_sealed_is_not_tried_again(self) -> None:
        with http_stub(script(Answer(503, {"errors": ["Vault is sealed"]}))) as vault:
            failing(vault.url, KeyStoreUnavailableError, "Vault is sealed")
            assert keys_asked_for(vault.seen) == 1

    def test_no_answer_in_time(self) -> None:
        with http_stub(script(Answer(delay_s=30))) as vault:
            failing(vault.url, KeyStoreUnavailableError, "does not answer in time", timeout_s=0.3)

    def test_a_reply_that_drips_is_cut_off_at_the_deadline(self) -> None:
        # each byte comes within any bound on one read; all of it would take two minutes
        drip: list[bytes | float] = [part for _ in range(600) for part in (b" ", 0.2)]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 600\r\n\r\n"
        with raw_http(lambda _: Play(send=[head, *drip], end="hold")) as vault:
            began = time.monotonic()
            failing(vault.url, KeyStoreUnavailableError, "does not answer in time", timeout_s=0.5)
            assert time.monotonic() - began < 60

    def test_a_short_rate_limit_is_waited_for(self) -> None:
        limited = Answer(429, {"errors": ["slow down"]}, {"Retry-After": "1"})
        with http_stub(script(limited, FOUND)) as vault:
            with store(vault.url).get(ADDRESS) as key:
                assert key.use() == KEY
            assert keys_asked_for(vault.seen) == 2

    def test_a_long_rate_limit_is_handed_to_the_caller(self) -> None:
        limited = Answer(429, {"errors": ["slow down"]}, {"Retry-After": "60"})
        with http_stub(script(limited)) as vault:
            error = failing(vault.url, KeyStoreRateLimitedError, "limits the rate")
            assert isinstance(error, KeyStoreRateLimitedError)
            assert error.retry_after_s == 60
            assert keys_asked_for(vault.seen) == 1

    def test_a_rate_limit_without_a_time(self) -> None:
        with http_stub(script(Answer(429, {}, {"Retry-After": "soon"}))) as vault:
            error = failing(vault.url, KeyStoreRateLimitedError, "limits the rate")
            assert isinstance(error, KeyStoreRateLimitedError)
            assert error.retry_after_s is None
            assert keys_asked_for(vault.seen) == ATTEMPTS


class TestOddReplies:
    """What is no reply of Vault's gives an error of ours, not a traceback of the parser's."""

    @pytest.mark.parametrize(
        "body", [b"<html>login</html>", b"", b"[1]", b'"text"', b"\xff\xfe", f"0x{KEY.hex()}".encode()]
    )
    def test_a_200_that_is_no_json_object(self, body: bytes) -> None:
        with http_stub(script(Answer(200, body))) as vault:
            failing(vault.url, KeyStoreError, "HTTP 200")

    @pytest.mark.parametrize("body", [{}, {"data": None}, {"data": 7}, {"data": {"data": "text"}}])
    def test_a_200_without_a_secret(self, body: Any) -> None:
        with http_stub(script(Answer(200, body))) as vault:
            failing(vault.url, KeyFormatError, "no field private_key")

    def test_a_200_with_an_empty_version(self) -> None:
        with http_stub(script(Answer(200, {"data": {"data": None}}))) as vault:
            failing(vault.url, KeyDeletedError, "deleted")

    @pytest.mark.parametrize("metadata", [{"deletion_time": "2030-01-01T00:00:00Z"}, {"destroyed": True}])
    def test_a_404_with_metadata_is_a_deleted_version(self, metadata: dict[str, Any]) -> None:
        with http_stub(script(Answer(404, {"data": {"data": None, "metadata": metadata}}))) as vault:
            failing(vault.url, KeyDeletedError, "deleted or destroyed")

    def test_a_404_page_of_a_proxy(self) -> None:
        with http_stub(script(Answer(404, b"<html>"))) as vault:
            failing(vault.url, KeyNotFoundError, "nothing is stored")

    @pytest.mark.parametrize("body", [{}, {"auth": None}, {"auth": {}}, {"auth": {"client_token": ""}}])
    def test_a_login_reply_without_a_token(self, body: Any) -> None:
        with http_stub(lambda _: Answer(body=body)) as vault:
            failing(vault.url, KeyStoreUnavailableError, "no token", role=True)

    def test_a_reply_of_many_megabytes_is_not_parsed(self) -> None:
        huge = json.dumps({"data": {"data": {"private_key": f"0x{KEY.hex()}", "x": "x" * (1 << 21)}}})
        with http_stub(script(Answer(200, huge.encode()))) as vault:
            failing(vault.url, KeyStoreError, "HTTP 200")

    def test_vaults_words_are_shown_on_one_short_line(self) -> None:
        with http_stub(script(Answer(400, {"errors": ["first\nline", "x" * 900]}))) as vault:
            error = failing(vault.url, KeyStoreError, "first line; xxx")
            assert len(str(error)) < 400


class TestLostReplyOfACreation:
    """A write whose reply is lost has either happened once or not at all."""

    @pytest.mark.parametrize(
        ("lost", "again"),
        [
            (Answer(drop=True), Answer(400, {"errors": ["check-and-set parameter did not match"]})),
            (Answer(drop=True), Answer(403, {"errors": ["permission denied"]})),
            (Answer(502, {}), Answer(403, {"errors": ["permission denied"]})),
        ],
    )
    def test_our_own_write_is_recognised(self, lost: Answer, again: Answer) -> None:
        written: list[Any] = []

        def answer(seen: Seen) -> Answer:
            if seen.path.startswith("/v1/auth/token/"):
                return LOOKUP
            if "/metadata/" in seen.path:
                return Answer(body={"data": {"current_version": 1}}) if seen.method == "GET" else Answer(204)
            written.append(json.loads(seen.body))
            return lost if len(written) == 1 else again

        with http_stub(answer) as vault:
            info = store(vault.url).create()
        first, second = written
        assert first == second
        assert first["options"] == {"cas": 0}
        assert first["data"]["address"] == info.address
        assert info.version == "1"

    def test_a_refusal_without_a_lost_reply_before_is_one(self) -> None:
        refusal = Answer(400, {"errors": ["check-and-set parameter did not match the current version"]})
        with (
            http_stub(script(refusal)) as vault,
            pytest.raises(KeyStoreError, match="check-and-set") as caught,
        ):
            store(vault.url).create()
        for seen in vault.seen:
            if seen.method in ("POST", "PUT"):
                key = bytes.fromhex(json.loads(seen.body)["data"]["private_key"][2:])
                assert_no_leak(caught.value, key, TOKEN)

    def test_a_denial_after_a_lost_reply_that_wrote_nothing(self) -> None:
        def answer(seen: Seen) -> Answer:
            if seen.path.startswith("/v1/auth/token/"):
                return LOOKUP
            if "/metadata/" in seen.path:
                return Answer(404, {"errors": []})
            return Answer(drop=True) if keys_asked_for(vault.seen) == 1 else Answer(403, {"errors": ["no"]})

        with http_stub(answer) as vault, pytest.raises(KeyStoreDeniedError):
            store(vault.url).create()
