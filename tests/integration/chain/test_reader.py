"""Chain reads: a real chain, another chain, no chain, and endpoints that answer nonsense."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.json_text import json_value
from tests.support.raw_http import Play, RawServer, answers, closed_port, deaf_port, raw_http, reply
from worker.chain.errors import CallRevertedError, ChainError, WrongChainError
from worker.chain.reader import ChainReader
from worker.devnet.chain import USDC
from worker.devnet.devnet import Devnet
from worker.errors import InputError

pytest_plugins = ["tests.support.anvil"]

#: Where a paid endpoint carries its key. Not a real key: a labelled constant.
URL_KEY = "rpc-key-for-tests-77aa"
ACCOUNT = "0x" + "a1" * 20
NOBODY = "0x" + "b2" * 20
TOKEN = "0x" + "c3" * 20
CHAIN = {"jsonrpc": "2.0", "id": 0, "result": "0x2105"}

READS: dict[str, Callable[[ChainReader], object]] = {
    "require_chain": lambda chain: chain.require_chain(),
    "call": lambda chain: chain.call(TOKEN, b"\x12\x34\x56\x78"),
    "latest_block_time": lambda chain: chain.latest_block_time(),
    "call_and_time": lambda chain: chain.call_and_time(TOKEN, b"\x12\x34\x56\x78"),
    "has_code": lambda chain: chain.has_code(TOKEN),
    "erc20_balance": lambda chain: chain.erc20_balance(TOKEN, ACCOUNT),
    "erc20_decimals": lambda chain: chain.erc20_decimals(TOKEN),
}


def _reader(url: str, *, chain_id: int = 8453, timeout_ms: int = 5_000) -> ChainReader:
    return ChainReader(url, chain_id=chain_id, timeout_ms=timeout_ms)


def _behind_key(server: RawServer) -> ChainReader:
    return _reader(f"{server.url}/v2/{URL_KEY}?token={URL_KEY}")


def _result(value: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "result": value}


def _after_chain_id(*replies: bytes) -> Callable[[int], Play]:
    return answers(reply(200, CHAIN), *replies)


@pytest.mark.services
class TestRealChain:
    """Against anvil, with the devnet's contracts on it."""

    @pytest.fixture
    def chain(self, devnet: Devnet) -> ChainReader:
        return _reader(devnet.rpc_url)

    def test_reads(self, chain: ChainReader, devnet: Devnet) -> None:
        devnet.register_account(ACCOUNT, owners=[NOBODY], usdc=12_345_678)
        chain.require_chain()
        assert chain.erc20_balance(USDC, ACCOUNT) == 12_345_678 == devnet.usdc_balance(ACCOUNT)
        assert chain.erc20_balance(USDC, NOBODY) == 0
        assert chain.erc20_decimals(USDC) == 6
        called, time_s = chain.call_and_time(USDC, bytes.fromhex("313ce567"))
        assert (int.from_bytes(called, "big"), time_s) == (6, chain.latest_block_time())
        assert chain.has_code(USDC)
        assert chain.has_code(ACCOUNT)
        assert not chain.has_code(NOBODY)
        block = devnet.rpc.call("eth_getBlockByNumber", "latest", False)
        assert chain.latest_block_time() == int(block["timestamp"], 16)

    def test_an_address_in_any_case(self, chain: ChainReader) -> None:
        assert chain.erc20_decimals("0x" + USDC[2:].upper()) == 6

    def test_no_contract(self, chain: ChainReader) -> None:
        assert chain.call(NOBODY, b"\x00" * 4) == b""
        with pytest.raises(ChainError, match=f"balanceOf of {NOBODY} returned 0 bytes") as caught:
            chain.erc20_balance(NOBODY, ACCOUNT)
        assert caught.value.field == "token"

    def test_a_revert_is_not_the_endpoints_trouble(self, chain: ChainReader) -> None:
        with pytest.raises(CallRevertedError) as caught:
            chain.call(USDC, b"\xde\xad\xbe\xef")
        assert "RPC_URL" not in str(caught.value)

    def test_another_chain(self, devnet: Devnet) -> None:
        chain = _reader(devnet.rpc_url, chain_id=10)
        for read in READS.values():
            with pytest.raises(
                WrongChainError, match="serves chain 8453, the configured chain is 10"
            ) as caught:
                read(chain)
            assert caught.value.field == "SESSION_EXECUTOR_RPC_URL"
            assert caught.value.fix

    def test_a_contract_sends_us_nowhere(self, chain: ChainReader, devnet: Devnet) -> None:
        """A revert with OffchainLookup (ERC-3668) names a URL to fetch: it stays a revert."""
        with raw_http(answers(reply(200, {"data": "0x01"}))) as elsewhere:
            revert = _offchain_lookup(NOBODY, f"{elsewhere.url}/{{sender}}/{{data}}")
            devnet.rpc.call("anvil_setCode", NOBODY, "0x" + _reverting_code(revert).hex())
            with pytest.raises(CallRevertedError):
                chain.call(NOBODY, b"")
            assert elsewhere.connections == 0


