"""What redaction masks, and what it leaves readable."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from eth_utils.crypto import keccak
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import SecretStr

from config.redaction import MASK, Redactor, names_a_secret, text_secrets
from tests.support.leaks import spellings
from worker.keys.port import SecretKey
from worker.keys.secp256k1 import address_of

KEY = keccak(b"session-executor test log key")
ADDRESS = address_of(KEY)
HASH = f"0x{keccak(b'session-executor test transaction').hex()}"
TOKEN = f"hvs.{keccak(b'session-executor test token').hex()[:24]}"
SIGNATURE = f"0x{(KEY + KEY).hex()}1b"
PROVIDER_KEY = base64.urlsafe_b64encode(KEY[:24]).decode()

redact = Redactor()


def shows(text: Any, *secrets: str | bytes) -> bool:
    return any(spelling in str(text) for secret in secrets for spelling in spellings(secret))


class TestNames:
    """What stands under a secret's name is masked whatever it is."""

    @pytest.mark.parametrize(
        "name",
        [
            "private_key",
            "privateKey",
            "PRIVATE-KEY",
            "session_private_key",
            "vault_token",
            "X-Vault-Token",
            "x-api-key",
            "orchestrator_api_key",
            "secret",
            "secret_id",
            "secretId",
            "client_secret",
            "password",
            "keystore_passphrase",
            "mnemonic",
            "seed",
            "Authorization",
            "Set-Cookie",
            "signature",
            "originSignature",
            "sig",
            "body",
            "request_body",
            "payload",
            "unseal_key",
        ],
    )
    def test_a_secrets_name(self, name: str) -> None:
        for value in ("abc", 7, b"abc", ["abc"], {"a": "b"}, object()):
            assert redact(None, "info", {name: value}) == {name: MASK}

    @pytest.mark.parametrize(
        "name",
        [
            "tx_hash",
            "permissionId",
            "intent_id",
            "session_id",
            "payload_hash",
            "digest",
            "nonce",
            "topics",
            "salt",
            "merkle_root",
        ],
    )
    def test_a_public_32_byte_value_stays(self, name: str) -> None:
        assert redact.value(HASH, name) == HASH
        assert redact.value(bytes.fromhex(HASH[2:]), name) == HASH
        assert redact.value([HASH], name) == [HASH]

    @pytest.mark.parametrize("name", ["key", "k", "value", "args", "reason", "owner", "event", "x"])
    def test_a_32_byte_value_under_any_other_name_goes(self, name: str) -> None:
        for value in (
            KEY.hex(),
            f"0x{KEY.hex().upper()}",
            KEY,
            bytearray(KEY),
            int.from_bytes(KEY, "big"),
            str(int.from_bytes(KEY, "big")),
            base64.b64encode(KEY).decode(),
            [KEY],
            {"a": [KEY.hex()]},
            repr(KEY),
        ):
            assert not shows(redact.value(value, name), KEY)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("token", "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"),
            ("token", "USDC"),
            ("token_decimals", 6),
            ("tokens_out", {"USDC": "10000000"}),
            ("account", ADDRESS),
            ("amount", 2**255),
            ("limit", 2**256 - 1),
            ("value", 2**256 - 1),
            ("idempotency_key", "daily-2030-01-01"),
            ("state", "SIGNED"),
            ("error", "keystore_passphrase: is not set (set SESSION_EXECUTOR_KEYSTORE_PASSPHRASE)"),
            ("error", "vault_secret_id: is not set (set vault_role_id and vault_secret_id, or vault_token)"),
            ("error", f"vault:secret/data/session-keys/{ADDRESS}: nothing is stored there"),
            ("intent", "int_0123456789abcdef_0123456789abcdef01234567"),
            ("task", "7f9c24e8-3b12-4fef-91e0-3f8b7a2c5d10"),
            ("url", "https://base.example.org/v1/intents/115792089237316195423570985008687907853?wait=5"),
            ("ok", True),
            ("ratio", 0.5),
            ("nothing", None),
        ],
    )
    def test_what_operators_need_stays(self, name: str, value: Any) -> None:
        assert redact.value(value, name) == value

    def test_the_names_of_the_settings_that_hold_secrets_are_known(self) -> None:
        from config.settings import Settings

        urls = {"redis_url", "broker_url", "rpc_url", "source_rpc_urls"}
        for name, field in Settings.model_fields.items():
            if "SecretStr" in str(field.annotation) and name not in urls:
                assert names_a_secret(name), name


