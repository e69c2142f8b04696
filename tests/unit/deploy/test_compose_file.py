"""``docker-compose.yml``, ``Procfile`` and ``Dockerfile`` by their text: no Docker engine is needed, nor used."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.celery import QUEUES, SIGN_QUEUES
from config.settings import Settings
from tests.support.compose import COMPOSE_FILE, ROOT, Compose, ComposeError, interpolate
from tests.support.need import missing

VARIABLES = {
    "REDIS_PASSWORD": "testpassword",
    "SESSION_EXECUTOR_RPC_URL": "http://rpc.test:8545",
    "SESSION_EXECUTOR_ORCHESTRATOR_API_KEY": "test-api-key",
}
OURS = ("vault-bootstrap", "worker", "signer", "beat", "notifications", "operator")
SERVICES = {"redis", "vault", *OURS}


@pytest.fixture
def compose() -> Compose:
    return Compose(VARIABLES)


def schema_problems(document: Any, folder: Path) -> str:
    """What the compose specification's JSON Schema says; empty when it is satisfied."""
    if importlib.util.find_spec("check_jsonschema") is None:
        missing("check-jsonschema, which carries the schema", "pip install check-jsonschema")
    file = folder / "compose.json"
    file.write_text(json.dumps(document))
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout if done.returncode else ""


def _queues(command: tuple[str, ...]) -> list[str]:
    return command[command.index("--queues") + 1].split(",")


class TestSpecification:
    """The file is one that compose accepts."""

    def test_it_satisfies_the_schema(self, compose: Compose, tmp_path: Path) -> None:
        assert schema_problems(compose.document, tmp_path) == ""
        assert schema_problems(yaml.safe_load(COMPOSE_FILE.read_text()), tmp_path) == ""

    def test_the_schema_would_notice(self, compose: Compose, tmp_path: Path) -> None:
        compose.document["services"]["worker"]["comand"] = "celery"
        assert "comand" in schema_problems(compose.document, tmp_path)

    def test_what_the_schema_cannot_see(self, compose: Compose) -> None:
        document = compose.document
        assert set(compose.names) == SERVICES
        used_volumes: set[str] = set()
        for name, service in document["services"].items():
            assert set(service.get("networks", [])) <= set(document["networks"]), name
            needs = compose.service(name).needs
            assert set(needs) <= SERVICES - {name}
            for other, condition in needs.items():
                if condition == "service_healthy":
                    assert compose.service(other).health, f"{other} has no health check"
                if condition == "service_completed_successfully":
                    assert document["services"][other]["restart"] == "no"
            used_volumes |= set(compose.service(name).mounts.values())
        assert {name for name in used_volumes if not name.startswith((".", "/"))} == set(document["volumes"])

    def test_mounted_files_are_in_the_tree(self, compose: Compose) -> None:
        for name in compose.names:
            for source in compose.service(name).mounts.values():
                if source.startswith("./"):
                    assert (ROOT / source).is_file(), f"{name} mounts {source}"


