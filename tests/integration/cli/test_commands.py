"""The command as operators and cron jobs use it: results, exit codes, one line for each mistake."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support.cli import PREFIX, Run, submit, write_session
from tests.support.e2e import COMMAND, run_command
from tests.support.pipeline import RECIPIENT
from tests.support.sessions import ACCOUNT, USDC, usdc_transfer
from worker.devnet.devnet import Devnet
from worker.devnet.stack import clean_environment


def without_owners(text: str) -> str:
    return json.dumps({name: value for name, value in json.loads(text).items() if name != "owners"})


def on_mainnet(text: str) -> str:
    return json.dumps(json.loads(text) | {"chain": 1})


BREAKS: list[tuple[Callable[[str], str], str]] = [
    (partial(re.sub, "100000000", "100000001"), "permissionId"),
    (partial(re.sub, r"}\s*$", ""), "session file"),
    (on_mainnet, "chain"),
    (without_owners, "owners"),
    (partial(re.sub, "spending-limits", "spending-limitz"), "policies[0]"),
    (partial(re.sub, '"kind"', '"kindd"'), "account"),
]


class TestKeys:
    """Made here; only the address is shown."""

    def test_create_and_list(self, command: Run, key: str) -> None:
        code, out, _ = command("keys", "list", "--json")
        assert code == 0
        assert [(entry["address"], entry["label"]) for entry in json.loads(out)] == [(key, "tests")]
        assert key in command("keys", "list")[1].replace("\n", "")

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"KEYSTORE_PASSPHRASE": ""}, "keystore_passphrase"),
            ({"KEY_STORE": "vault", "VAULT_TOKEN": "t", "VAULT_ADDR": "http://127.0.0.1:9"}, "vault"),
            ({"KEY_STORE": "vault"}, "vault"),
        ],
    )
    def test_a_store_that_cannot_work_is_one_line(
        self, command: Run, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], field: str
    ) -> None:
        for name, value in changes.items():
            monkeypatch.setenv(PREFIX + name, value)
        code, out, err = command("keys", "create")
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert field in err.lower()
        assert err.count("\n") == 1


class TestSessions:
    """Imported only if everything fits."""

    def test_import_is_idempotent_and_shown(
        self, command: Run, session: str, tmp_path: Path, key: str
    ) -> None:
        code, out, _ = command("sessions", "import", str(tmp_path / "session.json"))
        assert (code, out.split()[0]) == (0, session)
        listed = json.loads(command("sessions", "list", "--json")[1])
        assert [(entry["session_id"], entry["restricted"], entry["keys"]) for entry in listed] == [
            (session, True, [key])
        ]
        shown = json.loads(command("sessions", "show", session[:10], "--json")[1])
        assert shown["enabled_on_chain"] is False
        assert shown["actions"][0]["target"].lower() == USDC
        assert "spending-limits" in command("sessions", "show", session)[1]

    def test_enable_prints_a_transaction_that_enables(
        self, command: Run, session: str, devnet: Devnet
    ) -> None:
        call = json.loads(command("sessions", "enable", session, "--json")[1])["transaction"]
        sender = "0x" + "99" * 20
        devnet.fund(sender, eth=10**18)
        devnet.rpc.call("anvil_impersonateAccount", sender)
        devnet.rpc.call("eth_sendTransaction", {"from": sender, "to": call["to"], "data": call["data"]})
        assert json.loads(command("sessions", "enable", session, "--json")[1]) == {"enabled": True}
        assert json.loads(command("sessions", "show", session, "--json")[1])["enabled_on_chain"] is True

    def test_pause_and_resume(self, command: Run, session: str) -> None:
        for verb, paused in (("pause", True), ("resume", False)):
            assert command("sessions", verb, session)[0] == 0
            assert json.loads(command("sessions", "show", session, "--json")[1])["paused"] is paused

    @pytest.mark.parametrize(("change", "field"), BREAKS)
    def test_a_file_that_does_not_fit_is_refused_by_field(
        self, command: Run, key: str, tmp_path: Path, change: Callable[[str], str], field: str
    ) -> None:
        path = write_session(key, tmp_path / "session.json")
        path.write_text(change(path.read_text()))
        code, out, err = command("sessions", "import", str(path))
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert field in err
        assert err.count("\n") == 1
        assert json.loads(command("sessions", "list", "--json")[1]) == []

    def test_an_expired_session_and_a_foreign_key_are_refused(
        self, command: Run, key: str, tmp_path: Path
    ) -> None:
        old = write_session(
            key, tmp_path / "old.json", actions=[usdc_transfer(1, valid_until_ms=1_700_000_000_000)]
        )
        code, _, err = command("sessions", "import", str(old))
        assert code == 2
        assert "validUntil: the session expired at 2023-11-14" in err
        foreign = write_session("0x" + "ab" * 20, tmp_path / "foreign.json")
        code, _, err = command("sessions", "import", str(foreign))
        assert code == 2
        assert "owners.accounts[0]: " in err
        assert "is not the address of a key of ours" in err

    def test_the_endpoint_of_another_chain_is_refused(
        self, command: Run, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_session(key, tmp_path / "session.json", chain=84532)
        monkeypatch.setenv(PREFIX + "CHAIN_ID", "84532")
        code, _, err = command("sessions", "import", str(path))
        assert code == 1
        assert "SESSION_EXECUTOR_RPC_URL: the endpoint serves chain 8453" in err
        assert json.loads(command("sessions", "list", "--json")[1]) == []

    def test_an_unrestricted_session_is_imported_with_a_warning(
        self, command: Run, key: str, tmp_path: Path
    ) -> None:
        path = write_session(key, tmp_path / "s.json", restrict=False)
        code, _, err = command("sessions", "import", str(path), "--accept-risk", "unrestricted")
        assert code == 0
        assert "warning: this session is not restricted" in err

    def test_a_file_that_is_not_there(self, command: Run) -> None:
        code, _, err = command("sessions", "import", "nowhere.json")
        assert code == 2
        assert "FILE: nowhere.json cannot be read" in err


class TestIntents:
    """Queued once, seen, canceled."""

    def test_the_same_key_is_the_same_intent(self, command: Run, session: str) -> None:
        code, first, _ = submit(command, session)
        assert code == 0
        code, second, err = submit(command, session)
        assert (code, second) == (0, first)
        assert "used before" in err
        code, _, err = submit(command, session, amount="11 USDC")
        assert code == 2
        assert err.count("\n") == 1
        assert len(json.loads(command("intents", "list", "--json")[1])) == 1

    def test_what_is_queued_is_what_was_asked(self, command: Run, session: str) -> None:
        intent = submit(command, session, "--not-after", "2100-01-01T00:00:00Z")[1].strip()
        shown = json.loads(command("intents", "show", intent, "--json")[1])
        word = bytes(12).hex() + RECIPIENT[2:]
        assert shown["calls"] == [
            {
                "to": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
                "value": "0",
                "data": "0xa9059cbb" + word + f"{10_000_000:064x}",
            }
        ]
        assert shown["not_after"] == 4_102_444_800
        assert shown["state"] == "QUEUED"
        assert "QUEUED" in command("intents", "show", intent)[1]
        assert "QUEUED" in command("intents", "list", "--state", "QUEUED", "--session", session)[1]
        assert json.loads(command("intents", "list", "--state", "DEAD", "--json")[1]) == []

    def test_native_currency_and_raw_calls(self, command: Run, session: str) -> None:
        intent = submit(command, session, amount="0.5 ETH")[1].strip()
        calls = json.loads(command("intents", "show", intent, "--json")[1])["calls"]
        assert [(call["value"], call["data"]) for call in calls] == [("500000000000000000", "0x")]
        code, out, _ = command(
            *("intents", "submit", "--session", session, "--key", "raw", "--json"),
            *("--call", f"{RECIPIENT}:0:0x12345678", "--call", f"{RECIPIENT}:7:0x"),
        )
        assert code == 0
        calls = json.loads(command("intents", "show", json.loads(out)["intent_id"], "--json")[1])["calls"]
        assert [(call["value"], call["data"]) for call in calls] == [("0", "0x12345678"), ("7", "0x")]

    def test_cancel(self, command: Run, session: str) -> None:
        intent = submit(command, session)[1].strip()
        assert command("intents", "cancel", intent)[1].split() == [intent, "CANCELED"]
        code, _, err = command("intents", "cancel", intent)
        assert code == 1
        assert "is CANCELED and cannot be canceled any more" in err

    @pytest.mark.parametrize(
        ("options", "field", "words"),
        [
            (["--amount", "10 USDX"], "--amount", "is not known"),
            (["--amount", "10 usdc"], "--amount", "did you mean USDC"),
            (["--amount", "10.1234567 USDC"], "--amount", "more than the 6 decimals"),
            (["--amount", "-1 USDC"], "--amount", "is no amount"),
            (["--amount", "1e3 USDC"], "--amount", "is no amount"),
            (["--amount", "1,000 USDC"], "--amount", "is no amount"),
            (["--amount", "0 USDC"], "--amount", "is zero"),
            (["--amount", "10"], "--amount", "is no amount with a token"),
            (["--amount", f"{2**256} USDC"], "--amount", "more than 2**256-1"),
            (["--amount", "\u0661\u0660 USDC"], "--amount", "is no amount"),
            (["--amount", "NaN USDC"], "--amount", "is no amount"),
            (["--to", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914"], "--to", "checksum"),
            (["--to", "0x833589"], "--to", "must be an address"),
            (["--to", "vitalik.eth"], "--to", "must be an address"),
            (["--to", ""], "--to", "is missing"),
            (["--call", "0x12:0:0x"], "--call", "cannot go with"),
            (["--not-after", "tomorrow"], "--not-after", "is no time with a zone"),
            (["--not-after", "2030-01-01T00:00:00"], "--not-after", "is no time with a zone"),
            (["--not-after", "1600000000"], "--not-after", "is in the past"),
            (["--session", "ses_0000000000000000"], "--session", "is not registered"),
            (["--session", "ses_ff"], "--session", "names"),
            (["--session", "../../etc"], "--session", "names"),
            (["--key", "x" * 201], "--key", "200"),
            (["--key", "a\nb"], "--key", "cannot be printed"),
            (["--key", ""], "--key", "use 1 to 200"),
            (["--not-after", ""], "--not-after", "is no time with a zone"),
            (["--not-after", "0"], "--not-after", "is not between 1970"),
            (["--not-after", "1900000000000"], "--not-after", "is not between 1970"),
            (["--not-after", "0001-01-01T00:00:00+14:00"], "--not-after", "is not between 1970"),
            (["--to", USDC], "--to", "is the USDC contract itself"),
            (["--to", "0x" + "00" * 20], "--to", "is the zero address"),
            (["--to", ACCOUNT], "--to", "is the paying account itself"),
            (["--token", "USDC"], "--amount", "names a token, as token does"),
            (["--token", "USDX"], "--token", "is not known"),
        ],
    )
    def test_bad_input_is_one_line_that_names_the_option(
        self, command: Run, session: str, options: list[str], field: str, words: str
    ) -> None:
        given = {"--session": session, "--to": RECIPIENT, "--amount": "10 USDC", "--key": "k"}
        given[options[0]] = options[1]
        code, out, err = command("intents", "submit", *(part for pair in given.items() for part in pair))
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert err.startswith(f"error: {field}: ")
        assert words in err
        assert json.loads(command("intents", "list", "--json")[1]) == []

    @pytest.mark.parametrize(
        "text", ["0x12:0:0x", f"{RECIPIENT}:-1:0x", f"{RECIPIENT}:0:0x1", f"{RECIPIENT}:0"]
    )
    def test_a_bad_raw_call(self, command: Run, session: str, text: str) -> None:
        code, _, err = command("intents", "submit", "--session", session, "--call", text)
        assert code == 2
        assert "--call: number 0 is no call" in err

    def test_unknown_options_and_states_are_usage_errors(self, command: Run) -> None:
        assert command("intents", "list", "--state", "NOPE")[0] == 2
        assert command("intents", "submit", "--nope")[0] == 2
        assert command("nope")[0] == 2

    def test_an_intent_that_does_not_exist(self, command: Run) -> None:
        code, _, err = command("intents", "show", "int_0123456789abcdef_0123456789abcdef01234567")
        assert code == 2
        assert err.startswith("error: ")
        assert command("intents", "show", "nonsense")[0] == 2


class TestStrategies:
    """Listed, and run by hand once per slot."""

    @pytest.fixture
    def file(self, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "strategies.toml"
        path.write_text(
            f"""
            [[strategies]]
            name = "yearly"
            kind = "recurring-transfer"
            session = "{session}"
            cron = "0 0 1 1 *"
            to = "{RECIPIENT}"
            amount = "1 USDC"

            [[strategies]]
            name = "every-minute"
            kind = "recurring-transfer"
            session = "{session}"
            cron = "* * * * *"
            to = "{RECIPIENT}"
            amount = "1 USDC"
            not_after_s = 3600
            """
        )
        monkeypatch.setenv(PREFIX + "STRATEGIES_FILE", str(path))
        return path

    def test_list_and_run(self, command: Run, file: Path) -> None:
        listed = json.loads(command("strategies", "list", "--json")[1])
        assert [entry["name"] for entry in listed] == ["yearly", "every-minute"]
        assert all(entry["next"] > time.time() for entry in listed)
        assert "yearly" in command("strategies", "list")[1]
        assert command("strategies", "run", "yearly")[:2] == (0, "no slot is due\n")
        minute = time.time() // 60
        first = json.loads(command("strategies", "run", "every-minute", "--json")[1])
        second = json.loads(command("strategies", "run", "every-minute", "--json")[1])
        assert first["created"] is True
        if time.time() // 60 == minute:
            assert second == {"intent_id": first["intent_id"], "created": False}

    def test_a_broken_file_names_the_place(self, command: Run, file: Path) -> None:
        file.write_text(file.read_text().replace("0 0 1 1 *", "0 0 31 2 *"))
        code, _, err = command("strategies", "list")
        assert code == 2
        assert "strategies[0].cron: never fires" in err

    def test_an_unknown_strategy(self, command: Run, file: Path) -> None:
        code, _, err = command("strategies", "run", "daily")
        assert code == 2
        assert "known: yearly, every-minute" in err


class TestDoctor:
    """Everything is looked at, and what is wrong is named with its fix."""

    def test_all_is_well(self, command: Run, key: str) -> None:
        code, out, _ = command("doctor", "--json")
        findings = {finding["what"]: finding for finding in json.loads(out)}
        assert set(findings) == {
            "redis",
            "kill switches",
            "ledger",
            "key store",
            "orchestrator",
            "chain",
            "emissary",
            "token decimals",
            "clock",
        }
        assert [finding for finding in findings.values() if finding["status"] == "fail"] == []
        assert code == 0
        assert command("doctor")[0] == 0

    @pytest.mark.parametrize(
        ("name", "value", "what"),
        [
            ("REDIS_URL", "redis://127.0.0.1:9/0", "redis"),
            ("REDIS_URL", "redis://192.0.2.1:6379/0", "redis"),
            ("RPC_URL", "http://127.0.0.1:9", "chain"),
            ("CHAIN_ID", "1", "chain"),
            ("ORCHESTRATOR_URL", "http://127.0.0.1:9", "orchestrator"),
            ("ORCHESTRATOR_URL", "http://example.invalid", "orchestrator"),
            ("ORCHESTRATOR_API_KEY", "wrong", "orchestrator"),
            ("KEYSTORE_PASSPHRASE", "", "key store"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, command: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, what: str
    ) -> None:
        assert command("keys", "create")[0] == 0
        monkeypatch.setenv(PREFIX + name, value)
        code, out, _ = command("doctor", "--json")
        failed = [finding for finding in json.loads(out) if finding["status"] == "fail"]
        assert code == 1
        assert [finding["what"] for finding in failed] == [what]
        assert failed[0]["fix"]

    def test_a_setting_that_cannot_be_read_is_bad_input(
        self, command: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "CHAIN_ID", "base")
        code, _, err = command("doctor")
        assert code == 2
        assert err.startswith("error: SESSION_EXECUTOR_CHAIN_ID: ")


class TestProcess:
    """The installed command itself."""

    def test_redis_down_fails_within_five_seconds(
        self, environment: dict[str, str], session: str, tmp_path: Path
    ) -> None:
        down = clean_environment(environment | {PREFIX + "REDIS_URL": "redis://127.0.0.1:9/0"})
        started = time.monotonic()
        reply = run_command(
            *(down, tmp_path, "intents", "submit", "--session", session),
            *("--to", RECIPIENT, "--amount", "10 USDC", "--key", "k"),
        )
        # 5 s is what it takes at most on a machine that is free; what counts here is that it does not hang
        assert time.monotonic() - started < 30
        assert (reply.returncode, reply.stdout) == (1, "")
        assert reply.stderr.startswith("error: ")
        assert "redis" in reply.stderr.lower()
        assert reply.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("version",), 0),
            (("--help",), 0),
            (("keys", "list", "--json"), 0),
            (("sessions", "show", "x"), 2),
        ],
    )
    def test_exit_codes(
        self, environment: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], code: int
    ) -> None:
        reply = run_command(clean_environment(environment), tmp_path, *arguments)
        assert reply.returncode == code
        assert "Traceback" not in reply.stderr

    def test_devnet_prints_settings_and_ends_on_interrupt(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        with subprocess.Popen(
            [COMMAND, "devnet"],
            env=clean_environment(environment),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(4)]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in {0, 130}
        assert [line.partition("=")[0] for line in lines] == [
            "SESSION_EXECUTOR_RPC_URL",
            "SESSION_EXECUTOR_CHAIN_ID",
            "SESSION_EXECUTOR_ORCHESTRATOR_URL",
            "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY",
        ]
