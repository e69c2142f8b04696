"""Every setting, from the environment (prefix ``SESSION_EXECUTOR_``) or a ``.env`` file."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.secret_file import read_secret

_PREFIX = "SESSION_EXECUTOR_"
_URLS = TypeAdapter(dict[int, SecretStr])
SECRET_FILES = (
    *("redis_url", "broker_url", "rpc_url", "source_rpc_urls", "orchestrator_api_key"),
    *("orchestrator_jwt_key", "vault_token", "vault_secret_id", "vault_wrapped_secret_id"),
)
"""Settings that a file may hold instead, named by the setting with ``_file``; ``keystore_passphrase`` is read at its use."""


class SettingsError(Exception):
    """A setting cannot be used. The text names the variable and never shows its value."""


class Settings(BaseSettings):
    """What an operator can set. Units are in the names; defaults suit one worker on one machine."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    @field_validator("arbiters")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"0x[0-9a-fA-F]{40}", item, re.ASCII) for item in value):
            raise ValueError("must be a JSON list of addresses, 0x and 40 hex digits each")
        return tuple(item.lower() for item in value)

    @model_validator(mode="after")
    def _from_files(self) -> Self:
        """What stands in files instead. Raises SettingsError."""
        for name in SECRET_FILES:
            path: Path | None = getattr(self, f"{name}_file")
            if path is None:
                continue
            variable = f"{_PREFIX}{name.upper()}"
            if name in self.model_fields_set:
                raise SettingsError(f"{variable}: is set both as a value and as a file; unset one of them")
            try:
                text = read_secret(path)
                value = _URLS.validate_json(text) if name == "source_rpc_urls" else SecretStr(text)
            except ValidationError:  # its words quote the file
                raise SettingsError(
                    f'{variable}_FILE: {path} holds no JSON such as {{"42161": "https://…"}}'
                ) from None
            except ValueError as error:
                raise SettingsError(f"{variable}_FILE: {error}") from None
            setattr(self, name, value)
            # it was not given as a value: a copy of these settings is made of the file again
            self.model_fields_set.discard(name)
        return self

    # --- services
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Ledger and Celery broker; rediss:// for TLS."
    )
    redis_url_file: Path | None = Field(None, description="File (mode 0600) that holds it instead.")
    broker_url: SecretStr | None = Field(
        None, description="Celery's Redis, if it is another one; Celery cannot use a Redis Cluster."
    )
    broker_url_file: Path | None = Field(None, description="File (mode 0600) that holds it instead.")
    rpc_url: SecretStr = Field(
        SecretStr("http://127.0.0.1:8545"), description="JSON-RPC endpoint of the session's chain."
    )
    rpc_url_file: Path | None = Field(None, description="File (mode 0600) that holds it instead.")
    chain_id: int = Field(8453, description="The chain that the RPC endpoint must report.", gt=0)
    source_rpc_urls: dict[int, SecretStr] = Field(
        default_factory=dict[int, SecretStr],
        description='Endpoints of further chains that trades may use, as JSON: {"42161": "https://…"}.',
    )
    source_rpc_urls_file: Path | None = Field(
        None, description="File (mode 0600) that holds that JSON instead."
    )
    orchestrator_url: str = Field(
        "https://v1.orchestrator.rhinestone.dev", description="Base URL of the orchestrator."
    )
    orchestrator_api_key: SecretStr = Field(SecretStr(""), description="Sent as x-api-key.")
    orchestrator_api_key_file: Path | None = Field(
        None, description="File (mode 0600) that holds it instead."
    )
    orchestrator_auth: Literal["api-key", "jwt"] = Field(
        "api-key", description="Who we are: an API key, or tokens that we sign."
    )
    orchestrator_jwt_key: SecretStr = Field(
        SecretStr(""), description="The integrator's private key as a JWK, one line of JSON."
    )
    orchestrator_jwt_key_file: Path | None = Field(
        None, description="File (mode 0600) that holds it instead."
    )
    orchestrator_jwt_key_id: str = Field("", description="Its kid; by default the JWK's own.")
    orchestrator_jwt_integrator_id: str = Field("", description="The tokens' iss.")
    orchestrator_jwt_project_id: str = Field("", description="The tokens' sub.")
    orchestrator_jwt_app_id: str = Field("", description="The tokens' app_id.")
    orchestrator_version: Literal["2026-01.alps", "2026-04.blanc"] = Field(
        "2026-01.alps", description="The wire version; sent as x-api-version."
    )

    arbiters: tuple[str, ...] = Field(
        (), description='Further addresses that a Permit2 route may name as spender, as JSON: ["0x…"].'
    )

    # --- memory outside of Redis
    state_dir: Path = Field(
        Path("~/.local/share/session-executor/state"),
        description="Folder in which a machine remembers how far the ledger was; one for each Redis.",
    )

    archive_dir: Path | None = Field(
        None, description="Folder for records that have ended; without one they stay in Redis for ever."
    )
    archive_after_days: int = Field(
        90, description="How long after its end a record goes there: a quarter is at hand.", gt=0
    )
    audit_file: Path | None = Field(
        None, description="The audit trail of this machine; by default audit.jsonl in state_dir."
    )
    audit_stream: str = Field("", description="Redis Stream that gets a copy of each line; none if empty.")

    # --- keys
    record_keys_file: Path | None = Field(
        None,
        description="File (mode 0600) of the keys that seal records; by default record.keys in keystore_dir, or Vault.",
    )
    key_store: Literal["keystore", "vault"] = Field("keystore", description="Where session keys live.")
    key_cache_s: float = Field(
        0,
        description="How long a signer may keep a session key, wiped on pause; 0: for one use.",
        ge=0,
        le=300,
    )
    keystore_dir: Path = Field(
        Path("~/.local/share/session-executor/keys"), description="Folder of the encrypted keystore files."
    )
    keystore_passphrase: SecretStr | None = Field(None, description="Passphrase of the keystore files.")
    keystore_passphrase_file: Path | None = Field(
        None, description="File (mode 0600) that holds the passphrase instead."
    )
    vault_addr: str = Field("http://127.0.0.1:8200", description="Vault address.")
    vault_redirect_hosts: str = Field(
        "", description="host:port, comma-separated, that Vault may redirect to; others get no token."
    )
    vault_ca_file: Path | None = Field(None, description="PEM of the CAs of Vault's certificate.")
    vault_client_cert_file: Path | None = Field(None, description="PEM of our own certificate for Vault.")
    vault_client_key_file: Path | None = Field(None, description="PEM (mode 0600) of its private key.")
    vault_namespace: str = Field("", description="Vault namespace, if any.")
    vault_auth: Literal["auto", "token", "approle", "kubernetes", "cert"] = Field(
        "auto", description="How to log in; auto: an AppRole if vault_role_id is set, else a token."
    )
    vault_auth_mount: str = Field(
        "", description="Where the auth method is enabled; its usual place if empty."
    )
    vault_auth_role: str = Field("", description="Role of the Kubernetes or certificate auth.")
    vault_jwt_file: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount/token"), description="Kubernetes auth."
    )
    vault_token: SecretStr | None = Field(None, description="Token auth.")
    vault_token_file: Path | None = Field(None, description="File (mode 0600) that holds it instead.")
    vault_role_id: str = Field("", description="AppRole auth.")
    vault_secret_id: SecretStr | None = Field(None, description="AppRole auth.")
    vault_secret_id_file: Path | None = Field(None, description="File (mode 0600) that holds it instead.")
    vault_wrapped_secret_id: SecretStr | None = Field(
        None, description="AppRole auth: the wrapping token of a secret id instead of the secret id."
    )
    vault_wrapped_secret_id_file: Path | None = Field(
        None, description="File (mode 0600) that holds it instead."
    )
    vault_mount: str = Field("secret", description="KV mount.")
    vault_kv_version: Literal["1", "2"] = Field("2", description="Version of the KV mount.")
    vault_prefix: str = Field("session-keys", description="Path of the keys below the mount.")
    vault_records_path: str = Field(
        "session-executor/records", description="Path below the mount of the keys that seal records."
    )
    vault_transit_key: str = Field(
        "", description="Name of a Transit key: session keys are stored as its ciphertext; none if empty."
    )
    vault_transit_mount: str = Field("transit", description="Mount of the Transit engine.")
    vault_timeout_s: float = Field(5.0, description="Bound on one Vault request.", gt=0)

    # --- time limits; the sentence says where each number comes from
    http_timeout_ms: int = Field(
        10_000, description="Bound on one orchestrator request, connect to last byte.", gt=0
    )
    rpc_timeout_ms: int = Field(5_000, description="Bound on one JSON-RPC request.", gt=0)
    redis_timeout_ms: int = Field(
        2_000, description="Bound on one Redis command; enqueue must answer within 5 s.", gt=0
    )
    execution_margin_s: int = Field(
        0, description="Added to the quote's expiry when a time frame is checked against it.", ge=0
    )
    max_clock_skew_s: int = Field(
        60,
        description="Refuse to sign when chain and local clock differ by more; Base blocks every 2 s.",
        gt=0,
    )
    min_quote_left_s: int = Field(
        10, description="A quote with less life left is dropped: signing and POST take up to this long.", ge=0
    )
    claim_lease_ms: int = Field(
        45_000,
        description="An attempt that is silent for this long is taken over; above the task's hard limit.",
        gt=0,
    )
    task_soft_limit_s: int = Field(30, description="A stage must finish within this.", gt=0)
    task_hard_limit_s: int = Field(40, description="A stage is killed after this.", gt=0)
    max_attempts: int = Field(
        30,
        description="Claims of one intent before it is signed, then DEAD: some 13 minutes of an outage.",
        gt=0,
    )
    max_worker_deaths: int = Field(
        3,
        description="Attempts in a row that end with their worker's death, then quarantine: two may be bad luck.",
        gt=0,
    )

    # --- watching: the cadence of the SDK's waitForExecution
    poll_initial_ms: int = Field(500, description="Delay between polls at first (SDK 1.15).", gt=0)
    poll_later_ms: int = Field(2_000, description="Delay between polls later on (SDK 1.15).", gt=0)
    poll_later_after_ms: int = Field(15_000, description="When the later delay starts (SDK 1.15).", gt=0)
    watch_attention_ms: int = Field(
        210_000, description="Ask for attention after this; the SDK gives up here, we go on watching.", gt=0
    )
    watch_stale_ms: int = Field(30_000, description="Delay between polls once attention is set.", gt=0)
    not_found_grace_s: int = Field(
        60,
        description="How long after a signed payload's expiry a 404 must last before it counts as dead.",
        ge=0,
    )
    success_status: Literal["COMPLETED", "FILLED", "PRECONFIRMED"] = Field(
        "COMPLETED", description="The first orchestrator status that counts as done."
    )

    # --- scheduling
    strategies_file: Path | None = Field(None, description="TOML file of strategies that beat runs.")
    tick_ms: int = Field(500, description="How often a worker looks for intents whose time has come.", gt=0)
    stuck_after_ms: int = Field(
        15_000, description="A queued message that nobody claimed for this long is sent again.", gt=0
    )

    notifications_file: Path | None = Field(
        None, description="TOML file (mode 0600) of channels that `notifications run` tells what happened."
    )
    accept_celery_requests: bool = Field(
        False,
        description="Take tasks.enqueue messages without a seal: then whoever writes to Redis can enqueue, within the limits.",
    )

    # --- operation
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_json: bool = Field(False, description="One JSON object per line instead of text.")
    otlp_endpoint: str = Field(
        "", description="Where traces go, OTLP over HTTP (…/v1/traces); none if empty."
    )
    plain_http_hosts: str = Field(
        "",
        description="Hosts, comma-separated, that plain http may go to, beside this machine: a Vault or node of one's own network.",
    )
    allow_insecure_redis: bool = Field(
        False, description="Permit a Redis beyond loopback without password or TLS."
    )


def broker_of(settings: Settings) -> str:
    """The URL of the Redis that holds Celery's messages: ``broker_url``, else ``redis_url``. May hold a password."""
    return (settings.broker_url or settings.redis_url).get_secret_value()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once.

    Raises:
        SettingsError: names the first variable that cannot be used.
    """
    try:
        return Settings()  # pyright: ignore[reportCallIssue]  # every field has a default
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        name = "_".join(str(part) for part in problem["loc"]).upper()
        raise SettingsError(f"{_PREFIX}{name}: {problem['msg']}") from None
