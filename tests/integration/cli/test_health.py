"""``health ready`` with each service in turn gone, ``health live`` without workers, and both over HTTP under a storm."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from config.celery import celery_settings
from config.settings import get_settings
from tests.support.cli import PREFIX, Run
from tests.support.e2e import COMMAND
from tests.support.vault import SealableVault, VaultServer, free_port
from worker.cli.health import Kept
from worker.cli.looks import Finding
from worker.cli.pages import MOST_REQUESTS, Page, PageServer

pytestmark = pytest.mark.services
NOWHERE = "http://127.0.0.1:9"


def parts(command: Run, *arguments: str, code: int) -> dict[str, dict[str, str]]:
    """What a look says, by part; the exit code is checked."""
    patience = () if "--timeout" in arguments else ("--timeout", "60")  # the machine may be busy
    found, out, err = command("health", *arguments, *patience, "--json")
    assert (found, err) == (code, ""), out + err
    answer: dict[str, Any] = json.loads(out)
    assert answer["ok"] is (code == 0)
    return {part["what"]: part for part in answer["parts"]}


def failed(found: dict[str, dict[str, str]]) -> set[str]:
    return {what for what, part in found.items() if part["status"] == "fail"}


class TestReady:
    """Redis, the ledger, the keys, the orchestrator, the chains: each by itself, and only what a worker needs."""

    def test_all_is_well(self, command: Run, session: str) -> None:
        found = parts(command, "ready", code=0)
        assert set(found) == {"redis", "ledger", "keys", "orchestrator", "chain 8453"}
        code, out, err = command("health", "ready", "--timeout", "60")
        assert (code, err) == (0, "")
        assert len(out.splitlines()) == 5
        assert all(line.startswith(("ok      ", "warning ")) for line in out.splitlines())

    @pytest.mark.parametrize(
        ("setting", "value", "what"),
        [
            ("REDIS_URL", "redis://127.0.0.1:9/0", "redis"),
            ("KEYSTORE_PASSPHRASE", "another one that is long enough", "keys"),
            ("ORCHESTRATOR_URL", NOWHERE, "orchestrator"),
            ("ORCHESTRATOR_API_KEY", "not-the-key", "orchestrator"),
            ("RPC_URL", NOWHERE, "chain 8453"),
            ("SOURCE_RPC_URLS", '{"42161": "http://127.0.0.1:9"}', "chain 42161"),
            ("STATE_DIR", "/proc/nowhere", "ledger"),
        ],
    )
    @pytest.mark.usefixtures("session")
    def test_what_is_gone_is_named_with_its_fix(
        self, command: Run, monkeypatch: pytest.MonkeyPatch, *, setting: str, value: str, what: str
    ) -> None:
        monkeypatch.setenv(PREFIX + setting, value)
        found = parts(command, "ready", code=1)
        assert failed(found) == {what}
        assert found[what]["detail"]
        assert found[what]["fix"]

    def test_for_people_a_part_is_a_line(
        self, command: Run, session: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "RPC_URL", NOWHERE)
        code, out, _ = command("health", "ready", "--timeout", "60")
        assert code == 1
        assert len(out.splitlines()) == 5
        (line,) = [line for line in out.splitlines() if line.startswith("FAILED")]
        assert line.startswith("FAILED  chain 8453: ")
        assert "(fix: " in line

    def test_a_redis_that_evicts_is_not_ready(self, command: Run, session: str, redis_url: str) -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            try:
                found = parts(command, "ready", code=1)
            finally:
                client.config_set("maxmemory-policy", "noeviction")
        assert failed(found) == {"redis"}
        assert "allkeys-lru" in found["redis"]["detail"]

    def test_a_sealed_vault_is_not_ready(
        self,
        command: Run,
        session: str,
        sealable_vault: SealableVault,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sealable_vault.seal()
        own = {"KEY_STORE": "vault", "VAULT_ADDR": sealable_vault.server.addr, "VAULT_TOKEN": "none"}
        for name, value in own.items():
            monkeypatch.setenv(PREFIX + name, value)
        found = parts(command, "ready", code=1)
        assert failed(found) == {"keys"}
        assert "sealed" in found["keys"]["detail"]

    def test_a_wrapped_secret_id_is_left_to_the_worker(
        self, command: Run, session: str, vault_server: VaultServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrapped = {"VAULT_ROLE_ID": "a-role", "VAULT_WRAPPED_SECRET_ID": "s.of-one-use"}
        for name, value in {"KEY_STORE": "vault", "VAULT_ADDR": vault_server.addr, **wrapped}.items():
            monkeypatch.setenv(PREFIX + name, value)
        found = parts(command, "ready", code=0)
        assert "not logged in, since the secret id is wrapped" in found["keys"]["detail"]

    def test_a_signer_needs_no_orchestrator_and_others_no_session_keys(
        self, command: Run, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "ORCHESTRATOR_URL", NOWHERE)
        assert "orchestrator" not in parts(command, "ready", "--queues", "urgent-sign,sign", code=0)
        monkeypatch.setenv(PREFIX + "RECORD_KEYS_FILE", str(tmp_path / "keys" / "record.keys"))
        monkeypatch.setenv(PREFIX + "KEYSTORE_PASSPHRASE", "another one that is long enough")
        found = parts(command, "ready", "--queues", "prepare,submit", code=1)
        assert failed(found) == {"orchestrator"}
        assert failed(parts(command, "ready", "--queues", "sign", code=1)) == {"keys"}

    def test_a_service_that_hangs_is_not_waited_for(
        self, command: Run, session: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv(PREFIX + "ORCHESTRATOR_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            monkeypatch.setenv(PREFIX + "HTTP_TIMEOUT_MS", "60000")
            found = parts(command, "ready", "--timeout", "4", code=1)
        assert "orchestrator" in failed(found)
        assert found["orchestrator"]["detail"] == "no answer within 4 s"


class TestLive:
    """Without workers nothing is live; what was never there is told from what does not answer."""

    def test_no_worker_at_all(self, command: Run, environment: dict[str, str]) -> None:
        found = parts(command, "live", code=1)
        assert failed(found) == {"queues"}
        assert found["queues"]["detail"].startswith("no worker takes messages from urgent, ")

    def test_a_name_that_nobody_has(self, command: Run, environment: dict[str, str]) -> None:
        found = parts(command, "live", "--worker", "worker@%h", code=1)
        ((name, part),) = found.items()
        assert name.startswith("worker@")
        assert "%" not in name
        assert part["detail"] == "no worker of this name has registered"

    def test_redis_is_down_and_its_password_nowhere(
        self, command: Run, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "REDIS_URL", f"redis://:testpassword0123@127.0.0.1:{free_port()}/0")
        for arguments in ((), ("--beat",)):
            code, out, err = command("health", "live", *arguments)
            assert (code, err) == (1, "")
            assert len(out.splitlines()) == 1
            assert "testpassword0123" not in out

    def test_beat_is_who_holds_the_lock(
        self, command: Run, environment: dict[str, str], redis_url: str
    ) -> None:
        assert failed(parts(command, "live", "--beat", code=1)) == {"beat"}
        with redis.Redis.from_url(redis_url) as client:
            client.set(f"{celery_settings(get_settings())['redbeat_key_prefix']}:lock", "held", ex=15)
        parts(command, "live", "--beat", code=0)


class TestOptions:
    """What cannot be asked is said with exit code 2, before anything is."""

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ((), "health"),
            (("live", "--worker", "nobody"), "--worker"),
            (("live", "--worker", "a@b@c"), "--worker"),
            (("live", "--worker", "a@b", "--beat"), "--worker"),
            (("ready", "--queues", "sing"), "--queues"),
            (("ready", "--queues", "sign,"), "--queues"),
            (("--http", "8080", "live"), "--http"),
            (("--worker", "a@b", "live"), "--worker"),
            (("--http", "localhost"), "--http"),
            (("--http", "127.0.0.1:65536"), "--http"),
            (("--http", "127.0.0.1:-1"), "--http"),
            (("--http", "192.0.2.1:0"), "--http"),
        ],
    )
    def test_one_line_that_names_it(
        self, command: Run, environment: dict[str, str], arguments: tuple[str, ...], field: str
    ) -> None:
        code, out, err = command("health", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {field}: ")
        assert err.count("\n") == 1

    @pytest.mark.parametrize("timeout", ["0", "-1", "301", "soon"])
    def test_a_timeout_is_one(self, command: Run, environment: dict[str, str], timeout: str) -> None:
        code, _, err = command("health", "live", "--timeout", timeout)
        assert code == 2
        assert "--timeout" in err


@contextmanager
def serving(environment: dict[str, str], folder: Path, *arguments: str) -> Generator[tuple[str, int]]:
    """The endpoints as a process of its own; their address and its id. It has to end well at SIGTERM."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with subprocess.Popen(
        [COMMAND, "health", "--http", "0", *arguments],
        env=kept | environment,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("serving http://127.0.0.1:"), line
            yield line.split()[1].removesuffix("/live"), process.pid
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


