"""``accounts`` and ``sessions revoke`` as people use them; the bytes are compared with the SDK in ``tests/conformance``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from config.settings import get_settings
from tests.support.pipeline import PASSPHRASE
from tests.support.sessions import ACCOUNT, OWNER_KEY, key_of, make_session_file, usdc_transfer
from worker.cli.main import run
from worker.devnet.devnet import Devnet
from worker.execution.owner import OwnedAccount, send_as_owner, wait_for_execution
from worker.orchestrator.alps import AlpsOrchestrator
from worker.policies.base import Execution
from worker.sessions.accounts import derive_account, install_calls, uninstall_calls
from worker.sessions.model import EcdsaOwners
from worker.signing.session_signature import ACCOUNT_KINDS
from worker.signing.sign import address_of

Run = Callable[..., tuple[int, str, str]]
OWNERS = (address_of(key_of("owner")), address_of(key_of("second owner")))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run one command line in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        get_settings.cache_clear()
        capsys.readouterr()
        code = run(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    yield invoke
    get_settings.cache_clear()
    structlog.reset_defaults()


class TestDerive:
    """The account of some owners, without any service."""

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_json_is_what_a_session_file_needs(self, command: Run, kind: Any) -> None:
        code, out, err = command("accounts", "derive", "--owner", OWNERS[0], "--kind", kind, "--json")
        assert (code, err) == (0, "")
        found = json.loads(out)
        account = derive_account(EcdsaOwners(accounts=OWNERS[:1]), kind)
        assert found["address"].lower() == account.address
        assert found["kind"] == kind
        assert found["setup_ops"] == [{"to": found["factory"], "data": found["factory_data"]}]
        assert found["factory_data"] == "0x" + account.factory_data.hex()

    def test_every_option_reaches_the_address(self, command: Run) -> None:
        both = ("--owner", OWNERS[0], "--owner", OWNERS[1])
        lines = [
            ("--owner", OWNERS[0]),
            both,
            (*both, "--threshold", "2"),
            (*both, "--salt", "0x" + "11" * 32),
            (*both, "--nexus-version", "1.2.1"),
            (*both, "--no-sessions"),
            (*both, "--kind", "safe"),
            (*both, "--kind", "safe", "--salt-nonce", "1"),
        ]
        found = [command("accounts", "derive", *line) for line in lines]
        assert [code for code, _, _ in found] == [0] * len(lines)
        addresses = {out.splitlines()[0] for _, out, _ in found}
        assert len(addresses) == len(lines)
        assert all(address.startswith("address      0x") for address in addresses)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--owner", "0x12"), "--owner: '0x12' must be an address"),
            (("--owner", OWNERS[0], "--owner", OWNERS[0]), "--owner: names an owner twice"),
            (("--owner", OWNERS[0], "--threshold", "2"), "--threshold: 2 cannot be met by 1 owners"),
            (("--owner", OWNERS[0], "--salt", "0x11"), "--salt: must have 32 bytes, not 1"),
            (("--owner", OWNERS[0], "--salt", "11"), "--salt: '11' must be 0x"),
            (
                ("--owner", OWNERS[0], "--kind", "safe", "--salt", "0x" + "11" * 32),
                "--salt: a Safe has no salt",
            ),
            (("--owner", OWNERS[0], "--salt-nonce", "1"), "--salt-nonce: a nexus account has no salt nonce"),
            (("--owner", OWNERS[0], "--nexus-version", "9"), "--nexus-version: '9' is none"),
            ([f"--owner=0x{index:040x}" for index in range(33)], "--owner: is given 33 times"),
        ],
    )
    def test_a_mistake_is_one_line_that_names_the_option(
        self, command: Run, options: tuple[str, ...], words: str
    ) -> None:
        code, out, err = command("accounts", "derive", *options)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.splitlines()) == 1


class TestModules:
    """Calls for a deployed account."""

    @pytest.mark.parametrize("kind", ACCOUNT_KINDS)
    def test_install_and_uninstall(self, command: Run, kind: Any) -> None:
        def calls(*line: str) -> list[Execution]:
            code, out, _ = command("accounts", *line, "--kind", kind, "--json")
            assert code == 0
            return [
                Execution(call["to"].lower(), int(call["value"]), bytes.fromhex(call["data"][2:]))
                for call in json.loads(out)
            ]

        assert calls("install", ACCOUNT) == list(install_calls(kind, ACCOUNT))
        assert calls("uninstall", ACCOUNT) == list(uninstall_calls(kind, ACCOUNT))
        assert calls("install", ACCOUNT, "--executor")[: len(install_calls(kind, ACCOUNT))] == list(
            install_calls(kind, ACCOUNT)
        )
        assert len(calls("install", ACCOUNT, "--executor")) == len(install_calls(kind, ACCOUNT)) + 1

    def test_people_read_one_call_after_the_other(self, command: Run) -> None:
        code, out, _ = command("accounts", "install", ACCOUNT, "--kind", "kernel")
        assert code == 0
        assert [line for line in out.splitlines() if line.startswith("call")] == [
            "call 1 of 2, from the account itself:",
            "call 2 of 2, from the account itself:",
        ]

    def test_a_wrong_address_is_one_line(self, command: Run) -> None:
        code, _, err = command("accounts", "install", "0x12")
        assert code == 2
        assert "ADDRESS: '0x12' must be an address" in err


@pytest.mark.services
class TestRevoke:
    """The printed call, sent by the account's owner, ends the session on chain."""

    @pytest.fixture
    def session(
        self,
        devnet: Devnet,
        redis_url: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        command: Run,
    ) -> str:
        """An imported session of a funded account; its id."""
        for name, value in {
            "REDIS_URL": redis_url,
            "RPC_URL": devnet.rpc_url,
            "ORCHESTRATOR_URL": devnet.orchestrator_url,
            "ORCHESTRATOR_API_KEY": devnet.api_key,
            "KEYSTORE_DIR": str(tmp_path / "keys"),
            "KEYSTORE_PASSPHRASE": PASSPHRASE,
        }.items():
            monkeypatch.setenv(f"SESSION_EXECUTOR_{name}", value)
        monkeypatch.chdir(tmp_path)
        devnet.register_account(ACCOUNT, owners=[address_of(OWNER_KEY)], usdc=1_000_000)
        devnet.set_delays(preconfirm_ms=0, fill_ms=0, complete_ms=0)
        _, key, _ = command("keys", "create")
        until_ms = (int(time.time()) + 86_400) * 1000
        file = tmp_path / "session.json"
        file.write_text(
            make_session_file(
                OWNER_KEY, key.strip().lower(), actions=[usdc_transfer(1_000_000, valid_until_ms=until_ms)]
            )
        )
        code, out, err = command("sessions", "import", str(file))
        assert code == 0, err
        return out.strip()

    def send(self, devnet: Devnet, call: dict[str, str]) -> None:
        orchestrator = AlpsOrchestrator(devnet.orchestrator_url, api_key=devnet.api_key, timeout_ms=5_000)
        made = Execution(call["to"].lower(), int(call["value"]), bytes.fromhex(call["data"][2:]))
        intent_id = send_as_owner(orchestrator, OwnedAccount(ACCOUNT, "nexus", 8453), [OWNER_KEY], [made])
        wait_for_execution(orchestrator, intent_id, timeout_s=20)
        orchestrator.close()

    def test_an_enabled_session_is_not_enabled_afterwards(
        self, devnet: Devnet, session: str, command: Run
    ) -> None:
        _, out, _ = command("sessions", "enable", session, "--json")
        self.send(devnet, json.loads(out)["transaction"])
        assert json.loads(command("sessions", "show", session, "--json")[1])["enabled_on_chain"] is True

        code, out, err = command("sessions", "revoke", session, "--json")
        assert (code, err) == (0, "")
        revoked = json.loads(out)
        assert revoked["enabled"] is True
        assert revoked["call"]["from"].lower() == ACCOUNT
        self.send(devnet, revoked["call"])
        assert json.loads(command("sessions", "show", session, "--json")[1])["enabled_on_chain"] is False
        # the approval was for a nonce that is used up
        code, _, err = command("sessions", "enable", session)
        assert code == 1
        assert "approval is for enable nonce 0 and the account is at 2" in err

    def test_an_approval_that_is_not_used_yet_ends_too(
        self, devnet: Devnet, session: str, command: Run
    ) -> None:
        code, out, err = command("sessions", "revoke", session, "--json")
        assert code == 0
        assert "not enabled" in err
        self.send(devnet, json.loads(out)["call"])
        code, _, err = command("sessions", "enable", session)
        assert code == 1
        assert "the account is at 1" in err

    def test_people_are_told_how_long_it_works(self, session: str, command: Run) -> None:
        code, out, err = command("sessions", "revoke", session[:12])
        assert code == 0
        assert {line.split()[0] for line in out.splitlines()} == {"chain_id", "from", "to", "value", "data"}
        assert "it works until the account enables or revokes something else" in err
