"""ECDSA: deterministic, strict about its inputs, silent about keys."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, cast

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_keys.main import KeyAPI

from tests.support.signing import ACCOUNT, DIGEST, labelled_key
from worker.signing import sign
from worker.signing.enable import owner_enable_signature
from worker.signing.errors import SignatureFaultError, SigningInputError
from worker.signing.sign import (
    ORDER,
    address_of,
    personal_digest,
    psig,
    psigs,
    recover,
    recover_psig,
    sign_digest,
)

KEY = labelled_key("signer")


class TestSigning:
    """The same bytes as other implementations."""

    @pytest.mark.parametrize("number", range(8))
    def test_agrees_with_eth_keys_and_eth_account(self, number: int) -> None:
        key = labelled_key(f"signer {number}")
        account = Account.from_key(key)
        assert address_of(key) == account.address.lower()
        reference = KeyAPI.PrivateKey(key).sign_msg_hash(DIGEST).to_bytes()
        assert sign_digest(key, DIGEST) == reference[:64] + bytes([reference[64] + 27])
        personal = account.sign_message(encode_defunct(DIGEST)).signature
        assert psig(key, DIGEST) == personal[:64] + bytes([personal[64] + 4])

    def test_constants(self) -> None:
        assert address_of(KEY) == "0xedcbba3385005eb063c952fe161bea81bb73f9ee"
        assert sign_digest(KEY, DIGEST).hex() == (
            "7579c6ffab09fda6915932b063910cd69244f3cdf1e0bd58dd2d690632287ac4"
            "1a5c1ab066e41b22dcc2f980bf67ab98d1f3fcb201450db9f4f9d59e3ec0ea4d1b"
        )

    def test_round_trip(self) -> None:
        assert recover(DIGEST, sign_digest(KEY, DIGEST)) == address_of(KEY)
        assert recover_psig(DIGEST, psig(KEY, DIGEST)) == address_of(KEY)
        assert recover(personal_digest(DIGEST), sign_digest(KEY, personal_digest(DIGEST))) == address_of(KEY)

    def test_many_at_once_are_the_same_as_one_by_one(self) -> None:
        digests = [DIGEST, bytes(32), personal_digest(DIGEST)]
        assert psigs(KEY, digests) == (address_of(KEY), [psig(KEY, digest) for digest in digests])
        assert psigs(KEY, []) == (address_of(KEY), [])

    def test_another_digest_recovers_another_address(self) -> None:
        assert recover(bytes(32), sign_digest(KEY, DIGEST)) != address_of(KEY)


def changed(signature: bytes, *, r: int | None = None, s: int | None = None, v: int | None = None) -> bytes:
    return (
        (signature[:32] if r is None else r.to_bytes(32, "big"))
        + (signature[32:64] if s is None else s.to_bytes(32, "big"))
        + (signature[64:] if v is None else bytes([v]))
    )


GOOD = sign_digest(KEY, DIGEST)
HIGH_S = ORDER - int.from_bytes(GOOD[32:64], "big")


class TestRefusals:
    """Malformed input is one kind of error, and names its field."""

    @pytest.mark.parametrize(
        "signature",
        [
            b"",
            GOOD[:64],
            GOOD + b"\0",
            bytearray(GOOD),
            None,
            changed(GOOD, v=0),
            changed(GOOD, v=29),
            changed(GOOD, v=31),
            changed(GOOD, r=0),
            changed(GOOD, r=ORDER),
            changed(GOOD, r=5),  # no point of the curve has this x
            changed(GOOD, s=0),
            changed(GOOD, s=ORDER),
            changed(GOOD, s=HIGH_S, v=55 - GOOD[64]),  # the mirrored signature, valid by mathematics
        ],
    )
    def test_signature(self, signature: Any) -> None:
        with pytest.raises(SigningInputError) as caught:
            recover(DIGEST, signature)
        assert caught.value.field == "signature"

    @pytest.mark.parametrize("v", [0, 27, 28, 33])
    def test_personal_signature_wants_its_own_v(self, v: int) -> None:
        with pytest.raises(SigningInputError, match="31 or 32"):
            recover_psig(DIGEST, changed(psig(KEY, DIGEST), v=v))

    @pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), "00" * 32, bytearray(32), None])
    def test_digest(self, digest: Any) -> None:
        for call in (
            lambda: sign_digest(KEY, digest),
            lambda: psig(KEY, digest),
            lambda: psigs(KEY, [DIGEST, digest]),
            lambda: personal_digest(digest),
            lambda: recover(digest, GOOD),
            lambda: recover_psig(digest, psig(KEY, DIGEST)),
        ):
            with pytest.raises(SigningInputError) as caught:
                call()
            assert caught.value.field == "digest"

    @pytest.mark.parametrize(
        "key",
        [b"", bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, KEY[:31], KEY + b"\0", KEY.hex(), None],
    )
    def test_key(self, key: Any) -> None:
        for call in (
            lambda: sign_digest(key, DIGEST),
            lambda: psig(key, DIGEST),
            lambda: psigs(key, [DIGEST]),
            lambda: address_of(key),
        ):
            with pytest.raises(SigningInputError) as caught:
                call()
            assert caught.value.field == "key"


def locals_of_signing(traceback: TracebackType | None) -> list[object]:
    """The local variables that a traceback keeps alive in the signing room."""
    found: list[object] = []
    while traceback is not None:
        frame = traceback.tb_frame
        if str(frame.f_globals.get("__name__", "")).startswith("worker.signing"):
            found += frame.f_locals.values()
        traceback = traceback.tb_next
    return found


class TestKeysStayHome:
    """An error keeps no private key: not in its text, not in the locals of its traceback."""

    long_key = KEY + b"\0"

    @pytest.mark.parametrize(
        "call",
        [
            lambda: sign_digest(KEY, b""),
            lambda: psig(KEY, b""),
            lambda: sign_digest(TestKeysStayHome.long_key, DIGEST),
            lambda: psig(TestKeysStayHome.long_key, DIGEST),
            lambda: psigs(KEY, [DIGEST, b""]),
            lambda: psigs(TestKeysStayHome.long_key, [DIGEST]),
            lambda: address_of(TestKeysStayHome.long_key),
            lambda: owner_enable_signature("nexus", ACCOUNT, DIGEST, [KEY, TestKeysStayHome.long_key]),
            lambda: owner_enable_signature("kernel", ACCOUNT, DIGEST, [TestKeysStayHome.long_key]),
            lambda: owner_enable_signature("nexus", ACCOUNT, b"", [KEY]),
            lambda: owner_enable_signature(cast("Any", "eoa"), ACCOUNT, DIGEST, [KEY]),
        ],
    )
    def test_no_key_in_the_traceback(self, call: Callable[[], object]) -> None:
        with pytest.raises(SigningInputError) as caught:
            call()
        assert locals_of_signing(caught.tb)  # the frames were looked at
        kept = " ".join([repr(value) for value in locals_of_signing(caught.tb)] + [repr(caught.value)])
        assert repr(KEY)[2:20] not in kept
        assert KEY.hex() not in kept

    @pytest.mark.parametrize("recovered", [b"", bytes(65)])
    def test_a_signature_that_does_not_recover_goes_nowhere(
        self, monkeypatch: pytest.MonkeyPatch, recovered: bytes
    ) -> None:
        """A faulty processor cannot be had, so its effect is put in place: the check reads another public key."""
        monkeypatch.setattr(sign, "_recovered", lambda _signature, _digest: recovered)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
        with pytest.raises(SignatureFaultError) as caught:
            psigs(KEY, [DIGEST])
        kept = " ".join(repr(value) for value in locals_of_signing(caught.tb))
        assert repr(KEY)[2:20] not in kept
        assert "PrivateKey" not in kept