def _offchain_lookup(sender: str, url: str) -> bytes:
    from eth_abi.abi import encode

    parts = encode(
        ["address", "string[]", "bytes", "bytes4", "bytes"],
        [sender, [url], b"\x01", b"\x11\x22\x33\x44", b""],
    )
    return bytes.fromhex("556f1830") + parts


def _reverting_code(data: bytes) -> bytes:
    # CODECOPY(0, 13, len); REVERT(0, len); data
    size = len(data).to_bytes(2, "big")
    code = b"\x61" + size + b"\x60\x0d\x5f\x39\x61" + size + b"\x5f\xfd"
    return code.ljust(13, b"\x00") + data


class TestWrongUrl:
    """A URL that cannot be one is the input's fault, at once, and never shown."""

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "hunter2",
            "127.0.0.1:8545",
            "ws://host/hunter2",
            "file:///hunter2",
            "https://",
            "https://host:99999/hunter2",
            "https://host:0/hunter2",
            "https://[::1/hunter2",
            "https://host/hunter2\n",
            "https://ho st/hunter2",
        ],
    )
    def test_refused(self, url: str) -> None:
        with pytest.raises(InputError) as caught:
            _reader(url)
        assert caught.value.field == "SESSION_EXECUTOR_RPC_URL"
        assert "hunter2" not in str(caught.value)


class TestDown:
    """An endpoint that does not answer."""

    @pytest.mark.parametrize("read", READS)
    def test_nobody_listens(self, read: str) -> None:
        with pytest.raises(ChainError) as caught:
            READS[read](_reader(f"http://127.0.0.1:{closed_port()}"))
        assert caught.value.field == "SESSION_EXECUTOR_RPC_URL"
        assert caught.value.fix

    def test_never_connects(self) -> None:
        with deaf_port() as port, pytest.raises(ChainError, match="Timeout"):
            _reader(f"http://127.0.0.1:{port}", timeout_ms=300).require_chain()

    @pytest.mark.parametrize(
        "play",
        [
            Play(end="hold"),
            Play(),
            Play(end="reset"),
            Play(send=[b"SSH-2.0\r\n"]),
            Play(send=[reply(200, CHAIN)[:-5]]),
            Play(send=[reply(200, CHAIN)[:-5]], end="hold"),
        ],
        ids=["silent", "closed", "reset", "no HTTP", "cut", "never whole"],
    )
    def test_broken(self, play: Play) -> None:
        with raw_http(play) as server:
            with pytest.raises(ChainError):
                _reader(server.url, timeout_ms=300).require_chain()
            assert server.connections == 1  # nothing is repeated behind the caller's back

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
    def test_status(self, status: int) -> None:
        answer = reply(status, {"error": {"code": 1, "message": URL_KEY}})
        with raw_http(answers(answer)) as server, pytest.raises(ChainError, match=f"HTTP {status}"):
            _behind_key(server).require_chain()

    def test_a_redirect_is_not_followed(self) -> None:
        with raw_http(answers(reply(200, CHAIN))) as elsewhere:
            redirect = reply(307, b"", {"Location": elsewhere.url})
            with raw_http(answers(redirect)) as server, pytest.raises(ChainError):
                _reader(server.url).require_chain()
            assert elsewhere.connections == 0

    def test_comes_back(self) -> None:
        with raw_http(answers(reply(503, {}), reply(200, CHAIN), reply(200, _result("0x60")))) as server:
            chain = _reader(server.url)
            with pytest.raises(ChainError):
                chain.has_code(TOKEN)
            assert chain.has_code(TOKEN)

    def test_this_machine_is_reached_without_a_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with raw_http(answers(reply(200, CHAIN))) as server:
            _reader(server.url).require_chain()


