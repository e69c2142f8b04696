"""Unpacking and recovery against what the SDK was recorded to sign."""

from __future__ import annotations

from typing import Any

import pytest

from worker.devnet import verify
from worker.devnet.verify import InvalidSignatureError


def unhex(text: str) -> bytes:
    return bytes.fromhex(text[2:])


class TestFastLz:
    """The decompressor undoes the SDK's compressor and survives garbage."""

    def test_every_recorded_stream_decompresses_to_its_input(self, vectors: Any) -> None:
        for vector in vectors("fastlz")["vectors"]:
            assert verify.flz_decompress(unhex(vector["expected"])) == unhex(vector["input"]), vector["name"]

    @pytest.mark.parametrize("stream", ["05aabb", "20", "2005", "e0", "e00005"])
    def test_a_broken_stream_is_refused(self, stream: str) -> None:
        with pytest.raises(InvalidSignatureError):
            verify.flz_decompress(bytes.fromhex(stream))

    def test_a_bomb_is_refused(self) -> None:
        bomb = b"\x00\xaa" + b"\xe0\xff\x00" * 10_000
        with pytest.raises(InvalidSignatureError, match="too large"):
            verify.flz_decompress(bomb)


class TestRecordedFlows:
    """The signatures of the recorded flows recover to the recorded session key."""

    @pytest.mark.parametrize(
        ("name", "mode"), [("flow_a_enabled_same_chain", 0), ("flow_b_enable_and_use", 1)]
    )
    def test_all_four_signatures_are_by_the_session_key(self, vectors: Any, name: str, mode: int) -> None:
        flow = vectors(name)
        op = flow["expected"]["http"][1]["request"]["body"]["signedIntentOp"]
        key = flow["keys"]["session"]["address"].lower()
        account = op["sponsor"].lower()
        digest = verify.single_chain_ops_digest(account, op["elements"][0], int(op["nonce"]))
        target = verify.single_chain_ops_digest(account, op["elements"][0], int(op["targetExecutionNonce"]))
        origin = op["originSignatures"][0]
        for field, over in (
            (origin["preClaimSig"], digest),
            (op["destinationSignature"], digest),
            (op["targetExecutionSignature"], target),
        ):
            form = verify.unpack_emissary(unhex(field))
            assert form.mode == mode
            assert verify.recover(over, form.signatures) == key
        _, signatures = verify.unpack_erc1271(unhex(origin["notarizedClaimSig"]), "nexus")
        assert verify.recover(verify.erc1271_hash(digest, account, "nexus"), signatures) == key

    def test_every_account_kind_unpacks_its_own_wrapping_only(self, vectors: Any) -> None:
        recorded = vectors("signatures")
        key = recorded["keys"]["session"]["address"].lower()
        for vector in recorded["wrapVectors"]:
            signature = unhex(vector["expected"]["signature"])
            kind = vector["accountType"]
            assert verify.is_session_form(signature, kind)
            _, signatures = verify.unpack_erc1271(signature, kind)
            hashed = verify.erc1271_hash(unhex(vector["digest"]), vector["account"].lower(), kind)
            assert verify.recover(hashed, signatures) == key, kind
            with pytest.raises(InvalidSignatureError):
                verify.unpack_erc1271(signature, "nexus" if kind == "kernel" else "kernel")