class TestShapes:
    """Secrets in running text are found by their shape or by the name before them."""

    @pytest.mark.parametrize(
        "text",
        [
            "bad key {key}",
            "ValueError: bad key 0x{key}",
            "private_key=0x{key}, address=…",
            "{{'private_key': '0x{key}'}}",
            '{{"key": "{key}"}}',
            "HexBytes('0x{key}')",
            "({key},)",
            "key:{key}.",
            "the private_key of the session is {key}",
            "hash of the private key {key}",
        ],
    )
    def test_a_key_in_a_sentence(self, text: str) -> None:
        for spelling in (KEY.hex(), KEY.hex().upper()):
            assert not shows(redact.text(text.format(key=spelling)), KEY)

    @pytest.mark.parametrize(
        "text",
        [
            "transaction {hash} not found",
            "Transaction with hash: '{hash}' not found.",
            "tx_hash={hash}",
            "{{'transactionHash': HexBytes('{hash}')}}",
            '"permissionId": "{hash}"',
            "permission id {hash} is not enabled",
            "block hash is {hash}",
        ],
    )
    def test_a_labelled_hash_stays(self, text: str) -> None:
        assert HASH in redact.text(text.format(hash=HASH))

    @pytest.mark.parametrize(
        ("text", "secret"),
        [
            (f"X-Vault-Token: {TOKEN}", TOKEN),
            (f"token {TOKEN} was refused", TOKEN),
            ("{'x-api-key': 'rhs_live_0123456789'}", "rhs_live_0123456789"),
            ("[(b'x-api-key', b'rhs_live_0123456789')]", "rhs_live_0123456789"),
            ("x-api-key: rhs_live_0123456789\\r\\n", "rhs_live_0123456789"),
            ("Authorization: Bearer abc.def-ghi_jkl", "abc.def-ghi_jkl"),
            ("headers={'authorization': 'Basic dXNlcjpwYXNzd29yZA=='}", "dXNlcjpwYXNzd29yZA=="),
            ("redis://:hunter2word@redis:6379/0", "hunter2word"),
            ("rediss://user:hunter2word@redis:6379/0 refused", "hunter2word"),
            ("Error 111 connecting to redis://default:p%40ss%2Fword@h:1", "p%40ss%2Fword"),
            (f"https://base.example.org/v2/{PROVIDER_KEY}", PROVIDER_KEY),
            (f"wss://base.example.org/{KEY.hex()[:32]}/ws", KEY.hex()[:32]),
            (f'https://h:443 "POST /v2/{PROVIDER_KEY} HTTP/1.1" 200 None', PROVIDER_KEY),
            (f"https://h/rpc?apikey={PROVIDER_KEY}&chain=8453", PROVIDER_KEY),
            ("https://h/rpc?token=short1", "short1"),
            ("password=hunter2word", "hunter2word"),
            ("{'secret_id': '0b5e-11', 'role_id': 'r'}", "0b5e-11"),
            (f"signature: '{SIGNATURE}'", SIGNATURE),
            (f"sent {SIGNATURE} to the orchestrator", SIGNATURE),
            ('{"client_token":"custom-token-1"}', "custom-token-1"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "eyJzdWIiOiIxMjM0In0"),
        ],
    )
    def test_credentials(self, text: str, secret: str) -> None:
        assert secret in text
        masked = redact.text(text)
        assert secret not in masked
        assert "[" in masked

    @pytest.mark.parametrize(
        "text",
        [
            "Basic abcdefgh",
            "hvs.abcdefgh",
            "s.abcdefghijklmnopqrstuvwx",
            "eyJabcdefgh.abcdefgh.",
            "seed:'x'",
            'sig,"x"',
            "sig=ab",
            "sig:abcdefg1",
            "r://u@",
            KEY.hex(),
            str(int.from_bytes(b"\x7f" * 32) % 10**70 + 10**69),
            "A" * 43 + "=",
        ],
    )
    def test_the_shortest_of_each_shape(self, text: str) -> None:
        assert redact.text(text) != text

    def test_the_rest_of_a_line_stays(self) -> None:
        line = f'https://base.example.org:443 "POST /v2/{PROVIDER_KEY} HTTP/1.1" 200 None'
        assert redact.text(line) == f'https://base.example.org:443 "POST /v2/{MASK} HTTP/1.1" 200 None'
        assert redact.text("redis://:hunter2word@redis:6379/0") == f"redis://{MASK}@redis:6379/0"

    @example("0x" + "f" * 64)
    @given(st.text(max_size=200))
    def test_no_text_breaks_it_and_a_second_pass_changes_little(self, text: str) -> None:
        once = redact.text(text)
        assert len(redact.text(once)) <= len(once) + len(MASK) * once.count("[")

    @given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(["", "0x", "0X"]), st.booleans())
    def test_a_key_between_any_words_is_masked(
        self, before: str, after: str, prefix: str, upper: bool
    ) -> None:
        key = KEY.hex().upper() if upper else KEY.hex()
        text = f"{before} key {prefix}{key} {after}"
        assert key[8:56] not in redact.text(text)

    def test_a_long_line_takes_no_time_to_speak_of(self) -> None:
        # patterns that backtrack would take minutes on these
        for piece in ("a=", "https://", "x-api-key: ", "b'\\x", "'", "0x", "/aaaa", "?a=b&", "seed,"):
            assert isinstance(redact.text(piece * 5_000), str)