class TestVariables:
    """What must be given is asked for; every setting that is set exists."""

    @pytest.mark.parametrize("name", VARIABLES)
    @pytest.mark.parametrize("value", [None, ""])
    def test_a_missing_one_is_named(self, name: str, value: str | None) -> None:
        without: dict[str, str] = {key: text for key, text in VARIABLES.items() if key != name}
        with pytest.raises(ComposeError, match=f"{name}: set it in .env"):
            Compose(without if value is None else without | {name: value})

    def test_every_setting_exists_and_is_accepted(
        self, compose: Compose, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {f"SESSION_EXECUTOR_{name.upper()}" for name in Settings.model_fields}
        for name in compose.names:
            env = compose.service(name).env
            ours = {key: value for key, value in env.items() if key.startswith("SESSION_EXECUTOR_")}
            assert set(ours) <= known, name
            with monkeypatch.context() as patch:
                for key, value in ours.items():
                    patch.setenv(key, value)
                settings = Settings(_env_file=None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
            if name in ("worker", "signer", "operator"):
                assert settings.key_store == "vault"
                assert settings.redis_url.get_secret_value() == "redis://:testpassword@redis:6379/0"
                assert settings.allow_insecure_redis

    def test_every_variable_of_the_file_is_in_the_example(self) -> None:
        asked = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE_FILE.read_text()))
        example = (ROOT / ".env.example").read_text()
        assert asked
        for name in asked:
            assert re.search(rf"^(?:# )?{name}=", example, re.MULTILINE), name

    def test_settings_from_the_hosts_env_file_reach_the_worker(self) -> None:
        given = VARIABLES | {"SESSION_EXECUTOR_CHAIN_ID": "10", "STRATEGIES_FILE": "./mine.toml"}
        worker = Compose(given).service("worker")
        assert worker.env["SESSION_EXECUTOR_CHAIN_ID"] == "10"
        assert worker.mounts["/etc/session-executor/strategies.toml"] == "./mine.toml"

    def test_no_default_password(self) -> None:
        text = COMPOSE_FILE.read_text()
        for secret in ("REDIS_PASSWORD", "API_KEY"):
            assert not re.search(rf"{secret}:?-", text)