class TestHttp:
    """The same looks as pages: 200 or 503, the same JSON, and no more work than one look a second."""

    def test_pages_say_what_the_commands_say(
        self, environment: dict[str, str], session: str, tmp_path: Path
    ) -> None:
        with serving(environment, tmp_path, "--timeout", "60") as (base, _):
            ready = httpx.get(f"{base}/ready?probe=1", timeout=90)
            assert (ready.status_code, ready.json()["ok"]) == (200, True)
            assert ready.headers["content-type"] == "application/json"
            assert {part["what"] for part in ready.json()["parts"]} >= {"redis", "keys", "orchestrator"}
            live = httpx.get(f"{base}/live", timeout=90)
            assert (live.status_code, live.json()["ok"]) == (503, False)
            head = httpx.head(f"{base}/ready", timeout=90)
            assert (head.status_code, head.content) == (200, b"")
            assert httpx.get(f"{base}/", timeout=30).status_code == 404
            assert httpx.post(f"{base}/ready", timeout=30).status_code == 501

    def test_a_storm_of_probes_is_one_look_at_a_time(self) -> None:
        looks: list[tuple[float, float]] = []

        def look() -> list[Finding]:
            begin = time.monotonic()
            time.sleep(0.2)
            looks.append((begin, time.monotonic()))
            return [Finding("it", "ok", "well")]

        with _running({"/ready": Kept(look)}) as base, ThreadPoolExecutor(16) as pool:
            begin = time.monotonic()
            replies = list(pool.map(partial(httpx.get, timeout=60), [f"{base}/ready"] * 200))
            took_s = time.monotonic() - begin
        assert {reply.status_code for reply in replies} == {200}
        assert len(looks) <= took_s + 1  # a second's rest after each, whatever the storm took
        assert all(second[0] >= first[1] for first, second in pairwise(looks))

    def test_more_than_it_has_room_for_are_sent_away(self) -> None:
        release, all_in = threading.Event(), threading.Barrier(MOST_REQUESTS + 1)

        def wait() -> Page:
            all_in.wait(60)
            release.wait(60)
            return Page(200, "text/plain", b"well")

        with _running({"/live": wait}) as base, ThreadPoolExecutor(MOST_REQUESTS) as pool:
            waiting = [pool.submit(httpx.get, f"{base}/live", timeout=60) for _ in range(MOST_REQUESTS)]
            all_in.wait(60)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{base}/elsewhere", timeout=30)
            release.set()
            assert {each.result().status_code for each in waiting} == {200}


@contextmanager
def _running(pages: dict[str, Callable[[], Page]]) -> Generator[str]:
    with PageServer(pages, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
