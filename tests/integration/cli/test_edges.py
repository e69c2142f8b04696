"""What operators meet on a bad day: spent limits, dead approvals, services that are down, slow or wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from config.settings import get_settings
from tests.support.cli import PREFIX, Run, submit, write_session
from tests.support.e2e import run_command
from tests.support.leaks import spellings
from tests.support.pipeline import PASSPHRASE, RECIPIENT, Pipeline
from tests.support.raw_http import Play, raw_http
from tests.support.sessions import ACCOUNT, OWNER_KEY, USDC, key_of, make_session_file, usdc_transfer
from worker.cli import doctor
from worker.devnet.devnet import Devnet
from worker.devnet.stack import clean_environment
from worker.devnet.valkey import LocalRedis
from worker.keys.keystore import KeystoreFiles
from worker.policies import SpendingLimits, TimeFrame, TokenLimit, UsageLimit, ValueLimit
from worker.sessions.emissary import get_nonce_call
from worker.sessions.file import load_session_file
from worker.sessions.importing import recompute
from worker.sessions.model import Action
from worker.signing.contracts import SMART_SESSION_EMISSARY
from worker.signing.sign import address_of

NOWHERE = "http://127.0.0.1:9"


@contextmanager
def working(pipeline: Pipeline) -> Generator[None]:
    """A worker in a thread; it finds the command's intents in the due index, since no Celery runs."""
    ended = threading.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            pipeline.until(ended.is_set, timeout_s=60)
        except BaseException as error:  # noqa: BLE001 - shown by the test's thread
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert failure == []


def set_nonce(devnet: Devnet, account: str, nonce: int) -> None:
    """Write the account's enable nonce into the emissary's storage, where a real one counts up to it."""
    for place in range(16):
        inner = keccak(encode(["address", "uint256"], [account, place]))
        slot = "0x" + keccak(encode(["bytes12", "bytes32"], [bytes(12), inner])).hex()
        before = devnet.rpc.call("eth_getStorageAt", SMART_SESSION_EMISSARY, slot, "latest")
        devnet.rpc.call("anvil_setStorageAt", SMART_SESSION_EMISSARY, slot, f"0x{nonce:064x}")
        call = {"to": SMART_SESSION_EMISSARY, "data": "0x" + get_nonce_call(account).hex()}
        if devnet.rpc.quantity("eth_call", call, "latest") == nonce:
            return
        devnet.rpc.call("anvil_setStorageAt", SMART_SESSION_EMISSARY, slot, before)
    raise AssertionError("the nonce lies elsewhere")


class TestWait:
    """``--wait`` follows the intent to its end and tells it by the exit code."""

    @pytest.fixture
    def pipeline(self, devnet: Devnet, redis_url: str, tmp_path: Path, environment: object) -> Pipeline:
        return Pipeline(devnet, redis_url, tmp_path, limit=15_000_000)

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "STUCK_AFTER_MS", "1")

    def test_completed_is_0_and_a_refusal_is_1_with_its_reason(
        self, command: Run, pipeline: Pipeline, devnet: Devnet
    ) -> None:
        session = pipeline.session.session_id
        with working(pipeline):
            code, out, err = submit(command, session, "--wait", key="first")
            assert (code, err) == (0, "")
            assert out.splitlines()[1] == "COMPLETED"
            code, out, err = submit(command, session, "--wait", "--json", key="second")
        assert code == 1
        record = json.loads(out)
        assert err == f"waiting for {record['intent_id']}\n"
        assert record["state"] == "REJECTED"
        assert "15.00 USDC allowed, 10.00 spent or reserved, this call takes 10.00" in record["reason"]
        assert devnet.usdc_balance(RECIPIENT) == 10_000_000

        # what is spent, reserved and left, for people and for programs
        budgets = json.loads(command("sessions", "show", session, "--json")[1])["budgets"]
        spent = [budget for budget in budgets if budget["policy"] == "spending-limits"]
        assert [(b["limit"], b["spent"], b["reserved"]) for b in spent] == [("15000000", "10000000", "0")]
        shown = command("sessions", "show", session)[1]
        row = next(line for line in shown.splitlines() if "│ spending-limits │" in line)
        assert [cell.strip() for cell in row.split("│")][2:8] == [
            "spending-limits",
            "[#############-------]  66 %",
            "15 USDC",
            "10 USDC",
            "0 USDC",
            "5 USDC",
        ]
        assert "on chain    enabled" in shown

        # signatures and quotes are in the record and nowhere else
        intent = json.loads(command("intents", "list", "--state", "COMPLETED", "--json")[1])[0]["intent_id"]
        body = pipeline.ledger.get(intent).body
        assert len(body) > 500
        for arguments in (("show", intent), ("show", intent, "--json"), ("list",), ("list", "--json")):
            text = "".join(command("intents", *arguments)[1:])
            assert "signature" not in text.lower()
            assert "intentOp" not in text
        code, _, err = command("intents", "cancel", intent)
        assert code == 1
        assert "is COMPLETED" in err

    def test_it_says_once_that_a_person_should_look(
        self, command: Run, pipeline: Pipeline, devnet: Devnet
    ) -> None:
        devnet.add_fault("respond", path="/intents/route", status=401, times=2)
        with working(pipeline):
            code, _, err = submit(command, pipeline.session.session_id, "--wait")
        assert code == 0
        assert err.count("needs attention: ORCHESTRATOR_AUTH") == 1