NONSENSE: list[bytes] = [
    reply(200, b""),
    reply(200, b"<html>"),
    reply(200, b"\xff\xfe"),
    reply(200, b"[" * 200_000),
    reply(200, None),
    reply(200, []),
    reply(200, [CHAIN]),
    reply(200, "text"),
    reply(200, 7),
    reply(200, {}),
    reply(200, {"jsonrpc": "2.0", "id": 0}),
    *(
        reply(200, _result(value))
        for value in [
            None,
            True,
            8453,
            8453.0,
            "8453",
            "",
            "0x",
            "0x2105 ",
            "0xzz",
            "-0x1",
            "0x" + "1" * 65,
            [],
            {},
        ]
    ),
    *(
        reply(200, {"jsonrpc": "2.0", "id": 0, "error": error})
        for error in [
            {},
            [],
            "down",
            7,
            {"code": "x"},
            {"code": -32005, "message": ["limit"]},
            {"message": None},
        ]
    ),
]


class TestBatches:
    """A call and the block's time in one exchange, whatever an endpoint makes of that."""

    CALLED, BLOCK = "0x" + "11" * 32, {"timestamp": "0x65"}
    BOTH = (bytes.fromhex("11" * 32), 0x65)

    def ask(self, *replies: bytes) -> tuple[bytes, int]:
        with raw_http(_after_chain_id(*replies)) as server:
            return _reader(server.url).call_and_time(TOKEN, b"")

    def of(self, number: int, value: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": number, "result": value}

    @pytest.mark.parametrize("first", [0, 1])
    def test_in_whatever_order_they_come(self, first: int) -> None:
        replies = [self.of(1, self.CALLED), self.of(2, self.BLOCK)]
        assert self.ask(reply(200, [replies[first], replies[1 - first]])) == self.BOTH

    @pytest.mark.parametrize(
        "refusal",
        [
            reply(200, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches"}}),
            reply(400, {"error": "no batches"}),
            reply(405, {}),
            reply(200, []),
            reply(200, [{"jsonrpc": "2.0", "id": 1, "result": "0x"}]),
            reply(200, ["no", "reply"]),
            reply(200, [{"id": 1}, {"id": "x"}]),
        ],
    )
    def test_an_endpoint_without_batches_is_asked_twice_from_then_on(self, refusal: bytes) -> None:
        single = (reply(200, _result(self.CALLED)), reply(200, _result(self.BLOCK)))
        with raw_http(_after_chain_id(refusal, *single, *single)) as server:
            chain = _reader(server.url)
            assert chain.call_and_time(TOKEN, b"") == self.BOTH
            assert chain.call_and_time(TOKEN, b"") == self.BOTH

    @pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
    def test_any_other_refusal_is_one(self, status: int) -> None:
        good = reply(200, [self.of(1, self.CALLED), self.of(2, self.BLOCK)])
        with raw_http(_after_chain_id(reply(status, {}), good)) as server:
            chain = _reader(server.url)
            with pytest.raises(ChainError, match=f"HTTP {status}"):
                chain.call_and_time(TOKEN, b"")
            assert chain.call_and_time(TOKEN, b"") == self.BOTH

    @pytest.mark.parametrize(
        "replies",
        [
            [{"id": 1, "result": BLOCK}, {"id": 2, "result": CALLED}],
            [{"id": 1, "result": CALLED}, {"id": 2, "result": None}],
            [{"id": 1, "result": CALLED}, {"id": 2}],
            [{"id": 1, "result": CALLED}, {"id": 2, "error": {"code": -32000, "message": "pruned"}}],
        ],
    )
    def test_a_reply_that_is_none_is_no_answer(self, replies: list[Any]) -> None:
        with pytest.raises(ChainError):
            self.ask(reply(200, replies))

    def test_a_reverted_call_is_told(self) -> None:
        reverted = {"id": 1, "error": {"code": 3, "message": "execution reverted"}}
        with pytest.raises(CallRevertedError):
            self.ask(reply(200, [reverted, self.of(2, self.BLOCK)]))


class TestNonsense:
    """Whatever comes back is a value or one of our errors."""

    @pytest.mark.parametrize("number", range(len(NONSENSE)))
    def test_chain_id(self, number: int) -> None:
        with raw_http(answers(NONSENSE[number])) as server, pytest.raises(ChainError) as caught:
            _reader(server.url).require_chain()
        assert type(caught.value) is ChainError
        assert caught.value.field == "SESSION_EXECUTOR_RPC_URL"

    @pytest.mark.parametrize(
        "value", [None, {}, [], "0x", {"timestamp": None}, {"timestamp": 5}, {"timestamp": ""}]
    )
    def test_block(self, value: Any) -> None:
        with raw_http(_after_chain_id(reply(200, _result(value)))) as server, pytest.raises(ChainError):
            _reader(server.url).latest_block_time()

    def test_a_block_with_long_extra_data(self) -> None:
        block = {"timestamp": "0x65", "extraData": "0x" + "00" * 97}
        with raw_http(_after_chain_id(reply(200, _result(block)))) as server:
            assert _reader(server.url).latest_block_time() == 0x65

    @pytest.mark.parametrize("value", [None, 7, True, [], {}, "", "0", "0x0", "0xg0", "1234"])
    @pytest.mark.parametrize("read", ["call", "has_code", "erc20_balance"])
    def test_bytes(self, read: str, value: Any) -> None:
        with raw_http(_after_chain_id(reply(200, _result(value)))) as server, pytest.raises(ChainError):
            READS[read](_reader(server.url))

    @pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
    def test_a_token_that_is_none(self, size: int) -> None:
        words = f"returned {size} bytes, 32 expected"
        with (
            raw_http(_after_chain_id(reply(200, _result("0x" + "01" * size)))) as server,
            pytest.raises(ChainError, match=words),
        ):
            _reader(server.url).erc20_balance(TOKEN, ACCOUNT)

    def test_numbers_are_exact(self) -> None:
        word = (2**256 - 2).to_bytes(32, "big").hex()
        with raw_http(_after_chain_id(reply(200, _result("0x" + word)))) as server:
            chain = _reader(server.url)
            assert chain.erc20_balance(TOKEN, ACCOUNT) == 2**256 - 2
            with pytest.raises(ChainError, match="decimals"):
                chain.erc20_decimals(TOKEN)

    @pytest.mark.parametrize(
        ("error", "reverted"),
        [
            ({"code": 3, "message": "execution reverted: no", "data": "0x08c379a0"}, True),
            ({"code": -32000, "message": "execution reverted"}, True),
            ({"code": -32015, "message": "VM execution error. Reverted 0x"}, True),
            ({"code": -32005, "message": "daily request count exceeded"}, False),
            ({"code": -32000, "message": "header not found"}, False),
        ],
    )
    def test_a_revert_is_told_from_a_refusal(self, error: dict[str, Any], reverted: bool) -> None:
        with raw_http(_after_chain_id(reply(200, {"jsonrpc": "2.0", "id": 1, "error": error}))) as server:
            chain = _reader(server.url)
            with pytest.raises(ChainError) as caught:
                chain.call(TOKEN, b"")
            assert isinstance(caught.value, CallRevertedError) is reverted
            with pytest.raises(ChainError) as caught:
                chain.has_code(TOKEN)
            assert type(caught.value) is ChainError

    @given(st.one_of(st.binary(max_size=40), json_value().map(str.encode)), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_any_reply(self, body: bytes, wrapped: bool) -> None:
        body = b'{"jsonrpc":"2.0","id":1,"result":' + body + b"}" if wrapped else body
        for read in READS.values():
            with raw_http(_after_chain_id(reply(200, body))) as server, contextlib.suppress(ChainError):
                read(_reader(server.url))


class TestKeyUnseen:
    """A key in the endpoint's URL is in no error, nor in what hangs on it."""

    @pytest.mark.parametrize("read", READS)
    def test_however_it_breaks(self, read: str) -> None:
        error = {"code": -32000, "message": f"bad key {URL_KEY}", "data": URL_KEY}
        replies = [
            reply(401, URL_KEY),
            reply(200, URL_KEY),
            reply(307, b"", {"Location": f"http://127.0.0.1/{URL_KEY}"}),
            reply(200, {"jsonrpc": "2.0", "id": 0, "error": error}),
            reply(200, {"jsonrpc": "2.0", "id": 0, "error": {**error, "code": 3}}),
            reply(200, _result(URL_KEY)),
        ]
        with raw_http(answers(*replies)) as server:
            for _ in replies:
                self._check(lambda: READS[read](_behind_key(server)))
        with raw_http(Play()) as server:
            self._check(lambda: READS[read](_behind_key(server)))
        self._check(lambda: READS[read](_reader(f"http://127.0.0.1:{closed_port()}/{URL_KEY}")))

    def test_nor_in_what_is_printed_of_the_reader(self) -> None:
        assert URL_KEY not in repr(_reader(f"https://host.example/{URL_KEY}"))

    def _check(self, read: Callable[[], object]) -> None:
        with pytest.raises(ChainError) as caught:
            read()
        at: BaseException | None = caught.value
        while at is not None:
            shown = [repr(at), str(at), json.dumps(vars(at), default=str), *traceback.format_exception(at)]
            # the frames of this file hold the URL: only the error's own words count
            assert URL_KEY not in "".join(line for line in shown if "test_reader.py" not in line)
            at = at.__cause__ or at.__context__