class TestLeastPrivilege:
    """Each service gets what it needs and no more."""

    def test_each_holds_its_own_vault_credentials_and_no_other(self, compose: Compose) -> None:
        holders = {
            volume: {name for name in compose.names if volume in compose.service(name).mounts.values()}
            for volume in ("signer-credentials", "worker-credentials", "operator-credentials", "vault-init")
        }
        assert holders == {
            "signer-credentials": {"signer", "vault-bootstrap"},
            # who tells others what happened reads sealed records, and no keys
            "worker-credentials": {"worker", "notifications", "vault-bootstrap"},
            "operator-credentials": {"operator", "vault-bootstrap"},
            "vault-init": {"vault-bootstrap"},
        }
        for name in ("signer", "worker", "operator"):
            volumes = compose.document["services"][name]["volumes"]
            assert f"{name}-credentials:/credentials/{name}:ro" in volumes
            assert compose.service(name).working_dir == f"/credentials/{name}"

    def test_signing_is_the_signers_alone(self, compose: Compose) -> None:
        served = {name: set(_queues(compose.service(name).command)) for name in ("worker", "signer")}
        assert served["signer"] == set(SIGN_QUEUES)
        assert served["worker"] == set(QUEUES) - set(SIGN_QUEUES)
        assert not any("ORCHESTRATOR" in name for name in compose.service("signer").env)

    def test_the_scheduler_knows_redis_and_nothing_else(self, compose: Compose) -> None:
        beat = compose.service("beat")
        assert not any(word in name for name in beat.env for word in ("VAULT", "KEY", "ORCHESTRATOR", "RPC"))
        assert compose.document["services"]["beat"]["networks"] == ["backend"]

    def test_who_tells_others_is_started_when_asked_for_and_cannot_trade(self, compose: Compose) -> None:
        assert compose.document["services"]["notifications"]["profiles"] == ["notifications"]
        service = compose.service("notifications")
        assert not any("ORCHESTRATOR" in name for name in service.env)
        assert service.working_dir == "/credentials/worker"
        given = VARIABLES | {"NOTIFICATIONS_FILE": "./mine.toml"}
        mounts = Compose(given).service("notifications").mounts
        assert mounts[service.env["SESSION_EXECUTOR_NOTIFICATIONS_FILE"]] == "./mine.toml"

    def test_redis_and_vault_are_reached_from_inside_only(self, compose: Compose) -> None:
        assert compose.document["networks"]["backend"]["internal"] is True
        for name in compose.names:
            assert "ports" not in compose.document["services"][name]
        for name in ("redis", "vault", "vault-bootstrap"):
            assert compose.document["services"][name]["networks"] == ["backend"]

    def test_our_containers_have_no_rights_to_lose(self, compose: Compose) -> None:
        for name in OURS:
            service = compose.document["services"][name]
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert "user" not in service  # the image's, which is not root

    def test_no_password_is_in_an_argument(self, compose: Compose) -> None:
        for name in compose.names:
            service = compose.service(name)
            for value in VARIABLES.values():
                assert value not in " ".join((*service.command, *service.health)), name

    @pytest.mark.parametrize("name", ["worker", "signer"])
    def test_a_worker_may_finish_what_it_began(self, compose: Compose, name: str) -> None:
        grace = compose.document["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > Settings.model_fields["task_hard_limit_s"].default


class TestProcfile:
    """The commands are the same everywhere."""

    def test_compose_runs_what_the_procfile_runs(self, compose: Compose) -> None:
        lines = (ROOT / "Procfile").read_text().splitlines()
        commands: Mapping[str, str] = dict(line.split(": ", 1) for line in lines)
        assert set(commands) == {"worker", "signer", "beat", "notifications"}
        for name, command in commands.items():
            assert compose.document["services"][name]["command"] == command
            assert list(compose.service(name).command) == shlex.split(command)


class TestDockerfile:
    """The image holds hashed packages and our three rooms, and runs as nobody in particular."""

    text = (ROOT / "Dockerfile").read_text()

    def test_packages_are_checked_against_hashes(self) -> None:
        installs = [line for line in self.text.splitlines() if "pip install" in line]
        assert len(installs) == 2
        assert "--require-hashes --requirement requirements.lock" in installs[0]
        assert "--no-deps --no-build-isolation" in installs[1]

    def test_what_it_copies_is_in_the_tree_and_let_through(self) -> None:
        allowed = {
            line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
        }
        copied = {
            source
            for line in self.text.splitlines()
            if line.startswith("COPY ") and "--from" not in line
            for source in line.split()[1:-1]
        }
        assert copied == allowed
        for source in copied:
            assert (ROOT / source).exists(), source

    def test_it_does_not_run_as_root(self) -> None:
        last = self.text.rpartition("FROM ")[2]
        assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
        assert last.index("USER") < last.index("CMD")

    def test_credential_folders_belong_to_its_user(self, compose: Compose) -> None:
        mounted = {path for name in OURS for path in compose.service(name).mounts if path.startswith("/cred")}
        for path in mounted:
            assert path in self.text


class TestInterpolation:
    """The test's own reading of variables is the specification's."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("$A", "a"),
            ("${A}", "a"),
            ("x${A}y", "xay"),
            ("${NONE}", ""),
            ("${NONE-d}", "d"),
            ("${NONE:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${EMPTY:-d}", "d"),
            ("${A:-d}", "a"),
            ("${A:?e}", "a"),
            ("${EMPTY?e}", ""),
            ("${A:+alt}", "alt"),
            ("${EMPTY:+alt}", ""),
            ("${EMPTY+alt}", "alt"),
            ("$$A", "$A"),
            ("$${A}", "${A}"),
        ],
    )
    def test_forms(self, text: str, expected: str) -> None:
        assert interpolate(text, {"A": "a", "EMPTY": ""}) == expected

    @pytest.mark.parametrize("text", ["${NONE:?say why}", "${EMPTY:?say why}", "${NONE?say why}"])
    def test_required(self, text: str) -> None:
        with pytest.raises(ComposeError, match="say why"):
            interpolate(text, {"EMPTY": ""})

    @pytest.mark.parametrize("text", ["$", "${", "${A", "a $ b", "${A B}"])
    def test_malformed(self, text: str) -> None:
        with pytest.raises(ComposeError, match="invalid"):
            interpolate(text, {"A": "a"})

    def test_a_substitution_that_does_nothing_is_an_error(self, compose: Compose) -> None:
        with pytest.raises(ComposeError, match="elsewhere:1 does not occur"):
            compose.service("worker").by_hand({"redis:6379": "127.0.0.1:1", "elsewhere:1": "x"})

    def test_a_path_of_a_volume_is_not_left_to_this_machine(self, compose: Compose) -> None:
        with pytest.raises(ComposeError, match=r"say what stands in for .*/var/lib/session-executor/state"):
            compose.service("worker").by_hand({"redis:6379": "127.0.0.1:1"})