class TestSubmit:
    """The ways to say the same thing."""

    def test_token_and_amount_apart_are_the_same_intent(self, command: Run, session: str) -> None:
        first = submit(command, session)[1]
        for token in ("USDC", USDC, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"):
            code, again, err = submit(command, session, "--token", token, amount="10.000000")
            assert (code, again) == (0, first)
            assert "already there" in err

    def test_without_a_key_one_is_made_and_shown(self, command: Run, session: str) -> None:
        transfer = ("intents", "submit", "--session", session, "--to", RECIPIENT, "--amount", "10 USDC")
        code, first, err = command(*transfer)
        assert code == 0
        key = err.split()[2].rstrip(":")
        assert command(*transfer)[1] != first
        assert command(*transfer, "--key", key)[1] == first

    def test_zones_are_converted_exactly(self, command: Run, session: str) -> None:
        times = ("2100-01-01T00:00:00Z", "2100-01-01T02:00:00+02:00", "4102444800")
        ids = {submit(command, session, "--not-after", text)[1] for text in times}
        assert len(ids) == 1
        assert submit(command, session, "--not-after", "2100-01-01T00:00:00+02:00")[0] == 2

    def test_fees_are_part_of_what_is_asked(self, command: Run, session: str) -> None:
        assert submit(command, session)[0] == 0
        code, _, err = submit(command, session, "--unsponsored")
        assert code == 2
        assert err.startswith("error: --key: 'k' is the key of int_")

    def test_a_prefix_names_a_session_only_if_it_is_the_only_one(
        self, command: Run, key: str, tmp_path: Path
    ) -> None:
        """Two sessions whose ids begin alike, found by trying limits."""
        seen: dict[str, tuple[str, str]] = {}
        for limit in range(1, 5_000):
            until_ms = (int(time.time()) // 3600 + 24) * 3_600_000
            text = make_session_file(
                OWNER_KEY, key.lower(), actions=[usdc_transfer(limit, valid_until_ms=until_ms)]
            )
            name = recompute(load_session_file(text)).session_id
            if name[:8] in seen:
                break
            seen[name[:8]] = (name, text)
        else:
            raise AssertionError("no two ids begin alike")
        for number, content in enumerate((seen[name[:8]][1], text)):
            path = tmp_path / f"{number}.json"
            path.write_text(content)
            assert command("sessions", "import", str(path))[0] == 0
        code, _, err = submit(command, name[:8])
        assert code == 2
        assert err.startswith(f"error: --session: '{name[:8]}' names 2 sessions (give more digits")
        for unique in (name[:19], name[4:19]):
            assert submit(command, unique)[0] == 0
        assert {i["session_id"] for i in json.loads(command("intents", "list", "--json")[1])} == {name}


class TestSessionFiles:
    """What the chain says counts, and its absence is said."""

    def test_every_policy_is_told_in_words(self, command: Run, key: str, tmp_path: Path) -> None:
        until_ms = 4_102_444_800_000
        action = Action(
            target=USDC,
            selector=bytes.fromhex("095ea7b3"),
            policies=(
                SpendingLimits(limits=(TokenLimit(token=USDC, amount=1_500_000),)),
                TimeFrame(valid_until=until_ms, valid_after=0),
                UsageLimit(limit=3),
                ValueLimit(limit=10**17),
            ),
        )
        path = write_session(key, tmp_path / "s.json", actions=[action])
        accepted = ("--accept-risk", "any-spender", "--accept-risk", "long-window")
        session = command("sessions", "import", str(path), *accepted)[1].strip()
        shown = command("sessions", "show", session)[1]
        for words in (
            "approve(address,uint256)",
            "spending-limits: 1.5 USDC",
            "time-frame: until 2100-01-01 00:00:00 UTC",
            "usage-limit: 3 calls",
            "value-limit: 0.1 ETH",
            "restricted  yes",
            "on chain    not enabled yet; the first intent carries the approval",
        ):
            assert words in shown

    def test_from_standard_input(self, environment: dict[str, str], key: str, tmp_path: Path) -> None:
        text = write_session(key, tmp_path / "s.json").read_text()
        reply = run_command(
            clean_environment(environment), tmp_path, "sessions", "import", "-", "--json", stdin=text
        )
        assert (reply.returncode, reply.stderr) == (0, "")
        assert json.loads(reply.stdout)["created"] is True
        reply = run_command(clean_environment(environment), tmp_path, "sessions", "import", "-", stdin="")
        assert reply.returncode == 2
        assert reply.stderr.startswith("error: session file: ")

    def test_a_file_without_a_nonce_uses_the_chains(
        self, command: Run, key: str, devnet: Devnet, tmp_path: Path
    ) -> None:
        """The account's nonce is beyond those that are found by trying."""
        path = write_session(key, tmp_path / "s.json", nonce=1_000)
        claims = json.loads(path.read_text())
        del claims["nonce"]
        path.write_text(json.dumps(claims))
        code, _, err = command("sessions", "import", str(path))
        assert code == 2
        assert "is not the digest of this session for any nonce that was tried" in err
        set_nonce(devnet, ACCOUNT, 1_000)
        code, out, err = command("sessions", "import", str(path))
        assert (code, err) == (0, "")
        assert command("sessions", "enable", out.strip())[0] == 0

    def test_an_approval_that_was_used_up_is_said_at_once(
        self, command: Run, key: str, devnet: Devnet, tmp_path: Path
    ) -> None:
        set_nonce(devnet, ACCOUNT, 7)
        code, out, err = command("sessions", "import", str(write_session(key, tmp_path / "s.json")))
        assert code == 0
        assert (
            "warning: it cannot be used yet: session: is not enabled on chain, and the approval is for" in err
        )
        assert "the account is at 7" in command("sessions", "show", out.strip())[1]
        code, out, err = command("sessions", "enable", out.strip())
        assert (code, out) == (1, "")
        assert "the transaction would revert" in err

    def test_a_chain_that_is_down_is_a_warning(
        self, command: Run, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "RPC_URL", NOWHERE)
        code, out, err = command("sessions", "import", str(write_session(key, tmp_path / "s.json")))
        assert code == 0
        assert err.startswith("warning: not compared with the chain: SESSION_EXECUTOR_RPC_URL: ")
        shown = json.loads(command("sessions", "show", out.strip(), "--json")[1])
        assert shown["enabled_on_chain"] is None
        assert "not compared with the chain" in shown["attention"]
        code, _, err = command("sessions", "enable", out.strip())
        assert code == 1
        assert err.startswith("error: SESSION_EXECUTOR_RPC_URL: ")

    def test_a_damaged_session_is_shown_beside_the_others(
        self, command: Run, session: str, key: str, tmp_path: Path, redis_url: str
    ) -> None:
        other = command(
            "sessions",
            "import",
            str(
                write_session(
                    key, tmp_path / "o.json", actions=[usdc_transfer(5, valid_until_ms=4_102_444_800_000)]
                )
            ),
            *("--accept-risk", "long-window"),
        )[1].strip()
        with redis.Redis.from_url(redis_url) as client:
            client.hset(f"sx:{{{session[4:]}}}:session", "sha256", "0" * 64)
        code, out, err = command("sessions", "list", "--json")
        assert code == 0
        assert [entry["session_id"] for entry in json.loads(out)] == [other]
        assert f"warning: session: {session} must not be used: its seal does not fit its content" in err
        code, _, err = submit(command, session)
        assert code == 1
        assert "must not be used" in err
        assert submit(command, other)[0] == 0


class TestDoctor:
    """One line for each service, in bounded time, with the fix."""

    @staticmethod
    def look(command: Run) -> tuple[int, dict[str, dict[str, str]]]:
        code, out, _ = command("doctor", "--json")
        return code, {finding["what"]: finding for finding in json.loads(out)}

    def test_redis_that_may_lose_the_books(
        self, command: Run, key: str, own_redis: LocalRedis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "REDIS_URL", own_redis.url)
        with redis.Redis.from_url(own_redis.url) as client:
            client.config_set("appendonly", "no")
            code, found = self.look(command)
            assert (code, found["redis"]["status"]) == (0, "warn")
            assert "keeps no append-only file" in found["redis"]["detail"]
            assert "appendonly yes" in found["redis"]["fix"]
            client.config_set("maxmemory-policy", "allkeys-lru")
            code, found = self.look(command)
            assert (code, found["redis"]["status"]) == (1, "fail")
            assert "maxmemory-policy noeviction" in found["redis"]["fix"]

    def test_another_token_and_no_emissary(self, command: Run, key: str, devnet: Devnet) -> None:
        # PUSH1 18, PUSH0, MSTORE, PUSH1 32, PUSH0, RETURN: a token that always says 18
        devnet.rpc.call("anvil_setCode", USDC, "0x60125f5260205ff3")
        code, found = self.look(command)
        assert code == 1
        assert [what for what, finding in found.items() if finding["status"] == "fail"] == ["token decimals"]
        assert "says 18 decimals, the list says 6" in found["token decimals"]["detail"]
        devnet.rpc.call("anvil_setCode", SMART_SESSION_EMISSARY, "0x")
        _, found = self.look(command)
        assert found["emissary"]["status"] == "fail"

    def test_another_chain_leaves_the_rest_unasked(
        self, command: Run, key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "CHAIN_ID", "10")
        code, found = self.look(command)
        assert code == 1
        assert found["chain"]["status"] == "fail"
        assert "SESSION_EXECUTOR_CHAIN_ID" in found["chain"]["fix"]
        for what in ("emissary", "token decimals", "clock"):
            assert (found[what]["status"], found[what]["detail"]) == ("warn", "not looked at: chain failed")
        assert found["orchestrator"]["status"] == "ok"

    def test_an_endpoint_that_never_ends_its_answer_holds_up_nobody(
        self, environment: dict[str, str], key: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drip = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", *([b" ", 0.2] * 25)]
        with raw_http(lambda _: Play(send=drip)) as server:
            monkeypatch.setenv(PREFIX + "RPC_URL", server.url)
            get_settings.cache_clear()
            found = {finding.what: finding for finding in doctor.examine(get_settings(), bound_s=2)}
        assert found["chain"].status == "fail"
        assert found["chain"].detail == "no answer within 2 s"
        assert [found[what].status for what in ("redis", "key store", "orchestrator")] == ["ok"] * 3

    def test_a_table_says_the_same(self, command: Run, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "ORCHESTRATOR_API_KEY", "wrong")
        code, out, _ = command("doctor")
        assert code == 1
        row = next(line for line in out.splitlines() if line.startswith("│ orchestrator"))
        assert "FAILED" in row
        assert "wrong" not in row


class TestRedisDown:
    """An enqueue answers within 5 s, whatever is wrong with Redis: the promise, not a benchmark."""

    @pytest.fixture
    def broken(self, own_redis: LocalRedis) -> dict[str, Callable[[], str]]:
        def paused() -> str:
            own_redis.pause()
            return own_redis.url

        return {
            "paused": paused,
            "wrong password": lambda: f"redis://:wrong@127.0.0.1:{own_redis.port}/0",
            "no such host": lambda: "rediss://:x@redis.invalid:6379/0",
        }

    @pytest.mark.parametrize("how", ["paused", "wrong password", "no such host"])
    def test_submit_fails_in_time(
        self,
        command: Run,
        monkeypatch: pytest.MonkeyPatch,
        broken: dict[str, Callable[[], str]],
        how: str,
    ) -> None:
        monkeypatch.setenv(PREFIX + "REDIS_URL", broken[how]())
        started = time.monotonic()
        code, out, err = submit(command, "ses_0123456789abcdef")
        assert (
            time.monotonic() - started < 30
        )  # 5 s on a machine that is free; without a bound it waits for ever
        assert (code, out) == (1, "")
        assert err.startswith("error: redis: ")
        assert err.count("\n") == 1
        assert ":wrong" not in err


def test_no_command_shows_a_secret(
    command: Run, key: str, session: str, tmp_path: Path, redis_url: str
) -> None:
    """At DEBUG, too; the command's fixture looks for the passphrase and the API key in each answer."""
    with KeystoreFiles(tmp_path / "keys", lambda: PASSPHRASE).get(key) as held:
        secrets = spellings(held.use())
    password = redis_url.rpartition("@")[0].rpartition(":")[2]
    secrets |= {password} if password else set()
    intent = submit(command, session)[1].strip()
    for arguments in (
        ("keys", "list"),
        ("sessions", "list"),
        ("sessions", "show", session),
        ("sessions", "enable", session),
        ("intents", "list"),
        ("intents", "show", intent),
        ("intents", "cancel", intent),
        ("strategies", "list"),
        ("doctor",),
    ):
        for form in (arguments, (*arguments, "--json")):
            code, out, err = command("--debug", *form)
            for secret in secrets:
                assert secret not in out + err, arguments
            if form[-1] == "--json" and code == 0:
                json.loads(out)


def test_a_foreign_key_of_a_label_is_refused(command: Run, key: str, tmp_path: Path) -> None:
    """Several owners: every one of them must be ours, and the one that is not is named."""
    path = tmp_path / "two.json"
    until_ms = (int(time.time()) + 86_400) * 1000
    path.write_text(
        make_session_file(
            OWNER_KEY,
            [key.lower(), address_of(key_of("somebody else's session key"))],
            actions=[usdc_transfer(1, valid_until_ms=until_ms)],
            threshold=2,
        )
    )
    code, out, err = command("sessions", "import", str(path))
    assert (code, out) == (2, "")
    assert err.startswith("error: owners.accounts[1]: ")