class TestObjects:
    """Objects are logged by their repr, redacted; none of them breaks the line."""

    def test_wrapped_secrets(self) -> None:
        shown = str(redact.value([SecretStr("hunter2word"), SecretKey(KEY, ADDRESS)], "things"))
        assert not shows(shown, KEY, "hunter2word")
        assert ADDRESS in shown

    def test_an_exception_as_a_field(self) -> None:
        assert not shows(redact.value(ValueError(f"bad key {KEY.hex()}"), "error"), KEY)
        assert not shows(redact.value(ValueError(KEY), "error"), KEY)

    def test_a_repr_that_raises(self) -> None:
        class Broken:
            def __repr__(self) -> str:
                raise RuntimeError(KEY.hex())

        assert redact.value(Broken(), "x") == "<Broken whose repr raised RuntimeError>"

    def test_deep_and_circular_values_end(self) -> None:
        value: dict[str, Any] = {"private_key": KEY.hex(), "key": KEY}
        value["self"] = value
        assert not shows(redact.value(value, "x"), KEY)

    def test_mapping_keys_are_texts_too(self) -> None:
        assert not shows(redact.value({KEY.hex(): 1, KEY: 2}, "x"), KEY)


class TestKnownSecrets:
    """Secrets of the settings are masked by their exact text, wherever and however they stand."""

    known = Redactor(
        text_secrets(
            [
                "plain-words-only",
                "redis://:correct horse@redis:6379/0",
                "https://rpc.example.org/v2/alllowercaselettersonlyx1?dkey=tiny-one",
                "abc",
                "",
            ]
        )
    )

    @pytest.mark.parametrize(
        "text",
        ["x plain-words-only y", "correct horse", "correct%20horse", "alllowercaselettersonlyx1", "tiny-one"],
    )
    def test_they_go(self, text: str) -> None:
        assert MASK in self.known.text(text)
        assert MASK in str(self.known.value({"a": [text]}, "fields"))

    @pytest.mark.parametrize("text", ["abc", "redis:6379/0", "rpc.example.org", "/v2/"])
    def test_short_texts_and_hosts_stay(self, text: str) -> None:
        assert self.known.text(f"see {text} there") == f"see {text} there"

    def test_its_repr_shows_none(self) -> None:
        assert repr(self.known) == "<Redactor>"
