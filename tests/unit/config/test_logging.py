"""``configure_logging``: every logger of the process writes through redaction, tracebacks included.

Each test runs a script in a process of its own, since logging is global; the scripts use the real libraries.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from config.logging import configure_logging, secrets_of
from config.redaction import MASK
from config.settings import Settings, SettingsError
from tests.support.leaks import spellings
from worker.keys.secp256k1 import address_of

ROOT = Path(__file__).parents[3]
KEY = keccak(b"session-executor test logging key")
API_KEY = keccak(b"session-executor test api key").hex()[:24]
RPC_KEY = keccak(b"session-executor test rpc key").hex()[:32]
TOKEN = f"hvs.{keccak(b'session-executor test vault token').hex()[:28]}"
SECRET_ID = keccak(b"session-executor test secret id").hex()[:20]
PASSWORD = "correct-horse"
SIGNATURE = "0x" + (KEY + keccak(KEY)).hex() + "1b"

PREAMBLE = f"""
import logging, sys
from config.logging import configure_logging
KEY = bytes.fromhex("{KEY.hex()}")
API_KEY, RPC_KEY, TOKEN, SECRET_ID = "{API_KEY}", "{RPC_KEY}", "{TOKEN}", "{SECRET_ID}"
PASSWORD, SIGNATURE = "{PASSWORD}", "{SIGNATURE}"
"""


def run(script: str, *, env: dict[str, str] | None = None) -> str:
    """Standard output and error of the script, after proving that no secret of this file is in them."""
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(script)],
        cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)} | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    for secret in (KEY, API_KEY, RPC_KEY, TOKEN, SECRET_ID, PASSWORD, SIGNATURE):
        for spelling in spellings(secret):
            assert spelling not in output, output
    return output


class TestOwnLines:
    """Our own events, as text and as JSON."""

    def test_json_is_one_object_per_line_with_level_logger_and_utc_time(self) -> None:
        lines = run(
            """
            import structlog
            configure_logging("info", json=True, secrets=[])
            structlog.contextvars.bind_contextvars(intent_id="int_1")
            log = structlog.get_logger("worker.execution")
            log.info("signed", address="0x" + "ab" * 20, private_key=KEY.hex(), amount=10**7, two="a\\nb")
            log.debug("not shown")
            """
        ).splitlines()
        (line,) = (json.loads(text) for text in lines)
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "event": "signed",
            "level": "info",
            "logger": "worker.execution",
            "intent_id": "int_1",
            "address": f"0x{'ab' * 20}",
            "private_key": MASK,
            "amount": 10**7,
            "two": "a\nb",
        }

    def test_text_is_readable_and_without_colours_when_it_is_no_terminal(self) -> None:
        output = run(
            """
            import structlog
            configure_logging("INFO", secrets=[])
            structlog.get_logger("worker").info("signed", state="SIGNED", signature=SIGNATURE)
            """
        )
        assert "signed" in output
        assert "state=SIGNED" in output
        assert f"signature={MASK}" in output
        assert "\x1b[" not in output

    @pytest.mark.parametrize("as_json", [True, False])
    def test_tracebacks_have_no_locals_and_masked_messages(self, as_json: bool) -> None:
        output = run(
            f"""
            import structlog
            configure_logging("INFO", json={as_json}, secrets=[])
            def sign(key):
                local = key.hex()
                raise ValueError(f"bad key {{local}}")
            for log in (structlog.get_logger("ours"), logging.getLogger("theirs")):
                try:
                    try:
                        sign(KEY)
                    except ValueError as error:
                        raise RuntimeError({{"private_key": KEY}}) from error
                except RuntimeError:
                    log.exception("signing failed")
            """
        )
        assert output.count("in sign") == 2
        assert output.count("bad key [32 bytes]") == 2
        assert output.count("signing failed") == 2

    @pytest.mark.parametrize("as_json", [True, False])
    def test_what_nobody_catches_is_masked_in_every_thread(self, as_json: bool) -> None:
        output = run(
            f"""
            import atexit, faulthandler, os, threading
            configure_logging("INFO", json={as_json}, secrets=[PASSWORD])
            def fail(key=KEY):
                local = key.hex()
                faulthandler.dump_traceback()
                raise ValueError(f"{{PASSWORD}} and {{local}}")
            class Held:
                def __repr__(self):
                    return PASSWORD
                def __del__(self):
                    fail()
            thread = threading.Thread(target=fail, name="keep-token")
            thread.start()
            thread.join()
            Held()
            atexit.register(os._exit, 0)  # the script ends as it should for this test
            fail()
            """
        )
        assert output.count("nobody caught this") == 3
        for where in ("keep-token", "while cleaning up", "main"):
            assert f"nobody caught this ({where})" in output
        assert output.count("ValueError: ") == 3

    def test_a_hook_of_a_crash_reporter_stays(self) -> None:
        output = run(
            """
            import threading
            sys.excepthook = threading.excepthook = sys.unraisablehook = print
            configure_logging("INFO", secrets=[])
            print(sys.excepthook is threading.excepthook is sys.unraisablehook is print)
            """
        )
        assert output == "True\n"

    def test_a_second_call_replaces_the_first(self) -> None:
        lines = run(
            """
            import structlog
            log = structlog.get_logger("ours")
            configure_logging("INFO", secrets=[])
            log.info("first")
            configure_logging("WARNING", json=True, secrets=["known-secret"])
            log.info("hidden")
            log.warning("second known-secret")
            """
        ).splitlines()
        assert len(lines) == 2
        assert json.loads(lines[1])["event"] == f"second {MASK}"

    def test_a_line_that_cannot_be_written_is_not_shown(self) -> None:
        output = run(
            """
            configure_logging("INFO", secrets=[])
            logging.getLogger("theirs").info("%d", "0x" + KEY.hex())
            """
        )
        assert output == "a log line of theirs could not be written: TypeError\n"

    @pytest.mark.parametrize("level", ["", "LOUD", "10"])
    def test_an_unknown_level_names_the_setting(self, level: str) -> None:
        with pytest.raises(SettingsError, match="SESSION_EXECUTOR_LOG_LEVEL"):
            configure_logging(level)


class TestLibraries:
    """The libraries that talk to services, at DEBUG."""

    def test_http_clients_vault_rpc_and_redis(self) -> None:
        output = run(
            """
            configure_logging("DEBUG", secrets=[])
            import httpx, hvac, redis, requests
            from web3 import Web3
            from tests.support.http_stub import Answer, http_stub

            def answer(seen):
                if seen.path.startswith("/v1/auth"):
                    return Answer(body={"auth": {"client_token": TOKEN}})
                if seen.path.startswith("/v1/secret"):
                    return Answer(body={"data": {"data": {"private_key": KEY.hex()}}})
                return Answer(body={"jsonrpc": "2.0", "id": 0, "result": "0x2105"})

            with http_stub(answer) as stub:
                with httpx.Client(headers={"x-api-key": API_KEY}) as client:
                    client.post(f"{stub.url}/intents?apikey={API_KEY}", json={"signature": SIGNATURE})
                    logging.getLogger("ours").debug("request %r", dict(client.headers))
                    logging.getLogger("ours").debug("raw %r", client.headers.raw)
                requests.post(f"{stub.url}/v2/{RPC_KEY}", headers={"X-Vault-Token": TOKEN}, json={"k": KEY.hex()})
                vault = hvac.Client(url=stub.url, token=TOKEN)
                vault.auth.approle.login("role", SECRET_ID)
                found = vault.secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)
                logging.getLogger("ours").debug("found %s", found)
                web3 = Web3(Web3.HTTPProvider(f"{stub.url}/v2/{RPC_KEY}"))
                assert web3.eth.chain_id == 8453
            try:
                redis.Redis.from_url(f"redis://:{PASSWORD}@127.0.0.1:1/0").ping()
            except redis.ConnectionError:
                logging.getLogger("ours").exception("redis://:%s@127.0.0.1:1/0", PASSWORD)
            """
        )
        # each library did log
        for name in ("httpx", "httpcore", "urllib3.connectionpool", "web3.providers.HTTPProvider"):
            assert name in output
        assert f"/v2/{MASK}" in output
        assert "eth_chainId" in output
        assert f"?apikey={MASK}" in output

    def test_a_real_celery_worker(self) -> None:
        output = run(
            """
            from celery import Celery
            from celery.contrib.testing.worker import start_worker
            from celery.signals import setup_logging
            from celery.utils.log import get_task_logger
            import celery.contrib.testing.tasks

            app = Celery("t", broker="memory://", backend="cache+memory://")
            app.conf.worker_hijack_root_logger = True

            @app.task
            def sign(number):
                get_task_logger("tasks").info("signing with %s", KEY.hex())
                print("printed", flush=True)
                raise ValueError(f"bad key {KEY.hex()}")

            @app.task
            def give():
                return {"private_key": KEY.hex()}

            @setup_logging.connect
            def configure(**_):
                configure_logging("DEBUG", json=True, secrets=[])

            with start_worker(app, perform_ping_check=False, loglevel="DEBUG", pool="solo", logfile=None):
                for task, args in ((sign, [7]), (give, [])):
                    result = task.apply_async(args)
                    try:
                        result.get(timeout=60)
                    except ValueError:
                        pass
            """
        )
        events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        by_logger = {event["logger"] for event in events}
        assert {"tasks", "celery.app.trace", "celery.worker.strategy"} <= by_logger
        (failure,) = [event for event in events if "raised unexpected" in event["event"]]
        assert "bad key [32 bytes]" in failure["exception"]
        assert any(event["event"] == "signing with [32 bytes]" for event in events)
        assert any("succeeded" in event["event"] for event in events)

    def test_loggers_with_handlers_of_their_own_are_taken_over(self) -> None:
        output = run(
            """
            early = logging.getLogger("early")
            early.addHandler(logging.StreamHandler(sys.stdout))
            early.propagate = False
            configure_logging("DEBUG", secrets=[])
            early.warning("with %s", KEY.hex())
            import warnings
            warnings.warn(f"deprecated {KEY.hex()}")
            """
        )
        assert output.count("with [32 bytes]") == 1
        assert "deprecated [32 bytes]" in output

    def test_celerys_proxy_for_standard_error_does_not_swallow_lines(self) -> None:
        output = run(
            """
            from celery.utils.log import LoggingProxy
            sys.stderr = LoggingProxy(logging.getLogger("celery.redirected"))
            configure_logging("INFO", secrets=[])
            logging.getLogger("ours").info("written")
            print("printed", file=sys.stderr)
            """
        )
        assert "written" in output
        assert "printed" in output


class TestSettings:
    """The process's own secrets are known to redaction without being told."""

    def test_secrets_of_the_environment(self) -> None:
        output = run(
            """
            configure_logging("INFO")
            log = logging.getLogger("ours")
            for text in ("correct-horse", "plain-token-words", "plain-api-words", "onlylowercaseletters-x1"):
                log.info("see %s there", text)
            """,
            env={
                "SESSION_EXECUTOR_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:6379/0",
                "SESSION_EXECUTOR_VAULT_TOKEN": "plain-token-words",
                "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY": "plain-api-words",
                "SESSION_EXECUTOR_RPC_URL": "https://rpc.example.org/onlylowercaseletters-x1",
            },
        )
        assert output.count(f"see {MASK} there") == 4

    def test_unusable_settings_do_not_stop_logging(self) -> None:
        assert "written" in run(
            """
            configure_logging("INFO")
            logging.getLogger("ours").info("written")
            """,
            env={"SESSION_EXECUTOR_CHAIN_ID": "none"},
        )

    def test_every_secret_setting_is_among_them(self) -> None:
        names = [
            name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
        ]
        values: dict[str, Any] = {name: f"secret-{name}" for name in names}
        expected = set(values.values())
        values["source_rpc_urls"] = {10: "secret-source_rpc_urls"}
        assert expected == set(secrets_of(Settings(_env_file=None, **values)))  # type: ignore[call-arg]
        assert len(names) >= 5


def test_the_address_of_the_key_may_be_shown() -> None:
    assert address_of(KEY) in run(
        f"""
        configure_logging("INFO", secrets=[])
        logging.getLogger("ours").info("signing for {address_of(KEY)}")
        """
    )
